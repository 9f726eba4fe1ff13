"""Morphable models: faces as linear functions of coefficients in standard deviations.

    vertices = mean + sum_i a_i identity_i + sum_j e_j expression_j
    colours  = albedo + sum_k t_k texture_k        (sRGB, then clipped to `DARKEST`..1)

Three sources: USC ICT-FaceKit (`load_ict`), the Basel Face Model in the form that face3d uses (`load_bfm`), and a
stand-in that the code makes by itself (`standin_model`). All are cut to what lies within `RADIUS` of the nose's tip, so
that they show the same part of a head as each other and as the scans; millimetres, x right, y up, z out of the face.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from numpy.typing import NDArray
from torch import Tensor

from .photos import DataError

RADIUS = 95.0  # millimetres around the nose's tip, as is usual for scanned faces
DARKEST = 0.02  # sRGB
LEAST = 10  # modes of each kind that beta holds

Points = NDArray[np.float32]


@dataclass(frozen=True)
class MorphableModel:
    """V vertices and how they and their colours move with coefficients; see the module.

    Attributes:
        label: Which model this is.
        mean: (V, 3) float32 millimetres.
        identity: (I, V, 3) float32, per standard deviation.
        expression: (E, V, 3), the same.
        albedo: (V, 3) float32 mean colour, sRGB 0..1.
        texture: (T, V, 3) float32, per standard deviation.
        texture_limit: (T,) standard deviations beyond which skin is no longer skin.
        triangles: (F, 3) int64, anticlockwise seen from outside.
        nose: Index of the nose's tip.
        landmarks: (68,) int64 indices of the iBUG landmarks; None where the model has none.
    """

    label: str
    mean: Points
    identity: Points
    expression: Points
    albedo: Points
    texture: Points
    texture_limit: NDArray[np.float64]
    triangles: NDArray[np.int64]
    nose: int
    landmarks: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            DataError: They do not.
        """
        count = len(self.mean)
        for name in ("identity", "expression", "texture"):
            modes = getattr(self, name)
            if modes.ndim != 3 or modes.shape[1:] != (count, 3):
                raise DataError(f"{self.label}: {name} has shape {modes.shape}, not (modes, {count}, 3)")
            if len(modes) < LEAST:
                raise DataError(f"{self.label}: {len(modes)} modes of {name} where beta needs at least {LEAST}")
        for name in ("mean", "identity", "expression", "albedo", "texture", "texture_limit"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"{self.label}: {name} holds numbers that are not finite; replace the file")
        if self.albedo.shape != self.mean.shape or self.texture_limit.shape != (len(self.texture),):
            raise DataError(f"{self.label}: albedo or texture_limit do not fit {count} vertices")
        if not len(self.triangles) or self.triangles.min() < 0 or self.triangles.max() >= count:
            raise DataError(f"{self.label}: triangles point at vertices that are not among the {count}")


def cut(model: MorphableModel, radius: float = RADIUS) -> MorphableModel:
    """The triangles all of whose corners lie within `radius` of the nose's tip on the mean face, and their vertices."""
    near = np.linalg.norm(model.mean - model.mean[model.nose], axis=1) <= radius
    triangles = model.triangles[near[model.triangles].all(1)]
    if not len(triangles):
        raise DataError(f"{model.label}: nothing lies within {radius:g} mm of the nose's tip; is it in millimetres?")
    kept, triangles = np.unique(triangles, return_inverse=True)
    number = np.full(len(model.mean), -1)
    number[kept] = np.arange(len(kept))
    landmarks = None if model.landmarks is None else number[model.landmarks]
    return replace(
        model,
        mean=model.mean[kept],
        identity=model.identity[:, kept],
        expression=model.expression[:, kept],
        albedo=model.albedo[kept],
        texture=model.texture[:, kept],
        triangles=triangles.reshape(-1, 3),
        nose=int(number[model.nose]),
        landmarks=landmarks,
    )


# --- USC ICT-FaceKit --------------------------------------------------------------------------------------------------

ICT_FACE = 9409  # vertices of the face area, the first in the list
ICT_NOSE, ICT_EYES = 30, (range(36, 42), range(42, 48))  # iBUG landmarks
ICT_ALBEDO = "ict_face9409_albedo_from_makehuman.npz"
_ICT_LIGHT = "ict_facekit_light_head11248.npz"
_ICT_CURE = "get ICT-FaceKit (github.com/ICT-VGL/ICT-FaceKit) and name its folder"

# A population of expressions for ICT-FaceKit's shapes, whose weights run from 0 to 1: mean and standard deviation of a
# weight, and the correlation of a left shape with its right one. Moderate: faces talk, smile and blink, and the mouth
# stays clear of itself.
_WEIGHT_MEAN, _WEIGHT_SPREAD, _WEIGHT_PAIRS = 0.12, 0.15, 0.8


def load_ict(folder: Path | str, albedo: Path | str | None = None, *, radius: float | None = RADIUS) -> MorphableModel:
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
    packed, clone = folder / _ICT_LIGHT, folder / "FaceXModel" if (folder / "FaceXModel").is_dir() else folder
    if packed.is_file():
        neutral, quads, identity, shapes, names = _read_packed(packed)
        indices = folder / "vertex_indices.json"
    elif (clone / "generic_neutral_mesh.obj").is_file():
        neutral, quads, identity, shapes, names = _read_clone(clone)
        indices = clone / "vertex_indices.json"
    else:
        raise DataError(f"{folder}: holds neither {_ICT_LIGHT} nor FaceXModel/generic_neutral_mesh.obj; {_ICT_CURE}")
    landmarks = np.array(_read_json(indices, "idx_to_landmark_verts"))
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= len(neutral):
        raise DataError(f"{indices}: idx_to_landmark_verts are not 68 vertices of the model; {_ICT_CURE}")
    if (landmarks >= ICT_FACE).any():
        landmarks = np.where(landmarks < ICT_FACE, landmarks, 0)
    quads = quads[(quads < ICT_FACE).all(1)]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int64)
    centimetre = 10
    mean, expression = _expressions(
        centimetre * neutral[:ICT_FACE], centimetre * shapes[:, :ICT_FACE].astype(np.float32), names
    )
    path = Path(albedo) if albedo is not None else folder.parent / ICT_ALBEDO
    skins = _read_skins(path) if path.is_file() or albedo is not None else made_skins(mean, 20, seed=0)
    colour, texture, limit = _textures(skins)
    model = MorphableModel(
        "ICT-FaceKit",
        mean,
        centimetre * identity[:, :ICT_FACE].astype(np.float32),
        expression,
        colour,
        texture,
        limit,
        triangles,
        int(landmarks[ICT_NOSE]),
        landmarks,
    )
    model = close_openings(model, [landmarks[list(eye)] for eye in ICT_EYES])
    return model if radius is None else cut(model, radius)


def _read_packed(path: Path) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    content = read_npz(
        path, ("neutral", "faces", "identity_deltas", "expression_deltas", "expression_names"), _ICT_CURE
    )
    neutral, quads = content["neutral"], content["faces"]
    identity, shapes = content["identity_deltas"], content["expression_deltas"]
    names = [str(name) for name in content["expression_names"]]
    return _checked(path, neutral, quads, identity, shapes, names)


def _read_clone(folder: Path) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    neutral, quads = _read_obj(folder / "generic_neutral_mesh.obj", faces=True)
    identities = sorted(folder.glob("identity[0-9][0-9][0-9].obj"))
    names = list(_read_json(folder / "vertex_indices.json", "expressions"))
    paths = [folder / f"{name}.obj" for name in names]
    meshes = [_read_obj(path)[0] for path in (*identities, *paths)]
    for path, mesh in zip((*identities, *paths), meshes, strict=True):
        if mesh.shape != neutral.shape:
            raise DataError(f"{path}: {len(mesh)} vertices where the neutral mesh has {len(neutral)}; {_ICT_CURE}")
    moved = np.stack(meshes) - neutral if meshes else np.zeros((0, *neutral.shape), np.float32)
    if quads.shape[1:] != (4,):
        raise DataError(f"{folder / 'generic_neutral_mesh.obj'}: its faces are not quadrilaterals; {_ICT_CURE}")
    count = len(identities)
    return _checked(folder, neutral, quads, moved[:count], moved[count:], names)


def _checked(
    path: Path, neutral: NDArray, quads: NDArray, identity: NDArray, shapes: NDArray, names: list[str]
) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    if neutral.ndim != 2 or neutral.shape[1] != 3 or len(neutral) < ICT_FACE or quads.ndim != 2 or quads.shape[1] != 4:
        raise DataError(f"{path}: not the face area of {ICT_FACE} vertices in quadrilaterals; {_ICT_CURE}")
    for what, deltas in (("identity", identity), ("expression", shapes)):
        if deltas.ndim != 3 or deltas.shape[1:] != neutral.shape:
            raise DataError(f"{path}: {what} of shape {deltas.shape} does not fit {len(neutral)} vertices; {_ICT_CURE}")
    if len(names) != len(shapes) or len(shapes) < LEAST:
        raise DataError(f"{path}: {len(shapes)} expression shapes, {len(names)} names; {_ICT_CURE}")
    return neutral.astype(np.float32), quads, identity, shapes, names


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
    return mean.astype(np.float32), _fixed_sign(components[:kept])


def _textures(skins: NDArray) -> tuple[Points, Points, NDArray[np.float64]]:
    """Mean, principal components per standard deviation and their limits, of (N, V, 3) sRGB skins."""
    mean = skins.mean(0)
    flat = (skins - mean).reshape(len(skins), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    order = np.argsort(values)[::-1][: len(skins) - 1]
    spread = np.sqrt(np.maximum(values[order], 1e-12) / (len(skins) - 1))
    components = (vectors[:, order].T @ flat) / np.sqrt(len(skins) - 1)
    coefficients = vectors[:, order] * np.sqrt(np.maximum(values[order], 1e-12)) / spread
    limit = np.abs(coefficients).max(0)
    return (
        mean.astype(np.float32),
        _fixed_sign(components.reshape(len(order), *mean.shape).astype(np.float32)),
        limit,
    )


def _fixed_sign(components: Points) -> Points:
    """Principal components have no sign of their own: here their largest entry is positive."""
    flat = components.reshape(len(components), -1)
    sign = np.sign(flat[np.arange(len(flat)), np.abs(flat).argmax(1)])
    return components * np.where(sign == 0, 1, sign)[:, None, None].astype(np.float32)


def _read_skins(path: Path) -> NDArray:
    skins = read_npz(path, ("albedo_srgb",), "replace it by the file that belongs to the model")["albedo_srgb"]
    if skins.dtype != np.uint8 or skins.ndim != 3 or skins.shape[1:] != (ICT_FACE, 3) or len(skins) <= LEAST:
        raise DataError(
            f"{path}: albedo_srgb is {skins.dtype} {skins.shape}; more than {LEAST} skins of uint8 (., {ICT_FACE}, 3) "
            "are needed"
        )
    return skins.astype(np.float64) / 255


# --- Basel Face Model -------------------------------------------------------------------------------------------------

_BFM_CURE = "make BFM.mat from your licensed copy with face3d (github.com/YadiraF/face3d, examples/Data/BFM)"


def load_bfm(path: Path | str) -> MorphableModel:
    """The Basel Face Model (for research, by licence) in the form that face3d writes: a struct `model` in `BFM.mat`.

    Fields: shapeMU, expMU, texMU (3V, 1), shapePC, expPC, texPC (3V, modes), shapeEV, expEV, texEV (modes, 1) standard
    deviations, tri and tri_mouth (3, F) and kpt_ind (68) counted from 1; micrometres, colours 0..255.

    Raises:
        DataError: The file is missing or damaged, or has not this form.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; {_BFM_CURE}")
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # whatever its parser trips over: there is no common type
        raise DataError(f"{path}: truncated or damaged, or not a MATLAB 5 file ({error}); {_BFM_CURE}") from error
    struct = content.get("model")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        raise DataError(f"{path}: holds no struct 'model'; {_BFM_CURE}")
    record = struct.flatten()[0]

    def field(name: str) -> NDArray:
        if name not in (struct.dtype.names or ()):
            raise DataError(f"{path}: the model has no field {name!r}; {_BFM_CURE}")
        return np.asarray(record[name])

    count = field("shapeMU").size // 3

    def points(name: str) -> NDArray:
        values = field(name)
        if values.size != 3 * count:
            raise DataError(f"{path}: {name} has {values.size} numbers where shapeMU has {3 * count}; {_BFM_CURE}")
        return values.reshape(count, 3).astype(np.float64)

    def modes(kind: str) -> NDArray:
        values, spread = field(f"{kind}PC"), field(f"{kind}EV").ravel()
        if values.ndim != 2 or values.shape != (3 * count, len(spread)):
            raise DataError(f"{path}: {kind}PC has shape {values.shape}, not ({3 * count}, {len(spread)}); {_BFM_CURE}")
        return (values * spread).T.reshape(len(spread), count, 3)

    millimetre = 1e-3
    triangles = np.concatenate([field(name).T for name in ("tri", "tri_mouth")]).astype(np.int64) - 1
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise DataError(f"{path}: tri is not (3, F); {_BFM_CURE}")
    landmarks = field("kpt_ind").ravel().astype(np.int64) - 1
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= count:
        raise DataError(f"{path}: kpt_ind are not 68 vertices counted from 1; {_BFM_CURE}")
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
        _outward(mean, triangles, int(landmarks[ICT_NOSE])),
        int(landmarks[ICT_NOSE]),
        landmarks,
    )
    return cut(model)


def _outward(vertices: NDArray, triangles: NDArray[np.int64], nose: int) -> NDArray[np.int64]:
    """The triangles so turned that those around the nose's tip look out of the face."""
    near = triangles[(triangles == nose).any(1)]
    a, b, c = (vertices[near[:, i]] for i in range(3))
    inward = np.cross(b - a, c - a)[:, 2].sum() < 0
    return triangles[:, ::-1].copy() if inward else triangles


# --- The stand-in -----------------------------------------------------------------------------------------------------


def standin_model(seed: int = 0, resolution: int = 44) -> MorphableModel:
    """A face made by code: a smooth relief, smooth random modes. No measurement on real faces comes of it.

    Args:
        seed: Decides the random modes.
        resolution: Vertices along an edge of the grid that the face is made of.
    """
    grid, triangles = face_grid(resolution)
    mean = relief(grid)
    rng = np.random.default_rng(seed)
    identity = _bumps(rng, mean, 20, width=(35, 70), size=3.0)
    around_mouth = np.exp(-((mean[:, 1] + 40) ** 2) / (2 * 25**2))[:, None]
    around_eyes = np.exp(-((mean[:, 1] - 38) ** 2) / (2 * 12**2))[:, None]
    expression = _bumps(rng, mean, 14, width=(14, 24), size=3.0) * (around_mouth + 0.5 * around_eyes)
    colour, texture, limit = _textures(made_skins(mean, 20, seed))
    nose = int(np.argmax(mean[:, 2]))
    model = MorphableModel(
        "stand-in face", mean, identity, expression.astype(np.float32), colour, texture, limit, triangles, nose
    )
    return cut(model)


def face_grid(resolution: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Places (V, 2) in the unit square from -1 to 1, and triangles (F, 3), anticlockwise with y up."""
    line = np.linspace(-1, 1, resolution)
    x, y = np.meshgrid(line, line)
    number = np.arange(resolution**2).reshape(resolution, resolution)
    a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return np.stack([x.ravel(), y.ravel()], 1), triangles


def relief(grid: NDArray[np.float64], *, nose: float = 1.0, brow: float = 1.0, lips: float = 1.0) -> Points:
    """A face over the unit square, (V, 3) millimetres: half an ellipsoid with a nose, eyes, brows, lips and a chin."""
    x, y = 78 * grid[:, 0], 108 * grid[:, 1] + 2
    z = 95 * np.sqrt(np.clip(1 - (x / 86) ** 2 - (y / 125) ** 2, 0.02, None)) - 95

    def bump(height: float, across: float, up: float, wide: float, high: float) -> NDArray[np.float64]:
        return height * np.exp(-(((np.abs(x) - across) / wide) ** 2) / 2 - ((y - up) / high) ** 2 / 2)

    ridge = np.clip((38 - y) / 38, 0, 1) * (y > -12) + np.clip((y + 20) / 8, 0, 1) * (y <= -12)
    z = z + nose * (24 * ridge * np.exp(-((x / (7 + 5 * ridge)) ** 2)) + bump(4, 11, -10, 5, 6))
    z = z + brow * bump(5, 30, 48, 18, 7) - bump(9, 32, 34, 13, 8) + bump(5, 32, 34, 8, 6)
    z = z + lips * (bump(5, 0, -37, 17, 3.5) + bump(5.5, 0, -47, 14, 4) - bump(3, 0, -42, 20, 1.8))
    z = z + bump(8, 0, -72, 18, 12) + bump(5, 42, 0, 20, 22) - bump(4, 0, -58, 22, 5)
    return np.stack([x, y, z], 1).astype(np.float32)


def made_skins(vertices: Points, count: int, seed: int) -> NDArray[np.float64]:
    """(count, V, 3) sRGB skins: a tone from dark to light, redder lips and cheeks, dark brows, blotches."""
    rng = np.random.default_rng([seed, 1])
    centre = vertices[np.argmax(vertices[:, 2])]
    x, y = (vertices - centre)[:, 0], (vertices - centre)[:, 1]
    lips = np.exp(-((x / 20) ** 2) - ((y + 32) / 7) ** 2)
    brows = np.exp(-(((np.abs(x) - 30) / 15) ** 2) - ((y - 58) / 4) ** 2)
    cheeks = np.exp(-(((np.abs(x) - 40) / 18) ** 2) - ((y + 5) / 20) ** 2)
    dark, light = np.array([0.36, 0.22, 0.16]), np.array([0.93, 0.76, 0.67])
    skins = []
    for i in range(count):
        tone = dark + (light - dark) * (i + rng.uniform()) / count
        skin = np.tile(tone, (len(vertices), 1))
        for where, colour, strength in (
            (lips, [0.7, 0.3, 0.3], rng.uniform(0.2, 0.6)),
            (brows, [0.15, 0.1, 0.08], rng.uniform(0.2, 0.8)),
            (cheeks, [0.9, 0.45, 0.4], rng.uniform(0, 0.25)),
        ):
            skin += strength * where[:, None] * (np.array(colour) * tone / tone.max() - skin)
        spots = _bumps(rng, vertices, 1, width=(8, 16), size=0.05)[0, :, :1]
        skins.append(np.clip(skin * (1 + spots), 0.03, 0.98))
    return np.stack(skins)


def _bumps(
    rng: np.random.Generator, vertices: Points, count: int, width: tuple[float, float], size: float
) -> NDArray[np.float32]:
    """(count, V, 3) smooth random displacements, falling in size: 24 Gaussian bumps each."""
    modes = []
    for i in range(count):
        centre = vertices[rng.integers(len(vertices), size=24)]
        scale = rng.uniform(*width, size=24)
        squared = ((vertices[:, None] - centre) ** 2).sum(-1)
        field = np.exp(-squared / (2 * scale**2)) @ rng.normal(size=(24, 3))
        modes.append(size * field / np.sqrt((field**2).mean()) / np.sqrt(1 + i / 3))
    return np.stack(modes).astype(np.float32)


# --- Common -----------------------------------------------------------------------------------------------------------


def close_openings(model: MorphableModel, eyes: list[NDArray[np.int64]]) -> MorphableModel:
    """Close every opening but the outline: eyes by a white ring around a dark middle, others by their own colour.

    What is added are means of vertices that are there, so that it moves with them.

    Args:
        model: Before it is cut.
        eyes: For each eye, vertices around it.
    """
    loops = sorted(_loops(model.triangles), key=len)[:-1]
    parts = {name: [getattr(model, name)] for name in ("mean", "identity", "expression", "albedo", "texture")}
    triangles = [model.triangles]
    count = len(model.mean)
    middles = [model.mean[eye].mean(0) for eye in eyes]
    for loop in loops:
        centre = model.mean[loop].mean(0)
        is_eye = any(np.linalg.norm(centre - middle) < 8 for middle in middles)
        m = len(loop)
        ring, middle = count + np.arange(m), count + m
        count += m + 1
        for name, values in parts.items():
            around = getattr(model, name)[..., loop, :]
            average = around.mean(-2, keepdims=True)
            added = [(around + average) / 2, average]
            if is_eye and name == "albedo":
                added = [np.full_like(around, 0.75), np.full_like(average, 0.08)]
            if is_eye and name == "texture":
                added = [np.zeros_like(part) for part in added]
            values += added
        follow = np.roll(np.arange(m), -1)
        triangles += [
            np.stack([loop, loop[follow], ring], 1),
            np.stack([loop[follow], ring[follow], ring], 1),
            np.stack([ring, ring[follow], np.full(m, middle)], 1),
        ]
    joined: dict[str, Any] = {name: np.concatenate(values, axis=-2) for name, values in parts.items()}
    return replace(model, triangles=np.concatenate(triangles), **joined)


def _loops(triangles: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Vertices along each border, in the order in which triangles that close it have to go through them."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    there = {(int(a), int(b)) for a, b in edges}
    following = {b: a for a, b in there if (b, a) not in there}
    loops = []
    while following:
        start, at = next(iter(following.items()))
        loop = [start]
        del following[start]
        while at != start and at in following:
            loop.append(at)
            at = following.pop(at)
        if at == start and len(loop) > 2:
            loops.append(np.array(loop))
    return loops


def read_npz(path: Path, keys: tuple[str, ...], cure: str) -> dict[str, NDArray]:
    """The named arrays of an `.npz` file.

    Raises:
        DataError: It is missing or damaged, or an array is not there; the message ends in `cure`.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; {cure}")
    try:
        # Numpy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            found = {key: content[key] for key in keys if key in content}
    except Exception as error:  # a damaged archive raises anything
        raise DataError(f"{path}: truncated or damaged, or not an .npz file ({error}); {cure}") from error
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(f"{path}: holds no {', '.join(missing)}; {cure}")
    return found


def _read_json(path: Path, key: str) -> list:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; {_ICT_CURE}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: damaged, not JSON ({error}); {_ICT_CURE}") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path}: has no list {key!r}; {_ICT_CURE}")
    return content[key]


def _read_obj(path: Path, faces: bool = False) -> tuple[Points, NDArray[np.int64]]:
    """Vertices, and faces counted from 0 if asked for, of a Wavefront file, in the order of the file.

    trimesh merges and reorders vertices, or triangulates; here the order is what ties the files together.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file, the model is incomplete; {_ICT_CURE}")
    vertices, corners = [], []
    try:
        for line in path.read_text().splitlines():
            if line.startswith("v "):
                vertices.append([float(word) for word in line.split()[1:4]])
            elif faces and line.startswith("f "):
                corners.append([int(word.partition("/")[0]) - 1 for word in line.split()[1:]])
        return np.array(vertices, np.float32).reshape(-1, 3), np.array(corners, np.int64)
    except ValueError as error:
        raise DataError(f"{path}: damaged, not a Wavefront file of one kind of faces ({error}); {_ICT_CURE}") from error


def tensors(model: MorphableModel) -> dict[str, Tensor]:
    """The arrays of a model as tensors, by name."""
    names = ("mean", "identity", "expression", "albedo", "texture", "texture_limit", "triangles")
    return {name: torch.from_numpy(np.ascontiguousarray(getattr(model, name))) for name in names}
