"""How beta moves along an estimate of dL/dbeta: the update rules of `torch.optim`, with a falling learning rate.

Beta is in fractions of each component's range, and so are learning rates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Rule(ABC):
    """An update rule.

    Attributes:
        learning_rate: Of the first move.
        decay_updates: The learning rate of move t is learning_rate / sqrt(1 + t / decay_updates); inf keeps it.

    Raises:
        ValueError: One of them is not positive.
    """

    learning_rate: float
    decay_updates: float = field(default=math.inf, kw_only=True)

    def __post_init__(self) -> None:
        """Check both."""
        if not self.learning_rate > 0 or not self.decay_updates > 0:
            raise ValueError(
                f"learning_rate and decay_updates must be positive, not {self.learning_rate} and {self.decay_updates}"
            )

    def rate(self, move: int) -> float:
        """The learning rate of a move, counted from 0."""
        return self.learning_rate / math.sqrt(1 + move / self.decay_updates)

    @abstractmethod
    def make(self, beta: torch.nn.Parameter) -> torch.optim.Optimizer:
        """The rule, ready to move `beta`."""


@dataclass(frozen=True)
class RMSprop(Rule):
    """Gradients divided by the root of their running mean square (Tieleman and Hinton, 2012), as in the paper.

    Attributes:
        learning_rate: Typical move of a component; momentum lengthens it to learning_rate / (1 - momentum) where
            gradients agree, and the first is 1 / sqrt(1 - rho) as long.
        rho: Forgetting factor of the mean square.
        eps: Added to its root.
        momentum: 0 for none.
        decay_updates: See `Rule`.
    """

    learning_rate: float = 0.01
    rho: float = 0.9
    eps: float = 1e-8
    momentum: float = 0.0

    def make(self, beta: torch.nn.Parameter) -> torch.optim.Optimizer:
        """`torch.optim.RMSprop`."""
        return torch.optim.RMSprop([beta], lr=self.learning_rate, alpha=self.rho, eps=self.eps, momentum=self.momentum)


@dataclass(frozen=True)
class SGD(Rule):
    """beta <- beta - learning_rate * gradient.

    Attributes:
        learning_rate: Factor on the gradient.
        momentum: 0 for none.
        decay_updates: See `Rule`.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0

    def make(self, beta: torch.nn.Parameter) -> torch.optim.Optimizer:
        """`torch.optim.SGD`."""
        return torch.optim.SGD([beta], lr=self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True)
class PowerSGD(SGD):
    """SGD with the gains of stochastic approximation, a_k = a / (k + 1 + A)^alpha (Spall, 1998).

    Here A = decay_updates - 1, alpha = power, and a = learning_rate * decay_updates^power, so that the learning rate is
    that of the first move.

    Attributes:
        learning_rate: See `SGD`.
        momentum: See `SGD`.
        power: alpha; 0.602 is the slowest fall with which SPSA is known to converge.
        decay_updates: 1 + A; Spall advises a tenth of the moves of a run.
    """

    power: float = 0.602

    def rate(self, move: int) -> float:
        """The learning rate of a move, counted from 0."""
        return self.learning_rate / (1 + move / self.decay_updates) ** self.power


@dataclass(frozen=True)
class Adam(Rule):
    """Running mean of gradients over the root of their running mean square (Kingma and Ba, ICLR 2015).

    Attributes:
        learning_rate: Largest move of a component where gradients agree.
        beta1: Forgetting factor of the mean.
        beta2: Forgetting factor of the mean square.
        eps: Added to its root.
        weight_decay: Factor on beta that is added to the gradient; it pulls towards the lower bounds.
        decay_updates: See `Rule`.
    """

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def make(self, beta: torch.nn.Parameter) -> torch.optim.Optimizer:
        """`torch.optim.Adam`."""
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(
            [beta], lr=self.learning_rate, betas=betas, eps=self.eps, weight_decay=self.weight_decay
        )
