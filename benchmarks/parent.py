"""Programs that end when the one that started them does, however that ends.

The parent keeps one end of a pipe open and never writes to it; the child waits at the other. When the parent is gone,
the system closes its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

VARIABLE = "HGENV_PARENT"  # number of the file at which a child waits

_is_child = threading.Event()


class Child(subprocess.Popen[bytes]):
    """A program that is asked to stop when this one is gone; it has to call `end_with_it`.

    Args:
        command: The program and its arguments.
        log: Where its output goes.
        env: Its environment.
    """

    def __init__(self, command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> None:
        waits, self._held = os.pipe()
        try:
            super().__init__(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(waits,),
                env={**env, VARIABLE: str(waits)}, start_new_session=True,  # what stops this process is passed on, once
            )  # fmt: skip
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.close(waits)

    def let_go(self) -> None:
        """Close this process's end, when the child has ended."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def end_with_it() -> None:
    """Have this process asked to stop (SIGTERM) when the one that started it is gone; without one, nothing."""
    number = os.environ.pop(VARIABLE, "")  # what this process starts does not wait there
    if number.isdecimal():
        _is_child.set()
        threading.Thread(target=_wait, args=(int(number),), daemon=True, name="parent").start()


def is_child() -> bool:
    """Whether another of our programs has started this one, and says what becomes of it."""
    return _is_child.is_set()


def _wait(descriptor: int) -> None:
    try:
        os.read(descriptor, 1)
    except OSError:
        return  # it was none
    os.kill(os.getpid(), signal.SIGTERM)
