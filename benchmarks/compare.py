"""Several runs under one budget, head to head, and the report on them.

    python -m benchmarks.compare optimizer=hybrid_gradient,basic_random_search seed=0,1,2 budget=cpu_2min workers=2

Takes the overrides of `benchmarks.run`; a comma makes a list of values, and every combination is a run. Runs that are
finished are skipped, those that were interrupted go on. `workers` runs are at work at a time, each its own process.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from . import records, report
from .records import Row
from .run import QUIET_SECONDS, USER_ERRORS, RunError, check_identity, compose, describe, run_folder, settings

LOG = "log.txt"  # what a run of ours has printed


def expand(arguments: Sequence[str]) -> list[list[str]]:
    """Every combination of overrides that lists of values like `seed=0,1,2` stand for."""
    choices = []
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    return [list(combination) for combination in itertools.product(*choices)]


@dataclass
class _Job:
    overrides: list[str]
    config: DictConfig
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    task: TaskID | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        threads = str(self.config.threads)
        with (self.folder / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.run", *self.overrides],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )

    def last_row(self) -> Row | None:
        """The newest whole row, while the run is at work."""
        path = self.folder / records.ROWS
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return json.loads(lines[-1]) if lines else None

    def last_words(self) -> str:
        """How the run's output ends."""
        return (self.folder / LOG).read_text(errors="replace").strip()[-2000:]


def compare(arguments: Sequence[str], workers: int) -> tuple[list[Path], dict[Path, str]]:
    """Make all runs that `arguments` stand for.

    Returns:
        The folders of all, and what those that failed said.

    Raises:
        RunError: The arguments make no sense, or it was interrupted.
        hydra.errors.HydraException: A name is unknown; the message lists the choices.
    """
    if workers < 1:
        raise RunError(f"workers must be at least 1, not {workers}")
    jobs = []
    for overrides in expand(arguments):
        config = compose(overrides)
        jobs.append(_Job(overrides, config, run_folder(config)))
    folders = [job.folder for job in jobs]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise RunError(f"several runs would have the folder {twice[0]}; set env.label, optimizer.label or study apart")
    failed, missing = dict[Path, str](), []
    for job in jobs:
        check_identity(job.folder, settings(job.config))
        done = records.read_done(job.folder)
        if done is None:
            missing.append(job)
        else:
            print(f"{job.folder}: nothing to do, it is {done['status']}", flush=True)
            if done["status"] == "failed":
                failed[job.folder] = done["message"]
    return folders, failed | _work(missing, workers)


def _work(jobs: list[_Job], workers: int) -> dict[Path, str]:
    waiting, active, failed, ended = list(jobs), list[_Job](), dict[Path, str](), 0
    quiet = not sys.stdout.isatty()
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")
    said = time.monotonic()
    with Progress(*columns, TimeElapsedColumn(), disable=quiet) as bars:
        try:
            while waiting or active:
                while waiting and len(active) < workers:
                    job = waiting.pop(0)
                    job.start()
                    job.task = bars.add_task(str(job.folder), total=float(job.config.budget.amount))
                    active.append(job)
                time.sleep(0.2)
                speak = quiet and time.monotonic() - said > QUIET_SECONDS
                for job in list(active):
                    assert job.process is not None
                    assert job.task is not None
                    row = job.last_row()
                    if row is not None:
                        spent = min(row["spent"][job.config.budget.unit], job.config.budget.amount)
                        bars.update(job.task, completed=spent, description=f"{job.folder}: {describe(row)}")
                        if speak:
                            share = spent / job.config.budget.amount
                            print(f"  {job.folder}: {describe(row)}, {share:.0%} of the budget", flush=True)
                    if job.process.poll() is not None:
                        ended += 1
                        active.remove(job)
                        bars.remove_task(job.task)
                        words = job.last_words()
                        if job.process.returncode:
                            failed[job.folder] = words
                        line = f"[{ended}/{len(jobs)}] {words.splitlines()[-1] if words else job.folder}"
                        bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
                if speak:
                    said = time.monotonic()
        except KeyboardInterrupt:
            # The runs got the same interrupt from the terminal: each ends its update and makes a checkpoint.
            for job in active:
                assert job.process is not None
                job.process.wait()
            raise RunError("interrupted; the same command goes on where it was") from None
        finally:
            for job in active:
                assert job.process is not None
                job.process.terminate()
                job.process.wait()
    return failed


def _python() -> str:
    """How to call this Python from here."""
    here = Path.cwd()
    python = Path(sys.executable)
    return str(python.relative_to(here) if python.is_relative_to(here) else python)


def main(arguments: Sequence[str]) -> int:
    """Compare from the command line."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        workers = [a.partition("=")[2] for a in arguments if a.startswith("workers=")]
        if not all(text.isdecimal() for text in workers):
            raise RunError(f"workers must be a whole number, not {workers[-1]!r}")
        overrides = [a for a in arguments if not a.startswith("workers=")]
        folders, failed = compare(overrides, int(workers[-1]) if workers else 1)
        for folder, words in failed.items():
            print(f"error: {folder} failed: {words.removeprefix('error: ')}", file=sys.stderr)
        for study in sorted({folder.parents[2] for folder in folders}):
            found = report.collect([study])
            print("\n" + report.write(found, study))
            print(f"report:      {study / 'report.html'} (and report.md)")
            print(f"TensorBoard: {_python()} -m tensorboard.main --logdir {study}")
    except (HydraException, *USER_ERRORS) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
