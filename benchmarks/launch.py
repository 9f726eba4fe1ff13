"""Runs at work in processes of their own, some at a time, with a line or a bar each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from . import records
from .config import RunError, Settings
from .display import QUIET_SECONDS, describe, progress
from .records import Row

LOG = "log.txt"  # what a run of ours has printed


@dataclass
class Job:
    """A run to be made.

    Attributes:
        arguments: Of `hgenv run`.
        settings: What they stand for.
        process: That of the run, once it has begun.
        task: Its bar.
    """

    arguments: list[str]
    settings: Settings
    process: subprocess.Popen[bytes] | None = None
    task: TaskID | None = None

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.settings.folder

    def start(self) -> None:
        """Begin it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        threads = str(self.settings.where["threads"])
        with (self.folder / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hgenv.benchmarks.run", *self.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )

    def rows(self) -> list[Row]:
        """The first and the newest whole row, while the run is at work; none if there is none."""
        path = self.folder / records.ROWS
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return [json.loads(lines[0]), json.loads(lines[-1])] if lines else []

    def last_words(self) -> str:
        """How the run's output ends."""
        return (self.folder / LOG).read_text(errors="replace").strip()[-2000:]


def work(jobs: Sequence[Job], workers: int) -> dict[Path, str]:
    """Make all runs, `workers` at a time.

    Returns:
        What those that failed said, by their folders.

    Raises:
        RunError: It was interrupted.
    """
    waiting, active, failed = list(jobs), list[Job](), dict[Path, str]()
    ended = 0
    quiet = not sys.stdout.isatty()
    said = time.monotonic()
    with progress(disable=quiet) as bars:
        try:
            while waiting or active:
                while waiting and len(active) < workers:
                    job = waiting.pop(0)
                    job.start()
                    job.task = bars.add_task(str(job.folder), total=float(job.settings.budget.amount))
                    active.append(job)
                time.sleep(0.2)
                speak = quiet and time.monotonic() - said > QUIET_SECONDS
                for job in list(active):
                    _show(job, bars, speak)
                    assert job.process is not None
                    assert job.task is not None
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


def _show(job: Job, bars: Progress, speak: bool) -> None:
    rows = job.rows()
    if not rows:
        return
    assert job.task is not None
    budget, row = job.settings.budget, rows[-1]
    spent = min(row["spent"][budget.unit], budget.amount)
    words = f"{job.folder}: {describe(row, rows[0]['metrics'][0])}"
    bars.update(job.task, completed=spent, description=words)
    if speak:
        print(f"  {words}, {spent / budget.amount:.0%} of the budget", flush=True)
