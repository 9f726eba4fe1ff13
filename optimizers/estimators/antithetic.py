"""Antithetic differences of L itself along random directions of beta: what random search methods know."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal
from ..pairs import probe_pairs


@dataclass(frozen=True)
class Antithetic:
    """Differences of L between pairs of probes (cut at L).

    Algorithm 1 (basic random search) of Mania, Guy and Recht, "Simple random search of static policies is competitive
    for reinforcement learning", NeurIPS 2018. With directions delta_j ~ N(0, I) in fractions of range, all probed from
    the same weights and sample seeds,

        dL/dbeta ~ mean_j (L(beta + sigma delta_j) - L(beta - sigma delta_j)) / (2 sigma) * delta_j

    which is unbiased to first order. `normalize` divides by the standard deviation of the losses instead of by 2 sigma,
    and `best` keeps only the directions along which the lower loss was lowest: with both it is augmented random search
    (their algorithm 2, V1-t), whose learning rate needs no unit of L. Where the projection onto the valid set cuts a
    probe, the displacement that took place replaces 2 sigma delta_j. A failed probe takes its pair out.

    Attributes:
        num_directions: J, pairs of probes.
        sigma: Standard deviation of the probes, as a fraction of each component's range.
        normalize: Whether to divide by the standard deviation of the losses.
        best: How many directions are kept; None for all.

    Raises:
        ValueError: `num_directions`, `sigma` or `best` are out of range.
    """

    num_directions: int = 2
    sigma: float = 0.05
    normalize: bool = False
    best: int | None = None

    def __post_init__(self) -> None:
        """Check all."""
        if self.num_directions < 1 or not self.sigma > 0:
            raise ValueError(f"num_directions and sigma must be positive, not {self.num_directions} and {self.sigma}")
        if self.best is not None and not 1 <= self.best <= self.num_directions:
            raise ValueError(f"best must be None, or 1 to {self.num_directions} directions, not {self.best}")

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: probes are made when they are needed."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each pair of probes that worked, (J, d); None if there is none."""
        delta = torch.randn((self.num_directions, len(center)), generator=random, dtype=torch.float64)
        losses, displacement = probe_pairs(env, center, self.sigma * delta)
        if not len(losses):
            return None
        if self.best is not None:
            lowest = losses.amin(1).argsort(stable=True)[: self.best]
            losses, displacement = losses[lowest], displacement[lowest]
        # Losses that are all equal have no direction, and no spread to divide by.
        unit = losses.std(unbiased=False).clamp(min=1e-12) if self.normalize else 2 * self.sigma
        return ((losses[:, 0] - losses[:, 1]) / unit)[:, None] * (displacement / (2 * self.sigma))
