"""The clocks of this process and of the child processes that it has waited for."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def cpu_and_wall() -> tuple[float, float]:
    """User and system seconds of this process and of those that worked for it, and wall seconds.

    The others are those that it has waited for, and those that it was told of by `spent_elsewhere`.
    """
    with _waiting:  # another thread may be in the middle of `free_children`
        return time.process_time() + _children() - _free + _elsewhere, time.perf_counter()


def spent_elsewhere(cpu_seconds: float) -> None:
    """Have whatever is being charged right now, in any ledger, pay for work that this process's clock does not see.

    For what was done on its behalf by other processes or machines; or for the price that somebody puts on that.
    """
    global _elsewhere
    _elsewhere += cpu_seconds


def _children() -> float:
    others = resource.getrusage(resource.RUSAGE_CHILDREN)  # a renderer that is a program, say
    return others.ru_utime + others.ru_stime


_elsewhere = 0.0  # CPU seconds that others spent on behalf of this process
_free = 0.0  # CPU seconds of child processes that are nobody's
_waiting = threading.RLock()  # a garbage collector may come here while its thread is here already


def _unlock() -> None:
    """In a fork: who had the lock is not there."""
    global _waiting
    _waiting = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


@contextmanager
def free_children() -> Iterator[None]:
    """Charge nobody, in any ledger, for the child processes that are waited for inside.

    When a child process has ended and is waited for, the system adds the CPU time of its whole life to the parent's.
    But what a worker process did is charged when it tells of it, and what it did not tell of was lost by a failure.
    """
    global _free  # as the system's own sum is, which it corrects
    with _waiting:
        free, before = _free, _children()
        try:
            yield
        finally:
            _free = free + _children() - before
