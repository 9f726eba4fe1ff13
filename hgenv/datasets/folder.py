"""Where data lie, and what is said when they do not."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "HGENV_DATA"  # the environment variable that names the folder of all data sets


class DataError(RuntimeError):
    """Data that are missing or damaged. The message names the file, what is wrong with it and what to do."""


def find_folder(folder: Path | str | None, what: str, holds: str) -> Path:
    """The folder that was given, else the one that the environment variable names.

    Args:
        folder: None where none was given.
        what: What needs it, as the user wrote it: "data='scans'".
        holds: What it should contain: "faces/".

    Raises:
        DataError: Neither names a folder, or there is no such folder.
    """
    found = folder if folder is not None else os.environ.get(VARIABLE)
    if not found:
        raise DataError(
            f"{what} needs the folder that contains {holds}: set the environment variable {VARIABLE}, or "
            "data_folder (env.data_folder=<folder> on the command line)"
        )
    if not Path(found).is_dir():
        who = "data_folder" if folder is not None else f"the environment variable {VARIABLE}"
        raise DataError(f"{found}: there is no such folder, but {who} names it; {what} needs the folder with {holds}")
    return Path(found)
