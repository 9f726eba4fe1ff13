"""Evolution: any of nevergrad's optimizers, a generation an update."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace

from .base import Initial, Optimizer

TRIED = 3  # generations, before a method is used
PLAIN = "choose a plain method such as CMA, DiagonalCMA, DE, PSO, TBPSA"


class EvolutionError(RuntimeError):
    """A method of nevergrad that failed at work. The message names it, and says what to do."""


class Evolution(Optimizer):
    """A derivative-free optimizer of nevergrad, by default CMA-ES (Hansen and Ostermeier, 2001).

    Every `period` updates it asks nevergrad for a generation of candidates, probes them from the same weights and
    sample seeds, tells their losses, and steps at the mean of their better half. The first update probes the initial
    beta before them, as most methods would not. It competes for the step, but it is not told, since it is no draw of
    the method's (TBPSA's step size would collapse). Candidates are projected onto the valid set; nevergrad learns the
    loss of the projection.

    The weights train, so losses of different updates cannot be compared. CMA-ES ranks within a generation, whose
    members are probed alike; methods that compare with older losses (DE, PSO) are misled to the extent that L falls by
    training alone. A failed probe is told as the worst loss there can be (`task.max_loss`): nevergrad would turn NaN
    into 5e20. If all fail, the environment steps where it last did.

    Args:
        space: The decision space.
        seed: Decides what nevergrad draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one generation to the next; those between only step.
        name: In `nevergrad.optimizers.registry`.
        population: Candidates a generation; None for CMA-ES's 4 + 3 ln d, rounded down.
        sigma: Initial standard deviation, as a fraction of each component's range: exactly so for CMA-ES
            without a budget; for other methods that of nevergrad's unit mutation.
        budget: Evaluations that nevergrad plans for. Plain methods go without; portfolios that choose by it need one.

    Raises:
        ValueError: Nevergrad has no such method, or it does not work here: each is tried on a sphere first.
    """

    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        initial: Initial = None,
        period: int = 4,
        name: str = "CMA",
        population: int | None = 8,
        sigma: float = 0.1,
        budget: int | None = None,
    ) -> None:
        super().__init__(space, seed=seed, initial=initial, period=period)
        self.population = 4 + int(3 * math.log(space.dimension)) if population is None else population
        if self.population < 2 or not sigma > 0:
            raise ValueError(f"population must be at least 2 and sigma positive, not {self.population} and {sigma}")
        self.name, self._started = name, False
        with _numpy_state_kept():
            _try(name, _make(name, self.normalized, self.population, sigma, budget, seed), self.population)
            self._nevergrad = _make(name, self.normalized, self.population, sigma, budget, seed)

    def improve(self, env: DataGenEnv) -> None:
        """Ask, probe, tell.

        Raises:
            EvolutionError: Nevergrad's method failed.
        """
        with _numpy_state_kept(), self._named(env):
            candidates = [self._nevergrad.ask() for _ in range(self.population)]
        members = self._project(torch.from_numpy(np.stack([c.value for c in candidates])))
        if not self._started:
            members, self._started = torch.cat([self.normalized[None], members]), True
        outcomes = env.probe(self._valid(members))
        losses = torch.tensor([env.task.max_loss if o.loss is None else o.loss for o in outcomes])
        with _numpy_state_kept(), self._named(env):
            for candidate, loss in zip(candidates, losses[-self.population :].tolist(), strict=True):
                self._nevergrad.tell(candidate, loss)
        worked = torch.tensor([o.ok for o in outcomes])
        if worked.any():
            ordered = members[worked][losses[worked].argsort(stable=True)]
            self.normalized = self._project(ordered[: (len(ordered) + 1) // 2].mean(0))

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        return super().state_dict() | {"nevergrad": pickle.dumps(self._nevergrad), "started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits."""
        super().load_state_dict(state)
        self._nevergrad, self._started = pickle.loads(state["nevergrad"]), state["started"]

    @contextmanager
    def _named(self, env: DataGenEnv) -> Iterator[None]:
        """Say whose failure it is."""
        try:
            yield
        except Exception as error:  # the methods come from many hands
            raise EvolutionError(
                f"nevergrad's {self.name} failed at update {env.update + 1} ({_said(error)}); {PLAIN}"
            ) from error


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """Undo what nevergrad does to numpy's global random state: it seeds generators from it that it never uses."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _make(name: str, initial: Tensor, population: int, sigma: float, budget: int | None, seed: int) -> Any:
    """The nevergrad optimizer over [0, 1]^d."""
    # Late, because they take a second; both here, because nevergrad would import cma in the middle of an update.
    import cma  # type: ignore[import-untyped] # noqa: F401
    import nevergrad as ng

    if name not in ng.optimizers.registry:
        raise ValueError(
            f"nevergrad knows no optimizer {name!r}; choose e.g. CMA, DiagonalCMA, DE, TwoPointsDE, PSO, TBPSA, "
            f"OnePlusOne (all {len(ng.optimizers.registry)}: sorted(nevergrad.optimizers.registry))"
        )
    if name.startswith("NGOpt") or "MetaModel" in name:
        raise ValueError(
            f"nevergrad's {name} breaks down in the middle of a run on numpy 2.4 (a scalar conversion in its surrogate "
            f"models); {PLAIN}"
        )
    # Without a budget, nevergrad's CMA is ParametrizedCMA(); named so, it can be configured.
    make = ng.optimizers.ParametrizedCMA() if name == "CMA" and budget is None else ng.optimizers.registry[name]
    if isinstance(make, ng.optimizers.ParametrizedCMA):
        # A generation is an update. Nevergrad starts bounded CMA at 0.3 of the mutation's sigma, or 0.15 from d = 18.
        scale = 1 / (0.3 if len(initial) < 18 else 0.15)
        # Mirrored samples, pycma's choice below six, do not survive nevergrad's rounding.
        plain = {"popsize": population, "scale": scale, "inopts": {"CMA_mirrors": 0}}
        make = type(make)(**(make.config() | plain))
    parametrization = ng.p.Array(init=initial.numpy(), lower=0.0, upper=1.0)
    parametrization.random_state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    parametrization.set_mutation(sigma=sigma)
    try:
        return make(parametrization=parametrization, budget=budget, num_workers=population)
    except Exception as error:  # the methods come from many hands
        raise ValueError(
            f"nevergrad's {name} cannot take a generation of {population} in {len(initial)} dimensions "
            f"({_said(error)}); {PLAIN}"
        ) from error


def _try(name: str, method: Any, population: int) -> None:
    """Use up a method on some generations of a sphere: many fail at their first."""
    try:
        for _ in range(TRIED):
            candidates = [method.ask() for _ in range(population)]
            for candidate in candidates:
                method.tell(candidate, float(np.square(candidate.value).sum()))
    except Exception as error:  # the methods come from many hands
        raise ValueError(f"nevergrad's {name} does not work here ({_said(error)}); {PLAIN}") from error


def _said(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {error}".strip().split("\n")[0].rstrip(": ")
