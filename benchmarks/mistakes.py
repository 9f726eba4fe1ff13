"""What Hydra finds wrong with a command line, in a sentence that says what to type.

Hydra's own words name the folders that it searches, and advise `+optimiser=fixed` where `optimizer=fixed` was meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from .defaults import meant

BUDGET = ("amount", "unit")
_NOISE = ("Config search path", "See https://", "To append to your config", "Set the environment variable")


def explained(error: HydraException, known: Sequence[str]) -> str:
    """The sentence.

    Args:
        error: What Hydra raised.
        known: The names that stand at the beginning of settings.
    """
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        there = f"there is no {group}={name}; there are {', '.join(error.options)}{meant(name, error.options)}"
        file = re.match("In '([^']+)': ", text)
        return f"{file[1]}.yaml: {there}" if file and not file[1].endswith("config") else there
    if found := re.match("Could not override '([^']+)'", text):
        return no_setting(found[1], known)
    if found := re.match(r"Ambiguous value for argument '(?:\+\+)?(.*)'\n", text):
        return f"{found[1]} has several values: hgenv compare takes them (or hgenv run --multirun)"
    lines = [line.strip() for line in text.splitlines() if not line.startswith(_NOISE)]
    if isinstance(error, OverrideParseException):
        if "=" not in str(error.override):
            return f"{error.override!r} is no setting; settings are written {error.override}=<value>"
        return f"{error.override!r} cannot be read; put quotes around brackets and signs that belong to a value"
    return ": ".join(line for line in lines if line)


def no_setting(key: str, known: Sequence[str]) -> str:
    """That there is no setting of this name, with those that there are."""
    first, _, below = key.partition(".")
    if first == "workers":
        return "workers is no setting of a run; hgenv compare takes it"
    if first not in known:
        return f"there is no setting {first!r}; there are {', '.join(known)}{meant(first, (*known, 'workers'))}"
    if first == "budget":
        return f"budget has no setting {below!r}; it has {', '.join(BUDGET)}{meant(below, BUDGET)}"
    return f"there is no setting {key!r}: {first} is a value, and has no settings of its own"
