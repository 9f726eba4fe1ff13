"""The evolution strategy of OpenAI: antithetic directions, weighted by ranks of losses instead of losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal
from ..pairs import probe_pairs


@dataclass(frozen=True)
class CentredRanks:
    """Differences of ranks of L between pairs of probes (cut at L).

    Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", 2017. With directions
    delta_j ~ N(0, I), the 2 J losses are replaced by their ranks, spread evenly from -1/2 for the lowest to 1/2 for the
    highest, so that neither the unit of L nor an outlier counts:

        g = mean_j (rank(beta + sigma delta_j) - rank(beta - sigma delta_j)) / (2 sigma) * delta_j

    Equal losses share the mean of their ranks. Bounds and failures are treated as in `Antithetic`.

    Attributes:
        num_directions: J, pairs of probes.
        sigma: Standard deviation of the probes, as a fraction of each component's range.

    Raises:
        ValueError: One of them is not positive.
    """

    num_directions: int = 4
    sigma: float = 0.05

    def __post_init__(self) -> None:
        """Check both."""
        if self.num_directions < 1 or not self.sigma > 0:
            raise ValueError(f"num_directions and sigma must be positive, not {self.num_directions} and {self.sigma}")

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: probes are made when they are needed."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each pair of probes that worked, (J, d); None if there is none."""
        delta = torch.randn((self.num_directions, len(center)), generator=random, dtype=torch.float64)
        losses, displacement = probe_pairs(env, center, self.sigma * delta)
        if not len(losses):
            return None
        ranks = centred_ranks(losses.flatten()).reshape(-1, 2)
        return ((ranks[:, 0] - ranks[:, 1]) / (2 * self.sigma))[:, None] * (displacement / (2 * self.sigma))


def centred_ranks(losses: Tensor) -> Tensor:
    """Ranks of (P,) losses, from -1/2 for the lowest to 1/2 for the highest; equal ones share their mean."""
    higher, equal = losses[:, None] > losses, losses[:, None] == losses
    ranks = higher.sum(1) + (equal.sum(1) - 1) / 2
    return ranks.to(torch.float64) / max(1, len(losses) - 1) - 0.5
