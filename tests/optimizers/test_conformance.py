from typing import Any

import pytest
import torch

from hgenv.decision import DecisionError, DecisionSpace
from hgenv.env import DataGenEnv
from hgenv.testing import OptimizerConformance
from optimizers import (
    REGISTRY,
    BasicRandomSearch,
    CreditGradient,
    Evolution,
    Fixed,
    HybridGradient,
    Optimizer,
    RandomSearch,
)


class TestHybridGradient(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return HybridGradient(space, seed=seed)


class TestHybridGradientGaussian(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return HybridGradient(
            space, seed=seed, directions="gaussian", exact=False, momentum=0.5, max_norm=1.0, decay_updates=20.0
        )


class TestCreditGradient(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return CreditGradient(space, seed=seed)


class TestCreditGradientCoordinate(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return CreditGradient(space, seed=seed, directions="coordinate", clip_pairs="median", every=2, shrink=0.9)


class TestBasicRandomSearch(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return BasicRandomSearch(space, seed=seed)


class TestAugmentedRandomSearch(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return BasicRandomSearch(space, seed=seed, rule="sgd", normalize=True, learning_rate=0.02, momentum=0.5)


class TestEvolution(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return Evolution(space, seed=seed)


class TestEvolutionMean(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return Evolution(space, seed=seed, name="DE", population=6, step_at="mean")


class TestRandomSearch(OptimizerConformance):
    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return RandomSearch(space, seed=seed)


class TestFixed(OptimizerConformance):
    improves = False

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return Fixed(space, seed=seed)


def test_registry_names_all() -> None:
    assert list(REGISTRY) == [
        "hybrid_gradient",
        "credit_gradient",
        "basic_random_search",
        "evolution",
        "random_search",
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
    ("name", "options", "message"),
    [
        ("hybrid_gradient", {"directions": "x"}, "'gaussian' or 'coordinate'"),
        ("hybrid_gradient", {"clip_samples": "x"}, "'median' or None"),
        ("hybrid_gradient", {"sigma": 0.0}, "positive"),
        ("hybrid_gradient", {"learning_rate": 0.0}, "positive"),
        ("credit_gradient", {"directions": "x"}, "'gaussian' or 'coordinate'"),
        ("credit_gradient", {"clip_pairs": "x"}, "'median' or None"),
        ("credit_gradient", {"sigma": 0.0}, "positive"),
        ("basic_random_search", {"pairs": 0}, "positive"),
        ("basic_random_search", {"rule": "adam"}, "'sgd' or 'rmsprop'"),
        ("evolution", {"name": "CMMA"}, "knows no optimizer 'CMMA'; choose e.g. CMA"),
        ("evolution", {"name": "NGOpt"}, r"numpy 2\.4"),
        ("evolution", {"name": "SPSA"}, "SPSA cannot take a generation of"),
        ("evolution", {"population": 1}, "at least 2"),
        ("evolution", {"step_at": "worst"}, "'best' or 'mean'"),
        ("random_search", {"candidates": 0}, "positive"),
    ],
)
def test_bad_hyperparameters_are_refused(name: str, options: dict[str, object], message: str) -> None:
    space = OptimizerConformance().make_env().space
    with pytest.raises(ValueError, match=message):
        REGISTRY[name](space, seed=0, **options)


class Spoilt(RandomSearch):
    """A conforming optimizer, for others to spoil."""

    def __init__(self, space: DecisionSpace, seed: int) -> None:
        super().__init__(space, seed=seed)


class Elsewhere(Spoilt):
    def __init__(self, space: DecisionSpace, seed: int) -> None:
        super().__init__(space, seed)
        self.scaled = self.scaled + 0.1


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
        self.scaled = torch.rand(env.space.dimension, dtype=torch.float64)
        env.step(self.recommendation)


class TrustsEveryLoss(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        (outcome,) = env.probe(self.recommendation[None])
        self.scaled = self.scaled - 0 * float("nan" if outcome.loss is None else outcome.loss)
        env.step(self.recommendation)


class Forgets(Spoilt):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaled = state["scaled"]


class Worsens(Spoilt):
    def update(self, env: DataGenEnv) -> None:
        self.scaled = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
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


def test_a_random_beta_is_valid_and_stays() -> None:
    env = OptimizerConformance().make_env()
    env.reset(seed=0)
    optimizers = [Fixed(env.space, seed=seed, beta="random") for seed in (0, 0, 1)]
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
    optimizer = Fixed(env.space, seed=0, beta=wanted.tolist())
    optimizer.update(env)
    assert env.outcome is not None
    torch.testing.assert_close(env.outcome.beta, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("beta", "error", "message"), [
    ("luck", ValueError, "initial, random, or . numbers, not 'luck'"),
    ([0.1], DecisionError, "components"),
    ([99.0] * 4, DecisionError, "outside"),
])  # fmt: skip
def test_a_beta_that_cannot_be_held_is_refused(beta, error, message) -> None:
    with pytest.raises(error, match=message):
        Fixed(OptimizerConformance().make_env().space, seed=0, beta=beta)
