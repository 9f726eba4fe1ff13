"""The `hgenv` command: what can be done from a shell, and what there is to choose from."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from .defaults import meant

COMMANDS = {
    "run": "one run: hgenv run env=shapes optimizer=hybrid_gradient seed=0 budget=total_2min",
    "compare": "several, and a report: hgenv compare optimizer=hybrid_gradient,fixed seed=0,1 workers=2",
    "report": "tables and figures of runs that are there: hgenv report runs/quick",
    "paper": "the paper's tables, with its figures beside: hgenv paper table2 seed=0,1,2 workers=2",
    "tune": "a generator of one's own, by one file: hgenv tune mine.yaml",
    "sample": "a data set by a tuned generator: hgenv sample runs/mine/best.yaml -n 1000 --out data",
    "trials": "as many trials of settings for each: hgenv trials optimizer=combined,spsa env=shapes_lit workers=2",
    "check": "what parts of one's own can do: hgenv check my_package:generator my_package:learner",
    "environments": "what env= takes; with a name, every setting of that one",
    "optimizers": "what optimizer= takes; with a name, every setting of that one",
    "board": "curves and pictures in TensorBoard: hgenv board runs/quick",
}
EXTRA = "the command needs a few packages more: pip install 'hgenv[bench]'"
HELP = ("help", "-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in HELP:
        print(_usage())
        return 0
    if words[0] == "--version":
        import hgenv

        print(f"hgenv {hgenv.__version__}")
        return 0
    name, rest = words[0], words[1:]
    if not {"", str(Path.cwd())} & set(sys.path):  # parts of one's own are found beside one's work, as by python -m
        # A folder with somebody else's runs may hold modules with the names of those that a report imports.
        sys.path.insert(len(sys.path) if name in ("report", "board") else 0, str(Path.cwd()))
    if name not in COMMANDS:
        known = f"{', '.join(COMMANDS)}{meant(name, COMMANDS)}"
        print(f"error: there is no command {name!r}; the commands are {known}", file=sys.stderr)
        return 2
    try:
        if name in ("environments", "optimizers"):
            status = _list("env" if name == "environments" else "optimizer", rest)
            sys.stdout.flush()
            return status
        if name == "board":
            return _board(rest)
        module = {"report": "report.__main__"}.get(name, name)
        with _stops_at_once():
            work = importlib.import_module(f".{module}", __package__).main
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("hgenv"):
            raise
        print(f"error: there is no module {error.name!r} here; {EXTRA}", file=sys.stderr)
        return 1
    # Each of them is a program of its own, and Hydra reads sys.argv.
    sys.argv = [f"hgenv {name}", *rest]
    try:
        if name in ("run", "compare") and (fault := _fault(name, rest)):
            print(f"error: {fault}", file=sys.stderr)
            return 1
        return int(work() or 0)
    except KeyboardInterrupt as error:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)


def _fault(name: str, words: Sequence[str]) -> str:
    """What is wrong with the words of `run` or `compare`, as far as that can be said in better words than Hydra's."""
    from hydra.errors import HydraException

    from . import config

    config_dir, overrides, options = None, list[str](), False
    following = iter(words)
    for word in following:
        key, sign, value = word.partition("=")
        if word.startswith("--") and key[2:].partition(".")[0] in (*config.NAMES, "workers"):
            cure = f"{key[2:]}={value if sign else next(following, '<value>')}"
            return f"{key} is a setting, and settings have no dashes: write {cure}"
        if key in ("--config-dir", "-cd"):
            config_dir = value if sign else next(following, None)
        else:
            options = options or word.startswith("-") or word.lstrip("+~").startswith("hydra")
            overrides.append(word)
    if name == "compare" or options:
        return ""  # `compare` says it itself; of Hydra's own options Hydra knows more
    try:
        config.composed(overrides, config_dir)
    except (HydraException, *config.USER_ERRORS) as error:
        return str(error)
    return ""


@contextmanager
def _stops_at_once() -> Iterator[None]:
    """Ends the process in words when it is interrupted: amid the imports of others, no exception is safe."""

    def stop(number: int, _: object) -> None:
        os.write(2, b"interrupted before anything was begun\n")
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def choices(group: str) -> dict[str, str]:
    """The files of a group of settings, such as "env", and what each says of itself."""
    folder = resources.files("hgenv.configs") / group
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            first = file.read_text().splitlines()[0]
            found[file.name.removesuffix(".yaml")] = first.removeprefix("#").strip() if first[:1] == "#" else ""
    return found


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: hgenv COMMAND [arguments]", ""]
    lines += [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, "", "hgenv COMMAND --help says more.  hgenv --version"])


def _list(group: str, words: Sequence[str]) -> int:
    known = choices(group)
    plural = "environments" if group == "env" else "optimizers"
    if words and words[0] in HELP:
        print(f"usage: hgenv {plural} [name]\n\n{COMMANDS[plural]}")
        return 0
    if not words:
        width = max(map(len, known))
        for name, what in known.items():
            print(f"{group}={name:<{width}}  {what}")
        print(f"\nEvery setting of one: hgenv {plural} {next(iter(known))}")
        return 0
    if words[0] not in known:
        there = f"{', '.join(known)}{meant(words[0], known)}"
        print(f"error: there is no {group}={words[0]}; there are {there}", file=sys.stderr)
        return 2
    from omegaconf import OmegaConf

    from .config import compose

    settings: dict[str, Any] = {group: compose([f"{group}={words[0]}"]).identity[group]}
    print(f"# {known[words[0]]}\n{OmegaConf.to_yaml(OmegaConf.create(settings))}", end="")
    return 0


def _board(words: Sequence[str]) -> int:
    """TensorBoard on a folder, or on `runs`; what else is given goes to TensorBoard."""
    if words and words[0] in HELP:
        print("usage: hgenv board [folder] [arguments of tensorboard]\n\nThe folder is runs, if it is not named.")
        return 0
    folder, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("runs", words)
    if not any(Path(folder).rglob("events.out.tfevents.*")):  # board.FILES; torch is not needed for this
        print(f"error: {folder}: no logs here; name the folder of a study, such as runs/quick", file=sys.stderr)
        return 1
    from tensorboard import main as tensorboard

    print('Settings, Horizontal Axis, "Relative": the curves against computation time')
    sys.argv = ["tensorboard", "--logdir", folder, *rest]
    tensorboard.run_main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
