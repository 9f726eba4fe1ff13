"""Bytes on disk: bounded, verified, and shared by processes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hgenv.cache import DiskCache

SIZE = 1000  # bytes of an entry, with its hash


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def content(number: int) -> bytes:
    return (
        hashlib.sha256(f"content {number}".encode()).digest() * ((SIZE - 32) // 32)
        + bytes(SIZE - 32)[: (SIZE - 32) % 32]
    )


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 10 * SIZE)
    path = {number: tmp_path / "cache" / key(number)[:2] / key(number)[2:] for number in range(30)}
    for number in range(8):
        cache.put(key(number), content(number))
        os.utime(path[number], (1000 + number, 1000 + number))
    assert all(cache.get(key(number)) == content(number) for number in (0, 3)), "they are used now"
    for number in range(8, 14):
        cache.put(key(number), content(number))
        assert total(tmp_path) <= 10 * SIZE
    kept = {number for number in range(14) if cache.get(key(number)) is not None}
    assert {0, 3, 8, 9, 10, 11, 12, 13} <= kept
    assert {1, 2, 4, 5}.isdisjoint(kept)
    cache.put(key(20), bytes(11 * SIZE))
    assert cache.get(key(20)) is None, "it does not fit"


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "ab" / "thesis.tex"
    own.parent.mkdir()
    own.write_bytes(bytes(20 * SIZE))
    os.utime(own, (0, 0))
    cache = DiskCache(tmp_path, 2 * SIZE)
    for number in range(5):
        cache.put(key(number), content(number))
    assert own.exists()
    assert cache.get(key(4)) == content(4)


WRITER = """
import sys
from pathlib import Path
from hgenv.cache import DiskCache
from tests.test_cache import SIZE, content, key

cache = DiskCache(sys.argv[1], 20 * SIZE)
for turn in range(20):
    for number in range(30):
        found = cache.get(key(number))
        assert found is None or found == content(number), number
        if found is None:
            cache.put(key(number), content(number))
"""


@pytest.mark.parametrize("count", [3])
def test_processes_share_a_folder(tmp_path: Path, count: int) -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert (writer.returncode, said) == (0, "")
    assert total(tmp_path) <= (20 + count * 2) * SIZE
    assert not list(tmp_path.rglob("*.part"))
