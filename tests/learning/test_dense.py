"""The hourglass as a learner: its seeds, its shapes, its operation counts."""

import numpy as np
import pytest
import torch

from hgenv import DenseSamples, Network
from hgenv.learning import SGD, DenseLearner, validation_loss
from hgenv.learning.hourglass import PRESETS
from hgenv.tasks.depth import DepthTask
from hgenv.tasks.normals import NormalsTask

from .parts import SIZE, normals_learner, photos, random_samples, trained


def test_same_seed_same_bits_and_no_global_random_numbers():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    learner = DenseLearner(NormalsTask(), Network(size=SIZE))
    first, again, other = (learner.initial_weights(seed) for seed in (0, 0, 1))
    learner.flops("gradient", 1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)
    double = DenseLearner(NormalsTask(), Network(size=SIZE), torch.float64).initial_weights(0)
    assert all(torch.equal(first[n].double(), double[n]) for n in first)


def test_initial_weights_are_those_of_the_network():
    for preset, size in (("small", 64), ("large", 128)):
        for task in (NormalsTask(), DepthTask()):
            learner = DenseLearner(task, Network(preset, size=size))
            shapes = {n: p.shape for n, p in learner.module.named_parameters()}
            weights = learner.initial_weights(0)
            assert {n: w.shape for n, w in weights.items()} == shapes


def test_the_large_preset_predicts_one_image():
    learner = DenseLearner(NormalsTask(), Network("large", size=128))
    blank = torch.zeros(1, 3, 128, 128)
    samples = DenseSamples(torch.rand(1, 1, 128, 128, generator=torch.Generator()), blank, blank[:, :1])
    with torch.no_grad():
        normals = learner.task.predict(learner.output(learner.initial_weights(0), samples))
    assert normals.shape == (1, 3, 128, 128)
    assert normals.isfinite().all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.uint8])
def test_images_are_converted_to_the_networks_type(kind):
    learner = DenseLearner(NormalsTask(), Network(size=SIZE))
    blank = torch.zeros(1, 3, SIZE, SIZE)
    (maps,) = learner.output(learner.initial_weights(0), DenseSamples(blank[:, :1].to(kind), blank, blank[:, :1]))
    assert maps.dtype == torch.float32
    double = {name: w.double() for name, w in learner.initial_weights(0).items()}
    (maps,) = learner.output(double, DenseSamples(blank[:, :1].to(kind), blank, blank[:, :1]))
    assert maps.dtype == torch.float64


class Bare(DenseLearner):
    """Puts out one map instead of a list of one."""

    def output(self, weights, samples):
        return super().output(weights, samples)[-1]


def test_a_bare_map_is_as_good_as_a_list_of_one():
    samples, data, found = random_samples(4, 0, dtype=torch.float32), photos(dtype=torch.float32), []
    rule = SGD(0.05, 0.9)
    for kind in (DenseLearner, Bare):
        learner = normals_learner(dtype=torch.float32, kind=kind)
        state = trained(learner, rule, samples.split(2))[-1]
        output = learner.output(state.weights, samples)
        picture = learner.task.picture(samples, output)
        found.append([
            *state.tensors, validation_loss(learner, state.weights, data), learner.task.predict(output),
            *map(torch.from_numpy, picture.rows),
        ])  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def forward_flops(size, inputs, outputs):
    """Multiplications and additions of the small preset's convolutions on paper: stem, and all of it."""
    p = PRESETS["small"]
    f, b = p.features, p.bottleneck

    def residual(edge):
        return 2 * edge**2 * (2 * f * b + 9 * b * b)

    edge = size // 2
    stem = 2 * edge**2 * 49 * inputs * f
    hourglass = sum(residual(edge >> i) + 2 * residual(edge >> (i + 1)) for i in range(p.depth))
    hourglass += residual(edge >> p.depth)
    return stem, stem + 2 * residual(edge) + hourglass + 2 * edge**2 * (f * f + outputs * f)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("task", [NormalsTask(), DepthTask()])
def test_operations_are_those_of_the_convolutions(size, task):
    learner = DenseLearner(task, Network(size=size))
    stem, forward = forward_flops(size, task.inputs, task.outputs)
    assert learner.flops("validate", 1) == forward
    # A gradient with respect to weights and inputs is two more passes; training needs none with respect to the image.
    assert learner.flops("train", 1) == 3 * forward - stem
    assert learner.flops("gradient", 1) == 3 * learner.flops("train", 1)
    assert learner.flops("train", 7) == 7 * learner.flops("train", 1)


def test_bad_names_and_sizes_are_errors():
    with pytest.raises(ValueError, match="no network preset 'paper'; the presets are small, large"):
        Network("paper")
    with pytest.raises(ValueError, match="units are 'smooth' or 'relu', not 'gelu'"):
        Network(units="gelu")
    for size in (0, -64, 64.0, "64"):
        with pytest.raises(ValueError, match="size must be a positive number of pixels"):
            Network(size=size)
    with pytest.raises(ValueError, match="multiples of 16"):
        DenseLearner(NormalsTask(), Network(size=50))


def test_networks_are_values():
    assert Network() == Network("small", "smooth", 64)
    assert hash(Network()) == hash(Network(size=64))
    assert Network() != Network(size=32)
