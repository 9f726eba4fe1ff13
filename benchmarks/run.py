"""One run: an environment, an optimizer, a seed, a budget.

    python -m benchmarks.run env=shapes optimizer=hybrid_gradient seed=0 budget.amount=120 budget.unit=total_seconds

The run's folder is its identity: `<root>/<study>/<environment>/<optimizer>/seed=<n>`. A finished run is skipped. A
killed one goes on from its checkpoint and ends with the same rows, clocks apart, as an unbroken one.

What counts against the budget is what happens inside `Optimizer.update`; everything here is off the clock.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

import hgenv
import optimizers
from hgenv.accounting import COUNTS, RESOURCES, Budget, BudgetError
from hgenv.datasets.photos import DataError
from hgenv.decision import DecisionError
from hgenv.env import DataGenEnv, Status
from hgenv.memory import keep_memory
from hgenv.rendering.scene import RenderError
from hgenv.workers import WorkerError

from . import pictures, records
from .board import Board
from .records import BOARD, CHECKPOINT, CONFIG, DONE, ROWS, RecordError, Row, headline

# These say where and how often to write, not what.
NOT_IDENTITY = ("root", "checkpoint_seconds")
FAILURES = 3  # failed steps in a row that end a run
QUIET_SECONDS = 10  # between two lines where the output is no terminal


class RunError(RuntimeError):
    """A run that cannot be made as asked, or not go on. The message says why, and the cure."""


# What a user can cause: shown without a traceback.
USER_ERRORS = (
    RunError,
    WorkerError,
    RecordError,
    BudgetError,
    DataError,
    DecisionError,
    RenderError,
    OmegaConfBaseException,
)


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config for a list of Hydra overrides.

    Raises:
        hydra.errors.HydraException: A name is unknown; the message lists the choices.
        RunError: There is a text where a number belongs.
    """
    with hydra.initialize_config_module("configs", version_base="1.3"):
        config = hydra.compose("config", list(overrides))
        keys = [o.get_key_element() for o in OverridesParser.create().parse_overrides(list(overrides))]
        texts = [isinstance(OmegaConf.select(config, key), str) for key in keys]
        default = hydra.compose("config", [o for o, is_text in zip(overrides, texts, strict=True) if not is_text])
    for key in itertools.compress(keys, texts):
        expected = OmegaConf.select(default, key)
        if isinstance(expected, (int, float)):
            kind = "true or false" if isinstance(expected, bool) else "a number (infinity is written inf)"
            raise RunError(f"{key} must be {kind}, not {OmegaConf.select(config, key)!r}")
    return config


def settings(config: DictConfig) -> dict[str, Any]:
    """What decides the run, as plain numbers, texts, lists and dictionaries."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in NOT_IDENTITY}


def run_folder(config: DictConfig) -> Path:
    """Where the run of `config` is."""
    environment = records.environment_label(config)
    return Path(config.root) / config.study / environment / config.optimizer.label / f"seed={config.seed}"


def make_environment(config: dict[str, Any]) -> DataGenEnv:
    """The environment of a run's settings.

    Raises:
        RunError: It cannot be made so; the message says why.
    """
    kwargs = {key: value for key, value in config["env"].items() if key not in ("id", "label")}
    try:
        env = gymnasium.make(config["env"]["id"], disable_env_checker=True, **kwargs).unwrapped
    except (gymnasium.error.Error, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RunError(f"the environment {config['env']['id']} cannot be made: {error}") from error
    assert isinstance(env, DataGenEnv)
    return env


def make_optimizer(config: dict[str, Any], env: DataGenEnv) -> optimizers.Optimizer:
    """The optimizer of a run's settings.

    Raises:
        RunError: It cannot be made so; the message says why.
    """
    kwargs = {key: value for key, value in config["optimizer"].items() if key not in ("id", "label")}
    name = config["optimizer"]["id"]
    if name not in optimizers.REGISTRY:
        raise RunError(f"unknown optimizer {name!r}; choose one of {', '.join(sorted(optimizers.REGISTRY))}")
    try:
        return optimizers.REGISTRY[name](env.space, seed=config["seed"], **kwargs)
    except (ValueError, TypeError) as error:
        raise RunError(f"the optimizer {name} cannot be made: {error}") from error


def run(config: DictConfig, command: str | None = None) -> Path:
    """Make the run of `config`, or what is missing of it.

    Args:
        config: As `compose` gives it.
        command: What was typed, for the record.

    Returns:
        Its folder.

    Raises:
        RunError: It cannot be made so, was interrupted, or failed.
        RecordError: Its folder belongs to another configuration, is damaged or in use. Nothing in it has changed.
        BudgetError: There is no such budget.
    """
    plain = settings(config)
    budget = _checked(plain)
    folder = run_folder(config)
    check_identity(folder, plain)
    done = records.read_done(folder)
    if done is None:
        torch.set_num_threads(plain["threads"])
        if torch.cuda.is_available() and plain["device"] != "cpu":
            _make_gpu_repeatable()
        # Whatever cannot be made fails here, before anything is written.
        job = _Run(folder, plain, budget, config.checkpoint_seconds, command)
        with _owned(folder, plain):
            done = job.go()
    else:
        print(f"{folder}: nothing to do, it is {done['status']}", flush=True)
    if done["status"] == "failed":
        raise RunError(f"{folder}: {done['message']}")
    return folder


class _Run:
    """A run at work in its folder."""

    def __init__(
        self, folder: Path, config: dict[str, Any], budget: Budget, checkpoint_seconds: float, command: str | None
    ) -> None:
        self.folder, self.config, self.budget = folder, config, budget
        self.checkpoint_seconds, self.command = checkpoint_seconds, command
        self.env = make_environment(config)
        self.optimizer = make_optimizer(config, self.env)
        self.rows: list[Row] = []

    def go(self) -> dict[str, Any]:
        """Begin or resume, update until the run ends, and say how it ended."""
        with ExitStack() as stack:
            stop = stack.enter_context(_stop_signals())
            stack.callback(self.env.close)
            kept = self._load()
            _, info = self.env.reset(seed=self.config["seed"])
            self.env.warm_up()
            with self.env.ledger.phase("log"):
                if kept is not None:
                    self._resume(kept)
                self.file = stack.enter_context((self.folder / ROWS).open("ab"))
                self.board = Board(self.folder / BOARD, self.env, self.config["picture_updates"], len(self.rows))
                stack.callback(self.board.close)
                display = stack.enter_context(_Display(self.folder, self.budget))
            if kept is None:
                self._write({"update": 0} | self._opening(info["loss"]) | self._row())
                self._save()
            saved = time.monotonic()
            while (ended := self._ended()) is None:
                if stop:
                    raise RunError(f"{self.folder}: interrupted; the same command resumes it after update {self._last}")
                self._update()
                self._write(self._row())
                display.show(self.rows[-1])
                if stop or time.monotonic() - saved >= self.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            with self.env.ledger.phase("log"):
                self.board.last_pictures(self.rows[-1])
                if pictures.has_error_maps(self.env):
                    pictures.save(pictures.validation_images(self.env), self.folder / records.VALIDATION)
                    pictures.save(pictures.error_maps(self.env), self.folder / records.ERRORS)
            self._save()
            done = self._done(*ended)
            records.write(self.folder / DONE, json.dumps(done, indent=1) + "\n")
            display.end(done)
        return done

    @property
    def _last(self) -> int:
        return int(self.rows[-1]["update"])

    def _update(self) -> None:
        try:
            self.optimizer.update(self.env)
        except RenderError as error:
            raise RunError(
                f"{self.folder}, update {self._last + 1}: {error}; what was done until the last checkpoint is kept"
            ) from error

    def _row(self) -> Row:
        env, outcome = self.env, self.env.outcome
        with env.ledger.phase("log"):
            row: Row = {"update": env.update}
            if outcome is not None:
                row |= {"status": outcome.status.name, "message": outcome.message, "loss": outcome.loss}
                row["beta"] = _numbers(outcome.beta)
            row["recommendation"] = _numbers(self.optimizer.recommendation)
            row["spent"] = {unit: round(env.ledger.spent(unit), 6) for unit in RESOURCES + COUNTS}
            row["within_budget"] = self.budget.share(env.ledger) <= 1
        row["validation"] = _metrics(env.validation_metrics())
        row["test"] = _metrics(env.test_metrics())
        return row

    def _opening(self, loss: float) -> Row:
        """What row 0 has in place of a step's outcome, and what reports need to know about the environment."""
        env = self.env
        return {
            "status": "OK",
            "message": "",
            "loss": loss,
            "beta": _numbers(env.space.project(env.space.initial)),
            "data": {"validation": env.validation.label, "test": env.test.label},
            "blocks": [{"name": b.name, "unit": b.unit, "size": b.size} for b in env.space.blocks],
            "device": str(env.device),
        }

    def _write(self, row: Row) -> None:
        with self.env.ledger.phase("log"):
            self.file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self.file.flush()
            self.rows.append(row)
            self.board.row(row)

    def _ended(self) -> tuple[str, str] | None:
        """Status and message if the run is at its end."""
        tail = self.rows[-FAILURES:]
        if len(tail) == FAILURES and all(row["status"] != "OK" for row in tail):
            return "failed", (
                f"the last {FAILURES} steps failed, the run ends at update {self._last}: {tail[-1]['status']}: "
                f"{tail[-1]['message'] or Status[tail[-1]['status']].value}"
            )
        share = self.rows[-1]["spent"][self.budget.unit] / self.budget.amount
        if share >= 1:
            return "finished", f"the budget of {self.budget.amount:g} {self.budget.unit} is spent"
        if self.env.update >= self.env.max_updates:
            return "truncated", (
                f"the episode ended after {self.env.max_updates} updates with {share:.0%} of the budget spent; "
                "raise env.max_updates"
            )
        return None

    def _done(self, status: str, message: str) -> dict[str, Any]:
        return {
            "status": status,
            "message": message,
            "rows": len(self.rows),
            "final": [row for row in self.rows if row["within_budget"]][-1],
            "phases": self.env.ledger.by_phase(),
            "hardware": _hardware(self.env.device),
            "versions": _versions(),
            "commit": _commit(),
            "command": self.command,
        }

    # --- Checkpoints -------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        with self.env.ledger.phase("checkpoint"):
            self.board.flush()
            os.fsync(self.file.fileno())
            kept = {
                "env": self.env.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rows": len(self.rows),
                "bytes": self.file.tell(),
            }
            temporary = self.folder / (CHECKPOINT + ".part")
            torch.save(kept, temporary)
            os.replace(temporary, self.folder / CHECKPOINT)

    def _load(self) -> dict[str, Any] | None:
        """The checkpoint, and the rows up to it; None if the run is to begin.

        Raises:
            RecordError: One of the two files is missing or damaged. Nothing has changed.
        """
        path, rows = self.folder / CHECKPOINT, self.folder / ROWS
        data = rows.read_bytes() if rows.is_file() else b""
        if not path.is_file():
            if data.count(b"\n") > 1:
                raise RecordError(f"{rows}: there are rows, but no {CHECKPOINT} to go on from; delete the run's folder")
            rows.unlink(missing_ok=True)  # killed while it wrote its first row or checkpoint
            return None
        try:
            # Our own file, and it holds dataclasses: only such a file is safe to unpickle.
            kept = torch.load(path, map_location=self.env.device, weights_only=False)
            kept["env"], kept["optimizer"], kept["rows"], kept["bytes"]
        except Exception as error:  # damaged pickles raise anything
            raise RecordError(
                f"{path}: damaged ({type(error).__name__}: {error}); restore the file, or delete the run's folder"
            ) from error
        self.rows = records.parse_rows(data[: kept["bytes"]], rows)
        if len(data) < kept["bytes"] or len(self.rows) != kept["rows"]:
            raise RecordError(
                f"{rows}: holds {len(self.rows)} rows, but the checkpoint was made after {kept['rows']}; restore the "
                "file, or delete the run's folder"
            )
        return dict(kept)

    def _resume(self, kept: dict[str, Any]) -> None:
        os.truncate(self.folder / ROWS, kept["bytes"])
        self.env.load_state_dict(kept["env"])
        self.optimizer.load_state_dict(kept["optimizer"])
        print(f"{self.folder}: resumes after update {self._last}", flush=True)


class _Display:
    """The current loss and the share of the budget: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")
            self.bar = Progress(*columns, TimeElapsedColumn())
            self.task = self.bar.add_task(str(folder), total=budget.amount)
        self.last = time.monotonic()

    def __enter__(self) -> _Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, row: Row) -> None:
        """Show the newest row."""
        spent = min(row["spent"][self.budget.unit], self.budget.amount)
        if self.bar is not None:
            self.bar.update(self.task, completed=spent, description=describe(row))
        elif time.monotonic() - self.last > QUIET_SECONDS:
            self.last = time.monotonic()
            print(f"{self.folder}: {describe(row)}, {spent / self.budget.amount:.0%} of the budget", flush=True)

    def end(self, done: dict[str, Any]) -> None:
        """Say how it ended."""
        print(f"{self.folder}: {done['status']}; {describe(done['final'])}", flush=True)


def describe(row: Row) -> str:
    """A row in a few words."""
    key = headline(row["test"])
    loss = f"loss {row['loss']:.4g}" if row["loss"] is not None else row["status"]
    name = key.replace("_", " ")
    return f"update {row['update']}, {loss}, {name} validation {row['validation'][key]:.4g} test {row['test'][key]:.4g}"


def _numbers(vector: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in vector.tolist()]


def _metrics(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def _checked(config: dict[str, Any]) -> Budget:
    """The budget, once all values that no one else looks at are seen to make sense."""
    for key, least in (("seed", 0), ("threads", 1), ("picture_updates", 1)):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RunError(f"{key} must be a whole number of at least {least}, not {value!r}")
    if not str(config["study"]) or "/" in str(config["study"]):
        raise RunError(f"study must be a name for a folder, not {config['study']!r}")
    amount = config["budget"]["amount"]
    if not isinstance(amount, int | float):
        raise BudgetError(f"budget.amount must be a number, not {amount!r}")
    return Budget(**config["budget"])


def check_identity(folder: Path, config: dict[str, Any]) -> None:
    """Make sure that what is in a folder, if anything, belongs to this config."""
    if not (folder / CONFIG).is_file():
        if (folder / ROWS).exists():
            raise RecordError(f"{folder}: there are rows, but no {CONFIG}; restore it, or delete the folder")
        return
    found = records.differences(records.read_config(folder), config)
    if found:
        raise RecordError(
            f"{folder}: was made by another configuration; what differs (there, now):\n  "
            + "\n  ".join(found)
            + "\nuse another study (study=<name>) or delete the folder"
        )


@contextmanager
def _owned(folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """Keep others out of the folder, for as long as this process lives and is inside."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    if not path.is_file():
        records.write(path, OmegaConf.to_yaml(OmegaConf.create(config)))
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecordError(f"{folder}: another process is at work on this run; wait for it, or stop it") from None
        yield


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The interrupts that have come, so that a run can stop after an update. A second one stops it on the spot."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_gpu_repeatable() -> None:
    """Have CUDA take those algorithms that give the same bits each time, and warn where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _hardware(device: torch.device) -> dict[str, Any]:
    models = [line for line in _text(Path("/proc/cpuinfo")).splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "hgenv": hgenv.__version__, "torch": torch.__version__}
    for name in ("gymnasium", "numpy", "nevergrad", "trimesh", "hydra-core", "tensorboard"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit() -> str | None:
    """The commit of this code, with `-dirty` if it was changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="config")
def main(_: DictConfig) -> None:
    """Run from the command line."""
    keep_memory()
    overrides = list(HydraConfig.get().overrides.task)
    GlobalHydra.instance().clear()
    try:
        run(compose(overrides), " ".join(["python -m benchmarks.run", *sys.argv[1:]]))
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the same command resumes the run from its last checkpoint")


if __name__ == "__main__":
    main()
