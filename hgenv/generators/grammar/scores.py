"""d log p / d beta of the grammar's draws, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from ...rendering.csg.scene import CONE, CUBE, SPHERE, TETRAHEDRON, UNION
from ..random import normals
from ..scores import bernoulli, categorical, normal
from .layout import NUMBERS_PER_NODE
from .reference import draw


def log_prob_score(beta: dict[str, Tensor], uniform: Tensor, depth: int) -> dict[str, Tensor]:
    """By block, (B, size) each; arguments as for `reference.draw`.

    Draws that no object is made of have no score: the kind of an inner node, the operator of a leaf, the translation
    and scale of whoever is no right operand.
    """
    nodes = 2 ** (depth + 1) - 1
    drawn = draw(beta, uniform, depth)
    z = normals(uniform.T.reshape(nodes, NUMBERS_PER_NODE, -1).movedim(1, 0))
    b = {name: values.T[:, None] for name, values in beta.items()}  # (size, 1, B)
    inner = torch.zeros_like(drawn.exists)
    inner[: nodes // 2] = True
    right = drawn.exists.clone()
    right[0] = right[1::2] = False
    leaf = drawn.exists & ~drawn.expand

    def total(score: Tensor, where: Tensor) -> Tensor:
        return (score * where).sum(0)

    def choice(name: str, which: Tensor, where: Tensor) -> Tensor:
        return total(categorical(which, beta[name].expand(nodes, -1, -1)), where[..., None])

    def lengths(name: str, kind: int, rows: tuple[tuple[int, int], ...]) -> Tensor:
        """Of primitives of a kind: a row of random numbers, and the component that is its mean."""
        found = torch.zeros_like(beta[name])
        for row, mean in rows:
            for i, score in enumerate(normal(z[row], b[name][mean + 1])):
                found[:, mean + i] += total(score, leaf & (drawn.kind == kind))
        return found

    def axes(name: str, first: int) -> Tensor:
        """Means along three axes, then standard deviations."""
        both = normal(z[first : first + 3], b[name][3:])
        return torch.cat([(score * right).sum(1) for score in both]).T

    return {
        "primitive": choice("primitive", drawn.kind, leaf),
        "operator": choice("operator", (drawn.operator != UNION).long(), drawn.expand),
        "expand": total(bernoulli(drawn.expand, b["expand"][0]), drawn.exists & inner)[:, None],
        "translation": axes("translation", 8),
        "scale": axes("scale", 14),
        "sphere": lengths("sphere", SPHERE, ((3, 0),)),
        "cube": lengths("cube", CUBE, ((3, 0),)),
        "cone": lengths("cone", CONE, ((3, 0), (4, 0), (5, 2))),
        "tetrahedron": lengths("tetrahedron", TETRAHEDRON, ((3, 0),)),
    }
