"""nevergrad, driven as the environment needs it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hgenv import DecisionSpace, Ledger, Outcome, Status, block
from hgenv.optimizers import Evolution, evolution
from hgenv.optimizers.evolution import EvolutionError
from hgenv.testing.tools import through_file

from .tools import probes, quadratic

Score = Callable[[Tensor, int], list[float | None]]


class Scored:
    """Stands in for an environment whose probes are scored by a function of the betas and the update; None fails."""

    task, generator = SimpleNamespace(max_loss=50.0), None

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
    """What is probed in each update, without the initial beta or the incumbent before it."""
    env = Scored(score)
    for _ in range(updates):
        optimizer.update(env)  # type: ignore[arg-type]
    return [betas[-optimizer.population :] for betas in env.probed]


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA", "DE", "TwoPointsDE", "PSO", "TBPSA", "OnePlusOne", "EDA"])
def test_any_method_starts_at_the_common_beta_and_steps_at_the_mean_of_the_better_half(name: str) -> None:
    env = quadratic()
    seen = probes(env)
    optimizer = Evolution(env.space, seed=0, name=name, population=6, period=1)
    for update in range(12):
        optimizer.update(env)
        betas, outcomes = seen[-1]
        if update:  # whoever comes before the generation was no candidate of it
            betas, outcomes = betas[-6:], outcomes[-6:]
        order = np.argsort([o.loss for o in outcomes], kind="stable")
        better = betas[torch.from_numpy(order[: (len(order) + 1) // 2])]
        assert env.outcome is not None
        torch.testing.assert_close(env.outcome.beta, better.mean(0))
    assert torch.equal(seen[0][0][0], env.space.project(env.space.initial))
    assert [len(betas) for betas, _ in seen] == [7] + [6 if name.endswith("CMA") else 7] * 11
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

    optimizer._method.optimizer.ask = fail
    with pytest.raises(EvolutionError, match=r"nevergrad's DE failed at update 1 \(TypeError: only 0-dim.*such as CMA"):
        optimizer.update(Scored(lambda betas, _: [0.0] * len(betas)))


def test_trying_a_method_leaves_no_trace():
    """The candidates are those that nevergrad would have drawn without."""
    made = Evolution(unit_box(3), seed=5, name="DE")
    untouched = evolution._make("DE", made.normalized, made.population, 0.1, None, 5)
    assert (made._method.optimizer.ask().value == untouched.ask().value).all()


# --- Saved and loaded ------------------------------------------------------------------------------------------------

METHODS = ["CMA", "DiagonalCMA", "DE", "TwoPointsDE", "PSO", "TBPSA", "OnePlusOne", "EDA"]


def noisy(betas: Tensor, update: int) -> list[float | None]:
    """A sphere, with a failure now and then."""
    draw = torch.Generator().manual_seed(update)
    failed = torch.rand(len(betas), generator=draw) < 0.2
    losses = (betas - 0.7).square().sum(1) + 0.1 * torch.rand(len(betas), generator=draw)
    return [None if f else float(x) for x, f in zip(losses, failed, strict=True)]


def noisy_and_huge(betas: Tensor, update: int) -> list[float | None]:
    """And with losses beyond what nevergrad takes."""
    return [1e21 if update % 3 == 1 and i == 2 else x for i, x in enumerate(noisy(betas, update))]


@pytest.mark.filterwarnings("ignore:Clipping very high value")
@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("name", METHODS)
def test_a_state_goes_on_with_the_same_bits(name: str, before: int) -> None:
    """In a new object of another seed and start; and the state of that is again one."""
    space, options = unit_box(5), {"name": name, "population": 6, "period": 1}
    unbroken, env = Evolution(space, seed=4, initial=[0.3] * 5, **options), Scored(noisy_and_huge)
    for _ in range(before):
        unbroken.update(env)  # type: ignore[arg-type]
    resumed, other_env = Evolution(space, seed=0, **options), Scored(noisy_and_huge)
    resumed.load_state_dict(through_file(unbroken.state_dict()))
    other_env.update, env.probed = env.update, []
    for _ in range(3):
        for optimizer, at in ((unbroken, env), (resumed, other_env)):
            optimizer.update(at)  # type: ignore[arg-type]
        again = Evolution(space, seed=1, **options)
        again.load_state_dict(through_file(resumed.state_dict()))
        resumed = again
    assert len(env.probed) == 3
    for probed, expected in ((other_env.probed, env.probed), (other_env.stepped, env.stepped[-3:])):
        assert all(torch.equal(a, b) for a, b in zip(probed, expected, strict=True))


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
def test_cma_is_told_again_without_nevergrads_records(name: str) -> None:
    """Through restarts, too, and where candidates meet the bounds: the same as when nevergrad is told all of it."""

    def score(betas: Tensor, update: int) -> list[float | None]:
        return betas.sum(1).tolist() if update < 20 else [0.0] * len(betas)  # best in a corner; nothing to gain

    space = unit_box(2)
    optimizer, env = Evolution(space, seed=0, name=name, population=6, period=1, sigma=0.3), Scored(score)
    first = optimizer._method.optimizer.es
    for _ in range(30):
        optimizer.update(env)  # type: ignore[arg-type]
    assert optimizer._method.optimizer.es is not first
    resumed = Evolution(space, seed=0, name=name, population=6, period=1, sigma=0.3)
    resumed.load_state_dict(optimizer.state_dict())
    for counter in ("num_ask", "num_tell"):
        assert getattr(resumed._method.optimizer, counter) == getattr(optimizer._method.optimizer, counter) == 180
    assert (resumed._method.optimizer.ask().value == optimizer._method.optimizer.ask().value).all()


def test_a_state_is_data_of_eight_bytes_a_candidate() -> None:
    optimizer, env = Evolution(unit_box(4), seed=0, population=6, period=1), Scored(noisy)
    sizes = []
    for _ in range(3):
        optimizer.update(env)  # type: ignore[arg-type]
        state = optimizer.state_dict()
        assert {type(value) for value in state.values()} <= {Tensor, int, float, str, type(None)}
        sizes.append(sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor)))
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 8 * 6


def spoilt(state: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {key: entry for key, entry in state.items() if key != name} if value is KeyError else state | {name: value}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("told", KeyError, "the optimizer Evolution: the saved state has no 'told'"),
        ("name", "DE", "with name='DE', but this optimizer has name='CMA'; load it with the settings"),
        ("population", 8, "with population=8, but this optimizer has population=6"),
        ("sigma", 0.2, "with sigma=0.2, but this optimizer has sigma=0.1"),
        ("budget", 100, "with budget=100, but this optimizer has budget=None"),
        ("seed", 1, "does not ask the candidates again"),
        ("seed", -1, "seed: must be a whole number from 0 on"),
        ("seed", "import os", "seed: must be a whole number from 0 on"),
        ("initial", torch.full((4,), 0.4, dtype=torch.float64), "does not ask the candidates again"),
        ("initial", torch.full((4,), 1.5, dtype=torch.float64), "'initial' is not within"),
        ("initial", torch.zeros(3, dtype=torch.float64), "of an optimizer of 3 components"),
        ("normalized", torch.zeros(4), r"beta: must be a tensor float64\(4,\)"),
        (
            "normalized",
            torch.full((4,), torch.nan, dtype=torch.float64),
            "beta: the saved state has values that are infinite or NaN",
        ),
        ("random", torch.zeros(3, dtype=torch.uint8), "random: must be a tensor uint8"),
        ("random", None, "random: must be a tensor uint8"),
        ("told", [0.0] * 18, "'told' is no losses of whole generations"),
        ("told", torch.zeros(17, dtype=torch.float64), "'told' is no losses of whole generations"),
        ("told", torch.zeros(18), "'told' is no losses of whole generations"),
        ("told", torch.zeros(1, dtype=torch.float64).expand(6 * 10**12), "'told' is no losses of whole generations"),
        (
            "told",
            torch.zeros(18, dtype=torch.float64),
            "not ask the candidates again.*another version of nevergrad",
        ),
        ("digest", "", "does not ask the candidates again"),
        ("digest", None, "digest: must be a text"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name: str, value: Any, message: str) -> None:
    optimizer, env = Evolution(unit_box(4), seed=0, population=6, period=1), Scored(noisy)
    for _ in range(3):
        optimizer.update(env)  # type: ignore[arg-type]
    state, before = optimizer.state_dict(), np.random.get_state()[1].copy()  # noqa: NPY002
    other, untouched = (Evolution(unit_box(4), seed=7, population=6, period=1) for _ in range(2))
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(spoilt(state, name, value))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    found, expected = (generations(o, noisy, 2) for o in (other, untouched))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_was_asked_before_an_interrupt_is_probed_after_it() -> None:
    """And a state in between is one."""

    def interrupted(betas: Tensor, update: int) -> list[float | None]:
        raise KeyboardInterrupt

    optimizer, unbroken = (Evolution(unit_box(4), seed=0, population=6, period=1) for _ in range(2))
    env, expected = Scored(interrupted), Scored(noisy)
    with pytest.raises(KeyboardInterrupt):
        optimizer.update(env)  # type: ignore[arg-type]
    resumed = Evolution(unit_box(4), seed=1, population=6, period=1)
    resumed.load_state_dict(optimizer.state_dict())
    unbroken.update(expected)  # type: ignore[arg-type]
    for same in (optimizer, resumed):
        env = Scored(noisy)
        same.update(env)  # type: ignore[arg-type]
        assert torch.equal(env.probed[0], expected.probed[0])


def test_no_file_in_the_working_directory_has_a_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pycma would take options from this one; such that it begins anew each time."""
    found = []
    for content in (None, "{'maxiter': 1}"):
        monkeypatch.chdir(tmp_path)
        if content is not None:
            (tmp_path / "cma_signals.in").write_text(content)
        optimizer = Evolution(unit_box(4), seed=0, population=6, period=1)
        found.append(generations(optimizer, noisy, 4))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
def test_cma_keeps_no_records_that_it_does_not_look_at(name: str) -> None:
    """And it asks the same candidates as with all of them."""
    found = []
    for bounded in (True, False):
        optimizer = Evolution(unit_box(3), seed=0, name=name, population=6, period=1)
        if not bounded:
            optimizer._method.optimizer.pruning = None
        found.append(generations(optimizer, noisy, 30))
        assert (len(optimizer._method.optimizer.archive) == 0) == bounded
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
