"""Parts of one's own, found by names such as "my_package:generator": a module, and what is in it."""

from __future__ import annotations

import importlib
from typing import Any

from .problem import PartError


class NamedError(PartError):
    """A name that leads nowhere. The message says which, and what to write."""


def look_up(name: str) -> Any:
    """What a name such as "my_package:generator" leads to.

    Raises:
        NamedError: Nowhere.
    """
    module, sign, path = str(name).partition(":")
    if not sign or not path or not module:
        raise NamedError(f"{name!r}: write the module and what is in it, as in my_package:generator")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise NamedError(f"{name}: importing {module} failed: there is no module {error.name!r}") from error
        raise NamedError(f"{name}: there is no module {error.name!r} here; name it as `import` would") from error
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise NamedError(f"{name}: importing {module} failed: {said(error)}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            public = ", ".join(n for n in getattr(found, "__dict__", ()) if not n.startswith("_"))
            raise NamedError(f"{name}: there is no {part!r} in it; there are {public}")
        found = getattr(found, part)
    return found


def said(error: BaseException) -> str:
    """An error of somebody's code, in one line."""
    words = str(error).partition("\n")[0]
    return words if isinstance(error, PartError) else f"{type(error).__name__}: {words}"
