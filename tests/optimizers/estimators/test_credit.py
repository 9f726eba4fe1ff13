"""The estimate against the closed form of hgenv/Quadratic-v0 and against its own definition."""

import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv
from hgenv.optimizers import SGD, Credit, GradientOptimizer

from ..tools import center, draws, quadratic


def in_pairs(estimator: Credit, env: DataGenEnv, random: torch.Generator, at: Tensor | None = None) -> Tensor:
    """A step as the estimator proposes it, and the rows that it makes of it; returns them."""
    at = center(env) if at is None else at
    proposal = estimator.propose(env, at, random)
    assert proposal is not None
    seeds = env.sample_seeds(len(proposal.betas) // proposal.share).repeat_interleave(proposal.share)
    env.rollout(env.space.denormalize(proposal.betas), seeds=seeds, keep=True)
    rows = estimator.estimate(env, at, random)
    assert rows is not None
    return rows


def closed_form(env: DataGenEnv, curvature: bool) -> Tensor:
    """dL/dbeta per fraction of range, of samples at the center; without curvature, all K steps weigh alike."""
    eta, steps, size = env.problem.rule.learning_rate, env.problem.unroll_steps, env.problem.batch_size
    assert env.last is not None
    beta = env.space.project(env.space.initial)
    factors = [eta * ((1 - eta) ** (steps - 1 - k) if curvature else 1.0) for k in range(steps)]
    pull = env.last.end.weights["w"] - env.validation.samples.image[0]
    # A pair's difference in influence is <w_k - x, pull> to second order in delta: that of one point at the center,
    # whose z is the pair's.
    position, spread = torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    made = env.generator(beta.expand(steps * size, -1), env.last.seeds).image
    for k, factor in enumerate(factors):
        assert torch.isfinite(env.last.states[k].weights["w"]).all()
        z = (made[k * size : (k + 1) * size] - beta[:3]) / beta[3]
        position += factor * pull
        spread += factor * (pull * z.mean(0)).sum()
    return torch.cat([position, spread[None]]) * (env.space.high - env.space.low)


@pytest.mark.parametrize("curvature", [False, True])
@pytest.mark.parametrize("directions", ["gaussian", "coordinate"])
def test_unbiased(curvature: bool, directions: str) -> None:
    """The mean over many draws of directions is the closed form, within five standard errors."""
    env, random = quadratic(batch_size=32), draws()
    start, estimates = env.state_dict(), []
    estimator = Credit(directions=directions, sigma=1e-3, curvature=curvature)  # type: ignore[arg-type]
    for _ in range(150):
        env.load_state_dict(start)
        rows = in_pairs(estimator, env, random)
        estimates.append(rows.nanmean(0))
    found = torch.stack(estimates)
    error = found.std(0) / len(found) ** 0.5
    expected = closed_form(env, curvature)
    assert ((found.mean(0) - expected).abs() <= 5 * error + 1e-4 * expected.abs()).all()
    # And this would notice a missing factor of 2 or d.
    assert (5 * error < 0.25 * expected.abs().max()).all()
    assert not torch.allclose(closed_form(env, True), closed_form(env, False), rtol=0.02)


def test_pairs_share_a_seed_and_nothing_else_does() -> None:
    env = quadratic()
    GradientOptimizer(env.space, Credit(), SGD(), seed=0).update(env)
    assert env.last is not None
    seeds, betas = env.last.seeds.reshape(-1, 2), env.last.betas.reshape(-1, 2, 4)
    assert torch.equal(seeds[:, 0], seeds[:, 1])
    assert len(set(seeds[:, 0].tolist())) == len(seeds)
    torch.testing.assert_close(betas.mean(1), env.space.initial.expand(len(betas), -1))
    assert ((betas[:, 0] - betas[:, 1]).abs() > 0).all()


def test_coordinate_pairs_are_dealt_out_evenly() -> None:
    env = quadratic()
    proposal = Credit(directions="coordinate", sigma=0.1).propose(env, center(env), draws())
    assert proposal is not None
    assert proposal.share == 2
    taken = proposal.betas[0::2] - proposal.betas[1::2]
    used = taken.abs() > 1e-12
    assert (used.sum(1) == 1).all()
    assert (used.sum(0) == 4).all()  # 16 pairs, 4 components
    torch.testing.assert_close(taken[used], torch.full((16,), 0.2, dtype=torch.float64))


def test_a_coordinate_pair_knows_its_component_alone() -> None:
    env = quadratic()
    rows = in_pairs(Credit(directions="coordinate"), env, draws())
    assert env.last is not None
    betas = env.space.normalize(env.last.betas)
    taken = betas[0::2] - betas[1::2]
    ahead, behind = env.last.influence().reshape(-1, 2).unbind(1)
    assert torch.equal(rows.isnan(), taken == 0)
    torch.testing.assert_close(rows[taken != 0], 32 * (ahead - behind) / taken.sum(1))


def test_a_bound_that_cuts_displacements() -> None:
    """At a bound a pair differs by what is left; its slope is attributed to that."""
    env = quadratic()
    at_bound = torch.tensor([0.0, 1.0, 0.4, 0.5], dtype=torch.float64)
    rows = in_pairs(Credit(sigma=0.1), env, draws(), at_bound)
    assert env.last is not None
    taken = env.space.normalize(env.last.betas).reshape(-1, 2, 4)
    taken = taken[:, 0] - taken[:, 1]
    ahead, behind = env.last.influence().reshape(-1, 2).unbind(1)
    # N d (c+ - c-) / |taken| * taken / |taken|
    expected = 32 * 4 * (ahead - behind)[:, None] * taken / (taken**2).sum(1, keepdim=True)
    torch.testing.assert_close(rows, expected)
    assert taken[:, 0].abs().mean() < 0.7 * taken[:, 2].abs().mean()


def test_a_pair_that_a_bound_makes_alike_says_nothing() -> None:
    """Out beyond the bounds, both ends of a displacement are at the same corner."""
    env = quadratic()
    rows = in_pairs(Credit(sigma=1e-3), env, draws(), torch.full((4,), 1.5, dtype=torch.float64))
    assert (rows == 0).all()


def test_only_steps_before_an_improvement_are_in_pairs() -> None:
    env = quadratic()
    optimizer = GradientOptimizer(env.space, Credit(), SGD(), seed=0, period=3)
    paired, moved, last = [], [], optimizer.recommendation
    for _ in range(7):
        optimizer.update(env)
        assert env.last is not None
        paired.append(len(set(env.last.seeds.tolist())) < env.problem.num_samples)
        moved.append(not torch.equal(optimizer.recommendation, last))
        last = optimizer.recommendation
    assert paired == [False, False, True, False, False, True, False]
    assert moved == [False, False, False, True, False, False, True]


def test_clipping_of_pairs() -> None:
    env = quadratic()
    clipped = in_pairs(Credit(clip_pairs=True), env, draws())
    free = Credit().estimate(env, center(env), draws())
    assert free is not None
    assert env.last is not None
    change = (env.last.influence().reshape(-1, 2) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).abs()
    within = change <= 2 * change.median()
    assert 0 < within.sum() < len(within)
    torch.testing.assert_close(clipped[within], free[within])
    factor = (2 * change.median() / change)[~within, None]
    torch.testing.assert_close(clipped[~within], factor * free[~within])


def test_curvature_is_that_of_the_adjoint() -> None:
    env = quadratic()
    rows = in_pairs(Credit(curvature=True), env, draws())
    assert env.last is not None
    betas = env.space.normalize(env.last.betas)
    taken = betas[0::2] - betas[1::2]
    ahead, behind = env.last.sample_gradient().influence.reshape(-1, 2).unbind(1)
    torch.testing.assert_close(rows, 32 * 4 * (ahead - behind)[:, None] * taken / (taken**2).sum(1, keepdim=True))
    assert env.ledger.counts["gradient_steps"] == 4


def test_without_pairs_there_is_no_estimate() -> None:
    env = quadratic()
    assert Credit().estimate(env, center(env), draws()) is None
    env.step(env.space.initial)
    assert Credit().estimate(env, center(env), draws()) is None
    assert env.ledger.counts["validation_passes"] == 1


def test_an_odd_batch_cannot_be_paired() -> None:
    env = quadratic(batch_size=5, unroll_steps=2)
    with pytest.raises(ValueError, match="batch_size must be even, not 5"):
        Credit().propose(env, center(env), torch.Generator().manual_seed(0))
