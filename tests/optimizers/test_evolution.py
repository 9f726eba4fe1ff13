"""nevergrad, driven as the environment needs it."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import hgenv  # noqa: F401 - registers the environments
from hgenv.decision import DecisionSpace, block
from hgenv.env import DataGenEnv, Outcome, Status
from optimizers import Evolution


def quadratic() -> DataGenEnv:
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped
    env.reset(seed=3)
    return env


def probes(env: DataGenEnv) -> list[tuple[Tensor, list[Outcome]]]:
    """A list that fills with what is probed and what came of it."""
    seen: list[tuple[Tensor, list[Outcome]]] = []
    probe = env.probe

    def recording(betas: Tensor) -> list[Outcome]:
        seen.append((betas, probe(betas)))
        return seen[-1][1]

    env.probe = recording  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA", "DE", "TwoPointsDE", "PSO", "TBPSA", "OnePlusOne", "EDA"])
def test_any_method_starts_at_the_common_beta_and_steps_at_the_best(name: str) -> None:
    env = quadratic()
    seen = probes(env)
    optimizer = Evolution(env.space, seed=0, name=name, population=6)
    for _ in range(12):
        optimizer.update(env)
        outcomes = seen[-1][1]
        best = min(outcomes, key=lambda o: o.loss)
        assert env.outcome.loss == best.loss
        torch.testing.assert_close(env.outcome.beta, best.beta)
    assert torch.equal(seen[0][0][0], env.space.project(env.space.initial))
    assert [len(betas) for betas, _ in seen] == [7] + [6] * 11
    assert torch.unique(torch.cat([betas for betas, _ in seen]), dim=0).shape[0] > 60


@pytest.mark.parametrize("dimension", [4, 37])
@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
def test_cma_starts_with_the_sigma_it_is_given(name: str, dimension: int) -> None:
    space = DecisionSpace([block("all", dimension, 0.0, 1.0, 0.5, "1", "test")])
    optimizer = Evolution(space, seed=0, name=name, sigma=0.07, population=400)
    drawn = np.stack([optimizer._nevergrad.ask().value for _ in range(400)]) - 0.5
    assert drawn.std() == pytest.approx(0.07, rel=0.05)
    assert np.abs(drawn.mean(0)).max() < 5 * 0.07 / 20


@pytest.mark.parametrize("population", [5, 12])
def test_cma_learns_from_whole_generations(population: int) -> None:
    """Its generation is the update's population, also where that is smaller than CMA's own choice (8 for d = 4)."""
    env = quadratic()
    optimizer = Evolution(env.space, seed=0, population=population)
    for update in range(4):
        optimizer.update(env)
        assert optimizer._nevergrad.es.countiter == update + 1


def test_failures_are_told_as_the_worst_loss() -> None:
    """Never NaN, and worse than whatever worked; the step is at the best of what worked."""
    env = quadratic()
    optimizer = Evolution(env.space, seed=0, population=6)
    told: list[float] = []
    optimizer._nevergrad.register_callback("tell", lambda _, candidate, loss: told.append(loss))
    probe = env.probe
    failed = Outcome(env.space.initial, None, Status.DIVERGED, "on purpose")
    env.probe = lambda betas: [failed if i % 2 else o for i, o in enumerate(probe(betas))]  # type: ignore[method-assign]
    optimizer.update(env)
    assert env.outcome.ok
    assert [loss == env.learner.max_loss for loss in told] == [True, False] * 3
    env.probe = lambda betas: [failed for _ in betas]  # type: ignore[method-assign]
    last = env.outcome.beta
    optimizer.update(env)
    torch.testing.assert_close(env.outcome.beta, last)
    assert told[6:] == [env.learner.max_loss] * 6


def test_step_at_the_mean_of_the_better_half() -> None:
    env = quadratic()
    seen = probes(env)
    optimizer = Evolution(env.space, seed=0, population=6, step_at="mean")
    for _ in range(3):
        optimizer.update(env)
        betas, outcomes = seen[-1]
        order = np.argsort([o.loss for o in outcomes])
        better = betas[torch.from_numpy(order[: (len(order) + 1) // 2])]
        torch.testing.assert_close(env.outcome.beta, better.mean(0))


def test_cma_finds_the_optimum() -> None:
    env = quadratic()
    optimizer = Evolution(env.space, seed=1, population=8)
    for _ in range(60):
        optimizer.update(env)
    assert env.outcome.loss < 1e-2


def test_numpy_global_state_is_restored() -> None:
    """Nevergrad does touch it; were it not restored, this would fail (see _numpy_state_kept)."""
    env = quadratic()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("DE", "PSO", "TBPSA"):
        optimizer = Evolution(env.space, seed=0, name=name, population=4)
        for _ in range(5):
            optimizer.update(env)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
