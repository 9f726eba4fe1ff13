"""Stand-in for real photos: 10 validation and 10 test images that the code makes by itself, without any file.

The objects lie outside the generator's grammar and its light model, so that a generator cannot simply reproduce them:
smooth implicit surfaces of five families (star-shaped bodies, metaballs, bent superquadrics, twisted tori, fluted
vases), two of each in each half; coloured solid textures (warped stripes, cells); a warm main light from the upper left
with cast shadows, a bluish fill light from the right, a mild highlight, darkened hollows, sensor noise. Depth and
normals are exact up to float64. Everything is drawn from fixed seeds: the images are always the same. From there on
they are treated like photos (`hgenv.datasets.photos`).

They show that a method works at all. They are no measurement on real photos, which is why the label says stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from math import pi

import numpy as np
import torch
from numpy.random import Generator as Random
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..device import torch_threads
from ..patience import Arrays, kept, patience
from .photos import NativePhoto, Photos, prepare

SPLITS = ("validation", "test")
PER_FAMILY = 2  # objects of each family in each half
RESOLUTION = 176  # pixels along the edge of the camera's picture, before it is cropped
REACH = 1.15  # the camera sees [-REACH, REACH] in x and y; objects lie in that range in z, too

Solid = Callable[[Tensor], Tensor]
"""Smooth implicit body: (3, P) float64 points to (P,) values, negative inside."""


def load(split: str, *, size: int = 64) -> Photos:
    """One half of the stand-in.

    Args:
        split: "validation" or "test".
        size: S, pixels along the edge of the network's input.

    Raises:
        ValueError: Unknown split.
    """
    return prepare(_photographs(split), size, f"stand-in {split}")


@cache
def _photographs(split: str) -> list[NativePhoto]:
    """They take seconds to make, whatever size they are then seen at: once a machine."""
    names = [name for name, _, _ in objects(split)]
    parts = [field.name for field in fields(NativePhoto) if field.name != "name"]

    def make() -> Arrays:
        # Small pieces of work: a pool of threads costs more than it does.
        with patience(f"making the stand-in photos for {split}, once on this machine"), torch_threads(1):
            made = [photograph(name, body, rng) for name, body, rng in objects(split)]
        return {f"{photo.name}/{part}": getattr(photo, part) for photo in made for part in parts}

    arrays = kept(f"standin-{split}", [__file__], make)
    return [NativePhoto(name, *(arrays[f"{name}/{part}"] for part in parts)) for name in names]


def objects(split: str) -> list[tuple[str, Solid, Random]]:
    """The objects of a half: name, body, and the random numbers that its texture and light are to be drawn from.

    Raises:
        ValueError: Unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits of the stand-in are {', '.join(SPLITS)}")
    found = []
    for f, family in enumerate(FAMILIES):
        for k in range(PER_FAMILY):
            number = SPLITS.index(split) * PER_FAMILY + k
            rng = np.random.default_rng([f, number])
            found.append((f"{family.__name__}{number + 1}", _turned(family(rng), rng), rng))
    return found


def trace(body: Solid, x: Tensor, y: Tensor, steps: int = 64) -> tuple[Tensor, Tensor]:
    """The first surface on the rays that look down -z: depth by marching and bisection, normals by the gradient.

    Args:
        body: What to look at, within |z| <= REACH.
        x: (P,) float64 places of the rays.
        y: The same.
        steps: Samples along a ray; details thinner than 2 REACH / steps in z may be missed.

    Returns:
        z, (P,), NaN where a ray hits nothing, and outward unit normals, (3, P), zero there.
    """
    inside, outside = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    open_rays = torch.arange(len(x))
    for z in torch.linspace(REACH, -REACH, steps, dtype=x.dtype)[1:]:
        hit = body(torch.stack([x[open_rays], y[open_rays], z.expand(len(open_rays))])) < 0
        inside[open_rays[hit]] = z
        open_rays = open_rays[~hit]
    hit = inside.isfinite()
    outside = inside[hit] + 2 * REACH / (steps - 1)
    low, x, y = inside[hit], x[hit], y[hit]
    for _ in range(44):  # to the last bit of float64
        middle = (low + outside) / 2
        below = body(torch.stack([x, y, middle])) < 0
        low, outside = torch.where(below, middle, low), torch.where(below, outside, middle)
    points = torch.stack([x, y, low]).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(body(points).sum(), points)
    depth, normal = inside, torch.zeros(3, len(inside), dtype=low.dtype)
    depth[hit] = low
    normal[:, hit] = torch.nn.functional.normalize(gradient, dim=0)
    return depth, normal


def photograph(name: str, body: Solid, rng: Random) -> NativePhoto:
    """A photo of `body` in a texture and a light that are drawn from `rng`, cropped off its centre."""
    line = ((torch.arange(RESOLUTION, dtype=torch.float64) + 0.5) / RESOLUTION * 2 - 1) * REACH
    x, y = line.repeat(RESOLUTION), -line.repeat_interleave(RESOLUTION)
    depth, normal = trace(body, x, y)
    mask = depth.isfinite()
    points = torch.stack([x, y, depth])[:, mask]
    silhouette = mask.reshape(RESOLUTION, RESOLUTION).numpy()
    hollow = _hollows(depth.reshape(RESOLUTION, RESOLUTION).numpy(), silhouette)
    colour = _texture(points, rng) * torch.from_numpy(hollow[silhouette])
    radiance = np.zeros((3, RESOLUTION * RESOLUTION))
    radiance[:, mask.numpy()] = _lit(body, points, normal[:, mask], colour, rng).numpy()
    # Photon noise grows with the root of the signal; the rest is that of the electronics.
    noise = rng.normal(size=radiance.shape) * np.sqrt(1e-4 * radiance + 4e-6)
    image = np.clip(radiance + noise, 0, None).mean(0).reshape(RESOLUTION, RESOLUTION)
    rows, columns = np.flatnonzero(silhouette.any(1)), np.flatnonzero(silhouette.any(0))
    margin = rng.integers(2, 20, 4)
    crop = (
        slice(max(0, rows[0] - margin[0]), rows[-1] + 1 + margin[1]),
        slice(max(0, columns[0] - margin[2]), columns[-1] + 1 + margin[3]),
    )
    normals = normal.numpy().reshape(3, RESOLUTION, RESOLUTION)
    return NativePhoto(name, image[crop], silhouette[crop], normals[:, *crop], silhouette[crop])


# --- Bodies -----------------------------------------------------------------------------------------------------------


def star(rng: Random) -> Solid:
    """Star-shaped body |p| < r(p / |p|) with the logarithm of r a sum of waves over the sphere."""
    wave, phase = _tensor(rng.normal(size=(7, 3)) * 2.2), _tensor(rng.uniform(0, 2 * pi, (7, 1)))
    amplitude = _tensor(rng.uniform(0.04, 0.13, (7, 1)))

    def body(p: Tensor) -> Tensor:
        length = p.norm(dim=0).clamp(min=1e-9)
        return length - 0.62 * (amplitude * (wave @ (p / length) + phase).sin()).sum(0).exp()

    return body


def metaballs(rng: Random) -> Solid:
    """Blobs that flow into one another: the sum of Gaussians around some centres exceeds a threshold."""
    steps = rng.normal(size=(7, 3)) * (1, 1, 0.5)
    radii = rng.uniform(0.26, 0.42, (7, 1))
    centres = np.cumsum(0.42 * steps / np.linalg.norm(steps, axis=1, keepdims=True), 0)
    centres -= (centres.max(0) + centres.min(0)) / 2
    scale = 0.9 / (np.linalg.norm(centres, axis=1, keepdims=True) + radii).max()
    centre, radius = _tensor(centres * scale), _tensor(radii * scale)

    def body(p: Tensor) -> Tensor:
        total = sum((-(p - c[:, None]).square().sum(0) / r**2).exp() for c, r in zip(centre, radius, strict=True))
        return 0.4 - torch.as_tensor(total)

    return body


def superquadric(rng: Random) -> Solid:
    """Superquadric, tapered along its axis and bent (Barr, 1981)."""
    half = _tensor(rng.uniform(0.3, 0.75, 3))
    round_1, round_2 = rng.uniform(0.5, 1.4, 2)
    taper, bend = rng.uniform(-0.4, 0.4), rng.uniform(0.2, 0.7)

    def body(p: Tensor) -> Tensor:
        z = p[2] / half[2]
        width = 1 + taper * z.clamp(-1.5, 1.5)
        x, y = (p[0] - bend * (p[2].square() - 0.15)) / half[0] / width, p[1] / half[1] / width
        ring = (x.abs() ** (2 / round_2) + y.abs() ** (2 / round_2) + 1e-12) ** (round_2 / round_1)
        return ring + z.abs() ** (2 / round_1) - 1

    return body


def torus(rng: Random) -> Solid:
    """Ring with a flat section that turns around it by half turns, and that leaves its plane."""
    wide, flat, turns = rng.uniform(0.22, 0.3), rng.uniform(0.12, 0.17), int(rng.integers(1, 5))
    wave, phase = rng.uniform(0.08, 0.2), rng.uniform(0, 2 * pi)

    def body(p: Tensor) -> Tensor:
        angle = torch.atan2(p[1], p[0])
        across = (p[0].square() + p[1].square() + 1e-12).sqrt() - 0.62
        along = p[2] - wave * (2 * angle + phase).sin()
        turn = turns * angle / 2
        u, v = across * turn.cos() + along * turn.sin(), along * turn.cos() - across * turn.sin()
        return (u / wide).square() + (v / flat).square() - 1

    return body


def vase(rng: Random) -> Solid:
    """Solid of revolution with a smooth profile, closed at both ends, with flutes."""
    height = rng.uniform(0.75, 0.9)
    wave, phase = _tensor(rng.uniform(1.5, 4.5, (3, 1))), _tensor(rng.uniform(0, 2 * pi, (3, 1)))
    flutes, groove = int(rng.integers(5, 12)), rng.uniform(0, 0.07)

    def body(p: Tensor) -> Tensor:
        y = p[1] / height
        profile = 0.38 + 0.09 * (wave * y + phase).sin().sum(0)
        profile = profile * (1 + groove * (flutes * torch.atan2(p[2], p[0])).cos())
        return p[0].square() + p[2].square() - profile.square() * (1 - y**8)

    return body


FAMILIES = (star, metaballs, superquadric, torus, vase)


def _turned(body: Solid, rng: Random) -> Solid:
    """`body` turned at random; not far, so that vases stand and rings show their hole."""
    axis = rng.normal(size=3)
    angle = rng.uniform(0.2, 0.9)
    k = np.cross(np.eye(3), axis / np.linalg.norm(axis))
    rotation = _tensor(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k)
    return lambda p: body(rotation @ p)


# --- Texture and light ------------------------------------------------------------------------------------------------


def _texture(points: Tensor, rng: Random) -> Tensor:
    """Albedo of red, green and blue, (3, P): a pattern that runs between two colours."""
    if rng.uniform() < 0.5:  # warped stripes
        direction, warp = _tensor(rng.normal(size=(1, 3))), _tensor(rng.normal(size=(3, 3)) * 3)
        bent = (direction / direction.norm() @ points)[0] + 0.12 * (warp @ points).sin().sum(0)
        pattern = torch.sigmoid(rng.uniform(2, 8) * (rng.uniform(8, 18) * bent).sin())
    else:  # cells: the distance to the nearest of many seeds
        seeds = _tensor(rng.uniform(-1, 1, (60, 3)))
        nearest = torch.cdist(points.T.contiguous(), seeds, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        pattern = torch.sigmoid(rng.uniform(15, 40) * (nearest - rng.uniform(0.15, 0.3)))
    one, other = _tensor(rng.uniform(0.55, 0.95, (3, 1))), _tensor(rng.uniform(0.1, 0.5, (3, 1)))
    return one + (other - one) * pattern


def _hollows(depth: NDArray, mask: NDArray) -> NDArray:
    """Share of the sky that a point sees, roughly: less where the surroundings stand nearer to the camera; (h, w)."""
    near = np.where(mask, depth, 0)
    share = ndimage.gaussian_filter(mask.astype(float), 7)
    around = ndimage.gaussian_filter(near, 7) / np.where(share > 0, share, 1)
    return np.exp(-2.5 * np.clip(around - near, 0, 0.4))


def _lit(body: Solid, points: Tensor, normal: Tensor, colour: Tensor, rng: Random) -> Tensor:
    """Radiance of red, green and blue, (3, P)."""
    main = _direction(-0.55 + rng.normal() * 0.15, 0.5 + rng.normal() * 0.15, 0.75)
    fill = _direction(0.8, -0.1 + rng.normal() * 0.2, 0.5)
    shadow = torch.zeros(points.shape[1], dtype=torch.bool)
    for distance in torch.linspace(0.06, 1.4, 24, dtype=torch.float64):
        shadow |= body(points + 0.02 * normal + distance * main) < 0
    warm, cool, sky = (_tensor([c]).T for c in ([1.0, 0.93, 0.82], [0.16, 0.2, 0.28], [0.14, 0.15, 0.17]))
    direct = (main * normal).sum(0).clamp(min=0) * ~shadow
    diffuse = colour * (warm * direct + cool * (fill * normal).sum(0).clamp(min=0) + sky)
    half = _direction(float(main[0]), float(main[1]), float(main[2]) + 1)
    highlight = rng.uniform(0, 0.25) * (half * normal).sum(0).clamp(min=0) ** rng.uniform(15, 40)
    return diffuse + highlight * ~shadow


def _direction(x: float, y: float, z: float) -> Tensor:
    vector = _tensor([[x], [y], [z]])
    return vector / vector.norm()


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))
