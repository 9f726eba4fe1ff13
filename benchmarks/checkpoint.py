"""Checkpoints of a run: all that its next update depends on, and how much of its rows they stand for.

A file `checkpoint-<rows>.ckpt` is a line of JSON, with the length and the SHA-256 of what follows, and then tensors and
plain values as `torch.save` writes them. It holds no code: it is read with `weights_only=True`, and objects of other
kinds are refused when they are saved. The last two are kept. If the newer one is damaged, the older one serves.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import files
from .records import RecordError

FORMAT = 1
KEPT = 2
MOST = 2**34  # bytes; what claims to be larger is no checkpoint of ours

_NAME = re.compile(r"checkpoint-(\d{1,12})\.ckpt")
_CURE = "restore the file, or delete the run's folder"

logger = logging.getLogger(__name__)


def save(folder: Path, kept: Mapping[str, Any], rows: int) -> None:
    """Write a checkpoint that is there completely or not at all, and delete those before the last one.

    What processes that were killed had half written is deleted, too.

    Args:
        folder: The run's.
        kept: Tensors, numbers, texts, None, and lists, tuples and dictionaries of them.
        rows: How many rows it stands for; they are on the disk already.

    Raises:
        RecordError: Something in `kept` is of another kind; the message says what.
        OSError: The system refuses; the checkpoints before are as they were.
    """
    buffer = io.BytesIO()
    torch.save(_plain(dict(kept), "the state"), buffer)
    body = buffer.getvalue()
    head = {"format": FORMAT, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    files.write(folder / f"checkpoint-{rows}.ckpt", [json.dumps(head).encode() + b"\n", body])
    for path in find(folder)[KEPT:] + files.leftovers(folder):
        with suppress(OSError):  # it is only in the way
            path.unlink()


def find(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    found = {path: int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return sorted(found, key=lambda path: -found[path])


def load(folder: Path, device: torch.device, fits: Callable[[dict[str, Any], int], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None if there is none at all.

    Args:
        folder: The run's.
        device: Where its tensors go.
        fits: Is given what a checkpoint holds, and for how many rows it stands; raises RecordError if these do not fit
            the run.

    Raises:
        RecordError: No checkpoint is whole and fits. Nothing has changed.
        OSError: The system refuses; that says nothing about the checkpoint.
    """
    wrong: list[RecordError] = []
    for path in find(folder):
        try:
            kept = read(path, device)
            rows = int(path.name[len("checkpoint-") : -len(".ckpt")])
            fits(kept, rows)
        except RecordError as error:
            wrong.append(error)
            continue
        for damage in wrong:
            logger.warning("%s; goes on from %s", damage.what, path.name)
        return kept
    if len(wrong) > 1:
        cure = "restore one of these files, or delete the run's folder"
        raise RecordError("; ".join(damage.what for damage in wrong), cure)
    if wrong:
        raise wrong[0]
    return None


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        RecordError: It is damaged, or of a kind that this version does not read.
        OSError: The system refuses.
    """
    try:
        opened = files.readable(path)
    except files.OddFileError as error:
        raise RecordError(str(error)) from None
    with opened as file:
        line = file.readline(1024)
        try:
            head = json.loads(line)
            version, size, digest = head["format"], head["bytes"], head["sha256"]
            if not isinstance(size, int) or not 0 < size < MOST:
                raise ValueError(f"{size} bytes")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RecordError(f"{path}: damaged, it does not begin as a checkpoint does", _CURE) from None
        if version != FORMAT:
            raise RecordError(f"{path}: is of format {version}, and this version of hgenv reads format {FORMAT}")
        there, whole = path.stat().st_size, len(line) + size
        if there != whole:
            raise RecordError(f"{path}: damaged, {there} bytes long instead of {whole}", _CURE)
        body = file.read(size)
    if hashlib.sha256(body).hexdigest() != digest:
        raise RecordError(f"{path}: damaged, its contents do not have their checksum", _CURE)
    try:
        kept = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
        if not isinstance(kept, dict):
            raise TypeError(f"it holds {type(kept).__name__}")
    except Exception as error:  # whoever made it, it was not `save`
        words = str(error).strip().split("\n")[0]
        raise RecordError(f"{path}: holds more than tensors and plain values ({words})", _CURE) from None
    return kept


def _plain(value: Any, where: str) -> Any:
    """A value without code in it: numpy's numbers become Python's.

    Raises:
        RecordError: It is, or holds, something else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str, Tensor):
        return value
    if isinstance(value, Tensor):  # a parameter, say
        return value.detach()
    if isinstance(value, bool | int | float | str):
        return next(kind for kind in (bool, int, float, str) if isinstance(value, kind))(value)
    if isinstance(value, Mapping):
        return {_plain(key, f"a key of {where}"): _plain(part, f"{where}[{key!r}]") for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_plain(part, f"{where}[{i}]") for i, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    raise RecordError(
        f"{where} is of {type(value).__module__}.{type(value).__qualname__}, but a checkpoint holds tensors, numbers, "
        "texts, lists and dictionaries alone; have state_dict() return such"
    )
