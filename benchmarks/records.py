"""The folder of a run: what is in it, and how it is written and read so that nothing is ever half there.

| file | content |
| --- | --- |
| config.yaml | the schema's number, everything that decides the run, and `where` it runs; written first |
| rows.jsonl | one JSON object an update, the first for update 0, before any training |
| checkpoint-<rows>.ckpt | all that the update after so many rows depends on; the last two, see `checkpoint` |
| validation.png | validation images, where there are any, and their truth: data, so never kept with a result |
| errors.png | what the last weights predict for them, and error maps |
| EARLIER.json | how it had ended, where and with what it was made, before it went on with a larger budget |
| DONE.json | how the run ended, where and with what it was made; written last |
| events.out.tfevents.* | logs for TensorBoard |
| lock, lease.json | who works on the run, see `lease` |

Nothing in it is code, and nothing that is read here is executed: a folder may come from a stranger. What is read is
checked, so that who uses it can rely on its form.

A run that has ended can be given a larger budget: config.yaml then names that one, DONE.json is gone, and which rows
are `within_budget` is decided anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from hgenv.accounting import COUNTS, FREE, PHASES, RESOURCES, Budget

from . import files

CONFIG, ROWS, DONE = "config.yaml", "rows.jsonl", "DONE.json"
EARLIER = "EARLIER.json"
VALIDATION, ERRORS = "validation.png", "errors.png"

# What the settings of a run look like. Raised when the same settings would have to be written otherwise: not for new
# ones, because those that a record does not know have their defaults.
SCHEMA = 3
# Schema 2 named the optimizers by a package of their own.
_MOVED = {"optimizers.": "hgenv.optimizers."}

ENDINGS = ("finished", "truncated", "failed")
LARGEST = 2**20  # bytes of config.yaml, DONE.json, EARLIER.json; a run's own have some thousands
_NUMBERS = frozenset((int, float))
LONGEST = 2**24  # bytes of a row
DEEPEST = 40  # mappings and lists in each other, in settings
NAME = 100  # characters of a study's or a label's name

Row = dict[str, Any]


class RecordError(RuntimeError):
    """A run's folder that is damaged, or that belongs to another run. The message names the file and the cure.

    Args:
        what: The file, and what is wrong.
        cure: What helps.
    """

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what}; {cure}" if cure else what)
        self.what = what  # alone, for where there is nothing to do


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
        budget, counted = self.budget, self.counted
        start = 0.9 * budget.amount
        return [row for row in counted if budget.spent(row["spent"]) >= start] or counted[-1:]

    @property
    def budget(self) -> Budget:
        """What the run might spend."""
        return Budget.of(self.config["budget"])

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
        return float(self.budget.spent(self.counted[-1]["spent"]) / self.budget.amount)


def plural(count: int, thing: str) -> str:
    """So many things."""
    return f"{count} {thing}" + "s" * (count != 1)


def environment_label(config: Mapping[str, Any]) -> str:
    """Name of the environment's folder: its label, its data, and what of these is the input, where it has a choice."""
    env = config["env"]
    parts = [env["label"]]
    if "data" in env:
        data = env["data"]
        if isinstance(data, Mapping):  # one's own, as "my_module:photos" below
            data = str(data.get("_target_", "own")).rpartition(".")[2]
        if data is not None:
            parts.append(re.split("[/:]", str(data).strip("/:"))[-1])
        if isinstance(env["data"], str) and data != "standin" and "input" in env:
            parts.append(env["input"])
    return "-".join(parts)


def within(row: Row, budget: Budget) -> bool:
    """Whether an update counts: it ended within the budget."""
    return bool(budget.spent(row["spent"]) <= budget.amount)


def line(row: Row) -> str:
    """A row as it stands in rows.jsonl."""
    return json.dumps(row, allow_nan=False) + "\n"


def fault(error: Exception) -> str:
    """What is wrong with something that was read, by what was raised over it."""
    if isinstance(error, KeyError):
        return f"there is no {error}"
    if isinstance(error, json.JSONDecodeError):  # it would count lines, too, and our messages do
        return f"it is no JSON from character {error.pos + 1} on ({error.msg})"
    return str(error) if isinstance(error, ValueError | yaml.YAMLError) else repr(error)


def name_fault(name: Any) -> str | None:
    """What keeps a text from being the name of a folder on any system, and readable in a report; None if nothing does.

    Args:
        name: Of a study, or the label of an environment or an optimizer.
    """
    if not isinstance(name, str):
        return f"it is no text, but {name!r}; in YAML, a name that looks like a number needs quotes"
    if not name or len(name) > NAME:
        return f"it has {len(name)} characters, not 1 to {NAME}"
    if name[0] in ". -" or name[-1] in ". ":
        return "it begins with a dot, a dash or a space, or ends with a dot or a space"
    odd = sorted({character for character in name if not character.isprintable() or character in '/\\:*?"<>|`$'})
    return f"it contains {', '.join(map(repr, odd))}" if odd else None


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write what `read_config` reads."""
    files.write(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def read_config(folder: Path) -> dict[str, Any]:
    """What decided the run in `folder`, its `schema`, and `where` it began.

    Raises:
        RecordError: There is no run, its record is damaged, or of another schema.
        OSError: The system refuses; that says nothing about the record.
    """
    path = folder / CONFIG
    try:
        config = _yaml(_small(path))
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such file, so this is no run's folder") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        words = " ".join(fault(error).split())
        raise RecordError(f"{path}: damaged, not the config of a run ({words}); delete the run's folder") from None
    schema = config.get("schema", 1) if isinstance(config, dict) else None
    if isinstance(schema, int) and schema not in (2, SCHEMA):
        raise RecordError(
            f"{path}: is of schema {schema}, and this version of hgenv reads schemas 2 and {SCHEMA}; use the version "
            "that made the run, another study (study=<name>), or delete the run's folder"
        )
    try:
        _check_config(config)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(
            f"{path}: damaged, not the config of a run ({fault(error)}); delete the run's folder"
        ) from None
    return dict(config) if schema == SCHEMA else _renamed(config) | {"schema": SCHEMA}


def _small(path: Path) -> str:
    """The text of a file that is no larger than files of its kind are.

    Raises:
        ValueError: It is larger, or no text.
        OSError: The system refuses.
    """
    with files.readable(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return data.decode()


class _Plain(yaml.SafeLoader):
    """YAML without tags, anchors and aliases: what it makes is as large as its text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError(f"anchors and aliases are not taken{event.start_mark}")
        return super().compose_node(parent, index)


# YAML 1.1 takes 1e-3 for a text; Hydra, and so do we, for a number.
_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _yaml(text: str) -> Any:
    return yaml.load(text, _Plain)


def _check_config(config: Any) -> None:
    """Make sure that a config has the form of one.

    Raises:
        ValueError, KeyError, TypeError: It has not.
    """
    check_plain(config)
    environment_label(config), config["env"]["id"]
    check_study(config["study"])
    if not isinstance(config["env"]["label"], str) or not isinstance(config["optimizer"]["label"], str):
        raise ValueError("a label is no text")
    seed = config["seed"]
    Budget.of(config["budget"])
    if type(seed) is not int or seed < 0:
        raise ValueError(f"the seed is {seed!r}")
    if not isinstance(config["env"]["id"], str) or not isinstance(config.get("where", {}), dict):
        raise ValueError("env.id is no text, or where is no mapping")


def check_study(study: Any) -> None:
    """Make sure that a folder can have the name of a study: that is where its results are kept.

    Raises:
        ValueError: It cannot, or the folder would be another one.
    """
    if not isinstance(study, str) or study in ("", ".", "..") or set(study) & set("/\\\0"):
        raise ValueError(f"{study!r} cannot be the name of a study")


def check_plain(value: Any, depth: int = DEEPEST) -> None:
    """Make sure that settings hold plain values alone, and are no deeper than settings are.

    Raises:
        ValueError: They are not so.
    """
    if not depth:
        raise ValueError(f"it is nested deeper than {DEEPEST} times")
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text")
            check_plain(part, depth - 1)
    elif isinstance(value, list):
        for part in value:
            check_plain(part, depth - 1)
    elif isinstance(value, str):
        if "${" in value:  # it would be worked out where objects are made of it
            raise ValueError(f"{value!r} holds an interpolation")
    elif value is not None and type(value) not in (bool, int, float):
        raise ValueError(f"{value!r} is neither number nor text")


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


@dataclass(frozen=True)
class _Form:
    """What all rows of a run have in common."""

    size: int
    names: dict[str, frozenset[str]]


def parse_rows(lines: Iterable[bytes], path: Path) -> Iterator[Row]:
    """The rows in the lines of a rows file, each checked.

    Raises:
        RecordError: A line is no row, or does not follow the one before it.
    """
    form, before = None, None
    for number, text in enumerate(lines):
        try:
            row = _STRICT.decode(text.decode())
            if row["update"] != number or type(row["update"]) is not int:
                raise ValueError(f"it is update {row['update']!r}, not {number}")
            if form is None:
                form = _form(row)
            _check_row(row, form, before)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError) as error:
            raise RecordError(
                f"{path}: line {number + 1} is damaged: {fault(error)}; restore the file, or delete the run's folder"
            ) from None
        before = row["spent"]
        yield row


def lines_of(path: Path, *, ended: bool) -> Iterator[bytes]:
    """The lines of a rows file.

    Args:
        path: The file.
        ended: Whether its run has. If not, the last line may be half there, and is left out.

    Raises:
        RecordError: A line is too long.
        OSError: The system refuses.
    """
    with files.readable(path) as file:
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) == LONGEST:
                    raise RecordError(
                        f"{path}: line {number} is damaged, longer than {LONGEST} bytes; restore the file"
                    )
                if not ended:
                    return
            yield line


def last_rows(path: Path) -> tuple[Row | None, Row | None]:
    """The first row and the last one that is whole, unchecked, without reading those between; None where there is none.

    Raises:
        ValueError: They are no JSON objects.
        OSError: The system refuses.
    """
    with files.readable(path) as file:
        first = file.readline(LONGEST)
        if not first.endswith(b"\n"):
            return None, None
        end, block = file.seek(0, 2), 2**14
        while True:
            start = max(0, end - block)
            file.seek(start)
            whole = file.read(end - start).rpartition(b"\n")[0]
            if start == 0 or b"\n" in whole or block > LONGEST:
                break
            block *= 4
    found = json.loads(first), json.loads(whole.rpartition(b"\n")[2])
    if not all(isinstance(row, dict) for row in found):
        raise ValueError("a row is no object")
    return found


def _form(opening: Row) -> _Form:
    """The form that row 0 gives to all; checks what it has beyond the others."""
    names = {data: frozenset(opening[data]) for data in ("validation", "test")}
    metrics, blocks = opening["metrics"], opening["blocks"]
    for metric in metrics:
        if not all(isinstance(metric[key], str) for key in ("name", "title", "unit", "direction")):
            raise ValueError("a metric's name, title, unit or direction is no text")
        if metric["direction"] not in ("min", "max") or not all(metric["name"] in known for known in names.values()):
            raise ValueError(f"the metric {metric['name']!r} has no value, or another direction than min or max")
    if not metrics:
        raise ValueError("there is no metric")
    for block in blocks:
        if not isinstance(block["name"], str) or not isinstance(block["unit"], str) or type(block["size"]) is not int:
            raise ValueError("a block of beta has no name, unit or size")
    size = len(opening["beta"])
    if sum(block["size"] for block in blocks) != size or min((b["size"] for b in blocks), default=0) < 1:
        raise ValueError(f"the blocks are not those of a beta of {size} numbers")
    if not all(isinstance(opening["data"][data], str) for data in names) or not isinstance(opening["device"], str):
        raise ValueError("the data or the device has no name")
    if not isinstance(opening.get("fingerprints", {}), dict):
        raise ValueError("fingerprints is no object")
    if type(opening.get("training_step_flops", 1)) is not int:
        raise ValueError("training_step_flops is no whole number")
    return _Form(size, names)


def _check_row(row: Row, form: _Form, before: Mapping[str, Any] | None) -> None:
    if not isinstance(row["status"], str) or not isinstance(row["message"], str):
        raise ValueError("status or message is no text")
    if not isinstance(row.get("platform"), str | None):
        raise ValueError("platform is no text")
    if type(row["within_budget"]) is not bool:
        raise ValueError("within_budget is neither true nor false")
    if row["loss"] is not None:
        _check_numbers([row["loss"]], "loss")
    for name in ("beta", "recommendation"):
        if not isinstance(row[name], list) or len(row[name]) != form.size:
            raise ValueError(f"{name} has not {form.size} numbers")
        _check_numbers(row[name], name, 1e30)
    for data, names in form.names.items():
        if row[data].keys() != names:
            raise ValueError(f"{data} has other metrics than row 0")
        _check_numbers([value for value in row[data].values() if value is not None], data)
    spent = row["spent"]
    spent.setdefault("gradient_flops", 0)  # older versions did not count them
    _check_numbers([spent[name] for name in RESOURCES], "spent", 1e12)
    _check_numbers([spent[name] for name in COUNTS], "spent", 1e18)
    for name in RESOURCES + COUNTS:
        if spent[name] < (0 if before is None else before[name]):
            raise ValueError(f"less {name} than before")


def _check_numbers(values: Iterable[Any], name: str, most: float = 1e308) -> None:
    """Make sure that all are numbers, and none is beyond `most`: what is beyond float32 is no beta, and so on."""
    values = list(values)
    if _NUMBERS.issuperset(map(type, values)) and max(map(abs, values), default=0) <= most:
        return  # the short way, for rows in their thousands
    for value in values:
        if type(value) not in (int, float) or not abs(value) <= most:
            raise ValueError(f"{name}: {value!r:.40} is no finite number")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def read_done(folder: Path) -> dict[str, Any] | None:
    """How the run in `folder` ended; None if it has not.

    Raises:
        RecordError: The file is damaged.
        OSError: The system refuses.
    """
    path = folder / DONE
    try:
        done = json.loads(_small(path), parse_constant=_refuse)
        if done["status"] not in ENDINGS or type(done["rows"]) is not int:
            raise ValueError(f"the status {done['status']!r}, or the number of rows {done['rows']!r}")
        for phase in (*PHASES, *FREE):
            _check_numbers([done["phases"][phase][clock] for clock in ("cpu_seconds", "gpu_seconds")], "phases")
        for name in ("hardware", "versions"):
            if not isinstance(done[name], dict):
                raise ValueError(f"{name} is no object")
        for name, kinds in (("message", str), ("commit", str | None), ("command", str | None)):
            if not isinstance(done.get(name), kinds):
                raise ValueError(f"{name} is no text")
        for name in ("incidents", "platforms"):
            if not isinstance(done.get(name, {}), dict):
                raise ValueError(f"{name} is no object")
        if not all(isinstance(facts, dict) for facts in done.get("platforms", {}).values()):
            raise ValueError("a platform is no object")
        _check_numbers(done.get("incidents", {}).values(), "incidents")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise RecordError(
            f"{path}: damaged ({fault(error)}); delete it, and the run resumes from its checkpoint"
        ) from None
    return dict(done)


def keep_ending(folder: Path) -> None:
    """Note where and with what a run was made until now, before it goes on; twice is harmless."""
    done = read_done(folder)
    if done is None:
        return
    own = {name: done.get(name) for name in ("status", "message", "rows", "hardware", "versions", "commit", "command")}
    known = earlier_endings(folder)
    if own not in known:
        files.write(folder / EARLIER, json.dumps([*known, own], indent=1) + "\n")


def earlier_endings(folder: Path) -> list[dict[str, Any]]:
    """How a run that went on with a larger budget had ended before, the first time first."""
    path = folder / EARLIER
    try:
        return [dict(ending) for ending in json.loads(_small(path))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path}: damaged ({fault(error)}); delete it, what it says is lost") from None


@dataclass(frozen=True)
class Opened:
    """A run's folder whose rows have not been read yet.

    Attributes:
        folder: Where it is.
        config: See `Record`.
        done: See `Record`.
    """

    folder: Path
    config: dict[str, Any]
    done: dict[str, Any] | None

    @property
    def budget(self) -> Budget:
        """What the run might spend."""
        return Budget.of(self.config["budget"])

    @property
    def rows(self) -> Iterator[Row]:
        """Its rows, one after the other, from the first again each time that it is asked.

        Raises:
            RecordError: The file is missing or damaged.
        """
        path, count = self.folder / ROWS, 0
        try:
            for row in parse_rows(lines_of(path, ended=self.done is not None), path):
                count += 1
                yield row
        except FileNotFoundError:
            raise RecordError(f"{path}: there is no such file; the run has not begun, or the file was lost") from None
        if not count:
            raise RecordError(f"{path}: holds no row yet")
        if self.done is not None and self.done["rows"] != count:
            raise RecordError(
                f"{path}: holds {count} rows, but the run ended with {self.done['rows']}; restore the file, or delete "
                "the run's folder"
            )


def opened(folder: Path) -> Opened:
    """The run in `folder`, finished or not.

    Raises:
        RecordError: Its config or its end is missing or damaged.
    """
    return Opened(folder, read_config(folder), read_done(folder))


def read(folder: Path) -> Record:
    """The same with all its rows.

    Raises:
        RecordError: A file is missing or damaged.
    """
    found = opened(folder)
    return Record(folder, found.config, list(found.rows), found.done)


def find(folder: Path) -> list[Path]:
    """Folders of all runs in or below `folder`, sorted."""
    return sorted(path.parent for path in folder.rglob(CONFIG))
