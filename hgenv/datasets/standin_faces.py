"""Faces made by code, for whoever has no model or no scans: smooth reliefs, smooth random modes, made skins.

No measurement on real faces comes of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .morphable import MorphableModel, Points, cut, principal_textures


def model(seed: int = 0, resolution: int = 44) -> MorphableModel:
    """A face made by code: a smooth relief, smooth random modes. No measurement on real faces comes of it.

    Args:
        seed: Decides the random modes.
        resolution: Vertices along an edge of the grid that the face is made of.
    """
    grid, triangles = face_grid(resolution)
    mean = relief(grid)
    rng = np.random.default_rng(seed)
    identity = bumps(rng, mean, 20, width=(35, 70), size=3.0)
    around_mouth = np.exp(-((mean[:, 1] + 40) ** 2) / (2 * 25**2))[:, None]
    around_eyes = np.exp(-((mean[:, 1] - 38) ** 2) / (2 * 12**2))[:, None]
    expression = bumps(rng, mean, 14, width=(14, 24), size=3.0) * (around_mouth + 0.5 * around_eyes)
    colour, texture, limit = principal_textures(made_skins(mean, 20, seed))
    nose = int(np.argmax(mean[:, 2]))
    made = MorphableModel(
        "stand-in face", mean, identity, expression.astype(np.float32), colour, texture, limit, triangles, nose
    )
    return cut(made)


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
        spots = bumps(rng, vertices, 1, width=(8, 16), size=0.05)[0, :, :1]
        skins.append(np.clip(skin * (1 + spots), 0.03, 0.98))
    return np.stack(skins)


def bumps(
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
