"""What saved states are held against before anything is loaded from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

CURE = "load it where classes and arguments are those that it was saved with"


@dataclass(frozen=True)
class Each:
    """A dictionary with any names, whose values are all alike."""

    like: Any


@dataclass(frozen=True)
class AnyOf:
    """One of several; the last says what is wrong with what is none of them."""

    likes: tuple[Any, ...]


def copy_like(found: Any, like: Any, where: str) -> Any:
    """A copy of a saved state that has the form of an example.

    Args:
        found: What was saved.
        like: The example: dictionaries with the same names, lists of the same length, tensors of the same shape and
            dtype (those of the copy are on the example's device), texts, whole numbers from 0 on, finite numbers, None;
            or `Each`, `AnyOf`, or a function that makes a copy, or raises ValueError.
        where: What the state is of, for the message.

    Raises:
        ValueError: It has another form. The message says what is wrong, and where.
    """
    match like:
        case _ if callable(like):
            return like(found)
        case AnyOf():
            for other in like.likes[:-1]:
                try:
                    return copy_like(found, other, where)
                except ValueError:
                    continue
            return copy_like(found, like.likes[-1], where)
        case Each():
            if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
                raise _wrong(where, "a dictionary with texts for names", found)
            return {name: copy_like(value, like.like, f"{where}: {name}") for name, value in found.items()}
        case dict():
            if not isinstance(found, dict):
                raise _wrong(where, f"a dictionary with {_names(like)}", found)
            check_names(found, like, like, where)
            return {name: copy_like(found[name], part, f"{where}: {name}") for name, part in like.items()}
        case list():
            if not isinstance(found, list) or len(found) != len(like):
                raise _wrong(where, f"a list of {len(like)}", found)
            return [copy_like(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(found, like, strict=True))]
        case Tensor():
            kind = (like.dtype, like.shape, like.layout)
            if not isinstance(found, Tensor) or (found.dtype, found.shape, found.layout) != kind or found.is_meta:
                raise _wrong(where, _said(like), found)
            return found.detach().to(like.device, copy=True)
        case str() | None:
            if type(found) is not type(like):
                raise _wrong(where, "nothing" if like is None else "a text", found)
            return found
        case bool():
            if type(found) is not bool:
                raise _wrong(where, "true or false", found)
            return found
        case int():
            if type(found) is not int or not 0 <= found < 2**63:
                raise _wrong(where, "a whole number from 0 on", found)
            return found
        case float():
            if type(found) not in (int, float) or abs(found) > 1e300 or math.isnan(found):
                raise _wrong(where, "a finite number", found)
            return float(found)
    raise TypeError(f"no saved state holds {type(like).__name__}")


def check_names(found: dict[Any, Any], needed: Any, known: Any, where: str) -> None:
    """Make sure that a saved dictionary has all names that are needed, and none that is unknown.

    Raises:
        ValueError: It has not.
    """
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{where}: the saved state has no {_names(missing)}; {CURE}")
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"{where}: the saved state has {_names(unknown)}, which is unknown here; {CURE}")


def _wrong(where: str, wanted: str, found: Any) -> ValueError:
    return ValueError(f"{where}: must be {wanted}, but the saved state has {_said(found)}; {CURE}")


def _said(value: Any) -> str:
    match value:
        case Tensor():
            return f"a tensor {str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
        case None:
            return "nothing"
        case bool() | int() | float() | str():
            return f"the {type(value).__name__} {str(value)[:40]!r}"
        case dict() | list():
            return f"a {type(value).__name__} of {len(value)}"
    return f"an object {type(value).__name__}"


def _names(names: Any) -> str:
    shown = [repr(name)[:60] for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
