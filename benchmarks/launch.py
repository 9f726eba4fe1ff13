"""Runs at work in processes of their own, some at a time, with a line or a bar each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.progress import TaskID

from . import records
from .config import RunError, Settings
from .display import QUIET_SECONDS, Bars, brief
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
        newest: Its last row when it was looked at; None if it has none.
        metric: Its primary metric, as row 0 describes it.
        begun: Share of the budget that was spent before.
    """

    arguments: list[str]
    settings: Settings
    process: subprocess.Popen[bytes] | None = None
    task: TaskID | None = None
    newest: Row | None = None
    metric: dict[str, str] | None = None
    begun: float = 0.0

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
                start_new_session=True,  # what stops this process is passed on, once
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )

    def look(self) -> None:
        """Find out how far the run is."""
        path = self.folder / records.ROWS
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        with suppress(ValueError, KeyError, IndexError, TypeError):  # damage is the run's to tell
            if lines and self.metric is None:
                self.metric = json.loads(lines[0])["metrics"][0]
            self.newest = json.loads(lines[-1]) if lines else None

    @property
    def share(self) -> float:
        """Share of the budget that was spent when it was last looked at."""
        budget = self.settings.budget
        return min(1.0, self.newest["spent"][budget.unit] / budget.amount) if self.newest else 0.0

    def doing(self) -> str:
        """What the run said last."""
        words = self.last_words()
        return words.splitlines()[-1].removeprefix(f"{self.folder}: ") if words else "starts"

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
    for job in jobs:
        job.look()
        job.begun = job.share
    waiting, active, ended, failed = list(jobs), list[Job](), list[Job](), dict[Path, str]()
    quiet = not sys.stdout.isatty()
    said = time.monotonic()
    with _stops_alike(), Bars(disable=quiet) as bars:
        whole = bars.add(f"0/{len(jobs)} runs done", len(jobs), sum(job.begun for job in jobs))
        try:
            while waiting or active:
                while waiting and len(active) < workers:
                    job = waiting.pop(0)
                    job.start()
                    job.task = bars.add(_name(job, jobs), 1.0, job.begun)
                    active.append(job)
                time.sleep(0.2)
                for job in list(active):
                    _show(job, bars)
                    assert job.process is not None
                    assert job.task is not None
                    if job.process.poll() is not None:
                        ended.append(job)
                        active.remove(job)
                        bars.remove_task(job.task)
                        words = job.last_words()
                        if job.process.returncode:
                            failed[job.folder] = words
                        line = f"[{len(ended)}/{len(jobs)}] {words.splitlines()[-1] if words else job.folder}"
                        bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
                done = len(ended) + sum(job.share for job in (*active, *waiting))
                bars.update(whole, completed=done, description=f"{len(ended)}/{len(jobs)} runs done")
                if quiet and time.monotonic() - said > QUIET_SECONDS:
                    said = time.monotonic()
                    for task in (whole, *(job.task for job in active)):
                        assert task is not None
                        print(f"  {bars.line(task)}", flush=True)
        except KeyboardInterrupt:
            # Each ends its update and makes a checkpoint.
            for job in active:
                assert job.process is not None
                job.process.send_signal(signal.SIGINT)
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


@contextmanager
def _stops_alike() -> Iterator[None]:
    """A request to end, or a terminal that closes, is as good as an interrupt."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(job: Job, jobs: Sequence[Job]) -> str:
    """What tells a run from the others: of its folder, what they do not have in common."""
    folders = [other.folder for other in jobs]
    common = os.path.commonpath([folder.parents[1] for folder in folders])
    return str(job.folder.relative_to(common))


def _show(job: Job, bars: Bars) -> None:
    job.look()
    assert job.task is not None
    figures = brief(job.newest, job.metric) if job.newest and job.metric and job.share > job.begun else job.doing()
    bars.update(job.task, completed=job.share, figures=figures)
