from dataclasses import asdict

import pytest
import torch

from hgenv.optimizers import SGD, GradientOptimizer, Shrinkage

from .tools import Given, center, draws, quadratic


def test_it_is_the_james_stein_factor() -> None:
    rows = torch.tensor([[1.0, 1.0, 5.0, 2.0], [1.0, -1.0, 5.0, torch.nan], [1.0, 1.0, 8.0, torch.nan]]).double()
    shrinkage = Shrinkage()
    _, factor = shrinkage(shrinkage.start(4), rows)
    assert factor[0] == 1  # no noise at all
    assert factor[1] == 0  # mean 1/3, standard error 2/3
    assert float(factor[2]) == pytest.approx(1 - 1 / 36)  # mean 6, standard error 1
    assert factor[3] == 0  # one sample says nothing about its noise


def test_a_threshold_is_so_many_standard_errors() -> None:
    rows = torch.tensor([[5.0, 1.0], [5.0, 1.0], [8.0, 4.0]]).double()  # means 6 and 2, standard error 1
    for threshold, expected in ((1.0, (1 - 1 / 36, 1 - 1 / 4)), (3.0, (1 - 9 / 36, 0)), (7.0, (0, 0))):
        shrinkage = Shrinkage(threshold=threshold)
        _, factor = shrinkage(shrinkage.start(2), rows)
        torch.testing.assert_close(factor, torch.tensor(expected).double())
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="threshold must be a positive number"):
            Shrinkage(threshold=wrong)


@pytest.mark.parametrize("memory", [0, 0.9])
def test_pure_noise_moves_less_than_a_signal(memory: float) -> None:
    noise = torch.randn(4000, 64, 2, generator=draws(), dtype=torch.float64)
    noise[..., 1] += 1.0  # eight standard errors
    shrinkage = Shrinkage(memory)
    state, factors = shrinkage.start(2), []
    for rows in noise:
        state, factor = shrinkage(state, rows)
        factors.append(factor)
    found = torch.stack(factors)
    assert float((found[:, 0] == 0).double().mean()) == pytest.approx(0.68, abs=0.06)  # |t| < 1
    assert found[:, 1].min() > 0.9


def test_memory_finds_what_one_estimate_cannot() -> None:
    """A mean of one standard error a time: with memory 0.9 it stands at sqrt(1.9 / 0.1) of them."""
    estimates = torch.randn(2000, 64, 1, generator=draws(), dtype=torch.float64) + 1 / 8
    means = {}
    for memory in (0, 0.9):
        shrinkage = Shrinkage(memory)
        state, factors = shrinkage.start(1), []
        for rows in estimates:
            state, factor = shrinkage(state, rows)
            factors.append(factor)
        means[memory] = torch.stack(factors)[20:].mean()
    assert means[0] < 0.4
    assert means[0.9] > 0.85


def test_memory_is_a_moving_average() -> None:
    """The mean of (1 - m) sum_j m^j g_j, over the root of the summed squares of its errors."""
    m, shrinkage = 0.5, Shrinkage(0.5)
    estimates = torch.randn(3, 8, 4, generator=draws(), dtype=torch.float64) + 0.5
    state = shrinkage.start(4)
    for rows in estimates:
        state, factor = shrinkage(state, rows)
    weights = [(1 - m) * m**j for j in (2, 1, 0)]
    mean = sum(w * rows.mean(0) for w, rows in zip(weights, estimates, strict=True))
    square = sum(w**2 * rows.var(0) / 8 for w, rows in zip(weights, estimates, strict=True))
    torch.testing.assert_close(factor, (1 - square / mean**2).clamp(min=0))


def test_it_is_a_value() -> None:
    """Two optimizers may share one; what it knows is in the state that is passed on."""
    shrinkage, rows = Shrinkage(0.9), torch.randn(5, 3, generator=draws(), dtype=torch.float64)
    start = shrinkage.start(3)
    first, again = shrinkage(start, rows), shrinkage(start, rows)
    assert torch.equal(first[1], again[1])
    assert torch.equal(start.mean, torch.zeros(3, dtype=torch.float64))
    assert not torch.equal(first[0].mean, start.mean)


def test_what_no_row_knows_stays_as_it_was() -> None:
    shrinkage = Shrinkage(0.9)
    rows = torch.tensor([[1.0, torch.nan], [3.0, torch.nan]]).double()
    state, factor = shrinkage(shrinkage.start(2), rows)
    assert factor[1] == 0
    assert state.mean[1] == state.squared_error[1] == 0
    later, factor = shrinkage(state, rows.flip(1))
    assert later.mean[0] == state.mean[0]
    assert later.squared_error[0] == state.squared_error[0]
    assert factor[1] > 0


@pytest.mark.parametrize("memory", [1.0, -0.1])
def test_a_memory_out_of_range_is_refused(memory: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1, not"):
        Shrinkage(memory)


def test_an_optimizer_moves_by_the_factor_of_the_rules_move() -> None:
    env = quadratic()
    rows = torch.tensor([[1.0, 1.0, 5.0, 2.0], [1.0, -1.0, 5.0, torch.nan], [1.0, 1.0, 8.0, torch.nan]]).double()
    optimizer = GradientOptimizer(env.space, Given(rows), SGD(0.01), seed=0, shrinkage=Shrinkage())
    optimizer.update(env)
    factor = torch.tensor([1.0, 0.0, 1 - 1 / 36, 0.0], dtype=torch.float64)
    expected = center(env) - 0.01 * factor * torch.tensor([1.0, 1 / 3, 6.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(optimizer.normalized.detach(), expected)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_what_it_knows_outlasts_saving(memory: float) -> None:
    env = quadratic()
    estimator = Given(None)
    noise = torch.randn(8, 6, 4, generator=draws(), dtype=torch.float64) + 0.3

    def new() -> GradientOptimizer:
        return GradientOptimizer(env.space, estimator, SGD(0.01), seed=0, shrinkage=Shrinkage(memory))

    whole, path = new(), []
    for update, estimator.rows in enumerate(noise):
        whole.update(env)
        path.append(whole.normalized.detach().clone())
        if update == 3:
            saved = whole.state_dict()
    resumed = new()
    resumed.load_state_dict(saved)
    for expected, estimator.rows in zip(path[4:], noise[4:], strict=True):
        resumed.update(env)
        assert torch.equal(resumed.normalized.detach(), expected)
    forgetful = new()
    forgetful.load_state_dict(saved | {"shrinkage": asdict(Shrinkage(memory).start(4))})
    estimator.rows = noise[4]
    forgetful.update(env)
    assert torch.equal(forgetful.normalized.detach(), path[4]) == (memory == 0)
