"""One run: an environment, an optimizer, a seed, a budget.

    hgenv run env=shapes optimizer=hybrid_gradient seed=0 budget.amount=120 budget.unit=total_seconds

The run's folder is its identity: `<root>/<study>/<environment>/<optimizer>/seed=<n>`. A finished run is skipped. A
killed one goes on from its checkpoint and ends with the same rows, clocks apart, as an unbroken one. So does a finished
one that is asked for with a larger budget of the same unit.

What counts against the budget is what happens inside `Optimizer.update`; everything here is off the clock.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import Tensor

from hgenv.accounting import COUNTS, RESOURCES
from hgenv.memory import keep_memory
from hgenv.optimizers.evolution import EvolutionError
from hgenv.problem import RenderError, Status

from . import checkpoint, config, pictures, provenance, records
from .board import Board
from .config import USER_ERRORS, RunError, Settings, make_environment, make_optimizer
from .display import Display
from .records import CONFIG, DONE, ROWS, Row

FAILURES = 3  # failed steps in a row that end a run


class Interrupted(RunError):
    """A run that was stopped from outside."""


def run(settings: Settings, command: str | None = None) -> Path:
    """Make the run of `settings`, or what is missing of it.

    Args:
        settings: As `config.compose` gives them.
        command: What was typed, for the record.

    Returns:
        Its folder.

    Raises:
        RunError: It cannot be made so, was interrupted, or failed.
        RecordError: Its folder belongs to another configuration, is damaged or in use. Nothing in it has changed.
    """
    folder = settings.folder
    done = config.ended(folder, settings.identity)
    if done is None:
        torch.set_num_threads(settings.where["threads"])
        if torch.cuda.is_available() and settings.where["device"] != "cpu":
            _make_gpu_repeatable()
        print(f"{folder}: makes the environment and its data", flush=True)
        # Whatever cannot be made fails here, before anything is written.
        job = _Run(settings, command)
        folder.mkdir(parents=True, exist_ok=True)
        with records.owned(folder):
            done = config.ended(folder, settings.identity)  # by another process, in the meantime
            if done is None:
                done = job.go()
    else:
        print(f"{folder}: nothing to do, it is {done['status']}", flush=True)
    if done["status"] == "failed":
        raise RunError(f"{folder}: {done['message']}")
    return folder


class _Run:
    """A run at work in its folder."""

    def __init__(self, settings: Settings, command: str | None) -> None:
        self.settings, self.command = settings, command
        self.folder, self.budget = settings.folder, settings.budget
        self.env = make_environment(settings.record)
        self.optimizer = make_optimizer(settings.record, self.env.space)
        self.rows: list[Row] = []

    def go(self) -> dict[str, Any]:
        """Begin or resume, update until the run ends, and say how it ended."""
        with ExitStack() as stack:
            stop = stack.enter_context(_stop_signals())
            stack.callback(self.env.close)
            kept = checkpoint.load(self.folder, self.env.device)
            self._claim()
            print(f"{self.folder}: warms up, off the clock", flush=True)
            _, info = self.env.reset(seed=self.settings.identity["seed"])
            self.env.warm_up()
            with self.env.ledger.phase("log"):
                if kept is not None:
                    state, self.rows = kept
                    checkpoint.resume(self.folder, state, self.rows, self.budget, self.env, self.optimizer)
                    print(f"{self.folder}: resumes after update {self._last}", flush=True)
                self.file = stack.enter_context((self.folder / ROWS).open("ab"))
                period = self.settings.where["picture_updates"]
                self.board = Board(self.folder, self.env, period, len(self.rows))
                stack.callback(self.board.close)
                metric = asdict(self.env.task.metrics[0])
                begun = self.rows[-1]["spent"][self.budget.unit] if self.rows else 0.0
                display = stack.enter_context(Display(self.folder, self.budget, metric, begun))
            if kept is None:
                self._write({"update": 0} | self._opening(info["loss"]) | self._row())
                self._save()
            saved = time.monotonic()
            while (ended := self._ended()) is None:
                if stop:
                    raise Interrupted(
                        f"{self.folder}: interrupted; the same command resumes it after update {self._last}"
                    )
                self._update()
                self._write(self._row())
                display.show(self.rows[-1])
                if stop or time.monotonic() - saved >= self.settings.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            with self.env.ledger.phase("log"):
                self.board.last_pictures(self.rows[-1])
                self._pictures()
            self._save()
            done = self._done(*ended)
            records.write(self.folder / DONE, json.dumps(done, indent=1) + "\n")
            display.end(done)
        return done

    def _claim(self) -> None:
        """Have the folder say what the run is to be."""
        identity = self.settings.identity
        if not (self.folder / CONFIG).is_file():
            records.write_config(self.folder, self.settings.record)
            return
        recorded = records.read_config(self.folder)
        if recorded["budget"] != identity["budget"]:
            # In this order: beside the larger budget, the end under the smaller one would pass for its end.
            records.keep_ending(self.folder)
            (self.folder / DONE).unlink(missing_ok=True)
            records.write_config(self.folder, recorded | {"budget": identity["budget"]})

    @property
    def _last(self) -> int:
        return int(self.rows[-1]["update"])

    def _update(self) -> None:
        before = self.env.update
        try:
            with self.env.ledger.phase("optimizer"):  # whatever an optimizer from elsewhere does
                self.optimizer.update(self.env)
        except (RenderError, EvolutionError) as error:
            raise RunError(
                f"{self.folder}, update {self._last + 1}: {error}; what was done until the last checkpoint is kept"
            ) from error
        if self.env.update != before + 1:
            raise RunError(
                f"{self.folder}, update {before + 1}: the optimizer {type(self.optimizer).__name__} made "
                f"{self.env.update - before} steps, but an update ends in exactly one; see hgenv.testing"
            )

    def _row(self) -> Row:
        env, outcome = self.env, self.env.outcome
        with env.ledger.phase("log"):
            row: Row = {"update": env.update}
            if outcome is not None:
                row |= {"status": outcome.status.name, "message": outcome.message, "loss": outcome.loss}
                row["beta"] = _numbers(outcome.beta)
            row["recommendation"] = _numbers(self.optimizer.recommendation)
            row["spent"] = {unit: round(env.ledger.spent(unit), 6) for unit in RESOURCES + COUNTS}
            row["within_budget"] = records.within(row, self.budget)
        row["validation"] = self._metrics("validation", env.validation_metrics())
        row["test"] = self._metrics("test", env.test_metrics())
        return row

    def _metrics(self, data: str, found: dict[str, float]) -> dict[str, float]:
        for name, value in found.items():
            if not math.isfinite(value):
                raise RunError(
                    f"{self.folder}, update {self.env.update}: the {data} metric {name!r} is {value}; the score of "
                    f"{type(self.env.task).__name__} must be finite, also where the network says nothing sensible"
                )
        return {name: float(f"{value:.6g}") for name, value in found.items()}

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
            "metrics": [asdict(metric) for metric in env.task.metrics],
            "device": str(env.device),
        }

    def _write(self, row: Row) -> None:
        with self.env.ledger.phase("log"):
            self.file.write(records.line(row).encode())
            self.file.flush()
            self.rows.append(row)
            self.board.row(row)

    def _save(self) -> None:
        with self.env.ledger.phase("checkpoint"):
            self.board.flush()
            checkpoint.save(self.folder, self.env, self.optimizer, len(self.rows), self.file)

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
                "raise env.max_updates, in another study (study=<name>)"
            )
        return None

    def _pictures(self) -> None:
        """What the task draws of the validation data, and of what the last weights make of it."""
        for name, draw in ((records.VALIDATION, pictures.validation_images), (records.ERRORS, pictures.error_maps)):
            picture = draw(self.env)
            if picture is not None:
                pictures.save(picture, self.folder / name)

    def _done(self, status: str, message: str) -> dict[str, Any]:
        return {
            "status": status,
            "message": message,
            "rows": len(self.rows),
            "final": [row for row in self.rows if row["within_budget"]][-1],
            "phases": self.env.ledger.by_phase(),
            "where": self.settings.where,  # config.yaml has where it began
            "hardware": provenance.hardware(self.env.device),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "command": self.command,
            "earlier": records.earlier_endings(self.folder),
        }


def _numbers(vector: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in vector.tolist()]


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


@hydra.main(version_base="1.3", config_path="pkg://hgenv.configs", config_name="config")
def _main(composed: DictConfig) -> None:
    keep_memory()
    try:
        run(config.settings(composed), _command())
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the same command resumes the run from its last checkpoint")
    except Interrupted as error:
        sys.exit(f"error: {error}")
    except USER_ERRORS as error:
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            sys.exit(f"error: {error}")
        # The other runs of a sweep go on; Hydra tells at the end.
        raise CompactHydraException(f"error: {error}") from None


def _command() -> str:
    """What makes this one run, also where it is one of a sweep."""
    asked = HydraConfig.get()
    folders = [source.path for source in asked.runtime.config_sources if source.provider == "command-line"]
    words = [word for folder in folders for word in ("--config-dir", folder)]
    words += [word for word in asked.overrides.hydra if word.startswith("hydra.searchpath=")]
    words += [word.removeprefix("++") for word in asked.overrides.task]
    return shlex.join(["hgenv", "run", *words])


def main() -> None:
    """Run from the command line."""
    try:
        sys.argv[1:] = [word if word.startswith("-") else config.override(word) for word in sys.argv[1:]]
    except config.SettingError as error:
        sys.exit(f"error: {error}")
    _main()


if __name__ == "__main__":
    main()
