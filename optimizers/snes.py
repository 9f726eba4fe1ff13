"""SNES: a Gaussian over beta whose mean and spreads follow the natural gradient of ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace
from hgenv.device import own_modes

from .base import Initial, Optimizer


class SNES(Optimizer):
    """Separable natural evolution strategies (Schaul, Glasmachers and Schmidhuber, GECCO 2011, algorithm 2).

    Every `period` updates it draws s_k ~ N(0, I), probes mu + sigma * s_k from the same weights and sample seeds, and
    ranks them. With utilities u_1 >= ... >= u_P that sum to zero, for the lowest loss first,

        mu <- mu + sigma * sum_k u_k s_k
        sigma <- sigma * exp(eta / 2 * sum_k u_k (s_k^2 - 1)),    eta = (3 + ln d) / (5 sqrt(d))

    component by component; the environment steps at mu. Utilities are the paper's: max(0, ln(P / 2 + 1) - ln k),
    divided by their sum, less 1 / P. Ranks are taken within an update, so that nothing compares losses of different
    ones. A probe that fails ranks last; if all fail, nothing is learned. No spread grows beyond the whole range.

    Args:
        space: The decision space.
        seed: Decides the draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one generation to the next; those between only step.
        population: P, probes a generation.
        sigma: Initial standard deviation, as a fraction of each component's range.

    Raises:
        ValueError: `population` or `sigma` are out of range.
    """

    @own_modes()
    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        initial: Initial = None,
        period: int = 4,
        population: int = 8,
        sigma: float = 0.1,
    ) -> None:
        super().__init__(space, seed=seed, initial=initial, period=period)
        if population < 2 or not sigma > 0:
            raise ValueError(f"population must be at least 2 and sigma positive, not {population} and {sigma}")
        self.population, self.sigma = population, sigma
        self.spreads = torch.full((space.dimension,), float(sigma), dtype=torch.float64)

    def improve(self, env: DataGenEnv) -> None:
        """Probe a generation, follow the natural gradient."""
        size, d = self.population, self.space.dimension
        draws = torch.randn((size, d), generator=self.random, dtype=torch.float64)
        outcomes = env.probe(self._valid(self.normalized + self.spreads * draws))
        losses = torch.tensor([math.inf if o.loss is None else o.loss for o in outcomes], dtype=torch.float64)
        if losses.isinf().all():
            return
        s = draws[losses.argsort(stable=True)]
        u = utilities(size)[:, None]
        self.normalized = self._project(self.normalized + self.spreads * (u * s).sum(0))
        eta = (3 + math.log(d)) / (5 * math.sqrt(d))
        self.spreads = (self.spreads * torch.exp(eta / 2 * (u * (s**2 - 1)).sum(0))).clamp(max=1)

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        return super().state_dict() | {"spreads": self.spreads.clone()}

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: As `Optimizer.load_state_dict`.
        """
        like = {"normalized": self._beta, "spreads": self._beta}
        kept = self._checked(state, like, [*like, "random"])
        super().load_state_dict(state)
        self.spreads = kept["spreads"]


def utilities(size: int) -> Tensor:
    """Those of `size` ranks, best first, (P,); they sum to zero."""
    raw = (math.log(size / 2 + 1) - torch.arange(1, size + 1, dtype=torch.float64).log()).clamp(min=0)
    return raw / raw.sum() - 1 / size
