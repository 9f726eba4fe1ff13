"""CMA-ES whose learning rates adapt to noise, of the library cmaes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hgenv import DecisionSpace

from .ask_tell import AskTell
from .base import Initial


class CMAESLRA(AskTell):
    """CMA-ES with learning-rate adaptation (Nomura, Akimoto and Ono, GECCO 2023), of the library `cmaes`.

    Plain CMA-ES with a small population trusts each generation fully, and noise makes it walk. This one keeps the
    signal-to-noise ratio of its updates constant: it estimates that of the mean's and of the covariance's update, and
    lowers the learning rate of each where it is low. So 8 candidates a generation do for noisy and multimodal losses.

    How it is asked, told and saved is in `AskTell`. It ranks within a generation. Candidates are drawn anew until they
    are within the bounds, 100 times at most, and clipped then. Loading a saved state takes about 0.1 ms a candidate.
    The library is an extra: `pip install "hgenv[search]"`.

    Args:
        space: The decision space.
        seed: Decides what the method draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one generation to the next; those between only step.
        population: Candidates a generation.
        sigma: Initial standard deviation, as a fraction of each component's range.

    Raises:
        ValueError: `population` or `sigma` are out of range.
        ModuleNotFoundError: The library is not installed.
    """

    LIBRARY = "cmaes"
    PLAIN = "choose evolution instead, or a larger sigma"
    compares = False

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
        if population < 4 or not sigma > 0:
            raise ValueError(f"population must be at least 4 and sigma positive, not {population} and {sigma}")
        self.sigma = float(sigma)
        super().__init__(space, seed=seed, initial=initial, period=period, population=population, name="CMA")

    def _make(self, seed: int, initial: Tensor) -> _Method:
        return _Method(seed, initial, self.population, self.sigma)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"sigma": self.sigma}


class _Method:
    """See `hgenv.optimizers.ask_tell.Method`."""

    def __init__(self, seed: int, initial: Tensor, population: int, sigma: float) -> None:
        try:
            import cmaes
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'cmaes_lra needs the library cmaes: pip install "hgenv[search]" (or cmaes), or choose evolution'
            ) from error
        word = int(np.random.SeedSequence(seed).generate_state(1)[0])  # what it seeds its generator with: 32 bits
        box = np.tile([0.0, 1.0], (len(initial), 1))
        self.cma = cmaes.CMA(
            mean=initial.numpy(), sigma=sigma, bounds=box, seed=word, population_size=population, lr_adapt=True
        )
        self._asked: list[NDArray[np.float64]] = []

    def ask(self) -> NDArray[np.float64]:
        """See `Method`."""
        while len(self._asked) < self.cma.population_size:  # else what was asked before an interrupt
            self._asked.append(self.cma.ask())
        return np.stack(self._asked)

    def tell(self, losses: list[float]) -> None:
        """See `Method`."""
        self.cma.tell(list(zip(self._asked, losses, strict=True)))
        self._asked = []

    def retell(self, losses: list[float]) -> NDArray[np.float64]:
        """See `Method`."""
        candidates = self.ask()
        self.tell(losses)
        return candidates
