"""Batches of triangle meshes that share their triangles: what a morphable model deforms, seen pixel by pixel.

View coordinates and pixel centres are those of `hgenv.rendering.scene`: orthographic along -z, x right, y up. A pixel
shows the triangle that is nearest to the camera at its centre, from either side (on an edge, the first in the list);
position and normal are interpolated between corners, corner normals being the sum of the area vectors of the triangles
around them.

Shadows are looked up in a second view, from the light, over the square around the mesh with `SHADOW_TEXELS` times as
many pixels along an edge: bilinear weights of four texels. Of the light that enters the mesh a distance t above a
point, exp(-t / SCATTER) arrives: thin parts glow, and the border of light and shade on a round part is soft (Green,
"Real-time approximations to subsurface scattering", GPU Gems, chapter 16).

This is the torch form, the reference and what runs on a GPU; on a CPU `surfaces_numba` does the same. `surfaces_embree`
casts rays instead, and is the oracle of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from .scene import FIT, pixel_centres

CAMERA = 5.0  # depth of the middle of a mesh's bounding box, in halves of the frame's edge
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


class ZBuffer:
    """The default surface renderer: each triangle is drawn where it is, the nearest one stays.

    Args:
        triangles: (F, 3) int64, anticlockwise seen from outside.
        size: S, pixels along an edge.
        shadows: Whether a mesh casts shadows on itself.
    """

    def __init__(self, triangles: Tensor, size: int = 64, shadows: bool = True) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {size}")
        self.triangles = check_triangles(triangles)
        self.size, self.shadows = size, shadows
        self.around = triangles_around(self.triangles)
        self._elsewhere: dict[torch.device, tuple[Tensor, Tensor]] = {}  # both, moved once to each device

    def __call__(self, vertices: Tensor, light: Tensor) -> Fragments:
        """See `SurfaceRenderer`."""
        if vertices.device.type != "cpu":
            return self.render_torch(vertices, light)
        from .surfaces_numba import render  # late: compiling or loading the kernel takes a moment

        return render(vertices, self.triangles, self.around, light, self.size, self.shadows)

    def render_torch(self, vertices: Tensor, light: Tensor) -> Fragments:
        """The torch form, on any device."""
        device, vertices = vertices.device, vertices.double()
        if device not in self._elsewhere:
            self._elsewhere[device] = self.triangles.to(device), self.around.to(device)
        triangles, around = self._elsewhere[device]
        side = float(self.size)
        column, row = ((vertices[..., 0] + 1) * side - 1) / 2, ((1 - vertices[..., 1]) * side - 1) / 2
        _, which = _draw(column, row, vertices[..., 2], triangles, self.size)
        found = which < len(triangles)
        triangle = torch.where(found, which, 0)
        corners = triangles[triangle]  # (B, P, 3)
        x, y = pixel_centres(self.size, device)
        line = torch.arange(self.size, dtype=torch.float64, device=device)
        at_column, at_row = line.repeat(self.size), line.repeat_interleave(self.size)
        weight = _barycentric(_at(column, corners), _at(row, corners), at_column, at_row)
        z = (weight * _at(vertices[..., 2], corners)).sum(-1)
        point = torch.stack([x.double().expand_as(z), y.double().expand_as(z), z], -1)
        normals = _vertex_normals(vertices, triangles, around)
        parts = [weight[..., i, None] * _rows(normals, corners[..., i]) for i in range(3)]
        normal = parts[0] + parts[1] + parts[2]
        normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        lit = torch.ones_like(z)
        if self.shadows:
            lit = self._lit(vertices, triangles, point, normal, light.double())
        visible = found.double()
        return Fragments(
            visible.float(),
            triangle,
            (weight * visible[..., None]).transpose(1, 2).float(),
            (point * visible[..., None]).transpose(1, 2).float(),
            (normal * visible[..., None]).transpose(1, 2).float(),
            (lit * visible).float(),
        )

    def _lit(self, vertices: Tensor, triangles: Tensor, point: Tensor, normal: Tensor, light: Tensor) -> Tensor:
        texels = SHADOW_TEXELS * self.size
        u, v, t = (vertices @ axis[..., None] for axis in light_axes(light))
        u, v, t = u[..., 0], v[..., 0], t[..., 0]
        low_u, low_v = u.amin(1, keepdim=True), v.amin(1, keepdim=True)
        edge = torch.maximum(u.amax(1, keepdim=True) - low_u, v.amax(1, keepdim=True) - low_v)
        # A texel of margin on each side.
        texel = edge / (texels - 2)
        nearest, _ = _draw((u - low_u) / texel + 0.5, (v - low_v) / texel + 0.5, t, triangles, texels)
        lifted = point + SHADOW_LIFT * texel[..., None] * normal
        at_u, at_v, at_t = ((lifted @ axis[..., None])[..., 0] for axis in light_axes(light))
        at_u, at_v = (at_u - low_u) / texel + 0.5, (at_v - low_v) / texel + 0.5
        left, top = at_u.floor(), at_v.floor()
        lit = torch.zeros_like(at_t)
        for across in (0, 1):
            for down in (0, 1):
                i, j = (left + across).long(), (top + down).long()
                share = (1 - (at_u - left - across).abs()) * (1 - (at_v - top - down).abs())
                inside = (i >= 0) & (i < texels) & (j >= 0) & (j < texels)
                first = nearest.gather(1, torch.where(inside, j * texels + i, 0))
                before = torch.where(inside, at_t - first, 0).clamp(max=0)
                lit = lit + share * torch.exp(before / SCATTER)
        return lit


def rotation(angles: Tensor) -> Tensor:
    """Rotations (B, 3, 3) for (B, 3) yaw, pitch and roll in radians, in this order about y, x and z.

    A face turns to the right of the image, then downwards, then anticlockwise.
    """
    (cy, cp, cr), (sy, sp, sr) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    yaw = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).unflatten(-1, (3, 3))
    pitch = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).unflatten(-1, (3, 3))
    roll = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).unflatten(-1, (3, 3))
    return _product(roll, _product(pitch, yaw))


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, 3, 3) times (B, 3), elementwise, so that bits do not depend on the batch."""
    return matrix[:, :, 0] * vector[:, :1] + matrix[:, :, 1] * vector[:, 1:2] + matrix[:, :, 2] * vector[:, 2:]


def turn(vertices: Tensor, rotation: Tensor) -> Tensor:
    """(B, V, 3) vertices turned by (B, 3, 3)."""
    r = rotation.to(vertices.dtype)[:, None]
    return r[..., 0] * vertices[..., :1] + r[..., 1] * vertices[..., 1:2] + r[..., 2] * vertices[..., 2:]


def fit(vertices: Tensor) -> Tensor:
    """Scale and centre meshes (B, V, 3) in the frame, in all three directions."""
    low, high = vertices.amin(1, keepdim=True), vertices.amax(1, keepdim=True)
    edge = (high - low)[..., :2].amax(-1, keepdim=True)
    return (vertices - (low + high) / 2) * (2 * FIT / edge)


def as_batch(image: Tensor, seen: Fragments, size: int) -> Batch:
    """Image (B, 3, P) and what was seen, as a batch of squares; depth is zero outside the mask."""
    depth = (CAMERA - seen.point[:, 2]) * seen.mask
    square = (size, size)
    depth, mask = (x.unflatten(-1, square)[:, None] for x in (depth, seen.mask))
    return Batch(image.unflatten(-1, square), depth, mask)


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


def _draw(column: Tensor, row: Tensor, height: Tensor, triangles: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Largest height and first triangle at each of (B, size * size) pixels; -inf and F where there is none.

    Args:
        column: (B, V) where vertices are, in pixels; pixel i has its centre at i.
        row: The same, downwards.
        height: (B, V).
        triangles: (F, 3).
        size: Pixels along an edge.
    """
    batch, count = len(column), len(triangles)
    corners = triangles.expand(batch, -1, -1)
    columns, rows, heights = (_at(values, corners) for values in (column, row, height))
    first_column, first_row = columns.amin(-1).ceil().clamp(min=0), rows.amin(-1).ceil().clamp(min=0)
    last_column, last_row = columns.amax(-1).floor().clamp(max=size - 1), rows.amax(-1).floor().clamp(max=size - 1)
    largest = torch.stack([(last_column - first_column).amax(), (last_row - first_row).amax()])
    wide, high = (int(most) + 1 for most in largest.clamp(min=-1).tolist())
    nearest = torch.full((batch, size * size + 1), -torch.inf, dtype=column.dtype, device=column.device)
    which = torch.full((batch, size * size + 1), count, device=column.device)
    number = torch.arange(count, device=column.device).expand(batch, -1)
    # First the largest heights, then who has them: the order of drawing does not matter.
    for again in (False, True):
        for down in range(high):
            for across in range(wide):
                at_column, at_row = first_column + across, first_row + down
                weight = _barycentric(columns, rows, at_column, at_row)
                inside = (weight >= 0).all(-1) & (at_column <= last_column) & (at_row <= last_row)
                pixel = torch.where(inside, at_row * size + at_column, size * size).long()
                value = (weight * heights).sum(-1)
                if again:
                    first = inside & (value == nearest.gather(1, pixel))
                    which.scatter_reduce_(1, pixel, torch.where(first, number, count), "amin")
                else:
                    nearest.scatter_reduce_(1, pixel, torch.where(inside, value, -torch.inf), "amax")
    return nearest[:, :-1], which[:, :-1]


def _barycentric(columns: Tensor, rows: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Shares (..., 3) of corners at (..., 3) columns and rows in the point (column, row); NaN without area."""
    a, b, c = columns.unbind(-1)
    d, e, f = rows.unbind(-1)
    inverse = 1 / ((b - a) * (f - d) - (e - d) * (c - a))
    second = ((column - a) * (f - d) - (row - d) * (c - a)) * inverse
    third = ((b - a) * (row - d) - (e - d) * (column - a)) * inverse
    return torch.stack([1 - second - third, second, third], -1)


def _vertex_normals(vertices: Tensor, triangles: Tensor, around: Tensor) -> Tensor:
    """Sums of the area vectors of the triangles around each vertex, (B, V, 3)."""
    a, b, c = (vertices[:, triangles[:, i]] for i in range(3))
    area = torch.linalg.cross(b - a, c - a)
    area = torch.cat([area, torch.zeros_like(area[:, :1])], 1)  # where there are no more triangles
    return sum((area[:, around[:, i]] for i in range(1, around.shape[1])), area[:, around[:, 0]])


def _at(values: Tensor, corners: Tensor) -> Tensor:
    """(B, V) values at (B, Q, 3) corners."""
    return values.gather(1, corners.flatten(1)).reshape(corners.shape)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, V, 3) values at (B, Q)."""
    return values.gather(1, index[..., None].expand(-1, -1, 3))


def _product(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :1] * b[..., :1, :] + a[..., 1:2] * b[..., 1:2, :] + a[..., 2:] * b[..., 2:, :]
