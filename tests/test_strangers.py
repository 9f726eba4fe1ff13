"""What comes from outside is checked where it comes in, and what is wrong with it is said in words."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hgenv import DataGenEnv, DecisionError, DenseSamples, Network, PartError, SamplesError
from hgenv.datasets.photos import Photos, prepare
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.environments.shape_normals import ShapeNormalsEnv
from hgenv.optimizers import Fixed, credit_gradient

from .datasets.test_photos import flat_photo

SMALL = {"network": Network(size=32), "batch_size": 2, "unroll_steps": 2}


def small(**kwargs: Any) -> DataGenEnv:
    env = ShapeNormalsEnv(**SMALL | kwargs)
    env.reset(seed=0)
    return env


class Altered:
    """A generator whose samples somebody spoilt."""

    def __init__(self, generator: Any, change: Any) -> None:
        self.space, self.pathwise = generator.space, generator.pathwise
        self.generator, self.change = generator, change

    def __call__(self, betas: Any, seeds: Any) -> Any:
        return self.change(self.generator(betas, seeds))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x[:3],
            r"Altered: the field 'image' must be \(4, \.\.\.\), a row a sample, not \(3, 1, 32",
        ),
        (lambda x: replace(x, mask=None), "the field 'mask' must be a tensor, not NoneType"),
        (lambda x: replace(x, target=x.target.long()), "the field 'target' must be floating-point, not torch.int64"),
        (lambda x: replace(x, mask=x.mask[:, 0, 0, 0]), r"the field 'mask' must be \(4, 1, 32, 32\), not \(4,\)"),
        (lambda x: replace(x, image=x.image.expand(-1, 3, -1, -1)), r"'image' must be \(4, 1, 32, 32\), not \(4, 3,"),
        (lambda x: replace(x, mask=255 * x.mask), "the field 'mask' must be 0 or 1"),
        (lambda x: replace(x, image=x.image.to_sparse()), "the field 'image' must be dense, not torch.sparse_coo"),
        (lambda x: replace(x, image=x.image.to("meta")), "the field 'image' is on meta, but cpu is needed"),
        (lambda x: x.image, "made Tensor, but a record is needed: see hgenv.Samples"),
    ],
)
def test_samples_that_nobody_can_train_on_are_refused_with_words(change: Any, message: str) -> None:
    env = small()
    state = env.state
    env.problem = replace(env.problem, generator=Altered(env.generator, change))
    with pytest.raises(SamplesError, match=message):
        env.step(env.space.initial)
    assert env.state is state
    assert env.update == 0


def test_samples_that_are_not_finite_are_found_when_training_fails() -> None:
    env = small()

    def spoil(samples: DenseSamples) -> DenseSamples:
        samples.image[2, 0, 5, 5] = torch.nan
        return samples

    env.problem = replace(env.problem, generator=Altered(env.generator, spoil))
    info = env.step(env.space.initial)[4]
    assert info["status"] == "DIVERGED"
    assert "the generator made image[2] with values that are infinite or NaN" in info["message"]


def quadratic(change: Any, first: int = 0) -> DataGenEnv:
    """An environment whose generator is spoilt from one of its calls on."""
    env = QuadraticEnv()
    env.reset(seed=0)
    left = [first]

    def later(samples: Any) -> Any:
        left[0] -= 1
        return samples if left[0] >= 0 else change(samples)

    env.problem = replace(env.problem, generator=Altered(env.generator, later))
    return env


def fails(error: Exception) -> Any:
    def change(_: Any) -> Any:
        raise error

    return change


@pytest.mark.parametrize("error", [KeyError("texture"), StopIteration(), OSError(2, "No such file"), MemoryError()])
def test_what_a_generator_raises_is_said_in_words_and_is_the_cause(error: Exception) -> None:
    env = quadratic(fails(error))
    state = env.state
    with pytest.raises(PartError, match=rf"the generator Altered failed: {type(error).__name__}") as caught:
        env.step(env.space.initial)
    assert caught.value.__cause__ is error
    assert env.state is state
    assert env.update == 0
    with pytest.raises(PartError, match="the generator Altered failed"):
        env.probe(env.space.initial[None])


def test_what_a_generator_does_to_its_inputs_stays_with_it() -> None:
    class Writes(Altered):
        def __call__(self, betas: Any, seeds: Any) -> Any:
            samples = self.generator(betas, seeds)
            with torch.no_grad():
                betas.mul_(0)
            seeds.add_(1)
            return samples

    good, env = QuadraticEnv(), QuadraticEnv()
    for each in (good, env):
        each.reset(seed=0)
    env.problem = replace(env.problem, generator=Writes(env.generator, None))
    beta, directions = env.space.initial + 0.1, torch.full((1, env.problem.num_samples, 4), 1e-2)
    found = []
    for each in (good, env):
        rolled = each.rollout(beta, keep=True)
        gradient = rolled.sample_gradient()
        found.append((rolled.betas, rolled.seeds, gradient.slopes(directions).value))
        assert torch.equal(each.outcome.beta, beta)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_samples_that_change_their_size_cannot_be_compared() -> None:
    env = small()
    env.problem = replace(env.problem, generator=Altered(env.generator, lambda x: x))
    env.step(env.space.initial)
    gradient = env.last.sample_gradient()
    env.problem.generator.change = lambda x: x.map(lambda t: t.double().long())
    with pytest.raises(SamplesError, match="floating-point"):
        gradient.slopes(torch.full((1, len(gradient), 29), 1e-2))
    points = quadratic(lambda x: x.map(lambda t: torch.cat([t, t], -1)), first=1)
    points.step(points.space.initial)
    gradient = points.last.sample_gradient()
    with pytest.raises(SamplesError, match="the generator Altered"):
        gradient.slopes(torch.full((1, len(gradient), 4), 1e-2))


def test_pathwise_blocks_without_a_graph_are_missed() -> None:
    env = quadratic(lambda x: x.map(lambda t: t.detach()))
    env.step(env.space.initial)
    with pytest.raises(PartError, match=r"the generator Altered says .* but its samples have no graph back to beta"):
        env.last.sample_gradient().pathwise()


class Learner:
    """A learner whose output, or whose weights, somebody spoilt."""

    def __init__(self, good: Any, output: Any = None, weights: Any = None) -> None:
        self.task, self.flops, self.good = good.task, good.flops, good
        self.change_output, self.change_weights = output, weights

    def initial_weights(self, seed: int) -> Any:
        weights = self.good.initial_weights(seed)
        return self.change_weights(weights) if self.change_weights else weights

    def output(self, weights: Any, samples: Any) -> Any:
        output = self.good.output(weights, samples)
        return self.change_output(output, weights, samples) if self.change_output else output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda o, w, s: None, "the learner Learner with QuadraticTask failed: TypeError"),
        (lambda o, w, s: o.detach(), "loss cannot be differentiated by all of its weights"),
        (lambda o, w, s: o[:2], "the learner Learner with QuadraticTask failed: RuntimeError"),
        (lambda o, w, s: o * 1j, "must be a tensor of real numbers, not torch.complex"),
        (lambda o, w, s: s.image.sub_(1).sum() * 0 + o, "the learner Learner changes its samples in place"),
    ],
)
def test_what_a_learner_does_wrong_is_said_in_words(output: Any, message: str) -> None:
    env = QuadraticEnv()
    env.reset(seed=0)
    state = env.state
    env.problem = replace(env.problem, learner=Learner(env.learner, output))
    with pytest.raises(PartError, match=message):
        env.step(env.space.initial)
    assert env.state is state


def test_weights_that_are_looked_at_stay_as_they_are() -> None:
    def decays(output: Any, weights: Any, _: Any) -> Any:
        for w in weights.values():
            if not w.requires_grad:
                w.mul_(0.5)
        return output

    env = QuadraticEnv()
    env.problem = replace(env.problem, learner=Learner(env.learner, decays))
    env.reset(seed=0)
    before = env.state.weights["w"].clone()
    env.test_metrics()
    env.validation_metrics()
    assert torch.equal(env.state.weights["w"], before)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda w: None, "failed: TypeError"),
        (lambda w: {}, "has no weights"),
        (lambda w: {"w": 1.0}, "'w' must be a tensor of real numbers, not float"),
        (lambda w: {"w": w["w"] * np.nan}, "'w' has values that are infinite or NaN"),
        (lambda w: {"w": w["w"].long()}, "'w' must be a tensor of real numbers, not tensor"),
        (lambda w: {"w": w["w"].to("meta")}, "'w' must be a tensor of real numbers, not tensor"),
        (lambda w: {"w": w["w"].to_sparse()}, "'w' must be a tensor of real numbers, not tensor"),
    ],
)
def test_initial_weights_that_are_none_are_refused(weights: Any, message: str) -> None:
    env = QuadraticEnv()
    env.problem = replace(env.problem, learner=Learner(env.learner, weights=weights))
    with pytest.raises(PartError, match=message):
        env.reset(seed=0)


def test_data_that_are_not_finite_are_refused() -> None:
    data = own("mine")
    wrong = replace(data, samples=replace(data.samples, image=data.samples.image * np.nan))
    with pytest.raises(
        SamplesError, match=r"the test data 'mine' have image\[0\] with values that are infinite or NaN"
    ):
        ShapeNormalsEnv(data=(data, wrong), **SMALL)


def test_losses_that_are_no_numbers_a_sample_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = small()
    monkeypatch.setattr(type(env.task), "training_loss", lambda *_: torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"NormalsTask.training_loss must give \(2,\), a number for each sample"):
        env.step(env.space.initial)


@pytest.mark.parametrize("ask", [
    lambda env: env.step(env.space.initial), lambda env: env.probe(env.space.initial[None]),
    lambda env: env.rollout(env.space.initial), lambda env: env.state_dict(), lambda env: env.test_metrics(),
    lambda env: env.sample_seeds(3), lambda env: env.warm_up(), lambda env: Fixed(env.space, seed=0).update(env),
])  # fmt: skip
def test_before_reset_it_is_said_that_one_is_needed(ask: Any) -> None:
    env = ShapeNormalsEnv(**SMALL)
    with pytest.raises(gymnasium.error.ResetNeeded, match="ShapeNormalsEnv has no weights yet: call reset"):
        ask(env)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.clone().requires_grad_(), r"requires a gradient.*beta.detach\(\)"),
        (lambda b: b.numpy() + 1j, "complex numbers"),
        (lambda b: torch.complex(b, b), "complex numbers"),
        (lambda b: [None] * len(b), r"beta\[0\] = nan"),
        (lambda b: {"beta": 1}, "must be 29 numbers"),
        (lambda b: [str(value) for value in b.tolist()], "are no numbers"),
        (lambda b: np.zeros(29, dtype="M8[s]"), "are no numbers"),
        (lambda b: [10**400] * 29, "must be 29 numbers"),
        (lambda b: b.to("meta"), "must be 29 numbers"),
        (lambda b: b.to_sparse(), "must be 29 numbers"),
        (lambda b: np.broadcast_to(0.0, (29, 10**12)), "beta has shape \\(29, 1000000000000\\)"),
    ],
)
def test_betas_of_wrong_kinds_are_decision_errors(change: Any, message: str) -> None:
    env = small()
    with pytest.raises(DecisionError, match=message):
        env.step(change(env.space.initial))
    with pytest.raises(DecisionError, match=message):
        env.space.check(change(env.space.initial))


@pytest.mark.parametrize("betas", [None, torch.zeros(29), torch.tensor(0.0), [[0.0] * 29]])
def test_probes_need_a_row_each(betas: Any) -> None:
    with pytest.raises(DecisionError, match=r"betas must be a tensor \(P, 29\), a row for each probe"):
        small().probe(betas)


def own(label: str, size: int = 32) -> Photos:
    return prepare([replace(flat_photo(seed=i), name=f"thing{i}") for i in range(2)], size, label)


def test_photos_of_ones_own_score_beta() -> None:
    env = gymnasium.make("hgenv/ShapeNormals-v0", data=(own("mine, a"), own("mine, b")), **SMALL).unwrapped
    env.reset(seed=0)
    assert env.step(env.space.initial)[4]["status"] == "OK"
    assert "mean_degrees/thing1" in env.test_metrics()
    assert "scored on 'mine, a'" in repr(env)


def test_photos_of_another_size_than_the_networks_are_refused() -> None:
    with pytest.raises(SamplesError, match="mine, b: the images have 16 px and the network 32"):
        ShapeNormalsEnv(data=(own("mine, a"), own("mine, b", 16)), **SMALL)


def test_data_that_the_task_cannot_take_are_refused() -> None:
    data = own("mine")
    wrong = replace(data, samples=replace(data.samples, mask=data.samples.mask[:, 0]))
    with pytest.raises(SamplesError, match=r"the validation data 'mine': the field 'mask' must be \(2, 1, 32, 32\)"):
        ShapeNormalsEnv(data=(wrong, data), **SMALL)


def test_an_optimizer_goes_round_wrappers() -> None:
    env = gymnasium.make("hgenv/Quadratic-v0")
    env.reset(seed=0)
    optimizer = credit_gradient(env.unwrapped.space, seed=0)
    for _ in range(3):
        optimizer.update(env)
    assert env.unwrapped.update == 3


def test_what_a_user_does_between_updates_is_free() -> None:
    import time

    env = gymnasium.make("hgenv/Quadratic-v0").unwrapped
    env.reset(seed=0)
    optimizer = Fixed(env.space, seed=0)
    optimizer.update(env)
    spent = env.ledger.spent("cpu_seconds")
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    assert env.ledger.spent("cpu_seconds") - spent < 0.1
    counts = dict(env.ledger.counts)
    optimizer.update(env)
    assert env.ledger.spent("cpu_seconds") > spent
    assert env.ledger.counts["samples"] == 2 * counts["samples"]


def test_threads_are_the_environments_alone() -> None:
    before = torch.get_num_threads()
    seen = []
    env = small(threads=3)
    env.problem = replace(
        env.problem, generator=Altered(env.generator, lambda x: (seen.append(torch.get_num_threads()), x)[1])
    )
    env.step(env.space.initial)
    assert seen == [3]
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1"):
        small(threads=0)


def test_what_people_meet_is_shown_in_a_line() -> None:
    env = small()
    env.step(env.space.initial)
    gradient = env.last.sample_gradient()
    for thing in (env, env.space, env.ledger, env.outcome, env.last, env.state, gradient, gradient.samples):
        assert "\n" not in repr(thing)
        assert "tensor(" not in repr(thing)
        assert len(repr(thing)) < 300
    assert repr(env.last.samples) == (
        "DenseSamples(image=float32(4, 1, 32, 32), target=float32(4, 3, 32, 32), mask=float32(4, 1, 32, 32))"
    )
    assert np.isfinite(env.outcome.loss)
