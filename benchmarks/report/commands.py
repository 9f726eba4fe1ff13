"""The commands that make a study again, from those that its runs note."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

_RUN = re.compile(r"(hgenv run|python -m (hgenv\.)?benchmarks\.run)( |$)")  # records of before name the module

Values = dict[str, tuple[str, ...]]  # of each setting, in the order of the command


def again(commands: Iterable[str]) -> list[str]:
    """Lines of `hgenv compare` that stand for the runs of some commands, each of which made one.

    A line with lists stands for every combination of them, so one line is enough only where all combinations were made.
    A command that is none of `hgenv run` stays as it is.
    """
    alike: dict[tuple[tuple[str, ...], frozenset[str]], list[Values]] = {}
    others = []
    for command in dict.fromkeys(commands):
        found = _parsed(command)
        if found is None:
            others.append(command)
        else:
            head, values = found
            alike.setdefault((head, frozenset(values)), []).append(values)
    lines = [
        shlex.join([*head, *(f"{key}={','.join(own)}" if own else key for key, own in values.items())])
        for (head, _), runs in alike.items()
        for values in _merged(runs)
    ]
    return lines + others


def elsewhere(command: str) -> str:
    """A run's command without what is of the machine that made it: the folder of all studies, and ways to others.

    Where results lie decides nothing about them. Of a folder of settings that is named from the root, the name is left.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    kept = [word for word in words if not word.lstrip("+").startswith("root=")]
    for i, word in enumerate(kept):
        option, sign, folder = word.rpartition("=")
        named = sign and option in ("--config-dir", "-cd")
        if folder.startswith("/") and (named or (not sign and kept[i - 1] in ("--config-dir", "-cd"))):
            kept[i] = f"{option}{sign}{PurePosixPath(folder).name}"
    return command if kept == words else shlex.join(kept)


def _parsed(command: str) -> tuple[tuple[str, ...], Values] | None:
    """What stands before the settings of the comparison that contains a run, and the settings."""
    program = _RUN.match(command)
    if program is None:
        return None
    try:
        rest = shlex.split(command[program.end() :])
    except ValueError:
        return None
    head = (program[0].strip().removesuffix("run") + "compare").split()
    while rest and rest[0].startswith("-"):  # --config-dir <folder>
        head, rest = head + rest[:2], rest[2:]
    values: Values = {}
    for word in rest:
        key, sign, value = word.partition("=")
        values[key] = (value,) if sign else ()
    return (tuple(head), values) if len(values) == len(rest) else None


def _merged(runs: list[Values]) -> list[Values]:
    """The same combinations of values in fewer entries. All have the same settings, in any order."""
    for key in sorted(runs[0], key=lambda key: key != "seed"):
        groups: dict[frozenset[tuple[str, tuple[str, ...]]], list[Values]] = {}
        for values in runs:
            groups.setdefault(frozenset((k, v) for k, v in values.items() if k != key), []).append(values)
        joined = [(group[0], tuple(dict.fromkeys(v for one in group for v in one[key]))) for group in groups.values()]
        runs = [{**values, key: own} for values, own in joined]
    return runs
