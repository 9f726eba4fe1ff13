"""The z-buffer on a CPU, compiled: one mesh after the other, in double precision, without reassociation.

A head has more triangles than its picture has pixels: most of them lie between pixel centres and are done with after
four comparisons. Bits depend neither on the batch nor on threads.
"""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...jit import njit
from .fragments import SCATTER, SHADOW_LIFT, SHADOW_TEXELS, Fragments, light_axes

_compiled = njit(error_model="numpy")


def render(
    vertices: Tensor,
    triangles: Tensor,
    around: Tensor,
    light: Tensor,
    size: int,
    shadows: bool,
    threads: int | None = None,
) -> Fragments:
    """What pixels see of a batch of meshes, see `hgenv.rendering.surfaces`.

    Args:
        vertices: (B, V, 3) float32 on the CPU.
        triangles: (F, 3) int64.
        around: Triangles around each vertex, as `triangles_around` gives them.
        light: (B, 3) unit vectors.
        size: S, pixels along an edge.
        shadows: Whether a mesh casts shadows on itself.
        threads: At most so many; by default as many as torch uses.
    """
    batch, pixels = len(vertices), size * size
    mask, lit = torch.zeros(batch, pixels), torch.zeros(batch, pixels)
    triangle = torch.zeros(batch, pixels, dtype=torch.int64)
    weight, point, normal = (torch.zeros(batch, 3, pixels) for _ in range(3))
    axes = torch.stack(light_axes(light.double()), 1).numpy()
    corners, meshes = vertices.detach().contiguous().numpy(), (triangles.numpy(), around.numpy())
    outputs = [x.numpy() for x in (mask, triangle, weight, point, normal, lit)]
    # As arguments: numba's cache does not see constants of another file change.
    constants = SHADOW_TEXELS * size, SHADOW_LIFT, SCATTER

    def one(i: int) -> None:
        _render(corners[i], *meshes, axes[i], size, shadows, *constants, *(x[i] for x in outputs))

    threads = min(torch.get_num_threads() if threads is None else threads, batch)
    if threads <= 1:
        for i in range(batch):
            one(i)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(batch)))
    return Fragments(mask, triangle, weight, point, normal, lit)


@_compiled
def _render(
    vertices,
    triangles,
    around,
    axes,
    size,
    shadows,
    texels,
    lifted,
    scatter,
    mask,
    triangle,
    weight,
    point,
    normal,
    lit,
):
    count, side = len(vertices), float(size)
    column, row, height = np.empty(count), np.empty(count), np.empty(count)
    for i in range(count):
        column[i] = ((float(vertices[i, 0]) + 1) * side - 1) / 2
        row[i] = ((1 - float(vertices[i, 1])) * side - 1) / 2
        height[i] = vertices[i, 2]
    nearest, which = _draw(column, row, height, triangles, size)
    normals = _vertex_normals(vertices, triangles, around)

    first, texel, low_u, low_v = nearest, 1.0, 0.0, 0.0
    if shadows:
        u, v, t = np.empty(count), np.empty(count), np.empty(count)
        for i in range(count):
            u[i], v[i], t[i] = _turned(axes, vertices[i, 0], vertices[i, 1], vertices[i, 2])
        low_u, low_v = u.min(), v.min()
        texel = max(u.max() - low_u, v.max() - low_v) / (texels - 2)
        for i in range(count):
            u[i] = (u[i] - low_u) / texel + 0.5
            v[i] = (v[i] - low_v) / texel + 0.5
        first, _ = _draw(u, v, t, triangles, texels)

    for pixel in range(size * size):
        chosen = which[pixel]
        if chosen == len(triangles):
            continue
        a, b, c = triangles[chosen, 0], triangles[chosen, 1], triangles[chosen, 2]
        # In single precision, like everybody's pixel centres.
        x = np.float32(2 * (pixel % size) + 1) / np.float32(size) - np.float32(1)
        y = -(np.float32(2 * (pixel // size) + 1) / np.float32(size) - np.float32(1))
        second, third = _barycentric(column, row, a, b, c, float(pixel % size), float(pixel // size))
        shares = (1 - second - third, second, third)
        z = shares[0] * height[a] + shares[1] * height[b] + shares[2] * height[c]
        nx = shares[0] * normals[a, 0] + shares[1] * normals[b, 0] + shares[2] * normals[c, 0]
        ny = shares[0] * normals[a, 1] + shares[1] * normals[b, 1] + shares[2] * normals[c, 1]
        nz = shares[0] * normals[a, 2] + shares[1] * normals[b, 2] + shares[2] * normals[c, 2]
        length = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-30)
        nx, ny, nz = nx / length, ny / length, nz / length
        mask[pixel], triangle[pixel], lit[pixel] = 1, chosen, 1
        for k in range(3):
            weight[k, pixel] = shares[k]
        point[0, pixel], point[1, pixel], point[2, pixel] = x, y, z
        normal[0, pixel], normal[1, pixel], normal[2, pixel] = nx, ny, nz
        if shadows:
            lift = lifted * texel
            x, y, z = x + lift * nx, y + lift * ny, z + lift * nz
            at_u, at_v, at_t = _turned(axes, x, y, z)
            at_u, at_v = (at_u - low_u) / texel + 0.5, (at_v - low_v) / texel + 0.5
            lit[pixel] = _arriving(first, texels, scatter, at_u, at_v, at_t)


@_compiled
def _turned(axes, x, y, z):
    return (
        axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z,
        axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z,
        axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z,
    )


@_compiled
def _arriving(first, texels, scatter, u, v, t):
    left, top = math.floor(u), math.floor(v)
    lit = 0.0
    for across in range(2):
        for down in range(2):
            i, j = int(left) + across, int(top) + down
            share = (1 - abs(u - left - across)) * (1 - abs(v - top - down))
            if 0 <= i < texels and 0 <= j < texels and first[j * texels + i] > t:
                share *= math.exp((t - first[j * texels + i]) / scatter)
            lit += share
    return lit


@_compiled
def _draw(column, row, height, triangles, size):
    nearest, which = np.full(size * size, -np.inf), np.full(size * size, len(triangles))
    for k in range(len(triangles)):
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        first_row = max(math.ceil(min(row[a], row[b], row[c])), 0)
        last_row = min(math.floor(max(row[a], row[b], row[c])), size - 1)
        if first_row > last_row:
            continue
        first_column = max(math.ceil(min(column[a], column[b], column[c])), 0)
        last_column = min(math.floor(max(column[a], column[b], column[c])), size - 1)
        if first_column > last_column:
            continue
        bx, by = column[b] - column[a], row[b] - row[a]
        cx, cy = column[c] - column[a], row[c] - row[a]
        inverse = 1 / (bx * cy - by * cx)
        for j in range(first_row, last_row + 1):
            y = float(j) - row[a]
            for i in range(first_column, last_column + 1):
                x = float(i) - column[a]
                second, third = (x * cy - y * cx) * inverse, (bx * y - by * x) * inverse
                share = 1 - second - third
                if second >= 0 and third >= 0 and share >= 0:
                    z = share * height[a] + second * height[b] + third * height[c]
                    pixel = j * size + i
                    if z > nearest[pixel]:
                        nearest[pixel], which[pixel] = z, k
    return nearest, which


@_compiled
def _barycentric(column, row, a, b, c, at_column, at_row):
    bx, by = column[b] - column[a], row[b] - row[a]
    cx, cy = column[c] - column[a], row[c] - row[a]
    x, y = at_column - column[a], at_row - row[a]
    inverse = 1 / (bx * cy - by * cx)
    return (x * cy - y * cx) * inverse, (bx * y - by * x) * inverse


@_compiled
def _vertex_normals(vertices, triangles, around):
    area = np.empty((len(triangles), 3))
    for k in range(len(triangles)):
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        px, py, pz = float(vertices[a, 0]), float(vertices[a, 1]), float(vertices[a, 2])
        bx, by, bz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2] - pz
        cx, cy, cz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2] - pz
        area[k, 0], area[k, 1], area[k, 2] = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    normals = np.zeros((len(around), 3))
    for i in range(len(around)):
        for n in range(around.shape[1]):
            k = around[i, n]
            if k == len(triangles):
                break
            for axis in range(3):
                normals[i, axis] += area[k, axis]
    return normals
