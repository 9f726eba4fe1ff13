"""Reading files that somebody else wrote: what a file says of itself is checked before memory is taken for it.

No reader here runs what a file holds: arrays of objects are refused. All say file, fact and cure in a `DataError`.
"""

from __future__ import annotations

import ast
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray

from .folder import DataError

MOST_BYTES = 2**31  # of a file, and of what is packed in it; the Basel Face Model takes a third of that
MOST_PIXELS = 2**26  # of an image: 8192 x 8192
DEEPEST = 8  # variables within variables of a MATLAB file

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by a PNG file's type of colour
_COMPRESSED, _MATRIX, _INT32 = 15, 14, 5  # types of elements in a MATLAB file


def read(path: Path, cure: str, most: int = MOST_BYTES) -> bytes:
    """What is in a file.

    Args:
        path: The file.
        cure: What to do if it is not there.
        most: Bytes that are plausible.

    Raises:
        DataError: It is missing, cannot be read, or is larger than plausible.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file; {cure}")
        size = path.stat().st_size
        if size > most:
            raise DataError(f"{path}: {size} bytes, where {most} are the most that make sense; {cure}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); make it readable, or {cure}") from error


def read_npz(path: Path, keys: tuple[str, ...], cure: str, most: int = MOST_BYTES) -> dict[str, NDArray]:
    """The named arrays of an `.npz` file, in this machine's byte order; those that are not there are left out.

    Args:
        path: The file.
        keys: Names of arrays.
        cure: What to do if it is missing or damaged.
        most: Bytes that are plausible, of all these arrays together.

    Raises:
        DataError: It is missing or damaged, or an array is not there.
    """
    data = read(path, cure, most)
    try:
        found = unpack_npz(data, keys, most)
    except Exception as error:  # a damaged archive raises anything
        raise DataError(f"{path}: truncated or damaged, or not an .npz file ({error}); {cure}") from error
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(f"{path}: holds no {', '.join(missing)}; {cure}")
    return found


def unpack_npz(data: bytes, keys: tuple[str, ...] | None = None, most: int = MOST_BYTES) -> dict[str, NDArray]:
    """The named arrays of an `.npz` file's content; None for all. What is damaged raises anything."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("it holds several arrays of one name")
        wanted = {key: m for key, m in members.items() if keys is None or key in keys}
        total = sum(m.file_size for m in wanted.values())
        if total > most:
            raise ValueError(f"its arrays ask for {total} bytes, where {most} are the most that make sense")
        found = {}
        for key, member in wanted.items():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{key!r} is compressed in a way that numpy does not write")
            with archive.open(member) as file:
                content = file.read(member.file_size + 1)  # of that length, a bomb does not go off
            found[key] = _array(key, content)
        return found


def _array(name: str, content: bytes) -> NDArray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    length = struct.unpack("<H" if version == (1, 0) else "<I", file.read(2 if version == (1, 0) else 4))[0]
    if length > 10_000:
        raise ValueError(f"the header of {name!r} has {length} bytes")
    header = ast.literal_eval(file.read(length).decode("latin1" if version < (3, 0) else "utf8"))
    shape, dtype = header["shape"], np.lib.format.descr_to_dtype(header["descr"])
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds Python objects, which no data set needs and which could do anything")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"{name!r} has the shape {shape!r}")
    there = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != there or not dtype.itemsize:
        raise ValueError(f"{name!r} is to be {dtype} of shape {shape}, but has {there} bytes")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    array = flat.reshape(shape, order="F" if header["fortran_order"] is True else "C")
    return array.astype(dtype.newbyteorder("="), order="C")


def read_png(path: Path, cure: str, replace: str, most: int = MOST_PIXELS) -> NDArray:
    """The pixels of a PNG file as they are stored, (h, w) or (h, w, channels).

    Args:
        path: The file.
        cure: What to do if it is missing.
        replace: What to do if it is damaged.
        most: Pixels that are plausible.

    Raises:
        DataError: It is missing or damaged, or larger than plausible.
    """
    data = read(path, cure)
    try:
        shape = _check_png(data, most)
        # OpenCV keeps all 16 bits (Pillow drops 8 of them without a word), and gives None where a file is damaged.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.shape[:2] != shape:
            raise ValueError("it cannot be decoded")
    except Exception as error:  # whatever decoders say
        raise DataError(
            f"{path}: truncated or damaged ({len(data)} bytes), or not a PNG file ({error}); {replace}"
        ) from error
    return pixels


def _check_png(data: bytes, most: int) -> tuple[int, int]:
    """Height and width, if all checksums are right and all pixels are there; some decoders fill up what is not."""
    if not data.startswith(_PNG):
        raise ValueError("it does not begin like one")
    at, kind, header, packed = len(_PNG), b"", b"", []
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(kind + content) != checksum:
            raise ValueError(f"the checksum of its part {kind.decode('latin1')!r} is wrong")
        if (kind == b"IHDR") != (at == len(_PNG)):
            raise ValueError("its header is not where it belongs")
        header = content if kind == b"IHDR" else header
        if kind == b"IDAT":
            packed.append(content)
        at += 12 + length
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if not 0 < width * height <= most:
        raise ValueError(f"it is to have {height} x {width} pixels, where {most} are the most that make sense")
    if not interlaced:
        row = 1 + (width * bits * _CHANNELS[colour] + 7) // 8
        stream = zlib.decompressobj()
        if len(stream.decompress(b"".join(packed), row * height + 1)) != row * height:
            raise ValueError(f"it has not the {height} x {width} pixels that it announces")
    return height, width


def read_mat(path: Path, name: str, cure: str, replace: str, most: int = MOST_BYTES) -> NDArray:
    """A variable of a MATLAB 5 file.

    Args:
        path: The file.
        name: The variable's.
        cure: What to do if the file is missing.
        replace: What to do if it is damaged.
        most: Bytes that are plausible.

    Raises:
        DataError: It is missing or damaged, or has no such variable.
    """
    data = read(path, cure, most)
    try:
        plain = _unpacked_mat(data, most)
        names = [found for found, _, _ in scipy.io.whosmat(io.BytesIO(plain))]
        content = scipy.io.loadmat(io.BytesIO(plain), variable_names=[name])
    except Exception as error:  # whatever its parser trips over: there is no common type
        raise DataError(f"{path}: truncated or damaged, or not a MATLAB 5 file ({error}); {replace}") from error
    if name not in content:
        raise DataError(f"{path}: holds {', '.join(names) or 'nothing'}, but no variable {name!r}; {replace}")
    if not isinstance(content[name], np.ndarray):
        raise DataError(f"{path}: {name!r} is {type(content[name]).__name__}, not an array; {replace}")
    return content[name]


def _unpacked_mat(data: bytes, most: int) -> bytes:
    """The file without compression, once every variable in it is known to have the numbers that it announces."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or data.startswith(b"MATLAB 7.3"):
        raise ValueError(
            "it is of another version, save it with -v7" if data.startswith(b"MATLAB 7.3") else "no header"
        )
    parts, left = [data[:128]], most
    for kind, content, whole in _elements(data, 128, order):
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            whole = stream.decompress(content, left)
            if not stream.eof:
                raise ValueError(
                    "a variable is cut off" if len(whole) < left else f"it unpacks to more than {most} bytes"
                )
        for inner, variable, _ in _elements(whole, 0, order):
            if inner == _MATRIX:
                _check_variable(variable, order, DEEPEST)
        left -= len(whole)
        parts.append(whole)
    return b"".join(parts)


def _elements(data: bytes, at: int, order: str) -> Iterator[tuple[int, bytes, bytes]]:
    """Type, content, and all with the tag, of each element of a part of a MATLAB file."""
    while at < len(data):
        kind, length = struct.unpack_from(order + "II", data, at)
        start, padding = at + 8, 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
            if length > 4:
                raise ValueError("an element is longer than its place")
            end = at + 8
        else:
            end = start + length
            if kind != _COMPRESSED:
                end += -length % padding
        if start + length > len(data):
            raise ValueError(f"an element of {length} bytes ends after the file")
        yield kind, data[start : start + length], data[at:end]
        at = end


def _check_variable(content: bytes, order: str, deepest: int) -> None:
    if not deepest:
        raise ValueError("variables lie too deep within each other")
    for i, (kind, part, _) in enumerate(_elements(content, 0, order)):
        if i == 1 and kind == _INT32:
            sizes = struct.unpack(f"{order}{len(part) // 4}i", part[: len(part) // 4 * 4])
            if min(sizes, default=0) < 0 or math.prod(sizes) > len(content):
                raise ValueError(f"a variable is to have the size {sizes}, but has {len(content)} bytes")
        if kind == _MATRIX and part:
            _check_variable(part, order, deepest - 1)


def read_text(path: Path, cure: str, most: int = MOST_BYTES) -> str:
    """The text of a file.

    Raises:
        DataError: It is missing, larger than plausible, or no text.
    """
    try:
        return read(path, cure, most).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: damaged, not a text ({error}); {cure}") from error


def read_json(path: Path, cure: str) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: It is missing or damaged.
    """
    text = read_text(path, cure, 2**26)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, not JSON ({error}); {cure}") from error


def whole_numbers(array: NDArray) -> NDArray[np.int64] | None:
    """Numbers that are whole, whatever their type, as int64; None where one is not, or is none."""
    if array.dtype.kind in "iu":
        return array.astype(np.int64) if not array.size or array.max() < 2**62 else None
    if array.dtype.kind != "f" or not np.isfinite(array).all() or (np.abs(array) > 2**52).any():
        return None
    return array.astype(np.int64) if (array == np.floor(array)).all() else None


def real_numbers(array: NDArray) -> NDArray[np.float64] | None:
    """Finite real numbers as float64; None where one is not."""
    if array.dtype.kind not in "iuf":
        return None
    numbers = array.astype(np.float64)
    return numbers if np.isfinite(numbers).all() else None
