"""USC ICT-FaceKit's light model (github.com/ICT-VGL/ICT-FaceKit, MIT licence): 100 modes of identity, 53 expressions.

It has no colours. Those used here are skins sampled on its vertices, in a file beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .files import read_json, read_npz, read_text, whole_numbers
from .folder import DataError
from .morphable import (
    IBUG_EYES,
    IBUG_NOSE,
    LEAST,
    RADIUS,
    MorphableModel,
    Points,
    close_openings,
    cut,
    fixed_sign,
    principal_textures,
)
from .standin_faces import made_skins

FACE = 9409  # vertices of the face area, the first in the list
FAR = 100.0  # centimetres that nothing of a head goes beyond
ALBEDO = "ict_face9409_albedo_from_makehuman.npz"
_LIGHT = "ict_facekit_light_head11248.npz"
_CURE = "get ICT-FaceKit (github.com/ICT-VGL/ICT-FaceKit) and name its folder"

# A population of expressions for ICT-FaceKit's shapes, whose weights run from 0 to 1: mean and standard deviation of a
# weight, and the correlation of a left shape with its right one. Moderate: faces talk, smile and blink, and the mouth
# stays clear of itself.
_WEIGHT_MEAN, _WEIGHT_SPREAD, _WEIGHT_PAIRS = 0.12, 0.15, 0.8


def load(folder: Path | str, albedo: Path | str | None = None, *, radius: float | None = RADIUS) -> MorphableModel:
    """USC ICT-FaceKit's light model (MIT licence): 100 modes of identity, 53 expression shapes.

    Expression modes are the principal components of a population of weights (see `_WEIGHT_MEAN`), down to those that
    move no vertex by a tenth of a millimetre. Texture modes are the principal components of sampled skins; the first
    is the tone of the skin, and none goes further than the skins do.

    Args:
        folder: A clone of the upstream repository, its `FaceXModel/`, or a folder with the packed light model.
        albedo: (N, 9409, 3) sRGB skins in an `.npz`, key `albedo_srgb`; None: the file of that name beside `folder`, or
            if there is none, skins made by code.
        radius: Of what is cut out around the nose's tip, in millimetres; None leaves the whole face area.

    Raises:
        DataError: The model is not there, or a file is missing or damaged.
    """
    folder = Path(folder)
    packed, clone = folder / _LIGHT, folder / "FaceXModel" if (folder / "FaceXModel").is_dir() else folder
    if packed.is_file():
        neutral, quads, identity, shapes, names = _read_packed(packed)
        indices = folder / "vertex_indices.json"
    elif (clone / "generic_neutral_mesh.obj").is_file():
        neutral, quads, identity, shapes, names = _read_clone(clone)
        indices = clone / "vertex_indices.json"
    else:
        raise DataError(f"{folder}: holds neither {_LIGHT} nor FaceXModel/generic_neutral_mesh.obj; {_CURE}")
    found = _read_list(indices, "idx_to_landmark_verts")
    if not all(isinstance(index, int) and abs(index) < 2**31 for index in found):
        raise DataError(f"{indices}: idx_to_landmark_verts are not whole numbers; {_CURE}")
    landmarks = np.array(found, np.int64)
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= len(neutral):
        raise DataError(f"{indices}: idx_to_landmark_verts are not 68 vertices of the model; {_CURE}")
    if (landmarks >= FACE).any():
        landmarks = np.where(landmarks < FACE, landmarks, 0)
    quads = quads[(quads < FACE).all(1)]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int64)
    centimetre = 10
    mean, expression = _expressions(
        centimetre * neutral[:FACE], centimetre * shapes[:, :FACE].astype(np.float32), names
    )
    path = Path(albedo) if albedo is not None else folder.parent / ALBEDO
    there = albedo is not None or path.exists() or path.is_symlink()
    skins = _read_skins(path) if there else made_skins(mean, 20, seed=0)
    colour, texture, limit = principal_textures(skins)
    model = MorphableModel(
        "ICT-FaceKit" if there else "ICT-FaceKit with made skins",
        mean,
        centimetre * identity[:, :FACE].astype(np.float32),
        expression,
        colour,
        texture,
        limit,
        triangles,
        int(landmarks[IBUG_NOSE]),
        landmarks,
    )
    model = close_openings(model, [landmarks[list(eye)] for eye in IBUG_EYES])
    return model if radius is None else cut(model, radius)


def _read_packed(path: Path) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    content = read_npz(path, ("neutral", "faces", "identity_deltas", "expression_deltas", "expression_names"), _CURE)
    neutral, quads = content["neutral"], content["faces"]
    identity, shapes = content["identity_deltas"], content["expression_deltas"]
    names = [str(name) for name in content["expression_names"]]
    return _checked(path, neutral, quads, identity, shapes, names)


def _read_clone(folder: Path) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    neutral, quads = _read_obj(folder / "generic_neutral_mesh.obj", faces=True)
    identities = sorted(folder.glob("identity[0-9][0-9][0-9].obj"))
    for i, path in enumerate(identities):
        if path.name != (name := f"identity{i:03d}.obj"):
            raise DataError(f"{folder / name}: there is no such file, the model is incomplete; {_CURE}")
    indices = folder / "vertex_indices.json"
    names = _read_list(indices, "expressions")
    if not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise DataError(f"{indices}: expressions must be names of files beside it, without .obj; {_CURE}")
    paths = [folder / f"{name}.obj" for name in names]
    meshes = [_read_obj(path)[0] for path in (*identities, *paths)]
    for path, mesh in zip((*identities, *paths), meshes, strict=True):
        if mesh.shape != neutral.shape:
            raise DataError(f"{path}: {len(mesh)} vertices where the neutral mesh has {len(neutral)}; {_CURE}")
    moved = np.stack(meshes) - neutral if meshes else np.zeros((0, *neutral.shape), np.float32)
    if quads.shape[1:] != (4,):
        raise DataError(f"{folder / 'generic_neutral_mesh.obj'}: its faces are not quadrilaterals; {_CURE}")
    count = len(identities)
    return _checked(folder, neutral, quads, moved[:count], moved[count:], names)


def _checked(
    path: Path, neutral: NDArray, quads: NDArray, identity: NDArray, shapes: NDArray, names: list[str]
) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    if neutral.ndim != 2 or neutral.shape[1] != 3 or len(neutral) < FACE or quads.ndim != 2 or quads.shape[1] != 4:
        raise DataError(f"{path}: not the face area of {FACE} vertices in quadrilaterals; {_CURE}")
    corners = whole_numbers(quads)
    if corners is None or not corners.size or corners.min() < 0 or corners.max() >= len(neutral):
        raise DataError(f"{path}: faces are not quadrilaterals between its {len(neutral)} vertices; {_CURE}")
    for what, deltas in (("identity", identity), ("expression", shapes)):
        if deltas.ndim != 3 or deltas.shape[1:] != neutral.shape:
            raise DataError(f"{path}: {what} of shape {deltas.shape} does not fit {len(neutral)} vertices; {_CURE}")
    for what, numbers in (("neutral", neutral), ("identity", identity), ("expression", shapes)):
        if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0) > FAR:
            raise DataError(f"{path}: {what} must be finite numbers within {FAR:g} cm; {_CURE}")
    if not (neutral[:FACE].max(0) > neutral[:FACE].min(0)).all():
        raise DataError(f"{path}: the neutral face is flat; {_CURE}")
    if len(names) != len(shapes) or len(shapes) < LEAST:
        raise DataError(f"{path}: {len(shapes)} expression shapes, {len(names)} names; {_CURE}")
    if len(identity) < LEAST:
        raise DataError(f"{path}: {len(identity)} modes of identity where beta needs at least {LEAST}; {_CURE}")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: several expressions have one name; {_CURE}")
    return neutral.astype(np.float32), corners, identity, shapes, names


def _expressions(neutral: Points, shapes: Points, names: list[str]) -> tuple[Points, Points]:
    """The face of average expression, and principal components of the population, per standard deviation."""
    count = len(names)
    stem = [name.removesuffix("_L").removesuffix("_R") for name in names]
    correlation = np.array(
        [[1.0 if i == j else _WEIGHT_PAIRS if stem[i] == stem[j] else 0.0 for j in range(count)] for i in range(count)]
    )
    root = np.linalg.cholesky(_WEIGHT_SPREAD**2 * correlation)
    modes = np.tensordot(root.T, shapes, 1)  # as many independent ones, each of variance one
    flat = modes.reshape(count, -1).astype(np.float64)
    _, vectors = np.linalg.eigh(flat @ flat.T)
    components = (vectors.T[::-1] @ flat).reshape(modes.shape).astype(np.float32)
    largest = np.linalg.norm(components, axis=2).max(1)
    kept = max(LEAST, int((largest >= 0.1).sum()))
    mean = neutral + _WEIGHT_MEAN * shapes.sum(0)
    return mean.astype(np.float32), fixed_sign(components[:kept])


def _read_skins(path: Path) -> NDArray:
    skins = read_npz(path, ("albedo_srgb",), "replace it by the file that belongs to the model")["albedo_srgb"]
    if skins.dtype != np.uint8 or skins.ndim != 3 or skins.shape[1:] != (FACE, 3) or len(skins) <= LEAST:
        raise DataError(
            f"{path}: albedo_srgb is {skins.dtype} {skins.shape}; more than {LEAST} skins of uint8 (., {FACE}, 3) "
            "are needed"
        )
    return skins.astype(np.float64) / 255


def _read_list(path: Path, key: str) -> list:
    content = read_json(path, _CURE)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path}: has no list {key!r}; {_CURE}")
    return content[key]


def _read_obj(path: Path, faces: bool = False) -> tuple[Points, NDArray[np.int64]]:
    """Vertices, and faces counted from 0 if asked for, of a Wavefront file, in the order of the file.

    trimesh merges and reorders vertices, or triangulates; here the order is what ties the files together.
    """
    text = read_text(path, f"the model is incomplete; {_CURE}", 2**28)
    vertices, corners = [], []
    try:
        for line in text.splitlines():
            if line.startswith("v "):
                x, y, z = line.split()[1:4]
                vertices.append([float(x), float(y), float(z)])
            elif faces and line.startswith("f "):
                corners.append([int(word.partition("/")[0]) - 1 for word in line.split()[1:]])
        return np.array(vertices, np.float32).reshape(-1, 3), np.array(corners, np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged, not a Wavefront file of one kind of faces ({error}); {_CURE}") from error
