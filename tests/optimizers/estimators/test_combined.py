"""Precision weights against their formula, and who is left out."""

import pytest
import torch

from hgenv.optimizers import SGD, Combined, Credit, GradientOptimizer, Pathwise, ScoreInfluence, UnsuitableError

from ..tools import Given, center, draws, mixture, quadratic


def test_the_mean_is_weighted_by_precision_and_the_rows_tell_its_error() -> None:
    draw, nan = draws(), torch.nan
    first = 1 + torch.randn(40, 3, generator=draw).double()
    second = 1 + 3 * torch.randn(90, 3, generator=draw).double()
    first[:, 2], second[:, 1] = nan, nan
    first[:7, 0] = nan
    env = quadratic()
    rows = Combined((Given(first), Given(None), Given(second))).estimate(env, center(env), draw)
    assert rows is not None

    def known(column: torch.Tensor) -> tuple[float, float]:
        own = column[~column.isnan()]
        return float(own.mean()), float(own.var() / len(own))

    (m1, v1), (m2, v2) = known(first[:, 0]), known(second[:, 0])
    mean, error = known(rows[:, 0])
    assert mean == pytest.approx((m1 / v1 + m2 / v2) / (1 / v1 + 1 / v2))
    assert error == pytest.approx(1 / (1 / v1 + 1 / v2), rel=0.03)  # M - 1 here and there
    for component, alone in ((1, first), (2, second)):  # whoever knows a component alone has it to himself
        found, expected = rows[:, component], alone[:, component]
        torch.testing.assert_close(found[~found.isnan()], expected[~expected.isnan()])


def test_of_one_estimate_nothing_changes() -> None:
    env = quadratic()
    env.step(env.space.initial)
    alone = ScoreInfluence().estimate(env, center(env), draws())
    combined = Combined((ScoreInfluence(),)).estimate(env, center(env), draws())
    assert alone is not None
    assert combined is not None
    torch.testing.assert_close(combined, alone)


def test_it_is_no_worse_than_its_parts() -> None:
    env = quadratic(batch_size=32)
    env.step(env.space.initial)
    found = {}
    for name, estimator in (("path", Pathwise()), ("score", ScoreInfluence()), ("both", Combined())):
        rows = estimator.estimate(env, center(env), draws())
        assert rows is not None
        found[name] = float((rows.var(0) / len(rows)).sum())
    assert found["both"] < min(found["path"], found["score"])


def test_what_a_generator_does_not_have_is_gone_without() -> None:
    env = mixture()
    env.step(env.space.initial)
    given = Given(torch.ones(5, 4, dtype=torch.float64))
    rows = Combined((Pathwise(), ScoreInfluence(), given)).estimate(env, center(env), draws())
    torch.testing.assert_close(rows, given.rows)
    with pytest.raises(UnsuitableError, match=r"has no pathwise blocks.*; .*has no log_prob_score"):
        Combined().estimate(env, center(env), draws())


def test_what_is_no_list_of_estimators_is_refused() -> None:
    for wrong in ((), {"1": {"num_virtual": 0}}, Credit()):
        with pytest.raises(ValueError, match="estimators must be a list of at least one, not"):
            Combined(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="but 3 is none"):
        Combined((Credit(), 3))  # type: ignore[arg-type]


def test_one_of_them_may_have_samples_displaced() -> None:
    env = quadratic()
    GradientOptimizer(env.space, Combined((ScoreInfluence(), Credit())), SGD(), seed=0).update(env)
    assert env.last is not None
    assert len(env.last.betas.unique(dim=0)) == env.problem.num_samples
    with pytest.raises(ValueError, match="several of Credit, Credit want samples at betas of their own"):
        Combined((Credit(), Credit())).propose(env, center(env), draws())
