"""The default surface renderer: each triangle is drawn where it is, the nearest one stays."""

from __future__ import annotations

import torch
from torch import Tensor

from ...device import compiled_kernels_serve
from ..framing import check_size, pixel_centres
from .fragments import (
    SCATTER,
    SHADOW_LIFT,
    SHADOW_TEXELS,
    Fragments,
    check_meshes,
    check_triangles,
    light_axes,
    triangles_around,
)


class ZBuffer:
    """See `SurfaceRenderer`. Compiled on a CPU, in torch elsewhere.

    Args:
        triangles: (F, 3) int64, anticlockwise seen from outside.
        size: S, pixels along an edge.
        shadows: Whether a mesh casts shadows on itself.
    """

    def __init__(self, triangles: Tensor, size: int = 64, shadows: bool = True) -> None:
        self.size, self.shadows = check_size(size), shadows
        self.triangles = check_triangles(triangles)
        self.around = triangles_around(self.triangles)
        self._elsewhere: dict[torch.device, tuple[Tensor, Tensor]] = {}  # both, moved once to each device

    def __call__(self, vertices: Tensor, light: Tensor) -> Fragments:
        """See `SurfaceRenderer`."""
        check_meshes(vertices, light, self.triangles)
        if not compiled_kernels_serve(vertices):
            return self.render_torch(vertices, light)
        from .compiled import render  # late: loading or compiling the kernels takes a moment

        return render(vertices, self.triangles, self.around, light, self.size, self.shadows)

    def resized(self, size: int) -> ZBuffer:
        """See `SurfaceRenderer`."""
        return ZBuffer(self.triangles, size, self.shadows)

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
