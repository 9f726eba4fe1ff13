"""Score influence: what training on a sample did to L, times the score of the sample's draws. Ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal, UnsuitableError
from .differentiated import check_last_steps


@dataclass(frozen=True)
class ScoreInfluence:
    """Influence of samples times the scores of their draws (cut at the weights).

    Right of the cut it is the credit gradient's; left of it a likelihood ratio stands in place of pairs.

    To first order in the weights, training on N samples moves L by the sum of their influences c_i, and the samples are
    draws from p(x | beta). With s_i = d log p(x_i | beta) / d beta,

        dL/dbeta ~ N mean_i (c_i - b_i) s_i,    b_i: mean influence of the others of its batch

    (the likelihood-ratio gradient with the leave-one-out baseline of Kool, van Hoof and Welling, "Buy 4 REINFORCE
    samples, get a baseline for free!", 2019). Nothing is displaced, every sample informs every component, and c may
    jump. Samples need not be trained on to tell: *virtual* ones are rendered at the same beta, and two forward passes
    at the weights of the last training step give their influence there.

    Replayed samples (`hgenv.Replay`) have the score of their draws at the present beta. Their influence is that on a
    network which has seen them before, and so somewhat too small.

    Components whose draws have no score (`Generator.log_prob_score`) are NaN.

    Attributes:
        num_virtual: Virtual samples of an estimate, besides those that were trained on.
        clip: |c_i - b_i| is cut at so many medians of all samples; inf for not at all. It trades bias for noise: a few
            samples have most of the influence, and hide what the many say.
        last_steps: Of how many of the last training steps the samples are looked at; None for all K. Where a sample
            gradient without curvature has been paid for, the influence of its samples costs nothing.

    Raises:
        ValueError: `num_virtual` is negative, `clip` or `last_steps` not positive.
    """

    num_virtual: int = 64
    clip: float = 1.0
    last_steps: int | None = None

    def __post_init__(self) -> None:
        """Check them."""
        check_last_steps(self.last_steps)
        if self.num_virtual < 0 or not self.clip > 0:
            raise ValueError(
                f"num_virtual must be 0 or more, and clip positive, not {self.num_virtual} and {self.clip}"
            )

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: all samples are made at the center."""
        return None

    def foresee(self, env: DataGenEnv, beta: Tensor) -> tuple[Tensor, Tensor] | None:
        """The virtual samples of the next estimate, if the coming step is at beta; see `Estimator`."""
        seeds = self._fresh(env, later=1)
        return (beta.expand(len(seeds), -1), seeds) if len(seeds) else None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each sample, trained or virtual, (last_steps * B + num_virtual, d); None if the last step failed.

        Raises:
            UnsuitableError: The generator has no scores.
            RenderError: A virtual sample cannot be rendered.
        """
        score, last = log_prob_score(env), env.last
        if last is None or not last.outcome.ok:
            return None
        n = env.problem.num_samples
        betas, seeds, at = last.betas, last.seeds, last.drawn_at
        steps = min(self.last_steps or env.problem.unroll_steps, env.problem.unroll_steps)
        trained = last.influence(last_steps=steps)
        betas, seeds, at = betas[-len(trained) :], seeds[-len(trained) :], at[-len(trained) :]
        centred = less_the_others(trained.reshape(steps, -1)).flatten()
        if self.num_virtual:
            fresh = self._fresh(env)
            more = last.outcome.beta.expand(self.num_virtual, -1)
            centred = torch.cat([centred, less_the_others(last.virtual_influence(more, fresh))])
            betas, seeds, at = torch.cat([betas, more]), torch.cat([seeds, fresh]), torch.cat([at, more])
        if self.clip < math.inf:
            bound = self.clip * centred.abs().median()
            centred = centred.clamp(-bound, bound)
        return n * centred[:, None] * score(betas, seeds, at)

    def _fresh(self, env: DataGenEnv, later: int = 0) -> Tensor:
        """Sample seeds of the virtual samples; the first N are the coming step's."""
        n = env.problem.num_samples
        return env.sample_seeds(n + self.num_virtual, later=later)[n:]


def log_prob_score(env: DataGenEnv) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The generator's d log p(x | beta) / d beta, per fraction of range.

    Returns:
        A function of the (B, d) betas and (B,) seeds that samples were made with, and the (B, d) betas to differentiate
        at: the same, but for replayed samples.

    Raises:
        UnsuitableError: It has none.
    """
    score = getattr(env.generator, "log_prob_score", None)
    if score is None:
        raise UnsuitableError(
            f"the generator {type(env.generator).__name__} has no log_prob_score(betas, seeds), which this estimator "
            "is made of; give it one (see hgenv.Generator), or choose an estimator that needs none"
        )
    generator: Any = env.generator
    width = env.space.high - env.space.low

    def at_any_beta(betas: Tensor, seeds: Tensor, at: Tensor) -> Tensor:
        if torch.equal(betas, at):
            return score(betas, seeds)
        return generator.score(at, generator.draws(betas, seeds.to(betas.device)))

    return lambda betas, seeds, at: at_any_beta(betas, seeds, at).to("cpu", torch.float64) * width


def less_the_others(influence: Tensor) -> Tensor:
    """Every number of (..., B) less the mean of the others."""
    size = influence.shape[-1]
    return (influence - influence.mean(-1, keepdim=True)) * (size / max(size - 1, 1))
