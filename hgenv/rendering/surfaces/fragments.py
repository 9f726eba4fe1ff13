"""What pixels see of meshes, and what all renderers of this family need to say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ...problem import RenderError

SHADOW_TEXELS = 2
# A point is lifted by so many texels along its normal before it is looked up, so that a slope is not its own shadow.
SHADOW_LIFT = 0.6
SCATTER = 0.04  # in halves of the frame's edge: some 4 mm of a face


@dataclass(frozen=True)
class Fragments:
    """What the P = S * S pixels of B frames see, row by row from the top left; zero where there is nothing.

    Attributes:
        mask: (B, P) 1 where a pixel sees the mesh, else 0.
        triangle: (B, P) int64 index of the triangle.
        weight: (B, 3, P) barycentric coordinates of the point on it: shares of its three corners.
        point: (B, 3, P) view coordinates.
        normal: (B, 3, P) unit vectors, toward the outside of the triangles.
        lit: (B, P) share of the light that arrives, 0..1.
    """

    mask: Tensor
    triangle: Tensor
    weight: Tensor
    point: Tensor
    normal: Tensor
    lit: Tensor


class SurfaceRenderer(Protocol):
    """Anything that finds what pixels see of deformed meshes.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether a mesh casts shadows on itself.
    """

    size: int
    shadows: bool

    def __call__(self, vertices: Tensor, light: Tensor) -> Fragments:
        """(B, V, 3) float32 view coordinates and (B, 3) unit vectors toward the light to what is seen."""
        ...

    def resized(self, size: int) -> Self:
        """The same renderer with frames of another size in pixels."""
        ...


def check_triangles(triangles: Tensor) -> Tensor:
    """(F, 3) indices as contiguous int64.

    Raises:
        ValueError: They are no such indices.
    """
    if triangles.dim() != 2 or triangles.shape[1] != 3 or triangles.is_floating_point() or len(triangles) == 0:
        raise ValueError(f"triangles must be (F, 3) whole numbers, not {tuple(triangles.shape)} {triangles.dtype}")
    if int(triangles.min()) < 0:
        raise ValueError(f"triangles have a corner {int(triangles.min())}; corners are numbered from 0")
    return triangles.to("cpu", torch.int64).contiguous()


def check_meshes(vertices: Tensor, light: Tensor, triangles: Tensor) -> None:
    """Make sure that these can be rendered: an index beyond its end would read what is not there.

    Raises:
        RenderError: They cannot.
    """
    shape = tuple(vertices.shape)
    if vertices.dim() != 3 or shape[2] != 3 or not vertices.is_floating_point():
        raise RenderError(f"vertices must be (B, V, 3) floating-point, not {shape} {vertices.dtype}")
    if shape[1] <= (most := int(triangles.max())):
        raise RenderError(f"vertices are {shape[1]}, but the triangles have corner {most}; they belong to another mesh")
    if light.shape != (shape[0], 3) or not light.is_floating_point():
        raise RenderError(f"light must be ({shape[0]}, 3) directions, one of each mesh, not {tuple(light.shape)}")
    if vertices.device.type == "cpu" and not (vertices.isfinite().all() and light.isfinite().all()):
        row = int((~(vertices.flatten(1).isfinite().all(1) & light.isfinite().all(1))).nonzero()[0])
        raise RenderError(f"mesh {row} has vertices or a light that are infinite or NaN")


def triangles_around(triangles: Tensor) -> Tensor:
    """The triangles around each vertex in ascending order, (V, most of them); F where there are no more."""
    corner = triangles.flatten().numpy()
    order = np.argsort(corner, kind="stable")
    counts = np.bincount(corner)
    place = np.arange(len(corner)) - np.repeat(counts.cumsum() - counts, counts)
    around = np.full((len(counts), int(counts.max())), len(triangles))
    around[corner[order], place] = order // 3
    return torch.from_numpy(around)


def light_axes(light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3) unit vectors to three axes (B, 3): two across each, and itself."""
    x, y, z = light.unbind(-1)
    # Duff et al., "Building an orthonormal basis, revisited", JCGT 2017.
    sign = torch.where(z >= 0, 1.0, -1.0).to(light.dtype)
    a = -1 / (sign + z)
    b = x * y * a
    right = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], -1)
    return right, torch.stack([b, sign + y * y * a, -y], -1), light
