"""AutoSimulate (Behl, Baydin, Gal, Torr and Vineet, ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal
from .score_influence import less_the_others, log_prob_score


@dataclass(frozen=True)
class AutoSimulate:
    """Scores times what training on a sample to the end would do to L (cut at the weights).

    With lambda = (H + damping)^-1 grad_w L at the last weights, H the Hessian of the training loss, and the score
    s_i = d log p(x_i | beta) / d beta,

        dL/dbeta ~ -mean_i (<lambda, grad_w l_i> - b_i) s_i

    b_i, the mean over the others of its batch, is ours: without a baseline the noise is several times larger. Score
    influence has the adjoint of the training steps that were really made in lambda's place.

    The paper's recipe: weights are carried on, a few Hessian-vector products stand for the inverse, gradient descent
    moves beta. What it leaves open (how many products, which damping, rates) is set by what works here.

    Components whose draws have no score (`Generator.log_prob_score`) are NaN.

    Attributes:
        products: Hessian-vector products of an estimate.
        damping: Of the Hessian, as a fraction of the curvature along grad_w L.

    Raises:
        ValueError: `products` is not positive, or `damping` is negative.
    """

    products: int = 4
    damping: float = 0.1

    def __post_init__(self) -> None:
        """Check both."""
        if self.products < 1 or not self.damping >= 0:
            raise ValueError(
                f"products must be at least 1 and damping at least 0, not {self.products} and {self.damping}"
            )

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: all samples are made at the center."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each of the N samples, (N, d); None if the last step failed.

        Raises:
            UnsuitableError: The generator has no scores.
        """
        score, last, size = log_prob_score(env), env.last, env.problem.batch_size
        if last is None or not last.outcome.ok:
            return None
        influence = last.newton_influence(products=self.products, damping=self.damping)
        centred = less_the_others(influence.reshape(-1, size)).flatten()
        return size * centred[:, None] * score(last.betas, last.seeds, last.drawn_at)
