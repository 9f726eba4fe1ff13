"""Whatever modes of torch surround a call, the environment and the optimizers give the same bits."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import gymnasium
import pytest
import torch

from hgenv import DataGenEnv, Network, Samples
from hgenv.optimizers import REGISTRY

from .optimizers.tools import ALIKE

SMALL = {"network": Network(size=16), "unroll_steps": 1, "batch_size": 4, "device": "cpu"}
Mode = Callable[[], AbstractContextManager[Any]]


@contextmanager
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def everything() -> Iterator[None]:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), float64(), torch.device("meta"):
        yield


MODES: dict[str, Mode] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": float64,
    "another device": lambda: torch.device("meta"),
    "everything": everything,
}


@cache
def make(name: str) -> DataGenEnv:
    options = SMALL if name.startswith("Shape") else {}
    return gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, **options).unwrapped


def bits(samples: Samples) -> list[Any]:
    return [x.tolist() for x in samples.tensors]


def all_that_can_be_asked(name: str, mode: Mode) -> list[Any]:
    env = make(name)
    d, n = env.space.dimension, env.problem.num_samples
    directions = torch.linspace(0.01, 0.1, n * d, dtype=torch.float64).reshape(1, n, d)
    with mode():
        told = [env.reset(seed=1), env.reset(seed=1)[1]]
        env.warm_up()
        beta = env.space.initial.clone().to("cpu")
        seeds = env.sample_seeds(n)
        told += [env.step(beta) for _ in range(2)]
        told += [o.loss for o in env.probe(torch.stack([beta, beta]))]
        rolled = env.rollout(beta.expand(n, -1), seeds=seeds)
        assert env.last is not None
        for rollout in (rolled, env.last):
            told += [rollout.outcome.loss, bits(rollout.sample_gradient(last_steps=1, curvature=False).samples)]
            told += [rollout.influence(), rollout.influence(curvature=True)]
            gradient = rollout.sample_gradient()
            slopes = gradient.slopes(directions)
            told += [bits(gradient.samples), slopes.value, slopes.displacement, gradient.pathwise()]
        told += [env.test_metrics(), env.validation_metrics()]
        env.load_state_dict(env.state_dict())
        told += [env.step(beta), dict(env.ledger.counts)]
    told += [env.step(beta)]  # what was made inside can be used outside
    return [x.tolist() if isinstance(x, torch.Tensor) else repr(x) for x in told]


@pytest.mark.parametrize("name", ["Quadratic", "ShapeNormalsLit"])
def test_an_environment_sets_the_modes_that_it_needs(name: str) -> None:
    expected = all_that_can_be_asked(name, nullcontext)
    for mode in MODES if name == "Quadratic" else ("no_grad", "everything"):
        assert all_that_can_be_asked(name, MODES[mode]) == expected, mode


def updates(name: str, optimizer: str, mode: Mode) -> list[Any]:
    env, options = make(name), {} if optimizer == "fixed" else {"period": 1}
    with mode():
        env.reset(seed=1)
        made = REGISTRY[optimizer](env.space, seed=0, **options)
        for _ in range(2 if optimizer.startswith(("hybrid", "credit")) else 1):  # these look back
            made.update(env)
        made.load_state_dict(made.state_dict())
    if name == "Quadratic":
        made.update(env)
    assert env.outcome is not None
    return [made.recommendation.tolist(), env.outcome.loss, dict(env.ledger.counts)]


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("Quadratic", o) for o in REGISTRY] + [("ShapeNormalsLit", o) for o in REGISTRY if o not in ALIKE],
)
def test_so_does_every_optimizer(name: str, optimizer: str) -> None:
    expected = updates(name, optimizer, nullcontext)
    strictest = ["inference_mode", "no_grad"] if optimizer.endswith("gradient") else ["inference_mode"]
    for mode in MODES if name == "Quadratic" else strictest:
        assert updates(name, optimizer, MODES[mode]) == expected, mode


def test_modes_are_put_back() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    with everything():
        env.step([0.0, 0.0, 0.0, 0.5])
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
