"""The credit gradient: every training sample tries its own beta, and training says what that did. Ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal
from ..directions import Kind, check_kind, coordinate, gaussian


@dataclass(frozen=True)
class Credit:
    """Antithetic pairs of training samples, compared by what training on them did to L (cut at the weights).

    The hybrid gradient cuts the chain rule at the image and extrapolates L from pixel to pixel, which pixels that jump
    (silhouettes, kinds of primitives) defeat. Here it is cut at the weights. To first order in them, with v_k the
    derivative of L by the gradient of training step k,

        L(w_K) ~ L(w_0) + sum_i c_i,    c_i = <grad_w l_i(w_k, X_k), v_k>

    where l_i is sample i's share of the training loss: c_i is its influence, and it depends on X_i without any
    approximation. So draw the two samples of pair j at beta + delta_j and beta - delta_j, with one sample seed, and

        s_j = (c_j+ - c_j-) / (2 |delta_j|)

    is the slope along delta_j of one sample's influence, for samples that are trained on anyway. A pair's estimate is

        Gaussian     dL/dbeta ~ N d s_j delta_j / |delta_j|
        coordinate   dL/dbeta_c ~ N s_j, for delta_j along c

    unbiased to first order in the weights and in sigma. Where a bound cuts a displacement, the one that took place
    replaces 2 delta_j.

    Attributes:
        directions: "gaussian", N(0, sigma^2 I); or "coordinate", sigma along single components, dealt out evenly.
        sigma: Displacement of the training samples, as a fraction of each component's range.
        curvature: Whether influence has how a training step changes the gradients of those after it, at four times the
            price.
        clip_pairs: Whether |c_j+ - c_j-| is cut at twice the median of all pairs.

    Raises:
        ValueError: There are no such directions, or `sigma` is not positive.
    """

    directions: Kind = "gaussian"
    sigma: float = 0.1
    curvature: bool = False
    clip_pairs: bool = False

    def __post_init__(self) -> None:
        """Check them."""
        check_kind(self.directions)
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}")

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """N / 2 pairs of samples around the center.

        Raises:
            ValueError: The samples of a training step cannot be paired.
        """
        if env.problem.batch_size % 2:
            raise ValueError(
                f"the credit gradient compares pairs of samples within a training step: batch_size must be even, not "
                f"{env.problem.batch_size}"
            )
        draw = gaussian if self.directions == "gaussian" else coordinate
        pairs, d = env.problem.num_samples // 2, len(center)
        delta = draw(pairs, torch.arange(d), d, self.sigma, random)
        return Proposal(torch.stack([center + delta, center - delta], 1).clamp(0, 1).flatten(0, 1), share=2)

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each pair of the last step, (N / 2, d); None if that failed or was not in pairs."""
        last = env.last
        if last is None or not last.outcome.ok or not torch.equal(last.seeds[0::2], last.seeds[1::2]):
            return None
        betas = env.space.normalize(last.betas)
        displacement = betas[0::2] - betas[1::2]
        ahead, behind = last.influence(curvature=self.curvature).reshape(-1, 2).unbind(-1)
        change = ahead - behind
        if self.clip_pairs:
            bound = 2 * change.abs().median()
            change = change.clamp(-bound, bound)
        distance = displacement.norm(dim=-1)
        slope = torch.where(distance > 0, change / distance.clamp(min=1e-12), 0)
        along = len(betas) * slope[:, None] * displacement / distance.clamp(min=1e-12)[:, None]
        if self.directions == "gaussian":
            return len(center) * along
        return torch.where(displacement != 0, along, torch.nan)
