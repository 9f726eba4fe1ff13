"""A generator so simple that everything about it is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from ..decision import DecisionSpace, block
from ..samples import DenseSamples
from .random import normals, uniforms
from .scores import normal

DIMENSION = 3  # of the points that are generated


class QuadraticGenerator:
    """f(beta, r): points x = position + spread * z(r) in three dimensions, float64.

    A sample's image is x (B, 3), its target 0 (B, 3), its mask 1 (B, 1). Derivatives are exact everywhere:
    dx/dposition is the identity, dx/dspread is z(r).

    Attributes:
        space: position (3), spread (1).
        pathwise: Both blocks.
    """

    pathwise: tuple[str, ...] = ("position", "spread")

    def __init__(self) -> None:
        self.space = DecisionSpace([
            block("position", DIMENSION, -1.0, 1.0, 0.0, "1", "mean of the points"),
            block("spread", 1, 0.0, 1.0, 0.5, "1", "their standard deviation along each axis"),
        ])  # fmt: skip

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        """Samples for (B, 4) betas and (B,) seeds."""
        self.space.check_rows(betas, seeds)
        parts = self.space.split(betas.to(seeds.device, torch.float64))
        points = parts["position"] + parts["spread"] * normals(uniforms(seeds, DIMENSION))
        return DenseSamples(points, torch.zeros_like(points), torch.ones_like(points[:, :1]))

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        """See `hgenv.Generator`."""
        self.space.check_rows(betas, seeds)
        spread = self.space.split(betas.to(seeds.device, torch.float64))["spread"]
        by_position, by_spread = normal(normals(uniforms(seeds, DIMENSION)), spread)
        return torch.cat([by_position, by_spread.sum(1, keepdim=True)], 1)
