"""Same seed, same platform: same bits, whatever surrounds a process; and nobody touches a global random state."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv, Network
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.optimizers import REGISTRY
from hgenv.testing.tools import global_randomness_unchanged

from .digest import digest
from .optimizers.tools import quadratic


def begin(name: str, *threads: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.digest", name, *threads]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables)


def told(process: subprocess.Popen[str]) -> dict[str, str]:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    return found


def test_bits_depend_on_nothing_but_the_seed(tmp_path: Path) -> None:
    """Other hash seeds and numbers of threads, a cold numba cache, several processes at once."""
    processes = [
        begin("Shapes", "2", PYTHONHASHSEED="1", OMP_NUM_THREADS="3"),
        begin("Quadratic", PYTHONHASHSEED="2", OMP_NUM_THREADS="2", NUMBA_CACHE_DIR=str(tmp_path)),
    ]
    shapes, quadratic = digest("Shapes"), digest("Quadratic")
    assert [told(process) for process in processes] == [shapes, quadratic]
    assert list(tmp_path.rglob("*.nbc")), "it was cold, and is not any more"
    assert len({*shapes.values(), *quadratic.values()}) == 2 * len(shapes) - 1, "and each part says something"


def test_one_thread_is_one_thread_whatever_torch_has() -> None:
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(2)
    try:
        for threads in (1, None):
            env = quadratic()
            assert env.problem.threads == 1
            env.problem = replace(env.problem, threads=threads, learner=Watched(seen))
            env.reset(seed=0)
            env.step(env.space.initial)
            assert env.last is not None
            env.last.sample_gradient()
            env.last.influence()
            env.probe(env.space.initial[None])
            env.test_metrics()
            assert torch.get_num_threads() == 2
            assert set(seen) == {threads or 2}
            seen.clear()
    finally:
        torch.set_num_threads(before)


class Watched(QuadraticLearner):
    """Notes how many threads torch has."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def output(self, weights: dict[str, Tensor], samples: object) -> Tensor:
        self.seen.append(torch.get_num_threads())
        return super().output(weights, samples)


def small() -> DataGenEnv:
    sizes = {"network": Network(size=16), "unroll_steps": 2, "batch_size": 4, "device": "cpu"}
    return gymnasium.make("hgenv/ShapeNormalsLit-v0", disable_env_checker=True, **sizes).unwrapped


@pytest.mark.parametrize("name", ["Quadratic", "ShapeNormalsLit"])
def test_an_environment_leaves_global_random_states_alone(name: str) -> None:
    with global_randomness_unchanged("an environment"):
        env = small() if name != "Quadratic" else quadratic()
        for seed in (None, 1):
            env.reset(seed=seed)
        env.warm_up()
        env.step(env.space.initial)
        env.probe(env.space.initial.expand(2, -1))
        assert env.last is not None
        env.last.sample_gradient()
        env.last.influence()
        env.test_metrics()
        env.load_state_dict(env.state_dict())


@pytest.mark.parametrize("name", REGISTRY)
def test_an_optimizer_leaves_global_random_states_alone(name: str) -> None:
    env = quadratic()
    with global_randomness_unchanged(name):
        optimizer = REGISTRY[name](env.space, seed=0)
        for _ in range(5):
            optimizer.update(env)
        optimizer.load_state_dict(optimizer.state_dict())
