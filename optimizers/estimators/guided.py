"""Guided evolution strategies: directions that lie half along another estimate of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Estimator, Proposal
from ..pairs import probe_pairs
from .credit import Credit


@dataclass(frozen=True)
class Guided:
    """Antithetic pairs of probes, some of whose spread is along a guide (cut at L).

    Maheswaranathan, Metz, Tucker, Choi and Sohl-Dickstein, "Guided evolutionary strategies: augmenting random search
    with surrogate gradients", ICML 2019. A surrogate gradient is cheap, but biased; here it is what the estimator
    `guide` says, by default credit gradient, to first order in the weights. With its unit vector u and

        delta_j ~ N(0, sigma^2 Sigma),    Sigma = alpha / d * I + (1 - alpha) * u u^T

        g = mean_j (L(beta + delta_j) - L(beta - delta_j)) / (2 sigma^2) * 2 delta_j

    so that, however wrong the guide is, g has a positive product with the gradient in the mean. The paper keeps a
    memory of surrogates that span a subspace; here it is the last one alone. Without a guide, alpha is 1. Bounds and
    failures are treated as in `Antithetic`.

    Attributes:
        guide: Gives the surrogate gradient.
        num_directions: J, pairs of probes.
        sigma: Standard deviation of the probes' distance, as a fraction of each component's range; times sqrt(d) here,
            so that it means the same as in `Antithetic`.
        alpha: Share of the spread that is in all directions alike.

    Raises:
        ValueError: One of them is out of range.
    """

    guide: Estimator = Credit()  # noqa: RUF009, a frozen value
    num_directions: int = 2
    sigma: float = 0.05
    alpha: float = 0.5

    def __post_init__(self) -> None:
        """Check all."""
        if self.num_directions < 1 or not self.sigma > 0 or not 0 <= self.alpha <= 1:
            raise ValueError(
                "num_directions and sigma must be positive, and alpha within 0 to 1, not "
                f"{self.num_directions}, {self.sigma} and {self.alpha}"
            )

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """What the guide needs."""
        return self.guide.propose(env, center, random)

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each pair of probes that worked, (J, d); None if there is none."""
        d, count = len(center), self.num_directions
        rows = self.guide.estimate(env, center, random)
        surrogate = torch.zeros(d, dtype=torch.float64) if rows is None else rows.nanmean(0).nan_to_num(0, 0, 0)
        length = surrogate.norm()
        alpha, u = (self.alpha, surrogate / length) if length > 0 else (1.0, surrogate)
        sigma = self.sigma * math.sqrt(d)
        everywhere = torch.randn((count, d), generator=random, dtype=torch.float64)
        along = torch.randn((count, 1), generator=random, dtype=torch.float64)
        delta = sigma * (math.sqrt(alpha / d) * everywhere + math.sqrt(1 - alpha) * along * u)
        losses, displacement = probe_pairs(env, center, delta)
        if not len(losses):
            return None
        return (losses[:, 0] - losses[:, 1])[:, None] / (2 * sigma**2) * displacement
