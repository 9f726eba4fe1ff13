"""Basic random search: antithetic differences of L itself along random directions of beta."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv

from .base import GradientOptimizer


class BasicRandomSearch(GradientOptimizer):
    """Basic random search (BRS), with augmented random search's division by the spread of losses as an option.

    Algorithm 1 of Mania, Guy and Recht, "Simple random search of static policies is competitive for reinforcement
    learning", NeurIPS 2018. With directions delta_j ~ N(0, I) in scaled units, all probed from the same weights and
    sample seeds,

        dL/dbeta ~ 1/J sum_j (L(beta + sigma delta_j) - L(beta - sigma delta_j)) / (2 sigma) * delta_j

    which is unbiased to first order. `normalize` divides by the standard deviation of the 2 J losses instead of by
    2 sigma, as augmented random search (algorithm 2, V1) does, so that the learning rate needs no unit of L. Where
    the projection onto the valid set cuts a probe, the displacement that took place replaces 2 sigma delta_j. A
    failed probe takes its pair out; if none is left, beta stays. Then the environment steps; after a failed step beta
    goes back half way towards the last one that worked.

    Args:
        space: The decision space.
        seed: Decides the directions.
        every: Updates from one gradient to the next; those between only step.
        pairs: J, pairs of probes an update.
        sigma: Standard deviation of the probes, as a fraction of each component's range.
        rule: "sgd" as in the paper, or "rmsprop", as for the hybrid gradient.
        normalize: Whether to divide by the standard deviation of the losses.
        learning_rate: In fractions of range: RMSprop's typical step; under sgd with `normalize`, the step for a
            difference of one standard deviation; under plain sgd, what the gradient is multiplied by.
        rho: Forgetting factor of RMSprop's mean square.
        eps: Added to RMSprop's root mean square of the gradient.
        momentum: Of the update rule; 0 for none.
        decay_updates: The learning rate falls as 1 / sqrt(1 + t / decay_updates); inf keeps it.
    """

    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        every: int = 1,
        pairs: int = 2,
        sigma: float = 0.05,
        rule: str = "rmsprop",
        normalize: bool = False,
        learning_rate: float = 0.015,
        rho: float = 0.9,
        eps: float = 1e-8,
        momentum: float = 0.0,
        decay_updates: float = math.inf,
    ) -> None:
        super().__init__(space, seed=seed, every=every, learning_rate=learning_rate, decay_updates=decay_updates)
        if pairs < 1 or not sigma > 0:
            raise ValueError(f"pairs and sigma must be positive, not {pairs} and {sigma}")
        self.pairs, self.sigma, self.normalize = pairs, sigma, normalize
        if rule == "sgd":
            self.rule = torch.optim.SGD([self.scaled], lr=learning_rate, momentum=momentum)
        elif rule == "rmsprop":
            self.rule = torch.optim.RMSprop([self.scaled], lr=learning_rate, alpha=rho, eps=eps, momentum=momentum)
        else:
            raise ValueError(f"unknown rule {rule!r}; choose 'sgd' or 'rmsprop'")

    def improve(self, env: DataGenEnv) -> None:
        """Probe and descend."""
        gradient = self.gradient(env)
        if gradient is not None:
            self._descend(gradient)

    def gradient(self, env: DataGenEnv) -> Tensor | None:
        """Estimate of dL/dbeta of the coming step, (d,) per fraction of range; None if every pair failed."""
        delta = torch.randn((self.pairs, self.space.dimension), generator=self.random, dtype=torch.float64)
        centre = self.scaled.detach()
        ahead, behind = self._valid(centre + self.sigma * delta), self._valid(centre - self.sigma * delta)
        outcomes = env.probe(torch.cat([ahead, behind]))
        pairs = list(zip(outcomes[: self.pairs], outcomes[self.pairs :], strict=True))
        kept = torch.tensor([plus.ok and minus.ok for plus, minus in pairs])
        if not kept.any():
            return None
        losses = torch.tensor([(p.loss, m.loss) for p, m in pairs if p.ok and m.ok], dtype=torch.float64)
        rise = losses[:, 0] - losses[:, 1]
        taken = (self.space.scale(ahead) - self.space.scale(behind))[kept] / (2 * self.sigma)
        # Losses that are all equal have no direction, and no spread to divide by.
        unit = losses.std(unbiased=False).clamp(min=1e-12) if self.normalize else 2 * self.sigma
        return ((rise / unit)[:, None] * taken).mean(0)
