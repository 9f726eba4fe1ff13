"""Every optimizer, as configured and otherwise, under the kit; what the kit notices; and estimators of one's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionError, DecisionSpace
from hgenv.optimizers import (
    REGISTRY,
    SGD,
    SPSA,
    Adam,
    Antithetic,
    CentredRanks,
    Credit,
    GradientOptimizer,
    Guided,
    Hybrid,
    NoiseReuseES,
    Optimizer,
    Proposal,
    RandomSearch,
    Reinforce,
    RMSprop,
    Shrinkage,
    augmented_random_search,
    credit_gradient,
)
from hgenv.testing import OptimizerConformance

from .tools import center, draws, losses, mixture, quadratic


class TestHybridGradient(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["hybrid_gradient"](space, seed=seed)


class TestHybridGradientPaper(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["hybrid_gradient_paper"](space, seed=seed)


class TestHybridGradientPaperOnASimplex(TestHybridGradientPaper):
    """Clipped, it is not always valid within; what it asks and steps at is."""

    def make_env(self) -> DataGenEnv:
        return mixture()


class TestHybridGradientGaussian(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        estimator = Hybrid(directions="gaussian", last_steps=None, curvature=True, pathwise=False)
        rule = RMSprop(0.005, momentum=0.5, decay_updates=20.0)
        return GradientOptimizer(space, estimator, rule, seed=seed, shrinkage=Shrinkage())


class TestCreditGradient(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["credit_gradient"](space, seed=seed)


class TestCreditGradientCoordinate(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        estimator = Credit(directions="coordinate", clip_pairs=True)
        return credit_gradient(space, seed=seed, estimator=estimator, period=2, shrinkage=Shrinkage(0.9))


class TestCreditGradientOnASimplex(TestCreditGradient):
    def make_env(self) -> DataGenEnv:
        return mixture()


class TestScoreInfluence(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["score_influence"](space, seed=seed)


class TestAutoSimulate(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["autosimulate"](space, seed=seed)


class TestCombined(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["combined"](space, seed=seed)


class TestBasicRandomSearch(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["basic_random_search"](space, seed=seed)


class TestBasicRandomSearchPaper(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["basic_random_search_paper"](space, seed=seed)


class TestAugmentedRandomSearch(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["augmented_random_search"](space, seed=seed)


class TestAugmentedRandomSearchWithMomentum(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        estimator = Antithetic(num_directions=2, normalize=True)
        return augmented_random_search(space, seed=seed, estimator=estimator, rule=SGD(0.02, momentum=0.5))


class TestAdamAndClippedBounds(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return GradientOptimizer(space, Hybrid(), Adam(0.02), seed=seed, bounds="clip")


class TestReinforce(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["reinforce"](space, seed=seed)


class TestSPSA(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["spsa"](space, seed=seed)


class TestOpenAIES(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["openai_es"](space, seed=seed)


class TestGuidedES(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["guided_es"](space, seed=seed)


class TestNoiseReuseES(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["noise_reuse_es"](space, seed=seed)


class TestPersistentES(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["persistent_es"](space, seed=seed)


class TestSNES(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["snes"](space, seed=seed)


class TestEvolution(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["evolution"](space, seed=seed)


class TestDiagonalCMA(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["diagonal_cma"](space, seed=seed)


class TestCMAESLRA(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["cmaes_lra"](space, seed=seed)


class TestTBPSA(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["tbpsa"](space, seed=seed)


class TestOnePlusOne(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["one_plus_one"](space, seed=seed)


class TestDE(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["de"](space, seed=seed)


class TestPSO(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["pso"](space, seed=seed)


class TestOptuna(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["optuna"](space, seed=seed)


class TestNoiseReuseESOnASimplex(OptimizerConformance):
    """With several particles, whose episodes end at different times."""

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return NoiseReuseES(space, seed=seed, num_particles=3, episode=3)

    def make_env(self) -> DataGenEnv:
        return mixture()


class TestRandomSearch(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["random_search"](space, seed=seed)


class TestQuasiRandomSearch(OptimizerConformance):
    updates = 20

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["quasi_random_search"](space, seed=seed)


class TestFixed(OptimizerConformance):
    improves = False

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return REGISTRY["fixed"](space, seed=seed)


def test_registry_names_all() -> None:
    assert list(REGISTRY) == [
        "hybrid_gradient",
        "hybrid_gradient_paper",
        "credit_gradient",
        "score_influence",
        "combined",
        "autosimulate",
        "basic_random_search",
        "basic_random_search_paper",
        "augmented_random_search",
        "reinforce",
        "spsa",
        "openai_es",
        "guided_es",
        "noise_reuse_es",
        "persistent_es",
        "snes",
        "evolution",
        "diagonal_cma",
        "cmaes_lra",
        "tbpsa",
        "one_plus_one",
        "de",
        "pso",
        "optuna",
        "random_search",
        "quasi_random_search",
        "fixed",
    ]


@pytest.mark.parametrize("name", REGISTRY)
def test_state_of_another_space_is_refused(name: str) -> None:
    env = OptimizerConformance().make_env()
    smaller = DecisionSpace(env.space.blocks[:1])
    state = REGISTRY[name](smaller, seed=0).state_dict()
    with pytest.raises(ValueError, match="3 components, but the space has 4"):
        REGISTRY[name](env.space, seed=0).load_state_dict(state)


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (Hybrid, {"directions": "x"}, "'gaussian' or 'coordinate'"),
        (Hybrid, {"sigma": 0.0}, "positive"),
        (Hybrid, {"num_directions": 0}, "positive"),
        (Hybrid, {"last_steps": 0}, "last_steps must be None or at least 1, not 0"),
        (Credit, {"directions": "x"}, "'gaussian' or 'coordinate'"),
        (Credit, {"sigma": 0.0}, "positive"),
        (Antithetic, {"num_directions": 0}, "positive"),
        (Antithetic, {"sigma": 0.0}, "positive"),
        (Antithetic, {"best": 3}, "1 to 2 directions, not 3"),
        (Antithetic, {"best": 0}, "1 to 2 directions, not 0"),
        (Reinforce, {"num_probes": 1}, "at least 2"),
        (SPSA, {"power": -1.0}, "power at least 0"),
        (CentredRanks, {"sigma": 0.0}, "positive"),
        (Guided, {"alpha": 1.5}, "within 0 to 1"),
    ],
)
def test_estimators_that_there_are_not_are_refused(estimator: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator(**options)


@pytest.mark.parametrize("estimator", [Hybrid(), Credit(), Antithetic(), Reinforce(), SPSA(), Guided()])
def test_estimators_are_frozen_values(estimator: Any) -> None:
    assert estimator == type(estimator)()
    with pytest.raises(AttributeError):
        estimator.sigma = 0.2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("evolution", {"name": "CMMA"}, "knows no optimizer 'CMMA'; choose e.g. CMA"),
        ("evolution", {"name": "NGOpt"}, r"numpy 2\.4"),
        ("evolution", {"name": "SPSA"}, "SPSA cannot take a generation of"),
        ("evolution", {"name": "MetaModel"}, "nevergrad's MetaModel breaks down"),
        (
            "evolution",
            {"name": "BAR4"},
            "nevergrad's BAR4 cannot take a generation of .*ZeroDivisionError.*such as CMA",
        ),
        ("evolution", {"name": "NgIoh10"}, "nevergrad's NgIoh10 does not work here .*such as CMA"),
        ("evolution", {"population": 1}, "at least 2"),
        ("evolution", {"sigma": 0.0}, "positive"),
        ("random_search", {"candidates": 0}, "positive"),
        ("snes", {"population": 1}, "at least 2"),
        ("snes", {"sigma": 0.0}, "sigma positive"),
        ("cmaes_lra", {"population": 3}, "at least 4"),
        ("optuna", {"name": "GridSampler"}, "no sampler 'GridSampler' that serves here; choose TPESampler"),
        ("optuna", {"population": 0}, "positive"),
        ("noise_reuse_es", {"num_particles": 0}, "positive"),
        ("persistent_es", {"episode": 0}, "positive"),
    ],
)
def test_bad_hyperparameters_are_refused(name: str, options: dict[str, object], message: str) -> None:
    space = OptimizerConformance().make_env().space
    with pytest.raises(ValueError, match=message):
        REGISTRY[name](space, seed=0, **options)


# --- What the kit notices --------------------------------------------------------------------------------------------


class Spoilt(RandomSearch):
    """A conforming optimizer, for others to spoil."""

    def __init__(self, space: DecisionSpace, seed: int) -> None:
        super().__init__(space, seed=seed)


class Elsewhere(Spoilt):
    def __init__(self, space: DecisionSpace, seed: int) -> None:
        super().__init__(space, seed)
        self.normalized = self.normalized + 0.1


class OutOfBounds(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        env.step(env.space.high * 1.5)


class TwoSteps(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        super().update(env)
        env.step(self.recommendation)


class StepsFirst(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        env.step(self.recommendation)
        env.probe(self.recommendation[None])


class Global(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        self.normalized = torch.rand(env.space.dimension, dtype=torch.float64)
        env.step(self.recommendation)


class TrustsEveryLoss(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        (outcome,) = env.probe(self.recommendation[None])
        self.normalized = self.normalized - 0 * float("nan" if outcome.loss is None else outcome.loss)
        env.step(self.recommendation)


class Forgets(Spoilt):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.normalized = state["normalized"]


class Worsens(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        self.normalized = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        env.step(self.recommendation)


@pytest.mark.parametrize(
    ("spoilt", "check"),
    [
        (Elsewhere, "test_starts_at_the_common_beta"),
        (OutOfBounds, "test_bounds_are_respected"),
        (TwoSteps, "test_an_update_ends_in_its_only_step"),
        (StepsFirst, "test_an_update_ends_in_its_only_step"),
        (Global, "test_same_seed_same_proposals"),
        (Global, "test_global_randomness_is_left_alone"),
        (TrustsEveryLoss, "test_survives_failures"),
        (Forgets, "test_state_round_trip"),
        (Worsens, "test_improves"),
    ],
)
def test_the_kit_notices(spoilt: type[Spoilt], check: str) -> None:
    class Kit(OptimizerConformance):
        def make(self, space: DecisionSpace, seed: int) -> Optimizer:
            return spoilt(space, seed)

    state = torch.get_rng_state()
    try:
        with pytest.raises((AssertionError, DecisionError)):
            getattr(Kit(), check)()
    finally:
        torch.set_rng_state(state)


# --- Fixed -----------------------------------------------------------------------------------------------------------


def test_a_random_beta_is_valid_and_stays() -> None:
    env = OptimizerConformance().make_env()
    env.reset(seed=0)
    optimizers = [REGISTRY["fixed"](env.space, seed=0, initial=f"random:{number}") for number in (0, 0, 1)]
    betas = [optimizer.recommendation for optimizer in optimizers]
    assert torch.equal(betas[0], betas[1])
    assert not torch.equal(betas[0], betas[2])
    assert torch.equal(betas[0], env.space.project(env.space.check(betas[0])))
    optimizers[0].update(env)
    assert torch.equal(optimizers[0].recommendation, betas[0])


def test_trains_at_a_given_beta() -> None:
    env = OptimizerConformance().make_env()
    env.reset(seed=0)
    wanted = env.space.project(env.space.low + 0.3 * (env.space.high - env.space.low))
    optimizer = REGISTRY["fixed"](env.space, seed=0, initial=wanted.tolist())
    optimizer.update(env)
    assert env.outcome is not None
    torch.testing.assert_close(env.outcome.beta, wanted, rtol=0, atol=1e-12)


# --- Estimators of one's own -----------------------------------------------------------------------------------------


class Simultaneous:
    """SPSA (Spall, 1992): one pair of probes, all components moved by sigma, up or down."""

    def __init__(self, sigma: float = 0.05) -> None:
        self.sigma = sigma

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        delta = self.sigma * (2.0 * torch.randint(2, center.shape, generator=random) - 1).double()
        ends = env.space.denormalize(torch.stack([center + delta, center - delta]))
        plus, minus = env.probe(env.space.project(ends))
        return (plus.loss - minus.loss) / (2 * delta)[None] if plus.ok and minus.ok else None


class ScoreFunction:
    """REINFORCE over beta, one point a sample: influence times the score of the beta that the sample was drawn at."""

    def __init__(self, sigma: float = 0.05) -> None:
        self.sigma = sigma

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        noise = torch.randn((env.problem.num_samples, len(center)), generator=random, dtype=torch.float64)
        return Proposal((center + self.sigma * noise).clamp(0, 1))

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        if env.last is None or not env.last.outcome.ok:
            return None
        influence = env.last.influence()
        score = (env.space.normalize(env.last.betas) - center) / self.sigma**2
        return len(score) * (influence - influence.mean())[:, None] * score


class TestSimultaneous(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return GradientOptimizer(space, Simultaneous(), Adam(0.02), seed=seed)


class TestScoreFunction(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return GradientOptimizer(space, ScoreFunction(), RMSprop(0.01), seed=seed, shrinkage=Shrinkage(0.9))


def test_an_estimator_of_ones_own_is_unbiased() -> None:
    """400 estimates of SPSA against differences of L."""
    env, random, h = quadratic(), draws(), 1e-5
    steps = h * torch.eye(4, dtype=torch.float64)
    expected = (losses(env, center(env) + steps) - losses(env, center(env) - steps)) / (2 * h)
    found = []
    for _ in range(400):
        rows = Simultaneous().estimate(env, center(env), random)
        assert rows is not None
        found.append(rows[0])
    estimates = torch.stack(found)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - expected).abs() <= 4 * error).all()
    assert (4 * error < 0.5 * expected.norm()).all()


def test_a_proposal_of_ones_own_is_looked_back_on() -> None:
    """Against differences of L; with one training step there is no curvature that influence could lack."""
    env = quadratic(unroll_steps=1, batch_size=4096)
    h = 1e-5
    steps = h * torch.eye(4, dtype=torch.float64)
    expected = (losses(env, center(env) + steps) - losses(env, center(env) - steps)) / (2 * h)
    optimizer = GradientOptimizer(env.space, ScoreFunction(), SGD(), seed=0)
    optimizer.update(env)
    rows = ScoreFunction().estimate(env, center(env), draws())
    assert rows is not None
    error = rows.std(0) / len(rows) ** 0.5
    assert ((rows.mean(0) - expected).abs() <= 4 * error).all()
    assert (4 * error < expected.norm()).all()
