"""Who may write in a run's folder; the race is run by real threads, with and without locks of the system."""

import dataclasses
import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hgenv.benchmarks import lease
from hgenv.benchmarks.files import OddFileError
from hgenv.benchmarks.lease import LEASE, LeaseError, Owner, TakenError, owned


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def write(folder: Path, age: float = 0.0, **changes: object) -> None:
    """A lease of someone else."""
    owner = dataclasses.replace(Owner.me(), **changes)
    (folder / LEASE).write_text(json.dumps(dataclasses.asdict(owner)))
    moment = (folder / LEASE).stat().st_mtime - age
    os.utime(folder / LEASE, (moment, moment))


ELSEWHERE = {"host": "node7", "machine": "node7 since yesterday", "process": 41, "token": "theirs"}


def test_a_lease_is_there_while_it_is_held_and_no_longer(tmp_path: Path) -> None:
    assert lease.taken(tmp_path) is None
    with owned(tmp_path) as mine:
        assert lease.read(tmp_path / LEASE) == mine.owner
        mine.check()
        busy = lease.taken(tmp_path)
        assert busy is not None
        assert busy.what == f"{tmp_path}: process {os.getpid()} on {mine.owner.host} is at work on this run"
    assert lease.taken(tmp_path) is None
    assert not (tmp_path / LEASE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("age", [0.0, lease.PATIENCE - 30])
def test_another_machine_keeps_us_out_while_it_gives_signs_of_life(tmp_path: Path, age: float) -> None:
    write(tmp_path, age, **ELSEWHERE)
    words = r"process 41 on node7 is at work.*if that machine is lost, wait 90 s"
    with pytest.raises(TakenError, match=words), owned(tmp_path):
        pass
    assert re.search(words, str(lease.taken(tmp_path)))
    assert lease.read(tmp_path / LEASE).host == "node7"


def test_a_machine_that_is_lost_does_not_for_long(tmp_path: Path) -> None:
    write(tmp_path, lease.PATIENCE + 30, **ELSEWHERE)
    assert lease.taken(tmp_path) is None
    with owned(tmp_path) as mine:
        assert lease.read(tmp_path / LEASE) == mine.owner


def test_a_process_that_was_killed_here_keeps_nobody_out(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pass
    write(tmp_path, process=process.pid, started="1")
    assert lease.taken(tmp_path) is None
    with owned(tmp_path) as mine:
        assert lease.read(tmp_path / LEASE) == mine.owner


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', "\0" * 100])
def test_a_lease_that_cannot_be_read_counts_by_its_age(tmp_path: Path, content: str) -> None:
    (tmp_path / LEASE).write_text(content)
    with pytest.raises(LeaseError, match="another process is at work"), owned(tmp_path):
        pass
    assert lease.taken(tmp_path) is not None
    os.utime(tmp_path / LEASE, (1, 1))
    assert lease.taken(tmp_path) is None
    with owned(tmp_path) as mine:
        assert lease.read(tmp_path / LEASE) == mine.owner


def test_who_was_taken_over_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with owned(tmp_path) as mine:
        write(tmp_path, **ELSEWHERE)
        time.sleep(1)
        with pytest.raises(TakenError, match="taken over by process 41 on node7; this process writes nothing more"):
            mine.check()
    assert lease.read(tmp_path / LEASE).host == "node7"  # whose it is now


def test_heartbeats_are_signs_of_life_and_a_lease_that_was_cleaned_away_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with owned(tmp_path) as mine:
        os.utime(tmp_path / LEASE, (1, 1))
        end = time.monotonic() + 20
        while (tmp_path / LEASE).stat().st_mtime < 2:
            assert time.monotonic() < end
        (tmp_path / LEASE).unlink()
        while not (tmp_path / LEASE).exists():
            assert time.monotonic() < end
        mine.check()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "it has none")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with owned(tmp_path):
        assert "this file system has no locks (it has none)" in caplog.text
        with pytest.raises(LeaseError, match=rf"process {os.getpid()} on .* is at work on this run"), owned(tmp_path):
            pass
    with owned(tmp_path):
        pass


def winners(folder: Path, contenders: int = 6) -> int:
    """How many of those that start at once get in, before anyone goes out."""
    barrier, over, found = threading.Barrier(contenders), threading.Barrier(contenders), []

    def contend() -> None:
        barrier.wait()
        try:
            with owned(folder):
                found.append(True)
                over.wait()
        except LeaseError:
            over.wait()

    threads = [threading.Thread(target=contend) for _ in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(found)


@pytest.mark.parametrize("before", ["nothing", "an old lease"])
def test_of_those_that_start_at_once_one_wins(tmp_path: Path, before: str) -> None:
    for _ in range(30):
        if before != "nothing":
            write(tmp_path, 1000, **ELSEWHERE)
        assert winners(tmp_path) == 1


@pytest.mark.parametrize("before", ["nothing", "an old lease"])
def test_without_locks_too(tmp_path: Path, no_locks: None, before: str) -> None:
    for _ in range(30):
        if before != "nothing":
            write(tmp_path, 1000, **ELSEWHERE)
        assert winners(tmp_path) == 1


def test_what_the_system_refuses_is_not_called_another_process(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError), owned(Path(os.devnull) / "x"):
        pass


@pytest.mark.parametrize("kind", ["pipe", "device", "nowhere", "link"])
def test_a_lease_that_is_no_file_is_to_be_deleted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / LEASE
    if kind == "pipe":
        os.mkfifo(path)
    else:
        write(tmp_path, **ELSEWHERE)
        path.rename(tmp_path / "theirs")
        path.symlink_to({"device": "/dev/zero", "nowhere": "gone", "link": "theirs"}[kind])
    assert lease.taken(tmp_path) is None  # the run itself says what is wrong
    with pytest.raises(OddFileError, match=r"lease.json: it is .*; delete"), owned(tmp_path):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / lease.LOCK).symlink_to("elsewhere")
    with pytest.raises(OddFileError, match="lock: it is a symbolic link; delete the link"), owned(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_lease_of_any_size_is_read_no_further_than_a_lease_goes(tmp_path: Path) -> None:
    with (tmp_path / LEASE).open("wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(ValueError, match="Expecting value"):
        lease.read(tmp_path / LEASE)
    (tmp_path / LEASE).write_text("[" * 9999)
    with pytest.raises(ValueError, match="no lease: maximum recursion"):
        lease.read(tmp_path / LEASE)


def test_clocks_may_differ_a_little_but_what_is_from_the_future_keeps_nobody_out(tmp_path: Path) -> None:
    write(tmp_path, 30 - lease.PATIENCE, **ELSEWHERE)
    assert lease.taken(tmp_path) is not None
    write(tmp_path, -lease.PATIENCE - 30, **ELSEWHERE)
    (tmp_path / f"{LEASE}.ended").touch()
    os.utime(tmp_path / f"{LEASE}.ended", (2**31, 2**31))
    assert lease.taken(tmp_path) is None
    with owned(tmp_path) as mine:
        assert lease.read(tmp_path / LEASE) == mine.owner
