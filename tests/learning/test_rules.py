"""Update rules against torch.optim and loops by hand, and the state that they leave."""

import math

import pytest
import torch

from hgenv.learning import SGD, Adam, AdamW, TrainingState, training_loss

from ..toys import labels_env
from .parts import ADAM, ADAMW, FULL, PLAIN, normals_learner, random_samples, trained


@pytest.fixture(scope="module")
def smooth():
    return normals_learner()


@pytest.mark.parametrize("sgd", [PLAIN, SGD(0.05, 0.9), SGD(0.05, 0.0, 1e-2), FULL])
def test_sgd_trains_as_torch_does(smooth, sgd):
    batches = [random_samples(2, k) for k in range(6)]
    trajectory = trained(smooth, sgd, batches)
    weights = {n: w.requires_grad_() for n, w in smooth.initial_weights(0).items()}
    optimizer = torch.optim.SGD(
        weights.values(), sgd.learning_rate, momentum=sgd.momentum, weight_decay=sgd.weight_decay
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(1 + t / sgd.decay_steps))
    for k, batch in enumerate(batches):
        for name, w in weights.items():
            torch.testing.assert_close(trajectory[k].weights[name], w.detach(), rtol=1e-12, atol=1e-13)
        optimizer.zero_grad()
        training_loss(smooth, weights, batch).backward()
        optimizer.step()
        decay.step()
    assert [s.step for s in trajectory] == list(range(7))
    assert not any(t.requires_grad for s in trajectory for t in s.tensors)
    assert list(trajectory[-1].slots) == (["momentum"] if sgd.momentum else [])


def gradients(count=6, size=5):
    """From 0.1 to 10 in size, of both signs: nothing near zero, where an epsilon would show."""
    draw = torch.Generator().manual_seed(0)
    sizes = 10 ** (2 * torch.rand(count, size, generator=draw, dtype=torch.float64) - 1)
    return sizes * (torch.rand(count, size, generator=draw) > 0.3).double().mul(2).sub(1)


def test_adam_is_the_loop_by_hand():
    rule = Adam(0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, decay_steps=4)
    state = rule.start({"w": torch.ones(5, dtype=torch.float64)})
    w, m, v = [1.0] * 5, [0.0] * 5, [0.0] * 5
    for t, gradient in enumerate(gradients(), start=1):
        state = rule(state, {"w": gradient})
        for i, g in enumerate(gradient.tolist()):
            m[i] = 0.8 * m[i] + 0.2 * g
            v[i] = 0.95 * v[i] + 0.05 * g * g
            rate = 0.1 / math.sqrt(1 + (t - 1) / 4)
            w[i] -= rate * (m[i] / (1 - 0.8**t)) / math.sqrt(v[i] / (1 - 0.95**t) + 1e-3)
        assert state.step == t
        assert state.weights["w"].tolist() == pytest.approx(w, rel=1e-12)
        assert state.slots["mean"]["w"].tolist() == pytest.approx(m, rel=1e-12)
        assert state.slots["square"]["w"].tolist() == pytest.approx(v, rel=1e-12)


def test_adam_steps_as_torchs_does_where_epsilon_does_not_matter():
    rule, weight = Adam(0.1, epsilon=1e-24), torch.ones(5, dtype=torch.float64, requires_grad=True)
    state, optimizer = rule.start({"w": weight.detach().clone()}), torch.optim.Adam([weight], lr=0.1, eps=1e-12)
    for gradient in gradients():
        state, weight.grad = rule(state, {"w": gradient}), gradient
        optimizer.step()
        torch.testing.assert_close(state.weights["w"], weight.detach(), rtol=1e-10, atol=1e-12)


def test_adamw_steps_as_torchs_does():
    rule, weight = AdamW(0.1, 0.3, epsilon=1e-24, decay_steps=3), torch.ones(5, dtype=torch.float64, requires_grad=True)
    state = rule.start({"w": weight.detach().clone()})
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.3, eps=1e-12)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(1 + t / 3))
    for gradient in gradients():
        state, weight.grad = rule(state, {"w": gradient}), gradient
        optimizer.step()
        decay.step()
        torch.testing.assert_close(state.weights["w"], weight.detach(), rtol=1e-10, atol=1e-12)


def test_adamw_can_be_differentiated_by_all_that_it_starts_from():
    state = ADAMW.start({"w": torch.ones(3, dtype=torch.float64)})
    state = ADAMW(state, {"w": gradients()[0, :3]})

    def end(*tensors):
        return tuple(ADAMW(state.with_tensors(list(tensors[:3])), {"w": tensors[3]}).tensors)

    inputs = [t.clone().requires_grad_() for t in (*state.tensors, gradients()[1, :3])]
    assert torch.autograd.gradcheck(end, inputs)


def test_adam_trains_a_network_as_torchs_does():
    env = labels_env(rule=Adam(0.01, epsilon=1e-24, decay_steps=3), unroll_steps=6)
    env.reset(seed=0)
    weights = {n: w.clone().requires_grad_() for n, w in env.state.weights.items()}
    env.step(env.space.initial)
    optimizer = torch.optim.Adam(weights.values(), lr=0.01, eps=1e-12)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(1 + t / 3))
    least = math.inf
    for batch in env.last.samples.split(6):
        optimizer.zero_grad()
        training_loss(env.learner, weights, batch).backward()
        least = min(least, *(float(w.grad.abs().min()) for w in weights.values()))
        optimizer.step()
        decay.step()
    assert least > 1e-6  # far above epsilon's root
    for name, w in weights.items():
        torch.testing.assert_close(env.state.weights[name], w.detach(), rtol=1e-6, atol=1e-8)


def test_epsilon_bounds_the_derivative_of_an_adam_step():
    """At a gradient of zero it is finite, and that of d/dg (g / sqrt(g^2 + epsilon)) in the first step."""
    rule, state = Adam(0.1, epsilon=1e-6), Adam(0.1).start({"w": torch.zeros(3, dtype=torch.float64)})
    gradient = torch.tensor([0.0, 1e-3, -1.0], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(rule(state, {"w": gradient}).weights["w"].sum(), gradient)
    expected = -0.1 * 1e-6 / (gradient.detach() ** 2 + 1e-6) ** 1.5
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rule", [PLAIN, FULL, ADAM, ADAMW], ids=["plain", "momentum and decay", "adam", "adamw"])
def test_a_state_is_not_changed_by_a_step(rule):
    state = rule.start({"w": torch.ones(3), "b": torch.zeros(2)})
    state = rule(state, {"w": torch.ones(3), "b": torch.ones(2)})
    before = [t.clone() for t in state.tensors]
    after = rule(state, {"w": torch.ones(3), "b": -torch.ones(2)})
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors, strict=True))
    assert after.step == 2
    assert after.slots.keys() == state.slots.keys()


@pytest.mark.parametrize("rule", [PLAIN, FULL, ADAM, ADAMW], ids=["plain", "momentum and decay", "adam", "adamw"])
def test_a_linear_rule_says_so(rule):
    """Twice the state and the gradient give twice the next state, if and only if the rule is linear."""
    draw = torch.Generator().manual_seed(3)
    state = rule.start({"w": torch.randn(4, generator=draw, dtype=torch.float64)})
    state = rule(state, {"w": torch.randn(4, generator=draw, dtype=torch.float64)})
    gradient = torch.randn(4, generator=draw, dtype=torch.float64)
    double = state.with_tensors([2 * t for t in state.tensors])
    once, twice = rule(state, {"w": gradient}), rule(double, {"w": 2 * gradient})
    assert rule.linear == all(torch.allclose(2 * a, b) for a, b in zip(once.tensors, twice.tensors, strict=True))


def test_a_state_taken_apart_and_put_together():
    weights = {"a": torch.ones(2), "b": torch.zeros(3, 1)}
    slots = {"mean": {n: w + 1 for n, w in weights.items()}, "square": {n: w + 2 for n, w in weights.items()}}
    state = TrainingState(weights, slots, 7)
    assert [tuple(t.shape) for t in state.tensors] == 3 * [(2,), (3, 1)]
    doubled = state.with_tensors([2 * t for t in state.tensors])
    assert doubled.step == 7
    assert torch.equal(doubled.weights["a"], 2 * torch.ones(2))
    assert torch.equal(doubled.slots["square"]["b"], torch.full((3, 1), 4.0))
    assert list(doubled.slots) == ["mean", "square"]
    again = state.with_tensors(state.tensors)
    assert all(a is b for a, b in zip(again.tensors, state.tensors, strict=True))
    leaves = state.leaves()
    assert all(t.is_leaf and t.requires_grad for t in leaves.tensors)
    assert not any(t.requires_grad for t in state.tensors)
    assert all(torch.equal(a.detach(), b) for a, b in zip(leaves.tensors, state.tensors, strict=True))
