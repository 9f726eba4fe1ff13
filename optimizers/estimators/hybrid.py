"""The hybrid gradient: backpropagation through training, finite differences through the generator. The paper's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal
from ..directions import Kind, check_kind, coordinate, gaussian
from .differentiated import check_last_steps, clipped, pathwise_components, sample_gradient


@dataclass(frozen=True)
class Hybrid:
    """An analytic gradient of the training times differences of the generator (cut at the image).

    Yang and Deng, "Learning to Generate 3D Training Data through Hybrid Gradient", CVPR 2020, equations 10 to 12, for
    the samples X_i = f(beta, r_i) of the last step. Directions (10), differences (11) along each of them,

        s_ij = <dL/dX_i, f(beta + delta_ij, r_i) - f(beta - delta_ij, r_i)> / (2 |delta_ij|),

    dL/dX_i being that of the unrolled training, and the chain rule (12), for D differenced components,

        Gaussian     dL/dbeta ~ sum_i D mean_j s_ij delta_ij / |delta_ij|
        coordinate   dL/dbeta_c ~ N mean_{ij: delta_ij along c} s_ij

    The paper leaves out the factor D, which its RMSprop cancels. Here it stays, because with it the estimate is
    unbiased to first order, as it must be to stand beside pathwise derivatives. Where a bound cuts a difference, the
    displacement that took place replaces 2 delta.

    Attributes:
        directions: "gaussian", N(0, sigma^2 I) as in the paper; or "coordinate", sigma along single components, dealt
            out so that all components get as equal a number of samples as possible.
        num_directions: J, directions per sample; of single components, at most all. 2 N J samples are rendered.
        shared: Whether all samples are displaced along the same directions, as in the paper; else each along its own.
        sigma: Displacement, as a fraction of each component's range.
        last_steps: Training steps, the last ones, whose samples are differentiated; None, or more than there are, for
            all K as in the paper. Fewer samples stand for all.
        curvature: Whether dL/dX_i has how a training step changes the gradients of those after it, as in the paper;
            else it is cheaper, and within single precision the same in the last step.
        pathwise: Whether the generator's pathwise blocks get derivatives by autograd in place of differences.
        clip_samples: Whether |dL/dX_i| is cut at the median of all samples.

    Raises:
        ValueError: A setting is out of range.
    """

    directions: Kind = "coordinate"
    num_directions: int = 8
    shared: bool = False
    sigma: float = 0.05
    last_steps: int | None = 1
    curvature: bool = False
    pathwise: bool = True
    clip_samples: bool = True

    def __post_init__(self) -> None:
        """Check all."""
        check_kind(self.directions)
        if self.num_directions < 1 or not self.sigma > 0:
            raise ValueError(f"num_directions and sigma must be positive, not {self.num_directions} and {self.sigma}")
        check_last_steps(self.last_steps)

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: all samples are made at the center."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each differentiated sample of the last step, (N, d); None if that failed."""
        gradient = sample_gradient(env, self.last_steps, self.curvature)
        if gradient is None:
            return None
        pathwise = pathwise_components(env) & self.pathwise
        rows = torch.zeros(len(gradient), len(center), dtype=torch.float64)
        if not pathwise.all():
            delta = self.draw((~pathwise).nonzero().squeeze(-1), len(gradient), len(center), random)
            slopes = gradient.slopes(delta)
            along = slopes.value[..., None] * torch.nn.functional.normalize(slopes.displacement, dim=-1)
            if self.directions == "gaussian":
                rows += (~pathwise).sum() * along.mean(0)
            else:
                rows += torch.where((delta != 0).any(0) | pathwise, along.sum(0), torch.nan)
        if pathwise.any():
            rows += gradient.pathwise()
        return env.problem.num_samples * (clipped(rows, gradient) if self.clip_samples else rows)

    def draw(self, components: Tensor, samples: int, dimension: int, random: torch.Generator) -> Tensor:
        """Directions (J, N, d) along some of the components, equation 10."""
        own = 1 if self.shared else samples
        if self.directions == "gaussian":
            delta = gaussian(self.num_directions * own, components, dimension, self.sigma, random)
            return delta.unflatten(0, (self.num_directions, own)).expand(-1, samples, -1)
        count = min(self.num_directions, len(components))
        delta = coordinate(own * count, components, dimension, self.sigma, random)
        return delta.unflatten(0, (own, count)).transpose(0, 1).expand(-1, samples, -1)
