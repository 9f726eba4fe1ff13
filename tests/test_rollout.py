"""Rollouts as values: where they start, what they keep, what they answer, and methods that are made of them."""

from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv, Network, RenderError, Rollout, Status, TrainingState
from hgenv.datasets import load_photos
from hgenv.generators.random import hash_integers
from hgenv.generators.shapes import ShapeGenerator
from hgenv.learning import SGD, Adam, DenseLearner, Rule
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.tasks.normals import NormalsTask

from .toys import influence_by_differences, labels_env, loss_of_weighted_training


def make(name: str = "Quadratic", **kwargs: Any) -> DataGenEnv:
    env = gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, **kwargs).unwrapped
    env.reset(seed=3)
    return env


def small(name: str = "ShapeNormalsLit", **kwargs: Any) -> DataGenEnv:
    return make(name, network=Network(size=32), batch_size=4, device="cpu", **kwargs)


def own_betas(env: DataGenEnv, seed: int = 0) -> Tensor:
    """(N, d) valid betas, all different."""
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.rand(env.problem.num_samples, env.space.dimension, generator=draw, dtype=torch.float64)
    return env.space.project(env.space.denormalize(drawn))


def same_state(first: TrainingState, second: TrainingState) -> bool:
    return first.step == second.step and all(
        torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True)
    )


def cost(env: DataGenEnv, action: Any) -> dict[str, int]:
    before = dict(env.ledger.counts)
    action()
    return {name: n - before[name] for name, n in env.ledger.counts.items() if n != before[name]}


# --- Starting and keeping ---------------------------------------------------------------------------------------------


def test_a_rollout_that_is_not_kept_changes_nothing_and_is_charged() -> None:
    env = small()
    env.step(env.space.initial)
    state, last, outcome = env.state, env.last, env.outcome
    before = [t.clone() for t in state.tensors]
    spent = cost(env, lambda: env.rollout(env.space.initial))
    flops = 2 * env.learner.flops("train", 4) + env.learner.flops("validate", len(env.validation.samples))
    assert spent == {"samples": 8, "training_steps": 2, "validation_passes": 1, "flops": flops}
    assert env.state is state
    assert env.last is last
    assert env.outcome is outcome
    assert env.update == 1
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors, strict=True))


def test_a_rollout_that_is_kept_is_the_step() -> None:
    kept, stepped = small(), small()
    for _ in range(2):
        rolled = kept.rollout(kept.space.initial, keep=True)
        reward = stepped.step(stepped.space.initial)[1]
        assert rolled.outcome.loss == -reward
        assert rolled is kept.last
        assert kept.state is rolled.end
    assert same_state(kept.state, stepped.state)
    assert kept.update == stepped.update == 2
    assert kept.ledger.counts == stepped.ledger.counts


def test_a_rollout_foretells_the_step() -> None:
    env = small()
    told = env.rollout(env.space.initial)
    env.step(env.space.initial)
    assert told.outcome.loss == env.outcome.loss
    assert torch.equal(told.seeds, env.last.seeds)
    assert same_state(told.end, env.state)


@pytest.mark.parametrize("rule", [SGD(0.05, 0.9, decay_steps=3), Adam(0.01, decay_steps=3)], ids=["sgd", "adam"])
def test_a_chain_of_rollouts_is_the_chain_of_kept_steps(rule: Rule) -> None:
    env = small("ShapeNormals", rule=rule)
    betas = [own_betas(env, seed) for seed in range(3)]
    start, kept = env.state, [env.rollout(b, keep=True) for b in betas]
    chained, spent = start, dict(env.ledger.counts)
    for beta, step in zip(betas, kept, strict=True):
        rolled = env.rollout(beta, start=chained, seeds=step.seeds)
        assert rolled.outcome.loss == step.outcome.loss
        assert same_state(rolled.end, step.end)
        chained = rolled.end
    assert chained.step == 6
    assert env.update == 3
    for name, amount in env.ledger.counts.items():
        assert amount == (3 if name == "updates" else 2 * spent[name])


def test_a_rollout_starts_where_it_is_told_to_and_is_kept_from_there() -> None:
    env = small("ShapeNormals")
    elsewhere = env.rollout(env.space.initial).end
    fresh = env.rollout(env.space.initial)
    later = env.rollout(env.space.initial, start=elsewhere, keep=True)
    assert later.states[0] is elsewhere
    assert later.outcome.loss != fresh.outcome.loss
    assert env.state is later.end
    assert env.state.step == 4


def test_weights_that_are_not_the_environments_own_may_start() -> None:
    env = make()
    own = env.problem.rule.start({"w": torch.tensor([5.0, 5.0, 5.0], dtype=torch.float64)})
    rolled = env.rollout(env.space.initial, start=own)
    # Plain SGD of rate 0.1 goes 1 - 0.9^4 of the way to the samples' mean, which is near 0.
    assert rolled.end.weights["w"].tolist() == pytest.approx([5 * 0.9**4] * 3, abs=0.3)


def test_states_are_the_training_step_by_step() -> None:
    env = labels_env()
    env.reset(seed=1)
    rolled = env.rollout(own_betas(env))
    assert len(rolled.states) == 4
    assert rolled.states[0] is env.state
    assert rolled.end is rolled.states[-1]
    ones = [torch.ones(6, dtype=torch.float64)] * 3
    batches = rolled.samples.split(6)
    for k in range(1, 4):
        by_hand = loss_of_weighted_training(
            env.learner, env.problem.rule, env.state, batches[:k], env.validation, ones[:k]
        )
        assert env.problem.validate(rolled.states[k], env.ledger) == pytest.approx(by_hand, rel=1e-12)
    assert rolled.outcome.loss == pytest.approx(by_hand, rel=1e-12)


# --- Betas and seeds --------------------------------------------------------------------------------------------------


def test_a_beta_for_all_is_that_beta_for_each() -> None:
    first, second = small("ShapeNormals"), small("ShapeNormals")
    beta = first.space.project(first.space.initial)
    reward = first.step(beta)[1]
    rolled = second.rollout(beta.expand(second.problem.num_samples, -1), keep=True)
    assert reward == -rolled.outcome.loss
    torch.testing.assert_close(rolled.outcome.beta, beta)


def test_every_sample_may_have_its_own_beta_and_pairs_one_seed() -> None:
    env = make()
    betas = own_betas(env)
    seeds = env.sample_seeds(16).repeat_interleave(2)
    rolled = env.rollout(betas, seeds=seeds, keep=True)
    assert torch.equal(rolled.betas, betas)
    assert torch.equal(rolled.seeds, seeds)
    assert len(rolled.seeds.unique()) == 16
    torch.testing.assert_close(rolled.samples.image, env.generator(betas, seeds).image)
    # The draws of a pair are alike: what is left when beta's part is taken away.
    draws = (rolled.samples.image - betas[:, :3]) / betas[:, 3:]
    torch.testing.assert_close(draws[::2], draws[1::2])
    torch.testing.assert_close(rolled.outcome.beta, env.space.project(betas.mean(0)))


def test_seeds_are_all_different_unless_given_and_new_at_every_update() -> None:
    env = make()
    first, again = env.rollout(env.space.initial), env.rollout(env.space.initial)
    assert len(first.seeds.unique()) == 32
    assert torch.equal(first.seeds, again.seeds)  # nothing was kept between them
    assert torch.equal(first.seeds, env.sample_seeds(32))
    assert torch.equal(first.seeds[:5], env.sample_seeds(5))
    env.step(env.space.initial)
    assert not torch.isin(env.sample_seeds(32), first.seeds).any()


def test_bad_betas_and_seeds_are_refused_and_change_nothing() -> None:
    env = make()
    state, betas = env.state, own_betas(env)
    for keep in (False, True):
        for wrong in (betas[1:], betas[:, 1:], betas[None]):
            with pytest.raises(ValueError, match=r"betas must be \(4,\), or \(32, 4\), one for each sample of a step"):
                env.rollout(wrong, keep=keep)
        for seeds in (torch.arange(31), torch.arange(32)[:, None]):
            with pytest.raises(ValueError, match=r"seeds must be \(32,\), one for each sample of a step"):
                env.rollout(betas, seeds=seeds, keep=keep)
        out = betas.clone()
        out[7, 0] = 2
        with pytest.raises(ValueError, match=r"beta\[0\] = 2.0 \(block 'position'\)"):
            env.rollout(out, keep=keep)
    assert env.state is state
    assert env.update == 0
    assert not any(env.ledger.counts.values())


# --- What is asked of a rollout ---------------------------------------------------------------------------------------


def test_two_rollouts_that_are_asked_in_turn_answer_for_themselves() -> None:
    env, alone = labels_env(), labels_env()
    betas = own_betas(env, 0), own_betas(env, 1)
    expected = []
    for beta in betas:
        alone.reset(seed=3)
        rolled = alone.rollout(beta)
        directions = 0.02 * torch.ones(2, 18, 2, dtype=torch.float64)
        gradient = rolled.sample_gradient()
        expected.append((gradient.samples.image, rolled.influence(), gradient.slopes(directions).value))
    env.reset(seed=3)
    first, second = (env.rollout(beta) for beta in betas)
    env.step(env.space.initial)  # the environment has moved on; the rollouts have not
    gradients = first.sample_gradient(), second.sample_gradient()
    influences = first.influence(), second.influence()
    slopes = [gradient.slopes(directions).value for gradient in gradients]
    for i in (1, 0):
        assert torch.equal(gradients[i].samples.image, expected[i][0])
        assert torch.equal(influences[i], expected[i][1])
        assert torch.equal(slopes[i], expected[i][2])
    assert not torch.equal(gradients[0].samples.image, gradients[1].samples.image)


def by_hand(env: DataGenEnv, gradient: Any, betas: Tensor, seeds: Tensor, directions: Tensor) -> Tensor:
    """Slopes by the formula, for directions that no bound cuts."""
    center = env.space.normalize(betas)
    ends = [
        [env.generator(env.space.denormalize(center + sign * d), seeds).image for d in directions] for sign in (1, -1)
    ]
    rise = [((a - b) * gradient.image).flatten(1).sum(1) for a, b in zip(*ends, strict=True)]
    return torch.stack(rise) / (2 * directions.norm(dim=-1))


@pytest.mark.parametrize("curvature", [True, False])
def test_a_gradient_knows_whose_it_is(curvature: bool) -> None:
    """Of the first training step and of the last one it is another, with other betas, seeds and slopes."""
    env = labels_env()
    env.reset(seed=3)
    rolled = env.rollout(own_betas(env).clamp(0.1, 0.9))
    draw = torch.Generator().manual_seed(0)
    directions = 0.19 * (torch.rand(2, 18, 2, generator=draw, dtype=torch.float64) - 0.5)  # no bound cuts these
    whole, last = rolled.sample_gradient(curvature=curvature), rolled.sample_gradient(last_steps=1, curvature=curvature)
    assert len(whole) == 18
    assert len(last) == 6
    assert torch.equal(whole.betas, rolled.betas)
    assert torch.equal(whole.seeds, rolled.seeds)
    assert torch.equal(last.betas, rolled.betas[12:])
    assert torch.equal(last.seeds, rolled.seeds[12:])
    assert torch.equal(last.influence, whole.influence[12:])
    slopes = whole.slopes(directions).value
    torch.testing.assert_close(slopes, by_hand(env, whole.samples, rolled.betas, rolled.seeds, directions))
    assert torch.equal(last.slopes(directions[:, 12:]).value, slopes[:, 12:])
    assert not torch.allclose(slopes[:, :6], slopes[:, 12:], rtol=0.1)
    # What was once taken in silence: directions of the first step's samples for a gradient of the last one's ...
    wrong = by_hand(env, last.samples, rolled.betas[:6], rolled.seeds[:6], directions[:, :6])
    assert not torch.allclose(wrong, slopes[:, :6], rtol=0.1)
    # ... and as many directions as there are samples in all.
    with pytest.raises(ValueError, match=r"directions must be \(J, 6, 2\), not \(2, 18, 2\)"):
        last.slopes(directions)
    with pytest.raises(ValueError, match=r"directions must be \(J, 18, 2\), not \(2, 6, 2\)"):
        whole.slopes(directions[:, :6])


def test_displacements_are_what_lay_between_the_ends() -> None:
    env = make()
    betas = env.space.initial.expand(32, -1).clone()
    betas[:, 0], betas[:16, 3] = 1.0, 0.0
    gradient = env.rollout(betas).sample_gradient()
    direction = torch.tensor([0.1, -0.05, 0.0, 0.2], dtype=torch.float64).expand(1, 32, 4)
    slopes = gradient.slopes(direction)
    expected = torch.tensor([0.1, -0.1, 0.0, 0.4], dtype=torch.float64).repeat(32, 1)  # the first is cut at its bound
    expected[:16, 3] = 0.2
    torch.testing.assert_close(slopes.displacement[0], expected)
    # L is linear in the samples here, so a slope is the derivative along what lay between.
    exact = (gradient.pathwise() * expected).sum(1) / expected.norm(dim=1)
    torch.testing.assert_close(slopes.value[0], exact)


def test_a_displacement_of_nothing_has_slope_zero() -> None:
    gradient = make().rollout(torch.tensor([0.5, 0.0, 0.0, 0.5], dtype=torch.float64)).sample_gradient()
    slopes = gradient.slopes(torch.full((1, 32, 4), 1e-30, dtype=torch.float64))  # rounding leaves nothing of it
    assert not slopes.displacement.any()
    assert not slopes.value.any()


def test_bad_directions_are_refused() -> None:
    gradient = make().rollout(torch.zeros(4)).sample_gradient()
    for wrong in (torch.ones(32, 4), torch.ones(1, 32, 3), torch.ones(0, 32, 4)):
        with pytest.raises(ValueError, match=r"directions must be \(J, 32, 4\), not"):
            gradient.slopes(wrong)
    one_zero = torch.ones(2, 32, 4)
    one_zero[1, 5] = 0
    for wrong in (one_zero, torch.full((1, 32, 4), float("nan"))):
        with pytest.raises(ValueError, match="finite and none of them zero"):
            gradient.slopes(wrong)


def test_norms_are_over_all_fields() -> None:
    gradient = small("ShapeNormals").rollout(torch.full((29,), 0.5)).sample_gradient()
    squares = sum(x.double().flatten(1).square().sum(1) for x in gradient.samples.tensors)
    assert gradient.norms.dtype == torch.float64
    torch.testing.assert_close(gradient.norms, squares.sqrt(), rtol=1e-5, atol=0)


def test_asking_twice_is_paid_for_once() -> None:
    env = small("ShapeNormals")
    flops, photos = env.learner.flops, len(env.validation.samples)
    start, forward = 3 * flops("validate", photos), flops("validate", 4)

    def counted(count: int) -> dict[str, int]:
        return {"flops": count, "gradient_flops": count}

    def gradient(steps: int) -> dict[str, int]:
        return {"gradient_steps": steps, **counted(steps * flops("gradient", 4))}

    def cheap(steps: int) -> dict[str, int]:
        return counted(4 * steps * forward)

    influence = counted(2 * 2 * forward)
    seeds = torch.arange(5)
    betas = env.space.initial.expand(5, -1)
    virtual = {"samples": 5, **counted(2 * flops("validate", 5))}
    # What they all start from is paid for by whoever comes first.
    first = {"validation_passes": 1, **counted(start)}
    for ask, price in (
        (lambda rolled: rolled.influence(), influence),
        (lambda rolled: rolled.virtual_influence(betas, seeds), virtual),
        (lambda rolled: rolled.sample_gradient(last_steps=1, curvature=False), cheap(1)),
        (lambda rolled: rolled.sample_gradient(last_steps=1), gradient(1)),
    ):
        rolled = env.rollout(env.space.initial)
        both = {name: price.get(name, 0) + first.get(name, 0) for name in price | first}
        assert cost(env, lambda rolled=rolled, ask=ask: ask(rolled)) == both
    rolled = env.rollout(env.space.initial)
    assert cost(env, rolled.influence) == first | counted(influence["flops"] + start)
    assert cost(env, rolled.influence) == {}
    assert cost(env, lambda: rolled.virtual_influence(betas, seeds)) == virtual
    assert cost(env, lambda: rolled.virtual_influence(betas, seeds)) == virtual  # other samples, as far as it knows
    assert cost(env, lambda: rolled.sample_gradient(last_steps=1, curvature=False)) == cheap(1)
    assert cost(env, lambda: rolled.sample_gradient(last_steps=1, curvature=False)) == {}
    assert cost(env, lambda: rolled.sample_gradient(curvature=False)) == cheap(2)  # more than is paid for
    assert cost(env, lambda: rolled.sample_gradient(last_steps=1, curvature=False)) == {}  # fewer is less
    assert cost(env, lambda: rolled.sample_gradient(last_steps=1)) == gradient(1)  # curvature costs more
    assert cost(env, lambda: rolled.sample_gradient(last_steps=1, curvature=False)) == {}
    assert cost(env, lambda: rolled.influence(curvature=True)) == gradient(2)
    assert cost(env, rolled.sample_gradient) == {}
    assert cost(env, lambda: rolled.sample_gradient(last_steps=1)) == {}
    for steps in (0, 3, -1):
        for curvature in (True, False):
            with pytest.raises(ValueError, match=f"last_steps must be None, or 1 to 2 training steps, not {steps}"):
                rolled.sample_gradient(last_steps=steps, curvature=curvature)
    other = env.rollout(env.space.initial)
    whole = first | {"gradient_steps": 2, **counted(gradient(2)["flops"] + start)}
    part = env.rollout(env.space.initial)
    assert cost(env, lambda: part.influence(last_steps=1)) == first | counted(2 * forward + start)
    assert cost(env, lambda: part.influence(last_steps=1)) == {}
    torch.testing.assert_close(part.influence(last_steps=1), part.influence()[-4:])
    part = env.rollout(env.space.initial)
    part.sample_gradient(last_steps=1, curvature=False)
    assert cost(env, lambda: part.influence(last_steps=1)) == {}  # the gradient of these samples has it
    torch.testing.assert_close(part.influence(last_steps=1), part.influence()[-4:], rtol=1e-2, atol=1e-6)
    assert cost(env, other.sample_gradient) == whole  # another rollout pays for itself
    slopes = cost(env, lambda: other.sample_gradient().slopes(torch.full((5, 8, 29), 0.01)))
    assert slopes == {"samples": 5 * 8 * 2}


def test_with_curvature_serves_without() -> None:
    env = labels_env()
    env.reset(seed=0)
    rolled, other = (env.rollout(env.space.initial) for _ in range(2))
    whole = rolled.sample_gradient()
    served = rolled.sample_gradient(last_steps=2, curvature=False)
    assert torch.equal(served.samples.image, whole.samples.image[6:])
    without = other.sample_gradient(last_steps=2, curvature=False)
    assert not torch.allclose(without.samples.image[:6], served.samples.image[:6], rtol=1e-3)
    torch.testing.assert_close(without.samples.image[6:], served.samples.image[6:], rtol=1e-4, atol=1e-9)


def test_a_rule_that_is_not_linear_needs_the_gradient_again() -> None:
    costs = []
    for rule in (SGD(0.01), Adam(0.01)):
        env = labels_env(rule=rule)
        env.reset(seed=0)
        rolled = env.rollout(env.space.initial)
        costs.append([cost(env, rolled.influence)["flops"],
                      cost(env, lambda rolled=rolled: rolled.sample_gradient(curvature=False))["flops"]])  # fmt: skip
    extra = 3 * env.learner.flops("train", 6)
    assert [b - a for a, b in zip(*costs, strict=True)] == [extra, extra]


def test_the_gradient_of_labelled_images_against_differences_and_nothing_for_the_labels() -> None:
    env = labels_env()
    env.reset(seed=5)
    env.step(env.space.initial)
    rolled = env.rollout(own_betas(env))
    gradient = rolled.sample_gradient()
    assert type(gradient.samples) is type(rolled.samples)
    assert gradient.samples.label.dtype == torch.int64
    assert not gradient.samples.label.any()
    ones, batches = [torch.ones(6, dtype=torch.float64)] * 3, rolled.samples.split(6)
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(18, 1, 6, 6, generator=draw, dtype=torch.float64)

    def moved(step: float) -> float:
        changed = replace(rolled.samples, image=rolled.samples.image + step * direction).split(6)
        return loss_of_weighted_training(env.learner, env.problem.rule, env.state, changed, env.validation, ones)

    step = 1e-4
    difference = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    assert float((gradient.samples.image * direction).sum()) == pytest.approx(difference, rel=1e-7)
    # And from the images to beta.
    betas = rolled.betas.clone().requires_grad_()
    image = env.generator(betas, rolled.seeds).image
    (expected,) = torch.autograd.grad((gradient.samples.image * image).sum(), betas)
    torch.testing.assert_close(gradient.pathwise(), expected)  # ranges are 0 to 1
    assert len(batches) == 3


@pytest.mark.parametrize("rule", [SGD(0.3, 0.9, 1e-2, 3), Adam(0.02, decay_steps=3)], ids=["sgd", "adam"])
def test_influence_on_labelled_images_is_what_a_samples_weight_does(rule: Rule) -> None:
    env = labels_env(rule=rule)
    env.reset(seed=5)
    env.step(env.space.initial)
    rolled = env.rollout(own_betas(env))
    found, batches = rolled.influence(curvature=True), rolled.samples.split(6)
    assert found.shape == (18,)
    assert found.dtype == torch.float64
    for i in range(0, 18, 2):
        expected = influence_by_differences(
            env.learner, rule, env.state, batches, env.validation, i // 6, i % 6
        )  # fmt: skip
        assert float(found[i]) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    # Without curvature: the same for the last training step's samples, and something else for the first one's.
    cheap = rolled.influence()
    torch.testing.assert_close(cheap[12:], found[12:], rtol=1e-5, atol=1e-8)
    assert not torch.allclose(cheap[:6], found[:6], rtol=1e-3)


@pytest.mark.parametrize("rule", [SGD(0.05, 0.9), Adam(0.01, epsilon=1e-7)], ids=["sgd", "adam"])
def test_influence_of_masked_images_is_what_a_samples_weight_does(rule: Rule) -> None:
    learner = DenseLearner(NormalsTask(), Network(size=16), torch.float64)
    validation, test = load_photos("standin", size=16)
    generator = ShapeGenerator(AnalyticRenderer(16))
    env = DataGenEnv(generator, learner, validation, test, rule=rule, unroll_steps=2, batch_size=3, device="cpu")
    env.reset(seed=0)
    env.step(env.space.project(env.space.initial))
    rolled = env.rollout(env.space.initial)
    found, batches = rolled.influence(curvature=True), rolled.samples.split(3)
    for i in (0, 4, 5):
        expected = influence_by_differences(learner, rule, env.state, batches, validation, i // 3, i % 3)
        assert float(found[i]) == pytest.approx(expected, rel=1e-5, abs=1e-8)


# --- Failures ---------------------------------------------------------------------------------------------------------


class Broken:
    """Makes nothing."""

    pathwise: tuple[str, ...] = ()

    def __init__(self, env: DataGenEnv) -> None:
        self.space = env.space

    def __call__(self, betas: Tensor, seeds: Tensor) -> Any:
        raise RenderError(f"sample seed {int(seeds[0])}: nothing to see")


def assert_answers_nothing(rolled: Rollout) -> None:
    for ask in (rolled.influence, rolled.sample_gradient, lambda: rolled.influence(curvature=True),
                lambda: rolled.sample_gradient(last_steps=1, curvature=False)):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"a rollout that failed has no gradient: {rolled.outcome.status.name}"):
            ask()


def test_a_rollout_of_nothing_says_so() -> None:
    env = make()
    env.problem = replace(env.problem, generator=Broken(env))
    state = env.state
    for keep in (False, True):
        rolled = env.rollout(env.space.initial, keep=keep)
        assert rolled.outcome.status is Status.UNRENDERABLE
        assert rolled.outcome.message.startswith("sample seed")
        assert rolled.outcome.loss is None
        assert rolled.samples is None
        assert rolled.states == [state]
        assert rolled.end is state
        assert_answers_nothing(rolled)
        assert env.state is state
        assert env.update == int(keep)


def test_a_rollout_that_diverges_says_so() -> None:
    env = small("ShapeNormals", rule=SGD(1e30))
    state = env.state
    rolled = env.rollout(env.space.initial, keep=True)
    assert rolled.outcome.status is Status.DIVERGED
    assert "after 2 training steps" in rolled.outcome.message
    assert len(rolled.states) == 3
    assert len(rolled.samples) == 8
    assert_answers_nothing(rolled)
    assert env.state is state
    assert env.last is rolled


# --- Methods that carry several sets of weights, of public parts alone ------------------------------------------------


def chained_seeds(update: int, count: int) -> Tensor:
    """Sample seeds of an own making: the same for all who walk through the same truncation."""
    return hash_integers(torch.tensor([1000 + update]), count)[0]


def test_noise_reuse_evolution_strategies_are_exact_where_the_loss_is_quadratic() -> None:
    """Antithetic particles that carry their own weights through three truncations, along each axis: the gradient of the
    sum of the losses, which truncated differences miss."""
    env = make(rule=SGD(0.05), unroll_steps=2)
    beta = torch.tensor([0.2, -0.3, 0.1, 0.5], dtype=torch.float64)
    sigma, truncations, count = 0.1, 3, env.problem.num_samples
    found = torch.zeros(4, dtype=torch.float64)
    for j in range(4):
        noise = sigma * torch.eye(4, dtype=torch.float64)[j]
        ahead = behind = env.state
        for t in range(truncations):
            seeds = chained_seeds(t, count)
            up = env.rollout(beta + noise, start=ahead, seeds=seeds)
            down = env.rollout(beta - noise, start=behind, seeds=seeds)
            found[j] += (up.outcome.loss - down.outcome.loss) / (2 * sigma)
            ahead, behind = up.end, down.end

    # In closed form: w_t goes 1 - 0.95^(2t) of the way to where the samples' mean is.
    state, goal, expected = env.state, env.validation.samples.image[0], torch.zeros(3, dtype=torch.float64)
    for t in range(truncations):
        rolled = env.rollout(beta, start=state, seeds=chained_seeds(t, count))
        state = rolled.end
        expected += (1 - 0.95 ** (2 * (t + 1))) * (state.weights["w"] - goal)
    torch.testing.assert_close(found[:3], expected)
    assert env.update == 0
    assert env.ledger.counts["training_steps"] == (2 * 4 + 1) * truncations * 2


def test_persistent_evolution_strategies_find_the_way() -> None:
    """Pairs that carry their weights and the sum of their perturbations; beta moves between truncations."""
    env = make()
    draw, sigma, pairs = torch.Generator().manual_seed(0), 0.05, 8
    beta = env.space.project(env.space.initial)
    states = [(env.state, env.state) for _ in range(pairs)]
    sums = torch.zeros(pairs, 4, dtype=torch.float64)
    for t in range(60):
        seeds, gradient = chained_seeds(t, env.problem.num_samples), torch.zeros(4, dtype=torch.float64)
        for i, (ahead, behind) in enumerate(states):
            noise = sigma * torch.randn(4, generator=draw, dtype=torch.float64)
            sums[i] += noise
            ends = [
                env.rollout(env.space.clip(beta + sign * noise), start=start, seeds=seeds)
                for sign, start in ((1, ahead), (-1, behind))
            ]
            states[i] = ends[0].end, ends[1].end
            gradient += sums[i] * (ends[0].outcome.loss - ends[1].outcome.loss) / (2 * sigma**2 * pairs)
        beta = env.space.project(beta - 0.05 * gradient)
        env.rollout(beta, seeds=seeds, keep=True)
    goal = env.validation.samples.image[0]
    assert float((beta[:3] - goal).norm()) < 0.3 * float(goal.norm())  # it started at 0
    assert env.update == 60


def test_a_population_with_weights_of_its_own() -> None:
    """Members train at betas of their own; the better half is copied, weights and all, over the worse one."""
    env = make()
    draw, size = torch.Generator().manual_seed(0), 6
    betas = [env.space.random(i) for i in range(size)]
    states, first = [env.state] * size, None
    for t in range(25):
        seeds = chained_seeds(t, env.problem.num_samples)
        rolled = [env.rollout(b, start=s, seeds=seeds) for b, s in zip(betas, states, strict=True)]
        order = sorted(range(size), key=lambda i: rolled[i].outcome.loss)
        first = first or rolled[order[0]].outcome.loss
        states = [rolled[i].end for i in order[: size // 2]] * 2
        best = [betas[i] for i in order[: size // 2]]
        moved = [env.space.project(b + 0.1 * torch.randn(4, generator=draw, dtype=torch.float64)) for b in best]
        betas = best + moved
    assert env.state.step == 0
    kept = env.rollout(betas[0], start=states[0], keep=True)
    assert env.state is kept.end
    assert env.state.step == 26 * 4
    assert kept.outcome.loss < 0.1 * first
    assert env.validation_metrics()["distance"] == pytest.approx((2 * kept.outcome.loss) ** 0.5)
    assert env.ledger.counts["samples"] == (25 * size + 1) * 32
