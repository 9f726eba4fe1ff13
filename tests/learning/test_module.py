"""Any torch module as a learner: what it shares with the hourglass, and what it refuses."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations

from hgenv import DataError, DataGenEnv, LabelledImages, ModuleLearner, PartError, SampleData, SamplesError
from hgenv.learning import (
    SGD,
    influence,
    sample_gradient,
    sample_gradient_without_curvature,
    train,
    validation_loss,
    with_group_norm,
)
from hgenv.learning.hourglass import PRESETS, StackedHourglass
from hgenv.optimizers import REGISTRY
from hgenv.tasks import ClassificationTask, NormalsTask, SegmentationTask
from hgenv.testing import EnvironmentConformance, LearnerConformance

from ..toys import EDGE, StripesGenerator, influence_by_differences, loss_of_weighted_training
from .parts import normals_learner, photos, random_samples, relative

CLASSES = 3
TASK = ClassificationTask(CLASSES)


def stripes(first=0, count=4):
    beta = torch.tensor([0.5, 0.2], dtype=torch.float64)
    made = StripesGenerator()(beta.expand(count, -1), torch.arange(first, first + count))
    return LabelledImages(made.image, made.label)


class Stripes(StripesGenerator):
    """With samples of hgenv's own kind."""

    def __call__(self, betas, seeds):
        made = super().__call__(betas, seeds)
        return LabelledImages(made.image, made.label)


DATA = SampleData(stripes(100, 12), "stripes")


def conv_net(*, last=None, seed=0):
    """A few plain layers in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3), nn.SiLU(), *([last] if last else []), nn.Flatten(), nn.LazyLinear(CLASSES)]
        net = nn.Sequential(*layers).double()
        net(torch.zeros(2, 1, EDGE, EDGE, dtype=torch.float64))
    return net


def learner(module, **options):
    return ModuleLearner(module, options.pop("task", TASK), options.pop("example", DATA.samples), **options)


class Block(nn.Module):
    """A basic block of He et al., "Deep residual learning", CVPR 2016."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.downsample = (
            None if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def resnet18(width=64, classes=CLASSES, inputs=1):
    """ResNet-18, layer by layer as torchvision has it; `width` is 64 there."""
    stem = [nn.Conv2d(inputs, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    blocks, before = [], width
    for stage in range(4):
        outputs = width << stage
        blocks += [Block(before, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
        before = outputs
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *ends)


def narrow_resnet(seed=0):
    return with_group_norm(resnet18(width=8)).double()


class SmallUNet(nn.Module):
    """Down, up, and across: a segmentation network."""

    def __init__(self, channels=6):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.GroupNorm(2, channels), nn.GELU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.head = nn.Conv2d(2 * channels, CLASSES, 1)

    def forward(self, x):
        across = self.down(x)
        return self.head(torch.cat([across, self.up(self.deep(across))], 1))


def brightness_classes(seed=0, count=4):
    """Each pixel's class is how bright it is."""
    image = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return LabelledImages(image, (3 * image[:, 0]).long())


# --- The kit ----------------------------------------------------------------------------------------------------------


class TestConvNet(LearnerConformance):
    def make(self):
        return learner(lambda seed: conv_net(seed=seed))

    def samples(self):
        return stripes()

    def data(self):
        return DATA


class TestResNet(TestConvNet):
    reach = 1e-7  # units and pools have kinks, which a wider difference would step over
    tolerance = 1e-3

    def make(self):
        return learner(narrow_resnet)


class TestFineTuned(TestConvNet):
    seeded = False

    def make(self):
        return learner(conv_net(seed=1))


class TestSegmentation(LearnerConformance):
    reach = 1e-7
    tolerance = 1e-3

    def make(self):
        return learner(lambda seed: SmallUNet().double(), task=SegmentationTask(CLASSES), example=brightness_classes())

    def samples(self):
        return brightness_classes(1)

    def data(self):
        return SampleData(brightness_classes(2), "random")


def env(network=conv_net, rule=SGD(0.1, 0.9), **options):  # noqa: B008 - a frozen value
    test = SampleData(stripes(200, 12), "more stripes")
    sizes = {"unroll_steps": 2, "batch_size": 4, "device": "cpu"} | options
    return DataGenEnv(Stripes(), learner(network()), DATA, test, rule=rule, **sizes)


class TestEnvironment(EnvironmentConformance):
    check_render = False  # Gymnasium's checker would make it by its spec
    tolerance = 1e-6

    def make(self):
        made = env()
        made.spec = gymnasium.spec("hgenv/Quadratic-v0")  # Gymnasium's checker wants one
        return made


# --- Agreement --------------------------------------------------------------------------------------------------------


def test_the_hourglass_as_a_module_is_the_dense_learner():
    dense = normals_learner()
    module = StackedHourglass(PRESETS["small"], 1, 3, "smooth").double()
    module.load_state_dict(dense.initial_weights(0))
    ours = ModuleLearner(module, NormalsTask(), random_samples(2, 5))
    assert ours.initial_weights(3).keys() == dense.initial_weights(0).keys()
    batches, rule, data = [random_samples(2, k) for k in range(2)], SGD(0.05, 0.9), photos()
    paths = [train(x, rule, rule.start(x.initial_weights(0)), batches) for x in (dense, ours)]
    for name, w in paths[0][-1].weights.items():
        assert torch.equal(paths[1][-1].weights[name], w)
    for function in (sample_gradient, sample_gradient_without_curvature, influence):
        (loss, expected), (own, found) = (
            function(x, rule, path, batches, data) for x, path in zip((dense, ours), paths, strict=True)
        )
        assert float(own) == float(loss)
        for a, b in zip(found, expected, strict=True):
            for x, y in zip(
                *((s,) if function is influence else (*s.samples.tensors, s.influence) for s in (a, b)), strict=True
            ):
                assert relative(x, y) < 1e-9
    for kind in ("train", "gradient", "validate"):
        assert ours.flops(kind, 5) == dense.flops(kind, 5)


@pytest.mark.parametrize("network", [narrow_resnet, lambda: resnet_in_eval_mode().double()], ids=["group norm", "eval"])
def test_influence_of_a_resnet_is_what_training_anew_gives(network):
    """In the last training step, where curvature has no say."""
    made, rule = learner(network()), SGD(0.02)
    batches = [stripes(0), stripes(10)]
    path = train(made, rule, rule.start(made.initial_weights(0)), batches)
    _, found = influence(made, rule, path, batches, DATA)
    expected = influence_by_differences(made, rule, path[0], batches, DATA, step=1, row=2, width=1e-5)
    assert float(found[1][2]) == pytest.approx(expected, rel=1e-3)
    assert loss_of_weighted_training(made, rule, path[0], batches, DATA, 2 * [torch.ones(4).double()]) == pytest.approx(
        float(validation_loss(made, path[-1].weights, DATA)), rel=1e-12
    )


def resnet_in_eval_mode(width=8):
    """With statistics, as a pre-trained one has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = resnet18(width)
        for _ in range(3):
            net(torch.rand(4, 1, 32, 32))
    return net.eval()


def test_a_whole_resnet_18_counts_what_it_costs():
    """11.7 million weights and 1.82 billion multiplications with additions at 224 pixels, as in the literature."""
    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    example = LabelledImages(image, torch.tensor([0, 1]))
    made = ModuleLearner(with_group_norm(resnet18(64, 1000, 3)), ClassificationTask(1000), example)
    assert sum(w.numel() for w in made.initial_weights(0).values()) == 11_689_512
    assert made.flops("validate", 1) == pytest.approx(2 * 1.814e9, rel=1e-3)


def test_optimizers_that_need_first_derivatives_tune_with_a_resnet():
    for name in ("credit_gradient", "fixed"):
        made = env(lambda: resnet_in_eval_mode().double(), SGD(0.02))
        made.reset(seed=0)
        optimizer = REGISTRY[name](made.space, seed=0)
        for _ in range(3):
            optimizer.update(made)
        assert made.outcome.ok
        assert made.ledger.counts["flops"] > 0


# --- Weights ----------------------------------------------------------------------------------------------------------


def test_the_modules_own_parameters_are_the_initial_weights_and_it_stays_as_it_is():
    module = conv_net()
    before = copy.deepcopy(module.state_dict())
    made = learner(module)
    first, again = made.initial_weights(0), made.initial_weights(1)
    assert all(torch.equal(first[n], x) and torch.equal(again[n], x) for n, x in before.items())
    first["0.weight"].zero_()
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(made.initial_weights(0)["0.weight"], before["0.weight"])
    assert all(p.grad is None for p in module.parameters())


def test_a_function_makes_the_same_bits_of_a_seed_and_leaves_global_randomness_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    made = learner(narrow_resnet)
    first, again, other = (made.initial_weights(seed) for seed in (-3, -3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(first[n], w) for n, w in again.items())
    assert not all(torch.equal(first[n], w) for n, w in other.items())


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_checkpoint_is_where_fine_tuning_starts(tmp_path, key):
    trained = conv_net(seed=5).state_dict()
    torch.save(trained if key is None else {key: trained, "epoch": 3}, tmp_path / "net.pt")
    for module in (conv_net(), lambda seed: conv_net(seed=seed)):
        made = learner(module, checkpoint=tmp_path / "net.pt")
        weights = made.initial_weights(7)
        assert all(torch.equal(weights[n], w) for n, w in trained.items())


def test_a_checkpoint_brings_the_statistics_of_batch_norm(tmp_path):
    net = resnet_in_eval_mode()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    made = learner(resnet18(8).eval(), checkpoint=tmp_path / "net.pt")
    images = DATA.samples.image.float()
    torch.testing.assert_close(made.output(made.initial_weights(0), DATA.samples), net(images))


def test_bad_checkpoints_are_named_with_a_cure(tmp_path):
    path = tmp_path / "net.pt"
    with pytest.raises(DataError, match=r"net\.pt: there is no such file"):
        learner(conv_net(), checkpoint=path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"net\.pt: truncated or damaged"):
        learner(conv_net(), checkpoint=path)
    torch.save(conv_net(), path)  # a pickled module could run anything
    with pytest.raises(DataError, match=r"save module\.state_dict"):
        learner(conv_net(), checkpoint=path)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds no dictionary of tensors"):
        learner(conv_net(), checkpoint=path)
    other = conv_net().state_dict()
    other["0.bias"] = torch.zeros(7)
    del other["0.weight"]
    other["head"] = torch.zeros(1)
    torch.save(other, path)
    words = r"it lacks 0\.weight; it has head besides; 0\.bias is \(7,\) there and \(4,\) here; load what fits"
    with pytest.raises(DataError, match=words):
        learner(conv_net(), checkpoint=path)


def test_frozen_layers_stay_fixed_and_are_no_weights():
    module = conv_net()
    module[0].weight.requires_grad_(False)
    made, rule = learner(module), SGD(0.1)
    assert "0.weight" not in made.initial_weights(0)
    assert "0.bias" in made.initial_weights(0)
    output = made.output(train(made, rule, rule.start(made.initial_weights(0)), [stripes()])[-1].weights, stripes())
    with torch.no_grad():
        module[0].weight.zero_()  # not the learner's
    assert output.abs().sum() > 0
    for p in module.parameters():
        p.requires_grad_(False)
    with pytest.raises(PartError, match="all of its parameters are frozen; set requires_grad"):
        learner(module)


def test_parameters_that_the_loss_does_not_know_are_no_weights():
    module = conv_net()
    module.register_parameter("spare", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    made = learner(module)
    assert "spare" not in made.initial_weights(0)


class Tied(nn.Module):
    """Encodes and decodes with the same matrix, and has whole numbers besides."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(EDGE**2, EDGE**2, bias=False), nn.Linear(EDGE**2, EDGE**2, bias=False)
        self.other.weight = self.one.weight
        self.register_buffer("order", torch.arange(EDGE**2).flip(0))
        self.table = nn.Parameter(torch.tensor([0, 1, 2]), requires_grad=False)

    def forward(self, image):
        return self.other(torch.tanh(self.one(image.flatten(1)[:, self.order])))[:, self.table]


def test_tied_weights_are_one_and_whole_numbers_stay():
    module = Tied().double()
    made = learner(module)
    weights = made.initial_weights(0)
    assert list(weights) == ["one.weight"]
    moved = {"one.weight": weights["one.weight"] + 0.1}
    expected = copy.deepcopy(module)
    with torch.no_grad():
        expected.one.weight += 0.1
    assert torch.equal(made.output(moved, stripes()), expected(stripes().image))


def test_weights_may_be_more_precise_than_the_module():
    net = resnet_in_eval_mode()
    made = learner(net)
    weights = {n: w.double() for n, w in made.initial_weights(0).items()}
    expected = copy.deepcopy(net).double()(stripes().image)
    torch.testing.assert_close(made.output(weights, stripes()), expected)
    samples = stripes().map(lambda x: x.float() if x.is_floating_point() else x)
    assert made.output(made.initial_weights(0), samples).dtype == torch.float32


def test_a_learner_goes_to_another_process():
    made = learner(resnet_in_eval_mode().double())
    again = pickle.loads(pickle.dumps(made))
    weights = made.initial_weights(0)
    assert torch.equal(again.output(weights, stripes()), made.output(weights, stripes()))


def test_a_module_sees_the_fields_that_it_is_to_see():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = conv_net(), nn.Embedding(CLASSES, 1, dtype=torch.float64)

        def forward(self, image, label):
            return self.net(image) * self.scale(label)

    samples = stripes()
    made = learner(Two(), inputs=("image", "label"))
    assert made.output(made.initial_weights(0), samples).shape == (4, CLASSES)
    with pytest.raises(PartError, match="the example has no field 'left'; it has image, label"):
        learner(Two(), inputs=("left",))


# --- What is refused, and what is put right ---------------------------------------------------------------------------


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        x -= 0.5
        return self.net(x)


def test_a_module_that_writes_into_its_input_gets_a_copy():
    samples = stripes()
    before = samples.image.clone()
    made, plain = learner(InPlace()), learner(conv_net())
    weights = plain.initial_weights(0)
    found = made.output({f"net.{n}": w for n, w in weights.items()}, samples)
    assert torch.equal(samples.image, before)
    assert torch.equal(found, plain.output(weights, LabelledImages(before - 0.5, samples.label)))
    batches, rule = [samples], SGD(0.1)
    path = train(made, rule, rule.start(made.initial_weights(0)), batches)
    sample_gradient(made, rule, path, batches, DATA)


def test_batch_norm_is_refused_or_fixed():
    with pytest.raises(PartError, match=r"1 is BatchNorm2d in training mode.*module\.eval\(\).*with_group_norm"):
        learner(resnet18(8))
    with pytest.raises(PartError, match=r"has seen no data, so that it normalizes nothing; .*with_group_norm"):
        learner(resnet18(8).eval())
    with pytest.raises(PartError, match="without running statistics"):
        learner(conv_net(last=nn.BatchNorm2d(4, track_running_stats=False)).eval())
    net = resnet_in_eval_mode()
    made, rule = learner(net), SGD(0.1)
    before = {n: b.clone() for n, b in net.named_buffers()}
    end = train(made, rule, rule.start(made.initial_weights(0)), [stripes(), stripes(9)])[-1]
    assert "1.weight" in end.weights
    assert not any("running" in n for n in end.weights)
    assert all(torch.equal(made.module.get_buffer(n), b) for n, b in before.items())


def test_group_norm_takes_the_place_of_batch_norm():
    net = resnet18(8)
    changed = with_group_norm(net, groups=16)
    kinds = [type(m) for m in changed.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) == sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 20
    assert changed[1].num_groups == 8  # 16 do not divide 8 channels
    assert {n: p.shape for n, p in changed.named_parameters()} == {n: p.shape for n, p in net.named_parameters()}
    assert isinstance(with_group_norm(nn.BatchNorm2d(6, affine=False)), nn.GroupNorm)
    with pytest.raises(ValueError, match="groups must be at least 1"):
        with_group_norm(net, 0)


class Standardizing(nn.Module):
    """Normalizes over the batch without BatchNorm."""

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        return self.net((x - x.mean(0)) / x.std())


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = conv_net()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.net(x)


class Remembering(Counting):
    """Where no buffer tells."""

    def forward(self, x):
        self.remembered = getattr(self, "remembered", 0) + 1
        return self.net(x) * self.remembered


class Detached(Counting):
    def forward(self, x):
        return self.net(x).detach()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: conv_net(last=nn.Dropout(0.5)), r"draws random numbers .*\(2\): call module\.eval\(\)"),
        (lambda: spectral(), r"changes .*_u.*eval"),
        (Standardizing, "depends on what else is in its batch .*GroupNorm or LayerNorm"),
        (Counting, "changes calls while it works"),
        (Remembering, "two passes differ"),
        (Detached, "the output does not depend on the weights"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "call the module once on a batch"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3, device="meta")), "device 'meta'.*make the module on the"),
        (lambda: conv_net().half(), r"float16.*call module\.float\(\)"),
        (lambda: conv_net()[:-1], r"gives \(2, 64\), and ClassificationTask with 3 classes needs \(2, 3\)"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).double(), "expected input.* to have 3 channels"),
    ],
)
def test_modules_that_cannot_be_learners_are_refused_in_words(make, words):
    module, state = make(), torch.get_rng_state()
    with pytest.raises(PartError, match=words):
        learner(module)
    assert torch.equal(torch.get_rng_state(), state)


def spectral():
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(EDGE**2, CLASSES))).double()


def test_modes_that_are_off_are_no_obstacle():
    for module in (conv_net(last=nn.Dropout(0.5)).eval(), spectral().eval(), conv_net(last=nn.Dropout(0.0))):
        learner(module)


def test_what_is_no_module_is_refused():
    with pytest.raises(PartError, match=r"must be a torch\.nn\.Module, or a function"):
        learner(7)
    with pytest.raises(PartError, match=r"the function .* gave int, not a torch\.nn\.Module"):
        learner(lambda seed: 7)
    with pytest.raises(PartError, match="failed: ZeroDivisionError"):
        learner(lambda seed: 1 / 0)
    with pytest.raises(SamplesError, match="the example: ClassificationTask needs LabelledImages"):
        learner(conv_net(), example=random_samples(2, 0))
    varying = learner(lambda seed: nn.Sequential(conv_net(), *[nn.Linear(3, 3).double()] * (seed % 2)))
    with pytest.raises(PartError, match="seed 1 makes other parameters than seed 0"):
        varying.initial_weights(1)


def test_an_activation_without_second_derivatives_says_so():
    made, rule = learner(conv_net(last=nn.Hardsigmoid())), SGD(0.1)
    path = train(made, rule, rule.start(made.initial_weights(0)), [stripes()])
    influence(made, rule, path, [stripes()], DATA)
    with pytest.raises(PartError, match=r"differentiated twice, .* derivative for aten::hardsigmoid_backward is not"):
        sample_gradient(made, rule, path, [stripes()], DATA)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Once(nn.Module):
    """A layer of somebody's own, without second derivatives."""

    def forward(self, x):
        return _Once.apply(x)


class Sine(nn.Module):
    """The same layer with all derivatives."""

    def forward(self, x):
        return torch.sin(x)


def test_a_layer_without_second_derivatives_has_influence_and_says_so_of_curvature():
    found = []
    for layer in (Once(), Sine()):
        made = env(lambda layer=layer: conv_net(last=layer))
        made.reset(seed=0)
        made.step(made.space.initial)
        gradient = made.last.sample_gradient(curvature=False)
        found.append((made.last.influence(), gradient.samples.image, gradient.influence))
        if isinstance(layer, Sine):
            made.last.sample_gradient()
        else:
            words = r"cannot be differentiated twice, which curvature needs: .*\(curvature=False\), or for influence"
            for ask in (made.last.sample_gradient, lambda made=made: made.last.influence(curvature=True)):
                with pytest.raises(PartError, match=words):
                    ask()
            assert made.learner.flops("validate", 1) > 0
            with pytest.raises(PartError, match="cannot be differentiated twice"):
                made.learner.flops("gradient", 1)
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-9


class Attention(nn.Module):
    """The rows of an image look at each other."""

    def __init__(self):
        super().__init__()
        self.attend = nn.TransformerEncoderLayer(EDGE, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(EDGE**2, CLASSES)

    def forward(self, x):
        return self.last(self.attend(x[:, 0]).flatten(1))


class TestAttention(TestConvNet):
    reach = 1e-7  # it has ReLU
    tolerance = 1e-3

    def make(self):
        return learner(lambda seed: Attention().double())


def test_attention_is_counted():
    """Projections of queries, keys, values and the output; scores and their use; two layers; the last one."""
    made, e, hidden = learner(lambda seed: Attention().double()), EDGE, 8
    expected = 2 * (e * e * 4 * e + 2 * e * e * e + 2 * e * e * hidden + e * e * CLASSES)
    assert made.flops("validate", 1) == expected
