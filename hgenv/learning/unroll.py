"""K training steps, and the exact gradient of the validation loss after them with respect to the training samples.

With state s_k = (w_k, m_k), weights and momentum, a training step is s_{k+1} = sgd(s_k, grad_w l(w_k, X_k)), and
L = l_val(w_K). Only the states are kept. Backwards, from the adjoint a_K = (dL/dw_K, 0), each step is computed once
more and the vector-Jacobian product of it gives

    dL/dX_k = (ds_{k+1}/dX_k)^T a_{k+1},    a_k = (ds_{k+1}/ds_k)^T a_{k+1},

so that the graph of one step is alive at a time, whatever K is.

The credit of a sample is the derivative of L by the sample's weight in the training loss of its step, what training on
it did to L to first order in the weights. That is <dL/dmask_i, mask_i>, so `sample_gradient` holds it. Cut at the
weights, with g_k = grad_w l(w_k, X_k),

    credit_i = <d/dw of sample i's share of l(w_k, X_k), v_k>,    v_k = (ds_{k+1}/dg_k)^T a_{k+1},

it is a slope of the sample's own loss along v_k, which takes two forward passes and no second derivative: `credits`.
dL/dX_k is the same slope of grad_X l(w_k, X_k), so two passes forward and back will do where v_k is known, as it is for
the last step from dL/dw_K alone: `sample_gradient(exact=False, steps=1)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hgenv.batch import Batch

Weights = dict[str, Tensor]

# Losses bend so much along their own gradients that the usual 1 is too far (37 % off in single precision, against 1 %).
STEP = 1 / 30


class Learner(Protocol):
    """What is trained: a network as a function of its weights, its losses and its metrics.

    For probes as one batch, as on a GPU, `torch.func.vmap` goes through both losses: they must not branch on values.

    Attributes:
        max_loss: Upper bound of the validation loss.
    """

    max_loss: float

    def initial_weights(self, seed: int) -> Weights:
        """The weights that training starts from; the same seed gives the same bits."""
        ...

    def training_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """Scalar, twice differentiable almost everywhere in the weights and in all of `batch`."""
        ...

    def validation_loss(self, weights: Weights, data: Any) -> Tensor:
        """Scalar, differentiable in the weights."""
        ...

    def metrics(self, weights: Weights, data: Any) -> dict[str, float]:
        """Figures to report, by name."""
        ...

    def flops(self, kind: Literal["train", "gradient", "validate"], samples: int) -> int:
        """Floating-point operations of one training step, adjoint step or validation pass over `samples` samples."""
        ...


@dataclass(frozen=True)
class TrainingState:
    """What a training step starts from and ends in.

    Attributes:
        weights: The network's weights.
        momentum: Running sum of gradients for each weight; empty where SGD has no momentum.
        step: Training steps taken so far.
    """

    weights: Weights
    momentum: Weights
    step: int


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as `torch.optim.SGD` defines it, as a differentiable function.

    Attributes:
        learning_rate: That of step 0; at step t it is learning_rate / sqrt(1 + t / decay_steps).
        momentum: Share of the running sum of gradients that a step keeps.
        weight_decay: Factor on the weights that are added to the gradient.
        decay_steps: Steps after which the learning rate has fallen to 1 / sqrt(2); infinite for a constant one.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay_steps: float = math.inf

    def start(self, weights: Weights) -> TrainingState:
        """The state before the first step."""
        momentum = {name: torch.zeros_like(w) for name, w in weights.items()} if self.momentum else {}
        return TrainingState(weights, momentum, 0)

    def __call__(self, state: TrainingState, gradient: Weights) -> TrainingState:
        """One step: m <- momentum m + g + weight_decay w, w <- w - learning_rate m."""
        rate = self.learning_rate / math.sqrt(1 + state.step / self.decay_steps)
        change = gradient
        if self.weight_decay:
            change = {name: torch.add(g, state.weights[name], alpha=self.weight_decay) for name, g in change.items()}
        if self.momentum:
            change = {name: torch.add(g, state.momentum[name], alpha=self.momentum) for name, g in change.items()}
        weights = {name: torch.sub(w, change[name], alpha=rate) for name, w in state.weights.items()}
        return TrainingState(weights, change if self.momentum else {}, state.step + 1)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep a GPU's convolutions from rounding to TF32, which PyTorch has them do: small differences drown in that."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined] # an object in a module's place
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


@full_precision()
def train(learner: Learner, sgd: SGD, state: TrainingState, batches: list[Batch]) -> list[TrainingState]:
    """One training step on each of K batches.

    Returns:
        The K + 1 states on the way, from `state` to the last, without graphs.
    """
    trajectory = [state]
    for batch in batches:
        weights = _leaves(state.weights)
        gradient = torch.autograd.grad(learner.training_loss(weights, batch), list(weights.values()))
        with torch.no_grad():
            state = sgd(state, dict(zip(weights, gradient, strict=True)))
        trajectory.append(state)
    return trajectory


@full_precision()
def train_together(learner: Learner, sgd: SGD, state: TrainingState, batches: list[Batch]) -> TrainingState:
    """What `train` makes of P copies of `state`, each on samples of its own, as one computation (for GPUs).

    Args:
        learner: What is trained; `torch.func.vmap` must be able to go through its training loss.
        sgd: How.
        state: Where all copies start.
        batches: K batches of (P, B, ...) tensors.

    Returns:
        The last state, of (P, ...) weights and momentum: those of `train` but for rounding.
    """

    def training_loss(weights: Weights, *samples: Tensor) -> Tensor:
        return learner.training_loss(weights, Batch(*samples))

    gradient = torch.func.vmap(torch.func.grad(training_loss))
    copies = len(batches[0])
    weights, momentum = (
        {name: t.expand(copies, *t.shape) for name, t in tensors.items()} for tensors in (state.weights, state.momentum)
    )
    state = TrainingState(weights, momentum, state.step)
    for batch in batches:
        state = sgd(state, gradient(state.weights, *batch.tensors))
    return state


@full_precision()
def sample_gradient(
    learner: Learner,
    sgd: SGD,
    trajectory: list[TrainingState],
    batches: list[Batch],
    data: Any,
    *,
    exact: bool = True,
    steps: int | None = None,
) -> tuple[Tensor, list[Batch]]:
    """The validation loss after training and its gradient with respect to the training samples.

    Args:
        learner: What was trained.
        sgd: How.
        trajectory: What `train` gave for `batches`.
        batches: X_0 .. X_{K-1}.
        data: What the learner validates on.
        exact: By the adjoint. Otherwise as `credits` go: how a training step changes the gradients of those after it is
            left out, and the slope along v_k is a central difference; about 0.6 of the price. The last step has
            none after it, so only the difference tells its gradient from the exact one.
        steps: Of the last so many training steps only; None for all K.

    Returns:
        L, and dL/dX_k with image, target and mask for each k, the last `steps` ones.

    Raises:
        ValueError: The trajectory is not that of K batches, or `steps` is not within 1 to K.
    """
    if len(trajectory) != len(batches) + 1:
        raise ValueError(
            f"{len(batches)} batches make a trajectory of {len(batches) + 1} states, not {len(trajectory)}"
        )
    count = len(batches) if steps is None else steps
    if not 1 <= count <= len(batches):
        raise ValueError(f"steps must be None, or 1 to {len(batches)} training steps, not {steps}")
    loss, adjoint = _last_adjoint(learner, trajectory[-1], data)
    gradients = []
    for state, batch in list(zip(trajectory[:-1], batches, strict=True))[: -count - 1 : -1]:
        if exact:
            adjoint, gradient = adjoint_step(learner, sgd, state, batch, adjoint)
        else:
            adjoint, v = _sgd_adjoint(sgd, state, adjoint)
            gradient = _gradient_along(learner, state.weights, v, batch)
        gradients.append(gradient)
    return loss, gradients[::-1]


def adjoint_step(
    learner: Learner, sgd: SGD, state: TrainingState, batch: Batch, adjoint: TrainingState
) -> tuple[TrainingState, Batch]:
    """The vector-Jacobian product of the training step that leaves `state`.

    Args:
        learner: What is trained.
        sgd: How.
        state: s_k.
        batch: X_k.
        adjoint: dL/ds_{k+1}.

    Returns:
        dL/ds_k and dL/dX_k.
    """
    start = TrainingState(_leaves(state.weights), _leaves(state.momentum), state.step)
    samples = batch.map(lambda x: x.detach().requires_grad_())
    inputs = [*start.weights.values(), *start.momentum.values(), *samples.tensors]

    loss = learner.training_loss(start.weights, samples)
    gradient = torch.autograd.grad(loss, list(start.weights.values()), create_graph=True)
    end = sgd(start, dict(zip(start.weights, gradient, strict=True)))

    outputs = [*end.weights.values(), *end.momentum.values()]
    direction = [*adjoint.weights.values(), *adjoint.momentum.values()]
    # A loss need not use all of a sample: what it leaves out has gradient zero.
    products = iter(torch.autograd.grad(outputs, inputs, direction, materialize_grads=True))
    before = TrainingState(
        {name: next(products) for name in start.weights}, {name: next(products) for name in start.momentum}, state.step
    )
    return before, Batch(*products)


@full_precision()
def credits(
    learner: Learner, sgd: SGD, trajectory: list[TrainingState], batches: list[Batch], data: Any
) -> tuple[Tensor, list[Tensor]]:
    """The validation loss after training and every sample's credit, at about the price of the training itself.

    Two things tell these credits from the exact ones: the adjoint leaves out how a training step changes the gradients
    of those after it (all of it that is not SGD's own arithmetic), and the slope along v_k is a central difference of
    `STEP` times the root of the machine epsilon, relative to the weights.

    Args:
        learner: What was trained; its training loss must weight samples by `batch.mask`.
        sgd: How.
        trajectory: What `train` gave for `batches`.
        batches: X_0 .. X_{K-1}.
        data: What the learner validates on.

    Returns:
        L, and (B,) credits for each k.
    """
    loss, adjoint = _last_adjoint(learner, trajectory[-1], data)
    parts = []
    for state, batch in zip(reversed(trajectory[:-1]), reversed(batches), strict=True):
        adjoint, v = _sgd_adjoint(sgd, state, adjoint)
        parts.append(_credits_along(learner, state.weights, v, batch))
    return loss, parts[::-1]


def _last_adjoint(learner: Learner, end: TrainingState, data: Any) -> tuple[Tensor, TrainingState]:
    """L and dL/ds_K."""
    weights = _leaves(end.weights)
    loss = learner.validation_loss(weights, data)
    gradient = torch.autograd.grad(loss, list(weights.values()))
    momentum = {name: torch.zeros_like(m) for name, m in end.momentum.items()}
    return loss.detach(), TrainingState(dict(zip(weights, gradient, strict=True)), momentum, end.step)


def _sgd_adjoint(sgd: SGD, state: TrainingState, adjoint: TrainingState) -> tuple[TrainingState, Weights]:
    """dL/ds_k, the gradient of the step being held, and dL/dg_k; SGD is linear, so it is the same anywhere."""
    start = TrainingState(_leaves(state.weights), _leaves(state.momentum), state.step)
    gradient = _leaves(state.weights)
    end = sgd(start, gradient)
    outputs = [*end.weights.values(), *end.momentum.values()]
    inputs = [*start.weights.values(), *start.momentum.values(), *gradient.values()]
    direction = [*adjoint.weights.values(), *adjoint.momentum.values()]
    products = iter(torch.autograd.grad(outputs, inputs, direction))
    weights = {name: next(products) for name in start.weights}
    momentum = {name: next(products) for name in start.momentum}
    return TrainingState(weights, momentum, state.step), {name: next(products) for name in gradient}


def _credits_along(learner: Learner, weights: Weights, v: Weights, batch: Batch) -> Tensor:
    """Slope of each sample's share of the training loss along v in weight space, (B,)."""
    step, ends = _ends(weights, v), []
    for sign in (1, -1):
        # Only the mask needs a gradient, so that the network keeps no graph.
        mask = batch.mask.detach().requires_grad_()
        loss = learner.training_loss(_moved(weights, v, sign * step), Batch(batch.image, batch.target, mask))
        (slope,) = torch.autograd.grad(loss, mask)
        ends.append((slope * mask.detach()).flatten(1).sum(1))
    return (ends[0] - ends[1]) / (2 * step)


def _gradient_along(learner: Learner, weights: Weights, v: Weights, batch: Batch) -> Batch:
    """Slope of the training loss's gradient by the samples along v in weight space."""
    step, ends = _ends(weights, v), []
    for sign in (1, -1):
        samples = batch.map(lambda x: x.detach().requires_grad_())
        loss = learner.training_loss(_moved(weights, v, sign * step), samples)
        ends.append(torch.autograd.grad(loss, samples.tensors, materialize_grads=True))
    return Batch(*((ahead - behind) / (2 * step) for ahead, behind in zip(*ends, strict=True)))


def _ends(weights: Weights, v: Weights) -> Tensor:
    """How far along v the ends of a central difference are."""
    epsilon = torch.finfo(next(iter(weights.values())).dtype).eps
    return STEP * math.sqrt(epsilon) * _norm(weights) / _norm(v).clamp(min=1e-30)


def _moved(weights: Weights, v: Weights, step: Tensor) -> Weights:
    return {name: torch.addcmul(w, v[name], step) for name, w in weights.items()}


def _norm(tensors: Weights) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors.values()]).sum().sqrt()


def _leaves(tensors: Weights) -> Weights:
    """The same numbers as new leaves of a graph."""
    return {name: t.detach().requires_grad_() for name, t in tensors.items()}
