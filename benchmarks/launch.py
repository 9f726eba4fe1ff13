"""Runs at work in processes of their own, some at a time, with a line or a bar each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.progress import TaskID

from . import files, lease, records
from .config import Interrupted, Settings, ended
from .display import QUIET_SECONDS, Bars, brief
from .parent import Child
from .records import RecordError, Row

LOG = "log.txt"  # what a run of ours has printed
PATIENCE = 30.0  # seconds that a run has to end when it is asked to
LOOK = 5.0  # seconds between two looks at runs that others have at work


class Ending(NamedTuple):
    """How a run ended, as its folder tells; `fault` is what went wrong, None if nothing did."""

    status: str
    fault: str | None


@dataclass
class Job:
    """A run to be made.

    Attributes:
        arguments: Of `hgenv run`.
        settings: What they stand for.
        process: That of the run, once it has begun.
        task: Its bar.
        said: Where in its log this start of it begins.
        newest: Its last row when it was looked at; None if it has none.
        metric: Its primary metric, as row 0 describes it.
        begun: Share of the budget that was spent before.
    """

    arguments: list[str]
    settings: Settings
    process: Child | None = None
    task: TaskID | None = None
    said: int = 0
    newest: Row | None = None
    metric: dict[str, str] | None = None
    begun: float = 0.0

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.settings.folder

    def ending(self) -> Ending | None:
        """How it ended, whoever made it; None if there is something to do."""
        try:
            done = ended(self.folder, self.settings.identity)
        except RecordError as error:  # of one run: the others are made
            return Ending("not to be gone on with", str(error))
        except OSError as error:
            return Ending("not to be read", files.said(error))
        if done is None:
            return None
        return Ending(done["status"], done["message"] if done["status"] == "failed" else None)

    def start(self) -> None:
        """Begin it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        threads = str(self.settings.where["threads"])
        with files.appending(self.folder / LOG) as log:  # another process may be at work on the run, and in the log
            self.said = log.tell()
            self.process = Child(
                [sys.executable, "-m", "hgenv", "run", *self.arguments],
                log,
                os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )

    def stop(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for its end, and end it where it takes longer than that."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def look(self) -> None:
        """Find out how far the run is; a row that is none says nothing."""
        budget = self.settings.budget
        with suppress(OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):  # the run's to tell
            first, newest = records.last_rows(self.folder / records.ROWS)
            if first is not None and newest is not None:
                metric = first["metrics"][0]
                brief(newest, metric)  # what is shown of it
                if not budget.spent(newest["spent"]) / budget.amount >= 0:
                    raise ValueError("no run can have spent that")
                self.metric = self.metric or metric
            self.newest = newest

    @property
    def share(self) -> float:
        """Share of the budget that was spent when it was last looked at."""
        budget = self.settings.budget
        return min(1.0, budget.spent(self.newest["spent"]) / budget.amount) if self.newest else 0.0

    def doing(self) -> str:
        """What the run said last."""
        words = self.last_words()
        return words.splitlines()[-1].removeprefix(f"{self.folder}: ") if words else "starts"

    def last_words(self) -> str:
        """How the run's output ends, since it was started here."""
        try:
            with files.readable(self.folder / LOG) as log:
                log.seek(max(self.said, log.seek(0, os.SEEK_END) - 2000))
                return log.read().decode(errors="replace").strip()
        except OSError as error:
            return f"error: {files.said(error)}"


class Taken:
    """Runs that other processes have at work: each is named once, and then looked at now and then.

    Args:
        say: Shows a line.

    Attributes:
        jobs: The runs.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.jobs: list[Job] = []
        self._say, self._named, self._looked = say, set[Path](), time.monotonic()

    def has(self, job: Job) -> bool:
        """Whether another process has the run now; then it is one of these."""
        if lease.taken(job.folder) is None:
            return False
        self.add(job)
        return True

    def add(self, job: Job) -> None:
        """Keep a run that another process was found at."""
        if job.folder not in self._named:
            self._named.add(job.folder)
            busy = lease.taken(job.folder)
            what = f"{job.folder}: another process is at work on this run" if busy is None else busy.what
            self._say(f"{what}; it is waited for")
        self.jobs.append(job)

    def free(self) -> list[Job]:
        """Those that nobody has any longer, every `LOOK` seconds; they are none of these from then on."""
        if time.monotonic() - self._looked < LOOK:
            return []
        self._looked = time.monotonic()
        for job in self.jobs:
            job.look()
        free = [job for job in self.jobs if lease.taken(job.folder) is None]
        self.jobs = [job for job in self.jobs if job not in free]
        return free


def work(jobs: Sequence[Job], workers: int) -> dict[Path, str]:
    """Make all runs, `workers` at a time. Those that other processes have at work are waited for at the end.

    Returns:
        What those that failed said, by their folders.

    Raises:
        Interrupted: It was stopped from outside.
    """
    for job in jobs:
        job.look()
        job.begun = job.share
    waiting, active, over, failed = list(jobs), list[Job](), 0, dict[Path, str]()
    quiet = not sys.stdout.isatty()
    said = time.monotonic()
    with Bars(disable=quiet) as bars:
        taken = Taken(bars.say)
        whole = bars.add(f"0/{len(jobs)} runs done", len(jobs), sum(job.begun for job in jobs))
        try:
            while waiting or active or taken.jobs:
                while waiting and len(active) < workers:
                    job = waiting.pop(0)
                    if taken.has(job):
                        continue
                    try:
                        job.start()
                    except OSError as error:  # of one run: the others are made
                        over += 1
                        failed[job.folder] = files.said(error)
                        continue
                    job.task = bars.add(_name(job, jobs), 1.0, job.begun)
                    active.append(job)
                time.sleep(0.2)
                for job in list(active):
                    _show(job, bars)
                    assert job.process is not None
                    assert job.task is not None
                    if job.process.poll() is not None:
                        job.process.let_go()
                        active.remove(job)
                        bars.remove_task(job.task)
                        if job.process.returncode == lease.TAKEN:  # since we looked
                            taken.add(job)
                            continue
                        over += 1
                        words = job.last_words()
                        if job.process.returncode:
                            failed[job.folder] = words
                        bars.say(f"[{over}/{len(jobs)}] {words.splitlines()[-1] if words else job.folder}")
                for job in taken.free():
                    ending = job.ending()
                    if ending is None:  # its process has stopped, or died
                        job.begun = job.share
                        waiting.append(job)
                        continue
                    over += 1
                    if ending.fault is not None:
                        failed[job.folder] = ending.fault
                    bars.say(f"[{over}/{len(jobs)}] {job.folder}: {ending.status}, by another process")
                done = over + sum(job.share for job in (*active, *waiting, *taken.jobs))
                figures = f"waits for {len(taken.jobs)} of other processes" if taken.jobs and not active else ""
                bars.update(whole, completed=done, description=f"{over}/{len(jobs)} runs done", figures=figures)
                if quiet and time.monotonic() - said > QUIET_SECONDS:
                    said = time.monotonic()
                    for task in (whole, *(job.task for job in active)):
                        assert task is not None
                        print(f"  {bars.line(task)}", flush=True)
        except KeyboardInterrupt as error:
            if active:
                print("interrupted; the runs end their updates and save them. Once more: at once", flush=True)
            for job in active:
                job.stop(signal.SIGINT)
            for job in active:
                job.wait()
            raise Interrupted("interrupted; the same command goes on where it was", *error.args) from None
        finally:
            for job in active:
                job.stop(signal.SIGTERM)
            for job in active:
                job.wait(PATIENCE)
                assert job.process is not None
                job.process.let_go()
    return failed


@contextmanager
def stops_alike() -> Iterator[None]:
    """A request to end, or a terminal that closes, is as good as an interrupt."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

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
