"""What somebody did who wanted to break it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hgenv import RenderError
from hgenv.benchmarks import checkpoint, config, records
from hgenv.benchmarks.config import RunError, compose
from hgenv.benchmarks.defaults import SettingError
from hgenv.benchmarks.run import run
from hgenv.optimizers import Fixed

from .tools import quadratic

HERE = __name__


class Goes(Fixed):
    """Does something that an optimizer should not, besides its step."""

    def improve(self, env: Any) -> None:
        raise NotImplementedError


class Restores(Goes):
    def improve(self, env: Any) -> None:
        kept = env.state_dict()
        for _ in range(3):
            env.rollout(env.space.initial, keep=True).sample_gradient()
        env.load_state_dict(kept)


class Resets(Goes):
    def improve(self, env: Any) -> None:
        env.reset(seed=0)


class StepsTwice(Goes):
    def improve(self, env: Any) -> None:
        env.step(env.space.initial)


class Stays(Fixed):
    def update(self, env: Any) -> None:
        pass


class Numpy(Fixed):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"odd": np.float64(3.0)}


def settings(tmp_path: Path, name: str, updates: int = 3) -> Any:
    return quadratic(tmp_path, f"optimizer._target_={HERE}.{name}", updates=updates)


def test_what_was_spent_stays_spent() -> None:
    env = gymnasium.make("hgenv/Quadratic-v0").unwrapped
    env.reset(seed=0)
    before = env.state.weights["w"].clone()
    Restores(env.space, seed=0).update(env)
    assert env.ledger.counts["samples"] == 4 * env.problem.num_samples
    assert env.ledger.counts["gradient_steps"] == 3 * env.problem.unroll_steps
    assert env.update == 1
    assert not torch.equal(before, env.state.weights["w"])
    kept = env.state_dict()
    env.step(env.space.initial)
    env.load_state_dict(kept)  # whose environment it is may do so
    assert env.ledger.counts["samples"] == 4 * env.problem.num_samples


def test_an_optimizer_cannot_reset() -> None:
    env = gymnasium.make("hgenv/Quadratic-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="an optimizer may not reset"):
        Resets(env.space, seed=0).update(env)
    env.reset(seed=0)


@pytest.mark.parametrize(("name", "steps"), [("StepsTwice", 2), ("Stays", 0)])
def test_an_update_ends_in_exactly_one_step(tmp_path: Path, name: str, steps: int) -> None:
    with pytest.raises(RunError, match=f"update 1: the optimizer {name} made {steps} steps, but an update ends in"):
        run(settings(tmp_path, name))


def test_a_state_with_more_than_tensors_goes_on(tmp_path: Path) -> None:
    run(settings(tmp_path, "Numpy"))
    run(settings(tmp_path, "Numpy", updates=5))
    (folder,) = records.find(tmp_path)
    assert len(records.read(folder).rows) == 6


def test_where_a_run_was_made_before_it_went_on_is_kept(tmp_path: Path) -> None:
    run(quadratic(tmp_path, updates=2), "the first command")
    run(quadratic(tmp_path, updates=4), "the second command")
    (folder,) = records.find(tmp_path)
    done = records.read_done(folder)
    assert [(end["command"], end["rows"]) for end in done["earlier"]] == [("the first command", 3)]
    assert done["command"] == "the second command"


def test_slopes_that_fail_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gymnasium.make("hgenv/Quadratic-v0").unwrapped
    env.reset(seed=0)
    env.step(env.space.initial)
    gradient = env.last.sample_gradient()
    spent = env.ledger.counts["samples"]

    def fail(*_: Any) -> Any:
        raise RenderError("no such sample")

    monkeypatch.setattr(type(env.generator), "__call__", fail)
    with pytest.raises(RenderError):
        gradient.slopes(torch.full((1, len(gradient), env.space.dimension), 0.01))
    assert env.ledger.counts["samples"] == spent + 2 * len(gradient)


def test_what_a_log_looks_at_is_not_paid_for() -> None:
    env = gymnasium.make("hgenv/Quadratic-v0").unwrapped
    env.reset(seed=0)
    env.step(env.space.initial)
    with env.ledger.phase("log"):
        env.last.sample_gradient()
        env.last.influence()
    assert env.ledger.counts["gradient_steps"] == 0
    flops = env.ledger.counts["flops"]
    env.last.influence()
    assert env.ledger.counts["flops"] > flops
    env.last.sample_gradient()
    assert env.ledger.counts["gradient_steps"] == env.problem.unroll_steps


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("budget=5", "budget is one of the names in configs/budget, or budget.amount=<number>"),
        ("root=null", "root must be a folder"),
        ("~seed", "the setting 'seed' is missing"),
        ("env.unroll_steps=2.5", "env.unroll_steps must be a whole number, not 2.5"),
        ("optimizer.period=1.5", "optimizer.period must be a whole number, not 1.5"),
    ],
)
def test_ordinary_mistakes_are_answered_with_words(word: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        compose(["env=quadratic", word])


def test_a_folder_that_cannot_be_is_an_error_of_the_users() -> None:
    with pytest.raises(config.USER_ERRORS, match="Not a directory"):
        run(compose(["env=quadratic", "optimizer=fixed", "root=/dev/null/x"]))


@pytest.mark.parametrize(
    ("data", "label"),
    [
        (None, "mine"),
        (3, "mine-3"),
        ({"_target_": "my.photos"}, "mine-photos"),
        ("/some/photos", "mine-photos"),
        ("mine", "mine-mine"),
    ],
)
def test_data_of_any_kind_make_a_folders_name(data: Any, label: str) -> None:
    assert records.environment_label({"env": {"label": "mine", "data": data}}) == label


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopping_a_comparison_stops_its_runs_and_keeps_what_they_did(tmp_path: Path, number: int) -> None:
    words = ["env=quadratic", "optimizer=fixed", "seed=0", "budget={amount: 600, unit: wall_seconds}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hgenv", "compare", *words],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "runs" / "default" / "quadratic" / "fixed" / "seed=0"
    end = time.monotonic() + 120
    while not (folder / "rows.jsonl").is_file() or len((folder / "rows.jsonl").read_bytes().splitlines()) < 4:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert said == "interrupted; the same command goes on where it was\n"
    while (folder / "lease.json").exists():  # its run ends by itself, and gives this back
        assert time.monotonic() < end, "the run lives on"
        time.sleep(0.1)
    rows = (folder / "rows.jsonl").read_bytes()
    log = (folder / "log.txt").read_text()
    assert f"interrupted after update {json.loads(rows.splitlines()[-1])['update']} (checkpoint-" in log
    assert "error" not in log
    assert checkpoint.read(checkpoint.find(folder)[0])["rows"] == len(rows.splitlines())
    assert json.loads(rows.splitlines()[-1])["status"] == "OK"
