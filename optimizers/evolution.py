"""Evolution: any of nevergrad's optimizers, a generation an update."""

from __future__ import annotations

import hashlib
import math
import random
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace
from hgenv.device import own_modes
from hgenv.patience import patience

from .base import Initial, Optimizer

TRIED = 3  # generations, before a method is used
LARGEST = 5e20  # what nevergrad takes a larger loss for
_ELSEWHERE = "another version of nevergrad, cma or numpy, or of another kind of processor: go on there, or begin anew"
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

    A saved state is data: the losses that nevergrad was told. When it is loaded, they are told again to a method made
    anew, which asks the same candidates again. That takes about a millisecond a candidate, less than half for CMA-ES.

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
        self.name, self.sigma, self.budget = name, sigma, budget
        # What decides which candidates are asked; a state brings its own.
        self._seed, self._initial = seed, self.normalized.clone()
        with _global_randomness_kept():
            _try(name, self._make(seed, self._initial), self.population)
            self._nevergrad = self._make(seed, self._initial)
        self._asked: list[Any] = []  # and not told yet
        self._told = array("d")
        self._digest = hashlib.sha256()  # of all that was asked

    def improve(self, env: DataGenEnv) -> None:
        """Ask, probe, tell.

        Raises:
            EvolutionError: Nevergrad's method failed.
        """
        with _global_randomness_kept(), self._named(env):
            while len(self._asked) < self.population:  # else what was asked before an interrupt
                self._asked.append(self._nevergrad.ask())
        candidates = np.stack([candidate.value for candidate in self._asked])
        members = self._project(torch.from_numpy(candidates))
        if not self._told:
            members = torch.cat([self.normalized[None], members])
        outcomes = env.probe(self._valid(members))
        losses = torch.tensor([env.task.max_loss if o.loss is None else o.loss for o in outcomes])
        told = [min(loss, LARGEST) for loss in losses[-self.population :].tolist()]
        with _global_randomness_kept(), self._named(env):
            for candidate, loss in zip(self._asked, told, strict=True):
                self._nevergrad.tell(candidate, loss)
        self._asked = []
        self._told.extend(told)
        self._digest.update(candidates.tobytes())
        worked = torch.tensor([o.ok for o in outcomes])
        if worked.any():
            ordered = members[worked][losses[worked].argsort(stable=True)]
            self.normalized = self._project(ordered[: (len(ordered) + 1) // 2].mean(0))

    @own_modes()
    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`: tensors, numbers and texts."""
        return super().state_dict() | self._settings() | {
            "seed": self._seed,
            "initial": self._initial.clone(),
            "told": torch.tensor(self._told, dtype=torch.float64),
            "digest": self._digest.hexdigest(),
        }  # fmt: skip

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: The state is from another decision space, another method or other settings, is damaged, or
                nevergrad does not ask the same candidates again. Nothing has changed.
        """
        kept = self._checked(state, self._like(), [*self._like(), "normalized", "random"])
        told, digest = kept["told"].tolist(), hashlib.sha256()
        with _global_randomness_kept():
            method = self._make(kept["seed"], kept["initial"])
            with patience(f"nevergrad's {self.name} is told {len(told)} losses again"):
                try:
                    for candidates in _retell(method, told, self.population):
                        digest.update(candidates.tobytes())
                except Exception as error:  # the methods come from many hands
                    raise ValueError(
                        f"nevergrad's {self.name} fails on what this state says that it was told ({_said(error)}); the "
                        f"state is damaged, or of {_ELSEWHERE}"
                    ) from error
        if digest.hexdigest() != state["digest"]:
            raise ValueError(
                f"nevergrad's {self.name} does not ask the candidates again that led to this state; it is damaged, or "
                f"of {_ELSEWHERE}"
            )
        super().load_state_dict(state)
        self._nevergrad, self._asked, self._told, self._digest = method, [], array("d", told), digest
        self._seed, self._initial = kept["seed"], kept["initial"]

    def _settings(self) -> dict[str, Any]:
        return {"name": self.name, "population": self.population, "sigma": self.sigma, "budget": self.budget}

    def _like(self) -> dict[str, Any]:
        """What a state of this optimizer has besides `Optimizer`'s, see `hgenv.saved.copy_like`."""

        def initial(found: Any) -> Tensor:
            beta = self._beta(found)
            if not torch.equal(beta, beta.clamp(0, 1)):
                raise ValueError("the saved state's 'initial' is not within [0, 1]; load another one, or begin anew")
            return beta

        def losses(found: Any) -> Any:
            vector = isinstance(found, Tensor) and found.dim() == 1 and found.dtype == torch.float64
            # Not contiguous: one number that stands for a million is no memory of its own.
            if not vector or not found.is_contiguous() or len(found) % self.population or not found.isfinite().all():
                raise ValueError(
                    "the saved state's 'told' is no losses of whole generations; load another one, or begin anew"
                )
            return found.clone()

        settings = {name: partial(_same, name, own) for name, own in self._settings().items()}
        return settings | {"seed": 0, "initial": initial, "told": losses, "digest": ""}

    def _make(self, seed: int, initial: Tensor) -> Any:
        """Nevergrad's method before the first generation."""
        return _make(self.name, initial, self.population, self.sigma, self.budget, seed)

    @contextmanager
    def _named(self, env: DataGenEnv) -> Iterator[None]:
        """Say whose failure it is."""
        try:
            yield
        except Exception as error:  # the methods come from many hands
            raise EvolutionError(
                f"nevergrad's {self.name} failed at update {env.update + 1} ({_said(error)}); {PLAIN}"
            ) from error


_KEEPING = threading.RLock()  # else one thread would keep what another one has not put back yet


@contextmanager
def _global_randomness_kept() -> Iterator[None]:
    """Undo what nevergrad does to global random states.

    It seeds generators from numpy's that it never uses; and its import draws from `random`'s.
    """
    with _KEEPING:
        state, other = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
            random.setstate(other)


def _make(name: str, initial: Tensor, population: int, sigma: float, budget: int | None, seed: int) -> Any:
    """The nevergrad optimizer over [0, 1]^d."""
    # Late, because they take a second; both here, because nevergrad would import cma in the middle of an update.
    import cma  # type: ignore[import-untyped] # noqa: F401
    import nevergrad as ng
    from nevergrad.optimization import optimizerlib
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
    if isinstance(make, ng.optimizers.ParametrizedCMA):
        # A generation is an update. Nevergrad starts bounded CMA at 0.3 of the mutation's sigma, or 0.15 from d = 18.
        scale = 1 / (0.3 if len(initial) < 18 else 0.15)
        # Mirrored samples, pycma's choice below six, do not survive nevergrad's rounding.
        # And pycma would take options from a file in the working directory.
        plain = {"popsize": population, "scale": scale, "inopts": {"CMA_mirrors": 0, "signals_filename": ""}}
        make = type(make)(**(make.config() | plain))
    parametrization = ng.p.Array(init=initial.numpy(), lower=0.0, upper=1.0)
    parametrization.random_state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    parametrization.set_mutation(sigma=sigma)
    try:
        method = make(parametrization=parametrization, budget=budget, num_workers=population)
    except Exception as error:  # the methods come from many hands
        raise ValueError(
            f"nevergrad's {name} cannot take a generation of {population} in {len(initial)} dimensions "
            f"({_said(error)}); {PLAIN}"
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
        raise ValueError(f"nevergrad's {name} does not work here ({_said(error)}); {PLAIN}") from error


def _retell(method: Any, told: list[float], population: int) -> Iterator[NDArray[np.float64]]:
    """Have a new method ask again, and tell it the losses, a generation at a time; gives the (population, d) asked."""
    from nevergrad.optimization.optimizerlib import _CMA

    for first in range(0, len(told), population):
        losses = told[first : first + population]
        if type(method) is _CMA and method._popsize == population:
            yield _retell_cma(method, losses)
            continue
        candidates = [method.ask() for _ in losses]
        yield np.stack([candidate.value for candidate in candidates])
        for candidate, loss in zip(candidates, losses, strict=True):
            method.tell(candidate, loss)


def _retell_cma(method: Any, losses: list[float]) -> NDArray[np.float64]:
    """A generation of CMA-ES without nevergrad's records around it, which take most of the time."""
    space, drawn = method.parametrization, np.stack(method.es.ask())
    origin, sigma = space._value, space.sigma.value
    (bounds,) = [layer for layer in space._layers if hasattr(layer, "_transform")]
    candidates = bounds._transform.forward(sigma * (drawn + origin / sigma))
    with suppress(RuntimeError, AssertionError):  # as nevergrad does
        method._es.tell(list((candidates - origin) / sigma), losses)
    method._num_ask += len(losses)
    method._num_tell += len(losses)
    return candidates


def _same(name: str, own: Any, found: Any) -> Any:
    """A setting of a saved state, which has to be this optimizer's.

    Raises:
        ValueError: It is another one.
    """
    if type(found) is not type(own) or found != own:
        raise ValueError(
            f"this state is of evolution with {name}={found!r}, but this optimizer has {name}={own!r}; load it with "
            "the settings that it was saved with"
        )
    return own


def _said(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {error}".strip().split("\n")[0].rstrip(": ")
