"""Optuna's samplers, a generation an update."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hgenv import DecisionSpace

from .ask_tell import AskTell
from .base import Initial

SAMPLERS = ("TPESampler", "CmaEsSampler", "GPSampler", "QMCSampler", "RandomSampler")


class OptunaSearch(AskTell):
    """A sampler of Optuna (Akiba et al., KDD 2019), by default the tree-structured Parzen estimator.

    TPE (Bergstra et al., NeurIPS 2011) models where good and where bad candidates were by two densities, and asks where
    their ratio is highest. Here it models all components jointly (`multivariate`, Falkner et al., ICML 2018); its first
    ten candidates are uniform. Others by name: CmaEsSampler (needs the library cmaes), GPSampler (Bayesian optimization
    by a Gaussian process; needs time, which grows with the cube of the candidates), QMCSampler, RandomSampler.

    How it is asked, told and saved is in `AskTell`. A sampler compares all candidates of the run, so it is told
    differences to the incumbent. A failed probe is told as what it is, a failed trial, from which samplers learn
    nothing. The study is in memory. Loading a saved state takes as long as asking did, for TPE some milliseconds a
    candidate, more as there are more. The library is an extra: `pip install "hgenv[search]"`.

    Args:
        space: The decision space.
        seed: Decides what the sampler draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one generation to the next; those between only step.
        name: Of the sampler in `optuna.samplers`.
        population: Candidates a generation.

    Raises:
        ValueError: There is no such sampler, or it cannot be used here; or `population` is not positive.
        ModuleNotFoundError: The library is not installed.
    """

    LIBRARY = "optuna"
    PLAIN = "choose TPESampler, or evolution instead"
    FAILED = float("nan")

    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        initial: Initial = None,
        period: int = 4,
        name: str = "TPESampler",
        population: int = 8,
    ) -> None:
        if population < 1:
            raise ValueError(f"population must be positive, not {population}")
        if name not in SAMPLERS:
            raise ValueError(f"optuna has no sampler {name!r} that serves here; choose {', '.join(SAMPLERS)}")
        super().__init__(space, seed=seed, initial=initial, period=period, population=population, name=name)

    def _make(self, seed: int, initial: Tensor) -> _Method:
        return _Method(self.name, seed, initial, self.population)


class _Method:
    """See `hgenv.optimizers.ask_tell.Method`."""

    def __init__(self, name: str, seed: int, initial: Tensor, population: int) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'optuna needs the library of that name: pip install "hgenv[search]" (or optuna), or choose evolution'
            ) from error
        word = int(np.random.SeedSequence(seed).generate_state(1)[0])  # what it seeds its generators with: 32 bits
        self.box = {f"{i:04d}": optuna.distributions.FloatDistribution(0.0, 1.0) for i in range(len(initial))}
        start = dict(zip(self.box, initial.tolist(), strict=True))
        options: dict[str, dict[str, Any]] = {
            "TPESampler": {"multivariate": True},
            "CmaEsSampler": {"x0": start, "sigma0": 0.1, "popsize": population},
        }
        with _quiet():
            sampler = getattr(optuna.samplers, name)(seed=word, **options.get(name, {}))
            self.study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)
        self.failed, self.population = optuna.trial.TrialState.FAIL, population
        self._asked: list[Any] = []

    def ask(self) -> NDArray[np.float64]:
        """See `Method`."""
        with _quiet():
            while len(self._asked) < self.population:  # else what was asked before an interrupt
                self._asked.append(self.study.ask(self.box))
        return np.array([[trial.params[name] for name in self.box] for trial in self._asked])

    def tell(self, losses: list[float]) -> None:
        """See `Method`."""
        with _quiet():
            for trial, loss in zip(self._asked, losses, strict=True):
                if np.isnan(loss):
                    self.study.tell(trial, state=self.failed)
                else:
                    self.study.tell(trial, loss)
        self._asked = []

    def retell(self, losses: list[float]) -> NDArray[np.float64]:
        """See `Method`."""
        candidates = self.ask()
        self.tell(losses)
        return candidates


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's words on studies in memory and on what is experimental, inside alone."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
