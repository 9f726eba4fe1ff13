"""Depth: metrics against their definitions, losses against differences, and what a network can learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgenv import DenseSamples, Network, TrainingState
from hgenv.datasets.heads import Heads, load_standin
from hgenv.learning import SGD, DenseLearner, train, training_loss, validation_loss
from hgenv.rendering.surfaces import CAMERA
from hgenv.tasks.depth import DepthTask, depth_metrics

depths = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=30)


@given(depths)
def test_metrics_are_those_of_their_definitions(pairs: list[tuple[float, float]]) -> None:
    d, t = np.array(pairs).T
    found = depth_metrics(torch.from_numpy(d), torch.from_numpy(t))
    n, ratio = len(d), np.log(d) - np.log(t)
    expected = {
        "abs_rel": sum(abs(a - b) / b for a, b in pairs) / n,
        "sq_rel": sum((a - b) ** 2 / b for a, b in pairs) / n,
        "rmse": math.sqrt(sum((a - b) ** 2 for a, b in pairs) / n),
        "rmse_log": math.sqrt(sum(math.log(a / b) ** 2 for a, b in pairs) / n),
        # Eigen et al., equation 2: over all pairs of pixels.
        "rmse_log_invariant": math.sqrt(((ratio[:, None] - ratio) ** 2).sum() / (2 * n * n)),
    }
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-7)


def test_scaling_the_prediction_leaves_the_invariant_metric() -> None:
    draw = torch.Generator().manual_seed(0)
    t = 4 + torch.rand(100, generator=draw)
    d = t * (1 + 0.1 * torch.rand(100, generator=draw))
    first, second = depth_metrics(d, t), depth_metrics(3 * d, t)
    assert second["rmse_log_invariant"] == pytest.approx(first["rmse_log_invariant"], rel=1e-6)
    assert second["abs_rel"] > 10 * first["abs_rel"]


def test_bad_depths() -> None:
    with pytest.raises(ValueError, match="no pixels"):
        depth_metrics(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="positive"):
        depth_metrics(torch.ones(3), torch.zeros(3))


def example(dtype: torch.dtype = torch.float64) -> tuple[DenseLearner, DenseSamples]:
    draw = torch.Generator().manual_seed(1)
    mask = (torch.rand(2, 1, 32, 32, generator=draw) > 0.5).to(dtype)
    target = (CAMERA + torch.randn(2, 1, 32, 32, generator=draw).clamp(-1, 1)).to(dtype) * mask
    image = torch.rand(2, 3, 32, 32, generator=draw).to(dtype)
    return DenseLearner(DepthTask(), Network(size=32), dtype), DenseSamples(image, target, mask)


def heads_of(samples: DenseSamples, names: tuple[str, ...] = ()) -> Heads:
    return Heads(samples, names, torch.arange(len(samples)) if names else torch.zeros(len(samples)), "random")


def test_validation_loss_is_the_metric() -> None:
    learner, samples = example()
    weights = learner.initial_weights(0)
    data = heads_of(samples, ("a", "b"))
    loss = float(validation_loss(learner, weights, data))
    found = learner.task.score(learner.output(weights, samples), data)
    assert loss == pytest.approx(found["abs_rel"])
    assert next(iter(found)) == "abs_rel"
    share = samples.mask.sum((1, 2, 3)) / samples.mask.sum()
    assert found["abs_rel/a"] * share[0] + found["abs_rel/b"] * share[1] == pytest.approx(loss)
    assert 0 < loss < learner.task.max_loss


def test_losses_of_samples_sum_up_to_the_pooled_mean() -> None:
    """Against the formula: absolute errors with a rounded tip, by NumPy."""
    learner, samples = example()
    weights = learner.initial_weights(0)
    with torch.no_grad():
        depth = learner.task.predict(learner.output(weights, samples)).numpy()
    error = np.sqrt((depth - samples.target.numpy()) ** 2 + 0.1**2) - 0.1
    inside = samples.mask.numpy() > 0
    losses = learner.task.training_loss(learner.output(weights, samples), samples).detach()
    assert losses.tolist() == pytest.approx([float(e[m].sum()) for e, m in zip(error, inside, strict=True)])
    assert learner.task.sizes(samples).tolist() == [float(m.sum()) for m in inside]
    assert float(training_loss(learner, weights, samples)) == pytest.approx(error[inside].mean(), rel=1e-9)


def test_pixels_outside_the_mask_do_not_matter() -> None:
    learner, samples = example()
    weights = learner.initial_weights(0)
    other = DenseSamples(samples.image, torch.where(samples.mask > 0, samples.target, 7.0), samples.mask)
    assert training_loss(learner, weights, samples) == training_loss(learner, weights, other)
    assert len({float(validation_loss(learner, weights, heads_of(s))) for s in (samples, other)}) == 1


def test_gradients_agree_with_differences() -> None:
    learner, samples = example()
    weights = learner.initial_weights(0)
    image = samples.image.clone().requires_grad_()

    def loss(image: torch.Tensor) -> torch.Tensor:
        return training_loss(learner, weights, DenseSamples(image, samples.target, samples.mask))

    (gradient,) = torch.autograd.grad(loss(image), image)
    along = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ends = [loss(samples.image + s * 1e-5 * along) for s in (1, -1)]
    assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float((gradient * along).sum()), rel=1e-6)


def test_it_learns_faces() -> None:
    heads = load_standin("validation", size=32)
    learner = DenseLearner(DepthTask(), Network(size=32))
    sgd = SGD(0.05, 0.9)
    state = sgd.start(learner.initial_weights(0))

    def error(state: TrainingState) -> float:
        return learner.task.score(learner.output(state.weights, heads.samples), heads)["abs_rel"]

    before = error(state)
    draw = torch.Generator().manual_seed(0)
    batches = [heads.samples[torch.randint(len(heads), (8,), generator=draw)] for _ in range(60)]
    after = error(train(learner, sgd, state, batches)[-1])
    assert after < 0.4 * before
