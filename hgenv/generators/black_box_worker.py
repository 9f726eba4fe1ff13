"""What a worker process of `BlackBox` does: call a function, or talk to a command by lines of JSON.

Light, so that a process starts soon: it needs NumPy alone, and OpenCV where a command answers with images.
`docs/black-box.md` has the protocol.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clocks import cpu_and_wall
from ..pool import Cures, LastAnswer, Pool

LONGEST = 2**20  # bytes of a line
GRACE = 2.0  # seconds that a command has to end once it has closed its output

CURES = Cures(
    pickle="worker processes need a function that pickle can send to them: {error}; define it at the top of a module",
    set_up="put that right, and try the function or the command by itself",
    slow="give it more: BlackBox(..., timeout=...)",
    dies="use fewer: BlackBox(..., workers=...)",
)

Task = tuple[dict[str, Any], int]  # parameters and seed


RECORD = "; another kind of samples is BlackBox(..., samples=...), such as hgenv.LabelledImages"


@dataclass(frozen=True)
class Made:
    """A sample.

    Attributes:
        arrays: float32 or int64, by name.
        cpu_seconds: What it took.
    """

    arrays: dict[str, NDArray[Any]]
    cpu_seconds: float


@dataclass(frozen=True)
class Failed:
    """No sample.

    Attributes:
        words: Why.
        cpu_seconds: What it took.
        hopeless: Whether it would be no better with other parameters: the function or the command breaks the rules.
    """

    words: str
    cpu_seconds: float
    hopeless: bool = False


class Unusable(ValueError):
    """What was made is no sample, whatever the parameters. The message says what to do."""


class Degenerate(ValueError):
    """What was made is no sample this time."""


def processes(render: bytes | list[str], names: list[str], memory_bytes: int, count: int, timeout: float) -> Pool:
    """Processes of this machine that make samples.

    Args:
        render: A pickled function, or a command.
        names: Of the arrays of a sample.
        memory_bytes: See `BlackBox`.
        count: How many.
        timeout: Seconds for a sample.
    """
    if isinstance(render, bytes):
        main = b"__main__" in render
        return Pool(call, (render, names, memory_bytes), count, timeout, cures=CURES, alone=True, main=main)
    folder = tempfile.mkdtemp(prefix="hgenv-")
    pool = Pool(run, (render, folder, names, memory_bytes), count, timeout, cures=CURES, alone=True, main=False)
    weakref.finalize(pool, _remove, folder, os.getpid())
    return pool


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork
        shutil.rmtree(folder, ignore_errors=True)


def call(function: bytes, names: Sequence[str], memory_bytes: int) -> Callable[[Task], Made | Failed]:
    """Work by a pickled function of (parameters, seed)."""
    render = pickle.loads(function)

    def work(task: Task) -> Made | Failed:
        parameters, seed = task
        before = cpu_and_wall()[0]

        def spent() -> float:
            return cpu_and_wall()[0] - before

        answer: Made | Failed
        try:
            answer = Made(samples_arrays(render(dict(parameters), seed), names), spent())
        except Unusable as error:
            answer = Failed(str(error), spent(), hopeless=True)
        except Degenerate as error:
            answer = Failed(str(error), spent())
        except (Exception, SystemExit) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"
            answer = Failed(f"{words} ({Path(where.filename).name}, line {where.lineno}, in {where.name})", spent())
        return _relieved(answer, _resident("self"), memory_bytes)

    return work


def run(command: list[str], folder: str, names: list[str], memory_bytes: int) -> Callable[[Task], Made | Failed]:
    """Work by a command, which starts now.

    Raises:
        RuntimeError: It ended before it was ready, or said something else.
    """
    own = tempfile.mkdtemp(dir=folder)
    talk = _Talk(command)
    first = talk.hear()
    if first != {"ready": True}:
        raise RuntimeError(f'{talk.who} must say {{"ready": true}} when it has started, not {json.dumps(first)[:200]}')
    number = 0

    def work(task: Task) -> Made | Failed:
        nonlocal number
        number += 1
        parameters, seed = task
        before = talk.cpu_seconds()
        answer: Made | Failed
        try:
            talk.tell({"id": number, "parameters": plain(parameters), "seed": seed, "folder": own})
            said = talk.hear(number)
            if "error" in said:
                answer = Failed(f"it says: {str(said['error'])[:1000]}", talk.cpu_seconds() - before)
            else:
                arrays = samples_arrays(_read(said, own), names)
                answer = Made(arrays, talk.cpu_seconds() - before)
        except Unusable as error:  # what it says next might be about this sample
            answer = Failed(str(error), talk.cpu_seconds() - before, hopeless=True)
            talk.close()
            raise LastAnswer(answer) from None
        except Degenerate as error:
            answer = Failed(str(error), talk.cpu_seconds() - before)
        except EOFError as error:  # its last words are this process's last words
            print(error, file=sys.stderr)
            os._exit(1)
        finally:
            for path in Path(own).iterdir():
                with suppress(OSError):
                    path.unlink()
        return _relieved(answer, _resident(str(talk.process.pid)), memory_bytes)

    return work


def samples_arrays(found: Any, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a sample, as they are sent: float32 or int64, in the order of the names.

    Raises:
        Unusable: They are none; the message says what to do.
        Degenerate: Some numbers are infinite or NaN.
    """
    if not isinstance(found, dict):
        raise Unusable(f"it made {type(found).__name__}; needed is a dictionary of arrays: {', '.join(names)}")
    if missing := [name for name in names if name not in found]:
        made = ", ".join(map(str, found))
        raise Unusable(f"it made no {missing[0]!r}; needed are {', '.join(names)}; it made {made or 'nothing'}{RECORD}")
    if unknown := [str(name) for name in found if name not in names]:
        raise Unusable(
            f"it made {unknown[0]!r}, which nobody asked for; needed are {', '.join(names)} and no more{RECORD}"
        )
    arrays = {}
    for name in names:
        try:
            x = np.asarray(found[name])
        except Exception as error:
            raise Unusable(f"{name!r} is no array: {error}") from None
        if x.dtype == np.uint8:
            raise Unusable(
                f"{name!r} is uint8: give levels as (array / 255).astype(numpy.float32), and numbers of classes as "
                "array.astype(numpy.int64)"
            )
        if x.dtype.kind not in "fiub":
            raise Unusable(f"{name!r} is {x.dtype}, not numbers: give a float32 or an int64 array")
        if not x.size:
            raise Unusable(f"{name!r} is empty, {x.shape}")
        x = np.ascontiguousarray(x, dtype=np.int64 if x.dtype.kind in "iu" else np.float32).reshape(x.shape)
        if x.dtype == np.float32 and not np.isfinite(x).all():
            raise Degenerate(
                f"{name!r} has {int((~np.isfinite(x)).sum())} of {x.size} numbers that are infinite or NaN; let the "
                "renderer define them, or keep beta away from where that happens by narrower bounds"
            )
        arrays[name] = x
    return arrays


class _Talk:
    """A command that answers lines with lines."""

    def __init__(self, command: Sequence[str]) -> None:
        self.who = f"the command {command[0]!r}"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def hear(self, number: int | None = None) -> dict[str, Any]:
        """The next line that is a JSON object; others are passed on to standard error.

        Raises:
            EOFError: There is none: the command has ended.
            Unusable: It is no answer to what was asked.
        """
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline(LONGEST)
            if not line:
                raise self._ended()
            if not line.startswith(b"{"):
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
                continue
            try:
                said = json.loads(line)
            except ValueError as error:
                raise self._wrong(f"answered what is no JSON ({error})", line) from None
            if number is not None and said.get("id") != number:
                raise self._wrong(f'answered without the "id" that it was asked with, {number}', line)
            return dict(said)

    def cpu_seconds(self) -> float:
        """User and system time of the command, and of what it has waited for; 0 where /proc does not tell."""
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        """End the command."""
        self.process.kill()
        with self.process:  # closes its pipes and waits for it
            pass

    def _ended(self) -> EOFError:
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return EOFError(f"{self.who} has closed its standard output and goes on")
        return EOFError(f"{self.who} ended " + (f"with exit code {code}" if code >= 0 else f"by signal {-code}"))

    def _wrong(self, what: str, line: bytes) -> Unusable:
        shown = line.decode(errors="replace").strip()[:200]
        return Unusable(f"{self.who} {what}: {shown}; docs/black-box.md has the protocol")


def _read(said: dict[str, Any], folder: str) -> dict[str, NDArray[Any]]:
    """The arrays in the files that an answer names.

    Raises:
        Unusable: There are none.
    """
    npz, images = said.get("npz"), said.get("images", {})
    if not isinstance(npz, str | None) or not isinstance(images, dict) or not (npz or images):
        raise Unusable(
            'its answer must have "npz", the name of a file, or "images", names of files by name of array, not '
            f"{json.dumps(said)[:200]}"
        )
    found: dict[str, NDArray[Any]] = {}
    if npz is not None:
        path = Path(folder, npz)
        try:
            with np.load(path, allow_pickle=False) as file:
                found |= {name: file[name] for name in file.files}
        except Exception as error:  # NumPy's and zipfile's, which are many
            raise Unusable(f"the file {path} cannot be read as .npz: {error}") from None
    for name, file in images.items():
        found[name] = _image(Path(folder, str(file)))
    return found


def _image(path: Path) -> NDArray[np.float32]:
    """An image as (channels, H, W), 0..1 where the file has whole numbers; RGB.

    Raises:
        Unusable: It is none.
    """
    cv2 = importlib.import_module("cv2")  # late: few need it
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if pixels is None:
        raise Unusable(f"the file {path} cannot be read as an image")
    if pixels.dtype.kind == "u":
        pixels = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return np.moveaxis(np.atleast_3d(pixels), -1, 0).astype(np.float32)


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it."""
    return {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in parameters.items()}


def _resident(process: str) -> int:
    """Bytes of memory that a process holds; 0 where /proc does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _relieved(answer: Made | Failed, resident: int, memory_bytes: int) -> Made | Failed:
    """An answer.

    Raises:
        LastAnswer: With it, if whoever gave it holds too much memory: it leaks.
    """
    if resident > memory_bytes:
        raise LastAnswer(answer)
    return answer
