"""Damage to bytes, arrays and archives."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator
Arrays = dict[str, NDArray]

MEMORY = 2**30


class Odd:
    """What pickle would write, and a data set may not hold."""

    def __reduce__(self) -> tuple:
        return (Path, ("/",))


# --- Bytes ------------------------------------------------------------------------------------------------------------


def truncated(data: bytes, rng: Random) -> bytes:
    """The beginning."""
    return data[: int(rng.integers(len(data)))]


def flipped(data: bytes, rng: Random) -> bytes:
    """Some bits the other way round."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 4, 50]))):
        at = int(rng.integers(min(len(data), int(rng.choice([64, 2**40])))))
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def zeroed(data: bytes, rng: Random) -> bytes:
    """A part that a disk has lost."""
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:start] + bytes(stop - start) + data[stop:]


def cut(data: bytes, rng: Random) -> bytes:
    """Without a part in the middle."""
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:start] + data[stop:]


def longer(data: bytes, rng: Random) -> bytes:
    """With noise behind it."""
    return data + rng.bytes(int(rng.integers(1, 200)))


def noise(data: bytes, rng: Random) -> bytes:
    """Something else."""
    return rng.bytes(int(rng.integers(1, 5000)))


def nothing(data: bytes, rng: Random) -> bytes:
    """Empty."""
    return b""


def page(data: bytes, rng: Random) -> bytes:
    """What a server says in place of a file."""
    return b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    truncated, flipped, flipped, flipped, zeroed, cut, longer, noise, nothing, page,
)  # fmt: skip


# --- Arrays -----------------------------------------------------------------------------------------------------------


def damaged(arrays: Arrays, rng: Random) -> tuple[Arrays, str, bool]:
    """Some arrays otherwise.

    Returns:
        The arrays, what was done, and whether another result than before is plausible.
    """
    changed = dict(arrays)
    name = str(rng.choice(sorted(arrays)))
    array = arrays[name]
    numbers = array.dtype.kind in "iufb"
    kinds = ["missing", "renamed", "swapped", "type", "order", "shape", "objects", "text"]
    kind = str(rng.choice(kinds + ["values", "values", "type"] * numbers))
    if kind == "missing":
        del changed[name]
    elif kind == "renamed":
        changed[name.upper() + "_"] = changed.pop(name)
    elif kind == "swapped":
        other = str(rng.choice(sorted(arrays)))
        changed[name], changed[other] = changed[other], changed[name]
        return changed, f"{name} and {other} swapped", False
    elif kind == "objects":
        changed[name] = np.array([Odd()] * 3, dtype=object)
    elif kind == "text":
        changed[name] = np.array(["nothing", "of", "the kind"])
    elif kind == "order":
        changed[name] = array.astype(array.dtype.newbyteorder(">"), order="F" if rng.uniform() < 0.5 else "C")
    elif kind == "shape":
        forms = [array[None], array.T, array.ravel(), array[:-1], array[:0], array[..., :-1], array.reshape(-1)[:1]]
        i = int(rng.integers(len(forms)))
        changed[name] = forms[i]
        return changed, f"{name} of shape {changed[name].shape}", i in (1, 3, 5)
    elif kind == "type" and numbers:
        types = [
            "float16",
            "float32",
            "float64",
            "int8",
            "int64",
            "uint8",
            "uint64",
            "bool",
            "complex128",
            "S4",
            "M8[s]",
        ]
        kind = str(rng.choice(types))
        with np.errstate(all="ignore"):
            changed[name] = array.astype("int64" if kind == "M8[s]" else "float64").astype(kind)
        exact = changed[name].dtype.kind in "iufb" and bool(np.array_equal(changed[name], array))
        lossy = changed[name].dtype.kind in "iuf" and not exact
        return changed, f"{name} as {kind}", lossy
    elif kind == "values":
        values = array.astype(np.float64)
        what = str(rng.choice(["nan", "inf", "huge", "negative", "zero", "thousand", "shuffled"]))
        some = rng.uniform(size=array.shape) < rng.choice([0.001, 0.5, 1.0])
        if array.size and not some.any():
            some.reshape(-1)[int(rng.integers(array.size))] = True
        change = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "zero": 0}
        if what in change:
            values[some] = change[what]
        elif what == "negative":
            values = np.where(some, -values, values)
        elif what == "thousand":
            values = 1000 * values
        else:
            values = rng.permutation(values)
        with np.errstate(all="ignore"):
            changed[name] = values if what in ("nan", "inf") else values.astype(array.dtype)
        return changed, f"{name}: {what}", what not in ("nan", "inf")
    return changed, f"{name}: {kind}", False


# --- Archives ---------------------------------------------------------------------------------------------------------


def npz(arrays: Arrays, compressed: bool = True) -> bytes:
    """The content of an `.npz` file; objects are pickled, as careless people do."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    return file.getvalue()


def greedy_npz(arrays: Arrays, rng: Random) -> tuple[bytes, str]:
    """An archive one of whose arrays asks for more memory than there is: in words, or by what it unpacks to."""
    name = str(rng.choice(sorted(arrays)))
    kind = str(rng.choice(["header", "declared bomb", "hidden bomb", "names"]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=True)
            content = member.getvalue()
            if other == name and kind == "header":
                shape = tuple(int(n) for n in 10 ** rng.integers(4, 9, size=3))
                content = npy_header(array.dtype, shape) + content[128:]
            if other == name and kind == "names":
                archive.writestr(f"{name}.npy", content[::-1])
            archive.writestr(f"{other}.npy", content)
    data = file.getvalue()
    if "bomb" in kind:
        declared = 64 * MEMORY if kind == "declared bomb" else len(npy_header(arrays[name].dtype, (8,))) + 64
        data = _with_member(arrays, name, bomb(), declared)
    return data, f"{name}: {kind}"


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers of an `.npy` file."""
    words = str({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}).encode()
    padded = words.ljust(128 - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


@cache
def bomb() -> bytes:
    """Raw deflate data of 4 GiB of zeros, in 4 MiB."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = stream.compress(bytes(2**24)) + stream.flush(zlib.Z_FULL_FLUSH)
    return block * 256 + stream.flush(zlib.Z_FINISH)


def _with_member(arrays: Arrays, name: str, packed: bytes, size: int) -> bytes:
    """An archive in which one member is what was packed by hand, with the size that it is said to have."""
    files, directory = io.BytesIO(), io.BytesIO()
    for other, array in arrays.items():
        member = io.BytesIO()
        np.lib.format.write_array(member, array, allow_pickle=True)
        content, label = member.getvalue(), f"{other}.npy".encode()
        method, body, length = (8, packed, min(size, 2**32 - 2)) if other == name else (0, content, len(content))
        about = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, zlib.crc32(content), len(body), length, len(label), 0)
        directory.write(struct.pack("<IH", 0x02014B50, 20) + about)
        directory.write(struct.pack("<HHHII", 0, 0, 0, 0, files.tell()) + label)
        files.write(struct.pack("<I", 0x04034B50) + about + label + body)
    index, start = directory.getvalue(), files.tell()
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(arrays), len(arrays), len(index), start, 0)
    return files.getvalue() + index + end


def greedy_png(rng: Random) -> tuple[bytes, str]:
    """A PNG file that announces more pixels than make sense, with right checksums, or that unpacks to more."""
    width, height = (int(n) for n in 10 ** rng.integers(4, 9, size=2))
    kind = str(rng.choice(["size", "bomb"]))
    if kind == "bomb":
        width = height = 20
    body = zlib.compress(bytes(2**26), 9)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + data, f"{kind}, {width} x {height}"


def greedy_mat(name: str, rng: Random) -> tuple[bytes, str]:
    """A MATLAB file that announces more than it holds, or that unpacks to much more."""
    kind = str(rng.choice(["numbers", "cells", "struct", "bomb"]))
    sizes = [int(n) for n in 10 ** rng.integers(3, 9, size=2)]
    flags = {"numbers": 6, "cells": 1, "struct": 2, "bomb": 6}[kind]

    def element(code: int, content: bytes) -> bytes:
        return struct.pack("<II", code, len(content)) + content + bytes(-len(content) % 8)

    zeros = bytes(2**28) if kind == "bomb" else bytes(64)
    matrix = element(6, struct.pack("<II", flags, 0)) + element(5, struct.pack("<ii", *sizes))
    matrix += element(1, name.encode()) + element(9, zeros)
    packed = zlib.compress(element(14, matrix), 1)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    return header + struct.pack("<II", 15, len(packed)) + packed, f"{kind} {sizes}"
