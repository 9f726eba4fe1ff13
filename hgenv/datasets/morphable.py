"""Morphable models: faces as linear functions of coefficients in standard deviations.

    vertices = mean + sum_i a_i identity_i + sum_j e_j expression_j
    colours  = albedo + sum_k t_k texture_k        (sRGB, then clipped to `DARKEST`..1)

Sources are USC ICT-FaceKit (`ict_facekit`), the Basel Face Model in the form that face3d uses (`basel`), and a stand-in
that the code makes by itself (`standin_faces`). All are cut to what lies within `RADIUS` of the nose's tip, so
that they show the same part of a head as each other and as the scans; millimetres, x right, y up, z out of the face.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .folder import DataError

RADIUS = 95.0  # millimetres around the nose's tip, as is usual for scanned faces
DARKEST = 0.02  # sRGB
LEAST = 10  # modes of each kind that beta holds
# What a face can be, so that another unit or another thing is noticed: edges of its box in millimetres, how far a mode
# moves a vertex and changes a colour by a standard deviation.
SMALLEST, LARGEST, FARTHEST, STRONGEST = 20.0, 1000.0, 100.0, 2.0
IBUG_NOSE, IBUG_EYES = 30, (range(36, 42), range(42, 48))  # of the 68 landmarks

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
        if self.mean.shape != (count, 3) or not np.isfinite(self.mean).all() or not count:
            raise DataError(f"{self.label}: mean must be (V, 3) places that are finite; replace the file")
        if not SMALLEST <= (edge := float(np.ptp(self.mean, axis=0)[:2].max())) <= LARGEST:
            raise DataError(
                f"{self.label}: the face is {edge:g} wide or high, where {SMALLEST:g} to {LARGEST:g} mm make sense; is "
                "it in millimetres?"
            )
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
        for name, most, unit in (
            ("identity", FARTHEST, "mm"),
            ("expression", FARTHEST, "mm"),
            ("texture", STRONGEST, ""),
        ):
            if (found := float(np.abs(getattr(self, name)).max())) > most:
                raise DataError(
                    f"{self.label}: a mode of {name} goes as far as {found:g}, where {most:g} {unit} make sense"
                )
        if self.albedo.min() < -0.5 or self.albedo.max() > 1.5 or self.texture_limit.min() < 0:
            raise DataError(f"{self.label}: albedo must be colours from 0 to 1, and texture_limit not negative")
        if self.triangles.ndim != 2 or self.triangles.shape[1] != 3 or self.triangles.dtype.kind != "i":
            raise DataError(f"{self.label}: triangles must be (F, 3) whole numbers, not {self.triangles.shape}")
        if not 0 <= self.nose < count:
            raise DataError(f"{self.label}: the nose's tip is vertex {self.nose}, which is not among the {count}")
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
    if number[model.nose] < 0:
        raise DataError(f"{model.label}: the nose's tip is no corner of a triangle near it; replace the file")
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


def close_openings(model: MorphableModel, eyes: list[NDArray[np.int64]]) -> MorphableModel:
    """Close every opening but the outline: eyes by a white ring around a dark middle, others by their own colour.

    What is added are means of vertices that are there, so that it moves with them.

    Args:
        model: Before it is cut.
        eyes: For each eye, vertices around it.
    """
    loops = sorted(border_loops(model.triangles), key=len)[:-1]
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


def border_loops(triangles: NDArray[np.int64]) -> list[NDArray[np.int64]]:
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


def tensors(model: MorphableModel) -> dict[str, Tensor]:
    """The arrays of a model as tensors, by name."""
    names = ("mean", "identity", "expression", "albedo", "texture", "texture_limit", "triangles")
    return {name: torch.from_numpy(np.ascontiguousarray(getattr(model, name))) for name in names}


def principal_textures(skins: NDArray) -> tuple[Points, Points, NDArray[np.float64]]:
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
        fixed_sign(components.reshape(len(order), *mean.shape).astype(np.float32)),
        limit,
    )


def fixed_sign(components: Points) -> Points:
    """Principal components have no sign of their own: here their largest entry is positive."""
    flat = components.reshape(len(components), -1)
    sign = np.sign(flat[np.arange(len(flat)), np.abs(flat).argmax(1)])
    return components * np.where(sign == 0, 1, sign)[:, None, None].astype(np.float32)
