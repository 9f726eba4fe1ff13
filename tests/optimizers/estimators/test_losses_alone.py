"""REINFORCE, SPSA, centred ranks and guided directions: their equations written out, and what their means are."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from hgenv import DataGenEnv
from hgenv.optimizers import REGISTRY, SPSA, CentredRanks, Guided, PowerSGD, Reinforce
from hgenv.optimizers.estimators.centred_ranks import centred_ranks
from hgenv.probing import Batched

from ..tools import Breaking, Given, center, draws, losses, probes, quadratic


def slopes(env: DataGenEnv, h: float = 1e-5) -> Tensor:
    """dL/dbeta at the common beta, by central differences."""
    steps = h * torch.eye(4, dtype=torch.float64)
    return (losses(env, center(env) + steps) - losses(env, center(env) - steps)) / (2 * h)


def fail(env: DataGenEnv, which: set[int]) -> None:
    """Have some of the probes of each call fail."""
    probe, generator = env.probe, Breaking(env)

    def failing(betas: Tensor) -> list:
        found = []
        for i, beta in enumerate(betas):
            generator.failing = i in which
            found += probe(beta[None])
        return found

    env.probe = failing  # type: ignore[method-assign]


def test_reinforce_by_hand() -> None:
    """The score of each draw, times its reward less the mean reward of the others."""
    env = quadratic()
    found = Reinforce(num_probes=3, sigma=0.1).estimate(env, center(env), draws(5))
    eps = torch.randn((3, 4), generator=draws(5), dtype=torch.float64)
    reward = [-x for x in losses(env, center(env) + 0.1 * eps).tolist()]
    baseline = [(reward[1] + reward[2]) / 2, (reward[0] + reward[2]) / 2, (reward[0] + reward[1]) / 2]
    score = eps / 0.1  # (beta - theta) / sigma^2
    expected = [-(reward[k] - baseline[k]) * score[k] for k in range(3)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_reinforce_is_unbiased() -> None:
    """Where L is quadratic, the gradient of the expected reward is that of the reward."""
    env = quadratic(prober=Batched())
    expected, rows = slopes(env), Reinforce(num_probes=2000, sigma=0.02).estimate(env, center(env), draws())
    assert rows is not None
    error = rows.std(0) / len(rows) ** 0.5
    assert ((rows.mean(0) - expected).abs() <= 4 * error).all()
    assert (4 * error < expected.norm() / 2).all()


def test_reinforce_leaves_failures_out() -> None:
    env = quadratic()
    eps = torch.randn((4, 4), generator=draws(5), dtype=torch.float64)
    first, second = losses(env, center(env) + 0.05 * eps[[0, 3]])
    fail(env, {1, 2})
    found = Reinforce(num_probes=4).estimate(env, center(env), draws(5))
    torch.testing.assert_close(found, torch.stack([(first - second) * eps[0], (second - first) * eps[3]]) / 0.05)
    fail(env, {0, 1, 2})
    assert Reinforce(num_probes=4).estimate(env, center(env), draws(5)) is None


@pytest.mark.parametrize("directions", [1, 3])
def test_spsa_by_hand(directions: int) -> None:
    env = quadratic()
    for k in range(3):
        seen = probes(env)
        found = SPSA(num_directions=directions, sigma=0.08).estimate(env, center(env), draws(k))
        ((betas, outcomes),) = seen
        c = 0.08 / (k + 1) ** 0.101
        moved = (env.space.normalize(betas) - center(env)) / c
        torch.testing.assert_close(moved.abs(), torch.ones_like(moved))
        assert torch.equal(moved[:directions].sign(), -moved[directions:].sign())
        for j in range(directions):
            rise = outcomes[j].loss - outcomes[directions + j].loss
            torch.testing.assert_close(found[j], rise / (2 * c * moved[j]))
        env.step(env.space.initial)


def test_spsa_moves_by_spalls_gains() -> None:
    """a_k = a / (k + 1 + A)^0.602."""
    rule, stability = PowerSGD(0.3, decay_updates=11), 10
    a = 0.3 * (1 + stability) ** 0.602
    for k in (0, 1, 7, 500):
        assert rule.rate(k) == pytest.approx(a / (k + 1 + stability) ** 0.602)
    assert isinstance(REGISTRY["spsa"](quadratic().space, seed=0).rule, PowerSGD)


def test_centred_ranks_against_scipy() -> None:
    found = torch.tensor([0.3, -1.0, 0.3, 7.0, 2.0, 0.3], dtype=torch.float64)
    np.testing.assert_allclose(centred_ranks(found), (rankdata(found) - 1) / 5 - 0.5)
    assert not centred_ranks(torch.ones(4, dtype=torch.float64)).any()


def test_openai_es_by_hand() -> None:
    env = quadratic()
    delta = torch.randn((3, 4), generator=draws(5), dtype=torch.float64)
    both = torch.cat([losses(env, center(env) + 0.05 * delta), losses(env, center(env) - 0.05 * delta)])
    ranks = (rankdata(both) - 1) / 5 - 0.5
    expected = [(ranks[j] - ranks[3 + j]) / 0.1 * delta[j] for j in range(3)]
    found = CentredRanks(num_directions=3).estimate(env, center(env), draws(5))
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("estimator", [SPSA(num_directions=3), CentredRanks(num_directions=3)])
def test_a_failed_probe_takes_its_pair_out(estimator: SPSA | CentredRanks) -> None:
    env = quadratic()
    fail(env, {1})
    rows = estimator.estimate(env, center(env), draws(5))
    assert rows is not None
    assert len(rows) == 2
    fail(env, {0, 1, 5})
    assert estimator.estimate(env, center(env), draws(5)) is None


def test_guided_directions_have_the_papers_covariance() -> None:
    """alpha / d I + (1 - alpha) u u^T, in units of d sigma^2; the estimate is 2 Sigma / (d sigma^2) times the slope."""
    env, surrogate = quadratic(prober=Batched()), torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    u = surrogate / 5
    expected = 0.3 / 4 * torch.eye(4, dtype=torch.float64) + 0.7 * u[:, None] * u
    seen = probes(env)
    guided = Guided(guide=Given(surrogate[None]), num_directions=1500, sigma=0.02, alpha=0.3)
    rows = guided.estimate(env, center(env), draws())
    moved = (env.space.normalize(seen[0][0]) - center(env))[:1500] / 0.02 / 2
    torch.testing.assert_close(moved.T @ moved / 1500, expected, rtol=0, atol=0.05)
    assert rows is not None
    error = rows.std(0) / len(rows) ** 0.5
    assert ((rows.mean(0) - 2 * expected @ slopes(env)).abs() <= 4 * error).all()


def test_without_a_guide_all_directions_are_alike() -> None:
    env = quadratic()
    found = Guided(guide=Given(None), num_directions=2).estimate(env, center(env), draws(5))
    delta = torch.randn((2, 4), generator=draws(5), dtype=torch.float64)
    rise = losses(env, center(env) + 0.05 * delta) - losses(env, center(env) - 0.05 * delta)
    sigma = 0.05 * math.sqrt(4)
    torch.testing.assert_close(found, rise[:, None] / sigma**2 * 0.05 * delta)


def test_a_learning_rate_that_falls_falls() -> None:
    rates = [PowerSGD(1.0, decay_updates=5).rate(k) for k in range(9)]
    assert rates[0] == 1.0
    assert all(a > b for a, b in pairwise(rates))
