"""nevergrad, driven as the environment needs it."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from hgenv import DecisionSpace, Ledger, Outcome, Status, block
from hgenv.optimizers import Evolution, evolution
from hgenv.optimizers.evolution import EvolutionError

from .tools import probes, quadratic

Score = Callable[[Tensor, int], list[float | None]]


class Scored:
    """Stands in for an environment whose probes are scored by a function of the betas and the update; None fails."""

    task = SimpleNamespace(max_loss=50.0)

    def __init__(self, score: Score) -> None:
        self.score, self.update, self.ledger = score, 0, Ledger()
        self.probed: list[Tensor] = []
        self.stepped: list[Tensor] = []

    def probe(self, betas: Tensor) -> list[Outcome]:
        self.probed.append(betas)
        scores = self.score(betas, self.update)
        return [Outcome(b, s, Status.DIVERGED if s is None else Status.OK) for b, s in zip(betas, scores, strict=True)]

    def step(self, beta: Tensor) -> None:
        self.stepped.append(beta)
        self.update += 1


def unit_box(dimension: int) -> DecisionSpace:
    return DecisionSpace([block("all", dimension, 0.0, 1.0, 0.5, "1", "test")])


def generations(optimizer: Evolution, score: Score, updates: int) -> list[Tensor]:
    """What is probed in each update; without the initial beta in the first."""
    env = Scored(score)
    for _ in range(updates):
        optimizer.update(env)  # type: ignore[arg-type]
    return [env.probed[0][1:], *env.probed[1:]]


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA", "DE", "TwoPointsDE", "PSO", "TBPSA", "OnePlusOne", "EDA"])
def test_any_method_starts_at_the_common_beta_and_steps_at_the_mean_of_the_better_half(name: str) -> None:
    env = quadratic()
    seen = probes(env)
    optimizer = Evolution(env.space, seed=0, name=name, population=6, period=1)
    for _ in range(12):
        optimizer.update(env)
        betas, outcomes = seen[-1]
        order = np.argsort([o.loss for o in outcomes], kind="stable")
        better = betas[torch.from_numpy(order[: (len(order) + 1) // 2])]
        assert env.outcome is not None
        torch.testing.assert_close(env.outcome.beta, better.mean(0))
    assert torch.equal(seen[0][0][0], env.space.project(env.space.initial))
    assert [len(betas) for betas, _ in seen] == [7] + [6] * 11
    assert torch.unique(torch.cat([betas for betas, _ in seen]), dim=0).shape[0] > 60


@pytest.mark.parametrize("dimension", [4, 37])
@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
def test_cma_starts_with_the_sigma_it_is_given(name: str, dimension: int) -> None:
    optimizer = Evolution(unit_box(dimension), seed=0, name=name, sigma=0.07, population=400)
    (drawn,) = generations(optimizer, lambda betas, update: [1.0] * len(betas), 1)
    assert drawn.shape == (400, dimension)
    assert float((drawn - 0.5).std()) == pytest.approx(0.07, rel=0.05)
    assert float((drawn.mean(0) - 0.5).abs().max()) < 5 * 0.07 / 20


@pytest.mark.parametrize("population", [5, 12])
def test_cma_learns_from_whole_generations(population: int) -> None:
    """Its generation is the update's population, also where that is smaller than CMA's own choice (8 for d = 4).

    Had it learned of a part alone, or not yet, some of the next generation would be the same whatever the losses.
    """

    def score(differs_at: int) -> Score:
        return lambda betas, update: (betas[:, 0] if update == differs_at else -betas[:, 0]).tolist()

    for update in range(3):
        found = [
            generations(Evolution(unit_box(4), seed=0, population=population, period=1), score(at), update + 2)
            for at in (-1, update)
        ]
        for before in range(update + 1):
            assert torch.equal(found[0][before], found[1][before])
        assert len(found[0][update + 1]) == population
        assert (found[0][update + 1] != found[1][update + 1]).any(1).all()


def test_failures_are_told_as_the_worst_loss() -> None:
    """What nevergrad draws after a failure is what it draws after that loss: never NaN, nor nothing."""

    def drawn(other: float | None) -> list[Tensor]:
        def score(betas: Tensor, update: int) -> list[float | None]:
            losses = (45 + betas.square().sum(1)).tolist()  # as bad as what works can be
            return [other if i % 2 else loss for i, loss in enumerate(losses)]

        return generations(Evolution(unit_box(4), seed=0, name="DE", population=6, period=1), score, 6)

    failed, worst, good = drawn(None), drawn(Scored.task.max_loss), drawn(0.0)
    assert all(torch.equal(a, b) for a, b in zip(failed, worst, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(failed, good, strict=True))


def test_the_step_is_at_the_best_of_what_worked() -> None:
    env = Scored(lambda betas, update: [None if update or i % 2 else float(b[0]) for i, b in enumerate(betas)])
    optimizer = Evolution(unit_box(4), seed=0, population=6, period=1)
    optimizer.update(env)  # type: ignore[arg-type]
    worked = env.probed[0][0::2]  # the initial beta and three candidates
    best = worked[worked[:, 0].argsort(stable=True)[:2]]
    torch.testing.assert_close(env.stepped[0], best.mean(0))
    optimizer.update(env)  # type: ignore[arg-type]
    assert len(env.probed) == 2
    torch.testing.assert_close(env.stepped[1], env.stepped[0])


def test_only_every_period_is_a_generation() -> None:
    env = Scored(lambda betas, update: betas[:, 0].tolist())
    optimizer = Evolution(unit_box(4), seed=0, population=6, period=3)
    for _ in range(7):
        optimizer.update(env)  # type: ignore[arg-type]
    assert [len(betas) for betas in env.probed] == [7, 6, 6]
    assert [torch.equal(a, b) for a, b in zip(env.stepped, env.stepped[1:], strict=False)] == [
        True, True, False, True, True, False,
    ]  # fmt: skip


def test_the_population_is_cmas_own_where_none_is_given() -> None:
    for dimension, population in ((4, 8), (37, 14)):
        (drawn,) = generations(
            Evolution(unit_box(dimension), seed=0, population=None), lambda betas, update: [1.0] * len(betas), 1
        )
        assert len(drawn) == population


def test_cma_finds_the_optimum() -> None:
    env = quadratic()
    optimizer = Evolution(env.space, seed=1, population=8, period=1)
    for _ in range(60):
        optimizer.update(env)
    assert env.outcome is not None
    assert env.outcome.loss is not None
    assert env.outcome.loss < 1e-2


def test_numpy_global_state_is_restored() -> None:
    """Nevergrad does touch it; were it not restored, this would fail (see _global_randomness_kept)."""
    env = quadratic()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("DE", "PSO", "TBPSA"):
        optimizer = Evolution(env.space, seed=0, name=name, population=4, period=1)
        for _ in range(5):
            optimizer.update(env)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_method_that_fails_at_work_is_named():
    optimizer = Evolution(unit_box(3), seed=0, name="DE", period=1)

    def fail():
        raise TypeError("only 0-dimensional arrays\ncan be")

    optimizer._nevergrad.ask = fail
    with pytest.raises(EvolutionError, match=r"nevergrad's DE failed at update 1 \(TypeError: only 0-dim.*such as CMA"):
        optimizer.update(Scored(lambda betas, _: [0.0] * len(betas)))


def test_trying_a_method_leaves_no_trace():
    """The candidates are those that nevergrad would have drawn without."""
    made = Evolution(unit_box(3), seed=5, name="DE")
    untouched = evolution._make("DE", made.normalized, made.population, 0.1, None, 5)
    assert (made._nevergrad.ask().value == untouched.ask().value).all()
