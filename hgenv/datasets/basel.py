"""The Basel Face Model (for research, by licence) in the form that face3d (github.com/YadiraF/face3d) writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray

from .folder import DataError
from .morphable import IBUG_NOSE, MorphableModel, cut

_CURE = "make BFM.mat from your licensed copy with face3d (github.com/YadiraF/face3d, examples/Data/BFM)"


def load(path: Path | str) -> MorphableModel:
    """The Basel Face Model (for research, by licence) in the form that face3d writes: a struct `model` in `BFM.mat`.

    Fields: shapeMU, expMU, texMU (3V, 1), shapePC, expPC, texPC (3V, modes), shapeEV, expEV, texEV (modes, 1) standard
    deviations, tri and tri_mouth (3, F) and kpt_ind (68) counted from 1; micrometres, colours 0..255.

    Raises:
        DataError: The file is missing or damaged, or has not this form.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; {_CURE}")
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # whatever its parser trips over: there is no common type
        raise DataError(f"{path}: truncated or damaged, or not a MATLAB 5 file ({error}); {_CURE}") from error
    struct = content.get("model")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        raise DataError(f"{path}: holds no struct 'model'; {_CURE}")
    record = struct.flatten()[0]

    def field(name: str) -> NDArray:
        if name not in (struct.dtype.names or ()):
            raise DataError(f"{path}: the model has no field {name!r}; {_CURE}")
        return np.asarray(record[name])

    count = field("shapeMU").size // 3

    def points(name: str) -> NDArray:
        values = field(name)
        if values.size != 3 * count:
            raise DataError(f"{path}: {name} has {values.size} numbers where shapeMU has {3 * count}; {_CURE}")
        return values.reshape(count, 3).astype(np.float64)

    def modes(kind: str) -> NDArray:
        values, spread = field(f"{kind}PC"), field(f"{kind}EV").ravel()
        if values.ndim != 2 or values.shape != (3 * count, len(spread)):
            raise DataError(f"{path}: {kind}PC has shape {values.shape}, not ({3 * count}, {len(spread)}); {_CURE}")
        return (values * spread).T.reshape(len(spread), count, 3)

    millimetre = 1e-3
    triangles = np.concatenate([field(name).T for name in ("tri", "tri_mouth")]).astype(np.int64) - 1
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise DataError(f"{path}: tri is not (3, F); {_CURE}")
    landmarks = field("kpt_ind").ravel().astype(np.int64) - 1
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= count:
        raise DataError(f"{path}: kpt_ind are not 68 vertices counted from 1; {_CURE}")
    texture = modes("tex") / 255
    mean = millimetre * (points("shapeMU") + points("expMU"))
    # face3d's triangles are clockwise seen from outside.
    model = MorphableModel(
        "Basel Face Model",
        mean.astype(np.float32),
        (millimetre * modes("shape")).astype(np.float32),
        (millimetre * modes("exp")).astype(np.float32),
        (points("texMU") / 255).astype(np.float32),
        texture.astype(np.float32),
        np.full(len(texture), 2.0),
        _outward(mean, triangles, int(landmarks[IBUG_NOSE])),
        int(landmarks[IBUG_NOSE]),
        landmarks,
    )
    return cut(model)


def _outward(vertices: NDArray, triangles: NDArray[np.int64], nose: int) -> NDArray[np.int64]:
    """The triangles so turned that those around the nose's tip look out of the face."""
    near = triangles[(triangles == nose).any(1)]
    a, b, c = (vertices[near[:, i]] for i in range(3))
    inward = np.cross(b - a, c - a)[:, 2].sum() < 0
    return triangles[:, ::-1].copy() if inward else triangles
