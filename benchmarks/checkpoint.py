"""Checkpoints of a run: all that its next update depends on, and how much of its rows they stand for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hgenv.accounting import Budget
from hgenv.env import DataGenEnv
from hgenv.optimizers import Optimizer

from . import records
from .records import CHECKPOINT, ROWS, RecordError, Row


def save(folder: Path, env: DataGenEnv, optimizer: Optimizer, rows: int, file: BinaryIO) -> None:
    """Write a checkpoint that is there either as it was or completely.

    Args:
        folder: The run's.
        env: Where it stands.
        optimizer: Where it stands.
        rows: How many are written.
        file: The file they are in; it is on the disk before the checkpoint is.
    """
    os.fsync(file.fileno())
    kept = {"env": env.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}
    temporary = folder / (CHECKPOINT + ".part")
    torch.save(kept, temporary)
    os.replace(temporary, folder / CHECKPOINT)


def load(folder: Path, device: torch.device) -> tuple[dict[str, Any], list[Row]] | None:
    """The checkpoint in `folder` and the rows up to it; None if the run is to begin.

    Raises:
        RecordError: One of the two files is missing or damaged. Nothing has changed.
    """
    path, rows = folder / CHECKPOINT, folder / ROWS
    data = rows.read_bytes() if rows.is_file() else b""
    if not path.is_file():
        if data.count(b"\n") > 1:
            raise RecordError(f"{rows}: there are rows, but no {CHECKPOINT} to go on from; delete the run's folder")
        rows.unlink(missing_ok=True)  # killed while it wrote its first row or checkpoint
        return None
    try:
        # Our own file; and optimizers from elsewhere may keep more than tensors and numbers.
        kept = torch.load(path, map_location=device, weights_only=False)
        kept["env"], kept["optimizer"], kept["rows"]
    except Exception as error:  # damaged pickles raise anything
        raise RecordError(
            f"{path}: damaged ({type(error).__name__}: {error}); restore the file, or delete the run's folder"
        ) from error
    whole = data.split(b"\n")[:-1]
    found = records.parse_rows(b"\n".join(whole[: kept["rows"]]), rows)
    if len(found) != kept["rows"]:
        raise RecordError(
            f"{rows}: holds {len(found)} rows, but the checkpoint was made after {kept['rows']}; restore the file, or "
            "delete the run's folder"
        )
    return dict(kept), found


def resume(
    folder: Path, kept: dict[str, Any], rows: list[Row], budget: Budget, env: DataGenEnv, optimizer: Optimizer
) -> None:
    """Put everything to where it stood at a checkpoint.

    Rows that came after it are void. Those up to it count as far as this budget goes, which may be a larger one than
    that under which they were written.
    """
    for row in rows:
        row["within_budget"] = records.within(row, budget)
    records.write(folder / ROWS, "".join(records.line(row) for row in rows))
    env.load_state_dict(kept["env"])
    optimizer.load_state_dict(kept["optimizer"])
