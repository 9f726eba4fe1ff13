"""One run: an environment, an optimizer, a seed, a budget.

    python -m benchmarks.run env=shapes optimizer=hybrid_gradient seed=0 budget.amount=120 budget.unit=total_seconds

The run's folder is its identity: `<root>/<study>/<environment>/<optimizer>/seed=<n>`. A finished run is skipped, a killed
one goes on from its checkpoint and ends with the same rows, clocks apart, as an unbroken one.

What counts against the budget is what happens inside `Optimizer.update`; everything here is off the clock.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import hydra
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import hgenv
import optimizers
from hgenv.accounting import COUNTS, RESOURCES, Budget, BudgetError
from hgenv.datasets.photos import DataError
from hgenv.decision import DecisionError
from hgenv.env import DataGenEnv
from hgenv.rendering.scene import RenderError

from . import records
from .board import Board
from .records import RecordError, Row, headline

# These say where and how often to write, not what.
NOT_IDENTITY = ("root", "checkpoint_seconds")
FAILURES = 3  # failed steps in a row that end a run
QUIET_SECONDS = 10  # between two lines where the output is no terminal


class RunError(RuntimeError):
    """A run that cannot be made as asked, or not go on. The message says why, and the cure."""


# What a user can cause: shown without a traceback.
USER_ERRORS = (
    RunError,
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
    """
    with hydra.initialize_config_module("configs", version_base="1.3"):
        return hydra.compose("config", list(overrides))


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
    kwargs = {key: value for key, value in config["optimizer"].items() if key not in ("name", "label")}
    name = config["optimizer"]["name"]
    if name not in optimizers.REGISTRY:
        raise RunError(f"unknown optimizer {name!r}; choose one of {', '.join(sorted(optimizers.REGISTRY))}")
    try:
        return optimizers.REGISTRY[name](env.space, seed=config["seed"], **kwargs)
    except (ValueError, TypeError) as error:
        raise RunError(f"the optimizer {name} cannot be made: {error}") from error


def run(config: DictConfig) -> Path:
    """Make the run of `config`, or what is missing of it.

    Returns:
        Its folder.

    Raises:
        RunError: It cannot be made so, was interrupted, or failed.
        RecordError: Its folder belongs to another configuration, is damaged or in use. Nothing in it has changed.
        BudgetError: The budget is none.
    """
    plain = settings(config)
    _check(plain)
    budget = Budget(**plain["budget"])
    folder = run_folder(config)
    with _owned(folder, plain):
        done = records.read_done(folder)
        if done is None:
            torch.set_num_threads(plain["threads"])
            done = _Run(folder, plain, budget, float(config.checkpoint_seconds)).go()
        else:
            print(f"{folder}: done already ({done['status']})", flush=True)
    if done["status"] == "failed":
        raise RunError(f"{folder}: {done['message']}")
    return folder


class _Run:
    """A run at work."""

    def __init__(self, folder: Path, config: dict[str, Any], budget: Budget, checkpoint_seconds: float) -> None:
        self.folder, self.config, self.budget = folder, config, budget
        self.checkpoint_seconds = checkpoint_seconds
        self.env = make_environment(config)
        self.optimizer = make_optimizer(config, self.env)
        self.rows: list[Row] = []

    def go(self) -> dict[str, Any]:
        """Set up or resume, update until the budget is spent, and say how it ended."""
        _, info = self.env.reset(seed=self.config["seed"])
        ledger = self.env.ledger
        with ledger.phase("log"):
            kept = self._load()
            self.env.warm_up()
            if kept is not None:
                self._resume(kept)
            with (
                Board(self.folder / records.BOARD, self.env, self.config["picture_updates"], len(self.rows)) as board,
                (self.folder / records.ROWS).open("ab") as self.file,
                _Display(self.folder, self.budget) as display,
                _stop_signals() as stop,
            ):
                self.board = board
                if not self.rows:
                    self._write(self._first_row(info["loss"]))
                    self._save()
                saved = time.monotonic()
                ended = self._ended()
                while ended is None:
                    with _on_clock(self.env):
                        self.optimizer.update(self.env)
                    self._write(self._row())
                    display.show(self.rows[-1])
                    ended = self._ended()
                    if stop.signals or ended is not None or time.monotonic() - saved >= self.checkpoint_seconds:
                        self._save()
                        saved = time.monotonic()
                    if stop.signals and ended is None:
                        raise RunError(
                            f"{self.folder}: interrupted after update {self.rows[-1]['update']}; the same command "
                            "resumes it"
                        )
                status, message = ended
                final = [row for row in self.rows if row["within_budget"]][-1]
                with ledger.phase("log"):
                    board.pictures(self.rows[-1]["update"], self.rows[-1]["beta"], self._seconds())
        done = {
            "status": status,
            "message": message,
            "rows": len(self.rows),
            "final": final,
            "phases": ledger.by_phase(),
            "hardware": _hardware(self.env),
            "versions": _versions(),
            "commit": _commit(),
        }
        records.write(self.folder / records.DONE, json.dumps(done, indent=1) + "\n")
        display.end(final, status)
        return done
