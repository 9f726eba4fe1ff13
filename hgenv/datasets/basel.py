"""The Basel Face Model (for research, by licence) in the form that face3d (github.com/YadiraF/face3d) writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .files import read_mat, real_numbers, whole_numbers
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
    struct = read_mat(path, "model", _CURE, _CURE)
    if struct.dtype.names is None or struct.size != 1:
        raise DataError(f"{path}: holds no struct 'model'; {_CURE}")
    record = struct.flatten()[0]

    def field(name: str) -> NDArray:
        if name not in (struct.dtype.names or ()):
            raise DataError(f"{path}: the model has no field {name!r}; {_CURE}")
        return np.asarray(record[name])

    def numbers(name: str) -> NDArray[np.float64]:
        found = real_numbers(field(name))
        if found is None:
            raise DataError(f"{path}: {name} holds what is no number, or not finite; {_CURE}")
        return found

    def corners(name: str) -> NDArray[np.int64]:
        found = whole_numbers(field(name))
        if found is None or found.ndim != 2 or len(found) != 3:
            raise DataError(f"{path}: {name} is not (3, F) whole numbers; {_CURE}")
        return found.T - 1

    count = field("shapeMU").size // 3

    def points(name: str) -> NDArray:
        values = numbers(name)
        if values.size != 3 * count:
            raise DataError(f"{path}: {name} has {values.size} numbers where shapeMU has {3 * count}; {_CURE}")
        return values.reshape(count, 3)

    def modes(kind: str) -> NDArray:
        values, spread = numbers(f"{kind}PC"), numbers(f"{kind}EV").ravel()
        if values.ndim != 2 or values.shape != (3 * count, len(spread)):
            raise DataError(f"{path}: {kind}PC has shape {values.shape}, not ({3 * count}, {len(spread)}); {_CURE}")
        if (spread < 0).any():
            raise DataError(f"{path}: {kind}EV holds negative standard deviations; {_CURE}")
        return (values * spread).T.reshape(len(spread), count, 3)

    millimetre = 1e-3
    triangles = np.concatenate([corners(name) for name in ("tri", "tri_mouth")])
    if not len(triangles) or triangles.min() < 0 or triangles.max() >= count:
        raise DataError(f"{path}: tri or tri_mouth point at vertices that are not among the {count}; {_CURE}")
    found = whole_numbers(field("kpt_ind"))
    if found is None or found.size != 68 or found.min() < 1 or found.max() > count:
        raise DataError(f"{path}: kpt_ind are not 68 vertices counted from 1; {_CURE}")
    landmarks = found.ravel() - 1
    colours = points("texMU")
    if colours.min() < 0 or colours.max() > 255 or colours.max() <= 1:
        raise DataError(f"{path}: texMU runs from {colours.min():g} to {colours.max():g}, not within 0..255; {_CURE}")
    texture = modes("tex") / 255
    mean = millimetre * (points("shapeMU") + points("expMU"))
    # face3d's triangles are clockwise seen from outside.
    model = MorphableModel(
        "Basel Face Model",
        mean.astype(np.float32),
        (millimetre * modes("shape")).astype(np.float32),
        (millimetre * modes("exp")).astype(np.float32),
        (colours / 255).astype(np.float32),
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
