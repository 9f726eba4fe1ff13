"""Methods of libraries that are asked for candidates and told what came of them: the loop, and saved states as data."""

from __future__ import annotations

import hashlib
import random
import threading
from abc import abstractmethod
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace
from hgenv.device import own_modes
from hgenv.patience import patience

from .base import Initial, Optimizer

LARGEST = 5e20  # what a larger loss is told as: nevergrad's own bound


class AskTellError(RuntimeError):
    """A library's method that failed at work. The message names it, and says what to do."""


class Method(Protocol):
    """A library's method over [0, 1]^d, driven a generation at a time."""

    def ask(self) -> NDArray[np.float64]:
        """A generation of candidates, (P, d). The same again until it is told."""
        ...

    def tell(self, losses: list[float]) -> None:
        """What came of the P candidates asked last."""
        ...

    def retell(self, losses: list[float]) -> NDArray[np.float64]:
        """Ask and tell at once; gives what was asked, (P, d)."""
        ...


class AskTell(Optimizer):
    """A method of a library behind ask and tell, a generation an update.

    Every `period` updates it asks for a generation of candidates, probes them from the same weights and sample seeds,
    tells their losses, and steps at the mean of their better half. The first update probes the initial beta before
    them, as most methods would not. It competes for the step, but it is not told, since it is no draw of the method's.
    Candidates are projected onto the valid set; the method learns the loss of the projection. If all probes fail, the
    environment steps where it last did.

    **What is told.** The weights train, so L falls whatever beta is, and losses of different updates cannot be
    compared. A method that ranks within a generation (`compares` is false) is told them as they are. For any other the
    incumbent, the best beta told so far, is probed with each generation, from the same weights and sample seeds, at the
    price of one probe; and a candidate is told as what the incumbent was told as, plus by how much it is worse:

        V(beta) = V(incumbent) + L(beta) - L(incumbent),    V(initial) = 0

    So V is a sum of differences, each of which was measured within one update. A candidate becomes the incumbent if
    and only if it is better at the weights that there are. (Differences to the initial beta alone are no cure: they are
    largest before the network has learned, and what was good then stays ahead for ever.) The incumbent competes for the
    step. Should its probe fail, the generation's median takes its place. A failed probe is told as the worst loss
    there can be (`task.max_loss`), or, where the library knows failed trials (`FAILED` is NaN), as one of those.

    A saved state is data: what the method was told. When it is loaded, a method made anew is told the same, and asks
    the same candidates again.

    Args:
        space: The decision space.
        seed: Decides what the method draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one generation to the next; those between only step.
        population: Candidates a generation.

    Attributes:
        LIBRARY: Whose methods these are.
        PLAIN: What to do where one fails.
        FAILED: What a failed probe is told as; None for the worst loss there can be.
        compares: Whether the method compares losses of different generations.

    Raises:
        ValueError: There is no such method, or it does not work here.
    """

    LIBRARY: ClassVar[str]
    PLAIN: ClassVar[str]
    FAILED: ClassVar[float | None] = None
    compares = True

    def __init__(
        self, space: DecisionSpace, *, seed: int, initial: Initial, period: int, population: int, name: str
    ) -> None:
        super().__init__(space, seed=seed, initial=initial, period=period)
        self.population, self.name = population, name
        # What decides which candidates are asked; a state brings its own.
        self._seed, self._initial = seed, self.normalized.clone()
        with global_randomness_kept():
            self._method = self._make(seed, self._initial)
        self._history = _History(self._initial)

    def improve(self, env: DataGenEnv) -> None:
        """Ask, probe, tell.

        Raises:
            AskTellError: The library's method failed.
        """
        with global_randomness_kept(), self._named(env):
            candidates = self._method.ask()
        members, first = self._project(torch.from_numpy(candidates)), not self._history.told
        if first or self.compares:
            members = torch.cat([self._project(self._history.incumbent)[None], members])
        outcomes = env.probe(self._valid(members))
        losses = [outcome.loss for outcome in outcomes]
        told = self._values(losses, env.task.max_loss)
        with global_randomness_kept(), self._named(env):
            self._method.tell(told)
        self._history.add(candidates, told)
        if not first:  # the incumbent has had its turn
            members, losses = members[-self.population :], losses[-self.population :]
        known = torch.tensor([float("inf") if loss is None else loss for loss in losses], dtype=torch.float64)
        worked = int(known.isfinite().sum())
        if worked:
            self.normalized = self._project(members[known.argsort(stable=True)[: (worked + 1) // 2]].mean(0))

    def _values(self, losses: list[float | None], worst: float) -> list[float]:
        """V of a generation, given the losses of all that was probed: the incumbent's, if it was, and then its own."""
        generation, failed = losses[-self.population :], worst if self.FAILED is None else self.FAILED
        zero = 0.0
        if self.compares:
            known = [loss for loss in generation if loss is not None] or [0.0]
            zero = (float(np.median(known)) if losses[0] is None else losses[0]) - self._history.best
        return [failed if loss is None else min(loss - zero, LARGEST) for loss in generation]

    @own_modes()
    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`: tensors, numbers and texts."""
        return super().state_dict() | self._settings() | {
            "seed": self._seed,
            "initial": self._initial.clone(),
            "told": torch.tensor(self._history.told, dtype=torch.float64),
            "digest": self._history.digest.hexdigest(),
        }  # fmt: skip

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: The state is from another decision space, another method or other settings, is damaged, or the
                library does not ask the same candidates again. Nothing has changed.
        """
        kept = self._checked(state, self._like(), [*self._like(), "normalized", "random"])
        told, history, who = kept["told"].tolist(), _History(kept["initial"]), f"{self.LIBRARY}'s {self.name}"
        elsewhere = f"another version of {self.LIBRARY} or of what it stands on, or of another kind of processor: go " \
            "on there, or begin anew"  # fmt: skip
        with global_randomness_kept():
            method = self._make(kept["seed"], kept["initial"])
            with patience(f"{who} is told {len(told)} losses again"):
                try:
                    for first in range(0, len(told), self.population):
                        losses = told[first : first + self.population]
                        history.add(method.retell(losses), losses)
                except Exception as error:  # the methods come from many hands
                    raise ValueError(
                        f"{who} fails on what this state says that it was told ({said(error)}); the state is damaged, "
                        f"or of {elsewhere}"
                    ) from error
        if history.digest.hexdigest() != state["digest"]:
            raise ValueError(
                f"{who} does not ask the candidates again that led to this state; it is damaged, or of {elsewhere}"
            )
        super().load_state_dict(state)
        self._method, self._history = method, history
        self._seed, self._initial = kept["seed"], kept["initial"]

    @abstractmethod
    def _make(self, seed: int, initial: Tensor) -> Method:
        """The method before the first generation.

        Raises:
            ValueError: There is none.
        """

    def _settings(self) -> dict[str, Any]:
        """What else decides which candidates are asked: a state has to agree with it."""
        return {"name": self.name, "population": self.population}

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
            if (
                not vector
                or not found.is_contiguous()
                or len(found) % self.population
                or not (found.isfinite() | (found.isnan() if self.FAILED is not None else False)).all()
            ):
                raise ValueError(
                    "the saved state's 'told' is no losses of whole generations; load another one, or begin anew"
                )
            return found.clone()

        settings = {name: partial(self._same, name, own) for name, own in self._settings().items()}
        return settings | {"seed": 0, "initial": initial, "told": losses, "digest": ""}

    def _same(self, name: str, own: Any, found: Any) -> Any:
        """A setting of a saved state, which has to be this optimizer's.

        Raises:
            ValueError: It is another one.
        """
        if type(found) is not type(own) or found != own:
            raise ValueError(
                f"this state is of {type(self).__name__} with {name}={found!r}, but this optimizer has {name}={own!r}; "
                "load it with the settings that it was saved with"
            )
        return own

    @contextmanager
    def _named(self, env: DataGenEnv) -> Iterator[None]:
        """Say whose failure it is."""
        try:
            yield
        except Exception as error:  # the methods come from many hands
            raise AskTellError(
                f"{self.LIBRARY}'s {self.name} failed at update {env.update + 1} ({said(error)}); {self.PLAIN}"
            ) from error


class _History:
    """What was told, and what follows from it.

    Attributes:
        told: All losses.
        digest: Of all candidates.
        incumbent: (d,) the best of them, or the initial beta, as it was asked.
        best: What it was told as.
    """

    def __init__(self, initial: Tensor) -> None:
        self.told, self.digest, self.incumbent, self.best = array("d"), hashlib.sha256(), initial, 0.0

    def add(self, candidates: NDArray[np.float64], losses: list[float]) -> None:
        """A generation."""
        self.told.extend(losses)
        self.digest.update(candidates.tobytes())
        known = np.nan_to_num(losses, nan=np.inf, posinf=np.inf)
        if known.min() < self.best:
            self.incumbent, self.best = torch.from_numpy(candidates[known.argmin()]), float(known.min())


_KEEPING = threading.RLock()  # else one thread would keep what another one has not put back yet


@contextmanager
def global_randomness_kept() -> Iterator[None]:
    """Undo what libraries do to global random states.

    Nevergrad seeds generators from numpy's that it never uses; and its import draws from `random`'s.
    """
    with _KEEPING:
        state, other = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
            random.setstate(other)


def said(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {error}".strip().split("\n")[0].rstrip(": ")
