"""Cases by their numbers, tried in worker processes with limits on time and memory."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from .case import BAD, Finding, Verdict

# Which target case n has: these, again and again. Loaders have the most ways to go wrong.
TARGETS = ("loaders", "betas", "loaders", "strangers", "configurations", "loaders", "betas", "runs")
NAMES = tuple(dict.fromkeys(TARGETS))
SECONDS = 60.0  # a case may take
FIRST_SECONDS = 300.0  # the first of a kind in a process, which makes valid files and compiles
MEMORY = 3 * 2**30  # bytes beyond those of a process that has loaded everything
EVERY = 5.0  # seconds between two lines of progress


@dataclass
class Worker:
    """A process that tries cases.

    Attributes:
        process: It.
        pipe: Where it takes a case's number and answers with a `Finding`.
        case: What it is at; None for nothing.
        deadline: When it is too late for that.
        known: Targets that it has had before.
    """

    process: Any
    pipe: Connection
    case: int | None = None
    deadline: float = 0.0
    known: set[str] = field(default_factory=set)


def try_case(seed: int, number: int) -> Finding:
    """The case of a number, the same each time."""
    module = import_module(f"{__package__}.{TARGETS[number % len(TARGETS)]}")
    rng = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory(prefix="hgenv-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return module.case(rng, Path(folder))
        except Exception as error:  # not of what is tried, but of the tool
            lines = traceback.format_exception(error)
            return Finding(Verdict.TRACEBACK, "the tool itself failed\n" + "".join(lines[-8:]))


def work(pipe: Connection, seed: int) -> None:
    """What a worker does: try the cases that it is given."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    import torch

    torch.set_num_threads(1)
    import_module(f"{__package__}.loaders")  # the libraries' own memory is not a case's
    _limit_memory()
    with suppress(EOFError, KeyboardInterrupt):
        while (number := pipe.recv()) is not None:
            pipe.send(try_case(seed, number))


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(cases: list[int], seed: int, workers: int) -> dict[int, Finding]:
    """Try cases in processes, and print bad ones as they come."""
    context = multiprocessing.get_context("spawn")
    pool: list[Worker] = []
    todo, found = list(reversed(cases)), dict[int, Finding]()
    told = time.monotonic()

    def start() -> Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, seed), daemon=True)
        process.start()
        theirs.close()
        return Worker(process, ours)

    def note(worker: Worker, finding: Finding) -> None:
        assert worker.case is not None
        found[worker.case] = finding
        if finding.verdict in BAD:
            name = TARGETS[worker.case % len(TARGETS)]
            print(f"\n{finding.verdict.value}: --seed {seed} --case {worker.case} ({name})\n{finding.what}", flush=True)
        worker.case = None

    try:
        while len(found) < len(cases):
            while len(pool) < min(workers, len(cases)):
                pool.append(start())
            for worker in pool:
                if worker.case is None and todo:
                    worker.case = todo.pop()
                    name = TARGETS[worker.case % len(TARGETS)]
                    limit = SECONDS if name in worker.known else FIRST_SECONDS
                    worker.known.add(name)
                    worker.deadline = time.monotonic() + limit
                    with suppress(OSError):
                        worker.pipe.send(worker.case)
            busy = [w for w in pool if w.case is not None]
            ready = wait([w.pipe for w in busy], timeout=0.5)
            for worker in busy:
                if worker.pipe in ready:
                    try:
                        note(worker, worker.pipe.recv())
                        continue
                    except (EOFError, OSError):
                        worker.process.join(10)
                        words = f"the process died with exit code {worker.process.exitcode}"
                        note(worker, Finding(Verdict.TRACEBACK, words))
                elif time.monotonic() > worker.deadline:
                    note(worker, Finding(Verdict.HANG, "it took longer than its time"))
                else:
                    continue
                worker.process.kill()
                pool.remove(worker)
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                print(f"{len(found)} of {len(cases)} cases", file=sys.stderr, flush=True)
    finally:
        for worker in pool:
            worker.process.kill()
    return found
