"""K training steps, and the exact gradient of the validation loss after them with respect to the training samples.

With the state s_k, the weights w_k and whatever the rule remembers, a training step is

    s_{k+1} = rule(s_k, g_k),    g_k = grad_w l(w_k, X_k),

and L = l_val(w_K). Only the states are kept. Backwards, from the adjoint a_K = (dL/dw_K, 0), each step is computed once
more, and the vector-Jacobian product of it gives

    dL/dX_k = (ds_{k+1}/dX_k)^T a_{k+1},    a_k = (ds_{k+1}/ds_k)^T a_{k+1},

so that the graph of one step is alive at a time, whatever K is. The same product gives the influence of each sample,
the derivative of L by its weight in l(w_k, X_k). `first_order` has what is cheaper and leaves curvature out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hgenv.samples import Samples

from .learner import Learner, gradient, training_loss, validation_loss
from .precision import full_precision
from .rules import Rule, TrainingState, Weights

LastAdjoint = tuple[Tensor, TrainingState]  # L and a_K


@dataclass(frozen=True)
class StepGradient:
    """What L owes to the samples of one training step.

    Attributes:
        samples: dL/dX_k, field by field; zero in fields that are not floating-point.
        influence: (B,) derivative of L by each sample's weight in the step's loss.
    """

    samples: Samples
    influence: Tensor


@full_precision()
def train(learner: Learner, rule: Rule, state: TrainingState, batches: list[Any]) -> list[TrainingState]:
    """One training step on each of K batches.

    Returns:
        The K + 1 states on the way, from `state` to the last, without graphs.
    """
    trajectory = [state]
    for batch in batches:
        weights = {name: w.detach().requires_grad_() for name, w in state.weights.items()}
        g = gradient(learner, training_loss(learner, weights, batch), list(weights.values()))
        with torch.no_grad():
            state = rule(state, dict(zip(weights, g, strict=True)))
        trajectory.append(state)
    return trajectory


@full_precision()
def train_together(learner: Learner, rule: Rule, state: TrainingState, batches: list[Any]) -> TrainingState:
    """What `train` makes of P copies of `state`, each on samples of its own, as one computation (for GPUs).

    Args:
        learner: What is trained; `torch.func.vmap` must be able to go through its training loss.
        rule: How.
        state: Where all copies start.
        batches: K batches whose fields are (P, B, ...).

    Returns:
        The last state, of (P, ...) tensors: those of `train` but for rounding.
    """

    def loss(weights: Weights, *tensors: Tensor) -> Tensor:
        return training_loss(learner, weights, batches[0].with_tensors(tensors))

    slope = torch.func.vmap(torch.func.grad(loss))
    copies = len(batches[0])
    state = state.with_tensors([t.expand(copies, *t.shape) for t in state.tensors])
    for batch in batches:
        state = rule(state, slope(state.weights, *batch.tensors))
    return state


@full_precision()
def sample_gradient(
    learner: Learner,
    rule: Rule,
    trajectory: list[TrainingState],
    batches: list[Any],
    data: Any,
    *,
    last_steps: int | None = None,
    last: LastAdjoint | None = None,
) -> tuple[Tensor, list[StepGradient]]:
    """The validation loss after training and its gradient with respect to the training samples, by the adjoint.

    Args:
        learner: What was trained.
        rule: How.
        trajectory: What `train` gave for `batches`.
        batches: X_0 .. X_{K-1}.
        data: What the learner validates on.
        last_steps: Only of the last so many training steps; None for all K.
        last: What `last_adjoint` gave, if that is known already.

    Returns:
        L, and the gradients of each training step, the last `last_steps` ones in order.

    Raises:
        ValueError: The trajectory is not that of K batches, or `last_steps` is not within 1 to K.
    """
    loss, adjoint = last or last_adjoint(learner, trajectory[-1], data)
    gradients = []
    for state, batch in backwards(trajectory, batches, last_steps):
        adjoint, gradient = adjoint_step(learner, rule, state, batch, adjoint)
        gradients.append(gradient)
    return loss, gradients[::-1]


def adjoint_step(
    learner: Learner, rule: Rule, state: TrainingState, batch: Any, adjoint: TrainingState
) -> tuple[TrainingState, StepGradient]:
    """The vector-Jacobian product of the training step that leaves `state`.

    Args:
        learner: What is trained.
        rule: How.
        state: s_k.
        batch: X_k.
        adjoint: a_{k+1} = dL/ds_{k+1}.

    Returns:
        a_k = dL/ds_k, and what L owes to the samples.
    """
    start, samples = state.leaves(), differentiable(batch)
    like = next(iter(start.weights.values()))  # not the samples: none of their fields need be floating-point
    sample_weights = torch.ones(len(batch), dtype=like.dtype, device=like.device, requires_grad=True)

    loss = training_loss(learner, start.weights, samples, sample_weights)
    g = gradient(learner, loss, list(start.weights.values()), graph=True)
    end = rule(start, dict(zip(start.weights, g, strict=True)))

    variables = [x for x in samples.tensors if x.requires_grad]
    inputs = [*start.tensors, *variables, sample_weights]
    # A loss need not use all of a sample: what it leaves out has gradient zero.
    products = torch.autograd.grad(end.tensors, inputs, adjoint.tensors, materialize_grads=True)
    count = len(start.tensors)
    before = state.with_tensors(list(products[:count]))
    return before, StepGradient(as_gradient(samples, list(products[count:-1])), products[-1])


@full_precision()
def last_adjoint(learner: Learner, end: TrainingState, data: Any) -> LastAdjoint:
    """L and a_K = dL/ds_K."""
    weights = {name: w.detach().requires_grad_() for name, w in end.weights.items()}
    loss = validation_loss(learner, weights, data)
    g = gradient(learner, loss, list(weights.values()))
    slots = [torch.zeros_like(t) for part in end.slots.values() for t in part.values()]
    return loss.detach(), end.with_tensors([*g, *slots])


def rule_adjoint(
    rule: Rule, state: TrainingState, gradient: Weights, adjoint: TrainingState
) -> tuple[TrainingState, Weights]:
    """dL/ds_k with the gradient g_k held, and v_k = dL/dg_k, from a_{k+1}."""
    start = state.leaves()
    held = {name: g.detach().requires_grad_() for name, g in gradient.items()}
    end = rule(start, held)
    inputs = [*start.tensors, *held.values()]
    products = torch.autograd.grad(end.tensors, inputs, adjoint.tensors, materialize_grads=True)
    count = len(start.tensors)
    return state.with_tensors(list(products[:count])), dict(zip(held, products[count:], strict=True))


def backwards(
    trajectory: list[TrainingState], batches: list[Any], last_steps: int | None
) -> list[tuple[TrainingState, Any]]:
    """States and batches of the training steps, the last one first.

    Raises:
        ValueError: The trajectory is not that of the batches, or there are no such last steps.
    """
    if len(trajectory) != len(batches) + 1:
        raise ValueError(
            f"{len(batches)} batches make a trajectory of {len(batches) + 1} states, not {len(trajectory)}"
        )
    count = len(batches) if last_steps is None else last_steps
    if not 1 <= count <= len(batches):
        raise ValueError(f"last_steps must be None, or 1 to {len(batches)} training steps, not {last_steps}")
    return list(zip(trajectory[:-1], batches, strict=True))[: -count - 1 : -1]


def differentiable(samples: Samples) -> Samples:
    """The same numbers, floating-point fields as new leaves of a graph."""
    return samples.map(lambda x: x.detach().requires_grad_() if x.is_floating_point() else x)


def as_gradient(samples: Samples, parts: list[Tensor]) -> Samples:
    """A record of the gradients of the floating-point fields, zero elsewhere."""
    given = iter(parts)
    return samples.map(lambda x: next(given) if x.is_floating_point() else torch.zeros_like(x))
