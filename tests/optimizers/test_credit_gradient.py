"""The estimate against the closed form of hgenv/Quadratic-v0 and against its own definition."""

import gymnasium
import pytest
import torch
from torch import Tensor

import hgenv  # noqa: F401 - registers the environments
from hgenv.env import DataGenEnv
from optimizers import CreditGradient


def quadratic(**options: object) -> DataGenEnv:
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True, **options).unwrapped
    env.reset(seed=3)
    return env


def closed_form(env: DataGenEnv, exact: bool) -> Tensor:
    """dL/dbeta per fraction of range, of samples at the centre; without `exact`, all K steps weigh alike."""
    eta, steps, size = env.sgd.learning_rate, env.unroll_steps, env.batch_size
    unroll = env._unroll
    assert unroll is not None
    beta = env.space.project(env.space.initial)
    factors = [eta * ((1 - eta) ** (steps - 1 - k) if exact else 1.0) for k in range(steps)]
    pull = unroll.states[-1].weights["w"] - env.validation.batch.image[0]
    # A pair's difference in credit is <w_k - x, pull> to second order in delta: that of one point at the centre, whose
    # z is the pair's.
    position, spread = torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    centre = env.generator(beta.expand(steps * size, -1), unroll.seeds).image
    for k, factor in enumerate(factors):
        w = unroll.states[k].weights["w"]
        z = (centre[k * size : (k + 1) * size] - beta[:3]) / beta[3]
        position += factor * pull
        spread += factor * (pull * z.mean(0)).sum()
        assert torch.isfinite(w).all()
    return torch.cat([position, spread[None]]) * (env.space.high - env.space.low)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("directions", "pairs"), [("gaussian", None), ("coordinate", None), ("gaussian", 16)])
def test_unbiased(exact: bool, directions: str, pairs: int | None) -> None:
    """The mean over many draws of directions is the closed form, within five standard errors."""
    env = quadratic(batch_size=32)
    start, draws = env.state_dict(), []
    optimizer = CreditGradient(env.space, seed=0, directions=directions, sigma=1e-3, pairs=pairs, exact=exact)
    for _ in range(150):
        env.load_state_dict(start)
        optimizer.update(env)
        optimizer.scaled.data = env.space.scale(env.space.initial)
        draws.append(optimizer.gradient(env))
    estimates = torch.stack(draws)
    error = estimates.std(0) / len(estimates) ** 0.5
    expected = closed_form(env, exact)
    assert ((estimates.mean(0) - expected).abs() <= 5 * error + 1e-4 * expected.abs()).all()
    # And this would notice a missing factor of 2 or d.
    assert (5 * error < 0.25 * expected.abs().max()).all()
    assert not torch.allclose(closed_form(env, True), closed_form(env, False), rtol=0.02)


def test_pairs_share_a_seed_and_nothing_else_does() -> None:
    env = quadratic()
    CreditGradient(env.space, seed=0).update(env)
    assert env._unroll is not None
    seeds, betas = env._unroll.seeds.reshape(-1, 2), env._unroll.betas.reshape(-1, 2, 4)
    assert torch.equal(seeds[:, 0], seeds[:, 1])
    assert len(set(seeds[:, 0].tolist())) == len(seeds)
    torch.testing.assert_close(betas.mean(1), env.space.initial.expand(len(betas), -1))
    assert ((betas[:, 0] - betas[:, 1]).abs() > 0).all()


def test_fewer_displacements_are_tried_with_more_sample_seeds_each() -> None:
    env = quadratic()
    optimizer = CreditGradient(env.space, seed=0, pairs=2)
    optimizer.update(env)
    assert env._unroll is not None
    betas, seeds = env._unroll.betas.reshape(-1, 2, 2, 4), env._unroll.seeds.reshape(-1, 2, 2)
    assert len(betas) == env.samples_per_update // 4
    assert torch.equal(betas, betas[:1].expand_as(betas))
    assert len(seeds.unique()) == env.samples_per_update // 2
    ahead, behind = env.credits().reshape(-1, 2, 2).mean(0).unbind(-1)
    taken = env.space.scale(betas[0, :, 0]) - env.space.scale(betas[0, :, 1])
    expected = 4 * ((ahead - behind) / taken.square().sum(-1))[:, None] * taken
    torch.testing.assert_close(optimizer.pair_slopes(env), expected)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        CreditGradient(env.space, seed=0, pairs=0)


@pytest.mark.parametrize(("pairs", "used"), [(3, 3), (16, 16), (99, 16)])
def test_displacements_need_not_divide_the_pairs(pairs: int, used: int) -> None:
    env = quadratic()
    optimizer = CreditGradient(env.space, seed=0, pairs=pairs)
    optimizer.update(env)
    assert env._unroll is not None
    betas = env._unroll.betas.reshape(16, 2, 4)
    credits = env.credits().reshape(16, 2)
    slopes = optimizer.pair_slopes(env)
    assert len(slopes) == used
    for j, slope in enumerate(slopes):
        ahead, behind = credits[j::used].mean(0)
        taken = env.space.scale(betas[j, 0]) - env.space.scale(betas[j, 1])
        torch.testing.assert_close(slope, 4 * (ahead - behind) / taken.square().sum() * taken)


def test_a_bound_that_cuts_displacements() -> None:
    """At a bound a pair differs by what is left; its slope is attributed to that."""
    env = quadratic()
    optimizer = CreditGradient(env.space, seed=0, sigma=0.1)
    optimizer.scaled.data = torch.tensor([0.0, 1.0, 0.4, 0.5], dtype=torch.float64)
    optimizer.update(env)
    assert env._unroll is not None
    taken = env.space.scale(env._unroll.betas).reshape(-1, 2, 4)
    taken = taken[:, 0] - taken[:, 1]
    ahead, behind = env.credits().reshape(-1, 2).unbind(1)
    expected = 4 * (ahead - behind)[:, None] * taken / (taken**2).sum(1, keepdim=True)
    torch.testing.assert_close(optimizer.pair_slopes(env), expected)
    assert taken[:, 0].abs().mean() < 0.7 * taken[:, 2].abs().mean()


def test_only_steps_before_an_improvement_are_in_pairs() -> None:
    env = quadratic()
    optimizer = CreditGradient(env.space, seed=0, every=3)
    paired, moved, last = [], [], optimizer.recommendation
    for _ in range(7):
        optimizer.update(env)
        assert env._unroll is not None
        paired.append(len(set(env._unroll.seeds.tolist())) < env.samples_per_update)
        moved.append(not torch.equal(optimizer.recommendation, last))
        last = optimizer.recommendation
    assert paired == [False, False, True, False, False, True, False]
    assert moved == [False, False, False, True, False, False, True]


def test_clipping_of_pairs() -> None:
    env = quadratic()
    optimizer = CreditGradient(env.space, seed=0, clip_pairs="median")
    optimizer.update(env)
    clipped = optimizer.pair_slopes(env)
    optimizer.clip_pairs = None
    free = optimizer.pair_slopes(env)
    change = (env.credits().reshape(-1, 2) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).abs()
    within = change <= 2 * change.median()
    assert 0 < within.sum() < len(within)
    torch.testing.assert_close(clipped[within], free[within])
    factor = (2 * change.median() / change)[~within, None]
    torch.testing.assert_close(clipped[~within], factor * free[~within])


def test_without_pairs_there_are_no_slopes() -> None:
    env = quadratic()
    with pytest.raises(RuntimeError, match="not in pairs"):
        CreditGradient(env.space, seed=0).gradient(env)
