"""SNES by hand, and candidates of a Sobol sequence."""

import math

import torch
from torch.quasirandom import SobolEngine

from hgenv.optimizers import REGISTRY, SNES, QuasiRandomSearch
from hgenv.testing.tools import through_file

from .test_evolution import Scored, unit_box
from .tools import center, draws, losses, probes, quadratic


def test_snes_by_hand() -> None:
    """Algorithm 2 of the paper over three generations; utilities in its words."""
    env, twin = quadratic(), quadratic()
    optimizer, random = SNES(env.space, seed=4, population=5, period=1, sigma=0.07), draws(4)
    mu, sigma = center(env), torch.full((4,), 0.07, dtype=torch.float64)
    raw = [max(0.0, math.log(5 / 2 + 1) - math.log(k)) for k in range(1, 6)]
    u = [x / sum(raw) - 1 / 5 for x in raw]
    eta = (3 + math.log(4)) / (5 * math.sqrt(4))
    for _ in range(3):
        s = torch.randn((5, 4), generator=random, dtype=torch.float64)
        order = losses(twin, mu + sigma * s).argsort().tolist()
        to_mu = sum(u[k] * s[i] for k, i in enumerate(order))
        to_sigma = sum(u[k] * (s[i] ** 2 - 1) for k, i in enumerate(order))
        mu, sigma = mu + sigma * to_mu, sigma * torch.exp(eta / 2 * to_sigma)
        optimizer.update(env)
        twin.step(env.space.denormalize(mu))
        assert env.outcome is not None
        torch.testing.assert_close(env.space.normalize(env.outcome.beta), mu)
        torch.testing.assert_close(optimizer.spreads, sigma)


def test_snes_learns_nothing_where_all_fail() -> None:
    optimizer, env = SNES(unit_box(3), seed=0, period=1), Scored(lambda betas, update: [None] * len(betas))
    optimizer.update(env)  # type: ignore[arg-type]
    assert torch.equal(optimizer.normalized, torch.full((3,), 0.5, dtype=torch.float64))
    assert torch.equal(optimizer.spreads, torch.full((3,), 0.1, dtype=torch.float64))


def test_quasi_random_candidates_are_one_sequence_through_a_saved_state() -> None:
    """Any 2^k in a row from a multiple of 2^k on have one in each 2^k-th of each component's range."""
    env = Scored(lambda betas, update: [0.0] + [1.0] * (len(betas) - 1))
    optimizer = QuasiRandomSearch(unit_box(3), seed=5, period=2)
    for update in range(8):
        if update == 3:
            other = QuasiRandomSearch(unit_box(3), seed=6, period=2)
            other.load_state_dict(through_file(optimizer.state_dict()))
            optimizer = other
        optimizer.update(env)  # type: ignore[arg-type]
    drawn = torch.cat([betas[1:] for betas in env.probed])
    expected = SobolEngine(3, scramble=True, seed=5).draw(16, dtype=torch.float64)
    torch.testing.assert_close(drawn, expected)
    for component in drawn.T:
        assert (component * 16).floor().sort().values.tolist() == list(range(16))


def test_a_search_costs_its_probes() -> None:
    env = quadratic()
    seen = probes(env)
    optimizer = REGISTRY["quasi_random_search"](env.space, seed=0)
    for _ in range(5):
        optimizer.update(env)
    assert [len(betas) for betas, _ in seen] == [5, 5]
