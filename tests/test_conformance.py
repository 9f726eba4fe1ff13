"""The project's own parts keep the promises that third parties are held to, and the kits notice who does not."""

import unittest
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionError, DenseSamples, Generator, Learner, Metric, Network, Picture, Samples
from hgenv.datasets import load_heads, load_photos, standin_faces
from hgenv.datasets.heads import Heads
from hgenv.generators.faces import FaceGenerator
from hgenv.generators.faces_lit import LitFaceGenerator
from hgenv.generators.population import PopulationGenerator
from hgenv.generators.quadratic import QuadraticGenerator
from hgenv.generators.shapes import ShapeGenerator
from hgenv.generators.studio import StudioGenerator
from hgenv.learning import DenseLearner
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.tasks.depth import DepthTask
from hgenv.tasks.normals import NormalsTask
from hgenv.tasks.quadratic import QuadraticTask, point_data
from hgenv.testing import EnvironmentConformance, GeneratorConformance, LearnerConformance

from .toys import ClassificationTask, StripesGenerator, TwoLayers, labelled_data, labels_env

# --- Generators -------------------------------------------------------------------------------------------------------


class TestQuadraticGenerator(GeneratorConformance):
    tolerance = 1e-6

    def make(self) -> Generator:
        return QuadraticGenerator()


class TestStripesGenerator(GeneratorConformance):
    tolerance = 1e-6

    def make(self) -> Generator:
        return StripesGenerator()


@pytest.mark.parametrize("lit", [False, True], scope="class")
class TestShapeGenerator(GeneratorConformance):
    lit = False

    @pytest.fixture(autouse=True)
    def choose(self, lit: bool) -> None:
        self.lit = lit

    def make(self) -> Generator:
        return ShapeGenerator(AnalyticRenderer(32), lit=self.lit)


class TestPopulationGenerator(GeneratorConformance):
    def make(self) -> Generator:
        # Random trees of 8 slots are full of shadows' edges, which `pathwise` leaves out.
        return PopulationGenerator(AnalyticRenderer(32, shadows=False), members=4, lit=True)


class TestStudioGenerator(GeneratorConformance):
    difference = 1e-2  # one number of a map moves images by little more than single precision
    components = 16
    scored = 100

    def make(self) -> Generator:
        return StudioGenerator(AnalyticRenderer(24))


class TestFaceGenerator(GeneratorConformance):
    def make(self) -> Generator:
        return FaceGenerator(standin_faces.model(), size=32)


class Settings(LitFaceGenerator):
    """Its scores of light and camera alone: those of faces are `FaceGenerator`'s, which test_faces_lit.py says."""

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        score = super().log_prob_score(betas, seeds)
        score[:, : FaceGenerator(self.model).space.dimension] = torch.nan
        return score


class TestLitFaceGenerator(GeneratorConformance):
    scored = 60

    def make(self) -> Generator:
        return Settings(standin_faces.model(), size=16)


# --- Learners ---------------------------------------------------------------------------------------------------------


def some(generator: Generator) -> Samples:
    return generator(generator.space.project(generator.space.initial).expand(4, -1), torch.arange(4))


class TestQuadraticLearner(LearnerConformance):
    tolerance = 1e-6

    def make(self) -> Learner:
        return QuadraticLearner()

    def samples(self) -> Samples:
        return some(QuadraticGenerator())

    def data(self) -> Any:
        return point_data((0.1, 0.2, 0.3), "a point")


class TestTwoLayers(LearnerConformance):
    tolerance = 1e-5

    def make(self) -> Learner:
        return TwoLayers()

    def samples(self) -> Samples:
        return some(StripesGenerator())

    def data(self) -> Any:
        return labelled_data(0, "stripes")


class TestNormalsLearner(LearnerConformance):
    tolerance = 1e-5

    def make(self) -> Learner:
        return DenseLearner(NormalsTask(), Network(size=32), torch.float64)

    def samples(self) -> Samples:
        return some(ShapeGenerator(AnalyticRenderer(32))).map(lambda x: x.double())

    def data(self) -> Any:
        return load_photos("standin", size=32)[0]


class TestNormalsLearnerInSinglePrecision(LearnerConformance):
    tolerance = 1e-2

    def make(self) -> Learner:
        return DenseLearner(NormalsTask(), Network(size=32))

    def samples(self) -> Samples:
        return some(ShapeGenerator(AnalyticRenderer(32)))

    def data(self) -> Any:
        return load_photos("standin", size=32)[0]


class TestDepthLearner(LearnerConformance):
    tolerance = 1e-5

    def make(self) -> Learner:
        return DenseLearner(DepthTask(), Network(size=32), torch.float64)

    def samples(self) -> Samples:
        return some(FaceGenerator(standin_faces.model(), size=32)).map(lambda x: x.double())

    def data(self) -> Any:
        return load_heads("standin", size=32)[0]


# --- Environments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FaceDepth", "FaceDepthLit"], scope="class")
class TestFaceDepth(EnvironmentConformance):
    difference = 3e-3
    tolerance = 5e-2

    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    def make(self) -> DataGenEnv:
        kwargs = {"network": Network(size=32), "unroll_steps": 2, "batch_size": 4, "data": heads()}
        return gymnasium.make(f"hgenv/{self.name}-v0", disable_env_checker=True, **kwargs).unwrapped


@cache
def heads() -> tuple[Heads, Heads]:
    return load_heads("standin", size=32)


class TestQuadratic(EnvironmentConformance):
    tolerance = 1e-6

    def make(self) -> DataGenEnv:
        return gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped


class TestLabels(EnvironmentConformance):
    check_render = False  # its task draws no pictures
    tolerance = 1e-6

    def make(self) -> DataGenEnv:
        env = labels_env()
        env.spec = gymnasium.spec("hgenv/Quadratic-v0")  # Gymnasium's checker wants one
        return env


@pytest.mark.parametrize(
    "name", ["ShapeNormals", "ShapeNormalsLit", "ShapeNormalsStudio", "ShapePopulation"], scope="class"
)
class TestShapeNormals(EnvironmentConformance):
    difference = 1e-2
    tolerance = 5e-2
    check_render = False  # in test_env.py

    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    def make(self) -> DataGenEnv:
        kwargs = {"network": Network(size=32), "unroll_steps": 2, "batch_size": 4}
        return gymnasium.make(f"hgenv/{self.name}-v0", disable_env_checker=True, **kwargs).unwrapped


# --- The kits notice: generators --------------------------------------------------------------------------------------


class Forgetful(QuadraticGenerator):
    """Every call makes other samples."""

    calls = 0

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        Forgetful.calls += 1
        return super().__call__(betas, seeds + Forgetful.calls)


class Standardizing(QuadraticGenerator):
    """Takes the mean of the batch away."""

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        made = super().__call__(betas, seeds)
        return replace(made, image=made.image - made.image.mean(0))


class OneBeta(QuadraticGenerator):
    """Looks at the first row alone."""

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        return super().__call__(betas[:1].expand(len(betas), -1), seeds)


class GreyMask(QuadraticGenerator):
    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        made = super().__call__(betas, seeds)
        return replace(made, mask=made.mask / 2)


class Unlabelled(StripesGenerator):
    """Nothing to differentiate by."""

    def __call__(self, betas: Tensor, seeds: Tensor) -> Any:
        made = super().__call__(betas, seeds)
        return replace(made, image=made.image.long())


class PoleAtZero(QuadraticGenerator):
    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        made = super().__call__(betas, seeds)
        return replace(made, image=made.image / betas[:, 3:])


class GlobalNoise(QuadraticGenerator):
    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        made = super().__call__(betas, seeds)
        return replace(made, image=made.image + torch.rand(1, dtype=torch.float64))


class NotPathwise(QuadraticGenerator):
    """Says that it can be differentiated where it cannot."""

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        parts = betas.split(3, 1)
        return super().__call__(torch.cat([parts[0], parts[1].detach()], 1), seeds)


class WrongScore(ShapeGenerator):
    """The score of one block is multiplied by something."""

    def __init__(self, block: str, factor: float) -> None:
        super().__init__(AnalyticRenderer(16), lit=True)
        self.wrong, self.factor = block, factor

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        score = super().log_prob_score(betas, seeds)
        score[:, self.space.slice(self.wrong)] *= self.factor
        return score


@pytest.mark.parametrize(
    ("block", "factor", "samples"),
    [("primitive", -1, 500), ("operator", -1, 500), ("expand", 0.5, 500), ("light", 1.5, 2000)],
)
def test_the_generators_kit_notices_wrong_scores(block: str, factor: float, samples: int) -> None:
    class Kit(GeneratorConformance):
        scored = samples

        def make(self) -> Generator:
            return WrongScore(block, factor)

    assert_noticed(Kit(), "test_log_prob_score", f"along block '{block}' the mean of a statistic")


@pytest.mark.parametrize(
    ("spoilt", "check", "words"),
    [
        (Forgetful, "test_deterministic", "draw from the seeds alone"),
        (Standardizing, "test_rows_are_independent_of_the_batch", "hash each row's own seed"),
        (OneBeta, "test_each_row_has_its_own_beta", "changed other rows"),
        (GreyMask, "test_shapes_and_types", "values other than 0 and 1"),
        (Unlabelled, "test_shapes_and_types", "none of image, label is floating point"),
        (PoleAtZero, "test_finite_at_corners", "image is not finite"),
        (GlobalNoise, "test_global_randomness_is_left_alone", "use generators of your own"),
        (NotPathwise, "test_pathwise_blocks", "take the block out of `pathwise`"),
    ],
)
def test_the_generators_kit_notices(spoilt: Callable[[], Generator], check: str, words: str) -> None:
    class Kit(GeneratorConformance):
        def make(self) -> Generator:
            return spoilt()

    assert_noticed(Kit(), check, words)


def assert_noticed(kit: Any, check: str, words: str) -> None:
    state = torch.get_rng_state()
    try:
        with pytest.raises(AssertionError, match=words):
            getattr(kit, check)()
    finally:
        torch.set_rng_state(state)


# --- The kits notice: learners ----------------------------------------------------------------------------------------


class GlobalWeights(TwoLayers):
    def initial_weights(self, seed: int) -> dict[str, Tensor]:
        return {name: torch.rand_like(w) for name, w in super().initial_weights(seed).items()}


class OneSetOfWeights(TwoLayers):
    def initial_weights(self, seed: int) -> dict[str, Tensor]:
        return super().initial_weights(0)


class Parameters(TwoLayers):
    def initial_weights(self, seed: int) -> dict[str, Tensor]:
        return {name: w.requires_grad_() for name, w in super().initial_weights(seed).items()}


class Dropout(TwoLayers):
    def output(self, weights: dict[str, Tensor], samples: Any) -> Tensor:
        return torch.nn.functional.dropout(super().output(weights, samples), 0.5)


class InPlace(TwoLayers):
    def output(self, weights: dict[str, Tensor], samples: Any) -> Tensor:
        weights["bias"].detach().add_(1)
        return super().output(weights, samples)


class BatchNorm(TwoLayers):
    def output(self, weights: dict[str, Tensor], samples: Any) -> Tensor:
        output = super().output(weights, samples)
        return output - output.mean(0)


class OnceDifferentiable(TwoLayers):
    """A straight-through estimator: the value is rounded, the derivative is not."""

    def output(self, weights: dict[str, Tensor], samples: Any) -> Tensor:
        output = super().output(weights, samples)
        return output + 0.1 * (output**3 - (output**3).detach())


class Free(TwoLayers):
    def flops(self, kind: str, samples: int) -> int:
        return 0


class Flat(TwoLayers):
    def flops(self, kind: str, samples: int) -> int:
        return 100


class Looking(TwoLayers):
    """Branches on a value."""

    def output(self, weights: dict[str, Tensor], samples: Any) -> Tensor:
        output = super().output(weights, samples)
        return output if output.sum() < 9 else 2 * output


class Forked(TwoLayers):
    """Trains another way in one batch than alone."""

    def output(self, weights: dict[str, Tensor], samples: Any) -> Tensor:
        output = super().output(weights, samples)
        return 2 * output if torch._C._are_functorch_transforms_active() else output


def with_task(task: Any) -> Callable[[], Learner]:
    def make() -> Learner:
        learner = TwoLayers()
        learner.task = task
        return learner

    return make


class Pooled(ClassificationTask):
    def training_loss(self, output: Tensor, samples: Any) -> Tensor:
        return super().training_loss(output, samples).mean()


class Infinite(ClassificationTask):
    def training_loss(self, output: Tensor, samples: Any) -> Tensor:
        return super().training_loss(output, samples) / (samples.label == 1)


class Negative(ClassificationTask):
    def sizes(self, samples: Any) -> Tensor:
        return -super().sizes(samples)


class TooLarge(ClassificationTask):
    max_loss = 0.1


class Blind(ClassificationTask):
    def validation_loss(self, output: Tensor, data: Any) -> Tensor:
        return super().validation_loss(0 * output, data)


class PerSample(ClassificationTask):
    def validation_loss(self, output: Tensor, data: Any) -> Tensor:
        return self.training_loss(output, data.samples)


class Unnamed(ClassificationTask):
    def score(self, output: Tensor, data: Any) -> dict[str, float]:
        return super().score(output, data) | {"surprise": 1.0}


class OfNoMetric(ClassificationTask):
    def score(self, output: Tensor, data: Any) -> dict[str, float]:
        return super().score(output, data) | {"surprise/cat": 1.0}


class Tensors(ClassificationTask):
    def score(self, output: Tensor, data: Any) -> dict[str, Any]:
        return super().score(output, data) | {"wrong": torch.tensor(1.0)}


class NoMetrics(ClassificationTask):
    metrics = ()


class BadName(ClassificationTask):
    metrics = (Metric("wrong (%)", "wrong"),)


class FloatPicture(ClassificationTask):
    def picture(self, samples: Any, output: Any = None) -> Picture:
        return Picture((np.zeros((len(samples), 2, 2, 3)),), ("image",))  # type: ignore[arg-type]


class GreyPicture(ClassificationTask):
    def picture(self, samples: Any, output: Any = None) -> Picture:
        return Picture((np.zeros((len(samples), 2, 2), np.uint8),), ("image",))


class Untitled(ClassificationTask):
    def picture(self, samples: Any, output: Any = None) -> Picture | None:
        return None if output is None else Picture((np.zeros((len(samples), 2, 2, 3), np.uint8),), ())


@pytest.mark.parametrize(
    ("spoilt", "check", "words"),
    [
        (GlobalWeights, "test_initial_weights", "changed the global random state of torch"),
        (OneSetOfWeights, "test_initial_weights", "the seed has no effect"),
        (Parameters, "test_initial_weights", "requires a gradient"),
        (with_task(Pooled()), "test_losses_per_sample", "neither a sum nor a mean"),
        (with_task(Infinite()), "test_losses_per_sample", "is not finite"),
        (with_task(Negative()), "test_losses_per_sample", "sizes are negative"),
        (Dropout, "test_losses_are_deterministic", "changed the global random state of torch"),
        (InPlace, "test_losses_are_deterministic", "two passes differ|changed the weights"),
        (BatchNorm, "test_rows_are_independent", "in a batch and alone"),
        (OnceDifferentiable, "test_twice_differentiable", "must be twice differentiable"),
        (with_task(TooLarge()), "test_validation_loss", "but max_loss is 0.1"),
        (with_task(Blind()), "test_validation_loss", "L does not depend on the weights"),
        (with_task(PerSample()), "test_validation_loss", "a scalar is needed"),
        (with_task(Unnamed()), "test_scores_are_the_metrics", r"score gives \['cross_entropy', 'surprise', 'wrong'\]"),
        (with_task(OfNoMetric()), "test_scores_are_the_metrics", "but of no metric"),
        (with_task(Tensors()), "test_scores_are_the_metrics", "not finite floats"),
        (with_task(NoMetrics()), "test_scores_are_the_metrics", "has no metrics"),
        (with_task(BadName()), "test_scores_are_the_metrics", "characters other than"),
        (Free, "test_flops", "count what a sample costs"),
        (Flat, "test_flops", "not seven times 100"),
        (Forked, "test_trains_as_one_batch", "apart"),
        (with_task(FloatPicture()), "test_picture", "is float64; uint8 is needed"),
        (with_task(GreyPicture()), "test_picture", r"\(4, H, W, 3\) is needed"),
        (with_task(Untitled()), "test_picture", "1 rows, but 0 titles"),
    ],
)
def test_the_learners_kit_notices(spoilt: Callable[[], Learner], check: str, words: str) -> None:
    class Kit(TestTwoLayers):
        def make(self) -> Learner:
            return spoilt()

    assert_noticed(Kit(), check, words)


def test_a_learner_that_vmap_cannot_go_through_says_so_or_fails() -> None:
    class Kit(TestTwoLayers):
        def make(self) -> Learner:
            return Looking()

    with pytest.raises(RuntimeError, match="vmap"):
        Kit().test_trains_as_one_batch()
    Kit.batched = False
    with pytest.raises(unittest.SkipTest, match="`batched` is off"):
        Kit().test_trains_as_one_batch()


# --- The kits notice: environments ------------------------------------------------------------------------------------


class Careless(DataGenEnv):
    """A conforming environment, for others to spoil."""

    def __init__(self) -> None:
        data = [point_data((0.6, -0.4, 0.5), "validation"), point_data((0.7, -0.5, 0.5), "test")]
        quadratic = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped
        super().__init__(
            QuadraticGenerator(), QuadraticLearner(), *data, rule=quadratic.problem.rule, unroll_steps=4, batch_size=8,
            max_updates=100, device="cpu",
        )  # fmt: skip


class Unseeded(Careless):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=int(torch.randint(1000, ())), options=options)


class KeepingProbes(Careless):
    def probe(self, betas: Tensor) -> Any:
        return [self.rollout(beta, keep=True).outcome for beta in betas]


class Forgiving(Careless):
    def step(self, beta: Any) -> Any:
        try:
            return super().step(beta)
        except DecisionError:
            return super().step(self.space.initial)


class HalfSaved(Careless):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state | {"update": 0})


class PaidScores(Careless):
    def test_metrics(self) -> dict[str, float]:
        self.probe(self.space.initial[None])
        return super().test_metrics()


class NoisyScores(Careless):
    def validation_metrics(self) -> dict[str, float]:
        return {"distance": float("nan")}


class OtherLoss(QuadraticTask):
    """Lets no gradient through to the samples."""

    def training_loss(self, output: Tensor, samples: Any) -> Tensor:
        return super().training_loss(output, samples.map(lambda x: x.detach()))


class Opaque(Careless):
    def __init__(self) -> None:
        super().__init__()
        self.learner.task = OtherLoss()


@pytest.mark.parametrize(
    ("spoilt", "check", "words"),
    [
        (Unseeded, "test_same_seed_same_rewards", "random state"),
        (KeepingProbes, "test_probe_foretells_the_step", "it must keep nothing"),
        (Forgiving, "test_bad_beta_is_refused", "pass every beta through space.check"),
        (HalfSaved, "test_state_round_trip", "state_dict must hold everything"),
        (PaidScores, "test_everything_has_its_price", "scoring was charged"),
        (NoisyScores, "test_metrics_are_numbers", "not finite floats"),
        (Opaque, "test_sample_gradient", "differentiable functions of all of the samples"),
    ],
)
def test_the_environments_kit_notices(spoilt: Callable[[], DataGenEnv], check: str, words: str) -> None:
    class Kit(EnvironmentConformance):
        tolerance = 1e-6

        def make(self) -> DataGenEnv:
            return spoilt()

    assert_noticed(Kit(), check, words)


def test_the_environment_that_is_spoilt_conforms() -> None:
    class Kit(EnvironmentConformance):
        tolerance = 1e-6

        def make(self) -> DataGenEnv:
            return Careless()

    for check in ("test_same_seed_same_rewards", "test_probe_foretells_the_step", "test_bad_beta_is_refused",
                  "test_state_round_trip", "test_everything_has_its_price", "test_metrics_are_numbers",
                  "test_sample_gradient"):  # fmt: skip
        getattr(Kit(), check)()


def test_a_kit_without_its_part_says_what_to_override() -> None:
    for kit in (GeneratorConformance(), LearnerConformance(), EnvironmentConformance()):
        with pytest.raises(NotImplementedError, match=r"override make\(self\)"):
            kit.make()
