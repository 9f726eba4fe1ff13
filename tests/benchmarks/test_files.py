import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hgenv.benchmarks import files


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write(path, "one")
    files.write(path, b"two")
    files.write(path, iter([b"th", b"ree"]))
    assert path.read_bytes() == b"three"

    def breaks():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write(path, breaks())
    assert path.read_bytes() == b"three"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_was_appended_is_there_at_once(tmp_path: Path) -> None:
    with files.appended(tmp_path / "rows") as file:
        file.append(b"one\n")
        assert (tmp_path / "rows").read_bytes() == b"one\n"
        assert not file.settle()
    with files.appended(tmp_path / "rows") as file:
        file.append(b"two\n")
    assert (tmp_path / "rows").read_bytes() == b"one\ntwo\n"


def test_a_file_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    with files.appended(tmp_path / "rows") as file:
        file.append(b"one\n")
        (tmp_path / "rows").unlink()
        file.append(b"two\n")
        assert file.settle()
        file.append(b"three\n")
        assert not file.settle()
    assert (tmp_path / "rows").read_bytes() == b"one\ntwo\nthree\n"


def test_another_file_in_its_place_is_not_touched(tmp_path: Path) -> None:
    with files.appended(tmp_path / "rows") as file:
        file.append(b"one\n")
        (tmp_path / "rows").unlink()
        (tmp_path / "rows").write_bytes(b"other\n")
        with pytest.raises(FileExistsError, match="another file was put in the place of this one"):
            file.settle()
    assert (tmp_path / "rows").read_bytes() == b"other\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with files.appended(tmp_path / "rows") as file:
        file.close()
        file._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)
        with pytest.raises(OSError, match="No space left") as caught:
            file.append(b"row\n")
    assert caught.value.errno == errno.ENOSPC
    assert files.said(caught.value) == "the system says: No space left on device; make room on that disk"


def test_what_has_vanished_is_told_from_what_cannot_be_made(tmp_path: Path) -> None:
    for path, cure in (
        (tmp_path / "gone" / "rows", "put back what has vanished"),
        (tmp_path / "rows", r"it is not there, or cannot be made there: put it back, or choose another root=<folder>"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            path.open()
        assert f"{path}: the system says: No such file or directory; {cure}" in files.said(caught.value)


def other(folder: Path, kind: str) -> Path:
    """Something that is no file of its own."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "nowhere": "gone", "itself": path, "link": "victim"}[kind])
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "itself"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = other(tmp_path, kind)
    with pytest.raises(files.OddFileError) as caught:
        files.readable(path)
    assert re.fullmatch(
        rf"{path}: it is (no regular file; delete it|a symbolic link; delete the link)", str(caught.value)
    )
    assert files.said(caught.value) == str(caught.value)


def test_a_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        files.readable(other(tmp_path, "folder"))
    words = "the system says: Is a directory; a file belongs there: move that folder away"
    assert files.said(caught.value) == f"{tmp_path}/folder: {words}"


def test_a_file_is_read_through_a_link_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    path = other(tmp_path, "link")
    with files.readable(path) as file:
        assert file.read() == b"mine"
    with pytest.raises(files.OddFileError, match="link: it is a symbolic link; delete the link"):
        files.readable(path, links=False)


@pytest.mark.parametrize("kind", ["pipe", "device", "nowhere", "link"])
@pytest.mark.parametrize("opens", [files.appending, files.Appended])
def test_nothing_is_appended_to_what_is_no_file(tmp_path: Path, kind: str, opens: Any) -> None:
    (tmp_path / "victim").write_text("mine")
    with pytest.raises(files.OddFileError, match=rf"{kind}: it is .*; delete"):
        opens(other(tmp_path, kind))
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "gone").exists()


def test_who_appends_starts_at_the_end(tmp_path: Path) -> None:
    for before, text in ((0, b"one"), (3, b"two")):
        with files.appending(tmp_path / "log") as file:
            assert file.tell() == before
            file.write(text)
    assert (tmp_path / "log").read_bytes() == b"onetwo"


@pytest.mark.parametrize("kind", ["pipe", "device", "nowhere", "link"])
def test_a_file_takes_the_place_of_what_is_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "victim").write_text("mine")
    path = other(tmp_path, kind)
    path.with_name(f"{kind}.part").symlink_to("victim")
    files.write(path, "new")
    assert path.read_text() == "new"
    assert not path.is_symlink()
    assert (tmp_path / "victim").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted((kind, f"{kind}.part", "victim"))


def test_a_text_with_what_is_no_character_is_written(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "é\ud800")
    assert (tmp_path / "a").read_text() == "é\\ud800"


def test_what_was_half_written_is_found(tmp_path: Path) -> None:
    def parts():
        yield b"half"
        found.extend(files.leftovers(tmp_path))

    found: list[Path] = []
    (tmp_path / "mine.part").touch()
    files.write(tmp_path / "a", parts())
    assert [path.name.startswith("a.") for path in found] == [True]
    assert not files.leftovers(tmp_path)
