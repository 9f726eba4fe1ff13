"""The hourglass: its shapes and sizes, and its hand-written derivatives against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from hgenv.learning.hourglass import PRESETS, Preset, StackedHourglass, Unit


def unit_and_arguments(size, units, inputs=4, outputs=3, groups=2, resolution=3):
    with torch.device("meta"):
        module = Unit(inputs, outputs, size, groups, units)
    g = torch.Generator().manual_seed(size)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    # An input whose mean is not zero: what GroupNorm takes away must matter.
    x = (normal(2, inputs, resolution, resolution) + 1.5).detach().requires_grad_()
    names = [n for n, _ in module.named_parameters()]
    weights = [normal(*p.shape) for p in module.parameters()]

    def function(x, *weights):
        return functional_call(module, dict(zip(names, weights, strict=True)), (x,))

    def reference(x, norm_weight, norm_bias, weight, bias):
        act = F.silu if units == "smooth" else F.relu
        y = act(F.group_norm(x, groups, norm_weight, norm_bias, module.norm.eps))
        return F.conv2d(y, weight, bias, padding=size // 2)

    return function, reference, (x, *weights)


CASES = [(1, "smooth"), (3, "smooth"), (1, "relu"), (3, "relu")]


@pytest.mark.parametrize(("size", "units"), CASES)
def test_unit_derivatives_are_those_of_differences(size, units):
    function, _, arguments = unit_and_arguments(size, units)
    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


@pytest.mark.parametrize(("size", "units"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_derivatives_are_those_of_pytorch(size, units, dtype):
    function, reference, arguments = unit_and_arguments(size, units, inputs=16, outputs=8, groups=4, resolution=8)
    arguments = [a.detach().to(dtype).requires_grad_() for a in arguments]
    g = torch.Generator().manual_seed(0)
    direction = [torch.randn(a.shape, generator=g, dtype=torch.float64).to(dtype) for a in arguments]
    results = []
    for f in (function, reference):
        y = f(*arguments)
        gradients = torch.autograd.grad(y.square().sum(), arguments, create_graph=True)
        second = torch.autograd.grad(gradients, arguments, direction)
        results.append((y, *gradients, *second))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == dtype
        assert float((ours - theirs).detach().norm()) <= tolerance * float(theirs.detach().norm())


def test_unit_gives_first_derivatives_with_and_without_a_graph():
    function, _, arguments = unit_and_arguments(3, "smooth")
    loss = function(*arguments).square().sum()
    kept = torch.autograd.grad(loss, arguments, create_graph=True)
    freed = torch.autograd.grad(loss, arguments)
    for a, b in zip(kept, freed, strict=True):
        assert torch.equal(a, b)
        assert not b.requires_grad


def weights_of(preset):
    """Weights of the architecture on paper."""

    def unit(inputs, outputs, size):
        return 2 * inputs + size**2 * inputs * outputs + outputs

    f, b = preset.features, preset.bottleneck
    residual = unit(f, b, 1) + unit(b, b, 3) + unit(b, f, 1)
    hourglass = (3 * preset.depth + 1) * residual
    stack = hourglass + residual + unit(f, f, 1) + unit(f, 3, 1)
    merge = (f * f + f) + (3 * f + f)
    return (49 * f + f) + residual + preset.stacks * stack + (preset.stacks - 1) * merge


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("units", ["smooth", "relu"])
def test_weight_counts(name, units):
    with torch.device("meta"):
        network = StackedHourglass(PRESETS[name], units=units)
    assert sum(p.numel() for p in network.parameters()) == weights_of(PRESETS[name])


def test_the_small_preset_is_small_and_the_large_preset_is_newells():
    assert 130_000 < weights_of(PRESETS["small"]) < 170_000
    assert PRESETS["large"] == Preset(stacks=2, depth=4, features=256, bottleneck=128, stride=4)


@pytest.mark.parametrize(("name", "size", "stacks"), [("small", 64, 1), ("small", 16, 1), ("large", 128, 2)])
@pytest.mark.parametrize("units", ["smooth", "relu"])
def test_maps_are_as_large_as_the_image(name, size, stacks, units):
    with torch.device("meta"):
        network = StackedHourglass(PRESETS[name], units=units)
        maps = network(torch.empty(2, 1, size, size))
    assert [tuple(m.shape) for m in maps] == [(2, 3, size, size)] * stacks


def test_every_weight_of_two_stacks_has_a_gradient():
    preset = Preset(stacks=2, depth=2, features=8, bottleneck=8, stride=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = StackedHourglass(preset)
        image = torch.rand(2, 1, 32, 32)
    first, last = network(image)
    for loss, all_of_them in ((first.square().sum(), False), (last.square().sum(), True)):
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True)
        used = {n for (n, _), g in zip(network.named_parameters(), gradients, strict=True) if g is not None and g.any()}
        missing = {n for n, _ in network.named_parameters()} - used
        assert bool(missing) != all_of_them


def test_samples_do_not_see_each_other():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = StackedHourglass(PRESETS["small"])
        images = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[0][1:2], network(images[1:2])[0], rtol=1e-4, atol=1e-5)


def test_bad_sizes_and_names_are_errors():
    with torch.device("meta"):
        with pytest.raises(ValueError, match="multiples of 16 pixels"):
            StackedHourglass(PRESETS["small"])(torch.empty(1, 1, 40, 40))
        with pytest.raises(ValueError, match="'smooth' or 'relu', not 'gelu'"):
            StackedHourglass(PRESETS["small"], units="gelu")
        with pytest.raises(ValueError, match="stride is 2 or 4, not 8"):
            StackedHourglass(Preset(1, 1, 8, 8, 8))
