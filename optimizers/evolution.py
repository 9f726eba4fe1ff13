"""Evolution: any of nevergrad's optimizers, a generation an update."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hgenv import DecisionSpace

from .ask_tell import AskTell, AskTellError, said
from .base import Initial

TRIED = 3  # generations, before a method is used
PLAIN = "choose a plain method such as CMA, DiagonalCMA, DE, PSO, TBPSA"
EvolutionError = AskTellError


class Evolution(AskTell):
    """A derivative-free optimizer of nevergrad, by default CMA-ES (Hansen and Ostermeier, 2001).

    How it is asked, told and saved is in `AskTell`. CMA-ES ranks within a generation and is told losses; all others
    (DE, PSO, TBPSA, one plus one) compare with older ones and are told differences to the initial beta. Nevergrad has
    no word for a failed candidate: NaN and infinity become 5e20, and a constraint's violation becomes a penalty that
    grows with the number of losses told. So the worst loss there can be stands for it.

    Where a method has generations of its own (CMA-ES, DE, PSO, TBPSA), they are as large as the population: nevergrad's
    own choice, 30 or 40 for DE and PSO, would spend a short run on its first generation.

    Loading a saved state takes about a millisecond a candidate, less than half for CMA-ES.

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

    LIBRARY, PLAIN = "nevergrad", PLAIN

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
        population = 4 + int(3 * math.log(space.dimension)) if population is None else population
        if population < 2 or not sigma > 0:
            raise ValueError(f"population must be at least 2 and sigma positive, not {population} and {sigma}")
        self.sigma, self.budget = sigma, budget
        super().__init__(space, seed=seed, initial=initial, period=period, population=population, name=name)
        assert isinstance(self._method, _Method)
        self.compares = not self._method.ranks

    def _make(self, seed: int, initial: Tensor) -> _Method:
        return _Method(self.name, initial, self.population, self.sigma, self.budget, seed)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"sigma": self.sigma, "budget": self.budget}


class _Method:
    """Nevergrad's optimizer over [0, 1]^d.

    Attributes:
        ranks: Whether it learns of a generation's order alone.
    """

    def __init__(
        self, name: str, initial: Tensor, population: int, sigma: float, budget: int | None, seed: int
    ) -> None:
        from nevergrad.optimization.optimizerlib import _CMA

        _try(name, _make(name, initial, population, sigma, budget, seed), population)
        self.optimizer, self.population = _make(name, initial, population, sigma, budget, seed), population
        self.ranks = type(self.optimizer) is _CMA and self.optimizer._popsize == population
        self._asked: list[Any] = []  # and not told yet

    def ask(self) -> NDArray[np.float64]:
        """See `Method`."""
        while len(self._asked) < self.population:  # else what was asked before an interrupt
            self._asked.append(self.optimizer.ask())
        return np.stack([candidate.value for candidate in self._asked])

    def tell(self, losses: list[float]) -> None:
        """See `Method`."""
        for candidate, loss in zip(self._asked, losses, strict=True):
            self.optimizer.tell(candidate, loss)
        self._asked = []

    def retell(self, losses: list[float]) -> NDArray[np.float64]:
        """See `Method`. CMA-ES goes without nevergrad's records around it, which take most of the time."""
        if not self.ranks:
            candidates = self.ask()
            self.tell(losses)
            return candidates
        method = self.optimizer
        space, drawn = method.parametrization, np.stack(method.es.ask())
        origin, sigma = space._value, space.sigma.value
        (bounds,) = [layer for layer in space._layers if hasattr(layer, "_transform")]
        candidates = bounds._transform.forward(sigma * (drawn + origin / sigma))
        with suppress(RuntimeError, AssertionError):  # as nevergrad does
            method._es.tell(list((candidates - origin) / sigma), losses)
        method._num_ask += len(losses)
        method._num_tell += len(losses)
        return candidates


def _make(name: str, initial: Tensor, population: int, sigma: float, budget: int | None, seed: int) -> Any:
    """The nevergrad optimizer over [0, 1]^d."""
    # Late, because they take a second; both here, because nevergrad would import cma in the middle of an update.
    import cma  # type: ignore[import-untyped] # noqa: F401
    import nevergrad as ng
    from nevergrad.optimization import differentialevolution, optimizerlib
    from nevergrad.optimization.utils import Archive

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
    # A generation is an update.
    own: dict[str, Any] = {}
    match make:
        case optimizerlib.ParametrizedCMA():
            # Nevergrad starts bounded CMA at 0.3 of the mutation's sigma, or 0.15 from d = 18.
            scale = 1 / (0.3 if len(initial) < 18 else 0.15)
            # Mirrored samples, pycma's choice below six, do not survive nevergrad's rounding.
            # And pycma would take options from a file in the working directory.
            options = {"CMA_mirrors": 0, "signals_filename": ""}
            own = {"popsize": population, "scale": scale, "inopts": options}
        case differentialevolution.DifferentialEvolution() | optimizerlib.ConfPSO():
            own = {"popsize": population}
        case optimizerlib.ParametrizedTBPSA():
            own = {"initial_popsize": max(1, population // 4)}  # it is a quarter of the generation that it keeps
    if own:
        make = type(make)(**(make.config() | own))
    parametrization = ng.p.Array(init=initial.numpy(), lower=0.0, upper=1.0)
    parametrization.random_state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    parametrization.set_mutation(sigma=sigma)
    try:
        method = make(parametrization=parametrization, budget=budget, num_workers=population)
    except Exception as error:  # the methods come from many hands
        raise ValueError(
            f"nevergrad's {name} cannot take a generation of {population} in {len(initial)} dimensions "
            f"({said(error)}); {PLAIN}"
        ) from error
    if type(method) is optimizerlib._CMA:
        # It never looks at its records of 1000 candidates, which Python collects late: 5 kB a candidate until then.
        method.pruning = lambda records: Archive()
    return method


def _try(name: str, method: Any, population: int) -> None:
    """Use up a method on some generations of a sphere: many fail at their first."""
    try:
        for _ in range(TRIED):
            candidates = [method.ask() for _ in range(population)]
            for candidate in candidates:
                method.tell(candidate, float(np.square(candidate.value).sum()))
    except Exception as error:  # the methods come from many hands
        raise ValueError(f"nevergrad's {name} does not work here ({said(error)}); {PLAIN}") from error
