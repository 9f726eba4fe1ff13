"""Tasks for worker processes, and a parent that has some; light, since each process imports it anew."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def set_up(folder: str) -> Callable[[tuple[str, int]], tuple[int, int]]:
    """What does (chore, number): the process and the square of the number, unless it is told to do something else.

    A chore that ends in "once" is left alone when it is met again.
    """

    def work(task: tuple[str, int]) -> tuple[int, int]:
        chore, number = task
        done = Path(folder) / f"{chore} {number}"
        if not (chore.endswith("once") and done.exists()):
            done.touch()
            DO[chore.split()[0]]()
        return os.getpid(), number**2

    return work


def fails(folder: str) -> None:
    raise ImportError("there is no such renderer here")


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


DO: dict[str, Callable[[], object]] = {
    "square": lambda: None,
    "burn": lambda: burn(0.5),
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "leave": lambda: os._exit(7),
    "sleep": lambda: time.sleep(600),
}


def parent(folder: str, chores: list[str]) -> None:
    """Have a process for each chore."""
    from hgenv.pool import Pool

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests in the background ignores it
    Pool(set_up, (folder,), len(chores), 600).map([(chore, 0) for chore in chores], print)


def ahead(folder: str, ending: str) -> None:
    """Have a process sleep while this one does something else, and then end, in a way."""
    from hgenv.pool import Job, Pool

    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = Pool(set_up, (folder,), 1, 600)
    pool.begin([Job(("sleep", 0))])
    while not Path(folder, "go on").exists():
        time.sleep(0.02)
    if ending == "raises":
        raise ValueError
    if ending == "forgets":
        del pool


if __name__ == "__main__":
    if sys.argv[2] == "ahead":
        ahead(sys.argv[1], sys.argv[3])
    else:
        parent(sys.argv[1], sys.argv[2:])
