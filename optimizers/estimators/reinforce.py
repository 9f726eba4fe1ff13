"""REINFORCE over beta: rewards of draws from a Gaussian policy, times their scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal


@dataclass(frozen=True)
class Reinforce:
    """The score function of a Gaussian policy over beta (cut at L).

    How Ruiz, Schulter and Chandraker, "Learning to simulate", ICLR 2019, and, for what is not differentiable, Kar et
    al., "Meta-Sim", ICCV 2019, tune simulators, after Williams, 1992. The policy is N(theta, sigma^2 I) over normalized
    beta. Its mean theta is learned, and is what the environment steps at; sigma is fixed. With draws
    beta_k = theta + sigma eps_k, rewards R_k = -L(beta_k), and the mean reward of the other draws as baseline,

        d E[R] / dtheta ~ mean_k (R_k - mean_{j != k} R_j) * eps_k / sigma

    which is unbiased for the policy's expected reward at any sigma. The weights train, so rewards of different updates
    cannot be compared: all K draws are probed from the same weights and sample seeds, and the baseline knows no others.
    The projection onto the valid set belongs to the reward, not to the policy. A failed probe has no reward and is left
    out.

    Attributes:
        num_probes: K, at least 2.
        sigma: Standard deviation of the policy, as a fraction of each component's range.

    Raises:
        ValueError: `num_probes` or `sigma` are out of range.
    """

    num_probes: int = 4
    sigma: float = 0.05

    def __post_init__(self) -> None:
        """Check both."""
        if self.num_probes < 2 or not self.sigma > 0:
            raise ValueError(
                f"num_probes must be at least 2, one to compare with, and sigma positive, not {self.num_probes} and "
                f"{self.sigma}"
            )

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: probes are made when they are needed."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each draw that worked, (K, d): -d E[R] / dtheta; None if fewer than two worked."""
        eps = torch.randn((self.num_probes, len(center)), generator=random, dtype=torch.float64)
        outcomes = env.probe(env.space.project(env.space.denormalize(center + self.sigma * eps)))
        worked = torch.tensor([outcome.ok for outcome in outcomes])
        losses = torch.tensor([o.loss for o in outcomes if o.loss is not None], dtype=torch.float64)
        count = len(losses)
        if count < 2:
            return None
        baselines = (losses.sum() - losses) / (count - 1)
        return (losses - baselines)[:, None] * eps[worked] / self.sigma
