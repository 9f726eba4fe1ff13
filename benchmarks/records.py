"""The folder of a run: what is in it, and how it is written and read so that nothing is ever half there.

| file | content |
| --- | --- |
| config.yaml | the schema's number, everything that decides the run, and `where` it runs; written first |
| rows.jsonl | one JSON object an update, the first for update 0, before any training |
| checkpoint.pt | all that the next update depends on |
| validation.png | validation images, where there are any, and their truth: data, so never kept with a result |
| errors.png | what the last weights predict for them, and error maps |
| EARLIER.json | how it had ended, where and with what it was made, before it went on with a larger budget |
| DONE.json | how the run ended, where and with what it was made; written last |
| events.out.tfevents.* | logs for TensorBoard |
| lock | empty; whoever works on the run holds a lock on it |

A run that has ended can be given a larger budget: config.yaml then names that one, DONE.json is gone, and which rows
are `within_budget` is decided anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from hgenv.accounting import Budget

CONFIG, ROWS, CHECKPOINT, DONE = "config.yaml", "rows.jsonl", "checkpoint.pt", "DONE.json"
LOCK = "lock"
EARLIER = "EARLIER.json"
VALIDATION, ERRORS = "validation.png", "errors.png"

# What the settings of a run look like. Raised when the same settings would have to be written otherwise: not for new
# ones, because those that a record does not know have their defaults.
SCHEMA = 3
# Schema 2 named the optimizers by a package of their own.
_MOVED = {"optimizers.": "hgenv.optimizers."}

Row = dict[str, Any]


class RecordError(RuntimeError):
    """A run's folder that is damaged, or that belongs to another run. The message names the file and the cure."""


@dataclass(frozen=True)
class Record:
    """A run, read back from its folder.

    Attributes:
        folder: Where it is.
        config: What decided it (`env`, `optimizer`, `budget`, `study`, `seed`), its `schema`, and `where` it began.
        rows: One per update, in order; the first is update 0.
        done: How it ended; None if it has not.
    """

    folder: Path
    config: dict[str, Any]
    rows: list[Row]
    done: dict[str, Any] | None

    def __repr__(self) -> str:
        ended = "not ended" if self.done is None else self.done["status"]
        whose = f"{self.environment}, {self.optimizer}, seed {self.seed}"
        return f"Record({str(self.folder)!r}: {whose}, {plural(len(self.rows), 'row')}, {ended})"

    @property
    def counted(self) -> list[Row]:
        """The rows within the budget."""
        return [row for row in self.rows if row["within_budget"]]

    @property
    def last_tenth(self) -> list[Row]:
        """The counted rows of the last tenth of the budget; the last one, where no other falls into it."""
        budget, counted = self.config["budget"], self.counted
        start = 0.9 * budget["amount"]
        return [row for row in counted if row["spent"][budget["unit"]] >= start] or counted[-1:]

    @property
    def environment(self) -> str:
        """Label of the environment."""
        return environment_label(self.config)

    @property
    def optimizer(self) -> str:
        """Label of the optimizer."""
        return str(self.config["optimizer"]["label"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def metrics(self) -> list[dict[str, str]]:
        """`name`, `title`, `unit` and `direction` of the task's metrics, the primary one first."""
        return list(self.rows[0]["metrics"])

    @property
    def share(self) -> float:
        """Share of the budget that the counted updates have spent."""
        budget = self.config["budget"]
        return float(self.counted[-1]["spent"][budget["unit"]] / budget["amount"])


def plural(count: int, thing: str) -> str:
    """So many things."""
    return f"{count} {thing}" + "s" * (count != 1)


def environment_label(config: Mapping[str, Any]) -> str:
    """Name of the environment's folder: its label, its data, and what of these is the input, where it has a choice."""
    env = config["env"]
    parts = [env["label"]]
    if "data" in env:
        data = env["data"]
        if isinstance(data, Mapping):  # one's own
            data = str(data.get("_target_", "own")).rpartition(".")[2]
        if data is not None:
            parts.append(str(data).strip("/").rpartition("/")[2])
        if isinstance(env["data"], str) and data != "standin" and "input" in env:
            parts.append(env["input"])
    return "-".join(parts)


def within(row: Row, budget: Budget) -> bool:
    """Whether an update counts: it ended within the budget."""
    return bool(row["spent"][budget.unit] <= budget.amount)


def line(row: Row) -> str:
    """A row as it stands in rows.jsonl."""
    return json.dumps(row, allow_nan=False) + "\n"


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write what `read_config` reads."""
    write(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep others out of a run's folder, for as long as this process lives and is inside.

    Raises:
        RecordError: Another process is.
    """
    # Not on a file that is ever replaced, and open for writing, which NFS asks for.
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"{folder}: another process is at work on this run; wait for it, or stop it") from None
        yield


def write(path: Path, text: str) -> None:
    """Write a file that is there either as it was or completely."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_config(folder: Path) -> dict[str, Any]:
    """What decided the run in `folder`, its `schema`, and `where` it began.

    Raises:
        RecordError: There is no run, its record is damaged, or of another schema.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise RecordError(f"{path}: there is no such file, so this is no run's folder")
    try:
        config: Any = OmegaConf.to_container(OmegaConf.create(path.read_text()))
        environment_label(config), config["optimizer"]["label"], config["seed"], config["study"]
        config["budget"]["unit"], config["budget"]["amount"]
    except Exception as error:  # the parsers of YAML have no common type
        raise RecordError(f"{path}: damaged, not the config of a run ({error!r}); delete the run's folder") from None
    schema = config.get("schema", 1)
    if schema == 2:
        return _renamed(config) | {"schema": SCHEMA}
    if schema != SCHEMA:
        raise RecordError(
            f"{path}: is of schema {schema}, and this version of hgenv reads schemas 2 and {SCHEMA}; use the version "
            "that made the run, another study (study=<name>), or delete the run's folder"
        )
    return dict(config)


def _renamed(node: Any) -> Any:
    """The same settings, with the names that classes have now."""
    if isinstance(node, Mapping):
        return {key: _renamed_target(value) if key == "_target_" else _renamed(value) for key, value in node.items()}
    return [_renamed(value) for value in node] if isinstance(node, list) else node


def _renamed_target(name: Any) -> Any:
    for before, now in _MOVED.items():
        if isinstance(name, str) and name.startswith(before):
            return now + name.removeprefix(before)
    return name


def parse_rows(data: bytes, path: Path) -> list[Row]:
    """The rows in the bytes of a rows file.

    Raises:
        RecordError: A line is no row, or does not follow the one before it.
    """
    rows: list[Row] = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
            update = row["update"]
            row["loss"], row["beta"], row["spent"], row["within_budget"], row["validation"], row["test"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}: line {len(rows) + 1} is damaged ({error!r}); restore the file, or delete the run's folder"
            ) from None
        if update != len(rows):
            raise RecordError(
                f"{path}: line {len(rows) + 1} is update {update}, not {len(rows)}; restore the file, or delete the "
                "run's folder"
            )
        rows.append(row)
    return rows


def read_done(folder: Path) -> dict[str, Any] | None:
    """How the run in `folder` ended; None if it has not.

    Raises:
        RecordError: The file is damaged.
    """
    path = folder / DONE
    if not path.is_file():
        return None
    try:
        done = json.loads(path.read_text())
        done["status"], done["rows"], done["phases"], done["hardware"], done["versions"], done["commit"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: damaged ({error!r}); delete it, and the run resumes from its checkpoint") from None
    return dict(done)


def keep_ending(folder: Path) -> None:
    """Note where and with what a run was made until now, before it goes on; twice is harmless."""
    done = read_done(folder)
    if done is None:
        return
    own = {name: done.get(name) for name in ("status", "message", "rows", "hardware", "versions", "commit", "command")}
    known = earlier_endings(folder)
    if own not in known:
        write(folder / EARLIER, json.dumps([*known, own], indent=1) + "\n")


def earlier_endings(folder: Path) -> list[dict[str, Any]]:
    """How a run that went on with a larger budget had ended before, the first time first."""
    path = folder / EARLIER
    try:
        return list(json.loads(path.read_text())) if path.is_file() else []
    except ValueError as error:
        raise RecordError(f"{path}: damaged ({error}); delete it, what it says is lost") from None


def read(folder: Path) -> Record:
    """The run in `folder`, finished or not.

    Raises:
        RecordError: A file is missing or damaged.
    """
    config, done = read_config(folder), read_done(folder)
    path = folder / ROWS
    if not path.is_file():
        raise RecordError(f"{path}: there is no such file; the run has not begun, or the file was lost")
    data = path.read_bytes()
    if done is None:
        data = data[: data.rfind(b"\n") + 1]  # the last line of a run that goes on, or was killed, may be half there
    rows = parse_rows(data, path)
    if not rows:
        raise RecordError(f"{path}: holds no row yet")
    if done is not None and done["rows"] != len(rows):
        raise RecordError(
            f"{path}: holds {len(rows)} rows, but the run ended with {done['rows']}; restore the file, or delete the "
            "run's folder"
        )
    return Record(folder, config, rows, done)


def find(folder: Path) -> list[Path]:
    """Folders of all runs in or below `folder`, sorted."""
    return sorted(path.parent for path in folder.rglob(CONFIG))
