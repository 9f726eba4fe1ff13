import pytest

from hgenv.decision import DecisionSpace
from hgenv.testing import OptimizerConformance
from optimizers import (
    REGISTRY,
    BasicRandomSearch,
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


def test_registry_names_all_five() -> None:
    assert list(REGISTRY) == ["hybrid_gradient", "basic_random_search", "evolution", "random_search", "fixed"]


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
