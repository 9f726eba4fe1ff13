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

from hgenv.problem import PartError
from hgenv.samples import Samples

from .learner import Learner, gradient, training_loss, validation_loss
from .precision import full_precision
from .recorded import recorded
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
        g = training_gradient(learner, state.weights, batch)
        with torch.no_grad():
            state = rule(state, g)
        trajectory.append(state)
    return trajectory


@recorded
def training_gradient(learner: Learner, weights: Weights, batch: Any) -> Weights:
    """grad_w l(w, X)."""
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    found = gradient(learner, training_loss(learner, leaves, batch), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


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
    copies = len(batches[0])
    state = state.with_tensors([t.expand(copies, *t.shape) for t in state.tensors])
    for batch in batches:
        state = rule(state, _training_gradients(learner, state.weights, batch))
    return state


@recorded
def _training_gradients(learner: Learner, weights: Weights, batch: Any) -> Weights:
    """grad_w l(w, X) of each of P copies."""

    def loss(weights: Weights, *tensors: Tensor) -> Tensor:
        return training_loss(learner, weights, batch.with_tensors(tensors))

    found: Weights = torch.func.vmap(torch.func.grad(loss))(weights, *batch.tensors)
    return found


@full_precision()
@torch.no_grad()
def validate(learner: Learner, weights: Weights, data: Any) -> Tensor:
    """L, without a graph."""
    return _validation_loss(learner, weights, data)


@full_precision()
@torch.no_grad()
def validate_together(learner: Learner, weights: Weights, data: Any) -> Tensor:
    """L of each of P copies of the weights, (P,)."""
    return _validation_losses(learner, weights, data)


@recorded
def _validation_loss(learner: Learner, weights: Weights, data: Any) -> Tensor:
    return validation_loss(learner, weights, data)


@recorded
def _validation_losses(learner: Learner, weights: Weights, data: Any) -> Tensor:
    losses: Tensor = torch.func.vmap(lambda w: validation_loss(learner, w, data))(weights)
    return losses


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
    # The derivative of a linear rule is the same at any gradient.
    g = state.weights if rule.linear else training_gradient(learner, state.weights, batch)
    direct, v = rule_adjoint(rule, state, g, adjoint)
    through_gradient, samples, influence = _gradient_products(learner, state.weights, batch, v)
    weights = {name: w + through_gradient[name] for name, w in direct.weights.items()}
    return TrainingState(weights, direct.slots, state.step), StepGradient(samples, influence)


@recorded
def _gradient_products(learner: Learner, weights: Weights, batch: Any, v: Weights) -> tuple[Weights, Samples, Tensor]:
    """The derivatives of <g, v> by weights, samples, and samples' weights, with g = grad_w l(w, X)."""
    leaves, samples = {name: w.detach().requires_grad_() for name, w in weights.items()}, differentiable(batch)
    like = next(iter(leaves.values()))  # not the samples: none of their fields need be floating-point
    sample_weights = torch.ones(len(batch), dtype=like.dtype, device=like.device, requires_grad=True)
    loss = training_loss(learner, leaves, samples, sample_weights)
    g = gradient(learner, loss, list(leaves.values()), graph=True)
    inputs = [*leaves.values(), *(x for x in samples.tensors if x.requires_grad), sample_weights]
    try:
        _check_graph(g)
        # A loss need not use all of a sample: what it leaves out has gradient zero.
        products = torch.autograd.grad(g, inputs, list(v.values()), materialize_grads=True)
    except RuntimeError as error:
        words = str(error).partition("\n")[0]
        raise PartError(
            f"the learner {type(learner).__name__} with {type(learner.task).__name__}: its loss cannot be "
            f"differentiated twice, which curvature needs: {words}; ask without (curvature=False), or for influence "
            "and scores, which first derivatives are enough for"
        ) from error
    of_weights = dict(zip(leaves, products[: len(leaves)], strict=True))
    return of_weights, as_gradient(samples, list(products[len(leaves) : -1])), products[-1]


def _check_graph(gradient: tuple[Tensor, ...]) -> None:
    """Make sure that a gradient can be differentiated.

    Behind a layer that is marked `once_differentiable`, `torch.autograd.grad` leaves out what should have raised, and
    gives a wrong derivative without a word (PyTorch 2.13).

    Raises:
        RuntimeError: It cannot.
    """
    nodes = {g.grad_fn for g in gradient if g.grad_fn is not None}
    left = list(nodes)
    while left:
        node = left.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("a layer is marked once_differentiable")
        ahead = {n for n, _ in node.next_functions if n is not None} - nodes
        nodes |= ahead
        left += ahead


@full_precision()
def last_adjoint(learner: Learner, end: TrainingState, data: Any) -> LastAdjoint:
    """L and a_K = dL/ds_K."""
    loss, g = _validation_gradient(learner, end.weights, data)
    slots = [torch.zeros_like(t) for part in end.slots.values() for t in part.values()]
    return loss, end.with_tensors([*g, *slots])


@recorded
def _validation_gradient(learner: Learner, weights: Weights, data: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    loss = validation_loss(learner, leaves, data)
    return loss.detach(), gradient(learner, loss, list(leaves.values()))


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
