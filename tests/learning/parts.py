"""Small problems in float64 that the tests of this folder share."""

import torch
from torch import Tensor, nn

from hgenv import DenseSamples, SampleData
from hgenv.learning import (
    SGD,
    Adam,
    AdamW,
    DenseLearner,
    Network,
    sample_gradient,
    train,
    training_loss,
    validation_loss,
)
from hgenv.tasks.normals import NormalsTask

SIZE = 16
PLAIN = SGD(learning_rate=0.05)
FULL = SGD(learning_rate=0.05, momentum=0.9, weight_decay=1e-2, decay_steps=3)
ADAM = Adam(learning_rate=0.01, epsilon=1e-7, decay_steps=5)
ADAMW = AdamW(learning_rate=0.01, weight_decay=0.1, epsilon=1e-7, decay_steps=5)


def normals_learner(units="smooth", size=SIZE, dtype=torch.float64, kind=DenseLearner):
    return kind(NormalsTask(), Network(units=units, size=size), dtype)


def random_samples(samples, seed, size=SIZE, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    mask = (torch.rand(samples, 1, size, size, generator=g) > 0.3).to(dtype)
    target = nn.functional.normalize(torch.randn(samples, 3, size, size, generator=g, dtype=dtype), dim=1)
    return DenseSamples(torch.rand(samples, 1, size, size, generator=g, dtype=dtype) * mask, target * mask, mask)


def photos(**options):
    """What the task's validation loss reads of photos."""
    return SampleData(random_samples(2, 99, **options), "random")


def trained(learner, rule, batches, seed=0):
    return train(learner, rule, rule.start(learner.initial_weights(seed)), batches)


def unrolled(learner, rule, batches, seed=0):
    """L and the gradients of the samples, one record for each step."""
    loss, steps = sample_gradient(learner, rule, trained(learner, rule, batches, seed), batches, photos())
    return loss, [step.samples for step in steps]


def loss_after(learner, rule, batches):
    return float(validation_loss(learner, trained(learner, rule, batches)[-1].weights, photos()))


def with_gradient(batches):
    return [b.map(lambda x: x.clone().requires_grad_()) for b in batches]


def gradients_of(loss, batches):
    parts = torch.autograd.grad(loss, [x for b in batches for x in b.tensors])
    return [DenseSamples(*parts[i : i + 3]) for i in range(0, len(parts), 3)]


def full_autograd(learner, rule, batches, sample_weights=None):
    """The whole loop as one graph: L, and the state at its end."""
    state = rule.start({n: w.requires_grad_() for n, w in learner.initial_weights(0).items()})
    for k, batch in enumerate(batches):
        loss = training_loss(learner, state.weights, batch, None if sample_weights is None else sample_weights[k])
        gradient = torch.autograd.grad(loss, list(state.weights.values()), create_graph=True)
        state = rule(state, dict(zip(state.weights, gradient, strict=True)))
    return validation_loss(learner, state.weights, photos())


def assert_same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a.tensors, b.tensors, strict=True):
            assert float(y.norm()) > 0
            assert float((x - y).norm() / y.norm()) < tolerance


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
