"""What the published methods are: their equations written out on hgenv/Quadratic-v0, over several updates."""

import math

import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv
from hgenv.optimizers import (
    REGISTRY,
    SGD,
    Antithetic,
    Hybrid,
    augmented_random_search,
    basic_random_search_paper,
    hybrid_gradient_paper,
)

from .tools import center, draws, losses, quadratic


def sample_gradients(env: DataGenEnv) -> Tensor:
    """dL/dX_i of the last step's samples, all K training steps with curvature, (N, 3)."""
    eta, steps, size = env.problem.rule.learning_rate, env.problem.unroll_steps, env.problem.batch_size
    pull = env.state.weights["w"] - env.validation.samples.image[0]
    factors = torch.tensor([eta * (1 - eta) ** (steps - 1 - k) / size for k in range(steps)], dtype=torch.float64)
    return factors.repeat_interleave(size)[:, None] * pull


def hybrid_by_hand(env: DataGenEnv, beta: Tensor, delta: Tensor) -> Tensor:
    """Equations 11 and 12 with the factor d that makes the estimate unbiased, (d,)."""
    assert env.last is not None
    gradients, seeds = sample_gradients(env), env.last.seeds
    terms = []
    for direction in delta:
        ahead, behind = (beta + direction).clamp(0, 1), (beta - direction).clamp(0, 1)
        points = [env.generator(env.space.denormalize(b).expand(32, -1), seeds).image for b in (ahead, behind)]
        length = (ahead - behind).norm()
        slope = (gradients * (points[0] - points[1])).sum() / length
        terms.append(slope * (ahead - behind) / length)
    return len(beta) * torch.stack(terms).mean(0)


# Where the directions of length 0.05 meet no bound, and where they do.
@pytest.mark.parametrize("initial", [None, [-0.99, 0.98, 0.3, 0.01]])
def test_hybrid_gradient_of_the_paper(initial: list[float] | None) -> None:
    env = quadratic()
    optimizer = hybrid_gradient_paper(env.space, seed=4, initial=initial)
    random, beta = draws(4), env.space.normalize(env.space.initial if initial is None else torch.tensor(initial))
    square = torch.zeros(4, dtype=torch.float64)
    for t in range(6):
        before = dict(env.ledger.counts)
        if t > 0:
            delta = 0.05 * torch.randn((16, 4), generator=random, dtype=torch.float64)  # 10
            gradient = hybrid_by_hand(env, beta, delta)
            square = 0.9 * square + 0.1 * gradient**2
            rate = 0.02 / math.sqrt(1 + (t - 1) / 30)
            beta = (beta - rate * gradient / (square.sqrt() + 1e-8)).clamp(0, 1)
        optimizer.update(env)
        assert env.outcome is not None
        torch.testing.assert_close(env.space.normalize(env.outcome.beta), beta, rtol=0, atol=1e-8)
        spent = {name: env.ledger.counts[name] - before[name] for name in before}
        assert spent["updates"] == 1
        assert spent["gradient_steps"] == (4 if t else 0)
        assert spent["samples"] == 32 + (2 * 16 * 32 if t else 0)


def test_what_the_paper_states_of_hybrid_gradient() -> None:
    estimator = hybrid_gradient_paper.keywords["estimator"]
    assert estimator == Hybrid(
        directions="gaussian",
        num_directions=16,
        shared=True,
        sigma=0.05,
        last_steps=None,
        curvature=True,
        pathwise=False,
        clip_samples=False,
    )
    optimizer = hybrid_gradient_paper(quadratic().space, seed=0)
    assert optimizer.bounds == "clip"
    assert optimizer.shrinkage is None
    assert optimizer.period == 1
    assert optimizer.rule.momentum == 0


@pytest.mark.parametrize(("preset", "best"), [(basic_random_search_paper, None), (augmented_random_search, 2)])
def test_random_searches_as_published(preset, best: int | None) -> None:
    """Algorithm 1: all directions, over 2 sigma; algorithm 2 (V1-t): the best b, over the deviation of their losses."""
    env, twin = quadratic(), quadratic()  # the twin is asked for losses, so that prices are those of the method alone
    optimizer = preset(env.space, seed=6)
    random, beta = draws(6), center(env)
    sigma, directions, rate = optimizer.estimator.sigma, optimizer.estimator.num_directions, optimizer.rule.rate(0)
    assert optimizer.rule == SGD(rate)
    for t in range(6):
        delta = torch.randn((directions, 4), generator=random, dtype=torch.float64)
        plus, minus = losses(twin, beta + sigma * delta), losses(twin, beta - sigma * delta)
        if best is None:
            gradient = ((plus - minus) / (2 * sigma)) @ delta / directions
        else:
            kept = torch.minimum(plus, minus).argsort()[:best]
            deviation = torch.cat([plus[kept], minus[kept]]).std(unbiased=False)
            gradient = (plus - minus)[kept] @ delta[kept] / (best * deviation)
        beta = beta - rate * gradient
        optimizer.update(env)
        twin.step(env.space.denormalize(beta))
        assert env.outcome is not None
        torch.testing.assert_close(env.space.normalize(env.outcome.beta), beta, rtol=0, atol=1e-9)
        assert ((beta > 3 * sigma) & (beta < 1 - 3 * sigma)).all()  # no bound has had a say
        assert env.ledger.counts["samples"] == (t + 1) * (2 * directions + 1) * 32


def test_what_is_published_of_random_searches() -> None:
    plain, augmented = (preset.keywords["estimator"] for preset in (basic_random_search_paper, augmented_random_search))
    assert plain == Antithetic(num_directions=plain.num_directions)
    assert augmented.normalize
    assert 1 <= augmented.best < augmented.num_directions
    for preset in (basic_random_search_paper, augmented_random_search):
        optimizer = preset(quadratic().space, seed=0)
        assert (optimizer.period, optimizer.shrinkage) == (1, None)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        KeyError, match=r"no optimizer 'cma'; there are hybrid_gradient, .*evolution, .*, random_search"
    ):
        REGISTRY["cma"]
    assert REGISTRY.get("cma") is None
    assert "cma" not in REGISTRY
