"""Files that are there as they were or completely, whatever ends the process or the machine in between."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

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
    errno.EISDIR: "a file belongs there: move that folder away",
    errno.ESTALE: "mount that file system again",
}


_TEMPORARY = re.compile(r".+\.[0-9a-f]{16}\.part")


class OddFileError(OSError):
    """In a file's place is something else: a pipe, a device, or a link where none is followed."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def readable(path: Path, *, links: bool = True) -> IO[bytes]:
    """Open a file for reading, whoever put it there: a pipe would be waited for, and a device may have no end.

    Args:
        path: The file.
        links: Whether it may be a symbolic link.

    Raises:
        OddFileError: It is no file.
        OSError: The system refuses.
    """
    return os.fdopen(_opened(path, os.O_RDONLY | (0 if links else os.O_NOFOLLOW)), "rb")


def appending(path: Path) -> IO[bytes]:
    """Open a file to write at its end, and make it if it is not there; not through a link, which may lead anywhere.

    Raises:
        OddFileError: It is no file.
        OSError: The system refuses.
    """
    return os.fdopen(_opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "ab")


def _opened(path: Path, flags: int) -> int:
    """Descriptor of a regular file."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OddFileError(errno.ELOOP, "it is a symbolic link; delete the link", str(path)) from None
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise OddFileError(errno.ENXIO, "it is no regular file; delete it", str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OddFileError(errno.EINVAL, "it is no regular file; delete it", str(path))
    return descriptor


def write(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a file that is there either as it was or completely, also after a loss of power.

    A link in its place is replaced, not followed. Several processes may write it at a time: the last one wins.

    Args:
        path: The file.
        content: All of it, or its parts in order. What a text has that is no character is written as its number.

    Raises:
        OSError: The system refuses; the file is as it was.
    """
    write_all({path: content})


def write_all(contents: Mapping[Path, str | bytes | Iterable[bytes]]) -> None:
    """Write several files as `write` does; none is replaced before all are on the disk.

    Raises:
        OSError: The system refuses.
    """
    written: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            # A name that nobody can have put a link at.
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
            written[path] = temporary
            if isinstance(content, str):
                content = content.encode(errors="backslashreplace")
            with temporary.open("xb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in written.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in written.values():
            with suppress(OSError):
                temporary.unlink()
        raise


def leftovers(folder: Path) -> list[Path]:
    """What `write` was at in a folder when its process was killed, or is at now."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def said(error: OSError) -> str:
    """What the system said, about what, and what helps."""
    if isinstance(error, OddFileError):
        return str(error)
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
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return os.fdopen(_opened(self.path, flags), "a+b", buffering=0)

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
            self._file, lost = self._open(), True
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
