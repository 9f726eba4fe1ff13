"""The estimate against the closed form of hgenv/Quadratic-v0, and what virtual samples are."""

import pytest
import torch

from hgenv import DataGenEnv, RenderError
from hgenv.learning import TrainingState
from hgenv.optimizers import SGD, GradientOptimizer, ScoreInfluence, UnsuitableError

from ..tools import Breaking, center, draws, mixture, quadratic


def rows(estimator: ScoreInfluence, env: DataGenEnv) -> torch.Tensor:
    found = estimator.estimate(env, center(env), draws())
    assert found is not None
    return found


@pytest.mark.parametrize(("num_virtual", "last_steps"), [(0, None), (40, 1)])
def test_unbiased(num_virtual: int, last_steps: int | None) -> None:
    """The mean over many sample seeds is the closed form, within five standard errors."""
    env = quadratic(batch_size=32)
    start, estimates, exact = env.state_dict(), [], []
    beta = env.space.project(env.space.initial)
    estimator = ScoreInfluence(num_virtual, clip=float("inf"), last_steps=last_steps)
    for draw in range(150):
        env.load_state_dict(start | {"update": 100 * draw})
        env.step(beta)
        assert env.last is not None
        estimates.append(rows(estimator, env).mean(0))
        # Without curvature all K steps weigh alike; L moves by eta <pull, change of x> for each.
        pull = env.last.end.weights["w"] - env.validation.samples.image[0]
        z = (env.last.samples.image - beta[:3]) / beta[3]
        rise = env.problem.rule.learning_rate * env.problem.unroll_steps
        own = torch.cat([rise * pull, rise * (z @ pull).mean()[None]])
        exact.append(own * (env.space.high - env.space.low))
    gap = torch.stack(estimates) - torch.stack(exact)
    error = gap.std(0) / len(gap) ** 0.5
    expected = torch.stack(exact).mean(0)
    assert (gap.mean(0).abs() <= 5 * error).all()
    assert (5 * error < 0.5 * expected.abs().max()).all()  # a wrong sign or factor of 2 would be noticed


def test_virtual_samples_tell_as_much_as_trained_ones_and_nothing_is_trained_on_them() -> None:
    env = quadratic(batch_size=64)
    env.step(env.space.initial)
    assert env.last is not None
    state, before = env.state, env.ledger.counts["training_steps"]
    last = slice(-64, None)
    same = env.last.virtual_influence(env.last.betas[last], env.last.seeds[last])
    torch.testing.assert_close(
        same, env.last.influence()[last]
    )  # those of the last step itself, as if they were others
    assert len(rows(ScoreInfluence(100), env)) == 4 * 64 + 100
    assert isinstance(env.state, TrainingState)
    assert env.state is state
    assert env.ledger.counts["training_steps"] == before


def test_virtual_samples_are_new_ones() -> None:
    """Neither trained on in the last step nor in the coming one."""
    env, asked = quadratic(), list[torch.Tensor]()
    env.step(env.space.initial)
    assert env.last is not None
    known = {*env.last.seeds.tolist(), *env.sample_seeds(env.problem.num_samples).tolist()}
    generate = env.problem.generator.__class__.__call__

    class Listening(type(env.generator)):  # type: ignore[misc]
        def __call__(self, betas, seeds):
            asked.append(seeds)
            return generate(self, betas, seeds)

    env.generator.__class__ = Listening
    rows(ScoreInfluence(50), env)
    (fresh,) = asked
    assert len(set(fresh.tolist())) == 50
    assert not known & set(fresh.tolist())


def test_clipping_cuts_what_a_sample_may_say() -> None:
    env = quadratic()
    env.step(env.space.initial)
    free, cut = (rows(ScoreInfluence(64, clip), env) for clip in (float("inf"), 1.0))
    ratio = (cut / free)[:, 3].abs()
    assert ((ratio > 0) & (ratio <= 1 + 1e-12)).all()
    assert 0.4 < float((ratio > 1 - 1e-9).double().mean()) < 0.6


def test_no_estimate_of_a_step_that_failed_and_none_before_the_first() -> None:
    env = quadratic()
    assert ScoreInfluence().estimate(env, center(env), draws()) is None
    broken = Breaking(env)
    broken.failing = True
    env.step(env.space.initial)
    assert ScoreInfluence().estimate(env, center(env), draws()) is None


def test_a_virtual_sample_that_cannot_be_rendered_costs_the_gradient_not_the_run() -> None:
    env = quadratic()
    broken = Breaking(env)
    env.step(env.space.initial)
    broken.failing = True
    assert env.last is not None
    before = env.ledger.counts["samples"]
    with pytest.raises(RenderError):
        ScoreInfluence(20).estimate(env, center(env), draws())
    assert env.ledger.counts["samples"] == before + 20


def test_generators_without_scores_are_named() -> None:
    env = mixture()
    with pytest.raises(UnsuitableError, match=r"MixtureGenerator has no log_prob_score.*which this estimator"):
        GradientOptimizer(env.space, ScoreInfluence(), SGD(), seed=0).update(env)
    for wrong in ({"num_virtual": -1}, {"clip": 0.0}):
        with pytest.raises(ValueError, match="num_virtual must be 0 or more, and clip positive"):
            ScoreInfluence(**wrong)  # type: ignore[arg-type]
