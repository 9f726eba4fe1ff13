"""The estimate against the closed form of hgenv/Quadratic-v0 and against its own definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hgenv import SGD, DataGenEnv, RenderError
from hgenv.optimizers import Hybrid

from ..tools import Breaking, center, draws, gradient, losses, quadratic


def stepped(**options: Any) -> DataGenEnv:
    """An environment after a step at the common beta."""
    env = quadratic(**options)
    env.step(env.space.initial)
    return env


def black_box(**options: Any) -> Hybrid:
    """By differences alone, through all training steps, no sample clipped."""
    return Hybrid(**{"last_steps": None, "curvature": True, "pathwise": False, "clip_samples": False} | options)


def batches(env: DataGenEnv) -> list[Tensor]:
    """The points of each training step of the last rollout, K of (B, 3)."""
    assert env.last is not None
    assert env.last.samples is not None
    return [part.image for part in env.last.samples.split(env.problem.batch_size)]


def closed_form(env: DataGenEnv) -> Tensor:
    """dL/dbeta per fraction of range: the contract of hgenv.learning.quadratic, by hand."""
    eta, steps = env.problem.rule.learning_rate, env.problem.unroll_steps
    assert env.last is not None
    beta = env.last.betas[0]
    pull = env.state.weights["w"] - env.validation.samples.image[0]
    factors = [eta * (1 - eta) ** (steps - 1 - k) for k in range(steps)]
    # x = position + spread * z
    means = [(points - beta[:3]).mean(0) / beta[3] for points in batches(env)]
    spread = torch.stack([f * (pull @ z) for f, z in zip(factors, means, strict=True)]).sum()
    return torch.cat([sum(factors) * pull, spread[None]]) * (env.space.high - env.space.low)


def test_nothing_to_look_back_on_is_no_estimate() -> None:
    env = quadratic()
    assert Hybrid().estimate(env, center(env), draws()) is None
    generator = Breaking(env)
    env.step(env.space.initial)
    generator.failing = True
    env.step(env.space.initial)
    assert Hybrid().estimate(env, center(env), draws()) is None
    assert env.ledger.counts["gradient_steps"] == 0


def test_samples_are_made_at_the_center() -> None:
    env = quadratic()
    assert Hybrid().propose(env, center(env), draws()) is None


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pathwise", [False, True])
def test_all_coordinates_give_the_closed_form(shared: bool, pathwise: bool) -> None:
    env = stepped()
    estimator = black_box(num_directions=4, pathwise=pathwise, shared=shared)
    torch.testing.assert_close(gradient(estimator, env), closed_form(env), rtol=1e-6, atol=1e-12)


def test_a_row_is_an_estimate_of_the_whole_by_one_sample() -> None:
    env = stepped()
    rows = black_box(num_directions=4).estimate(env, center(env), draws())
    assert rows is not None
    assert rows.shape == (32, 4)
    assert env.last is not None
    torch.testing.assert_close(rows / 32, env.last.sample_gradient().pathwise(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("pathwise", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_training_steps_stand_for_all(steps: int, pathwise: bool) -> None:
    """Without their curvature, which the quadratic has: every step's samples act at the full learning rate."""
    env = stepped()
    estimator = black_box(num_directions=4, pathwise=pathwise, last_steps=steps, curvature=False)
    assert env.last is not None
    beta, eta = env.last.betas[0], env.problem.rule.learning_rate
    pull = env.state.weights["w"] - env.validation.samples.image[0]
    z = torch.stack([(points - beta[:3]).mean(0) / beta[3] for points in batches(env)[-steps:]]).mean(0)
    expected = 4 * eta * torch.cat([pull, (pull @ z)[None]]) * (env.space.high - env.space.low)
    torch.testing.assert_close(gradient(estimator, env), expected, rtol=1e-5, atol=1e-9)
    assert env.ledger.counts["gradient_steps"] == 0


def test_more_training_steps_than_there_are_are_all() -> None:
    gradients = [gradient(Hybrid(last_steps=steps), stepped(unroll_steps=4)) for steps in (None, 4, 9)]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_closed_form_is_the_difference_of_losses() -> None:
    env = quadratic()
    start = env.state_dict()
    env.step(env.space.initial)
    expected = closed_form(env)
    env.load_state_dict(start)
    h = 1e-4
    for c, derivative in enumerate(expected):
        step = h * torch.eye(4, dtype=torch.float64)[c]
        ahead, behind = losses(env, torch.stack([center(env) + step, center(env) - step])).tolist()
        assert (ahead - behind) / (2 * h) == pytest.approx(float(derivative), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"directions": "gaussian", "num_directions": 2},
        {"directions": "gaussian", "num_directions": 1, "shared": True},
        {"directions": "coordinate", "num_directions": 1},
        {"directions": "coordinate", "num_directions": 3, "shared": True},
    ],
)
def test_unbiased(options: dict[str, Any]) -> None:
    """The mean over many draws of directions is the closed form, within five standard errors."""
    env, random = stepped(), draws()
    estimator = black_box(**options)
    estimates = []
    for _ in range(1500):
        rows = estimator.estimate(env, center(env), random)
        assert rows is not None
        estimates.append(rows.nanmean(0).nan_to_num(0))
    found = torch.stack(estimates)
    if options == {"directions": "coordinate", "num_directions": 3, "shared": True}:
        # Of 4 components 3 are estimated in each draw, and exactly; the fourth is zero.
        found = found * 4 / 3
    error = found.std(0) / len(found) ** 0.5
    expected = closed_form(env)
    assert ((found.mean(0) - expected).abs() <= 5 * error + 1e-9).all()
    # And this would notice a missing factor of d.
    assert (5 * error < 0.5 * expected.abs().max()).all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "coordinate"])
def test_directions_of_the_samples(kind: str, shared: bool) -> None:
    """Shared ones are alike for all samples, others are not; what is not differenced stays."""
    components = torch.tensor([1, 2, 4, 5, 6, 8])
    estimator = Hybrid(directions=kind, num_directions=3, shared=shared, sigma=0.2)  # type: ignore[arg-type]
    delta = estimator.draw(components, 5, 9, draws())
    assert delta.shape == (3, 5, 9)
    moved = set((delta != 0).any((0, 1)).nonzero()[:, 0].tolist())
    assert moved <= set(components.tolist())
    assert len(moved) == (3 if kind == "coordinate" and shared else 6)
    assert torch.equal(delta, delta[:, :1].expand_as(delta)) == shared
    assert not torch.equal(delta[0], delta[1])
    assert not torch.equal(delta, estimator.draw(components, 5, 9, draws(1)))


@pytest.mark.parametrize(("samples", "count", "components"), [(16, 3, 29), (7, 2, 5), (4, 1, 9), (8, 5, 5)])
def test_coordinates_are_dealt_out_evenly(samples: int, count: int, components: int) -> None:
    """Over samples and directions alike: a sample's components are distinct, all get an equal share."""
    which = torch.arange(components) + 1
    delta = Hybrid(num_directions=count, sigma=0.1).draw(which, samples, components + 2, draws())
    assert delta.shape == (count, samples, components + 2)
    used = delta != 0
    assert (used.sum(-1) == 1).all()
    assert (delta[used] == 0.1).all()
    assert (used.sum(0) <= 1).all()
    times = used.sum((0, 1))
    assert times[0] == times[-1] == 0  # those that are not differenced
    assert times[which].max() - times[which].min() <= 1


def test_more_directions_than_components_are_all_components() -> None:
    gradients = [gradient(Hybrid(num_directions=count, pathwise=False), stepped()) for count in (4, 9)]
    assert torch.equal(*gradients)


def test_components_along_which_nothing_was_differenced_are_unknown() -> None:
    env = stepped()
    rows = black_box(num_directions=3, shared=True).estimate(env, center(env), draws())
    assert rows is not None
    unknown = rows.isnan()
    assert unknown.any(1).all()
    assert torch.equal(unknown, unknown[:1].expand_as(unknown))
    assert unknown[0].sum() == 1


def test_clipping_at_the_median() -> None:
    """No sample weighs more than the median one; those below it keep their weight."""
    env = stepped(rule=SGD(0.1, momentum=0.9))  # makes early samples weigh more than late ones
    assert env.last is not None
    sample_gradient = env.last.sample_gradient()
    fields = [g.flatten(1) for g in sample_gradient.samples.tensors]
    norms = torch.cat(fields, 1).norm(dim=1)
    median = norms.sort().values[(len(norms) - 1) // 2]
    weights = (median / norms).clamp(max=1)
    assert (weights < 1).any()
    clipped, free = (
        Hybrid(last_steps=None, curvature=True, clip_samples=clip).estimate(env, center(env), draws())
        for clip in (True, False)
    )
    torch.testing.assert_close(free, 32 * sample_gradient.pathwise())
    torch.testing.assert_close(clipped, 32 * weights[:, None] * sample_gradient.pathwise())


def test_a_bound_that_cuts_directions() -> None:
    """At a bound a Gaussian difference runs along what is left of it; its slope is attributed to that."""
    env = quadratic()
    at_bound = torch.tensor([0.0, 1.0, 0.4, 0.5], dtype=torch.float64)
    env.step(env.space.denormalize(at_bound))
    estimator = black_box(directions="gaussian", num_directions=1, shared=True, sigma=0.1)
    estimate = gradient(estimator, env, at_bound, seed=8)
    delta = estimator.draw(torch.arange(4), 1, 4, draws(8))[0, 0]
    taken = (at_bound + delta).clamp(0, 1) - (at_bound - delta).clamp(0, 1)
    # f is linear in beta, so the slope along what was taken is known.
    expected = 4 * (closed_form(env) @ taken) * taken / (taken @ taken)
    torch.testing.assert_close(estimate, expected)
    assert not torch.allclose(taken, 2 * delta)


def test_a_displaced_sample_that_cannot_be_rendered() -> None:
    env = quadratic()
    generator = Breaking(env)
    env.step(env.space.initial)
    generator.failing = True
    with pytest.raises(RenderError, match="sample 0"):
        black_box().estimate(env, center(env), draws())
