"""What every optimizer of a decision vector has in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv


class Optimizer(ABC):
    """Decides beta. An update improves beta, at the environment's expense, and ends in exactly one `env.step`.

    All start at the space's initial vector, draw from a generator of their own, and work on beta in scaled units,
    fractions of each component's range.

    Args:
        space: The decision space.
        seed: Decides everything that the optimizer draws.
        every: Updates from one improvement to the next; those between only step, so that training keeps up.

    Attributes:
        scaled: (d,) float64, the current beta in scaled units.
        random: The optimizer's own source of randomness.
    """

    def __init__(self, space: DecisionSpace, *, seed: int, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 update, not {every}")
        self.space, self.every = space, every
        self.random = torch.Generator().manual_seed(seed)
        self.scaled = self._project(space.scale(space.initial))

    def update(self, env: DataGenEnv) -> None:
        """Improve beta if it is time, and step. What came of the step is in `env.outcome`."""
        if env.update % self.every == 0:
            self.improve(env)
        self._step(env)

    @abstractmethod
    def improve(self, env: DataGenEnv) -> None:
        """Move `scaled`, asking the environment whatever that takes, short of a step."""

    @property
    def recommendation(self) -> Tensor:
        """The beta to report, (d,) in its own units."""
        return self._valid(self.scaled.detach())

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        return {"scaled": self.scaled.detach().clone(), "random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: The state is from another decision space.
        """
        if state["scaled"].shape != self.scaled.shape:
            raise ValueError(
                f"this state is of an optimizer of {len(state['scaled'])} components, but the space has "
                f"{self.space.dimension}; load it with the environment that it was saved with"
            )
        self.scaled.data = state["scaled"].clone()
        self.random.set_state(state["random"])

    def _step(self, env: DataGenEnv) -> None:
        env.step(self.recommendation)

    def _valid(self, scaled: Tensor) -> Tensor:
        """The nearest valid betas in their own units, (..., d)."""
        return self.space.project(self.space.unscale(scaled))

    def _project(self, scaled: Tensor) -> Tensor:
        """The nearest valid betas in scaled units, (..., d)."""
        return self.space.scale(self._valid(scaled))


class GradientOptimizer(Optimizer):
    """An optimizer that descends an estimate of dL/dbeta by an update rule of `torch.optim`.

    After a failed step beta goes back half way towards the last one that worked.

    Args:
        space: The decision space.
        seed: Decides everything that the optimizer draws.
        every: Updates from one descent to the next.
        learning_rate: Of the first descent.
        decay_updates: The learning rate of descent t is learning_rate / sqrt(1 + t / decay_updates); inf keeps it.
    """

    scaled: torch.nn.Parameter
    rule: torch.optim.Optimizer

    def __init__(
        self, space: DecisionSpace, *, seed: int, every: int, learning_rate: float, decay_updates: float
    ) -> None:
        super().__init__(space, seed=seed, every=every)
        if not learning_rate > 0 or not decay_updates > 0:
            raise ValueError(
                f"learning_rate and decay_updates must be positive, not {learning_rate} and {decay_updates}"
            )
        self.learning_rate, self.decay_updates = learning_rate, decay_updates
        self.scaled = torch.nn.Parameter(self.scaled)
        self._descents = 0
        self._worked: Tensor | None = None

    def update(self, env: DataGenEnv) -> None:
        """Improve beta if it is time, and step; after a failed step, go back half way."""
        super().update(env)
        assert env.outcome is not None
        if env.outcome.ok:
            self._worked = self.scaled.detach().clone()
        elif self._worked is not None:
            self.scaled.data = (self.scaled.detach() + self._worked) / 2

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        rest = {"rule": self.rule.state_dict(), "descents": self._descents, "worked": self._worked}
        return super().state_dict() | rest

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits."""
        super().load_state_dict(state)
        self.rule.load_state_dict(state["rule"])
        self._descents, self._worked = state["descents"], state["worked"]

    def _descend(self, trust: Tensor | float = 1.0) -> None:
        """beta <- project(beta - trust * rule(gradient)), the gradient being in `scaled.grad`."""
        before = self.scaled.detach().clone()
        for group in self.rule.param_groups:
            group["lr"] = self.learning_rate / math.sqrt(1 + self._descents / self.decay_updates)
        self.rule.step()
        self.scaled.data = self._project(before + trust * (self.scaled.detach() - before))
        self._descents += 1


def total(slopes: Tensor) -> Tensor:
    """Sum over all samples, extrapolated from those that have an estimate; (N, d) to (d,), 0 where none has."""
    return len(slopes) * slopes.nanmean(0).nan_to_num(0)


def trust(slopes: Tensor) -> Tensor:
    """How far a mean over samples is to be believed, (N, d) with NaN for what is missing, to (d,) in [0, 1].

    The positive-part James-Stein factor max(0, 1 - 1 / t^2), t being the mean over its standard error: components that
    are pure noise stay where they are two times out of three, while RMSprop alone would move them at full step.
    """
    counts = (~slopes.isnan()).sum(0)
    mean = slopes.nanmean(0).nan_to_num(0)
    variance = ((slopes - mean) ** 2).nansum(0) / (counts - 1).clamp(min=1)
    squared_error = torch.where(counts > 1, variance / counts.clamp(min=1), torch.inf)
    return (1 - squared_error / (mean**2).clamp(min=1e-300)).clamp(min=0)
