"""Depth: metrics against their definitions, losses against differences, and what a network can learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgenv.batch import Batch
from hgenv.datasets.heads import load_standin
from hgenv.learning.depth import DepthLearner, depth_metrics
from hgenv.learning.unroll import SGD, train
from hgenv.rendering.surfaces import CAMERA

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


def example(dtype: torch.dtype = torch.float64) -> tuple[DepthLearner, Batch]:
    draw = torch.Generator().manual_seed(1)
    mask = (torch.rand(2, 1, 32, 32, generator=draw) > 0.5).to(dtype)
    target = (CAMERA + torch.randn(2, 1, 32, 32, generator=draw).clamp(-1, 1)).to(dtype) * mask
    return DepthLearner(size=32, dtype=dtype), Batch(torch.rand(2, 3, 32, 32, generator=draw).to(dtype), target, mask)


def test_validation_loss_is_the_metric() -> None:
    learner, batch = example()
    weights = learner.initial_weights(0)
    data = SimpleNamespace(batch=batch, names=("a", "b"), head=torch.tensor([0, 1]))
    loss = float(learner.validation_loss(weights, data))
    found = learner.metrics(weights, data)
    assert loss == pytest.approx(found["abs_rel"])
    assert next(iter(found)) == "abs_rel"
    share = batch.mask.sum((1, 2, 3)) / batch.mask.sum()
    assert found["abs_rel/a"] * share[0] + found["abs_rel/b"] * share[1] == pytest.approx(loss)
    assert 0 < loss < learner.max_loss


def test_pixels_outside_the_mask_do_not_matter() -> None:
    learner, batch = example()
    weights = learner.initial_weights(0)
    other = Batch(batch.image, torch.where(batch.mask > 0, batch.target, 7.0), batch.mask)
    data = (SimpleNamespace(batch=b, names=(), head=torch.zeros(2)) for b in (batch, other))
    assert learner.training_loss(weights, batch) == learner.training_loss(weights, other)
    assert len({float(learner.validation_loss(weights, d)) for d in data}) == 1


def test_gradients_agree_with_differences() -> None:
    learner, batch = example()
    weights = learner.initial_weights(0)
    image = batch.image.clone().requires_grad_()
    loss = learner.training_loss(weights, Batch(image, batch.target, batch.mask))
    (gradient,) = torch.autograd.grad(loss, image)
    along = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ends = [learner.training_loss(weights, Batch(batch.image + s * 1e-5 * along, *batch.tensors[1:])) for s in (1, -1)]
    assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float((gradient * along).sum()), rel=1e-6)


def test_it_learns_faces() -> None:
    heads = load_standin("validation", size=32)
    learner = DepthLearner(size=32)
    sgd = SGD(0.05, 0.9)
    state = sgd.start(learner.initial_weights(0))
    before = learner.metrics(state.weights, heads)["abs_rel"]
    draw = torch.Generator().manual_seed(0)
    batches = [heads.batch[torch.randint(len(heads), (8,), generator=draw)] for _ in range(60)]
    after = learner.metrics(train(learner, sgd, state, batches)[-1].weights, heads)["abs_rel"]
    assert after < 0.4 * before
