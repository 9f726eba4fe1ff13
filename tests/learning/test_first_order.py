"""What leaves curvature out: exact at the last training step, cheap, and what it says comes true."""

import pytest
import torch

from hgenv.learning import (
    SGD,
    Adam,
    DenseLearner,
    Network,
    influence,
    sample_gradient,
    sample_gradient_without_curvature,
    train,
    validation_loss,
)
from hgenv.tasks.normals import NormalsTask

from .parts import ADAM, FULL, PLAIN, SIZE, normals_learner, photos, random_samples, relative, trained

SLOW = pytest.mark.parametrize(
    "rule",
    [SGD(1e-3), SGD(1e-3, 0.9, 1e-2, 3), Adam(1e-4, epsilon=1e-6, decay_steps=3)],
    ids=["plain", "momentum and decay", "adam"],
)


@pytest.fixture(scope="module")
def smooth():
    return normals_learner()


@SLOW
def test_influence_is_exact_where_no_later_step_bends(smooth, rule):
    """That is at the last of K steps; at earlier ones the curvature that is left out grows with the learning rate."""
    batches = [random_samples(4, k) for k in range(2)]
    trajectory = trained(smooth, rule, batches)
    loss, found = influence(smooth, rule, trajectory, batches, photos())
    _, steps = sample_gradient(smooth, rule, trajectory, batches, photos())
    assert float(loss) == float(validation_loss(smooth, trajectory[-1].weights, photos()))
    torch.testing.assert_close(found[1], steps[1].influence, rtol=1e-5, atol=1e-9)
    assert 1e-4 < relative(found[0], steps[0].influence) < 0.1


@SLOW
def test_the_cheap_sample_gradient_is_exact_where_no_later_step_bends(smooth, rule):
    batches = [random_samples(4, k) for k in range(2)]
    trajectory = trained(smooth, rule, batches)
    whole_loss, whole = sample_gradient(smooth, rule, trajectory, batches, photos())
    loss, found = sample_gradient_without_curvature(smooth, rule, trajectory, batches, photos())
    assert float(loss) == float(whole_loss)
    for x, y in zip(found[1].samples.tensors, whole[1].samples.tensors, strict=True):
        assert relative(x, y) < 1e-5
    assert 1e-4 < relative(found[0].samples.image, whole[0].samples.image) < 0.1
    # And it holds the influence, which is made in another way.
    _, alone = influence(smooth, rule, trajectory, batches, photos())
    for step, batch, expected in zip(found, batches, alone, strict=True):
        torch.testing.assert_close(step.influence, expected, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(
            (step.samples.mask * batch.mask).flatten(1).sum(1), expected, rtol=1e-5, atol=1e-9
        )  # fmt: skip


@pytest.mark.parametrize("rule", [FULL, ADAM], ids=["momentum and decay", "adam"])
def test_the_cheap_sample_gradient_in_single_precision(rule):
    """A difference of gradients that agree in most of their digits: 24 bits are enough for it."""
    batch, found = random_samples(4, 0), {}
    for dtype in (torch.float32, torch.float64):
        learner, samples = normals_learner(dtype=dtype), [batch.map(lambda x, dtype=dtype: x.to(dtype))]
        trajectory = trained(learner, rule, samples)
        _, (step,) = sample_gradient_without_curvature(learner, rule, trajectory, samples, photos())
        found[dtype] = torch.cat([x.double().flatten() for x in step.samples.tensors])
    assert relative(found[torch.float32], found[torch.float64]) < 0.02


@pytest.mark.parametrize("rule", [SGD(1e-3, 0.9), Adam(1e-5, epsilon=1e-6)], ids=["sgd", "adam"])
def test_influence_foretells_what_replacing_a_sample_does(rule):
    """L with sample i in the place of sample j of the same step, trained anew, against the difference of influence."""
    learner, batches = normals_learner(), [random_samples(12, k) for k in range(2)]
    start = rule.start(learner.initial_weights(0))
    loss, parts = influence(learner, rule, train(learner, rule, start, batches), batches, photos())
    foretold, true = [], []
    for k, part in enumerate(parts):
        for j in range(12):
            i = (j + 1) % 12
            rows = torch.arange(12)
            rows[j] = i
            changed = [b[rows] if k == n else b for n, b in enumerate(batches)]
            after = validation_loss(learner, train(learner, rule, start, changed)[-1].weights, photos())
            true.append(float(after - loss))
            foretold.append(float(part[i] - part[j]))
    assert relative(torch.tensor(foretold), torch.tensor(true)) < 0.05


@pytest.mark.parametrize("rule", [FULL, ADAM], ids=["momentum and decay", "adam"])
def test_influence_in_single_precision(rule):
    batches, found = [random_samples(4, k) for k in range(2)], {}
    for dtype in (torch.float32, torch.float64):
        learner = normals_learner(dtype=dtype)
        trajectory = trained(learner, rule, batches)
        found[dtype] = torch.cat(influence(learner, rule, trajectory, batches, photos())[1]).double()
    assert relative(found[torch.float32], found[torch.float64]) < 0.02


def test_where_nothing_can_be_gained_influence_is_zero():
    class Indifferent(NormalsTask):
        def validation_loss(self, output, data):
            return 0 * super().validation_loss(output, data)

    learner = DenseLearner(Indifferent(), Network(size=SIZE), torch.float64)
    batches = [random_samples(2, 0)]
    trajectory = trained(learner, PLAIN, batches)
    assert influence(learner, PLAIN, trajectory, batches, photos())[1][0].abs().max() == 0
