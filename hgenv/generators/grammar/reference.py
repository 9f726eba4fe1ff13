"""The grammar in torch, a whole batch at once: the reference, and what runs on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...rendering.csg.scene import (
    CONE,
    CUBE,
    DIFFERENCE,
    EMPTY,
    SPHERE,
    TETRAHEDRON,
    TETRAHEDRON_CORNERS,
    UNION,
    extent,
    polarity,
)
from ...rendering.framing import FIT
from ..random import normals
from .layout import NUMBERS_PER_NODE, Shape


@dataclass(frozen=True)
class Draws:
    """Everything random about B objects; nodes in heap order, M = 2**(depth + 1) - 1 of them.

    The batch comes last, here and while the tree is built: everything is elementwise, in long runs for vector units.

    Attributes:
        exists: (M, B) bool, whether the node is part of the tree.
        expand: (M, B) bool, whether it becomes C(E, T(E)).
        operator: (M, B) int64, UNION or DIFFERENCE.
        kind: (M, B) int64, which primitive it would be.
        size: (3, M, B) that primitive's size, as in `Scene`.
        direction: (3, M, B) unit vector of attach.
        translation: (3, M, B).
        rotation: (3, 3, M, B).
        scale: (3, M, B).
    """

    exists: Tensor
    expand: Tensor
    operator: Tensor
    kind: Tensor
    size: Tensor
    direction: Tensor
    translation: Tensor
    rotation: Tensor
    scale: Tensor


def draw(beta: dict[str, Tensor], uniform: Tensor, depth: int) -> Draws:
    """Turn each sample's fixed uniform numbers into what the grammar needs, by inverse transform.

    Args:
        beta: Blocks of `shape_blocks` by name, each (B, size), as `DecisionSpace.split` gives them.
        uniform: (B, `numbers_needed(depth)`) in (0, 1).
        depth: Levels below the root.
    """
    nodes = 2 ** (depth + 1) - 1
    u = uniform.T.reshape(nodes, NUMBERS_PER_NODE, -1).movedim(1, 0)
    beta = {name: values.T.contiguous() for name, values in beta.items()}
    expand = u[0] < beta["expand"]
    expand[nodes // 2 :] = False
    exists = torch.ones_like(expand)
    for level in range(depth):
        inner = slice(2**level - 1, 2 ** (level + 1) - 1)
        exists[2 * inner.start + 1 : 2 * inner.stop + 1] = (exists[inner] & expand[inner]).repeat_interleave(2, 0)
    kind = torch.zeros_like(expand, dtype=torch.int64)
    for bound in beta["primitive"].cumsum(0)[:3]:
        kind += u[2] > bound

    z = normals(u[3:6])
    mean, deviation = beta["sphere"]
    for other, name in ((CUBE, "cube"), (CONE, "cone"), (TETRAHEDRON, "tetrahedron")):
        mean, deviation = (torch.where(kind == other, beta[name][i], v) for i, v in enumerate((mean, deviation)))
    edge = 4 / math.sqrt(6)  # of a tetrahedron whose corners lie at distance 1
    length = torch.exp(mean + deviation * z[0])
    lengths = [
        torch.where(kind == TETRAHEDRON, edge * length, length),
        torch.where(kind == CONE, torch.exp(beta["cone"][0] + beta["cone"][1] * z[1]), 0.0),
        torch.where(kind == CONE, torch.exp(beta["cone"][2] + beta["cone"][3] * z[2]), 0.0),
    ]
    up = 2 * u[6] - 1
    around = 2 * math.pi * u[7]
    flat = (1 - up**2).sqrt()
    return Draws(
        exists=exists,
        expand=expand & exists,
        operator=torch.where(u[1] < beta["operator"][0], UNION, DIFFERENCE),
        kind=kind,
        size=torch.stack(lengths),
        direction=torch.stack([flat * around.cos(), flat * around.sin(), up]),
        translation=beta["translation"][:3, None] + beta["translation"][3:, None] * normals(u[8:11]),
        rotation=rotations(u[11:14]),
        scale=torch.exp(beta["scale"][:3, None] + beta["scale"][3:, None] * normals(u[14:17])),
    )


def rotations(u: Tensor) -> Tensor:
    """Uniformly random rotation matrices from three uniform numbers (Shoemake 1992), (3, ...) to (3, 3, ...)."""
    a, b, c = u
    s, t = (1 - a).sqrt(), a.sqrt()
    x, y = s * (2 * math.pi * b).sin(), s * (2 * math.pi * b).cos()
    z, w = t * (2 * math.pi * c).sin(), t * (2 * math.pi * c).cos()
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows).unflatten(0, (3, 3))


def shapes(beta: dict[str, Tensor], uniform: Tensor, depth: int) -> Shape:
    """B objects fitted into the view; arguments as for `draw`."""
    return build(draw(beta, uniform, depth), depth)


def build(draws: Draws, depth: int) -> Shape:
    """Apply T along the tree, from the root down, and fit the object into the view."""
    nodes, leaves = 2 ** (depth + 1) - 1, 2**depth
    number = torch.arange(nodes, device=draws.kind.device)[:, None]
    first = number.repeat(1, draws.kind.shape[1])  # leftmost leaf below each node
    for level in reversed(range(depth)):
        inner = slice(2**level - 1, 2 ** (level + 1) - 1)
        left = slice(2 * inner.start + 1, 2 * inner.stop, 2)
        first[inner] = torch.where(draws.expand[inner], first[left], first[inner])
    anchor = first[1::2]
    attached = surface_point(
        draws.kind.gather(0, anchor), _nodes(draws.size, anchor), draws.direction[:, 2::2]
    )  # (3, inner nodes, B)

    # The root's own T is free: its rotation turns the whole object.
    linear = draws.rotation.clone()
    offset = torch.zeros_like(draws.translation)
    turned = draws.rotation * draws.scale
    for level in range(depth):
        inner = slice(2**level - 1, 2 ** (level + 1) - 1)
        left, right = slice(2 * inner.start + 1, 2 * inner.stop, 2), slice(2 * inner.start + 2, 2 * inner.stop + 1, 2)
        frame, origin = linear[:, :, inner], offset[:, inner]
        linear[:, :, left], offset[:, left] = frame, origin
        t = turned[:, :, right]
        linear[:, :, right] = frame[:, :1] * t[0] + frame[:, 1:2] * t[1] + frame[:, 2:] * t[2]
        x, y, z = attached[:, inner] + draws.translation[:, right]
        offset[:, right] = frame[:, 0] * x + frame[:, 1] * y + frame[:, 2] * z + origin

    # A primitive that ends early in the tree takes the leftmost leaf slot below its node.
    kind = torch.full_like(draws.kind[:leaves], EMPTY)
    leaf = torch.zeros_like(draws.kind[:leaves])
    for level in range(depth + 1):
        at = slice(2**level - 1, 2 ** (level + 1) - 1)
        slots = slice(0, leaves, 2 ** (depth - level))
        ends = draws.exists[at] & ~draws.expand[at]
        kind[slots] = torch.where(ends, draws.kind[at], kind[slots])
        leaf[slots] = torch.where(ends, number[at], leaf[slots])
    operator = torch.where(draws.expand, draws.operator, UNION)[: leaves - 1]
    size, linear, offset = (_nodes(v, leaf).movedim((-1, -2), (0, 1)) for v in (draws.size, linear, offset))
    return fitted(Shape(kind.T, size, linear, offset, operator.T))


def union_of_parts(shape: Shape) -> Shape:
    """The same primitives with every difference made a union, fitted anew: never empty."""
    return fitted(Shape(shape.kind, shape.size, shape.linear, shape.offset, torch.full_like(shape.operator, UNION)))


def fitted(shape: Shape) -> Shape:
    """Centre and scale the rectangle around the primitives that add to the solid."""
    low, high = extent(shape.kind, shape.size, shape.linear, shape.offset)
    adds = ((shape.kind != EMPTY) & (polarity(shape.operator) > 0))[..., None]
    low = torch.where(adds, low, math.inf).amin(1)
    high = torch.where(adds, high, -math.inf).amax(1)
    zoom = 2 * FIT / (high - low)[:, :2].amax(-1)
    centre = (high + low) / 2
    linear = shape.linear * zoom[:, None, None, None]
    return Shape(shape.kind, shape.size, linear, (shape.offset - centre[:, None]) * zoom[:, None, None], shape.operator)


def surface_point(kind: Tensor, size: Tensor, direction: Tensor) -> Tensor:
    """Where rays from the origin leave primitives, in their own coordinates.

    Args:
        kind: (...).
        size: (3, ...).
        direction: (3, ...) unit vectors.

    Returns:
        (3, ...) points on the surface.
    """
    x, y, up = direction
    flat = (x * x + y * y).sqrt()
    middle, slope = (size[0] + size[1]) / 2, (size[1] - size[0]) / (2 * size[2])
    side = flat - slope * up
    to_side = torch.where(side > 0, middle / side, math.inf)
    # Face i of the tetrahedron lies opposite corner i, edge / (2 sqrt 6) from the origin.
    facing = torch.stack([-(x * a + y * b + up * c) for a, b, c in TETRAHEDRON_CORNERS]).amax(0) / math.sqrt(3)
    distance = torch.where(kind == SPHERE, size[0], 0.0)
    distance = torch.where(kind == CUBE, size[0] / direction.abs().amax(0), distance)
    distance = torch.where(kind == CONE, torch.minimum(size[2] / up.abs(), to_side), distance)
    distance = torch.where(kind == TETRAHEDRON, size[0] / (2 * math.sqrt(6)) / facing, distance)
    return distance * direction


def _nodes(values: Tensor, index: Tensor) -> Tensor:
    """values (..., M, B) at index (L, B)."""
    return values.gather(-2, index.expand(*values.shape[:-2], *index.shape))
