"""Files that somebody else wrote: what they say of themselves is looked at before memory is taken, and nothing runs."""

import io
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from hgenv.datasets import files
from hgenv.datasets.folder import DataError

ARRAYS = {"a": np.arange(12.0).reshape(3, 4), "b": np.arange(5, dtype=np.int32), "c": np.array(["x", "yy"])}


class Odd:
    """Leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.mark,)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def npy(shape: tuple[int, ...], content: bytes, dtype: str = "<f8") -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What takes a GiB more than it has fails."""
    before, about = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if not about.is_file():  # a system that cannot say how much is taken
        yield
        return
    taken = int(about.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_arrays_come_back_in_this_machines_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    path.write_bytes(npz(a=ARRAYS["a"].astype(">f8"), b=np.asfortranarray(np.eye(3)[:2]), c=ARRAYS["c"]))
    found = files.read_npz(path, ("a", "b", "c"), "cure")
    assert found["a"].dtype == np.dtype("f8")
    np.testing.assert_array_equal(found["a"], ARRAYS["a"])
    np.testing.assert_array_equal(found["b"], np.eye(3)[:2])
    np.testing.assert_array_equal(found["c"], ARRAYS["c"])


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=4))
def test_no_wrong_bit_in_an_archive_changes_an_array(flips: list[tuple[int, int]]) -> None:
    data = bytearray(npz(**ARRAYS))
    for at, bit in flips:
        data[at % len(data)] ^= 1 << bit
    try:
        found = files.unpack_npz(bytes(data), tuple(ARRAYS))
    except Exception:  # what the loaders turn into words
        return
    for name, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[name])


@given(st.integers(0, 10**6), st.integers(0, 7), st.booleans())
def test_no_wrong_bit_in_a_png_file_changes_a_pixel(at: int, bit: int, cut: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    data = bytearray(png(pixels))
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    with pytest.raises((ValueError, struct.error)):
        files._check_png(bytes(data), 1000)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "bad.npz"
    np.savez(path, a=np.array([Odd(mark)], dtype=object))
    with pytest.raises(DataError, match=r"bad.npz: truncated.*'a' holds Python objects.*the cure"):
        files.read_npz(path, ("a",), "the cure")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**6, 10**6), bytes(80)), r"shape \(1000000, 1000000\), but has 80 bytes"),
        (npy((-2, -5), bytes(80)), r"has the shape \(-2, -5\)"),
        (npy((10**12,), b"", "<U0"), "but has 0 bytes"),
        (npy((10,), bytes(79)), "but has 79 bytes"),
        (npy((10,), bytes(81)), "but has 81 bytes"),
        (b"nothing of the kind", "the magic string is not correct"),
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_arrays_that_ask_for_more_than_is_there(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "greedy.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(DataError, match=rf"greedy.npz: .*{message}"):
        files.read_npz(path, ("a",), "cure")


@pytest.mark.parametrize("declared", [2**32 - 2, 300])
@pytest.mark.usefixtures("little_memory")
def test_bombs_do_not_go_off(tmp_path: Path, declared: int) -> None:
    """Four GiB of zeros, whose size is said, and hidden."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = stream.compress(bytes(2**24)) + stream.flush(zlib.Z_FULL_FLUSH)
    bomb, name, path = block * 256 + stream.flush(), b"a.npy", tmp_path / "bomb.npz"
    about = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(bomb), declared, len(name), 0)
    local = struct.pack("<I", 0x04034B50) + about + name + bomb
    central = struct.pack("<IH", 0x02014B50, 20) + about + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    with pytest.raises(DataError, match=r"bomb.npz: "):
        files.read_npz(path, ("a",), "cure")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.writestr("a.npy", npy((1,), bytes(8)))
        archive.writestr("a", npy((1,), bytes(8)))
    with pytest.raises(DataError, match="several arrays of one name"):
        files.read_npz(tmp_path / "two.npz", ("a",), "cure")


@pytest.mark.parametrize(
    ("width", "height", "body", "message"),
    [
        (10**5, 10**5, bytes(100), "100000 x 100000 pixels, where"),
        (20, 20, bytes(2**26), "not the 20 x 20 pixels that it announces"),
        (20, 20, bytes(50), "not the 20 x 20 pixels that it announces"),
        (0, 20, b"", "20 x 0 pixels"),
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_images_that_ask_for_more_than_is_there(
    tmp_path: Path, width: int, height: int, body: bytes, message: str
) -> None:
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.raises(DataError, match=rf"photo.png: .*{message}.*; replace it"):
        files.read_png(tmp_path / "photo.png", "cure", "replace it")


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def mat(flags: int, sizes: tuple[int, int], numbers: bytes) -> bytes:
    matrix = element(6, struct.pack("<II", flags, 0)) + element(5, struct.pack("<ii", *sizes))
    matrix += element(1, b"depth") + element(9, numbers)
    packed = zlib.compress(element(14, matrix), 1)
    return b"MATLAB 5.0".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49) + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize("flags", [6, 1, 2])  # numbers, cells, structs
@pytest.mark.usefixtures("little_memory")
def test_variables_that_ask_for_more_than_is_there(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "Z.mat"
    path.write_bytes(mat(flags, (10**5, 10**5), bytes(64)))
    with pytest.raises(DataError, match=r"Z.mat: .*\(100000, 100000\), but has \d+ bytes"):
        files.read_mat(path, "depth", "cure", "replace it")
    path.write_bytes(mat(6, (4, 2), bytes(2**26)))
    with pytest.raises(DataError, match="unpacks to more than 1000000 bytes"):
        files.read_mat(path, "depth", "cure", "replace it", most=10**6)


def test_matlab_files_with_and_without_compression(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).normal(size=(5, 4))
    for compressed in (True, False):
        content = {"other": 1.0, "depth": depth, "s": {"x": [[1, 2]], "y": {"z": "text"}}}
        scipy.io.savemat(tmp_path / "Z.mat", content, do_compression=compressed)
        np.testing.assert_array_equal(files.read_mat(tmp_path / "Z.mat", "depth", "cure", "replace"), depth)
        assert files.read_mat(tmp_path / "Z.mat", "s", "cure", "replace").dtype.names == ("x", "y")
    with pytest.raises(DataError, match=r"Z.mat: holds other, depth, s, but no variable 'normals'"):
        files.read_mat(tmp_path / "Z.mat", "normals", "cure", "replace")
    data = bytearray((tmp_path / "Z.mat").read_bytes())
    (tmp_path / "Z.mat").write_bytes(data[:-20])
    with pytest.raises(DataError, match="ends after the file"):
        files.read_mat(tmp_path / "Z.mat", "depth", "cure", "replace")


@pytest.mark.parametrize(
    "place", [lambda p: p.mkdir(), lambda p: p.symlink_to(p), lambda p: p.symlink_to(p.with_name("x")), lambda p: None]
)
def test_what_is_no_file_is_said_to_be_none(tmp_path: Path, place: Callable[[Path], object]) -> None:
    place(tmp_path / "some.npz")
    with pytest.raises(DataError, match=r"some.npz: there is no such file; the cure"):
        files.read(tmp_path / "some.npz", "the cure")


def test_what_the_system_refuses_is_said_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.npz").write_bytes(b"x")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"some.npz: cannot be read \(Permission denied\); make it readable"):
        files.read(tmp_path / "some.npz", "the cure")


def test_a_file_larger_than_plausible_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "some.npz").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match="1000000000000 bytes, where"):
        files.read(tmp_path / "some.npz", "cure")


@pytest.mark.parametrize("text", ["[" * 10**5, "{", "", "[1, 2", "NaN?", "\x00"])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(DataError, match=r"some.json: damaged, not JSON"):
        files.read_json(tmp_path / "some.json", "cure")
    (tmp_path / "some.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"some.json: damaged, not a text"):
        files.read_json(tmp_path / "some.json", "cure")


def test_whole_and_real_numbers() -> None:
    assert files.whole_numbers(np.array([1.0, 2.0])).tolist() == [1, 2]
    for wrong in ([1.5], [np.nan], [1e300], ["1"], [1j], [None], [True]):
        assert files.whole_numbers(np.array(wrong)) is None
    assert files.real_numbers(np.array([1, 2], np.uint8)).dtype == np.float64
    for wrong in ([np.inf], [np.nan], ["1"], [1j], [None]):
        assert files.real_numbers(np.array(wrong)) is None
