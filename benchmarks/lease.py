"""Who works on a run: one process at a time, on one machine or on many that share a file system.

Two things keep others out. A lock of the system (flock) on the file `lock` ends with its process, however that ends.
Where a file system has no locks, or keeps them from other machines, the file `lease.json` does it: it names the process
and its machine, and is touched now and then. A lease that nobody has touched for long has ended: a machine that is lost
keeps nobody out for more than `PATIENCE` seconds. Ages are by the file system's own clock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files
from .records import RecordError

LOCK, LEASE = "lock", "lease.json"
HEARTBEAT = 10.0  # seconds between two touches
PATIENCE = 90.0  # seconds without one after which a lease has ended
TAKEN = 75  # exit status of a run that another process has at work; sysexits.h says of it "try again later"

_ENDS = "; this process writes nothing more there"

logger = logging.getLogger(__name__)


class LeaseError(RecordError):
    """This process may not write in a run's folder, or no longer."""


class TakenError(LeaseError):
    """Another process works on the run, or has taken it over."""


@dataclass(frozen=True)
class Owner:
    """A process, on whatever machine.

    Attributes:
        host: Name of the machine.
        machine: Tells the machine, its start and its process numbers from all others.
        process: Its number there.
        started: When it started, by that machine; tells it from others of the same number.
        token: Tells two leases of one process apart.
    """

    host: str
    machine: str
    process: int
    started: str
    token: str

    @staticmethod
    def me() -> Owner:
        """This process."""
        return Owner(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), secrets.token_hex(8))

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether it is still there, if it is on this machine."""
        return _started(self.process) == self.started != ""


class Lease:
    """The right to write in a run's folder, as long as it is not lost.

    Args:
        folder: The run's.
        owner: Who has it.
    """

    def __init__(self, folder: Path, owner: Owner) -> None:
        self.path, self.owner = folder / LEASE, owner
        self._ended = threading.Event()
        self._touched = time.monotonic()
        self._lost: LeaseError | None = None
        self._thread = threading.Thread(target=self._touch_now_and_then, daemon=True, name="lease")
        self._thread.start()

    def check(self) -> None:
        """Make sure that the folder is still this process's.

        Raises:
            LeaseError: It is not.
        """
        if self._lost is None and time.monotonic() - self._touched > PATIENCE / 2:
            self._touch()  # this process was asleep
        if self._lost is not None:
            raise self._lost

    def end(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError, ValueError):
            if read(self.path) == self.owner:
                self.path.unlink()

    def _touch_now_and_then(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            self._touch()

    def _touch(self) -> None:
        try:
            owner = read(self.path)
            if owner == self.owner:
                os.utime(self.path)
                self._touched = time.monotonic()
            else:
                self._lost = TakenError(f"{self.path.parent}: the run was taken over by {_words(owner)}{_ENDS}")
        except FileNotFoundError:
            # Deleted by someone who cleans up, not taken over: taking over leaves another lease.
            with suppress(OSError):
                _create(self.path, self.owner)
                self._touched = time.monotonic()
        except (OSError, ValueError) as error:
            # A file system that is away for a while is no reason to stop, until others may have taken over.
            if time.monotonic() - self._touched > PATIENCE:
                why = f"the lease could not be renewed for {PATIENCE:g} s ({error})"
                self._lost = LeaseError(f"{self.path.parent}: {why}{_ENDS}")


@contextmanager
def owned(folder: Path) -> Iterator[Lease]:
    """Keep others out of a run's folder, for as long as this process lives and is inside.

    Raises:
        TakenError: Another process is at work there.
        OSError: The folder cannot be written to.
    """
    # Not a file that is ever replaced, and open for writing, which NFS asks of a lock.
    with files.appending(folder / LOCK) as file:
        locked = _lock(file.fileno(), folder)
        lease = Lease(folder, _acquire(folder, trusted=locked))
        try:
            yield lease
        finally:
            lease.end()


def taken(folder: Path) -> TakenError | None:
    """What would keep this process out of a run, as far as the lease there tells; None if nothing is known of.

    Nothing is taken, and nobody is kept out by it. A run that has this very moment begun may not have its lease yet.
    """
    path = folder / LEASE
    try:
        other = _read(path)
        return _busy(folder, other) if _stands(path, other, trusted=False) else None
    except OSError:  # there is none; or the system refuses, as it will when the run is to begin
        return None


def read(path: Path) -> Owner:
    """Whose lease it is.

    Raises:
        FileNotFoundError: There is none.
        OddFileError: It is a pipe, a device or a link; the message says to delete it.
        ValueError: The file is no lease.
    """
    with files.readable(path, links=False) as file:
        text = file.read(4096)
    try:
        kept: Any = json.loads(text or b"null")
        owner = Owner(**kept)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no lease: {error}") from None
    if not all(isinstance(v, str) for v in (owner.host, owner.machine, owner.started, owner.token)):
        raise ValueError("no lease: a name is no text")
    if not isinstance(owner.process, int) or isinstance(owner.process, bool):
        raise ValueError("no lease: the process is no number")
    return owner


def _lock(descriptor: int, folder: Path) -> bool:
    """Whether the system gives a lock; False where it has none for this file system."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            with suppress(OSError):
                raise _busy(folder, _read(folder / LEASE)) from None
            raise _busy(folder, None) from None
        logger.warning("%s: this file system has no locks (%s); a lease file serves", folder, error.strerror)
        return False
    return True


def _acquire(folder: Path, *, trusted: bool) -> Owner:
    """Write this process's lease, where there is none that lives.

    Args:
        folder: The run's.
        trusted: Whether a lock of the system keeps other processes of this machine out.
    """
    path, me = folder / LEASE, Owner.me()
    for _ in range(3):
        with suppress(FileExistsError):
            _create(path, me)
            return me
        try:
            other = _read(path)
        except FileNotFoundError:
            continue
        if _stands(path, other, trusted=trusted):
            raise _busy(folder, other)
        _take_away(path, other)
    raise _busy(folder, None)


def _read(path: Path) -> Owner | None:
    """Whose lease it is; None if it is half written, or damaged."""
    try:
        return read(path)
    except ValueError:
        return None


def _stands(path: Path, other: Owner | None, *, trusted: bool) -> bool:
    """Whether a lease keeps others out: by its process where that is known, else by its age."""
    if other is not None and other.is_here:
        return other.lives and not trusted
    return abs(_age(path)) < PATIENCE  # clocks differ a little; what is from the future is no sign of life, either


def _take_away(path: Path, other: Owner | None) -> None:
    """Delete a lease that has ended, unless there is another by now.

    One process at a time does that: whoever deleted a lease that it read a moment before might delete a newer one.
    """
    guard = path.with_name(f"{path.name}.ended")
    try:
        guard.touch(exist_ok=False)
    except FileExistsError:
        if abs(_age(guard)) > PATIENCE:  # of a process that was killed in this very moment
            guard.unlink(missing_ok=True)
        return
    try:
        with suppress(FileNotFoundError):
            if _read(path) == other:
                path.unlink()
    finally:
        guard.unlink(missing_ok=True)


def _create(path: Path, owner: Owner) -> None:
    """Write a lease whole, if there is none.

    Raises:
        FileExistsError: There is one.
    """
    aside = path.with_name(f"{path.name}.{owner.token}")
    aside.write_text(json.dumps(owner.__dict__))
    try:
        os.link(aside, path)  # fails where there is one, on NFS, too
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with path.open("x") as file:
            file.write(json.dumps(owner.__dict__))
    finally:
        aside.unlink()


def _age(path: Path) -> float:
    """Seconds since a file was touched, by its file system's clock; infinite if it is gone, negative in the future."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.lstat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def _busy(folder: Path, owner: Owner | None) -> TakenError:
    lost = "" if owner is None or owner.is_here else f"; if that machine is lost, wait {PATIENCE:g} s"
    return TakenError(f"{folder}: {_words(owner)} is at work on this run", f"wait for it, or stop it{lost}")


def _words(owner: Owner | None) -> str:
    return "another process" if owner is None else f"process {owner.process} on {owner.host}"


def _machine() -> str:
    """This machine since its start, and the process numbers that hold here: containers have their own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(process: int) -> str:
    """When a process of this machine started; empty if there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
        return "unknown" if not Path("/proc/self/stat").exists() else ""
    return "" if fields[0] in "ZX" else fields[19]
