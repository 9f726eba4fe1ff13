"""Samples that are used again: which, how often, at whose price, and what estimators make of them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal as TorchNormal

from hgenv import SGD, DataGenEnv, DecisionSpace, DenseSamples, RenderError, Replay, Status, block
from hgenv.accounting import Ledger
from hgenv.benchmarks.config import RunError, compose, differs, make_environment
from hgenv.distributions import Bernoulli, Normal, Tuned
from hgenv.generators import BlackBox
from hgenv.generators.random import normals, uniforms
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.optimizers import REGISTRY, Hybrid, Proposal, ScoreInfluence
from hgenv.replay import ReplayPool, effective_size, systematic
from hgenv.tasks.quadratic import point_data
from hgenv.testing import GeneratorConformance

from .generators import black_boxes
from .optimizers.tools import center, draws, quadratic
from .test_conformance import assert_noticed
from .test_saved import bits, check_all_damages, put, refuses, through_file

REPLAY = Replay(capacity=100, fresh=0.25)


class Cloud:
    """Normal points; one number of beta is handed over as it is, and moves them."""

    pathwise = ("position", "spread", "shade")
    handed_over = ("shade",)
    space = DecisionSpace([
        block("position", 3, -10.0, 10.0, 0.5, "1", "mean"),
        block("spread", 1, 0.1, 5.0, 1.0, "1", "standard deviation"),
        block("shade", 1, 0.0, 1.0, 0.5, "1", "added to all"),
    ])  # fmt: skip

    def __init__(self) -> None:
        self.made = 0
        self.failing = False

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        if self.failing:
            raise RenderError("a lamp is broken")
        self.made += len(seeds)
        points = self._points(betas, seeds) + betas[:, 4:]
        return DenseSamples(points, torch.zeros_like(points), torch.ones_like(points[:, :1]))

    def _points(self, betas: Tensor, seeds: Tensor) -> Tensor:
        return betas[:, :3] + betas[:, 3:4] * normals(uniforms(seeds, 3))

    def draws(self, betas: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {"x": self._points(betas, seeds)}

    def log_density(self, betas: Tensor, draws: dict[str, Tensor]) -> Tensor:
        z = (draws["x"] - betas[:, :3]) / betas[:, 3:4]
        return (-0.5 * z * z - betas[:, 3:4].log() - 0.5 * math.log(2 * math.pi)).sum(1)

    def score(self, betas: Tensor, draws: dict[str, Tensor]) -> Tensor:
        z, spread = (draws["x"] - betas[:, :3]) / betas[:, 3:4], betas[:, 3:4]
        return torch.cat([z / spread, (z * z - 1).sum(1, keepdim=True) / spread, torch.full_like(spread, math.nan)], 1)

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        return self.score(betas, self.draws(betas, seeds))


class TestCloudConforms(GeneratorConformance):
    def make(self) -> Any:
        return Cloud()


def cloud(replay: Replay | None = REPLAY, **options: Any) -> DataGenEnv:
    """K = 4 steps of 8 samples."""
    data = [point_data((0.6, -0.4, 0.5), "a point") for _ in range(2)]
    sizes = {"unroll_steps": 4, "batch_size": 8, "device": "cpu"} | options
    env = DataGenEnv(Cloud(), QuadraticLearner(), *data, rule=SGD(0.1), replay=replay, **sizes)
    env.reset(seed=3)
    return env


def at(mean: float, spread: float = 1.0, shade: float = 0.5) -> Tensor:
    return torch.tensor([mean, mean, mean, spread, shade], dtype=torch.float64)


def rendered(env: DataGenEnv, beta: Tensor) -> int:
    """Samples that a step renders, by the generator's own count; the ledger's and the rollout's are the same."""
    generator: Any = env.generator
    made, charged = generator.made, env.ledger.counts["samples"]
    env.step(beta)
    found = generator.made - made
    assert env.ledger.counts["samples"] - charged == found
    assert env.last is not None
    assert env.last.replayed is not None
    assert int((~env.last.replayed).sum()) == found
    return found


def filled(capacity: int, batches: list[tuple[Tensor, int]], first: int = 0) -> ReplayPool:
    """A pool with so many samples of each beta."""
    generator: Any = Cloud()
    pool = ReplayPool(Replay(capacity, 0.25), generator)
    for beta, count in batches:
        seeds = torch.arange(first, first + count)
        pool.add(beta, seeds, generator(beta.expand(count, -1), seeds))
        first += count
    return pool


# --- Which samples ---------------------------------------------------------------------------------------------------


def test_weights_are_those_against_the_mixture() -> None:
    """Against torch.distributions, sample by sample."""
    batches = [(at(0.0), 10), (at(0.3, 1.2), 30), (at(0.0), 20)]
    pool, beta = filled(100, batches), at(0.2, 0.9)
    betas = torch.cat([b.expand(n, -1) for b, n in batches])
    points = Cloud().draws(betas, torch.arange(60))["x"]

    def density(b: Tensor) -> Tensor:
        return TorchNormal(b[:3], b[3]).log_prob(points).sum(1).exp()

    mixture = sum(n / 60 * density(b) for b, n in batches)
    expected, limit = density(beta) / mixture, 60**0.5
    assert expected.max() < limit
    torch.testing.assert_close(pool.weights(beta), expected)
    beyond = density(at(1.0, 0.4)) / mixture
    assert (beyond > limit).any(), "these are cut"
    torch.testing.assert_close(pool.weights(at(1.0, 0.4)), beyond.clamp(max=limit))


def test_what_is_drawn_is_distributed_as_the_present_beta_says() -> None:
    """The mean of x and of (x - mean)^2 over many pools, against the closed form, within five standard errors."""
    beta, found, before = at(0.5, 0.8), [], []
    for i in range(60):
        pool = filled(400, [(at(0.0), 150), (at(0.25, 0.9), 150), (at(0.1, 1.1), 100)], first=1000 * i)
        drawn = pool.draw(beta, 64, 32, torch.tensor([i]))
        assert drawn.samples is not None
        assert len(drawn.samples) == int(drawn.replayed.sum()) == 48
        x = drawn.samples.image - beta[4]
        torch.testing.assert_close(x, Cloud().draws(drawn.betas, drawn.seeds)["x"])
        found.append(torch.stack([x.mean(), (x - 0.5).square().mean()]))
        before.append(torch.stack([s.image for s in pool._samples]).mean() - beta[4])
    means = torch.stack(found)
    error = means.std(0) / len(means) ** 0.5
    assert ((means.mean(0) - torch.tensor([0.5, 0.64])).abs() < 5 * error).all()
    assert (torch.stack(before).mean() - 0.5).abs() > 50 * error[0], "it would be noticed if nothing were weighted"


def test_systematic_resampling() -> None:
    weights = torch.tensor([0.0, 1.0, 2.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    for uniform in (1e-12, 0.3, 1 - 1e-12):
        counts = torch.bincount(systematic(weights, 10, uniform), minlength=6)
        assert ((counts - 10 * weights / 4).abs() < 1).all()
        assert not counts[weights == 0].any()
    many = torch.stack([torch.bincount(systematic(weights, 3, (i + 0.5) / 4000), minlength=6) for i in range(4000)])
    torch.testing.assert_close(many.double().mean(0), 3 * weights / 4, atol=1e-3, rtol=0)


def test_what_a_pool_is_worth() -> None:
    assert effective_size(torch.ones(7)) == 7
    assert effective_size(torch.tensor([1.0, 0, 0])) == 1
    assert effective_size(torch.full((9,), 1e-8)) == pytest.approx(9e-8), "alike, but not what is asked for"
    assert effective_size(torch.zeros(3)) == effective_size(torch.zeros(0)) == 0


# --- Steps -----------------------------------------------------------------------------------------------------------


def test_a_share_is_rendered_and_the_ledger_has_no_more() -> None:
    env = cloud()
    assert [rendered(env, at(0.5)) for _ in range(4)] == [32, 8, 8, 8]
    last = env.last
    assert last is not None
    assert last.replayed is not None
    assert last.replayed.reshape(4, 8).sum(1).tolist() == [6] * 4, "each training step has its share"
    again = Cloud()(last.betas, last.seeds)
    assert torch.equal(last.samples.image, again.image), "every sample is what its beta and its seed say"  # type: ignore[union-attr]
    assert torch.equal(last.seeds[~last.replayed], _seeds_of_the_last_step(env)[:8])


def _seeds_of_the_last_step(env: DataGenEnv) -> Tensor:
    env.update -= 1
    seeds = env.sample_seeds(env.problem.num_samples)
    env.update += 1
    return seeds


def test_the_most_recent_ones_are_kept() -> None:
    env = cloud(Replay(capacity=40, fresh=0.5))
    env.step(at(0.5))
    first = env.last.seeds  # type: ignore[union-attr]
    for _ in range(2):
        env.step(at(0.5))
    state = env.state_dict()["pool"]
    assert len(state["seeds"]) == 40
    assert torch.equal(state["seeds"][:8], first[-8:])
    assert state["density"].shape == (1, 40), "a beta that stays is there once"
    env.step(at(0.6))
    env.step(at(0.6))
    env.step(at(0.6))
    assert env.state_dict()["pool"]["betas"].tolist() == [at(0.6).tolist()]


def test_a_beta_that_jumps_has_its_samples_rendered() -> None:
    env = cloud()
    assert [rendered(env, at(mean)) for mean in (0.0, 0.0, 9.0, 9.0, -9.0)] == [32, 8, 32, 8, 32]
    assert rendered(env, at(9.0)) == 8, "what is still there serves again"
    assert 8 < rendered(env, at(8.2)) < 32, "it is worth less than a step takes"


def test_what_is_handed_over_must_be_the_same() -> None:
    env = cloud()
    assert [rendered(env, at(0.5, shade=shade)) for shade in (0.5, 0.6, 0.5, 0.6)] == [32, 32, 8, 8]
    assert env.last is not None
    assert (env.last.betas[:, 4] == 0.6).all()


def test_all_fresh_is_no_replay() -> None:
    """Bit for bit."""
    env, other = cloud(Replay(50, fresh=1.0)), cloud(None)
    for name in ("score_influence", "hybrid_gradient"):
        one, two = (REGISTRY[name](e.space, seed=0) for e in (env, other))
        for _ in range(4):
            one.update(env)
            two.update(other)
        state, expected = env.state_dict(), other.state_dict()
        assert set(state.pop("pool")["seeds"].shape) == {50}
        assert not state["last"].pop("replayed").any()
        assert bits(state) == bits(expected)
        assert env.ledger.counts == other.ledger.counts
        assert bits(one.state_dict()) == bits(two.state_dict())


def test_probes_and_betas_or_seeds_of_ones_own_render_all() -> None:
    env = cloud()
    env.step(at(0.5))
    pool, made = bits(env.state_dict()["pool"]), env.generator.made  # type: ignore[attr-defined]
    env.probe(at(0.5)[None])
    env.rollout(at(0.5))
    env.rollout(at(0.5).expand(32, -1), keep=True)
    env.rollout(at(0.5), seeds=torch.arange(32), keep=True)
    assert env.generator.made - made == 4 * 32  # type: ignore[attr-defined]
    assert bits(env.state_dict()["pool"]) == pool
    assert rendered(env, at(0.5)) == 8


def test_a_step_that_fails_leaves_nothing() -> None:
    env = cloud()
    env.step(at(0.5))
    pool = bits(env.state_dict()["pool"])
    env.generator.failing = True  # type: ignore[attr-defined]
    env.step(at(0.5))
    assert env.outcome is not None
    assert env.outcome.status is Status.UNRENDERABLE
    assert bits(env.state_dict()["pool"]) == pool
    env.generator.failing = False  # type: ignore[attr-defined]
    assert rendered(env, at(0.5)) == 8
    env.reset(seed=3)
    assert rendered(env, at(0.5)) == 32, "a reset forgets all"


# --- What estimators make of it --------------------------------------------------------------------------------------


def moved(env: DataGenEnv) -> Any:
    """The rollout of a step with replayed samples at a beta that has moved."""
    for mean in (0.3, 0.4, 0.5):
        env.step(at(mean, 1.0 + mean))
    assert env.last is not None
    assert env.last.replayed is not None
    assert 10 < env.last.replayed.sum() < 32
    return env.last


def test_scores_are_those_at_the_present_beta() -> None:
    env = cloud()
    last = moved(env)
    rows = ScoreInfluence(num_virtual=0, clip=math.inf).estimate(env, center(env), draws())
    influence = last.influence().reshape(4, 8)
    centred = (influence - (influence.sum(1, keepdim=True) - influence) / 7).flatten()
    # By autograd through torch's own density, of the samples as they are.
    beta = last.outcome.beta.expand(32, -1).clone().requires_grad_()
    density = TorchNormal(beta[:, :3], beta[:, 3:4]).log_prob(last.samples.image - beta[:, 4:].detach()).sum()
    (score,) = torch.autograd.grad(density, beta)
    expected = 32 * centred[:, None] * score * (env.space.high - env.space.low)
    torch.testing.assert_close(rows[:, :4], expected[:, :4])  # type: ignore[index]
    assert rows[:, 4].isnan().all()  # type: ignore[index]


def test_the_derivative_through_a_sample_is_that_of_rendered_ones() -> None:
    """What is differenced is rendered once more, so that this tells which samples are."""
    env = cloud()
    last = moved(env)
    fresh, made = ~last.replayed[-8:], env.generator.made  # type: ignore[attr-defined]
    hybrid = Hybrid(directions="gaussian", num_directions=3, pathwise=False, clip_samples=False)
    rows = hybrid.estimate(env, center(env), draws())
    assert rows is not None
    assert 0 < len(rows) == int(fresh.sum()) < 8
    assert env.generator.made - made == 2 * 3 * len(rows)  # type: ignore[attr-defined]
    exact = Hybrid(clip_samples=False).estimate(env, center(env), draws())
    gradient = last.sample_gradient(last_steps=1, curvature=False)
    width, d_image = env.space.high - env.space.low, gradient.samples.image[fresh]
    z = (last.samples.image[-8:][fresh] - last.outcome.beta[4] - last.outcome.beta[:3]) / last.outcome.beta[3]
    by_hand = torch.cat([d_image, (d_image * z).sum(1, keepdim=True), d_image.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(exact, 32 * by_hand * width)


def test_proposals_take_no_part() -> None:
    env = cloud()
    credit = REGISTRY["credit_gradient"](env.space, seed=0)
    for _ in range(4):
        credit.update(env)
    assert isinstance(credit.estimator.propose(env, center(env), draws()), Proposal)  # type: ignore[attr-defined]
    assert env.ledger.counts["samples"] > 3 * 32


# --- Saved states ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["score_influence", "hybrid_gradient", "autosimulate", "fixed"])
def test_it_goes_on_with_the_same_bits(name: str) -> None:
    """Through a file, and the samples are made again at nobody's expense."""
    env, fresh = cloud(), cloud()
    optimizer, again = (REGISTRY[name](env.space, seed=0) for _ in range(2))
    replayed = 0
    for _ in range(7):
        optimizer.update(env)
    kept = through_file({"env": env.state_dict(), "optimizer": optimizer.state_dict()})
    fresh.load_state_dict(kept["env"])
    again.load_state_dict(kept["optimizer"])
    assert fresh.ledger.counts == env.ledger.counts
    assert bits(fresh.state_dict()) == bits(env.state_dict())
    for _ in range(4):
        optimizer.update(env)
        again.update(fresh)
        assert fresh.last is not None
        assert fresh.last.replayed is not None
        replayed += int(fresh.last.replayed.sum())
    assert replayed >= 24
    assert fresh.ledger.counts == env.ledger.counts
    assert bits(fresh.state_dict()) == bits(env.state_dict())
    assert bits(again.state_dict()) == bits(optimizer.state_dict())


def test_damaged_states_are_refused() -> None:
    env = cloud(unroll_steps=1, batch_size=4)
    for mean in (0.5, 0.51):
        env.step(at(mean))
    assert check_all_damages(env) > 300
    state = env.state_dict()
    refuses(env, put(state, ("pool", "density"), 0.5 + state["pool"]["density"]))
    refuses(env, put(state, ("pool", "seeds"), 1 + state["pool"]["seeds"]), "seeds of other samples")
    refuses(env, put(state, ("pool", "group"), 0 * state["pool"]["group"]))
    refuses(env, put(state, ("pool", "betas"), 99 + state["pool"]["betas"]))
    refuses(cloud(Replay(2, 0.25), unroll_steps=1, batch_size=4), state, "more than there is room for")
    refuses(cloud(None, unroll_steps=1, batch_size=4), state, "with a pool where there is none")
    refuses(env, cloud(None, unroll_steps=1, batch_size=4).state_dict(), "without a pool")


# --- Settings and generators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity must be a positive number"),
        ({"capacity": 10.0}, "capacity must be a positive number"),
        ({"fresh": 0.0}, "above 0 and at most 1"),
        ({"fresh": 1.5}, "above 0 and at most 1"),
        ({"fresh": math.nan}, "above 0 and at most 1"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Replay(**options)


def test_at_least_one_is_rendered() -> None:
    assert [Replay(fresh=share).most(30) for share in (1e-6, 0.1, 0.11, 1.0)] == [29, 27, 26, 0]


def test_a_generator_without_densities_is_refused() -> None:
    env = quadratic()
    with pytest.raises(TypeError, match=r"QuadraticGenerator has no draws\(\); see hgenv.Generator"):
        DataGenEnv(env.generator, env.learner, env.validation, env.test, rule=SGD(0.1), replay=REPLAY)
    with pytest.raises(TypeError, match=r"replay must be None, or hgenv.Replay\("):
        cloud(0.25)  # type: ignore[arg-type]


def test_the_kit_notices_wrong_densities() -> None:
    class Unnormalized(Cloud):
        def log_density(self, betas: Tensor, draws: dict[str, Tensor]) -> Tensor:
            return super().log_density(betas, draws) + 3 * betas[:, 3].log()

        def score(self, betas: Tensor, draws: dict[str, Tensor]) -> Tensor:
            more = torch.zeros_like(betas)
            more[:, 3] = 3 / betas[:, 3]
            return super().score(betas, draws) + more

    class Halved(Cloud):
        def score(self, betas: Tensor, draws: dict[str, Tensor]) -> Tensor:
            return super().score(betas, draws) / 2

    for spoilt, words in ((Unnormalized, "with what normalizes it"), (Halved, "no derivative of log_density")):

        class Kit(GeneratorConformance):
            made = spoilt

            def make(self) -> Any:
                return self.made()

        assert_noticed(Kit(), "test_log_density", words)


def test_a_black_box() -> None:
    """A price that is stated is charged for what is rendered; scores at another beta are differences of its density."""
    parameters = {"level": Normal(Tuned(-1, 1, 0.2), Tuned(0.05, 1, 0.2)), "on": Bernoulli(Tuned(0, 1, 0.3))}
    generator = BlackBox(black_boxes.render, parameters | {"tilt": Tuned(0, 1, 0.5)}, workers=1, seconds_per_sample=50)
    assert generator.handed_over == ("tilt",)
    there, here, seeds = generator.space.initial.expand(40, -1), generator.space.initial.clone(), torch.arange(40)
    here[:3] = torch.tensor([0.4, 0.3, 0.6])
    drawn, score = generator.draws(there, seeds), generator.score(here.expand(40, -1), generator.draws(there, seeds))
    for i in range(3):
        step = 1e-6 * torch.eye(4, dtype=torch.float64)[i]
        change = generator.log_density((here + step).expand(40, -1), drawn)
        change = change - generator.log_density((here - step).expand(40, -1), drawn)
        torch.testing.assert_close(change / 2e-6, score[:, i], rtol=1e-6, atol=1e-6)
    assert score[:, 3].isnan().all()

    pool = ReplayPool(REPLAY, generator)
    beta = generator.space.initial
    ledger = Ledger()
    with ledger.phase("generate"):
        pool.add(beta, seeds, generator(there, seeds))
        drawn_again = pool.draw(beta, 40, 20, torch.tensor([1]))
    assert int(drawn_again.replayed.sum()) == 30
    assert 2000 <= ledger.spent("cpu_seconds") < 2050
    generator.close()


def test_from_the_command_line() -> None:
    plain = compose(["env=shapes", "optimizer=fixed"]).identity
    assert plain["env"]["replay"] is None
    assert "replay" not in differs(plain)["env"], "runs that were made before are what they were"
    found = compose(["env=shapes", "optimizer=fixed", "env.replay.fresh=0.5"])
    assert found.identity["env"]["replay"] == {"_target_": "hgenv.Replay", "capacity": 1024, "fresh": 0.5}
    whole = compose(["env=shapes", "optimizer=fixed", "env.replay={_target_: hgenv.Replay, fresh: 0.5}"])
    assert whole.identity == found.identity
    with pytest.raises(RunError, match=r"ShapeGenerator has no draws\(\)"):
        make_environment(found.record)
