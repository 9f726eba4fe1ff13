"""The estimate against the closed form of hgenv/Quadratic-v0, whose Hessian is 1."""

import pytest
import torch

from hgenv.optimizers import AutoSimulate, GradientOptimizer, RMSprop, UnsuitableError

from ..tools import center, draws, mixture, quadratic


def test_unbiased() -> None:
    """The mean over many sample seeds is the closed form, within five standard errors."""
    env = quadratic(batch_size=32)
    start, estimates, exact = env.state_dict(), [], []
    beta = env.space.project(env.space.initial)
    estimator = AutoSimulate(products=2, damping=0.25)
    for draw in range(150):
        env.load_state_dict(start | {"update": 100 * draw})
        env.step(beta)
        found = estimator.estimate(env, center(env), draws())
        assert found is not None
        assert found.shape == (env.problem.num_samples, env.space.dimension)
        estimates.append(found.mean(0))
        assert env.last is not None
        # Training to the end moves w to the mean of the points; damping takes a fifth of it.
        pull = (env.last.end.weights["w"] - env.validation.samples.image[0]) / 1.25
        z = (env.last.samples.image - beta[:3]) / beta[3]
        own = torch.cat([pull, (z @ pull).mean()[None]])
        exact.append(own * (env.space.high - env.space.low))
    gap = torch.stack(estimates) - torch.stack(exact)
    error = gap.std(0) / len(gap) ** 0.5
    assert (gap.mean(0).abs() <= 5 * error).all()
    assert (5 * error < 0.5 * torch.stack(exact).mean(0).abs().max()).all()  # a factor of 2 would be noticed


def test_its_price() -> None:
    """A validation pass with its way back, two training steps a product, two forward passes over the samples."""
    env = quadratic(batch_size=32)
    env.step(env.space.initial)
    before = dict(env.ledger.counts)
    AutoSimulate(products=3).estimate(env, center(env), draws())
    cost = {name: count - before[name] for name, count in env.ledger.counts.items() if count != before[name]}
    flops, photos = env.learner.flops, len(env.validation.samples)
    expected = 3 * flops("validate", photos) + 6 * flops("train", 32) + 2 * flops("validate", env.problem.num_samples)
    assert cost == {"validation_passes": 1, "flops": expected, "gradient_flops": expected}


def test_it_needs_scores() -> None:
    env = mixture()
    env.step(env.space.initial)
    optimizer = GradientOptimizer(env.space, AutoSimulate(), RMSprop(0.1), seed=0)
    with pytest.raises(UnsuitableError, match="has no log_prob_score"):
        optimizer.update(env)


@pytest.mark.parametrize("options", [{"products": 0}, {"damping": -1.0}])
def test_what_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="products must be at least 1 and damping at least 0"):
        AutoSimulate(**options)  # type: ignore[arg-type]
