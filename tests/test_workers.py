"""Probes in processes of their own: the same bits, the same price, and errors that say what to do."""

import os
import signal
from typing import Any

import gymnasium
import pytest
import torch

import hgenv
from hgenv import DataGenEnv
from hgenv.workers import WorkerError


def make(name: str, **kwargs: Any) -> DataGenEnv:
    env = gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, **kwargs).unwrapped
    env.reset(seed=4)
    env.step(env.space.project(env.space.initial))
    return env


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_same_bits_and_counts_with_any_number() -> None:
    found = []
    for workers in (0, 1, 2):
        env = make("ShapeNormalsLit", device="cpu", size=32, batch_size=4, workers=workers)
        draw = torch.rand(5, env.space.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        betas = env.space.project(env.space.unscale(draw))
        first = [(o.loss, o.status) for o in env.probe(betas)]
        env.step(betas[0])  # the workers see the new weights
        second = [(o.loss, o.status) for o in env.probe(betas)]
        assert first != second
        cpu = env.ledger.spent("cpu_seconds")
        env.probe(betas)
        phases = env.ledger.by_phase()
        assert env.ledger.spent("cpu_seconds") - cpu > 0
        assert phases["train"]["cpu_seconds"] > phases["validate"]["cpu_seconds"] > 0
        found.append((first, second, env.ledger.counts))
        env.close()
    assert found[0] == found[1] == found[2]


def test_a_warm_up_in_workers_is_free() -> None:
    env = gymnasium.make("hgenv/ShapeNormals-v0", device="cpu", size=32, batch_size=4, workers=1).unwrapped
    env.reset(seed=0)
    before = env.ledger.spent("cpu_seconds")
    env.warm_up()
    phases = env.ledger.by_phase()
    assert env.ledger.spent("cpu_seconds") - before < 0.1 * phases["warm_up"]["cpu_seconds"]
    assert not any(env.ledger.counts.values())
    env.close()


def test_what_cannot_be_sent_is_an_error_that_says_so() -> None:
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped
    env.workers = 1
    env.reset(seed=0)
    env.generator.extra = lambda x: x
    with pytest.raises(WorkerError, match="pickle"):
        env.probe(env.space.initial[None])


def test_a_worker_that_dies_is_an_error_that_says_so() -> None:
    env = make("ShapeNormals", device="cpu", size=32, batch_size=4, workers=1)
    betas = env.space.project(env.space.initial)[None]
    env.probe(betas)
    assert env._workers is not None
    (process,) = env._workers._pool._processes
    os.kill(process, signal.SIGKILL)
    with pytest.raises(WorkerError, match="died"):
        env.probe(betas)
    env.close()
    assert env.probe(betas)[0].ok  # others take their place
    env.close()


def test_a_number_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="workers must be 0, or any number on a CPU, not -1"):
        hgenv.environments.shape_normals.ShapeNormalsEnv(device="cpu", workers=-1)
