"""The estimate against central differences of L itself, and against algorithms 1 and 2 by hand."""

import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv, Outcome, Status
from hgenv.optimizers import SGD, Antithetic, GradientOptimizer, RMSprop, Rule

from ..tools import center, draws, gradient, losses, probes, quadratic


def central_differences(env: DataGenEnv, normalized: Tensor, h: float = 1e-5) -> Tensor:
    steps = h * torch.eye(len(normalized), dtype=torch.float64)
    return (losses(env, normalized + steps) - losses(env, normalized - steps)) / (2 * h)


def test_unbiased() -> None:
    """For an L that is quadratic in beta, antithetic differences have no bias at any sigma."""
    env = quadratic()
    expected = central_differences(env, center(env))
    # sigma so small that no bound is met
    found = gradient(Antithetic(num_directions=1000, sigma=0.02), env)
    # The covariance of delta delta^T g is |g|^2 I + g g^T.
    error = ((expected.square().sum() + expected.square()) / 1000).sqrt()
    assert ((found - expected).abs() <= 4 * error).all()
    assert (4 * error < 0.3 * expected.norm()).all()


def test_definition() -> None:
    """Two pairs, by hand: (L+ - L-) / (2 sigma) delta, or divided by the losses' standard deviation."""
    env = quadratic()
    delta = torch.randn((2, 4), generator=draws(5), dtype=torch.float64)
    plus, minus = losses(env, center(env) + 0.05 * delta), losses(env, center(env) - 0.05 * delta)
    rise = (plus - minus)[:, None]
    plain = Antithetic(num_directions=2, sigma=0.05).estimate(env, center(env), draws(5))
    torch.testing.assert_close(plain, rise / 0.1 * delta)
    normalized = Antithetic(num_directions=2, sigma=0.05, normalize=True).estimate(env, center(env), draws(5))
    spread = torch.cat([plus, minus]).std(unbiased=False)
    torch.testing.assert_close(normalized, rise / spread * delta)


@pytest.mark.parametrize("normalize", [False, True])
def test_only_the_best_directions_are_kept(normalize: bool) -> None:
    """Those along which the lower loss of the pair is lowest; the deviation is that of their losses alone."""
    env = quadratic()
    delta = torch.randn((6, 4), generator=draws(1), dtype=torch.float64)
    plus, minus = losses(env, center(env) + 0.05 * delta), losses(env, center(env) - 0.05 * delta)
    ranked = sorted(range(6), key=lambda j: min(float(plus[j]), float(minus[j])))[:3]
    kept = torch.tensor(ranked)
    unit = torch.cat([plus[kept], minus[kept]]).std(unbiased=False) if normalize else 0.1
    estimator = Antithetic(num_directions=6, sigma=0.05, best=3, normalize=normalize)
    rows = estimator.estimate(env, center(env), draws(1))
    torch.testing.assert_close(rows, ((plus - minus)[kept] / unit)[:, None] * delta[kept])
    assert not torch.equal(kept.sort().values, torch.arange(3))


def test_a_bound_that_cuts_a_probe() -> None:
    """At a bound, the displacement that took place is what the difference is attributed to."""
    env = quadratic()
    at_bound = center(env)
    at_bound[0] = 1.0
    seen = probes(env)
    found = gradient(Antithetic(num_directions=1, sigma=0.1), env, at_bound, seed=2)
    ((betas, (plus, minus)),) = seen
    ahead, behind = env.space.normalize(betas)
    assert 1.0 in (ahead[0], behind[0])
    assert not torch.allclose(ahead + behind, 2 * at_bound)
    torch.testing.assert_close(found, (plus.loss - minus.loss) / 0.2 * (ahead - behind) / 0.2)


def test_step_of_plain_sgd() -> None:
    env = quadratic()
    expected = center(env) - 0.01 * gradient(Antithetic(), env, seed=2)
    optimizer = GradientOptimizer(env.space, Antithetic(), SGD(0.01, decay_updates=1.0), seed=2)
    optimizer.update(env)
    assert env.outcome is not None
    torch.testing.assert_close(env.space.normalize(env.outcome.beta), expected)
    assert env.update == 1


def test_failed_pairs_are_left_out() -> None:
    env = quadratic()
    whole = gradient(Antithetic(num_directions=1), env, seed=4)
    probe = env.probe

    def failing(which: tuple[int, ...]) -> None:
        def some(betas: Tensor) -> list[Outcome]:
            failed = Outcome(env.space.initial, None, Status.DIVERGED, "on purpose")
            return [failed if i in which else o for i, o in enumerate(probe(betas))]

        env.probe = some  # type: ignore[method-assign]

    # Of two pairs (ahead 0, 1; behind 2, 3) the first direction is that of `whole`.
    failing((3,))
    torch.testing.assert_close(gradient(Antithetic(num_directions=2), env, seed=4), whole)
    torch.testing.assert_close(gradient(Antithetic(num_directions=2, best=2), env, seed=4), whole)
    failing((0, 3))
    assert Antithetic(num_directions=2).estimate(env, center(env), draws(4)) is None
    optimizer = GradientOptimizer(env.space, Antithetic(num_directions=2), RMSprop(), seed=4)
    optimizer.update(env)
    assert env.update == 1
    assert env.outcome is not None
    torch.testing.assert_close(env.outcome.beta, env.space.initial)


def test_what_an_update_costs() -> None:
    env = quadratic()
    GradientOptimizer(env.space, Antithetic(num_directions=3), RMSprop(), seed=0).update(env)
    assert env.ledger.counts["samples"] == 7 * env.problem.num_samples
    assert env.ledger.counts["validation_passes"] == 7


@pytest.mark.parametrize("rule", [SGD(), RMSprop()])
def test_equal_losses_move_nothing(rule: Rule) -> None:
    env = quadratic()
    optimizer = GradientOptimizer(env.space, Antithetic(normalize=True), rule, seed=0)
    env.probe = lambda betas: [Outcome(b, 1.0) for b in betas]  # type: ignore[method-assign]
    optimizer.update(env)
    assert env.outcome is not None
    torch.testing.assert_close(env.outcome.beta, env.space.initial)
