"""Files that are there as they were or completely, whatever ends the process or the machine in between."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What helps against what a system says; other errors speak for themselves.
_CURES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "have that file system mounted for writing, or choose another root=<folder>",
    errno.EACCES: "give yourself the right to read and write there, or choose another root=<folder>",
    errno.EPERM: "give yourself the right to read and write there, or choose another root=<folder>",
    errno.ENOENT: "put back what has vanished (a disk that is not mounted, a folder that was moved)",
    errno.ENOTDIR: "choose another root=<folder>: a part of this path is no folder",
    errno.ESTALE: "mount that file system again",
}


def write(path: Path, content: str | bytes | Iterable[bytes], mark: str = "part") -> None:
    """Write a file that is there either as it was or completely, also after a loss of power.

    Args:
        path: The file.
        content: All of it, or its parts in order.
        mark: How the name ends while it is written; one's own where several processes may write the file at a time.

    Raises:
        OSError: The system refuses; the file is as it was.
    """
    temporary = path.with_name(f"{path.name}.{mark}")
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def said(error: OSError) -> str:
    """What the system said, about what, and what helps."""
    where = f"{error.filename}: " if error.filename is not None else ""
    cure = _CURES.get(error.errno or 0)
    if error.errno == errno.ENOENT and error.filename is not None and Path(os.fsdecode(error.filename)).parent.is_dir():
        cure = "it is not there, or cannot be made there: put it back, or choose another root=<folder>"
    return f"{where}the system says: {error.strerror or error}" + (f"; {cure}" if cure else "")


def within(folder: Path, words: str) -> str:
    """What was said about a folder, for behind its name: without saying it again."""
    return words.replace(f"{folder}/", "").replace(f"{folder}: ", "")


class Appended:
    """A file that grows at its end, and is put back where it was deleted.

    What was written is with the system when a call returns: nothing waits in this process.

    Args:
        path: The file, made if it is not there.

    Raises:
        OSError: The system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            OSError: The system refuses; a part of the data may be there.
        """
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def settle(self) -> bool:
        """Have everything on the disk, under its name.

        Returns:
            Whether the file had been deleted, and was written again.

        Raises:
            FileExistsError: Another file has its name now.
            OSError: The system refuses.
        """
        mine, lost = os.fstat(self._file.fileno()), False
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            self._file.seek(0)
            write(self.path, self._file.read())
            self._file.close()
            self._file, lost = self.path.open("a+b", buffering=0), True
        else:
            if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                raise FileExistsError(errno.EEXIST, "another file was put in the place of this one", str(self.path))
        os.fsync(self._file.fileno())
        return lost

    def close(self) -> None:
        """End it; what was written stays."""
        self._file.close()


@contextmanager
def appended(path: Path) -> Iterator[Appended]:
    """An `Appended` that is closed at the end."""
    file = Appended(path)
    try:
        yield file
    finally:
        file.close()
