"""What a case is, and what can become of it."""

from __future__ import annotations

import enum
import linecache
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from hydra.errors import HydraException
from numpy.typing import NDArray

import hgenv
from hgenv.benchmarks.config import USER_ERRORS

HOME = Path(hgenv.__file__).resolve().parents[1]


class Verdict(enum.Enum):
    """What became of a case; the value is its name in the tool's last line."""

    CLEAR = "clear_errors"
    STATUS = "statuses"
    UNHARMED = "accepted_unharmed"
    TRACEBACK = "tracebacks"
    HANG = "hangs"
    WRONG = "silent_wrong"


BAD = (Verdict.TRACEBACK, Verdict.HANG, Verdict.WRONG)


@dataclass(frozen=True)
class Finding:
    """A case that was tried.

    Attributes:
        verdict: What became of it.
        what: What was done to what, and what came of it; a line or a few.
    """

    verdict: Verdict
    what: str


class Target(Protocol):
    """A module of this package: one kind of input."""

    def case(self, rng: np.random.Generator, folder: Path) -> Finding:
        """Draw a case and try it.

        Args:
            rng: The only source of randomness: the same one gives the same case.
            folder: Empty; it is deleted afterwards.
        """
        ...


def attempt(
    what: str, act: Callable[[], Any], named: Iterable[str], judge: Callable[[Any], tuple[Verdict, str]]
) -> Finding:
    """Try something and see what becomes of it.

    Args:
        what: What was done to what.
        act: What to try.
        named: A clear error has one of these words in it: the file, or the setting.
        judge: Looks at what `act` gave, if it gave something.
    """
    try:
        result = act()
    except Exception as error:
        verdict, words = _of_error(error, tuple(named))
    else:
        verdict, words = judge(result)
    return Finding(verdict, f"{what}: {_short(words)}")


def _short(words: str) -> str:
    """The beginning and the end: some libraries write pages."""
    return words if len(words) < 2500 else f"{words[:600]}\n...\n{words[-1800:]}"


def _of_error(error: Exception, named: tuple[str, ...]) -> tuple[Verdict, str]:
    words = f"{type(error).__name__}: {error}"
    known = isinstance(error, (*USER_ERRORS, HydraException, gymnasium.error.Error))
    if known or (isinstance(error, ValueError | TypeError | RuntimeError) and _is_ours(error)):
        if any(word in str(error) for word in named):
            return Verdict.CLEAR, words
        return Verdict.TRACEBACK, f"names none of {named}: {words}"
    lines = traceback.format_tb(error.__traceback__)
    return Verdict.TRACEBACK, words.split("\n")[0] + "\n" + "".join(lines[-4:])


def _is_ours(error: Exception) -> bool:
    """Whether a built-in error was raised by a statement of this project, in words of its own."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    inside = Path(last.filename).resolve().is_relative_to(HOME) and ".venv" not in Path(last.filename).parts
    return inside and linecache.getline(last.filename, last.lineno or 0).strip().startswith("raise ")


def same(first: dict[str, NDArray], second: dict[str, NDArray], tolerance: float = 0.0) -> str | None:
    """What differs between two records of arrays; None if nothing does."""
    if first.keys() != second.keys():
        return f"{sorted(first)} became {sorted(second)}"
    for name, a in first.items():
        b = second[name]
        if a.shape != b.shape:
            return f"{name} has shape {b.shape}, not {a.shape}"
        if a.dtype.kind in "USb":
            if not (a == b).all():
                return f"{name} has other values"
        elif not np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"{name} is off by {float(np.nanmax(np.abs(a.astype(float) - b.astype(float)))):g}"
    return None
