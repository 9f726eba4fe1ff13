"""Several runs under one budget, head to head, and the report on them.

    hgenv compare optimizer=hybrid_gradient,basic_random_search seed=0,1,2 budget=cpu_2min workers=2

Takes the overrides of `hgenv run`, and its `--config-dir`; a comma makes a list of values, and every combination
is a run. Runs that are finished are skipped; those that were interrupted, or are asked for with a larger budget of the
same unit, go on. `workers` runs are at work at a time, each its own process. Runs that another process has at work, of
another `hgenv compare`, say, are waited for at the end.

With a launcher (`cores`, `slurm`, `ray_cluster`) the runs go there; `hydra.launcher.<name>` sets it up:

    hgenv compare hydra/launcher=slurm hydra.launcher.partition=cpu optimizer=fixed,evolution seed=0,1,2
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from . import engines, files, report
from .config import RunError, compose, override, plainly, with_folder
from .launch import Job, stops_alike, work


def expand(arguments: Sequence[str]) -> list[list[str]]:
    """Every combination of overrides that lists of values like `seed=0,1,2` stand for."""
    choices = []
    for parsed in OverridesParser.create().parse_overrides([override(a) for a in arguments]):
        if parsed.is_sweep_override():
            key = parsed.get_key_element()
            choices.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
        else:
            choices.append([str(parsed.input_line)])
    return [list(combination) for combination in itertools.product(*choices)]


def compare(
    arguments: Sequence[str], workers: int, config_dir: str | None = None, each: Sequence[Sequence[str]] = ((),)
) -> tuple[list[Path], dict[Path, str]]:
    """Make all runs that `arguments` stand for.

    Args:
        arguments: Overrides, with lists.
        workers: Runs at work at a time; with a launcher, it is the one who decides.
        config_dir: See `compose`.
        each: Further overrides; all runs are made with each of these.

    Returns:
        The folders of all, and what those that failed said.

    Raises:
        RunError: The arguments make no sense.
        Interrupted: It was stopped from outside.
        SettingError: Likewise.
        hydra.errors.HydraException: Hydra cannot parse them.
    """
    if workers < 1:
        raise RunError(f"workers must be at least 1, not {workers}")
    launcher = [argument for argument in arguments if engines.is_of_launcher(argument)]
    if launcher and workers > 1:
        raise RunError(f"workers={workers} is for runs without a launcher, which has its own setting for that")
    rest = [argument for argument in arguments if argument not in launcher]
    if config_dir is not None:
        rest = with_folder(rest, config_dir)
    jobs = [Job(overrides, compose(overrides)) for further in each for overrides in expand([*rest, *further])]
    folders = [job.folder for job in jobs]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise RunError(f"several runs would have the folder {twice[0]}; set env.label, optimizer.label or study apart")
    failed, missing = dict[Path, str](), []
    for job in jobs:
        ending = job.ending()
        if ending is None:
            missing.append(job)
            continue
        print(f"{job.folder}: nothing to do, it is {ending.status}", flush=True)
        if ending.fault is not None:
            failed[job.folder] = ending.fault
    with stops_alike():
        return folders, failed | (engines.work(missing, launcher) if launcher else work(missing, workers))


def parsed(arguments: Sequence[str]) -> tuple[list[str], int, str | None]:
    """Overrides, the number of workers, and the folder of more YAML files."""
    overrides, workers, config_dir = [], "1", None
    words = iter(arguments)
    for word in words:
        if word in ("--config-dir", "-cd"):
            config_dir = next(words, None)
            if config_dir is None:
                raise RunError(f"{word} needs a folder")
        elif word.startswith("--config-dir="):
            config_dir = word.partition("=")[2]
        elif word.startswith("-"):
            raise RunError(f"unknown option {word}; there are --config-dir and --help, the rest are overrides")
        elif word.startswith("workers="):
            workers = word.partition("=")[2]
        else:
            overrides.append(word)
    if not workers.isdecimal():
        raise RunError(f"workers must be a whole number, not {workers!r}")
    return overrides, int(workers), config_dir


@plainly
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    folders, failed = compare(*parsed(arguments))
    for folder, words in failed.items():
        print(f"error: {folder} failed: {files.within(folder, words.removeprefix('error: '))}", file=sys.stderr)
    # Those that are what was asked for name what the user has named. Others may be a stranger's.
    own = [folder for folder in folders if folder not in failed]
    for study in sorted({folder.parents[2] for folder in folders}):
        found = report.collect([study])
        print("\n" + report.write(found, study, trusted=own))
        print(f"report:      {study / 'report.html'} (and report.md)")
        print(f"TensorBoard: hgenv board {study}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
