"""What the grammar takes and gives: blocks of beta, random numbers, shapes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...decision import Block, block

# Random numbers of a node: expand, operator, primitive, 3 sizes, 2 attach, 3 translation, 3 rotation, 3 scale.
NUMBERS_PER_NODE = 17


def shape_blocks() -> list[Block]:
    """The 29 components of beta that appendix A.2 lists."""
    spread = "mean and standard deviation of the logarithm of the"
    return [
        block("primitive", 4, 0, 1, 0.25, "1", "sphere, cube, truncated cone, tetrahedron", simplex=True, floor=0.05),
        block("operator", 2, 0, 1, 0.5, "1", "union, difference", simplex=True, floor=0.05),
        block("expand", 1, 0, 1, 0.5, "1", "E becomes C(E, T(E)) rather than P", floor=0.05),
        block(
            "translation", 6, (-1, -1, -1, 0, 0, 0), 1, (0, 0, 0, 0.3, 0.3, 0.3), "length",
            "mean x, y, z and standard deviation x, y, z of rand_translate",
        ),
        block(
            "scale", 6, (-1, -1, -1, 0, 0, 0), (1, 1, 1, 0.5, 0.5, 0.5), (0, 0, 0, 0.2, 0.2, 0.2), "log",
            "mean x, y, z and standard deviation x, y, z of the logarithm of rand_scale",
        ),
        block("sphere", 2, (-1, 0), (1, 0.5), (0, 0.2), "log length", f"{spread} radius"),
        block("cube", 2, (-1, 0), (1, 0.5), (0, 0.2), "log length", f"{spread} half edge"),
        block(
            "cone", 4, (-1, 0, -1, 0), (1, 0.5, 1, 0.5), (0, 0.2, 0, 0.2), "log length",
            f"{spread} two radii, then of the half height",
        ),
        block("tetrahedron", 2, (-1, 0), (1, 0.5), (0, 0.2), "log length", f"{spread} distance from centre to corner"),
    ]  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """B objects fitted into the view: the geometric part of a `Scene`, with the same shapes and meaning."""

    kind: Tensor
    size: Tensor
    linear: Tensor
    offset: Tensor
    operator: Tensor

    def __getitem__(self, rows: Tensor) -> Shape:
        return Shape(self.kind[rows], self.size[rows], self.linear[rows], self.offset[rows], self.operator[rows])


def numbers_needed(depth: int) -> int:
    """Random numbers a sample owns for its shape."""
    return NUMBERS_PER_NODE * (2 ** (depth + 1) - 1)
