"""What training on a sample did to L, to first order in the weights.

Koh and Liang, "Understanding black-box predictions via influence functions", ICML 2017; along a trajectory as in
TracIn, Pruthi et al., NeurIPS 2020.

The influence of sample i of training step k is the derivative of L by its weight in that step's loss. Cut at the
weights, with g_k = grad_w l(w_k, X_k),

    influence_i = <d/dw of sample i's share of l(w_k, X_k), v_k>,    v_k = (ds_{k+1}/dg_k)^T a_{k+1}:

a slope of the sample's own loss along v_k, which takes two forward passes and no second derivative. dL/dX_k is the same
slope of grad_X l(w_k, X_k), so two passes forward and back will do.

Two things tell these from what the adjoint gives (`unroll`). The curvature is left out: how a training step changes the
gradients of those after it, which is all of the adjoint that is not the rule's own arithmetic; the last step has none
after it. And the slope is a central difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hgenv.samples import Samples

from .learner import Learner, training_loss
from .precision import full_precision
from .recorded import recorded
from .rules import Rule, TrainingState, Weights
from .unroll import (
    LastAdjoint,
    StepGradient,
    as_gradient,
    backwards,
    differentiable,
    last_adjoint,
    rule_adjoint,
    training_gradient,
)

# Ends of the difference, in roots of the machine epsilon and lengths of the weights. Losses bend so much along their
# own gradients that the usual 1 is too far (37 % off in single precision, against 1 %).
REACH = 1 / 30


@full_precision()
def influence(
    learner: Learner,
    rule: Rule,
    trajectory: list[TrainingState],
    batches: list[Any],
    data: Any,
    *,
    last_steps: int | None = None,
    last: LastAdjoint | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The validation loss after training and every sample's influence, at about the price of the training itself.

    Args:
        learner: What was trained.
        rule: How.
        trajectory: What `train` gave for `batches`.
        batches: X_0 .. X_{K-1}.
        data: What the learner validates on.
        last_steps: Of the samples of the last so many training steps alone, at their share of the price.
        last: What `last_adjoint` gave, if that is known already.

    Returns:
        L, and (B,) influences for each of these k.
    """
    loss, adjoint = last or last_adjoint(learner, trajectory[-1], data)
    directions = _directions(learner, rule, trajectory, batches, adjoint, last_steps)
    return loss, [influence_along(learner, state.weights, v, batch) for state, batch, v in directions][::-1]


@full_precision()
def virtual_influence(
    learner: Learner,
    rule: Rule,
    trajectory: list[TrainingState],
    batches: list[Any],
    data: Any,
    samples: Samples,
    *,
    last: LastAdjoint | None = None,
) -> tuple[Tensor, Tensor]:
    """The validation loss, and the influence that other samples would have had in the last training step.

    Args:
        learner: What was trained.
        rule: How.
        trajectory: What `train` gave for `batches`.
        batches: X_0 .. X_{K-1}.
        data: What the learner validates on.
        samples: M samples that nothing was trained on; two forward passes at the weights w_{K-1} see all of them.
        last: What `last_adjoint` gave, if that is known already.

    Returns:
        L, and (M,) influences, each as in a batch of the last training step's size.
    """
    loss, adjoint = last or last_adjoint(learner, trajectory[-1], data)
    ((state, batch, v),) = _directions(learner, rule, trajectory, batches, adjoint, 1)
    return loss, influence_along(learner, state.weights, v, samples) * (len(samples) / len(batch))


@full_precision()
def sample_gradient_without_curvature(
    learner: Learner,
    rule: Rule,
    trajectory: list[TrainingState],
    batches: list[Any],
    data: Any,
    *,
    last_steps: int | None = None,
    last: LastAdjoint | None = None,
) -> tuple[Tensor, list[StepGradient]]:
    """As `unroll.sample_gradient`, without curvature, at about 0.6 of its price.

    Raises:
        ValueError: As there.
    """
    loss, adjoint = last or last_adjoint(learner, trajectory[-1], data)
    gradients = []
    for state, batch, v in _directions(learner, rule, trajectory, batches, adjoint, last_steps):
        gradients.append(StepGradient(*_slopes_along(learner, state.weights, v, batch)))
    return loss, gradients[::-1]


def _directions(
    learner: Learner,
    rule: Rule,
    trajectory: list[TrainingState],
    batches: list[Any],
    adjoint: TrainingState,
    last_steps: int | None,
) -> Iterator[tuple[TrainingState, Any, Weights]]:
    """s_k, X_k and v_k of the training steps, the last one first."""
    for state, batch in backwards(trajectory, batches, last_steps):
        # The derivative of a linear rule is the same at any gradient.
        g = state.weights if rule.linear else training_gradient(learner, state.weights, batch)
        adjoint, v = rule_adjoint(rule, state, g, adjoint)
        yield state, batch, v


@recorded
def _slopes_along(learner: Learner, weights: Weights, v: Weights, batch: Samples) -> tuple[Samples, Tensor]:
    """The slopes along v of the training loss's gradients by samples and by their weights."""
    reach, ends = reach_along(weights, v), []
    samples = differentiable(batch)
    for sign in (1, -1):
        ends.append(_slopes(learner, moved(weights, v, sign * reach), samples))
    *fields, of_weights = ((ahead - behind) / (2 * reach) for ahead, behind in zip(*ends, strict=True))
    return as_gradient(samples, fields), of_weights


@recorded
def influence_along(learner: Learner, weights: Weights, v: Weights, samples: Samples) -> Tensor:
    """The slope along v of each sample's share of the training loss, (B,)."""
    reach, ends = reach_along(weights, v), []
    for sign in (1, -1):
        # Only the samples' weights need a gradient, so that the network keeps no graph.
        ends.append(_slopes(learner, moved(weights, v, sign * reach), samples)[-1])
    return (ends[0] - ends[1]) / (2 * reach)


def _slopes(learner: Learner, weights: Weights, samples: Any) -> tuple[Tensor, ...]:
    """Gradients of the training loss by those fields of the samples that ask for one, and by the samples' weights."""
    like = next(iter(weights.values()))
    sample_weights = torch.ones(len(samples), dtype=like.dtype, device=like.device, requires_grad=True)
    loss = training_loss(learner, weights, samples, sample_weights)
    variables = [x for x in samples.tensors if x.requires_grad]
    return torch.autograd.grad(loss, [*variables, sample_weights], materialize_grads=True)


def reach_along(weights: Weights, v: Weights) -> Tensor:
    """How far along v the ends of a central difference are."""
    epsilon = torch.finfo(next(iter(weights.values())).dtype).eps
    return REACH * math.sqrt(epsilon) * norm(weights) / norm(v).clamp(min=1e-30)


def moved(weights: Weights, v: Weights, step: Tensor) -> Weights:
    """Weights + step * v."""
    return {name: torch.addcmul(w, v[name], step) for name, w in weights.items()}


def norm(tensors: Weights) -> Tensor:
    """Of all numbers together."""
    return torch.stack([t.square().sum() for t in tensors.values()]).sum().sqrt()
