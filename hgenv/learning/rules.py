"""Update rules of the network's training, as differentiable functions of a state and a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingState:
    """What a training step starts from and ends in.

    Attributes:
        weights: The network's weights.
        slots: What else the rule remembers for each weight, by the slot's name: momentum, moments.
        step: Training steps taken so far.
    """

    weights: Weights
    slots: dict[str, Weights]
    step: int

    @property
    def tensors(self) -> list[Tensor]:
        """All weights, then all slots, in order."""
        return [t for part in (self.weights, *self.slots.values()) for t in part.values()]

    def with_tensors(self, tensors: list[Tensor]) -> TrainingState:
        """The same structure and step with other tensors, in the order of `tensors`."""
        given = iter(tensors)
        weights = {name: next(given) for name in self.weights}
        slots = {slot: {name: next(given) for name in part} for slot, part in self.slots.items()}
        return TrainingState(weights, slots, self.step)

    def state_dict(self) -> dict[str, Any]:
        """What `TrainingState(**...)` takes: dictionaries of tensors, and a number."""
        return {"weights": self.weights, "slots": self.slots, "step": self.step}

    def __repr__(self) -> str:
        count = sum(w.numel() for w in self.weights.values())
        return f"<TrainingState: {count} weights, slots {', '.join(self.slots) or 'none'}, step {self.step}>"

    def leaves(self) -> TrainingState:
        """The same numbers as new leaves of a graph."""
        return self.with_tensors([t.detach().requires_grad_() for t in self.tensors])


class Rule(Protocol):
    """One training step's arithmetic: s_{k+1} = rule(s_k, grad_w l(w_k, X_k)). Differentiable in all its tensors.

    Attributes:
        linear: Whether the next state is linear in state and gradient, so that its derivative is the same everywhere.
    """

    @property
    def linear(self) -> bool:
        """See the class."""
        ...

    def start(self, weights: Weights) -> TrainingState:
        """The state before the first step."""
        ...

    def __call__(self, state: TrainingState, gradient: Weights) -> TrainingState:
        """The state after one step. Nothing is changed in place."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as `torch.optim.SGD` defines it.

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

    linear = True

    def start(self, weights: Weights) -> TrainingState:
        """The state before the first step; there is a slot `momentum` if there is momentum."""
        return TrainingState(weights, {"momentum": _zeros(weights)} if self.momentum else {}, 0)

    def __call__(self, state: TrainingState, gradient: Weights) -> TrainingState:
        """One step: m <- momentum m + g + weight_decay w, w <- w - learning_rate m."""
        rate, change = _rate(self.learning_rate, self.decay_steps, state.step), gradient
        if self.weight_decay:
            change = {name: torch.add(g, state.weights[name], alpha=self.weight_decay) for name, g in change.items()}
        if self.momentum:
            momentum = state.slots["momentum"]
            change = {name: torch.add(g, momentum[name], alpha=self.momentum) for name, g in change.items()}
        weights = {name: torch.sub(w, change[name], alpha=rate) for name, w in state.weights.items()}
        return TrainingState(weights, {"momentum": change} if self.momentum else {}, state.step + 1)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015), with epsilon inside the root.

    Outside the root, as in the paper, the derivative of the step has a pole where a gradient is near zero, and dL/dX
    predicts nothing.

    Attributes:
        learning_rate: That of step 0; it falls as SGD's does.
        beta1: Forgetting factor of the mean gradient.
        beta2: Forgetting factor of the mean squared gradient.
        epsilon: Added to the mean squared gradient below the root; 1e-8 to 1e-6 keeps dL/dX smooth.
        decay_steps: See `SGD`.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    decay_steps: float = math.inf

    linear = False

    def start(self, weights: Weights) -> TrainingState:
        """The state before the first step, with slots `mean` and `square`."""
        return TrainingState(weights, {"mean": _zeros(weights), "square": _zeros(weights)}, 0)

    def __call__(self, state: TrainingState, gradient: Weights) -> TrainingState:
        """One step: w <- w - learning_rate m / sqrt(v + epsilon), m and v being corrected for their start at zero."""
        rate, t = _rate(self.learning_rate, self.decay_steps, state.step), state.step + 1
        mean = {
            name: torch.add(self.beta1 * state.slots["mean"][name], g, alpha=1 - self.beta1)
            for name, g in gradient.items()
        }
        square = {
            name: torch.add(self.beta2 * state.slots["square"][name], g * g, alpha=1 - self.beta2)
            for name, g in gradient.items()
        }
        correct, unbiased = 1 - self.beta1**t, 1 - self.beta2**t
        weights = {
            name: w - rate / correct * mean[name] * (square[name] / unbiased + self.epsilon).rsqrt()
            for name, w in state.weights.items()
        }
        return TrainingState(weights, {"mean": mean, "square": square}, t)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019): it shrinks weights, not via the gradient.

    Attributes:
        learning_rate: That of step 0; it falls as SGD's does.
        weight_decay: What a step takes away of each weight, times the learning rate.
        beta1: See `Adam`.
        beta2: See `Adam`.
        epsilon: See `Adam`.
        decay_steps: See `SGD`.
    """

    learning_rate: float
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    decay_steps: float = math.inf

    linear = False

    def start(self, weights: Weights) -> TrainingState:
        """The state before the first step, with slots `mean` and `square`."""
        return self._adam.start(weights)

    def __call__(self, state: TrainingState, gradient: Weights) -> TrainingState:
        """One step: w <- (1 - learning_rate weight_decay) w, and then Adam's."""
        keep = 1 - self.weight_decay * _rate(self.learning_rate, self.decay_steps, state.step)
        shrunk = {name: keep * w for name, w in state.weights.items()}
        return self._adam(TrainingState(shrunk, state.slots, state.step), gradient)

    @property
    def _adam(self) -> Adam:
        return Adam(self.learning_rate, self.beta1, self.beta2, self.epsilon, self.decay_steps)


def _rate(learning_rate: float, decay_steps: float, step: int) -> float:
    return learning_rate / math.sqrt(1 + step / decay_steps)


def _zeros(weights: Weights) -> Weights:
    return {name: torch.zeros_like(w) for name, w in weights.items()}
