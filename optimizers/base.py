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
        shrink: None, or how much of what `Trust` knows outlasts a descent, 0 to 1 (exclusive).
    """

    scaled: torch.nn.Parameter
    rule: torch.optim.Optimizer

    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        every: int,
        learning_rate: float,
        decay_updates: float,
        shrink: float | None = None,
    ) -> None:
        super().__init__(space, seed=seed, every=every)
        if not learning_rate > 0 or not decay_updates > 0:
            raise ValueError(
                f"learning_rate and decay_updates must be positive, not {learning_rate} and {decay_updates}"
            )
        self.learning_rate, self.decay_updates = learning_rate, decay_updates
        self.scaled = torch.nn.Parameter(self.scaled)
        self.trust = None if shrink is None else Trust(shrink, space.dimension)
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
        trust = None if self.trust is None else self.trust.state_dict()
        return super().state_dict() | rest | {"trust": trust}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits."""
        super().load_state_dict(state)
        self.rule.load_state_dict(state["rule"])
        self._descents, self._worked = state["descents"], state["worked"]
        if self.trust is not None:
            self.trust.load_state_dict(state["trust"])

    def _descend(self, gradient: Tensor, slopes: Tensor | None = None) -> None:
        """beta <- project(beta - trust * rule(gradient)); `slopes` are what it is a mean of, for `Trust`."""
        before = self.scaled.detach().clone()
        self.scaled.grad = gradient
        for group in self.rule.param_groups:
            group["lr"] = self.learning_rate / math.sqrt(1 + self._descents / self.decay_updates)
        self.rule.step()
        share = 1.0 if self.trust is None or slopes is None else self.trust(slopes)
        self.scaled.data = self._project(before + share * (self.scaled.detach() - before))
        self._descents += 1


def total(slopes: Tensor) -> Tensor:
    """Sum over all samples, extrapolated from those that have an estimate; (N, d) to (d,), 0 where none has."""
    return len(slopes) * slopes.nanmean(0).nan_to_num(0)


class Trust:
    """How far a mean over samples is to be believed, for each component: not in the paper.

    The positive-part James-Stein factor max(0, 1 - 1 / t^2), t being the mean over its standard error. Components that
    are pure noise stay where they are two times out of three, while RMSprop alone would move them at full step. With a
    memory m, mean and error are those of the moving average (1 - m) sum_j m^j (estimate of j descents ago): a signal
    that is weaker than the noise of one estimate shows in time, and noise averages out.

    Args:
        memory: m, 0 to 1 (exclusive).
        dimension: d.

    Raises:
        ValueError: `memory` is out of range.
    """

    def __init__(self, memory: float, dimension: int) -> None:
        if not 0 <= memory < 1:
            raise ValueError(f"shrink must be None or at least 0 and below 1, not {memory}")
        self.memory = memory
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._squared_error = torch.zeros(dimension, dtype=torch.float64)

    def __call__(self, slopes: Tensor) -> Tensor:
        """Take in one estimate's (N, d) slopes, NaN for what is missing; (d,) factors in [0, 1]."""
        counts = (~slopes.isnan()).sum(0)
        mean = slopes.nanmean(0).nan_to_num(0)
        variance = ((slopes - mean) ** 2).nansum(0) / (counts - 1).clamp(min=1)
        # One value says nothing about its noise: that is as large as itself then.
        squared_error = torch.where(counts > 1, variance / counts.clamp(min=1), mean**2)
        known, memory = counts > 0, self.memory
        self._mean = torch.where(known, memory * self._mean + (1 - memory) * mean, self._mean)
        error = memory**2 * self._squared_error + (1 - memory) ** 2 * squared_error
        self._squared_error = torch.where(known, error, self._squared_error)
        factor = (1 - self._squared_error / (self._mean**2).clamp(min=1e-300)).clamp(min=0)
        return torch.where(self._mean != 0, factor, 0)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next call depends on."""
        return {"mean": self._mean, "squared_error": self._squared_error}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        self._mean, self._squared_error = state["mean"], state["squared_error"]
