"""The two files that a study commits, from which `hgenv report` makes every table and curve again.

| file | content |
| --- | --- |
| runs.csv | a line a run: complete settings, how and where it ended, final and best figures, counts, seconds |
| rows.parquet | the rows of all runs, column by column |

Columns of rows.parquet, apart from `environment`, `optimizer` and `seed`, which say whose row it is:

| column | content | in which rows |
| --- | --- | --- |
| update, status, message, loss, within_budget | as in rows.jsonl; loss in float32 | all |
| samples, training_steps, ... | counts of work | all |
| cpu_ms, gpu_ms, wall_ms | what was spent, in full milliseconds | all |
| validation/NAME, test/NAME | the primary metric, 6 significant digits | all |
| validation/NAME, test/NAME | every other metric, likewise | every tenth, the last tenth, the best |
| validation/NAME/OBJECT, test/NAME/OBJECT | a metric of one object, likewise | the last tenth |
| recommendation | float32 | every tenth, the last counted |
| beta | float32, where it is not what was recommended | every tenth, the last counted |

The last tenth is that of the budget, and the best row is the one with the best validation within it. What does not
change from run to run, the blocks of beta, the metrics and the names of the data, is in the file's metadata.

A `Run` in memory holds as much and no more, whether it was made from a raw run or from a study's files: both give the
same report, digit by digit.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hgenv.accounting import COUNTS, FREE, PHASES, Budget
from hgenv.tasks import Metric

from . import files, records
from .records import Opened, Record, RecordError

RUNS, ROWS = "runs.csv", "rows.parquet"
FORMAT = 1  # of both files
THIN = 10  # updates between two rows that hold everything but single objects
SECONDS = ("cpu_seconds", "gpu_seconds", "wall_seconds")  # the total is the sum of the first two
DATA = ("validation", "test")
VECTORS = ("beta", "recommendation")
LARGEST = 3e38  # what float32 can hold; a figure beyond it is as good as none
DIGITS, BETA_DIGITS = 6, 7  # significant ones in rows.jsonl, of metrics and of betas; float32 carries them

Floats = NDArray[np.float64]
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Facts:
    """What a report needs to know about a run's environment.

    Attributes:
        metrics: What it reports, the primary metric first.
        data: Names of the validation and of the test data.
        blocks: Name, unit and size of each block of beta.
        device: What it ran on.
        training_step_flops: Floating-point operations of a training step; None where rows do not say.
    """

    metrics: tuple[Metric, ...]
    data: dict[str, str]
    blocks: tuple[dict[str, Any], ...]
    device: str
    training_step_flops: int | None = None


@dataclass(frozen=True)
class End:
    """How, where and with what a run ended.

    Attributes:
        status: finished, truncated or failed.
        message: Why.
        phases: CPU + GPU seconds of each phase.
        hardware: What the machine was.
        versions: Of the software.
        commit: Of the code; None if that is not known.
        command: What was typed; None if that is not known.
        platforms: What its bits may depend on, by the fingerprints in its rows; several if it was resumed elsewhere.
        incidents: What happened to it on the way, such as "resumed", and how often.
    """

    status: str
    message: str
    phases: dict[str, float]
    hardware: dict[str, Any]
    versions: dict[str, Any]
    commit: str | None
    command: str | None
    platforms: dict[str, Any] = field(default_factory=dict)
    incidents: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A run's rows as columns, (T,) each unless another shape is named; NaN where there is nothing.

    Attributes:
        source: Its folder, or that of its study.
        config: Its complete settings, and where it ran.
        facts: What is known about its environment.
        end: How it ended; None if it has not.
        status: Of each update.
        message: What is said about a failure, else empty.
        loss: L after the update.
        within_budget: Whether the update counts.
        spent: Until the end of the update, by resource or kind of work.
        metrics: By data and name.
        moments: (M,) the rows that beta and the recommendation are kept of.
        beta: (M, d) float32.
        recommendation: (M, d) float32.
    """

    source: Path
    config: dict[str, Any]
    facts: Facts
    end: End | None
    status: NDArray[np.str_]
    message: NDArray[np.str_]
    loss: Floats
    within_budget: NDArray[np.bool_]
    spent: dict[str, Floats]
    metrics: dict[str, dict[str, Floats]]
    moments: NDArray[np.int64]
    beta: NDArray[np.float32]
    recommendation: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        ended = "not ended" if self.end is None else self.end.status
        whose = f"{self.environment}, {self.optimizer}, seed {self.seed}"
        return f"Run({str(self.source)!r}: {whose}, {records.plural(len(self), 'row')}, {ended})"

    @property
    def study(self) -> str:
        """Name of the study."""
        return str(self.config["study"])

    @property
    def environment(self) -> str:
        """Label of the environment, with its data."""
        return records.environment_label(self.config)

    @property
    def optimizer(self) -> str:
        """Label of the optimizer."""
        return str(self.config["optimizer"]["label"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def key(self) -> Key:
        """What tells it from the others of its study."""
        return self.environment, self.optimizer, self.seed

    @property
    def primary(self) -> Metric:
        """The metric to show where there is room for one."""
        return self.facts.metrics[0]

    @property
    def counted(self) -> NDArray[np.int64]:
        """The rows within the budget."""
        return np.flatnonzero(self.within_budget)

    @property
    def last(self) -> int:
        """The last row within the budget."""
        return int(self.counted[-1])

    @property
    def last_tenth(self) -> NDArray[np.int64]:
        """The counted rows of the last tenth of the budget; the last one, where no other falls into it."""
        return _last_tenth(self.budget, self.used, self.counted)

    @property
    def best(self) -> int:
        """The counted row with the best validation, the first of several."""
        return _best(self.primary, self.metrics, self.counted)

    @property
    def share(self) -> float:
        """Share of the budget that the counted updates have spent."""
        return float(self.used[self.last] / self.budget.amount)

    @property
    def budget(self) -> Budget:
        """What the run might spend."""
        return Budget.of(self.config["budget"])

    @property
    def used(self) -> Floats:
        """How much of its budget's unit was spent until the end of each update."""
        found: Floats = self.budget.spent(self.spent)
        return found

    def spent_in(self, unit: str) -> Floats:
        """What was spent until the end of each update, in a resource, a count, or the unit of the run's budget."""
        return self.used if unit == self.config["budget"]["unit"] else self.spent[unit]

    @property
    def start(self) -> Floats:
        """Beta before any update, (d,)."""
        return _rounded(self.beta[0], BETA_DIGITS)

    @property
    def recommended(self) -> Floats:
        """What is recommended after the last counted update, (d,)."""
        moment = np.searchsorted(self.moments, self.last, side="right") - 1
        return _rounded(self.recommendation[moment], BETA_DIGITS)

    @property
    def has_gpu(self) -> bool:
        """Whether a GPU did any of it."""
        return bool(self.spent["gpu_seconds"][-1] > 0)


def from_record(record: Record | Opened) -> Run:
    """A raw run as columns, thinned and rounded as a study's files are.

    Its rows are gone through once, one after the other: a long run does not have to fit into memory as objects.

    Raises:
        RecordError: Its rows are damaged, or lack what a report needs.
    """
    config, path = record.config, record.folder / records.ROWS
    spent = {name: array("d") for name in SECONDS + COUNTS}
    values: dict[str, dict[str, array[float]]] = {}
    loss, within = array("d"), bytearray()
    status, message, facts = list[str](), list[str](), None
    kept: dict[int, records.Row] = {}  # every tenth row, and the last counted one
    last: records.Row | None = None
    try:
        for number, row in enumerate(record.rows):
            if facts is None:
                metrics = tuple(Metric(**metric) for metric in row["metrics"])
                facts = Facts(
                    metrics, dict(row["data"]), tuple(row["blocks"]), str(row["device"]), row.get("training_step_flops")
                )
                values = {data: {name: array("d") for name in row[data]} for data in DATA}
            loss.append(_number(row["loss"]))
            status.append(sys.intern(row["status"]))
            message.append(sys.intern(row["message"]))
            within.append(row["within_budget"])
            for name, column in spent.items():
                column.append(row["spent"][name])
            for data, columns in values.items():
                for name, column in columns.items():
                    column.append(_number(row[data][name]))
            if number % THIN == 0:
                kept[number] = {name: np.array(row[name], np.float32) for name in VECTORS}
            last = row if row["within_budget"] else last
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise RecordError(f"{path}: a row lacks what a report needs ({error!r}); make the run again") from None
    if facts is None or last is None:
        raise RecordError(f"{path}: no row is within the budget; make the run again with a larger one")
    seconds = {name: _rounded_seconds(spent[name]) for name in SECONDS}
    counts = {name: np.array(spent[name]) for name in COUNTS}
    total = {"total_seconds": seconds["cpu_seconds"] + seconds["gpu_seconds"]}
    rounded = {data: {name: _rounded(column) for name, column in columns.items()} for data, columns in values.items()}
    counted = np.flatnonzero(np.frombuffer(bytes(within), np.bool_))
    for data in DATA:
        if np.isnan(rounded[data][facts.metrics[0].name][counted]).all():
            raise RecordError(
                f"{path}: {facts.metrics[0].title} on {data} is a number in no row; see what the task scores"
            )
    every = np.arange(len(loss)) % THIN == 0
    budget = record.budget
    late = np.isin(np.arange(len(loss)), _last_tenth(budget, budget.spent(seconds | counts | total), counted))
    full = every | late
    full[_best(facts.metrics[0], rounded, counted)] = True
    for data in DATA:
        for name, kept_column in rounded[data].items():
            if name != facts.metrics[0].name:
                kept_column[~(late if "/" in name else full)] = np.nan
    kept[last["update"]] = {name: np.array(last[name], np.float32) for name in VECTORS}
    moments = sorted(kept)
    end = None if record.done is None else _end(record.done)
    return Run(
        record.folder, config, facts, end, np.array(status, str), np.array(message, str),
        np.array(loss, np.float32).astype(float), np.frombuffer(bytes(within), np.bool_), seconds | counts | total,
        rounded, np.array(moments, np.int64), *(np.array([kept[i][name] for i in moments]) for name in VECTORS),
    )  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None or abs(value) > LARGEST else value


def find(folder: Path) -> list[Path]:
    """Folders of all studies in or below `folder`, sorted."""
    return sorted(path.parent for path in folder.rglob(RUNS))


def write(folder: Path, runs: Sequence[Run]) -> None:
    """Write the files of a study of finished runs; they are there either as they were or completely."""
    assert all(run.end is not None for run in runs), "only finished runs make a study"
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    lines = [_line(run) for run in runs]
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = csv.DictWriter(text, sorted(names, key=_column_order(names)), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    files.write_all({folder / ROWS: _parquet(*_columns(runs)), folder / RUNS: text.getvalue()})


def read(folder: Path) -> list[Run]:
    """The runs of a study, in the order of its lines.

    Raises:
        RecordError: A file is missing or damaged, or the two do not belong together.
    """
    lines, path = _read_lines(folder / RUNS), folder / ROWS
    table, kept = _read_parquet(path)
    try:
        facts = [
            Facts(**one | {"metrics": tuple(Metric(**m) for m in one["metrics"]), "blocks": tuple(one["blocks"])})
            for one in kept["facts"]
        ]
        entries = {(e["environment"], e["optimizer"], e["seed"]): e for e in kept["runs"]}
        columns = {name: table[name] for name in table.column_names}
        keys = [(line["environment"], line["optimizer"], int(line["seed"])) for line in lines]
        if sorted(keys) != sorted(entries):
            raise RecordError(f"{path}: holds other runs than {RUNS} beside it; {_cure(folder)}")
        found = []
        for key, line in zip(keys, lines, strict=True):
            start, size = entries[key]["start"], entries[key]["rows"]
            own = {name: column.slice(start, size) for name, column in columns.items()}
            found.append(_from_columns(folder, line, facts[entries[key]["facts"]], own))
    except (KeyError, TypeError, ValueError, IndexError, pa.ArrowException) as error:
        raise RecordError(f"{path}: damaged ({error!r}); {_cure(folder)}") from None
    return found


def write_estimates(folder: Path, estimates: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write estimates of a gradient to rows.parquet; it is there either as it was or completely.

    Args:
        folder: Made if it is not there.
        estimates: `environment`, `estimator`, `draw`, `seconds` (to 0.1 ms) and `gradient` (6 significant digits) each.
        facts: What else a report on them needs, by environment; anything that JSON can say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "environment": pa.array([e["environment"] for e in estimates], pa.string()),
        "estimator": pa.array([e["estimator"] for e in estimates], pa.string()),
        "draw": pa.array([e["draw"] for e in estimates], pa.int32()),
        "seconds": pa.array([e["seconds"] for e in estimates], pa.float32()),
        "gradient": pa.array([np.asarray(e["gradient"], np.float32) for e in estimates], pa.list_(pa.float32())),
    }
    files.write(folder / ROWS, _parquet(columns, {"estimates": len(estimates), "facts": dict(facts)}))


def read_estimates(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `write_estimates` wrote: the estimates in order, and the facts.

    Raises:
        RecordError: The file is missing or damaged.
    """
    path = folder / ROWS
    table, kept = _read_parquet(path)
    try:
        rows = table.to_pylist()
        if len(rows) != kept["estimates"]:
            raise ValueError(f"{len(rows)} rows instead of {kept['estimates']}")
        for row in rows:
            row["seconds"] = float(np.round(row["seconds"], 4))
            row["gradient"] = _rounded(row["gradient"]).tolist()
        return rows, dict(kept["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: damaged ({error!r}); {_cure(folder)}") from None


# --- Columns ----------------------------------------------------------------------------------------------------------


def _columns(runs: Sequence[Run]) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """The columns of rows.parquet, and what goes into its metadata."""
    sizes = [len(run) for run in runs]

    def joined(parts: Iterable[NDArray[Any]], kind: pa.DataType) -> pa.Array:
        values = np.concatenate(list(parts))
        return pa.array(values, kind, mask=np.isnan(values) if values.dtype.kind == "f" else None)

    def vectors(name: str) -> pa.Array:
        cells: list[NDArray[np.float32] | None] = []
        for run in runs:
            own: list[NDArray[np.float32] | None] = [None] * len(run)
            for i, moment in enumerate(run.moments):
                if name == "recommendation" or not np.array_equal(run.beta[i], run.recommendation[i]):
                    own[moment] = getattr(run, name)[i]
            cells += own
        return pa.array(cells, pa.list_(pa.float32()))

    columns = {
        name: pa.array(np.repeat([run.key[i] for run in runs], sizes), kind)
        for i, (name, kind) in enumerate(
            (("environment", pa.string()), ("optimizer", pa.string()), ("seed", pa.int64()))
        )
    }
    columns["update"] = joined((np.arange(size) for size in sizes), pa.int32())
    columns["status"] = joined((run.status for run in runs), pa.string())
    columns["message"] = joined((run.message for run in runs), pa.string())
    columns["loss"] = joined((run.loss for run in runs), pa.float32())
    columns["within_budget"] = joined((run.within_budget for run in runs), pa.bool_())
    for name in COUNTS:
        if any(name in run.spent for run in runs):
            counts = (run.spent.get(name, np.zeros(len(run))).astype(np.int64) for run in runs)
            columns[name] = joined(counts, pa.int64())
    for name in SECONDS:
        columns[_milliseconds(name)] = joined((_milliseconds_of(run.spent[name]) for run in runs), pa.int64())
    for data in DATA:
        for name in dict.fromkeys(name for run in runs for name in run.metrics[data]):
            nothing = [np.full(size, np.nan) for size in sizes]
            parts = [run.metrics[data].get(name, empty) for run, empty in zip(runs, nothing, strict=True)]
            columns[f"{data}/{name}"] = joined(parts, pa.float32())
    columns["recommendation"], columns["beta"] = vectors("recommendation"), vectors("beta")
    facts: list[dict[str, Any]] = []
    entries, start = [], 0
    for run, size in zip(runs, sizes, strict=True):
        own = asdict(run.facts)
        if own not in facts:
            facts.append(own)
        environment, optimizer, seed = run.key
        entries.append({
            "environment": environment, "optimizer": optimizer, "seed": seed, "start": start, "rows": size,
            "facts": facts.index(own),
        })  # fmt: skip
        start += size
    return columns, {"facts": facts, "runs": entries}


def _from_columns(folder: Path, line: Mapping[str, str], facts: Facts, columns: Mapping[str, Any]) -> Run:
    """A run from its line in runs.csv and its part of rows.parquet."""

    def numbers(name: str) -> Floats:
        return np.asarray(columns[name].to_numpy(), float)

    def texts(name: str) -> NDArray[np.str_]:
        return np.array(columns[name].to_pylist(), str)

    spent = {name: numbers(_milliseconds(name)) / 1000 for name in SECONDS} | {
        name: numbers(name)
        for name in COUNTS
        if name in columns  # older versions counted less
    }
    spent["total_seconds"] = spent["cpu_seconds"] + spent["gpu_seconds"]
    metrics: dict[str, dict[str, Floats]] = {data: {} for data in DATA}
    for column in columns:
        data, slash, name = column.partition("/")
        if slash and data in metrics and columns[column].null_count < len(columns[column]):
            metrics[data][name] = _rounded(numbers(column))
    kept = columns["recommendation"].to_pylist()
    moments = np.array([i for i, cell in enumerate(kept) if cell is not None], np.int64)
    recommendation = np.array([kept[i] for i in moments], np.float32)
    betas = columns["beta"].to_pylist()
    beta = np.array([kept[i] if betas[i] is None else betas[i] for i in moments], np.float32)
    phases = {phase: float(line[_phase(phase)]) for phase in (*PHASES, *FREE)}
    end = End(
        line["status"], line["message"], phases,
        json.loads(line["hardware"]), json.loads(line["versions"]), line["commit"] or None, line["command"] or None,
        *(json.loads(line.get(name) or "{}") for name in ("platforms", "incidents")),
    )  # fmt: skip
    run = Run(
        folder, json.loads(line["settings"]), facts, end, texts("status"), texts("message"), numbers("loss"),
        np.asarray(columns["within_budget"].to_numpy(zero_copy_only=False), bool), spent, metrics, moments, beta,
        recommendation,
    )  # fmt: skip
    if run.key != (line["environment"], line["optimizer"], int(line["seed"])):
        raise ValueError(f"the settings of {line['environment']}, {line['optimizer']}, {line['seed']} are of {run.key}")
    return run


def _line(run: Run) -> dict[str, Any]:
    """A run's line in runs.csv."""
    assert run.end is not None
    environment, optimizer, seed = run.key
    budget, last, best = run.config["budget"], run.last, run.best
    line: dict[str, Any] = {
        "environment": environment, "optimizer": optimizer, "seed": seed, "schema": run.config["schema"],
        "budget": f"{budget['amount']:.15g} {budget['unit']}", "status": run.end.status, "message": run.end.message,
    }  # fmt: skip
    for prefix, row in (("", last), ("best ", best)):
        line[f"{prefix}update"] = row
        for data in DATA:
            for metric in run.facts.metrics:
                line[f"{prefix}{data}/{metric.name}"] = f"{run.metrics[data][metric.name][row]:.{DIGITS}g}"
    line |= {name: int(run.spent[name][last]) for name in COUNTS if name in run.spent}
    line |= {name: f"{run.spent[name][last]:.3f}" for name in ("total_seconds", *SECONDS)}
    line |= {_phase(phase): f"{seconds:.6f}" for phase, seconds in run.end.phases.items()}
    line |= {"commit": run.end.commit or "", "command": run.end.command or ""}
    line |= {name: _json(getattr(run.end, name)) for name in ("hardware", "versions")}
    line |= {name: _json(kept) for name in ("platforms", "incidents") if (kept := getattr(run.end, name))}
    return line | {"settings": _json(run.config)}


def _column_order(names: Sequence[str]) -> Any:
    """Where runs differ in their metrics, these still stand together."""
    groups = {"best update": 2, "update": 0}

    def group(name: str) -> tuple[int, int]:
        known = ("environment", "optimizer", "seed", "schema", "budget", "status", "message")
        if name in known:
            return -1, names.index(name)
        if name.startswith("best "):
            return groups.get(name, 3), names.index(name)
        if "/" in name:
            return 1, names.index(name)
        return groups.get(name, 4), names.index(name)

    return group


def _end(done: Mapping[str, Any]) -> End:
    phases = {
        phase: round(done["phases"][phase]["cpu_seconds"] + done["phases"][phase]["gpu_seconds"], 6)
        for phase in (*PHASES, *FREE)
    }
    return End(
        done["status"], done["message"], phases, done["hardware"], done["versions"], done["commit"],
        done.get("command"), done.get("platforms", {}), done.get("incidents", {}),
    )  # fmt: skip


def _last_tenth(budget: Budget, used: Floats, counted: NDArray[Any]) -> NDArray[np.int64]:
    late = counted[used[counted] >= 0.9 * budget.amount]
    return late if len(late) else counted[-1:]


def _best(primary: Metric, metrics: Mapping[str, Mapping[str, Floats]], counted: NDArray[Any]) -> int:
    values = metrics["validation"][primary.name][counted]
    worst = np.inf if primary.direction == "min" else -np.inf
    values = np.where(np.isnan(values), worst, values)
    return int(counted[np.argmin(values) if primary.direction == "min" else np.argmax(values)])


def _rounded(values: Any, digits: int = DIGITS) -> Floats:
    """To so many significant digits, which undoes what float32 did to them."""
    x = np.asarray(values, np.float32).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(x)))
    places = digits - 1 - np.where(np.isfinite(size), size, 0)
    # Quotients of whole numbers, so that they are the doubles that the digits stand for.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    rounded: Floats = np.rint(x * up / down) * down / up
    return rounded


def _rounded_seconds(values: Sequence[float]) -> Floats:
    return _milliseconds_of(np.asarray(values, float)) / 1000


def _milliseconds_of(seconds: Floats) -> NDArray[np.int64]:
    """Those that have passed: a moment just before the last tenth of the budget stays before it."""
    found: NDArray[np.int64] = np.rint(seconds * 1e6).astype(np.int64) // 1000
    return found


def _milliseconds(name: str) -> str:
    return name.removesuffix("seconds") + "ms"


def _phase(name: str) -> str:
    return f"{name}_seconds"


# --- Files ------------------------------------------------------------------------------------------------------------


def _parquet(columns: Mapping[str, pa.Array], kept: Mapping[str, Any]) -> bytes:
    """One row group: neighbours are alike along a column, and every group costs a footer of its own."""
    encodings, dictionaries = {}, []
    for name, column in columns.items():
        if pa.types.is_string(column.type):
            dictionaries.append(name)
        elif pa.types.is_integer(column.type):
            encodings[name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(column.type):
            encodings[f"{name}.list.element"] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_floating(column.type):
            encodings[name] = "BYTE_STREAM_SPLIT"
    table, whole = pa.table(dict(columns)), io.BytesIO()
    with pq.ParquetWriter(
        whole, table.schema, compression="zstd", compression_level=19, use_dictionary=dictionaries,
        column_encoding=encodings, write_statistics=False, store_schema=False, data_page_size=2**24,
    ) as writer:  # fmt: skip
        writer.write_table(table, row_group_size=max(1, len(table)))
        writer.add_key_value_metadata({"hgenv": _json({"format": FORMAT, **kept})})
    return whole.getvalue()


def _read_parquet(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    if not path.is_file():
        raise RecordError(f"{path}: there is no such file; {_cure(path.parent)}")
    try:
        table = pq.read_table(path)
        kept = json.loads((table.schema.metadata or {})[b"hgenv"])
        table.validate(full=True)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise RecordError(f"{path}: damaged ({error}); {_cure(path.parent)}") from None
    if kept.get("format") != FORMAT:
        raise RecordError(
            f"{path}: is of format {kept.get('format')}, this code reads {FORMAT}; use the code of the commit that "
            "wrote it"
        )
    return table, kept


def _read_lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise RecordError(f"{path}: there is no such file; {_cure(path.parent)}")
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
        for line in lines:
            if None in line or None in line.values():
                raise ValueError("a line has more or fewer cells than the first")
            for name in ("settings", "hardware", "versions"):
                if not isinstance(json.loads(line[name]), dict):
                    raise ValueError(f"{name} is no object")
            int(line["seed"]), line["environment"], line["optimizer"]
            settings = json.loads(line["settings"])
            records.environment_label(settings)
            records.check_study(settings["study"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RecordError(f"{path}: damaged ({error!r}); {_cure(path.parent)}") from None
    return lines


def _cure(folder: Path) -> str:
    return (
        f"restore the file (git checkout -- {folder}), or write the study again from its runs "
        f"(hgenv report runs/{folder.name} --results {folder.parent})"
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
