"""A sitting: parts, each in a process of its own and with a share of the time, whose results are kept as they end.

A part that breaks, hangs or takes too long costs its share and no more; even a GPU that a failed kernel has made
unusable to a process is whole again for the next one. Of a part stay `<part>.json` and what it printed, `<part>.log`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE, FAILED, LATE, LEFT_OUT = "done", "failed", "out of time", "left out"
LEAST = 10  # seconds: with fewer left, a part is not begun
TAIL = 15  # lines of what a failed part printed that its result keeps


@dataclass(frozen=True)
class Part:
    """Something to do in a sitting.

    Attributes:
        name: What its files are called.
        seconds: Its share of the time.
        command: What does it.
        read: What came of it so far, from the sitting's folder, None if nothing did; by default what the command wrote
            to `partial_result`.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    read: Callable[[Path], Any] | None = None


def hold(parts: Sequence[Part], folder: Path, seconds: float, after: Callable[[], None]) -> None:
    """Do what is not done yet, in order.

    Args:
        parts: What is to be done. Whatever has not ended well is done again.
        folder: Where results are and go; made if it is not there.
        seconds: For all parts together.
        after: Called when a part has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    for part in parts:
        known = read_result(folder, part.name)
        if known is not None and known["status"] == DONE:
            print(f"{part.name}: there is a result", flush=True)
            continue
        print(f"{part.name}: at most {part.seconds:g} s", flush=True)
        result = _do(part, folder, end - time.monotonic())
        write_json(folder / f"{part.name}.json", result)
        print(f"{part.name}: {result['status']} after {result['seconds']:.0f} s", flush=True)
        after()


def read_result(folder: Path, name: str) -> dict[str, Any] | None:
    """What is known of a part: `status`, `seconds`, `error`, `result`; None before it is first done."""
    return read_json(folder / f"{name}.json")


def partial_result(folder: Path, name: str) -> Path:
    """Where a part saves what there is of its result, as it comes."""
    return folder / f"{name}.partial.json"


def read_json(path: Path) -> Any:
    """What a file says; None if there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there either as it was or completely."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def _do(part: Part, folder: Path, left: float) -> dict[str, Any]:
    limit = min(part.seconds, left)
    if limit < min(LEAST, part.seconds):
        why = f"{max(left, 0):.0f} s were left of the sitting; call again"
        return {"status": LEFT_OUT, "seconds": 0.0, "error": why, "result": None}
    partial = partial_result(folder, part.name)
    partial.unlink(missing_ok=True)
    log, start = folder / f"{part.name}.log", time.monotonic()
    code = _wait(part.command, log, limit)
    status = LATE if code is None else FAILED if code else DONE
    result = read_json(partial) if part.read is None else part.read(folder)
    partial.unlink(missing_ok=True)
    error: str | None = None
    if status != DONE:
        lines = log.read_text(errors="replace").splitlines()
        what = f"stopped after {limit:.0f} s" if code is None else f"exit status {code}"
        error = "\n".join([what, *lines[-TAIL:]])
    elif result is None:
        status, error = FAILED, "it left no result"
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "error": error, "result": result}


def _wait(command: Sequence[str], log: Path, limit: float) -> int | None:
    """The exit status of a command; None if it had to be stopped."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that what it started ends with it
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
