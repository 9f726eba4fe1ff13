import errno
from pathlib import Path

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
def test_a_full_disk_is_an_error_with_a_cure() -> None:
    with files.appended(Path("/dev/full")) as file, pytest.raises(OSError, match="No space left") as caught:
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
