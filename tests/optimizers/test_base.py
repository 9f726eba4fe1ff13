"""Where optimizers start, and the loop of those that follow a gradient."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionError, RenderError
from hgenv.optimizers import (
    REGISTRY,
    SGD,
    Fixed,
    GradientOptimizer,
    Hybrid,
    Optimizer,
    Proposal,
    Reinforce,
    RMSprop,
    Shrinkage,
)

from .tools import Breaking, Given, center, mixture, probes, quadratic

WANTED = [0.25, -0.5, 0.125, 0.75]
# What draws around beta, or moves before it is seen, would not show where that is.
NARROW: dict[str, dict[str, Any]] = {
    "reinforce": {"estimator": Reinforce(sigma=1e-12)},
    "snes": {"sigma": 1e-12},
    "noise_reuse_es": {"rule": SGD(1e-30)},
    "persistent_es": {"rule": SGD(1e-30)},
}


# --- Where optimizers start ------------------------------------------------------------------------------------------


def first_asked(optimizer: Optimizer, env: DataGenEnv) -> Tensor:
    """The beta around which the first update of an optimizer works."""
    seen = probes(env)
    optimizer.update(env)
    if not seen:
        assert env.outcome is not None
        return env.outcome.beta
    betas = seen[0][0]
    if isinstance(optimizer, GradientOptimizer):  # pairs
        return betas.reshape(2, -1, 4).mean(0)[0]
    return betas[0]


@pytest.mark.parametrize(
    "given",
    [
        lambda space: WANTED,
        lambda space: torch.tensor(WANTED, dtype=torch.float64),
        lambda space: Fixed(space, seed=5, initial=WANTED).recommendation,
    ],
    ids=["list", "tensor", "recommendation"],
)
@pytest.mark.parametrize("name", REGISTRY)
def test_starts_where_it_is_told_to(name: str, given: Callable[[Any], Any]) -> None:
    env = quadratic()
    optimizer = REGISTRY[name](env.space, seed=0, initial=given(env.space), **NARROW.get(name, {}))
    wanted = torch.tensor(WANTED, dtype=torch.float64)
    torch.testing.assert_close(optimizer.recommendation, wanted, rtol=0, atol=1e-15)
    torch.testing.assert_close(first_asked(optimizer, env), wanted, rtol=0, atol=1e-10 if name in NARROW else 1e-15)


@pytest.mark.parametrize("name", REGISTRY)
def test_starts_at_a_numbered_random_beta(name: str) -> None:
    env = mixture()
    for number in (0, 7):
        optimizer = REGISTRY[name](env.space, seed=3, initial=f"random:{number}")
        torch.testing.assert_close(optimizer.recommendation, env.space.random(number), rtol=0, atol=1e-15)
    assert not torch.equal(env.space.random(0), env.space.random(7))


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize(
    ("initial", "error", "message"),
    [
        ("luck", ValueError, "initial must be None, random:<n>, or 4 numbers, not 'luck'"),
        ("random", ValueError, "not 'random'"),
        ("random:", ValueError, "not 'random:'"),
        ("random:-1", ValueError, "not 'random:-1'"),
        ("random:1.5", ValueError, r"not 'random:1\.5'"),
        ("0.1", ValueError, r"not '0\.1'"),
        ([0.1], DecisionError, "4 components"),
        ([99.0] * 4, DecisionError, "outside"),
        ([float("nan")] * 4, DecisionError, "outside"),
        (torch.zeros(4, 4), DecisionError, "4 components"),
    ],
)
def test_a_start_that_there_is_not_is_refused(name: str, initial: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        REGISTRY[name](quadratic().space, seed=0, initial=initial)


def test_a_start_off_the_simplex_is_moved_onto_it() -> None:
    space = mixture().space
    given = torch.tensor([0.9, 0.9, 0.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(Fixed(space, seed=0, initial=given).recommendation, space.project(given))


@pytest.mark.parametrize("name", [name for name in REGISTRY if name != "fixed"])
def test_a_period_is_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1 update, not 0"):
        REGISTRY[name](quadratic().space, seed=0, period=0)


# --- The loop --------------------------------------------------------------------------------------------------------


def rows(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_estimates_are_made_each_period() -> None:
    env = quadratic()
    estimator = Given(rows(1, 0, 0, 0))
    optimizer = GradientOptimizer(env.space, estimator, SGD(0.01), seed=0, period=3)
    for _ in range(8):
        optimizer.update(env)
    assert estimator.asked == [0, 3, 6]
    assert env.update == 8


def test_a_move_is_towards_the_mean_of_what_the_rows_know() -> None:
    env = quadratic()
    nan = float("nan")
    estimator = Given(torch.tensor([[1, 3, nan, nan], [2, nan, nan, 1], [3, 1, nan, 1]], dtype=torch.float64))
    GradientOptimizer(env.space, estimator, SGD(0.01), seed=0).update(env)
    assert env.outcome is not None
    moved = center(env) - 0.01 * torch.tensor([2.0, 2.0, 0.0, 1.0])
    torch.testing.assert_close(env.space.normalize(env.outcome.beta), moved)


@pytest.mark.parametrize("shrinkage", [None, Shrinkage()])
def test_components_that_no_row_knows_stay(shrinkage: Shrinkage | None) -> None:
    env = quadratic()
    optimizer = GradientOptimizer(
        env.space, Given(rows(1, float("nan"), 1, 1).repeat(2, 1)), RMSprop(0.01), seed=0, shrinkage=shrinkage
    )
    optimizer.update(env)
    moved = optimizer.normalized.detach() != center(env)
    assert moved.tolist() == [True, False, True, True]


def test_no_estimate_is_no_move() -> None:
    env = quadratic()
    GradientOptimizer(env.space, Given(None), SGD(0.01), seed=0).update(env)
    assert env.outcome is not None
    assert env.update == 1
    torch.testing.assert_close(env.outcome.beta, env.space.initial)


def test_an_infinite_estimate_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    env = quadratic()
    optimizer = GradientOptimizer(env.space, Given(rows(1, float("inf"), 0, 0)), RMSprop(0.01), seed=0)
    with caplog.at_level(logging.WARNING):
        optimizer.update(env)
    assert "update 0 goes without a gradient: it is not finite" in caplog.text
    torch.testing.assert_close(optimizer.recommendation, env.space.initial)


class Unrenderable(Given):
    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        raise RenderError("sample 0 cannot be rendered")


def test_an_estimate_that_cannot_be_rendered_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    env = quadratic()
    optimizer = GradientOptimizer(env.space, Unrenderable(None), RMSprop(0.01), seed=0)
    with caplog.at_level(logging.WARNING):
        optimizer.update(env)
    assert "update 0 goes without a gradient: sample 0 cannot be rendered" in caplog.text
    assert env.outcome is not None
    assert env.outcome.ok
    torch.testing.assert_close(env.outcome.beta, env.space.initial)


class FailsAfterwards(Hybrid):
    """Once told to, breaks the generator when the gradient has been taken, so that the step after it fails."""

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        found = super().estimate(env, center, random)
        env.generator.failing = env.update == 4  # type: ignore[attr-defined]
        return found


def test_after_a_failed_step_beta_goes_half_way_back() -> None:
    env = quadratic()
    generator = Breaking(env)
    estimator = FailsAfterwards(last_steps=None, curvature=True)
    optimizer = GradientOptimizer(env.space, estimator, RMSprop(0.005, momentum=0.9), seed=0, shrinkage=Shrinkage())
    for _ in range(4):
        optimizer.update(env)
    worked = env.outcome.beta
    # The gradient is taken and beta moves; then the step fails.
    optimizer.update(env)
    failed = env.outcome.beta
    assert not env.outcome.ok
    assert not torch.allclose(failed, worked)
    generator.failing = False
    before = env.ledger.counts["gradient_steps"]
    optimizer.update(env)
    torch.testing.assert_close(env.outcome.beta, (failed + worked) / 2)
    assert env.ledger.counts["gradient_steps"] == before
    # From here on it descends again.
    optimizer.update(env)
    assert env.ledger.counts["gradient_steps"] == before + env.problem.unroll_steps


def test_the_first_update_of_a_method_that_looks_back_only_steps() -> None:
    env = quadratic()
    optimizer = REGISTRY["hybrid_gradient"](env.space, seed=0)
    optimizer.update(env)
    assert env.update == 1
    torch.testing.assert_close(env.outcome.beta, env.space.initial)
    assert env.ledger.counts["gradient_steps"] == env.ledger.counts["samples"] - 32 == 0
    torch.testing.assert_close(optimizer.recommendation, env.space.initial)


class Scattered(Given):
    """Each sample at a corner of its own, four of a seed."""

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal:
        betas = (torch.arange(env.problem.num_samples)[:, None] >> torch.arange(4)) % 2
        return Proposal(betas.to(torch.float64), share=4)


def test_a_step_that_is_looked_back_on_is_as_proposed() -> None:
    env = quadratic()
    optimizer = GradientOptimizer(env.space, Scattered(rows(0, 0, 0, 0)), SGD(), seed=0, period=2)
    expected = env.sample_seeds(32)
    optimizer.update(env)
    assert env.last is not None
    assert torch.equal(env.last.seeds, expected)
    torch.testing.assert_close(env.last.betas, env.space.initial.expand(32, -1))
    expected = env.sample_seeds(8).repeat_interleave(4)
    optimizer.update(env)
    assert torch.equal(env.last.seeds, expected)
    normalized = env.space.normalize(env.last.betas)
    assert ((normalized == 0) | (normalized == 1)).all()
    assert len(normalized.unique(dim=0)) == 16
    assert env.update == 2


# --- Bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", ["clip", "project"])
def test_bounds(bounds: Any) -> None:
    """All probabilities are pushed up: clipped they stand at 1 each, projected they stay a distribution."""
    env = mixture()
    optimizer = GradientOptimizer(env.space, Given(rows(-4, -3, -6, 9)), SGD(0.2), seed=0, bounds=bounds)
    free = center(env) - 0.2 * rows(-4, -3, -6, 9)[0]
    for _ in range(2):
        optimizer.update(env)
        inside = optimizer.normalized.detach()
        if bounds == "clip":
            torch.testing.assert_close(inside, free.clamp(0, 1))
        else:
            torch.testing.assert_close(inside, env.space.normalize(env.space.project(env.space.denormalize(free))))
        valid = env.space.project(env.space.denormalize(inside))
        assert env.outcome is not None
        torch.testing.assert_close(env.outcome.beta, valid)
        torch.testing.assert_close(optimizer.recommendation, valid)
        assert float(valid[:3].sum()) == pytest.approx(1)
        free = inside - 0.2 * rows(-4, -3, -6, 9)[0]
    assert (float(inside[:3].sum()) > 1.5) == (bounds == "clip")


def test_other_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="'project' or 'clip', not 'reflect'"):
        GradientOptimizer(mixture().space, Hybrid(), SGD(), seed=0, bounds="reflect")  # type: ignore[arg-type]


def test_no_graph_outlives_its_update() -> None:
    """An estimator of one's own may leave one; through the shrinkage's memory it would grow with every update."""
    env, rows = quadratic(), torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    optimizer = GradientOptimizer(env.space, Given(2 * rows), SGD(0.01), seed=0, shrinkage=Shrinkage(0.9))
    for _ in range(3):
        optimizer.update(env)
    shrinkage = optimizer.state_dict()["shrinkage"]
    assert (shrinkage["mean"] > 0).all()
    assert not any(t.requires_grad for t in (*shrinkage.values(), optimizer.recommendation))
    assert optimizer.normalized.grad is not None
    assert not optimizer.normalized.grad.requires_grad
