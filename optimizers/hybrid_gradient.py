"""The hybrid gradient: backpropagation through training, finite differences through the generator."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from hgenv.batch import Batch
from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv
from hgenv.rendering import RenderError

from .base import GradientOptimizer, total

logger = logging.getLogger(__name__)


class HybridGradient(GradientOptimizer):
    """The paper's optimizer: an exact gradient of the training, differences of the generator, RMSprop.

    Equations 10-12 and appendix A.2 of Yang and Deng, "Learning to Generate Synthetic 3D Training Data through Hybrid
    Gradient", CVPR 2020. The chain rule is cut at the training samples X_i = f(beta, r_i), equation 10:

        dL/dbeta = sum_i dL/dX_i dX_i/dbeta

    dL/dX_i is by the adjoint of the K training steps (`env.sample_gradient`). dX_i/dbeta is differenced along
    random directions delta, equations 11-12: with the slope (`env.slopes`)

        s_ij = <dL/dX_i, f(beta + delta_ij, r_i) - f(beta - delta_ij, r_i)> / (2 |delta_ij|)

    the estimate is

        Gaussian     dL/dbeta ~ D mean_j sum_i s_ij delta_ij / |delta_ij|
        coordinate   dL/dbeta_c ~ N / n_c sum_{ij: delta_ij along c} s_ij

    for D differenced components and n_c of the N samples differenced along component c. The paper leaves out the
    factor D, which its RMSprop cancels; here it stays, because with it the estimate is unbiased to first order, as it
    must be to stand beside the exact derivatives of smooth blocks. Where a bound cuts a difference, the displacement
    that took place replaces 2 delta. Then, appendix A.2, beta <- project(beta - RMSprop(gradient)), and the
    environment steps.

    The first update has no step behind it and only steps. After a failed step there is no gradient: beta goes back half
    way towards the last one that worked. If a displaced sample cannot be rendered, or the gradient is not finite, beta
    stays; the log says so.

    Args:
        space: The decision space.
        seed: Decides the directions.
        every: Updates from one gradient to the next; those between only step.
        directions: "gaussian", N(0, sigma^2 I) as in the paper; or "coordinate", sigma along single components, dealt
            out so that all components get as equal a number of samples as possible.
        shared: Whether all samples of an update are displaced along the same directions; else each along its own.
        count: J, directions per sample; of single components, at most all. 2 N J samples are rendered for a gradient.
        sigma: Displacement, as a fraction of each component's range.
        steps: Training steps, the last ones, whose samples are differentiated, N being their number then; None, or more
            than there are, for all K as in the paper. A sum over fewer samples is extrapolated to all.
        curvature: Whether dL/dX_i has how a training step changes the gradients of those after it, as in the paper;
            else it is cheaper, and within single precision the same in the last step.
        exact: Whether the blocks in `env.generator.smooth` get exact derivatives in place of differences.
        clip_samples: "median" scales each |dL/dX_i| down to the batch's median; None leaves them.
        shrink: A component moves only as far as its estimate over the samples, with so much memory of earlier ones,
            stands out of its noise (see `Trust`; not in the paper); None: always by the rule's step.
        max_norm: The norm that the gradient (per fraction of range) is clipped at; None leaves it.
        learning_rate: In fractions of range; RMSprop's typical step, which momentum lengthens to learning_rate /
            (1 - momentum) where gradients agree. (The first is 1 / sqrt(1 - rho) as long.)
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
        directions: str = "coordinate",
        shared: bool = False,
        count: int = 8,
        sigma: float = 0.05,
        steps: int | None = None,
        curvature: bool = True,
        exact: bool = True,
        clip_samples: str | None = "median",
        shrink: float | None = 0.0,
        max_norm: float | None = None,
        learning_rate: float = 0.005,
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
        if clip_samples not in ("median", None):
            raise ValueError(f"unknown clip_samples {clip_samples!r}; choose 'median' or None")
        if count < 1 or not sigma > 0 or not (max_norm is None or max_norm > 0):
            raise ValueError(f"count, sigma and max_norm must be positive, not {count}, {sigma} and {max_norm}")
        if not (steps is None or steps >= 1):
            raise ValueError(f"steps must be None or at least 1, not {steps}")
        self.directions, self.shared, self.count, self.sigma = directions, shared, count, sigma
        self.steps, self.curvature = steps, curvature
        self.exact, self.clip_samples, self.max_norm = exact, clip_samples, max_norm
        self.rule = torch.optim.RMSprop([self.scaled], lr=learning_rate, alpha=rho, eps=eps, momentum=momentum)

    def improve(self, env: DataGenEnv) -> None:
        """One step of RMSprop along the gradient of the environment's last step, if that worked."""
        # A last step that failed left an older unroll behind, at another beta.
        if self._worked is None or env.outcome is None or not env.outcome.ok:
            return
        try:
            slopes = self.sample_slopes(env)
        except RenderError as error:
            logger.warning("update %d goes without a gradient: %s", env.update, error)
            return
        if slopes.isinf().any() or not self._sample_gradient(env).image.isfinite().all():
            logger.warning("update %d goes without a gradient: it is not finite", env.update)
            return
        gradient = env.samples_per_update / len(slopes) * total(slopes)
        if self.max_norm is not None:
            gradient = gradient * (self.max_norm / gradient.norm()).clamp(max=1)
        self._descend(gradient, slopes)

    def gradient(self, env: DataGenEnv) -> Tensor:
        """Estimate of dL/dbeta at the last step of `env`, (d,) per fraction of range.

        Raises:
            RenderError: A displaced sample cannot be rendered.
        """
        slopes = self.sample_slopes(env)
        return env.samples_per_update / len(slopes) * total(slopes)

    def sample_slopes(self, env: DataGenEnv) -> Tensor:
        """Each sample's own estimate of dL/dbeta through it, (N, d) per fraction of range; NaN where it made none.

        Raises:
            RenderError: A displaced sample cannot be rendered.
        """
        gradient = self._sample_gradient(env)
        weights = self._sample_weights(gradient)
        black_box = torch.ones(self.space.dimension, dtype=torch.bool)
        if self.exact:
            for name in env.generator.smooth:
                black_box[self.space.slice(name)] = False
        estimates = torch.zeros(len(weights), self.space.dimension, dtype=torch.float64)
        if black_box.any():
            delta = self._directions(black_box.nonzero().squeeze(-1), len(weights))
            centre = self.scaled.detach()
            taken = (centre + delta).clamp(0, 1) - (centre - delta).clamp(0, 1)
            along = env.slopes(delta, gradient)[..., None] * torch.nn.functional.normalize(taken, dim=-1)
            if self.directions == "gaussian":
                estimates += black_box.sum() * along.mean(0)
            else:
                estimates += torch.where((delta != 0).any(0) | ~black_box, along.sum(0), torch.nan)
        if not black_box.all():
            estimates += env.exact_slopes(gradient)
        return weights[:, None] * estimates

    def _directions(self, components: Tensor, samples: int) -> Tensor:
        """Directions (J, N, d) along some of the `components`."""
        own = 1 if self.shared else samples
        if self.directions == "gaussian":
            shape = (self.count, own, len(components))
            delta = torch.zeros(self.count, own, self.space.dimension, dtype=torch.float64)
            delta[..., components] = self.sigma * torch.randn(shape, generator=self.random, dtype=torch.float64)
            return delta.expand(-1, samples, -1)
        count = min(self.count, len(components))
        # Dealt out like cards, sample by sample: a sample's components are distinct, all get an equal share.
        order = components[torch.randperm(len(components), generator=self.random)]
        dealt = order[torch.arange(own * count) % len(order)].reshape(own, count).T
        delta = torch.zeros(count, own, self.space.dimension, dtype=torch.float64)
        return delta.scatter_(-1, dealt[..., None], self.sigma).expand(-1, samples, -1)

    def _sample_gradient(self, env: DataGenEnv) -> Batch:
        steps = env.unroll_steps if self.steps is None else min(self.steps, env.unroll_steps)
        return env.sample_gradient(exact=self.curvature, steps=steps)

    def _sample_weights(self, gradient: Batch) -> Tensor:
        """(N,) factors that clip each sample's |dL/dX_i| at the median of all."""
        norms = gradient.dot(gradient).sqrt().to("cpu", torch.float64)
        if self.clip_samples is None:
            return torch.ones_like(norms)
        median = norms.median()
        return torch.where(norms > median, median / norms, 1.0)
