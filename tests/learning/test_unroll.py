"""The adjoint against finite differences, full autograd, closed forms, higher and torchopt, in float64."""

import gc
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hgenv import DenseSamples, SampleData, Task
from hgenv.learning import (
    SGD,
    Adam,
    DenseLearner,
    influence,
    sample_gradient,
    sample_gradient_without_curvature,
    train,
    training_loss,
    validation_loss,
)
from hgenv.learning.unroll import train_together

from ..toys import TwoLayers, influence_by_differences, labels_env
from .parts import (
    ADAM,
    FULL,
    PLAIN,
    assert_same,
    full_autograd,
    gradients_of,
    loss_after,
    normals_learner,
    photos,
    random_samples,
    relative,
    trained,
    unrolled,
    with_gradient,
)

with warnings.catch_warnings():
    # Both peers import parts of PyTorch and of the standard library that are going away.
    warnings.simplefilter("ignore")
    import higher
    import torchopt

RULES = pytest.mark.parametrize("rule", [PLAIN, FULL, ADAM], ids=["plain", "momentum and decay", "adam"])


@pytest.fixture(scope="module", params=["smooth", "relu"])
def learner(request):
    return normals_learner(request.param)


@pytest.fixture(scope="module")
def smooth():
    return normals_learner()


@RULES
def test_agrees_with_full_autograd(learner, rule):
    batches = [random_samples(2, k) for k in range(4)]
    loss, gradients = unrolled(learner, rule, batches)
    variables = with_gradient(batches)
    expected_loss = full_autograd(learner, rule, variables)
    assert abs(float(loss - expected_loss.detach())) < 1e-13
    assert_same(gradients, gradients_of(expected_loss, variables), 1e-11)


@RULES
@pytest.mark.parametrize("part", ["image", "target", "mask"])
def test_agrees_with_central_differences(smooth, rule, part):
    batches = [random_samples(2, k) for k in range(3)]
    _, gradients = unrolled(smooth, rule, batches)
    g = torch.Generator().manual_seed(7)
    directions = [torch.randn(getattr(b, part).shape, generator=g, dtype=torch.float64) for b in batches]
    slope = sum(float((getattr(x, part) * d).sum()) for x, d in zip(gradients, directions, strict=True))

    def moved(step):
        pairs = zip(batches, directions, strict=True)
        return loss_after(smooth, rule, [replace(b, **{part: getattr(b, part) + step * d}) for b, d in pairs])

    step = 1e-5
    # Fourth-order central difference.
    difference = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    assert slope == pytest.approx(difference, rel=1e-6)


@RULES
def test_influence_by_the_adjoint_is_the_derivative_by_the_samples_weights(learner, rule):
    """By one graph of the whole loop; for masks of 0 and 1 it is <dL/dmask_i, mask_i>, too."""
    batches = [random_samples(3, k) for k in range(3)]
    _, steps = sample_gradient(learner, rule, trained(learner, rule, batches), batches, photos())
    weights = [torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in batches]
    expected = torch.autograd.grad(full_autograd(learner, rule, batches, weights), weights)
    for step, batch, theirs in zip(steps, batches, expected, strict=True):
        assert relative(step.influence, theirs) < 1e-10
        assert relative((step.samples.mask * batch.mask).flatten(1).sum(1), theirs) < 1e-10


@RULES
def test_influence_by_the_adjoint_agrees_with_training_anew(smooth, rule):
    batches = [random_samples(2, k) for k in range(2)]
    trajectory = trained(smooth, rule, batches)
    _, steps = sample_gradient(smooth, rule, trajectory, batches, photos())
    for k in range(2):
        for row in range(2):
            expected = influence_by_differences(smooth, rule, trajectory[0], batches, photos(), k, row)
            assert float(steps[k].influence[row]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@RULES
def test_where_a_loss_has_no_mask_influence_agrees_with_training_anew(rule):
    env = labels_env(rule=rule)
    env.reset(seed=2)
    last = env.rollout(env.space.initial)
    batches, learner, data = last.samples.split(6), env.learner, env.validation
    _, steps = sample_gradient(learner, rule, last.states, batches, data)
    for k in range(3):
        for row in range(6):
            expected = influence_by_differences(learner, rule, env.state, batches, data, k, row)
            assert float(steps[k].influence[row]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


class Tokens(TwoLayers):
    """Sees whole numbers, by their names: no field of its samples can be differentiated by."""

    def output(self, weights, samples):
        return super().output(weights, replace(samples, image=samples.image.double() / 4))


def test_samples_of_whole_numbers_have_influence_and_no_gradient():
    env = labels_env()
    env.reset(seed=0)
    whole = env.generator(env.space.initial.expand(18, -1), env.sample_seeds(18))
    batches = replace(whole, image=(4 * whole.image).long()).split(6)
    learner, rule = Tokens(), SGD(0.3)
    trajectory = train(learner, rule, env.state, batches)
    _, steps = sample_gradient(learner, rule, trajectory, batches, env.validation)
    _, cheap = sample_gradient_without_curvature(learner, rule, trajectory, batches, env.validation)
    expected = influence_by_differences(learner, rule, env.state, batches, env.validation, 1, 2)
    assert float(steps[1].influence[2]) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(cheap[2].influence, steps[2].influence, rtol=1e-5, atol=1e-9)
    for step in (*steps, *cheap):
        assert not any(x.any() for x in step.samples.tensors)
        assert not step.samples.image.is_floating_point()


class Peer(nn.Module):
    """The learner's weights as a module, for libraries that want one."""

    def __init__(self, weights):
        super().__init__()
        self.names = list(weights)
        for i, w in enumerate(weights.values()):
            self.register_parameter(f"w{i}", nn.Parameter(w.clone()))

    @property
    def weights(self):
        return {name: getattr(self, f"w{i}") for i, name in enumerate(self.names)}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_agrees_with_higher(smooth, momentum):
    batches = [random_samples(2, k) for k in range(3)]
    loss, gradients = unrolled(smooth, SGD(0.05, momentum), batches)
    peer, samples = Peer(smooth.initial_weights(0)), with_gradient(batches)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.05, momentum=momentum)
    with higher.innerloop_ctx(peer, optimizer, copy_initial_weights=False) as (functional, differentiable):

        def weights():
            return dict(zip(peer.names, functional.fast_params, strict=True))

        for batch in samples:
            differentiable.step(training_loss(smooth, weights(), batch))
        end = validation_loss(smooth, weights(), photos())
        assert float(loss) == pytest.approx(float(end.detach()), abs=1e-13)
        assert_same(gradients, gradients_of(end, samples), 1e-11)


@pytest.mark.parametrize(
    ("rule", "meta", "options"),
    [
        (SGD(0.05), "MetaSGD", {"lr": 0.05}),
        (SGD(0.05, 0.9), "MetaSGD", {"lr": 0.05, "momentum": 0.9}),
        (Adam(0.01, 0.8, 0.95, 1e-7), "MetaAdam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 0.0, "eps_root": 1e-7}),
    ],
    ids=["plain", "momentum", "adam"],
)
def test_agrees_with_torchopt(smooth, rule, meta, options):
    batches = [random_samples(2, k) for k in range(3)]
    loss, gradients = unrolled(smooth, rule, batches)
    peer, samples = Peer(smooth.initial_weights(0)), with_gradient(batches)
    optimizer = getattr(torchopt, meta)(peer, **options)
    torch.set_default_dtype(torch.float64)  # it corrects Adam's moments by powers of that type
    try:
        for batch in samples:
            optimizer.step(training_loss(smooth, peer.weights, batch))
    finally:
        torch.set_default_dtype(torch.float32)
    end = validation_loss(smooth, peer.weights, photos())
    assert float(loss) == pytest.approx(float(end.detach()), abs=1e-13)
    assert_same(gradients, gradients_of(end, samples), 1e-11 if rule.linear else 1e-9)


def test_no_pass_is_left_to_a_gpus_reduced_precision():
    seen = []

    class Watched(DenseLearner):
        def output(self, weights, samples):
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return super().output(weights, samples)

    learner, batches = normals_learner(kind=Watched), [random_samples(2, k) for k in range(2)]
    before = torch.backends.cudnn.conv.fp32_precision
    assert before != "ieee", "nothing to guard against"
    trajectory = trained(learner, PLAIN, batches)
    sample_gradient(learner, PLAIN, trajectory, batches, photos())
    sample_gradient_without_curvature(learner, PLAIN, trajectory, batches, photos())
    influence(learner, PLAIN, trajectory, batches, photos())
    train_together(learner, PLAIN, trajectory[0], [b.map(lambda x: x[None]) for b in batches])
    assert len(seen) == 2 + 3 + 5 + 5 + 2
    assert set(seen) == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_training_goes_on_from_a_state(smooth):
    batches = [random_samples(2, k) for k in range(4)]
    for rule in (FULL, ADAM):
        whole, half = trained(smooth, rule, batches), trained(smooth, rule, batches[:2])
        rest = train(smooth, rule, half[-1], batches[2:])
        for expected, found in zip(whole[-1].tensors, rest[-1].tensors, strict=True):
            assert torch.equal(found, expected)


@RULES
def test_copies_that_train_together_are_what_each_is_alone(learner, rule):
    start = trained(learner, rule, [random_samples(2, 9)])[-1]
    own = [[random_samples(2, 10 * copy + k) for k in range(3)] for copy in range(3)]
    together = train_together(learner, rule, start, [DenseSamples.stack(step) for step in zip(*own, strict=True)])
    data = photos()
    losses = torch.func.vmap(lambda w: validation_loss(learner, w, data))(together.weights)
    for copy, batches in enumerate(own):
        alone = train(learner, rule, start, batches)[-1]
        assert together.step == alone.step == 4
        assert together.slots.keys() == alone.slots.keys()
        for ours, expected in zip(together.tensors, alone.tensors, strict=True):
            torch.testing.assert_close(ours[copy], expected, rtol=1e-9, atol=1e-11)
        expected = validation_loss(learner, alone.weights, data)
        torch.testing.assert_close(losses[copy], expected, rtol=1e-10, atol=0)


class Mean(Task):
    """Weights follow the mean of the images; targets and masks are not looked at. Learner and task in one."""

    metrics, max_loss = (), math.inf

    @property
    def task(self):
        return self

    def initial_weights(self, seed):
        return {"w": torch.zeros(2, dtype=torch.float64)}

    def output(self, weights, samples):
        return weights["w"]

    def training_loss(self, output, samples):
        return ((output - samples.image) ** 2).sum(1) / 2

    def validation_loss(self, output, data):
        return ((output - data.samples.image) ** 2).sum() / 2

    def score(self, output, data):
        return {}


def test_closed_form_where_a_loss_ignores_parts_of_a_sample():
    learner, rule, goal, steps = Mean(), SGD(0.1), torch.tensor([1.0, -2.0], dtype=torch.float64), 5
    g = torch.Generator().manual_seed(0)
    x = torch.randn(steps, 3, 2, generator=g, dtype=torch.float64)
    batches = [DenseSamples(x[k], torch.zeros_like(x[k]), torch.ones_like(x[k])) for k in range(steps)]
    data = SampleData(DenseSamples(goal[None], goal[None], goal[None]), "a point")
    trajectory = trained(learner, rule, batches)
    _, gradients = sample_gradient(learner, rule, trajectory, batches, data)
    end = sum(0.1 * 0.9 ** (steps - 1 - k) * x[k].mean(0) for k in range(steps))
    torch.testing.assert_close(trajectory[-1].weights["w"], end)
    for k in range(steps):
        expected = 0.1 * 0.9 ** (steps - 1 - k) / 3 * (end - goal)
        torch.testing.assert_close(gradients[k].samples.image, expected.expand(3, 2))
        assert not gradients[k].samples.target.any()
        assert not gradients[k].samples.mask.any()
        # A sample's weight pulls the weights towards it, and counts in what the loss is divided by.
        pulled = 0.1 * 0.9 ** (steps - 1 - k) / 3 * (x[k] - x[k].mean(0))
        torch.testing.assert_close(gradients[k].influence, pulled @ (end - goal))


def test_a_trajectory_of_other_batches_is_an_error(smooth):
    batches = [random_samples(1, k) for k in range(2)]
    trajectory = trained(smooth, PLAIN, batches)
    for gradient in (sample_gradient, sample_gradient_without_curvature):
        with pytest.raises(ValueError, match="2 batches make a trajectory of 3 states, not 2"):
            gradient(smooth, PLAIN, trajectory[:-1], batches, photos())


class GraphMemory:
    """Most bytes that graphs held at once, by PyTorch's own hooks on what they save."""

    def __init__(self):
        self.now = self.peak = 0

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda saved: saved.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def pack(self, tensor):
        return _Saved(self, tensor)


class _Saved:
    def __init__(self, memory: GraphMemory, tensor: Tensor):
        self.memory, self.tensor, self.bytes = memory, tensor, tensor.nbytes
        memory.now += self.bytes
        memory.peak = max(memory.peak, memory.now)

    def __del__(self):
        self.memory.now -= self.bytes


def graph_memory(work):
    gc.collect()
    with GraphMemory() as memory:
        work()
    return memory.peak


@pytest.mark.parametrize("rule", [FULL, ADAM], ids=["momentum and decay", "adam"])
def test_graphs_take_the_memory_of_one_step_whatever_k(smooth, rule):
    def ours(steps):
        return graph_memory(lambda: unrolled(smooth, rule, [random_samples(2, k) for k in range(steps)]))

    def whole(steps):
        batches = with_gradient([random_samples(2, k) for k in range(steps)])
        return graph_memory(lambda: gradients_of(full_autograd(smooth, rule, batches), batches))

    one = ours(1)
    assert one > 0
    assert ours(8) == one
    assert whole(4) > 3 * one  # the measure sees what it should
    if rule is FULL:
        assert ours(32) == one


def test_influence_needs_no_graph_of_the_network(smooth):
    batch = random_samples(4, 0)
    trajectory = trained(smooth, PLAIN, [batch])
    # The start of the adjoint has one, of the two photos; so much that the training samples' would show.
    few = graph_memory(lambda: influence(smooth, PLAIN, trajectory, [batch], photos()))
    many = graph_memory(lambda: trained(smooth, PLAIN, [random_samples(8, 0)]))
    assert few < many / 2


def test_memory_is_flat_over_fifty_steps(smooth):
    def live():
        gc.collect()
        seen = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in gc.get_objects() if is_tensor(o)}
        return sum(seen.values())

    def is_tensor(o):
        return issubclass(type(o), Tensor) and o.layout is torch.strided and o.device.type == "cpu"

    state = FULL.start(smooth.initial_weights(0))
    memory = []
    for step in range(50):
        batches = [random_samples(1, 2 * step + k) for k in range(2)]
        trajectory = train(smooth, FULL, state, batches)
        sample_gradient(smooth, FULL, trajectory, batches, photos())
        state = trajectory[-1]
        if step in (2, 49):
            memory.append(live())
    assert memory[0] == memory[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [FULL, ADAM], ids=["momentum and decay", "adam"])
def test_keeps_the_dtype_and_repeats_its_bits(dtype, rule):
    learner = normals_learner(dtype=dtype)
    batches = [random_samples(2, k, dtype=dtype) for k in range(2)]
    results = []
    for _ in range(2):
        trajectory = trained(learner, rule, batches)
        results.append(sample_gradient(learner, rule, trajectory, batches, photos(dtype=dtype)))
    (loss, gradients), (again, repeated) = results
    assert loss.dtype == dtype
    assert torch.equal(loss, again)
    assert not loss.requires_grad
    for a, b in zip(gradients, repeated, strict=True):
        for x, y in zip((*a.samples.tensors, a.influence), (*b.samples.tensors, b.influence), strict=True):
            assert x.dtype == dtype
            assert torch.equal(x, y)


def test_single_precision_is_close_to_double():
    """Over 8 steps; how it decays with K is the benchmark's to tell."""
    found = []
    for dtype in (torch.float32, torch.float64):
        learner = normals_learner(dtype=dtype)
        batches = [random_samples(4, k).map(lambda x, dtype=dtype: x.to(dtype)) for k in range(8)]
        _, gradients = unrolled(learner, SGD(0.05, 0.9), batches)
        found.append(torch.cat([x.double().flatten() for b in gradients for x in b.tensors]))
    single, double = found
    assert relative(single, double) < 1e-3


def test_the_last_steps_gradients_alone(smooth):
    batches = [random_samples(2, k) for k in range(3)]
    trajectory = trained(smooth, FULL, batches)
    for gradient in (sample_gradient, sample_gradient_without_curvature):
        _, whole = gradient(smooth, FULL, trajectory, batches, photos())
        _, last = gradient(smooth, FULL, trajectory, batches, photos(), last_steps=2)
        assert len(last) == 2
        for part, same in zip(last, whole[1:], strict=True):
            assert torch.equal(part.influence, same.influence)
            assert all(torch.equal(x, y) for x, y in zip(part.samples.tensors, same.samples.tensors, strict=True))
        for steps in (0, 4):
            with pytest.raises(ValueError, match=f"last_steps must be None, or 1 to 3 training steps, not {steps}"):
                gradient(smooth, FULL, trajectory, batches, photos(), last_steps=steps)
