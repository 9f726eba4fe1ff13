"""What takes long is announced, and what need not be done twice is kept on disk."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

logger = logging.getLogger("hgenv")
progress = logging.getLogger("hgenv.progress")  # how far something is that takes long; what it says is INFO

FOLDER = "HGENV_CACHE"  # the environment variable that names the folder of what is kept; empty: nothing is
PATIENCE = 2.0  # seconds
TOLD = 10.0  # seconds from one word about progress to the next
_SUM = hashlib.sha256().digest_size

Arrays = Mapping[str, NDArray]


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Log what is going on, if it takes more than `PATIENCE`."""
    timer = threading.Timer(PATIENCE, logger.warning, ["%s", what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Progress:
    """Logs how far something is, how fast it goes and how long it will take, every `TOLD` seconds.

    Args:
        what: What is made.
        total: How many of them.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._begun = self._told = time.monotonic()

    def step(self) -> None:
        """One more is there."""
        self.done += 1
        now = time.monotonic()
        if now - self._told >= TOLD and self.done < self.total:
            self._told, rate = now, self.done / (now - self._begun)
            left = timedelta(seconds=round((self.total - self.done) / rate))
            progress.info("%s: %d of %d, %.2g a second, %s left", self.what, self.done, self.total, rate, left)


def kept(name: str, sources: Sequence[str], make: Callable[[], Arrays]) -> Arrays:
    """What `make` gives, from disk if an earlier process made it with the same code, libraries and kind of machine.

    A folder that cannot be written, or a damaged file, only means that it is made again.

    Args:
        name: The file's, without ending.
        sources: The Python files that decide what is made.
        make: Makes it; arrays by name.
    """
    folder = _folder()
    if folder is None:
        return make()
    digest = hashlib.sha256(f"{np.__version__} {torch.__version__} {platform.platform()}".encode())
    for source in sources:
        digest.update(Path(source).read_bytes())
    path = folder / f"{name}-{digest.hexdigest()[:16]}"
    with suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[_SUM:]).digest() == data[:_SUM]:  # else it is damaged
            with np.load(io.BytesIO(data[_SUM:]), allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
    made = make()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, whoever else writes it at the same time.
        content = io.BytesIO()
        np.savez(content, **dict[str, Any](made))
        data = content.getvalue()
        with NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            part.write(hashlib.sha256(data).digest() + data)
        os.replace(part.name, path)
    return made


def _folder() -> Path | None:
    named = os.environ.get(FOLDER)
    if named is not None:
        return Path(named) if named else None
    with suppress(RuntimeError):  # nobody's home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hgenv"
    return None
