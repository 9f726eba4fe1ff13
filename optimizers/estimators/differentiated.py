"""What the estimators that differentiate samples have in common."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from hgenv import DataGenEnv
from hgenv.rollout import SampleGradient

logger = logging.getLogger(__name__)


def check_last_steps(last_steps: int | None) -> None:
    """Refuse a number of training steps that there cannot be.

    Raises:
        ValueError: It is neither None nor positive.
    """
    if last_steps is not None and last_steps < 1:
        raise ValueError(f"last_steps must be None or at least 1, not {last_steps}")


def sample_gradient(env: DataGenEnv, last_steps: int | None, curvature: bool) -> SampleGradient | None:
    """dL/dX of the last step's samples, of all or of those of its last training steps; None if there is none.

    More training steps than there are stand for all. Of replayed samples there is none: the same draws follow from
    other random numbers at the present beta, and so do not move with it as they moved with the beta that they were made
    with. Those that were rendered stand for them.
    """
    if env.last is None or not env.last.outcome.ok:
        return None
    steps = env.problem.unroll_steps
    gradient = env.last.sample_gradient(last_steps=min(last_steps or steps, steps), curvature=curvature)
    if env.last.replayed is not None:
        gradient = gradient[~env.last.replayed[-len(gradient) :]]
        if not len(gradient):
            return None
    if not gradient.norms.isfinite().all():
        logger.warning("update %d goes without a gradient: it is not finite", env.update)
        return None
    return gradient


def pathwise_components(env: DataGenEnv) -> Tensor:
    """Which components the generator has derivatives by, (d,) bool."""
    found = torch.zeros(env.space.dimension, dtype=torch.bool)
    for name in env.generator.pathwise:
        found[env.space.slice(name)] = True
    return found


def clipped(rows: Tensor, gradient: SampleGradient) -> Tensor:
    """Rows (N, d) as if no sample's gradient were longer than the median one."""
    norms = gradient.norms
    median = norms.median()
    return torch.where(norms > median, median / norms, 1.0)[:, None] * rows
