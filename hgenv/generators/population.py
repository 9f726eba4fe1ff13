"""A population of CSG trees, every primitive of which is in beta.

After Yang and Deng, "Shape from Shading through Shape Evolution", CVPR 2018, whose shapes are not drawn from a grammar.

A tree has S = 2**depth slots for primitives, the leaves of a complete binary tree in the order of `Scene`. Slot l joins
what comes before it by a union or a difference: by the node at which its way up meets that of slot l - 1. So the first
half of the slots is a tree of its own, and so is the second half, and slot S / 2 says how they are joined.

| block | of a slot | how it is read |
| --- | --- | --- |
| presence | whether there is a primitive; slot 0 has one, and no number | 0.5 or more: yes |
| operation | how it is joined; slot 0 is not, and has no number | 0.5 or more: difference, else union |
| kind | which primitive | below 1/4 sphere, below 1/2 cube, below 3/4 cone, else tetrahedron |
| rotation | a rotation vector | the axis times the angle in half turns |
| translation | of its centre | |
| scale | logarithms of the factors along its own axes | |
| taper | a cone's radius at the top over that at the bottom | 1 is a cylinder; below 0.05 is 0.05 |

Before they are scaled, primitives have proportions as the grammar's: radius, half edge, half height, and distance from
centre to corner are `UNIT`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce

import torch
from torch import Tensor

from ..decision import Block, DecisionSpace, block
from ..rendering.csg.scene import (
    CONE,
    CUBE,
    DIFFERENCE,
    EMPTY,
    SPHERE,
    TETRAHEDRON,
    TETRAHEDRON_CORNERS,
    UNION,
    Renderer,
)
from . import grammar
from .grammar.reference import fitted, rotations
from .shapes import CSGGenerator, OneLight

NO, YES = 0.25, 0.75  # what presence and operation are when they are set: far from 0.5, and from their bounds
WIDTHS = {"presence": 1, "operation": 1, "kind": 1, "rotation": 3, "translation": 3, "scale": 3, "taper": 1}
MOST = 1024  # slots of a population, with 13 numbers each: a run writes all of beta with every update
UNIT = 2 / 3  # of length, so that what is attached has its centre within [-1, 1]; only ratios are seen
SHARPEST = 0.05  # taper
NUMBERS = 4  # that a sample owns: which member, and 3 for its rotation
FIRST = ((SPHERE, 1.0), (CONE, 1.0), (CUBE, 1.0), (CONE, 0.0))  # sphere, cylinder, cube, cone: those of Yang and Deng
EDGE = 4 / math.sqrt(6)  # of a tetrahedron over the distance of its corners from the centre


@dataclass(frozen=True)
class Trees:
    """N trees of S slots as numbers of a decision vector, see the module.

    Attributes:
        presence: (N, S); that of slot 0 is not looked at.
        operation: (N, S); that of slot 0 is not looked at.
        kind: (N, S).
        rotation: (N, S, 3) half turns.
        translation: (N, S, 3).
        scale: (N, S, 3).
        taper: (N, S).
    """

    presence: Tensor
    operation: Tensor
    kind: Tensor
    rotation: Tensor
    translation: Tensor
    scale: Tensor
    taper: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | Tensor) -> Trees:
        return Trees(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def slots(self) -> int:
        """S."""
        return self.kind.shape[1]

    @property
    def present(self) -> Tensor:
        """(N, S) bool, which slots have a primitive."""
        present = self.presence >= 0.5
        present[:, 0] = True
        return present

    @property
    def kinds(self) -> Tensor:
        """(N, S) int64, the primitives as in `Scene`."""
        return (4 * self.kind).long().clamp(SPHERE, TETRAHEDRON).where(self.present, EMPTY)

    @property
    def operators(self) -> Tensor:
        """(N, S - 1) int64 as in `Scene`. What has nothing before it is not taken away from anything."""
        present, subtracts = self.present, self.operation >= 0.5
        operators = torch.full_like(present[:, 1:], UNION, dtype=torch.int64)
        for slot in range(1, self.slots):
            width = slot & -slot  # slots on either side of the node
            node = self.slots // (2 * width) - 1 + slot // (2 * width)
            before = present[:, slot - width : slot].any(1)
            operators[:, node] = (subtracts[:, slot] & before).long() * DIFFERENCE
        return operators

    @property
    def sizes(self) -> Tensor:
        """(N, S, 3) as in `Scene`."""
        kinds, unit = self.kinds, torch.full_like(self.taper, UNIT)
        cone = kinds == CONE
        first = unit.masked_fill(kinds == TETRAHEDRON, UNIT * EDGE)
        return torch.stack([first, UNIT * self._tops * cone, unit * cone], -1)

    @property
    def linear(self) -> Tensor:
        """(N, S, 3, 3) as in `Scene`: scaled, then rotated."""
        return rotation_matrices(self.rotation) * self.scale.exp()[..., None, :]

    @property
    def _tops(self) -> Tensor:
        """(N, S), the radius of a cone's top over that of its bottom."""
        return self.taper.clamp(min=SHARPEST)

    def inside(self, points: Tensor) -> Tensor:
        """Which points lie inside of which solid.

        Args:
            points: (N, P, 3) in the coordinates of `translation`.

        Returns:
            (N, P) bool.
        """
        away = points[:, None] - self.translation[:, :, None]  # (N, S, P, 3)
        back = rotation_matrices(self.rotation) / (UNIT * self.scale.exp())[..., None, :]
        x, y, z = (away @ back).movedim(-1, 0).contiguous()  # in each primitive's own coordinates
        corners = [(a * x + b * y + c * z) / math.sqrt(3) for a, b, c in TETRAHEDRON_CORNERS]
        radius = 1 + (self._tops[..., None] - 1) * (z + 1) / 2
        solids = {
            SPHERE: x * x + y * y + z * z <= 1,
            CUBE: torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) <= 1,
            CONE: (z.abs() <= 1) & (x * x + y * y <= radius**2),
            TETRAHEDRON: reduce(torch.minimum, corners) >= -1 / 3,
        }
        kinds, operators = self.kinds[..., None], self.operators
        found = reduce(torch.bitwise_or, [(kinds == kind) & solid for kind, solid in solids.items()])
        while found.shape[1] > 1:
            nodes = found.shape[1] // 2
            left, right = found[:, 0::2], found[:, 1::2]
            taken = operators[:, nodes - 1 : 2 * nodes - 1, None] == DIFFERENCE
            found = torch.where(taken, left & ~right, left | right)
        return found[:, 0]


def population_blocks(members: int, depth: int) -> list[Block]:
    """The blocks of a population: member by member, slot by slot. It begins with primitives alone."""
    slots = 2**depth
    n, later = members * slots, members * (slots - 1)
    first = [FIRST[member % len(FIRST)] for member in range(members)]
    kind = [kind / 4 + 0.125 for kind, _ in first for _ in range(slots)]
    taper = [taper for _, taper in first for _ in range(slots)]
    # Who is absent waits at a corner of a cube, to be seen once it is there.
    corners = [(0.4 if slot >> axis & 1 else -0.4) if slot else 0.0 for slot in range(slots) for axis in range(3)]
    smaller = [-0.7 if slot else 0.0 for slot in range(slots) for _ in range(3)]
    every = "of every slot of every member"
    blocks = [
        block("kind", n, 0, 1, kind, "1", f"sphere < 1/4, cube < 1/2, cone < 3/4, tetrahedron, {every}"),
        block("rotation", 3 * n, -1, 1, 0, "half turn", f"rotation vector {every}"),
        block("translation", 3 * n, -1, 1, corners * members, "length", f"centre x, y, z {every}"),
        block("scale", 3 * n, -1, 1, smaller * members, "log", f"logarithm of the scale along its x, y, z {every}"),
        block("taper", n, 0, 1, taper, "1", f"radius of a cone's top over that of its bottom {every}"),
    ]
    but = "of every slot but the first of every member"
    return [
        block("presence", later, 0, 1, NO, "1", f"a primitive is there from 0.5 on, {but}"),
        block("operation", later, 0, 1, NO, "1", f"a difference from what is before from 0.5 on, else a union, {but}"),
        *blocks,
    ]


def population_form(space: DecisionSpace) -> tuple[int, int] | None:
    """Members and slots of the population that a space holds; None if it holds none."""
    sizes = {b.name: b.size for b in space.blocks}
    if not sizes.keys() >= WIDTHS.keys():
        return None
    members = sizes["kind"] - sizes["operation"]
    slots = sizes["kind"] // members if members > 0 else 0
    if slots < 2 or slots & (slots - 1):
        return None
    expected = {name: width * members * (slots - (name in ("presence", "operation"))) for name, width in WIDTHS.items()}
    return (members, slots) if expected.items() <= sizes.items() else None


def unpack(blocks: Mapping[str, Tensor], slots: int) -> Trees:
    """The trees in the blocks of betas, (..., size) by name: those of the first beta, then those of the next."""
    found = {}
    for name, width in WIDTHS.items():
        if name in ("presence", "operation"):
            found[name] = torch.nn.functional.pad(blocks[name].reshape(-1, slots - 1), (1, 0))
        else:
            found[name] = blocks[name].reshape(-1, slots, *(width,) * (width > 1))
    return Trees(**found)


def pack(trees: Trees) -> dict[str, Tensor]:
    """The blocks of one beta, by name: the inverse of `unpack`."""
    first = {"presence": trees.presence[:, 1:], "operation": trees.operation[:, 1:]}
    return {name: first.get(name, getattr(trees, name)).reshape(-1) for name in WIDTHS}


def transformed(trees: Trees, rotation: Tensor, factor: Tensor, shift: Tensor) -> Trees:
    """The trees scaled by factors (N,), then turned by rotation vectors (N, 3) in half turns, then shifted (N, 3)."""
    matrix = rotation_matrices(rotation)[:, None]
    moved = (matrix * trees.translation[..., None, :]).sum(-1) * factor[:, None, None] + shift[:, None]
    return replace(
        trees,
        rotation=composed(rotation[:, None], trees.rotation),
        translation=moved,
        scale=trees.scale + factor.log()[:, None, None],
    )


def composed(second: Tensor, first: Tensor) -> Tensor:
    """One rotation after another, as vectors (..., 3) in half turns; what comes out is no longer than 1."""

    def quaternion(vector: Tensor) -> tuple[Tensor, Tensor]:
        half = vector.norm(dim=-1, keepdim=True) / 2
        return (math.pi * half).cos(), math.pi / 2 * vector * torch.sinc(half)

    (a, u), (b, v) = quaternion(second), quaternion(first)
    real = a * b - (u * v).sum(-1, keepdim=True)
    rest = a * v + b * u + torch.linalg.cross(*torch.broadcast_tensors(u, v))
    rest = torch.where(real < 0, -rest, rest)
    length = rest.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, real.abs())
    return rest / math.pi * torch.where(length > 1e-12, angle / length.clamp(min=1e-12), 2.0)


def rotation_matrices(vector: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) in half turns, by Rodrigues' formula."""
    vector = math.pi * vector
    angle = vector.norm(dim=-1)[..., None]
    x, y, z = (vector / angle.clamp(min=1e-12)).contiguous().unbind(-1)
    c, s = angle.cos()[..., 0], angle.sin()[..., 0]
    d = 1 - c
    rows = [
        c + d * x * x, d * x * y - s * z, d * x * z + s * y,
        d * x * y + s * z, c + d * y * y, d * y * z - s * x,
        d * x * z - s * y, d * y * z + s * x, c + d * z * z,
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


class PopulationGenerator(CSGGenerator):
    """f(beta, r): an image of a random member of a population of CSG trees, in a random pose and light.

    Each member is as likely as any other. Pose, light and fitting into the view are those of `ShapeGenerator`.

    Attributes:
        space: 102 components a member at depth 3; 8 more with the render block.
        members: How many trees there are.
        depth: Levels of a tree; 2**depth slots.

    Args:
        renderer: See `CSGGenerator`.
        members: The attribute.
        depth: The attribute.
        lit: See `OneLight`.
        light: See `OneLight`.

    Raises:
        ValueError: A number, a depth, a name or a value in `light` that is out of range.
    """

    def __init__(
        self,
        renderer: Renderer | None = None,
        *,
        members: int = 16,
        depth: int = 3,
        lit: bool = False,
        light: Mapping[str, float | Sequence[float]] | None = None,
    ) -> None:
        if not 1 <= depth <= 5:
            raise ValueError(f"depth must be between 1 and 5 (2 to 32 primitives), not {depth}")
        if not 1 <= members <= MOST >> depth:
            raise ValueError(
                f"members must be between 1 and {MOST >> depth} at depth {depth} ({MOST} primitives), not {members}"
            )
        super().__init__(population_blocks(members, depth), NUMBERS, renderer, OneLight(lit, light))
        self.members, self.depth = members, depth

    def _shapes(self, blocks: dict[str, Tensor], uniform: Tensor) -> grammar.Shape:
        """The member that each sample picks, turned at random."""
        row = torch.arange(len(uniform), device=uniform.device)
        which = (uniform[:, 0] * self.members).long()
        picked = {name: blocks[name].unflatten(1, (self.members, -1))[row, which] for name in WIDTHS}
        trees = unpack(picked, 2**self.depth)
        pose = rotations(uniform[:, 1:].T.contiguous()).movedim(-1, 0)[:, None]  # (B, 1, 3, 3)
        linear = sum(pose[..., i, None] * trees.linear[..., i, None, :] for i in range(3))
        offset = sum(pose[..., i] * trees.translation[..., i, None] for i in range(3))
        assert isinstance(linear, Tensor)
        assert isinstance(offset, Tensor)
        return fitted(grammar.Shape(trees.kinds, trees.sizes, linear, offset, trees.operators))
