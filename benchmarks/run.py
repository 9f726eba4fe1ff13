"""One run: an environment, an optimizer, a seed, a budget.

    hgenv run env=shapes optimizer=hybrid_gradient seed=0 budget.amount=120 budget.unit=total_seconds

The run's folder is its identity: `<root>/<study>/<environment>/<optimizer>/seed=<n>`. A finished run is skipped. A
killed one goes on from its checkpoint and ends with the same rows, clocks apart, as an unbroken one. So does a finished
one that is asked for with a larger budget of the same unit. An interrupt (Ctrl-C, SIGTERM, SIGHUP) ends the update and
saves everything; a second one ends the run at once, and it goes on from its last checkpoint. The exit status is
then 128 and the signal's number, as a shell has it; 1 is a failure.

What counts against the budget is what happens inside `Optimizer.update`; everything here is off the clock.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import Tensor

from hgenv.accounting import COUNTS, RESOURCES, Ledger
from hgenv.memory import keep_memory
from hgenv.optimizers.evolution import EvolutionError
from hgenv.problem import RenderError, Status
from hgenv.saved import AnyOf, Each, copy_like

from . import checkpoint, config, files, lease, parent, pictures, provenance, records
from .board import Board
from .config import USER_ERRORS, Interrupted, RunError, Settings, make_environment, make_optimizer
from .display import Display
from .lease import Lease, TakenError
from .records import CONFIG, DONE, ROWS, RecordError, Row

COLLECTED = 500  # updates between two looks for what is in nobody's hands
FAILURES = 3  # failed steps in a row that end a run
ROUNDED = 1e-5  # what a row may have more than the ledger that it is of: it has six digits after the point
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

logger = logging.getLogger(__name__)


def run(settings: Settings, command: str | None = None) -> Path:
    """Make the run of `settings`, or what is missing of it.

    Args:
        settings: As `config.compose` gives them.
        command: What was typed, for the record.

    Returns:
        Its folder.

    Raises:
        RunError: It cannot be made so, or failed; or the system refuses what the run needs. Then what is written stays,
            and the same command goes on.
        Interrupted: It was stopped from outside, and has saved everything.
        RecordError: Its folder belongs to another configuration, is damaged or in use (TakenError). Nothing in it has
            changed.
    """
    folder = settings.folder
    begun = False
    try:
        done = config.ended(folder, settings.identity)
        if done is None:
            torch.set_num_threads(settings.where["threads"])
            if torch.cuda.is_available() and settings.where["device"] != "cpu":
                _make_gpu_repeatable()
            if (busy := lease.taken(folder)) is not None:
                raise busy  # before the time for data is spent
            print(f"{folder}: makes the environment and its data", flush=True)
            # Whatever cannot be made fails here, before anything is written.
            job = _Run(settings, command)
            folder.mkdir(parents=True, exist_ok=True)
            with lease.owned(folder) as mine:
                done = config.ended(folder, settings.identity)  # by another process, in the meantime
                if done is None:
                    begun = True
                    done = job.go(mine)
        else:
            print(f"{folder}: nothing to do, it is {done['status']}", flush=True)
    except OSError as error:
        kept = ". What was written is kept, and the same command goes on with it" if begun else ""
        raise RunError(f"{folder}: {files.said(error)}{kept}") from error
    if done["status"] == "failed":
        raise RunError(f"{folder}: {done['message']}")
    return folder


@dataclass
class _Progress:
    """What a run needs to know of its rows: not all of them, which would fill the memory.

    Attributes:
        count: How many there are.
        first: Row 0.
        last: The last one.
        final: The last one within the budget.
        failed: How many failed one after the other, up to the last.
    """

    count: int = 0
    first: Row | None = None
    last: Row | None = None
    final: Row | None = None
    failed: int = 0

    def add(self, row: Row) -> None:
        """Another row."""
        self.count += 1
        self.first = self.first or row
        self.last = row
        self.failed = 0 if row["status"] == "OK" else self.failed + 1
        if row["within_budget"]:
            self.final = row


class _Run:
    """A run at work in its folder."""

    def __init__(self, settings: Settings, command: str | None) -> None:
        self.settings, self.command = settings, command
        self.folder, self.budget = settings.folder, settings.budget
        self.env = make_environment(settings.record)
        self.optimizer = make_optimizer(settings.record, self.env.space)
        self.progress = _Progress()
        platform = provenance.numerics(self.env.device)
        self.platform = provenance.fingerprint(platform)
        self.platforms = {self.platform: platform}

    def go(self, mine: Lease) -> dict[str, Any]:
        """Begin or resume, update until the run ends, and say how it ended."""
        self.lease = mine
        with ExitStack() as stack:
            stop = stack.enter_context(_stop_signals())
            stack.callback(self.env.close)
            kept = self._kept()
            print(f"{self.folder}: warms up, off the clock", flush=True)
            _, info = self.env.reset(seed=self.settings.identity["seed"])
            self.env.warm_up()
            with self.env.ledger.phase("log"):
                if kept is not None:
                    self._resume(kept)
                self._claim()
                if kept is not None:
                    files.write(self._rows, (records.line(row).encode() for row in self._rows_until(kept["rows"])))
                    print(f"{self.folder}: resumes after {self._saved}", flush=True)
                else:
                    self._rows.unlink(missing_ok=True)  # killed while it wrote its first row or checkpoint
                self.file = stack.enter_context(files.appended(self._rows))
                self.size = self._rows.stat().st_size
                period = self.settings.where["picture_updates"]
                self.board = Board(self.folder, self.env, period, self.progress.count)
                stack.callback(self.board.close)
                metric = asdict(self.env.task.metrics[0])
                begun = self.budget.spent(self._last["spent"]) if kept is not None else 0.0
                display = stack.enter_context(Display(self.folder, self.budget, metric, begun))
            if kept is None:
                self._write({"update": 0} | self._opening(info["loss"]) | self._row())
                self._save()
            saved, stopped = time.monotonic(), bool(stop)
            while (ended := self._ended()) is None:
                if stopped:  # since before it was saved last
                    words = f"{self.folder}: interrupted after {self._saved}; the same command goes on from there"
                    raise Interrupted(words, stop[0])
                self._update()
                self._write(self._row())
                if self.progress.count % COLLECTED == 0:
                    gc.collect()  # nevergrad's candidates are cycles, and Python comes to them late
                display.show(self._last)
                stopped = bool(stop)
                if stopped or time.monotonic() - saved >= self.settings.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            with self.env.ledger.phase("log"):
                self.board.last_pictures(self._last)
                self._pictures()
            self._save()
            done = self._done(*ended)
            files.write(self.folder / DONE, json.dumps(done, indent=1) + "\n")
            display.end(done)
        return done

    def _kept(self) -> dict[str, Any] | None:
        """What the newest checkpoint that is whole holds; None if the run is to begin."""
        written = sum(1 for _ in records.lines_of(self._rows, ended=False)) if self._rows.is_file() else 0

        def fits(kept: dict[str, Any], rows: int) -> None:
            where = self.folder / f"checkpoint-{rows}.ckpt"
            cure = "restore the file, or delete the run's folder"
            if (wrong := _fault(kept, rows)) is not None:
                raise RecordError(f"{where}: is no checkpoint of a run ({wrong})", cure)
            mine, theirs = self.settings.identity, kept["run"]
            apart = config.differences({**theirs, "budget": mine["budget"]}, mine)
            if apart:
                raise RecordError(f"{where}: belongs to another run ({'; '.join(apart)})", "put the right file there")
            if written < rows:
                raise RecordError(
                    f"{self._rows}: holds {records.plural(written, 'row')}, but {where.name} was made after {rows}",
                    cure,
                )
            if (wrong := _contradiction(kept["env"], self._row_at(rows - 1))) is not None:
                raise RecordError(f"{where}: damaged, it contradicts {ROWS} ({wrong})", cure)

        kept = checkpoint.load(self.folder, self.env.device, fits)
        if kept is None and written > 1:
            raise RecordError(f"{self._rows}: there are rows, but no checkpoint to go on from; delete the run's folder")
        return kept

    def _resume(self, kept: dict[str, Any]) -> None:
        """Put everything to where it stood at a checkpoint; in the folder nothing changes yet.

        Rows that came after it are void. Those up to it count as far as this budget goes, which may be a larger one
        than that under which they were written.

        Raises:
            RecordError: The rows are damaged, or a state does not fit.
        """
        for row in self._rows_until(kept["rows"]):
            self.progress.add(row)
        assert self.progress.first is not None
        self._check_data(self.progress.first)
        try:
            self.env.load_state_dict(kept["env"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.platforms = kept["platforms"] | self.platforms
        except Exception as error:  # optimizers come from many hands
            raise RecordError(
                f"{self.folder}/checkpoint-{kept['rows']}.ckpt: its state does not fit this run "
                f"({type(error).__name__}: {error}); restore the file, or delete the run's folder"
            ) from error
        self.env.ledger.note("resumed")
        self._compare_platform(self._last.get("platform"))

    def _rows_until(self, count: int) -> Iterator[Row]:
        """The first `count` rows, as far as this budget goes."""
        for row in records.parse_rows(itertools.islice(records.lines_of(self._rows, ended=False), count), self._rows):
            row["within_budget"] = records.within(row, self.budget)
            yield row

    def _row_at(self, number: int) -> Any:
        """What is in a line of the rows, unchecked; None where that is no JSON."""
        lines = records.lines_of(self._rows, ended=False)
        with suppress(ValueError, RecursionError):
            return json.loads(next(itertools.islice(lines, number, None)))
        return None

    def _check_data(self, opening: Row) -> None:
        """Make sure that the photos are those that the run began with.

        Raises:
            RecordError: They are others.
        """
        for name, now in self._fingerprints().items():
            before = opening.get("fingerprints", {}).get(name, now)
            if before != now:
                raise RecordError(
                    f"{self.folder}: the {name} data {opening['data'][name]!r} are not those that this run began with: "
                    f"their fingerprint was {before}, and is {now}. Point HGENV_DATA, or env.data, to the old ones, or "
                    "use another study (study=<name>)"
                )

    def _compare_platform(self, before: str | None) -> None:
        if before in (None, self.platform):
            return
        then, now = self.platforms.get(str(before), {}), self.platforms[self.platform]
        apart = [f"{key} was {then.get(key)}, is {now[key]}" for key in now if then.get(key) != now[key]]
        logger.warning(
            "%s: goes on on another platform (%s); from here on the rows may differ in their last bits from those that "
            "the first would have given", self.folder, "; ".join(apart),
        )  # fmt: skip
        self.env.ledger.note("resumed on another platform")

    def _fingerprints(self) -> dict[str, str]:
        env = self.env
        return {
            name: provenance.fingerprint_of_data(data)
            for name, data in (("validation", env.validation), ("test", env.test))
        }

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
    def _rows(self) -> Path:
        return self.folder / ROWS

    @property
    def _last(self) -> Row:
        assert self.progress.last is not None
        return self.progress.last

    @property
    def _saved(self) -> str:
        """What the last checkpoint stands for, in words; called where it stands for all rows."""
        count = self.progress.count
        rows = records.plural(count, "row")
        return f"update {self._last['update']} (checkpoint-{count}.ckpt: {rows}, update 0 is the first)"

    def _update(self) -> None:
        before = self.env.update
        try:
            with self.env.ledger.phase("optimizer"):  # whatever an optimizer from elsewhere does
                self.optimizer.update(self.env)
        except (RenderError, EvolutionError) as error:
            raise RunError(
                f"{self.folder}, update {self.progress.count}: {error}; what was done until the last checkpoint is kept"
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
            row["platform"] = self.platform
        row["validation"] = self._metrics("validation", env.validation_metrics())
        row["test"] = self._metrics("test", env.test_metrics())
        return row

    def _metrics(self, data: str, found: dict[str, float]) -> dict[str, float | None]:
        """Metrics as rows hold them: six digits, and null for what is no number."""
        kept: dict[str, float | None] = {}
        for name, value in found.items():
            kept[name] = float(f"{value:.6g}") if math.isfinite(value) else None
            if kept[name] is None:
                what = f"{data} {name} not finite"
                if what not in self.env.ledger.incidents:
                    logger.warning(
                        "%s, update %d: the %s metric %r is %s; the row has no figure for it, and the run goes on",
                        self.folder, self.env.update, data, name, value,
                    )  # fmt: skip
                self.env.ledger.note(what)
        return kept

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
            "training_step_flops": env.learner.flops("train", env.problem.batch_size),
            "fingerprints": self._fingerprints(),
        }

    def _write(self, row: Row) -> None:
        with self.env.ledger.phase("log"):
            self.lease.check()
            text = records.line(row).encode()
            self.file.append(text)
            self.size += len(text)
            self.progress.add(row)
            self.board.row(row)

    def _save(self) -> None:
        with self.env.ledger.phase("checkpoint"):
            self.lease.check()
            self.board.flush()
            if self.file.settle():
                logger.warning("%s was deleted while the run was at work, and is written again", self._rows)
                self.env.ledger.note("rows written again")
            if (there := self._rows.stat().st_size) != self.size:
                raise RunError(
                    f"{self._rows}: was changed while the run was at work, it is {there} bytes long instead of "
                    f"{self.size}; restore the file, or delete the run's folder"
                )
            if not (self.folder / CONFIG).is_file():
                self._claim()
            kept = {
                "run": self.settings.identity,
                "rows": self.progress.count,
                "env": self.env.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "platforms": self.platforms,
            }
            checkpoint.save(self.folder, kept, self.progress.count)

    def _ended(self) -> tuple[str, str] | None:
        """Status and message if the run is at its end."""
        last = self._last
        if self.progress.failed >= FAILURES:
            return "failed", (
                f"the last {FAILURES} steps failed, the run ends at update {last['update']}: {last['status']}: "
                f"{last['message'] or Status[last['status']].value}"
            )
        share = self.budget.spent(last["spent"]) / self.budget.amount
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
            "rows": self.progress.count,
            "final": self.progress.final,
            "phases": self.env.ledger.by_phase(),
            "where": self.settings.where,  # config.yaml has where it began
            "hardware": provenance.hardware(self.env.device),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "command": self.command,
            "earlier": records.earlier_endings(self.folder),
            "platforms": self.platforms,
            "incidents": self.env.ledger.incidents,
        }


def _fault(kept: dict[str, Any], rows: int) -> str | None:
    """What keeps a checkpoint from being one of a run, after so many rows; None if nothing does.

    States are not looked at: environments and optimizers know their own.
    """
    if missing := {"run", "rows", "env", "optimizer", "platforms"} - kept.keys():
        return f"there is no {', '.join(sorted(missing))}"
    if type(kept["rows"]) is not int or kept["rows"] != rows or rows < 1:
        return f"it does not stand for {records.plural(rows, 'row')}"
    try:
        records.check_plain(kept["run"])
        copy_like(kept["run"], Each(lambda part: part), "run")
        copy_like(kept["platforms"], Each(Each(AnyOf((None, 0, "")))), "platforms")
    except (ValueError, RecursionError) as error:  # a key may be anything
        return str(error)
    return None


def _contradiction(env: Any, last: Any) -> str | None:
    """What the state of an environment and the last row say differently; None if there is no such thing.

    A row that is none, and states of other forms, are found elsewhere.
    """
    ledger = Ledger()
    with suppress(LookupError, TypeError, RuntimeError):
        if env["update"] != last["update"]:
            return f"it is of update {env['update']}, the last row of {last['update']}"
        try:
            ledger.load_state_dict(env["ledger"])
        except ValueError as error:
            return str(error)
        for unit in RESOURCES + COUNTS:
            if ledger.spent(unit) < last["spent"].get(unit, 0) - ROUNDED:
                return f"it has spent {ledger.spent(unit):g} {unit}, the last row {last['spent'][unit]:g}"
    return None


def _numbers(vector: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in vector.tolist()]


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The interrupts that have come, so that a run can stop after an update. A second one stops it on the spot."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt(number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in STOPS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_gpu_repeatable() -> None:
    """Have CUDA take those algorithms that give the same bits each time, and warn where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new tensors costs a kernel each. Type checkers do not see the object in that module's place.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@hydra.main(version_base="1.3", config_path="pkg://hgenv.configs", config_name="config")
def _main(composed: DictConfig) -> None:
    keep_memory()
    gc.collect()
    gc.freeze()  # what is imported by now stays: later collections look at what came since, and are cheap
    try:
        run(config.settings(composed), _command())
    except KeyboardInterrupt as error:
        _end(Interrupted("interrupted at once; the same command resumes the run from its last checkpoint", *error.args))
    except Interrupted as error:
        _end(error)
    except USER_ERRORS as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            # The other runs of a sweep go on; Hydra tells at the end.
            raise CompactHydraException(f"error: {error}") from None
        taken = isinstance(error, TakenError)
        if not (taken and parent.is_child()):  # which would write into the log of who has the run
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(lease.TAKEN if taken else 1)


def _end(interrupted: Interrupted) -> NoReturn:
    print(interrupted, file=sys.stderr, flush=True)
    sys.exit(interrupted.status)


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
    parent.end_with_it()
    try:
        for word, following in itertools.pairwise([*sys.argv[1:], ""]):
            option, _, folder = word.partition("=")
            if option in ("--config-dir", "-cd"):
                config.check_files(Path(folder or following))
        sys.argv[1:] = [word if word.startswith("-") else config.override(word) for word in sys.argv[1:]]
    except config.SettingError as error:
        sys.exit(f"error: {error}")
    _main()


if __name__ == "__main__":
    main()
