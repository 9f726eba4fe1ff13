"""The unroll against finite differences, full autograd, closed forms, torch.optim, higher and torchopt, in float64."""

import gc
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from hgenv.batch import Batch
from hgenv.learning.normals import NormalsLearner
from hgenv.learning.unroll import SGD, TrainingState, credits, sample_gradient, train, train_together

with warnings.catch_warnings():
    # Both peers import parts of PyTorch and of the standard library that are going away.
    warnings.simplefilter("ignore")
    import higher
    import torchopt

SIZE = 16
PLAIN = SGD(learning_rate=0.05)
FULL = SGD(learning_rate=0.05, momentum=0.9, weight_decay=1e-2, decay_steps=3)


def random_batch(samples, seed, size=SIZE, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    mask = (torch.rand(samples, 1, size, size, generator=g) > 0.3).to(dtype)
    target = nn.functional.normalize(torch.randn(samples, 3, size, size, generator=g, dtype=dtype), dim=1)
    return Batch(torch.rand(samples, 1, size, size, generator=g, dtype=dtype) * mask, target * mask, mask)


def photos(**options):
    """What the learner's validation loss reads of photos."""
    return SimpleNamespace(batch=random_batch(2, 99, **options))


@pytest.fixture(scope="module", params=["smooth", "relu"])
def learner(request):
    return NormalsLearner(units=request.param, size=SIZE, dtype=torch.float64)


@pytest.fixture(scope="module")
def smooth():
    return NormalsLearner(size=SIZE, dtype=torch.float64)


def unrolled(learner, sgd, batches, seed=0):
    trajectory = train(learner, sgd, sgd.start(learner.initial_weights(seed)), batches)
    return sample_gradient(learner, sgd, trajectory, batches, photos())


def loss_after(learner, sgd, batches):
    trajectory = train(learner, sgd, sgd.start(learner.initial_weights(0)), batches)
    return float(learner.validation_loss(trajectory[-1].weights, photos()))


def with_gradient(batches):
    return [b.map(lambda x: x.clone().requires_grad_()) for b in batches]


def gradients_of(loss, batches):
    parts = torch.autograd.grad(loss, [x for b in batches for x in b.tensors])
    return [Batch(*parts[i : i + 3]) for i in range(0, len(parts), 3)]


def full_autograd(learner, sgd, batches):
    """The whole loop as one graph."""
    batches = with_gradient(batches)
    state = sgd.start({n: w.requires_grad_() for n, w in learner.initial_weights(0).items()})
    for batch in batches:
        loss = learner.training_loss(state.weights, batch)
        gradient = torch.autograd.grad(loss, list(state.weights.values()), create_graph=True)
        state = sgd(state, dict(zip(state.weights, gradient, strict=True)))
    loss = learner.validation_loss(state.weights, photos())
    return loss, gradients_of(loss, batches)


def assert_same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a.tensors, b.tensors, strict=True):
            assert float(y.norm()) > 0
            assert float((x - y).norm() / y.norm()) < tolerance


@pytest.mark.parametrize("sgd", [PLAIN, FULL], ids=["plain", "momentum and decay"])
def test_agrees_with_full_autograd(learner, sgd):
    batches = [random_batch(2, k) for k in range(4)]
    loss, gradients = unrolled(learner, sgd, batches)
    expected_loss, expected = full_autograd(learner, sgd, batches)
    assert abs(float(loss - expected_loss.detach())) < 1e-13
    assert_same(gradients, expected, 1e-11)


@pytest.mark.parametrize("sgd", [PLAIN, FULL], ids=["plain", "momentum and decay"])
@pytest.mark.parametrize("part", ["image", "target", "mask"])
def test_agrees_with_central_differences(smooth, sgd, part):
    batches = [random_batch(2, k) for k in range(3)]
    _, gradients = unrolled(smooth, sgd, batches)
    g = torch.Generator().manual_seed(7)
    directions = [torch.randn(getattr(b, part).shape, generator=g, dtype=torch.float64) for b in batches]
    slope = sum(float((getattr(x, part) * d).sum()) for x, d in zip(gradients, directions, strict=True))

    def moved(step):
        changed = []
        for b, d in zip(batches, directions, strict=True):
            parts = {"image": b.image, "target": b.target, "mask": b.mask}
            changed.append(Batch(**{**parts, part: parts[part] + step * d}))
        return loss_after(smooth, sgd, changed)

    step = 1e-5
    # Fourth-order central difference.
    difference = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    assert slope == pytest.approx(difference, rel=1e-6)


class Peer(nn.Module):
    """The learner's weights as a module, for libraries that want one."""

    def __init__(self, weights):
        super().__init__()
        self.names = list(weights)
        for i, w in enumerate(weights.values()):
            self.register_parameter(f"w{i}", nn.Parameter(w.clone()))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_agrees_with_higher(smooth, momentum):
    batches = [random_batch(2, k) for k in range(3)]
    loss, gradients = unrolled(smooth, SGD(0.05, momentum), batches)
    peer, samples = Peer(smooth.initial_weights(0)), with_gradient(batches)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.05, momentum=momentum)
    with higher.innerloop_ctx(peer, optimizer, copy_initial_weights=False) as (functional, differentiable):
        for batch in samples:
            differentiable.step(smooth.training_loss(dict(zip(peer.names, functional.fast_params, strict=True)), batch))
        end = smooth.validation_loss(dict(zip(peer.names, functional.fast_params, strict=True)), photos())
        assert float(loss) == pytest.approx(float(end.detach()), abs=1e-13)
        assert_same(gradients, gradients_of(end, samples), 1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_agrees_with_torchopt(smooth, momentum):
    batches = [random_batch(2, k) for k in range(3)]
    loss, gradients = unrolled(smooth, SGD(0.05, momentum), batches)
    peer, samples = Peer(smooth.initial_weights(0)), with_gradient(batches)
    optimizer = torchopt.MetaSGD(peer, lr=0.05, momentum=momentum)

    def weights():
        return {name: getattr(peer, f"w{i}") for i, name in enumerate(peer.names)}

    for batch in samples:
        optimizer.step(smooth.training_loss(weights(), batch))
    end = smooth.validation_loss(weights(), photos())
    assert float(loss) == pytest.approx(float(end.detach()), abs=1e-13)
    assert_same(gradients, gradients_of(end, samples), 1e-11)


@pytest.mark.parametrize("sgd", [PLAIN, SGD(0.05, 0.9), SGD(0.05, 0.0, 1e-2), FULL])
def test_trains_as_torch_does(smooth, sgd):
    batches = [random_batch(2, k) for k in range(6)]
    trajectory = train(smooth, sgd, sgd.start(smooth.initial_weights(0)), batches)
    weights = {n: w.requires_grad_() for n, w in smooth.initial_weights(0).items()}
    optimizer = torch.optim.SGD(
        weights.values(), sgd.learning_rate, momentum=sgd.momentum, weight_decay=sgd.weight_decay
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(1 + t / sgd.decay_steps))
    for k, batch in enumerate(batches):
        for name, w in weights.items():
            torch.testing.assert_close(trajectory[k].weights[name], w.detach(), rtol=1e-12, atol=1e-13)
        optimizer.zero_grad()
        smooth.training_loss(weights, batch).backward()
        optimizer.step()
        decay.step()
    assert [s.step for s in trajectory] == list(range(7))
    assert not any(w.requires_grad for s in trajectory for w in (*s.weights.values(), *s.momentum.values()))
    assert bool(trajectory[-1].momentum) == (sgd.momentum > 0)


def test_no_pass_is_left_to_a_gpus_reduced_precision():
    seen = []

    class Watched(NormalsLearner):
        def maps(self, weights, images):
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return super().maps(weights, images)

    learner, batches = Watched(size=SIZE, dtype=torch.float64), [random_batch(2, k) for k in range(2)]
    before = torch.backends.cudnn.conv.fp32_precision
    assert before != "ieee", "nothing to guard against"
    trajectory = train(learner, PLAIN, PLAIN.start(learner.initial_weights(0)), batches)
    sample_gradient(learner, PLAIN, trajectory, batches, photos())
    sample_gradient(learner, PLAIN, trajectory, batches, photos(), exact=False)
    credits(learner, PLAIN, trajectory, batches, photos())
    train_together(learner, PLAIN, trajectory[0], [b.map(lambda x: x[None]) for b in batches])
    assert len(seen) == 2 + 3 + 5 + 5 + 2
    assert set(seen) == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_training_goes_on_from_a_state(smooth):
    batches = [random_batch(2, k) for k in range(4)]
    whole = train(smooth, FULL, FULL.start(smooth.initial_weights(0)), batches)
    half = train(smooth, FULL, FULL.start(smooth.initial_weights(0)), batches[:2])
    rest = train(smooth, FULL, half[-1], batches[2:])
    for name, w in whole[-1].weights.items():
        assert torch.equal(rest[-1].weights[name], w)


@pytest.mark.parametrize("sgd", [PLAIN, FULL])
def test_copies_that_train_together_are_what_each_is_alone(learner, sgd):
    start = train(learner, sgd, sgd.start(learner.initial_weights(0)), [random_batch(2, 9)])[-1]
    own = [[random_batch(2, 10 * copy + k) for k in range(3)] for copy in range(3)]
    stacked = []
    for step in zip(*own, strict=True):
        stacked.append(Batch(*map(torch.stack, zip(*(batch.tensors for batch in step), strict=True))))
    together = train_together(learner, sgd, start, stacked)
    data = photos()
    losses = torch.func.vmap(lambda w: learner.validation_loss(w, data))(together.weights)
    for copy, batches in enumerate(own):
        alone = train(learner, sgd, start, batches)[-1]
        assert together.step == alone.step == 4
        for ours, theirs in ((together.weights, alone.weights), (together.momentum, alone.momentum)):
            assert ours.keys() == theirs.keys()
            for name, expected in theirs.items():
                torch.testing.assert_close(ours[name][copy], expected, rtol=1e-9, atol=1e-11)
        expected = learner.validation_loss(alone.weights, data)
        torch.testing.assert_close(losses[copy], expected, rtol=1e-10, atol=0)


class Mean:
    """Weights follow the mean of the images; targets and masks are not looked at."""

    max_loss = math.inf

    def initial_weights(self, seed):
        return {"w": torch.zeros(2, dtype=torch.float64)}

    def training_loss(self, weights, batch):
        return ((weights["w"] - batch.image) ** 2).sum(1).mean() / 2

    def validation_loss(self, weights, data):
        return ((weights["w"] - data) ** 2).sum() / 2


def test_closed_form_where_a_loss_ignores_parts_of_a_sample():
    learner, sgd, goal, steps = Mean(), SGD(0.1), torch.tensor([1.0, -2.0], dtype=torch.float64), 5
    g = torch.Generator().manual_seed(0)
    x = torch.randn(steps, 3, 2, generator=g, dtype=torch.float64)
    batches = [Batch(x[k], torch.zeros_like(x[k]), torch.ones_like(x[k])) for k in range(steps)]
    trajectory = train(learner, sgd, sgd.start(learner.initial_weights(0)), batches)
    _, gradients = sample_gradient(learner, sgd, trajectory, batches, goal)
    end = sum(0.1 * 0.9 ** (steps - 1 - k) * x[k].mean(0) for k in range(steps))
    torch.testing.assert_close(trajectory[-1].weights["w"], end)
    for k in range(steps):
        expected = 0.1 * 0.9 ** (steps - 1 - k) / 3 * (end - goal)
        torch.testing.assert_close(gradients[k].image, expected.expand(3, 2))
        assert not gradients[k].target.any()
        assert not gradients[k].mask.any()


def test_a_trajectory_of_other_batches_is_an_error(smooth):
    batches = [random_batch(1, k) for k in range(2)]
    trajectory = train(smooth, PLAIN, PLAIN.start(smooth.initial_weights(0)), batches)
    with pytest.raises(ValueError, match="2 batches make a trajectory of 3 states, not 2"):
        sample_gradient(smooth, PLAIN, trajectory[:-1], batches, photos())


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


def test_graphs_take_the_memory_of_one_step_whatever_k(smooth):
    def ours(steps):
        return graph_memory(lambda: unrolled(smooth, FULL, [random_batch(2, k) for k in range(steps)]))

    def whole(steps):
        return graph_memory(lambda: full_autograd(smooth, FULL, [random_batch(2, k) for k in range(steps)]))

    one = ours(1)
    assert one > 0
    assert ours(8) == one
    assert ours(32) == one
    assert whole(4) > 3 * one  # the measure sees what it should


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
        batches = [random_batch(1, 2 * step + k) for k in range(2)]
        trajectory = train(smooth, FULL, state, batches)
        sample_gradient(smooth, FULL, trajectory, batches, photos())
        state = trajectory[-1]
        if step in (2, 49):
            memory.append(live())
    assert memory[0] == memory[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype_and_repeats_its_bits(dtype):
    learner = NormalsLearner(size=SIZE, dtype=dtype)
    batches = [random_batch(2, k, dtype=dtype) for k in range(2)]
    results = []
    for _ in range(2):
        trajectory = train(learner, FULL, FULL.start(learner.initial_weights(0)), batches)
        results.append(sample_gradient(learner, FULL, trajectory, batches, photos(dtype=dtype)))
    (loss, gradients), (again, repeated) = results
    assert loss.dtype == dtype
    assert torch.equal(loss, again)
    assert not loss.requires_grad
    for a, b in zip(gradients, repeated, strict=True):
        for x, y in zip(a.tensors, b.tensors, strict=True):
            assert x.dtype == dtype
            assert torch.equal(x, y)


def test_single_precision_is_close_to_double():
    """Over 8 steps; how it decays with K is the benchmark's to tell."""
    found = []
    for dtype in (torch.float32, torch.float64):
        learner = NormalsLearner(size=SIZE, dtype=dtype)
        batches = [random_batch(4, k).map(lambda x, dtype=dtype: x.to(dtype)) for k in range(8)]
        sgd = SGD(0.05, 0.9)
        trajectory = train(learner, sgd, sgd.start(learner.initial_weights(0)), batches)
        _, gradients = sample_gradient(learner, sgd, trajectory, batches, photos())
        found.append(torch.cat([x.double().flatten() for b in gradients for x in b.tensors]))
    single, double = found
    assert float((single - double).norm() / double.norm()) < 1e-3


def test_a_state_is_not_changed_by_a_step():
    weights = {"w": torch.ones(3)}
    state = TrainingState(weights, {"w": torch.ones(3)}, 0)
    FULL(state, {"w": torch.ones(3)})
    assert torch.equal(state.weights["w"], torch.ones(3))
    assert torch.equal(state.momentum["w"], torch.ones(3))


def exact_credits(learner, sgd, trajectory, batches):
    """<dL/dmask, mask>, by the full adjoint."""
    _, gradients = sample_gradient(learner, sgd, trajectory, batches, photos())
    return [(g.mask * b.mask).flatten(1).sum(1) for g, b in zip(gradients, batches, strict=True)]


@pytest.mark.parametrize("sgd", [SGD(1e-3), SGD(1e-3, 0.9, 1e-2, 3)], ids=["plain", "momentum and decay"])
def test_credits_are_exact_where_no_later_step_bends(smooth, sgd):
    """That is at the last of K steps; at earlier ones the curvature that is left out grows with the learning rate."""
    batches = [random_batch(4, k) for k in range(2)]
    trajectory = train(smooth, sgd, sgd.start(smooth.initial_weights(0)), batches)
    loss, found = credits(smooth, sgd, trajectory, batches, photos())
    expected = exact_credits(smooth, sgd, trajectory, batches)
    assert float(loss) == float(smooth.validation_loss(trajectory[-1].weights, photos()))
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-9)
    error = float((found[0] - expected[0]).norm() / expected[0].norm())
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("sgd", [SGD(1e-3), SGD(1e-3, 0.9, 1e-2, 3)], ids=["plain", "momentum and decay"])
def test_the_cheap_sample_gradient_is_exact_where_no_later_step_bends(smooth, sgd):
    batches = [random_batch(4, k) for k in range(2)]
    trajectory = train(smooth, sgd, sgd.start(smooth.initial_weights(0)), batches)
    exact_loss, exact = sample_gradient(smooth, sgd, trajectory, batches, photos())
    loss, found = sample_gradient(smooth, sgd, trajectory, batches, photos(), exact=False)
    assert float(loss) == float(exact_loss)
    for x, y in zip(found[1].tensors, exact[1].tensors, strict=True):
        assert float((x - y).norm() / y.norm()) < 1e-5
    error = float((found[0].image - exact[0].image).norm() / exact[0].image.norm())
    assert 1e-4 < error < 0.1
    # And it holds the credits, which are made in another way.
    for gradient, batch, credit in zip(
        found, batches, credits(smooth, sgd, trajectory, batches, photos())[1], strict=True
    ):
        torch.testing.assert_close((gradient.mask * batch.mask).flatten(1).sum(1), credit, rtol=1e-5, atol=1e-9)


def test_the_last_steps_gradients_alone(smooth):
    batches = [random_batch(2, k) for k in range(3)]
    trajectory = train(smooth, FULL, FULL.start(smooth.initial_weights(0)), batches)
    for exact in (True, False):
        _, whole = sample_gradient(smooth, FULL, trajectory, batches, photos(), exact=exact)
        _, last = sample_gradient(smooth, FULL, trajectory, batches, photos(), exact=exact, steps=2)
        assert len(last) == 2
        for part, same in zip(last, whole[1:], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(part.tensors, same.tensors, strict=True))
    for steps in (0, 4):
        with pytest.raises(ValueError, match=f"steps must be None, or 1 to 3 training steps, not {steps}"):
            sample_gradient(smooth, FULL, trajectory, batches, photos(), steps=steps)


def test_the_cheap_sample_gradient_in_single_precision():
    """A difference of gradients that agree in most of their digits: 24 bits are enough for it."""
    batch, found = random_batch(4, 0), {}
    for dtype in (torch.float32, torch.float64):
        learner = NormalsLearner(size=SIZE, dtype=dtype)
        samples = [batch.map(lambda x, dtype=dtype: x.to(dtype))]
        trajectory = train(learner, FULL, FULL.start(learner.initial_weights(0)), samples)
        _, (gradient,) = sample_gradient(learner, FULL, trajectory, samples, photos(), exact=False)
        found[dtype] = torch.cat([x.double().flatten() for x in gradient.tensors])
    error = found[torch.float32] - found[torch.float64]
    assert float(error.norm() / found[torch.float64].norm()) < 0.02


def test_credits_foretell_what_replacing_a_sample_does():
    """L with sample i in the place of sample j of the same step, trained anew, against the difference of credits."""
    learner, sgd = NormalsLearner(size=SIZE, dtype=torch.float64), SGD(learning_rate=1e-3, momentum=0.9)
    batches = [random_batch(12, k) for k in range(2)]
    start = sgd.start(learner.initial_weights(0))
    trajectory = train(learner, sgd, start, batches)
    loss, (first, last) = credits(learner, sgd, trajectory, batches, photos())
    foretold, true = [], []
    for k, part in enumerate((first, last)):
        for j in range(12):
            i = (j + 1) % 12
            rows = torch.arange(12)
            rows[j] = i
            changed = [b[rows] if k == n else b for n, b in enumerate(batches)]
            after = learner.validation_loss(train(learner, sgd, start, changed)[-1].weights, photos())
            true.append(float(after - loss))
            foretold.append(float(part[i] - part[j]))
    foretold, true = torch.tensor(foretold), torch.tensor(true)
    assert float((foretold - true).norm() / true.norm()) < 0.05


def test_credits_in_single_precision():
    batches = [random_batch(4, k) for k in range(2)]
    found = {}
    for dtype in (torch.float32, torch.float64):
        learner = NormalsLearner(size=SIZE, dtype=dtype)
        trajectory = train(learner, FULL, FULL.start(learner.initial_weights(0)), batches)
        found[dtype] = torch.cat(credits(learner, FULL, trajectory, batches, photos())[1]).double()
    error = found[torch.float32] - found[torch.float64]
    assert float(error.norm() / found[torch.float64].norm()) < 0.02


def test_credits_need_no_graph_of_the_network(smooth):
    batch = random_batch(4, 0)
    trajectory = train(smooth, PLAIN, PLAIN.start(smooth.initial_weights(0)), [batch])
    # The start of the adjoint has one, of the two photos; so much that the training samples' would show.
    few = graph_memory(lambda: credits(smooth, PLAIN, trajectory, [batch], photos()))
    many = graph_memory(lambda: train(smooth, PLAIN, PLAIN.start(smooth.initial_weights(0)), [random_batch(8, 0)]))
    assert few < many / 2


def test_where_nothing_can_be_gained_credits_are_zero(smooth):
    class Indifferent(NormalsLearner):
        def validation_loss(self, weights, data):
            return 0 * super().validation_loss(weights, data)

    learner, batches = Indifferent(size=SIZE, dtype=torch.float64), [random_batch(2, 0)]
    trajectory = train(learner, PLAIN, PLAIN.start(learner.initial_weights(0)), batches)
    assert credits(learner, PLAIN, trajectory, batches, photos())[1][0].abs().max() == 0
