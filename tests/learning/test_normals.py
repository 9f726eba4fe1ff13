"""The normals learner: its losses against NumPy, its seeds, its operation counts."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hgenv.batch import Batch
from hgenv.datasets import standin
from hgenv.learning.hourglass import PRESETS
from hgenv.learning.normals import NormalsLearner
from hgenv.learning.unroll import SGD, train

SIZE = 16


@pytest.fixture(scope="module")
def learner():
    return NormalsLearner(size=SIZE, dtype=torch.float64)


@pytest.fixture(scope="module")
def weights(learner):
    return learner.initial_weights(3)


@pytest.fixture(scope="module")
def batch():
    g = torch.Generator().manual_seed(5)
    mask = (torch.rand(4, 1, SIZE, SIZE, generator=g) > 0.3).double()
    target = nn.functional.normalize(torch.randn(4, 3, SIZE, SIZE, generator=g, dtype=torch.float64), dim=1)
    return Batch(torch.rand(4, 1, SIZE, SIZE, generator=g, dtype=torch.float64), target * mask, mask)


def cosines(learner, weights, batch):
    """Cosines of all mask pixels, by NumPy."""
    with torch.no_grad():
        prediction = learner.predict(weights, batch.image).numpy()
    inside = batch.mask[:, 0].numpy() > 0
    return np.einsum("nchw,nchw->nhw", prediction, batch.target.numpy())[inside]


def test_losses_are_means_over_the_mask(learner, weights, batch):
    cosine = cosines(learner, weights, batch)
    assert float(learner.training_loss(weights, batch)) == pytest.approx(np.mean(1 - cosine), abs=1e-6)
    found = float(learner.validation_loss(weights, SimpleNamespace(batch=batch)))
    assert math.degrees(found) == pytest.approx(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean(), abs=1e-4)


def test_predictions_are_unit_normals(learner, weights, batch):
    norms = torch.linalg.vector_norm(learner.predict(weights, batch.image), dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("sign", "angle"), [(1, 0.0), (-1, math.pi)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_the_prediction_is_exactly_right_or_exactly_wrong(batch, sign, angle, dtype):
    learner = NormalsLearner(size=SIZE, dtype=dtype)
    weights = {n: w.requires_grad_() for n, w in learner.initial_weights(3).items()}
    batch = batch.map(lambda x: x.to(dtype))
    target = sign * learner.predict(weights, batch.image).detach()
    exact = Batch(batch.image, target * batch.mask, batch.mask)
    validation = learner.validation_loss(weights, SimpleNamespace(batch=exact))
    training = learner.training_loss(weights, exact)
    assert float(validation.detach()) == pytest.approx(angle, abs=2e-3 if dtype == torch.float32 else 1e-6)
    assert float(training.detach()) == pytest.approx(1 - sign, abs=1e-4)
    assert float(validation.detach()) <= learner.max_loss + 1e-6
    for loss in (validation, training):
        for gradient in torch.autograd.grad(loss, list(weights.values())):
            assert gradient.isfinite().all()


def test_pixels_outside_the_mask_do_not_matter(learner, weights, batch):
    outside = 1 - batch.mask
    changed = replace(batch, target=batch.target + outside)
    assert torch.equal(learner.training_loss(weights, batch), learner.training_loss(weights, changed))
    found = [learner.validation_loss(weights, SimpleNamespace(batch=b)) for b in (batch, changed)]
    assert torch.equal(*found)


def test_pixels_are_pooled_over_the_batch(learner, weights, batch):
    # One sample that shows a single pixel counts as much as that pixel, not as much as the others.
    mask = batch.mask.clone()
    mask[0] = 0
    mask[0, 0, 5, 5] = 1
    cosine = cosines(learner, weights, replace(batch, mask=mask))
    assert float(learner.training_loss(weights, replace(batch, mask=mask))) == pytest.approx(
        1 - cosine.mean(), abs=1e-6
    )


def test_an_empty_mask_has_loss_zero_and_finite_gradients(learner, weights, batch):
    leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
    empty = batch.map(torch.zeros_like).map(lambda x: x.requires_grad_())
    loss = learner.training_loss(leaves, empty)
    assert float(loss.detach()) == 0
    for gradient in torch.autograd.grad(loss, [*leaves.values(), *empty.tensors]):
        assert gradient.isfinite().all()


def test_same_seed_same_bits_and_no_global_random_numbers():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    learner = NormalsLearner(size=SIZE)
    first, again, other = (learner.initial_weights(seed) for seed in (0, 0, 1))
    learner.flops("gradient", 1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)
    double = NormalsLearner(size=SIZE, dtype=torch.float64).initial_weights(0)
    assert all(torch.equal(first[n].double(), double[n]) for n in first)


def test_initial_weights_are_those_of_the_network():
    for preset, size in (("small", 64), ("paper", 128)):
        learner = NormalsLearner(preset, size=size)
        shapes = {n: p.shape for n, p in learner.network.named_parameters()}
        weights = learner.initial_weights(0)
        assert {n: w.shape for n, w in weights.items()} == shapes


def test_the_paper_preset_predicts_one_image():
    learner = NormalsLearner("paper", size=128)
    with torch.no_grad():
        normals = learner.predict(learner.initial_weights(0), torch.rand(1, 1, 128, 128, generator=torch.Generator()))
    assert normals.shape == (1, 3, 128, 128)
    assert normals.isfinite().all()


def test_training_fits_a_batch():
    learner = NormalsLearner(size=32)
    photos = standin.load("validation", size=32)
    sgd = SGD(0.05, 0.9)
    state = train(learner, sgd, sgd.start(learner.initial_weights(0)), [photos.batch] * 30)[-1]
    before, after = (float(learner.validation_loss(w, photos)) for w in (learner.initial_weights(0), state.weights))
    assert after < 0.6 * before
    # Native resolution and network resolution tell about the same.
    metrics = learner.metrics(state.weights, photos)
    assert metrics["mean_degrees"] == pytest.approx(math.degrees(after), abs=3)


def forward_flops(size):
    """Multiplications and additions of the small preset's convolutions on paper: stem, and all of it."""
    p = PRESETS["small"]
    f, b = p.features, p.bottleneck

    def residual(edge):
        return 2 * edge**2 * (2 * f * b + 9 * b * b)

    edge = size // 2
    stem = 2 * edge**2 * 49 * f
    hourglass = sum(residual(edge >> i) + 2 * residual(edge >> (i + 1)) for i in range(p.depth))
    hourglass += residual(edge >> p.depth)
    return stem, stem + 2 * residual(edge) + hourglass + 2 * edge**2 * (f * f + 3 * f)


@pytest.mark.parametrize("size", [32, 64])
def test_operations_are_those_of_the_convolutions(size):
    learner = NormalsLearner(size=size)
    stem, forward = forward_flops(size)
    assert learner.flops("validate", 1) == forward
    # A gradient with respect to weights and inputs is two more passes; training needs none with respect to the image.
    assert learner.flops("train", 1) == 3 * forward - stem
    assert learner.flops("gradient", 1) == 3 * learner.flops("train", 1)
    assert learner.flops("train", 7) == 7 * learner.flops("train", 1)


def test_bad_names_and_sizes_are_errors():
    with pytest.raises(ValueError, match="no network preset 'large'; the presets are small, paper"):
        NormalsLearner("large")
    with pytest.raises(ValueError, match="multiples of 16"):
        NormalsLearner(size=50)
