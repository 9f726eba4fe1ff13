"""The grammar on a CPU, compiled: one tree after the other, and only the nodes that it has.

The formulas and their order are those of the torch form, in double precision without reassociation: the two differ by
the rounding of elementary functions. Bits do not depend on the batch.
"""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...jit import njit
from ...rendering.csg.scene import CONE, CUBE, DIFFERENCE, EMPTY, SPHERE, TETRAHEDRON, UNION
from ...rendering.framing import FIT
from ..random import normals
from .layout import NUMBERS_PER_NODE, Shape, shape_blocks

_compiled = njit(error_model="numpy")
_NAMES = [b.name for b in shape_blocks()]
# As an argument: numba's cache does not see constants of another file change.
_CODES = (SPHERE, CUBE, CONE, TETRAHEDRON, EMPTY, UNION, DIFFERENCE)
# Where the blocks start in a row of beta. A node's random numbers are laid out as `layout` says.
_OPERATOR, _EXPAND, _TRANSLATION, _SCALE, _SPHERE, _CUBE, _CONE, _TETRAHEDRON = 4, 6, 7, 13, 19, 21, 23, 27
_EXPANDED = -2  # in place of a kind: the node became C(E, T(E))
_NORMAL = [3, 4, 5, 8, 9, 10, 14, 15, 16]  # which of a node's numbers become normal ones: sizes, translation, scale
_EDGE = 4 / math.sqrt(6)  # of a tetrahedron whose corners lie at distance 1


def shapes(beta: dict[str, Tensor], uniform: Tensor, depth: int) -> Shape:
    """B objects fitted into the view, as `reference.shapes` makes them; what empty slots hold may differ.

    Args:
        beta: Blocks of `shape_blocks` by name, each (B, size), as `DecisionSpace.split` gives them.
        uniform: (B, `numbers_needed(depth)`) in (0, 1), on the CPU.
        depth: Levels below the root.
    """
    samples, leaves = len(uniform), 2**depth
    u = uniform.T.reshape(2 * leaves - 1, NUMBERS_PER_NODE, samples).contiguous()
    shape = Shape(
        kind=torch.full((samples, leaves), EMPTY),
        size=torch.ones((samples, leaves, 3), dtype=torch.float64),
        linear=torch.zeros((samples, leaves, 3, 3), dtype=torch.float64),
        offset=torch.zeros((samples, leaves, 3), dtype=torch.float64),
        operator=torch.full((samples, leaves - 1), UNION),
    )
    values = torch.cat([beta[name] for name in _NAMES], -1).numpy()
    outputs = [getattr(shape, name).numpy() for name in ("kind", "size", "linear", "offset", "operator")]
    z = normals(u[:, _NORMAL])
    _shapes(values, u.numpy(), z.numpy(), depth, FIT, _CODES, *outputs)
    return shape


@_compiled
def _shapes(beta, uniform, normal, depth, fit, codes, kind, size, linear, offset, operator):
    nodes = 2 ** (depth + 1) - 1
    kinds, signs = np.empty(nodes, np.int64), np.empty(nodes)  # of nodes; EMPTY are not in the tree
    sizes, origins, frames = np.empty((nodes, 3)), np.empty((nodes, 3)), np.empty((nodes, 3, 3))
    turn, point, low, high = np.empty((3, 3)), np.empty(3), np.empty(3), np.empty(3)
    for b in range(len(kind)):
        p, u, z = beta[b], uniform[:, :, b], normal[:, :, b]
        _draw(p, u, z, depth, codes, kinds, sizes)
        _place(p, u, z, depth, codes, kinds, sizes, signs, frames, origins, turn, point, operator[b])
        _collect(depth, codes, kinds, sizes, frames, origins, kind[b], size[b], linear[b], offset[b])
        _fit(depth, fit, codes, kinds, sizes, signs, frames, origins, low, high, linear[b], offset[b])


@_compiled
def _draw(p, u, z, depth, codes, kinds, sizes):
    """Which nodes the tree has, and what primitives they are."""
    sphere, cube, cone, tetrahedron, empty, _, _ = codes
    inner = 2**depth - 1
    kinds[:] = empty
    for node in range(len(kinds)):
        if node > 0 and kinds[(node - 1) // 2] != _EXPANDED:
            continue
        if node < inner and u[node, 0] < p[_EXPAND]:
            kinds[node] = _EXPANDED
            continue
        first = p[0]
        second = first + p[1]
        third = second + p[2]
        which = int(u[node, 2] > first) + int(u[node, 2] > second) + int(u[node, 2] > third)
        kinds[node] = which
        sizes[node] = 0.0
        if which == cone:
            for i in range(3):
                mean, deviation = p[_CONE : _CONE + 2] if i < 2 else p[_CONE + 2 : _CONE + 4]
                sizes[node, i] = math.exp(mean + deviation * z[node, i])
        else:
            at = _SPHERE if which == sphere else _CUBE if which == cube else _TETRAHEDRON
            sizes[node, 0] = math.exp(p[at] + p[at + 1] * z[node, 0])
            if which == tetrahedron:
                sizes[node, 0] *= _EDGE


@_compiled
def _place(p, u, z, depth, codes, kinds, sizes, signs, frames, origins, turn, point, operator):
    """Apply T along the tree, from the root down."""
    _, _, _, _, _, union, difference = codes
    # The root's own T is free: its rotation turns the whole object.
    _rotation(u[0], frames[0])
    origins[0] = 0.0
    signs[0] = 1.0
    for node in range(2**depth - 1):
        operator[node] = union
        if kinds[node] != _EXPANDED:
            continue
        left, right = 2 * node + 1, 2 * node + 2
        frame, origin = frames[node], origins[node]
        frames[left], origins[left], signs[left] = frame, origin, signs[node]
        first = left
        while kinds[first] == _EXPANDED:
            first = 2 * first + 1
        _surface_point(kinds[first], sizes[first], u[right], codes, point)
        _rotation(u[right], turn)
        for j in range(3):
            point[j] += p[_TRANSLATION + j] + p[_TRANSLATION + 3 + j] * z[right, 3 + j]
            factor = math.exp(p[_SCALE + j] + p[_SCALE + 3 + j] * z[right, 6 + j])
            for i in range(3):
                turn[i, j] *= factor
        for i in range(3):
            for j in range(3):
                frames[right, i, j] = frame[i, 0] * turn[0, j] + frame[i, 1] * turn[1, j] + frame[i, 2] * turn[2, j]
            origins[right, i] = frame[i, 0] * point[0] + frame[i, 1] * point[1] + frame[i, 2] * point[2] + origin[i]
        signs[right] = signs[node]
        if u[node, 1] >= p[_OPERATOR]:
            operator[node] = difference
            signs[right] = -signs[node]


@_compiled
def _rotation(u, matrix):
    """Shoemake's uniformly random rotation from a node's numbers 11 to 13."""
    s, t = math.sqrt(1 - u[11]), math.sqrt(u[11])
    b, c = 2 * math.pi * u[12], 2 * math.pi * u[13]
    x, y, z, w = s * math.sin(b), s * math.cos(b), t * math.sin(c), t * math.cos(c)
    matrix[0, 0], matrix[0, 1], matrix[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)
    matrix[1, 0], matrix[1, 1], matrix[1, 2] = 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)
    matrix[2, 0], matrix[2, 1], matrix[2, 2] = 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)


@_compiled
def _surface_point(kind, size, u, codes, point):
    """Where the ray of a node's numbers 6 and 7 leaves a primitive, from its centre."""
    sphere, cube, cone, _, _, _, _ = codes
    up, around = 2 * u[6] - 1, 2 * math.pi * u[7]
    flat = math.sqrt(1 - up**2)
    x, y = flat * math.cos(around), flat * math.sin(around)
    if kind == sphere:
        distance = size[0]
    elif kind == cube:
        distance = size[0] / max(abs(x), abs(y), abs(up))
    elif kind == cone:
        middle, slope = (size[0] + size[1]) / 2, (size[1] - size[0]) / (2 * size[2])
        side = math.sqrt(x * x + y * y) - slope * up
        distance = min(size[2] / abs(up), middle / side if side > 0 else math.inf)
    else:
        # A face lies opposite its corner, edge / (2 sqrt 6) from the origin.
        facing = -min(x + y + up, x - y - up, -x + y - up, -x - y + up) / math.sqrt(3)
        distance = size[0] / (2 * math.sqrt(6)) / facing
    point[0], point[1], point[2] = distance * x, distance * y, distance * up


@_compiled
def _collect(depth, codes, kinds, sizes, frames, origins, kind, size, linear, offset):
    """A primitive that ends early in the tree takes the leftmost leaf slot below its node."""
    _, _, _, _, empty, _, _ = codes
    for slot in range(len(kind)):
        kind[slot], linear[slot] = empty, frames[0]
    for level in range(depth + 1):
        for i in range(2**level):
            node, slot = 2**level - 1 + i, i * 2 ** (depth - level)
            if kinds[node] >= 0:
                kind[slot], size[slot], linear[slot], offset[slot] = (
                    kinds[node], sizes[node], frames[node], origins[node],
                )  # fmt: skip


@_compiled
def _fit(depth, fit, codes, kinds, sizes, signs, frames, origins, low, high, linear, offset):
    """Centre and scale the rectangle around the primitives that add to the solid."""
    low[:], high[:] = math.inf, -math.inf
    for node in range(len(kinds)):
        if kinds[node] >= 0 and signs[node] > 0:
            for axis in range(3):
                bottom, top = _extent(kinds[node], sizes[node], frames[node, axis], codes)
                low[axis] = min(low[axis], bottom + origins[node, axis])
                high[axis] = max(high[axis], top + origins[node, axis])
    zoom = 2 * fit / max(high[0] - low[0], high[1] - low[1])
    for slot in range(len(linear)):
        for i in range(3):
            for j in range(3):
                linear[slot, i, j] *= zoom
            offset[slot, i] = (offset[slot, i] - (high[i] + low[i]) / 2) * zoom


@_compiled
def _extent(kind, size, axis, codes):
    """Exact bounds of a primitive at the origin along an axis of the view, given as the primitive sees it."""
    sphere, cube, cone, _, _, _, _ = codes
    a, b, c = axis[0], axis[1], axis[2]
    if kind == sphere:
        high = size[0] * math.sqrt(a * a + b * b + c * c)
        return -high, high
    if kind == cube:
        high = size[0] * (abs(a) + abs(b) + abs(c))
        return -high, high
    if kind == cone:
        flat, tall = math.sqrt(a * a + b * b), size[2] * c
        bottom, top = flat * size[0], flat * size[1]
        return min(-bottom - tall, -top + tall), max(bottom - tall, top + tall)
    scale = size[0] / (2 * math.sqrt(2))
    first, second, third, fourth = scale * (a + b + c), scale * (a - b - c), scale * (-a + b - c), scale * (-a - b + c)
    return min(first, second, third, fourth), max(first, second, third, fourth)
