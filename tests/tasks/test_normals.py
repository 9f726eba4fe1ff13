"""The task of normals: its losses against NumPy, per sample and pooled."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hgenv import DenseSamples, SampleData
from hgenv.datasets import standin
from hgenv.learning import SGD, DenseLearner, Network, train, training_loss, validation_loss
from hgenv.tasks.normals import NormalsTask

SIZE = 16


@pytest.fixture(scope="module")
def learner():
    return DenseLearner(NormalsTask(), Network(size=SIZE), torch.float64)


@pytest.fixture(scope="module")
def weights(learner):
    return learner.initial_weights(3)


@pytest.fixture(scope="module")
def samples():
    g = torch.Generator().manual_seed(5)
    mask = (torch.rand(4, 1, SIZE, SIZE, generator=g) > 0.3).double()
    target = nn.functional.normalize(torch.randn(4, 3, SIZE, SIZE, generator=g, dtype=torch.float64), dim=1)
    return DenseSamples(torch.rand(4, 1, SIZE, SIZE, generator=g, dtype=torch.float64), target * mask, mask)


def data_of(samples):
    return SampleData(samples, "random")


def predictions(learner, weights, samples):
    with torch.no_grad():
        return learner.task.predict(learner.output(weights, samples))


def cosines(learner, weights, samples):
    """Cosines of all mask pixels, by NumPy."""
    inside = samples.mask[:, 0].numpy() > 0
    return np.einsum("nchw,nchw->nhw", predictions(learner, weights, samples), samples.target.numpy())[inside]


def test_losses_are_means_over_the_mask(learner, weights, samples):
    cosine = cosines(learner, weights, samples)
    assert float(training_loss(learner, weights, samples)) == pytest.approx(np.mean(1 - cosine), abs=1e-6)
    found = float(validation_loss(learner, weights, data_of(samples)))
    assert math.degrees(found) == pytest.approx(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean(), abs=1e-4)


def test_losses_of_samples_are_sums_over_their_own_masks(learner, weights, samples):
    task, output = learner.task, learner.output(weights, samples)
    losses, sizes = task.training_loss(output, samples), task.sizes(samples)
    for i in range(4):
        cosine = cosines(learner, weights, samples[i : i + 1])
        assert float(losses[i]) == pytest.approx((1 - cosine).sum(), rel=1e-6)
        assert int(sizes[i]) == len(cosine)


def test_a_samples_weight_counts_it_as_often(learner, weights, samples):
    """Twice, or not at all: as if it stood there twice, or not at all."""
    found = training_loss(learner, weights, samples, torch.tensor([2.0, 1.0, 0.0, 1.0]))
    expected = training_loss(learner, weights, samples[torch.tensor([0, 0, 1, 3])])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_of_several_stacks_the_mean_trains_and_the_last_counts(samples):
    learner = DenseLearner(NormalsTask(), Network("large", size=64), torch.float64)
    large = samples[:2].map(lambda x: x.repeat(1, 1, 4, 4))
    with torch.no_grad():
        first, last = learner.output(learner.initial_weights(0), large)
    task = learner.task
    losses = [task.training_loss(output, large) for output in (first, last, [first, last])]
    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)
    assert not torch.allclose(losses[0], losses[1])
    assert torch.equal(task.predict([first, last]), task.predict(last))


def test_predictions_are_unit_normals(learner, weights, samples):
    norms = torch.linalg.vector_norm(predictions(learner, weights, samples), dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("sign", "angle"), [(1, 0.0), (-1, math.pi)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_the_prediction_is_exactly_right_or_exactly_wrong(samples, sign, angle, dtype):
    learner = DenseLearner(NormalsTask(), Network(size=SIZE), dtype)
    weights = {n: w.requires_grad_() for n, w in learner.initial_weights(3).items()}
    samples = samples.map(lambda x: x.to(dtype))
    target = sign * predictions(learner, weights, samples)
    exact = DenseSamples(samples.image, target * samples.mask, samples.mask)
    validation = validation_loss(learner, weights, data_of(exact))
    training = training_loss(learner, weights, exact)
    assert float(validation.detach()) == pytest.approx(angle, abs=2e-3 if dtype == torch.float32 else 1e-6)
    assert float(training.detach()) == pytest.approx(1 - sign, abs=1e-4)
    assert float(validation.detach()) <= learner.task.max_loss + 1e-6
    for loss in (validation, training):
        for gradient in torch.autograd.grad(loss, list(weights.values())):
            assert gradient.isfinite().all()


def test_pixels_outside_the_mask_do_not_matter(learner, weights, samples):
    outside = 1 - samples.mask
    changed = replace(samples, target=samples.target + outside)
    assert torch.equal(training_loss(learner, weights, samples), training_loss(learner, weights, changed))
    found = [validation_loss(learner, weights, data_of(s)) for s in (samples, changed)]
    assert torch.equal(*found)


def test_pixels_are_pooled_over_the_batch(learner, weights, samples):
    # One sample that shows a single pixel counts as much as that pixel, not as much as the others.
    mask = samples.mask.clone()
    mask[0] = 0
    mask[0, 0, 5, 5] = 1
    one = replace(samples, mask=mask)
    assert float(training_loss(learner, weights, one)) == pytest.approx(
        1 - cosines(learner, weights, one).mean(), abs=1e-6
    )


def test_an_empty_mask_has_loss_zero_and_finite_gradients(learner, weights, samples):
    leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
    empty = samples.map(torch.zeros_like).map(lambda x: x.requires_grad_())
    loss = training_loss(learner, leaves, empty)
    assert float(loss.detach()) == 0
    for gradient in torch.autograd.grad(loss, [*leaves.values(), *empty.tensors]):
        assert gradient.isfinite().all()


def test_training_fits_a_batch():
    learner = DenseLearner(NormalsTask(), Network(size=32))
    photos = standin.load("validation", size=32)
    sgd = SGD(0.05, 0.9)
    state = train(learner, sgd, sgd.start(learner.initial_weights(0)), [photos.samples] * 30)[-1]
    before, after = (float(validation_loss(learner, w, photos)) for w in (learner.initial_weights(0), state.weights))
    assert after < 0.6 * before
    # Native resolution and network resolution tell about the same.
    metrics = learner.task.score(learner.output(state.weights, photos.samples), photos)
    assert metrics["mean_degrees"] == pytest.approx(math.degrees(after), abs=3)
