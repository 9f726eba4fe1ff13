"""The credit gradient: every training sample tries its own beta, and training says what that did."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv

from .base import GradientOptimizer, total

logger = logging.getLogger(__name__)


class CreditGradient(GradientOptimizer):
    """Ours: antithetic pairs of training samples, compared by what training on them did to L.

    The hybrid gradient cuts the chain rule at the image and extrapolates L from pixel to pixel, which pixels that jump
    (silhouettes, kinds of primitives) defeat. Here it is cut at the weights. To first order in them, with v_k the
    derivative of L by the gradient of training step k,

        L(w_K) ~ L(w_0) + sum_i c_i,    c_i = <grad_w l_i(w_k, X_i), v_k>

    where l_i is sample i's share of the training loss: c_i is its credit (`env.credits`), and it depends on X_i without
    any approximation. So draw the two samples of pair j at beta + delta_j and beta - delta_j, with one sample seed, and

        s_j = (c_j+ - c_j-) / (2 |delta_j|)

    is the slope of one sample's credit along delta_j, for samples that are trained on anyway. The estimate is that of
    the hybrid gradient, over N / 2 pairs (or fewer, each with several sample seeds, their s_j averaged):

        Gaussian     dL/dbeta ~ N D mean_j s_j delta_j / |delta_j|
        coordinate   dL/dbeta_c ~ N mean_{j: delta_j along c} s_j

    which is unbiased to first order in the weights and in sigma. Where a bound cuts a displacement, the one
    that took place replaces 2 delta_j. Then beta <- project(beta - RMSprop(gradient)), and the
    environment steps around it.

    The first update has no pairs behind it and only steps. After a failed step there are no credits: beta goes back
    half way towards the last one that worked.

    Args:
        space: The decision space.
        seed: Decides the directions.
        every: Updates from one gradient to the next; those between only step, all samples at beta.
        directions: "gaussian", N(0, sigma^2 I); or "coordinate", sigma along single components, dealt out evenly.
        sigma: Displacement of the training samples, as a fraction of each component's range.
        pairs: Different displacements; the N / 2 pairs of samples take them in turn, and the slopes of those that share
            one are averaged. None, or more than there are: N / 2, one for each.
        exact: Whether credits come from the full adjoint; else the curvature within the K steps is left out, at a
            quarter of the price.
        clip_pairs: "median" scales each |c_j+ - c_j-| down to twice their median; None leaves them.
        shrink: A component moves only as far as its estimate over the pairs, with so much memory of earlier ones,
            stands out of its noise (see `Trust`; needs two pairs a component); None: always by the rule's step.
        learning_rate: In fractions of range; RMSprop's typical step, see `HybridGradient`.
        rho: Forgetting factor of RMSprop's mean square.
        eps: Added to RMSprop's root mean square of the gradient.
        momentum: Of RMSprop; 0 for none.
        decay_updates: The learning rate falls as 1 / sqrt(1 + t / decay_updates); inf keeps it.
    """

    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        every: int = 1,
        directions: str = "gaussian",
        sigma: float = 0.1,
        pairs: int | None = None,
        exact: bool = False,
        clip_pairs: str | None = None,
        shrink: float | None = 0.0,
        learning_rate: float = 0.01,
        rho: float = 0.9,
        eps: float = 1e-8,
        momentum: float = 0.9,
        decay_updates: float = math.inf,
    ) -> None:
        super().__init__(
            space,
            seed=seed,
            every=every,
            learning_rate=learning_rate,
            decay_updates=decay_updates,
            shrink=shrink,
        )
        if directions not in ("gaussian", "coordinate"):
            raise ValueError(f"unknown directions {directions!r}; choose 'gaussian' or 'coordinate'")
        if clip_pairs not in ("median", None):
            raise ValueError(f"unknown clip_pairs {clip_pairs!r}; choose 'median' or None")
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma}")
        if not (pairs is None or pairs >= 1):
            raise ValueError(f"pairs must be None or at least 1, not {pairs}")
        self.pairs = pairs
        self.directions, self.sigma, self.exact = directions, sigma, exact
        self.clip_pairs = clip_pairs
        self.rule = torch.optim.RMSprop([self.scaled], lr=learning_rate, alpha=rho, eps=eps, momentum=momentum)
        self._taken: Tensor | None = None

    def improve(self, env: DataGenEnv) -> None:
        """One step of RMSprop along the gradient of the environment's last step, if that was in pairs and worked."""
        if self._taken is None or env.outcome is None or not env.outcome.ok:
            return
        slopes = self.pair_slopes(env)
        if slopes.isinf().any():
            logger.warning("update %d goes without a gradient: it is not finite", env.update)
            return
        self._descend(env.samples_per_update / len(slopes) * total(slopes), slopes)

    def gradient(self, env: DataGenEnv) -> Tensor:
        """Estimate of dL/dbeta at the last step of `env`, (d,) per fraction of range."""
        slopes = self.pair_slopes(env)
        return env.samples_per_update / len(slopes) * total(slopes)

    def pair_slopes(self, env: DataGenEnv) -> Tensor:
        """Each displacement's estimate of a sample's part of dL/dbeta, (pairs, d) per fraction of range.

        NaN stands where it has none.

        Raises:
            RuntimeError: The last step was not in pairs.
        """
        if self._taken is None:
            raise RuntimeError("the last step was not in pairs: update() first")
        ahead, behind = env.credits(self.exact).reshape(-1, 2).unbind(-1)
        change = ahead - behind
        if self.clip_pairs == "median":
            bound = 2 * change.abs().median()
            change = change.clamp(-bound, bound)
        which = torch.arange(len(change)) % len(self._taken)
        change = torch.zeros_like(self._taken[:, 0]).scatter_reduce(0, which, change, "mean", include_self=False)
        distance = self._taken.norm(dim=-1)
        slope = torch.where(distance > 0, change / distance.clamp(min=1e-12), 0)
        along = slope[:, None] * self._taken / distance.clamp(min=1e-12)[:, None]
        if self.directions == "gaussian":
            return self.space.dimension * along
        return torch.where(self._taken != 0, along, torch.nan)

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        return super().state_dict() | {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits."""
        super().load_state_dict(state)
        self._taken = state["taken"]

    def _step(self, env: DataGenEnv) -> None:
        # Only the step before an improvement needs pairs.
        if (env.update + 1) % self.every:
            self._taken = None
            super()._step(env)
            return
        most = env.samples_per_update // 2
        delta = self._displacements(most if self.pairs is None else min(self.pairs, most))
        centre = self.scaled.detach()
        pairs = torch.stack([centre + delta, centre - delta], dim=1).clamp(0, 1)
        self._taken = pairs[:, 0] - pairs[:, 1]
        # In turn, so that each is in as many of the K training steps as it can be.
        which = torch.arange(most) % len(pairs)
        env.step_each(self.space.unscale(pairs[which].flatten(0, 1)), share=2)

    def _displacements(self, pairs: int) -> Tensor:
        """(pairs, d)."""
        dimension = self.space.dimension
        if self.directions == "gaussian":
            return self.sigma * torch.randn(pairs, dimension, generator=self.random, dtype=torch.float64)
        order = torch.randperm(dimension, generator=self.random)[torch.arange(pairs) % dimension]
        return self.sigma * torch.eye(dimension, dtype=torch.float64)[order]
