"""SPSA: all components of beta are moved at once, each up or down by a coin's toss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal
from ..directions import rademacher
from ..pairs import probe_pairs


@dataclass(frozen=True)
class SPSA:
    """Simultaneous perturbation, Rademacher pairs that draw together (cut at L).

    Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", IEEE
    Transactions on Automatic Control, 1992; gains as in his "Implementation of the simultaneous perturbation algorithm
    for stochastic optimization", IEEE Transactions on Aerospace and Electronic Systems, 1998. With Delta_i = +1 or -1,
    and c_k = c / (k + 1)^gamma at update k,

        dL/dbeta_i ~ (L(beta + c_k Delta) - L(beta - c_k Delta)) / (2 c_k Delta_i)

    Its other gains a_k are those of the rule `PowerSGD`. Bounds and failures are treated as in `Antithetic`.

    Attributes:
        num_directions: Pairs of probes that are averaged; 1 is Spall's basic form.
        sigma: c, as a fraction of each component's range.
        power: gamma; 0.101 is the slowest fall with which the method is known to converge.

    Raises:
        ValueError: One of them is out of range.
    """

    num_directions: int = 1
    sigma: float = 0.05
    power: float = 0.101

    def __post_init__(self) -> None:
        """Check all."""
        if self.num_directions < 1 or not self.sigma > 0 or not self.power >= 0:
            raise ValueError(
                f"num_directions and sigma must be positive, and power at least 0, not {self.num_directions}, "
                f"{self.sigma} and {self.power}"
            )

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: probes are made when they are needed."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each pair of probes that worked, (J, d); None if there is none."""
        c = self.sigma / (env.update + 1) ** self.power
        losses, displacement = probe_pairs(env, center, rademacher(self.num_directions, len(center), c, random))
        if not len(losses):
            return None
        return ((losses[:, 0] - losses[:, 1]) / (2 * c))[:, None] * (displacement / (2 * c))
