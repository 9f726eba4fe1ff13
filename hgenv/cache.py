"""What was made once and is kept on disk: bytes by key, as many as fit.

Several processes may share a folder. Entries appear whole or not at all, and each is verified by its hash when it is
read. Where the folder cannot be written to, nothing is kept, and nothing fails.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

HASH = hashlib.sha256
LOOKS = 16  # times that the folder is looked through while it fills once; others may write to it
OURS = re.compile(r"[0-9a-f]{62}(\..+\.part)?")  # whatever else lies there is left alone


class DiskCache:
    """Bytes by key in a folder.

    Args:
        folder: Made if it is not there.
        most_bytes: What all entries together may take; the least recently used ones make room. With n processes that
            write, it may for a while be exceeded by n sixteenths.

    Raises:
        ValueError: `most_bytes` is not positive.
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: str | Path, most_bytes: int) -> None:
        if most_bytes < 1:
            raise ValueError(f"cache_bytes must be positive, not {most_bytes}")
        self.folder, self.most_bytes = Path(folder), most_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._room = 0  # bytes that may be written before the folder is looked through again

    def get(self, key: str) -> bytes | None:
        """What was put there; None if there is nothing, or nothing that is intact.

        Args:
            key: 64 hexadecimal digits.
        """
        path = self._path(key)
        try:
            found = path.read_bytes()
            os.utime(path)  # used now
        except OSError:
            return None
        size = HASH().digest_size
        if len(found) > size and HASH(found[size:]).digest() == found[:size]:
            return found[size:]
        logger.warning("%s is damaged, and is made again", path)
        with suppress(OSError):
            path.unlink()
        return None

    def __contains__(self, key: str) -> bool:
        """Whether there is something, intact or not."""
        return self._path(key).exists()

    def put(self, key: str, content: bytes) -> None:
        """Keep something."""
        path, whole = self._path(key), HASH(content).digest() + content
        if len(whole) > self.most_bytes:
            return
        written = None
        try:
            if len(whole) > self._room:
                self._make_room(len(whole))
            self._room -= len(whole)
            path.parent.mkdir(exist_ok=True)
            handle, written = tempfile.mkstemp(".part", f"{path.name}.", path.parent)
            with open(handle, "wb") as file:
                file.write(whole)
            os.replace(written, path)
        except OSError as error:
            logger.warning("%s cannot be written, so what should be kept there is not: %s", path, str(error))
            if written is not None:
                with suppress(OSError):
                    os.unlink(written)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _make_room(self, size: int) -> None:
        """Look through the folder; remove what was not used for longest until there is room."""
        entries = sorted(self._entries())
        total, needed = sum(size for _, size, _ in entries), max(size, self.most_bytes // LOOKS)
        for _, freed, path in entries:
            if total + needed <= self.most_bytes:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= freed
        self._room = needed

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """When each was used last, its size and its path."""
        with os.scandir(self.folder) as parts:
            folders = [part.path for part in parts if part.is_dir(follow_symlinks=False) and len(part.name) == 2]
        for folder in folders:
            with suppress(FileNotFoundError), os.scandir(folder) as files:
                for file in files:
                    with suppress(FileNotFoundError):
                        if not OURS.fullmatch(file.name):
                            continue
                        found = file.stat(follow_symlinks=False)
                        yield found.st_mtime_ns, found.st_size, file.path
