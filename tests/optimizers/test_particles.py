"""Noise-reuse and persistent evolution strategies, written out with public methods of the environment."""

import pytest
import torch
from torch import Tensor

import hgenv
from hgenv import DataGenEnv
from hgenv.optimizers import SGD, NoiseReuseES, ParticleES, PersistentES
from hgenv.testing.tools import through_file

from .tools import Breaking, center, draws, quadratic

RATE, SIGMA = 0.05, 0.04


def by_hand(env: DataGenEnv, seed: int, updates: int, pairs: int, episode: int, reuse: bool) -> list[Tensor]:
    """The betas that are stepped at."""
    random, beta = draws(seed), center(env)
    noise, sums = [torch.zeros(4, dtype=torch.float64)] * pairs, [torch.zeros(4, dtype=torch.float64)] * pairs
    states, ages = [(env.state, env.state)] * pairs, [j * episode // pairs for j in range(pairs)]
    stepped = []
    for t in range(updates):
        gradient = torch.zeros(4, dtype=torch.float64)
        for j in range(pairs):
            fresh = SIGMA * torch.randn(4, generator=random, dtype=torch.float64)
            if t == 0 or ages[j] == episode:
                ages[j] = 0 if t else ages[j]
                states[j], noise[j], sums[j] = (env.state, env.state), fresh, torch.zeros(4, dtype=torch.float64)
            if not reuse:
                noise[j], sums[j] = fresh, sums[j] + fresh
            ends = [
                env.rollout(env.space.denormalize(beta + sign * noise[j]), start=start)
                for sign, start in zip((1, -1), states[j], strict=True)
            ]
            states[j], ages[j] = (ends[0].end, ends[1].end), ages[j] + 1
            rise = ends[0].outcome.loss - ends[1].outcome.loss
            gradient += rise / (2 * SIGMA**2) * (noise[j] if reuse else sums[j]) / pairs
        beta = beta - RATE * gradient
        stepped.append(beta)
        env.step(env.space.denormalize(beta))
    return stepped


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize(("kind", "reuse"), [(NoiseReuseES, True), (PersistentES, False)])
def test_the_papers_algorithms(kind: type[ParticleES], reuse: bool, pairs: int) -> None:
    env, twin = quadratic(), quadratic()
    optimizer = kind(env.space, SGD(RATE), seed=6, num_particles=pairs, sigma=SIGMA, episode=3)
    for expected in by_hand(twin, 6, 8, pairs, 3, reuse):
        optimizer.update(env)
        assert env.outcome is not None
        torch.testing.assert_close(env.space.normalize(env.outcome.beta), expected, rtol=0, atol=1e-9)
    assert env.ledger.counts["samples"] == 8 * (1 + 2 * pairs) * 32


def test_a_particle_sees_what_a_probe_cannot() -> None:
    """After t estimates of K steps at rate eta, differences are those of weights that have gone 1 - (1 - eta)^(K t) of
    the way: a particle's slope along a component grows as that, a probe's does not."""
    env = quadratic()
    optimizer = NoiseReuseES(env.space, SGD(1e-12), seed=0, sigma=1e-3, episode=None)
    for t in range(1, 7):
        rows = optimizer.estimator.estimate(env, center(env), optimizer.random)
        assert rows is not None
        (particle,) = optimizer.estimator.all  # type: ignore[attr-defined]
        apart = (particle.ahead.weights["w"] - particle.behind.weights["w"]).double()
        expected = (1 - 0.9 ** (4 * t)) * 2 * particle.delta[:3] * 2  # the range of a position is 2
        # Spread moves the samples, too, by what the seeds say: at most its own share.
        assert float((apart - expected).norm()) < 0.5 * float(2 * particle.delta[3].abs()) + 1e-9
        env.step(env.space.initial)


def test_a_particle_that_fails_starts_again() -> None:
    env = quadratic()
    optimizer = NoiseReuseES(env.space, SGD(RATE), seed=0, episode=None)
    optimizer.update(env)
    (before,) = optimizer.estimator.all  # type: ignore[attr-defined]
    generator, at = Breaking(env), optimizer.recommendation
    generator.failing = True
    optimizer.improve(env)
    assert torch.equal(optimizer.recommendation, at)
    generator.failing = False
    optimizer.improve(env)
    (after,) = optimizer.estimator.all  # type: ignore[attr-defined]
    assert (before.age, after.age) == (1, 1)
    assert not torch.equal(before.delta, after.delta)


def test_a_state_of_another_network_is_refused() -> None:
    env = quadratic()
    optimizer = NoiseReuseES(env.space, seed=0)
    optimizer.update(env)
    state = through_file(optimizer.state_dict())
    strange = hgenv.TrainingState({"w": torch.zeros(5, dtype=torch.float64)}, {}, 4).state_dict()
    state["particles"][0] |= {"ahead": strange, "behind": strange}
    other = NoiseReuseES(env.space, seed=0)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="the optimizer's particles: weights: w: must be a tensor"):
        other.update(env)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.update(particles=[]), "particles: must be a list of 1"),
        (lambda state: state["particles"][0].pop("age"), "no 'age'"),
        (lambda state: state["particles"][0]["ahead"]["weights"].update(w=torch.tensor([torch.nan])), "not finite"),
        (lambda state: state["particles"][0]["ahead"]["weights"].update(w=torch.zeros(1).expand(9**9)), "or no copy"),
        (lambda state: state["particles"][0]["ahead"]["weights"].update(w="x"), "must be tensors of numbers"),
    ],
)
def test_a_state_that_is_none_is_refused(spoil, message: str) -> None:
    env = quadratic()
    optimizer = NoiseReuseES(env.space, seed=0)
    optimizer.update(env)
    state = through_file(optimizer.state_dict())
    spoil(state)
    with pytest.raises(ValueError, match=message):
        NoiseReuseES(env.space, seed=0).load_state_dict(state)
