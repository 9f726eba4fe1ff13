"""The estimate against the closed form of hgenv/Quadratic-v0 and against its own definition."""

import logging

import gymnasium
import pytest
import torch
from torch import Tensor

import hgenv
from hgenv.batch import Batch
from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv
from hgenv.rendering import RenderError
from optimizers import HybridGradient
from optimizers.base import Trust, total


def quadratic(**options: object) -> DataGenEnv:
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True, **options).unwrapped
    env.reset(seed=3)
    return env


def stepped(env: DataGenEnv, **options: object) -> HybridGradient:
    """An optimizer after its first update, which only steps."""
    optimizer = HybridGradient(env.space, seed=0, **options)
    optimizer.update(env)
    return optimizer


def closed_form(env: DataGenEnv) -> Tensor:
    """dL/dbeta per fraction of range: the contract of hgenv.learning.quadratic, by hand."""
    eta, steps = env.sgd.learning_rate, env.unroll_steps
    assert env._unroll is not None
    beta = env._unroll.betas[0]
    pull = env.state.weights["w"] - env.validation.batch.image[0]
    factors = [eta * (1 - eta) ** (steps - 1 - k) for k in range(steps)]
    # x = position + spread * z
    means = [(batch.image - beta[:3]).mean(0) / beta[3] for batch in env._unroll.batches]
    spread = torch.stack([f * (pull @ z) for f, z in zip(factors, means, strict=True)]).sum()
    return torch.cat([sum(factors) * pull, spread[None]]) * (env.space.high - env.space.low)


def test_first_update_only_steps_at_the_initial_beta() -> None:
    env = quadratic()
    optimizer = stepped(env)
    assert env.update == 1
    torch.testing.assert_close(env.outcome.beta, env.space.initial)
    assert env.ledger.counts["gradient_steps"] == 0
    torch.testing.assert_close(optimizer.recommendation, env.space.initial)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_all_coordinates_give_the_closed_form(shared: bool, exact: bool) -> None:
    env = quadratic()
    optimizer = stepped(env, count=4, exact=exact, shared=shared, clip_samples=None)
    torch.testing.assert_close(optimizer.gradient(env), closed_form(env), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_training_steps_stand_for_all(steps: int, exact: bool) -> None:
    """Without their curvature, which the quadratic has: every step's samples act at the full learning rate."""
    env = quadratic()
    optimizer = stepped(env, count=4, exact=exact, steps=steps, curvature=False, clip_samples=None)
    beta, eta = env._unroll.betas[0], env.sgd.learning_rate
    pull = env.state.weights["w"] - env.validation.batch.image[0]
    z = torch.stack([(batch.image - beta[:3]).mean(0) / beta[3] for batch in env._unroll.batches[-steps:]]).mean(0)
    expected = env.unroll_steps * eta * torch.cat([pull, (pull @ z)[None]]) * (env.space.high - env.space.low)
    torch.testing.assert_close(optimizer.gradient(env), expected, rtol=1e-5, atol=1e-9)
    assert env.ledger.counts["gradient_steps"] == 0


def test_more_training_steps_than_there_are_are_all() -> None:
    gradients = []
    for steps in (None, 4, 9):
        env = quadratic(unroll_steps=4)
        gradients.append(stepped(env, steps=steps).gradient(env))
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    with pytest.raises(ValueError, match="steps must be None or at least 1, not 0"):
        HybridGradient(env.space, seed=0, steps=0)


def test_closed_form_is_the_difference_of_losses() -> None:
    env = quadratic()
    start = env.state_dict()
    stepped(env)
    expected = closed_form(env)
    env.load_state_dict(start)
    h, centre = 1e-4, env.space.scale(env.space.initial)
    for c, derivative in enumerate(expected):
        step = h * torch.eye(4, dtype=torch.float64)[c]
        ahead, behind = env.probe(env.space.unscale(torch.stack([centre + step, centre - step])))
        assert (ahead.loss - behind.loss) / (2 * h) == pytest.approx(float(derivative), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"directions": "gaussian", "count": 2},
        {"directions": "gaussian", "count": 1, "shared": True},
        {"directions": "coordinate", "count": 1},
        {"directions": "coordinate", "count": 3, "shared": True},
    ],
)
def test_unbiased(options: dict[str, object]) -> None:
    """The mean over many draws of directions is the closed form, within five standard errors."""
    env = quadratic()
    optimizer = stepped(env, exact=False, clip_samples=None, **options)
    draws = torch.stack([optimizer.gradient(env) for _ in range(1500)])
    if options == {"directions": "coordinate", "count": 3, "shared": True}:
        # Of 4 components 3 are estimated in each draw, and exactly; the fourth is zero.
        draws = draws * 4 / 3
    error = draws.std(0) / len(draws) ** 0.5
    expected = closed_form(env)
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-9).all()
    # And this would notice a missing factor of d.
    assert (5 * error < 0.5 * expected.abs().max()).all()


@pytest.mark.parametrize(("samples", "count", "components"), [(16, 3, 29), (7, 2, 5), (4, 1, 9), (8, 5, 5)])
def test_coordinates_are_dealt_out_evenly(samples: int, count: int, components: int) -> None:
    space = DecisionSpace([hgenv.block("all", components + 2, 0.0, 1.0, 0.5, "1", "test")])
    optimizer = HybridGradient(space, seed=0, count=count, sigma=0.1)
    which = torch.arange(components) + 1
    delta = optimizer._directions(which, samples)
    assert delta.shape == (count, samples, components + 2)
    used = delta != 0
    assert (used.sum(-1) == 1).all()
    assert (delta[used] == 0.1).all()
    assert (used.sum(0) <= 1).all()  # a sample's components are distinct
    times = used.sum((0, 1))
    assert times[0] == times[-1] == 0  # those that are not differenced
    assert times[which].max() - times[which].min() <= 1
    again = optimizer._directions(which, samples)
    assert not torch.equal(delta, again)


def test_more_directions_than_components_are_all_components() -> None:
    gradients = []
    for count in (4, 9):
        env = quadratic()
        gradients.append(stepped(env, count=count, exact=False).gradient(env))
    assert torch.equal(*gradients)


def test_clipping_at_the_median() -> None:
    """No sample weighs more than the median one; those below it keep their weight."""
    env = quadratic(momentum=0.9)  # makes early samples weigh more than late ones
    optimizer = stepped(env)
    weights = optimizer._sample_weights(env.sample_gradient())
    norms = torch.cat([g.flatten(1) for g in env.sample_gradient().tensors], 1).norm(dim=1)
    median = norms.sort().values[(len(norms) - 1) // 2]
    torch.testing.assert_close(weights * norms, norms.clamp(max=float(median)))
    assert (weights < 1).any()
    expected = (weights[:, None] * env.exact_slopes()).sum(0)
    torch.testing.assert_close(optimizer.gradient(env), expected)
    assert not torch.allclose(expected, env.exact_slopes().sum(0))


def test_a_bound_that_cuts_directions() -> None:
    """At a bound a Gaussian difference runs along what is left of it; its slope is attributed to that."""
    env = quadratic()
    optimizer = HybridGradient(
        env.space, seed=0, directions="gaussian", count=1, shared=True, exact=False, clip_samples=None, sigma=0.1
    )
    at_bound = torch.tensor([0.0, 1.0, 0.4, 0.5], dtype=torch.float64)
    optimizer.scaled.data = at_bound
    optimizer.update(env)
    state = optimizer.random.get_state()
    estimate = optimizer.gradient(env)
    optimizer.random.set_state(state)
    delta = optimizer._directions(torch.arange(4), 1)[0, 0]
    taken = (at_bound + delta).clamp(0, 1) - (at_bound - delta).clamp(0, 1)
    # f is linear in beta, so the slope along what was taken is known.
    expected = 4 * (closed_form(env) @ taken) * taken / (taken @ taken)
    torch.testing.assert_close(estimate, expected)
    assert not torch.allclose(taken, 2 * delta)


@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_update_is_rmsprop(max_norm: float | None) -> None:
    """Three updates against RMSprop written out, with clipping and decay."""
    env, rate, rho, eps, decay = quadratic(), 0.02, 0.8, 1e-4, 2.0
    options = {"rho": rho, "eps": eps, "decay_updates": decay, "max_norm": max_norm, "momentum": 0.0, "shrink": None}
    optimizer = stepped(env, learning_rate=rate, **options)
    square, beta = torch.zeros(4, dtype=torch.float64), env.space.scale(env.space.initial)
    for t in range(3):
        gradient = optimizer.gradient(env)
        if max_norm is not None:
            gradient = gradient * min(1, max_norm / float(gradient.norm()))
        square = rho * square + (1 - rho) * gradient**2
        beta = (beta - rate / (1 + t / decay) ** 0.5 * gradient / (square.sqrt() + eps)).clamp(0, 1)
        optimizer.update(env)
        torch.testing.assert_close(env.space.scale(env.outcome.beta), beta)


class Breaking:
    """The real generator, which fails on demand."""

    def __init__(self, env: DataGenEnv) -> None:
        self.inner, self.space, self.smooth = env.generator, env.space, env.generator.smooth
        self.failing = False
        env.generator = self

    def __call__(self, betas: Tensor, seeds: Tensor) -> Batch:
        if self.failing:
            raise RenderError("sample 0 cannot be rendered")
        return self.inner(betas, seeds)


def test_after_a_failed_step_beta_goes_half_way_back() -> None:
    env = quadratic()
    generator = Breaking(env)
    optimizer = stepped(env)
    for _ in range(3):
        optimizer.update(env)
    worked = env.outcome.beta
    # The gradient is taken and beta moves; then the step fails.
    slopes = optimizer.sample_slopes

    def then_fail(env: DataGenEnv) -> Tensor:
        result = slopes(env)
        generator.failing = True
        return result

    optimizer.sample_slopes = then_fail  # type: ignore[method-assign]
    optimizer.update(env)
    failed = env.outcome.beta
    assert not env.outcome.ok
    assert not torch.allclose(failed, worked)
    generator.failing, optimizer.sample_slopes = False, slopes  # type: ignore[method-assign]
    before = env.ledger.counts["gradient_steps"]
    optimizer.update(env)
    torch.testing.assert_close(env.outcome.beta, (failed + worked) / 2)
    assert env.ledger.counts["gradient_steps"] == before
    # From here on it descends again.
    optimizer.update(env)
    assert env.ledger.counts["gradient_steps"] == before + env.unroll_steps


def test_unrenderable_differences_skip_the_gradient(caplog: pytest.LogCaptureFixture) -> None:
    env = quadratic()
    generator = Breaking(env)
    optimizer = stepped(env)
    slopes = env.exact_slopes

    def failing(gradient: Batch) -> Tensor:
        generator.failing = True
        try:
            return slopes(gradient)
        finally:
            generator.failing = False

    env.exact_slopes = failing  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        optimizer.update(env)
    assert "goes without a gradient: sample 0 cannot be rendered" in caplog.text
    assert env.outcome.ok
    assert env.update == 2
    torch.testing.assert_close(env.outcome.beta, env.space.initial)


def test_trust_is_the_james_stein_factor() -> None:
    slopes = torch.tensor([[1.0, 1.0, 5.0, 2.0], [1.0, -1.0, 5.0, torch.nan], [1.0, 1.0, 8.0, torch.nan]]).double()
    factor = Trust(0, 4)(slopes)
    assert factor[0] == 1  # no noise at all
    assert factor[1] == 0  # mean 1/3, standard error 2/3
    assert float(factor[2]) == pytest.approx(1 - 1 / 36)  # mean 6, standard error 1
    assert factor[3] == 0  # one sample says nothing about its noise


@pytest.mark.parametrize("memory", [0, 0.9])
def test_pure_noise_moves_less_than_a_signal(memory: float) -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 64, 2, generator=rng, dtype=torch.float64)
    noise[..., 1] += 1.0  # eight standard errors
    trust = Trust(memory, 2)
    factors = torch.stack([trust(n) for n in noise])
    assert float((factors[:, 0] == 0).double().mean()) == pytest.approx(0.68, abs=0.06)  # |t| < 1
    assert factors[:, 1].min() > 0.9


def test_memory_finds_what_one_estimate_cannot() -> None:
    """A mean of one standard error a time: with memory 0.9 it stands at sqrt(1.9 / 0.1) of them."""
    rng = torch.Generator().manual_seed(0)
    slopes = torch.randn(2000, 64, 1, generator=rng, dtype=torch.float64) + 1 / 8
    means = {}
    for memory in (0, 0.9):
        trust = Trust(memory, 1)
        means[memory] = torch.stack([trust(s) for s in slopes])[20:].mean()
    assert means[0] < 0.4
    assert means[0.9] > 0.85


def test_a_memory_that_never_fades_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1, not 1"):
        Trust(1, 4)


def test_components_that_no_sample_was_differenced_along_stay() -> None:
    slopes = torch.tensor([[1.0, torch.nan], [3.0, torch.nan]]).double()
    assert total(slopes).tolist() == [4.0, 0.0]
    assert Trust(0, 2)(slopes)[1] == 0
