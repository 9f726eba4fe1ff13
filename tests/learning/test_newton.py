"""Influence by a Newton step against the whole Hessian, solved directly."""

import pytest
import torch

from hgenv.learning import SGD, newton_influence, train, training_loss, validation_loss
from hgenv.learning.newton import conjugate_gradients

from ..toys import StripesGenerator, TwoLayers, labelled_data


def problem():
    learner, generator = TwoLayers(), StripesGenerator()
    beta = generator.space.initial.expand(8, -1)
    batches = [generator(beta, torch.arange(8 * k, 8 * k + 8)) for k in range(2)]
    rule = SGD(0.3)
    return learner, train(learner, rule, rule.start(learner.initial_weights(0)), batches), batches


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


def test_it_is_what_the_whole_hessian_gives():
    learner, trajectory, batches = problem()
    data, weights = labelled_data(1000, "stripes"), trajectory[-1].weights
    names, shapes = list(weights), [w.shape for w in weights.values()]

    def loss(vector, batch=batches[-1], sample_weights=None):
        sizes = [shape.numel() for shape in shapes]
        parts = [part.reshape(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return training_loss(learner, dict(zip(names, parts, strict=True)), batch, sample_weights)

    at = flat(weights.values())
    hessian = torch.autograd.functional.hessian(loss, at)
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    validation = validation_loss(learner, leaves, data)
    b = flat(torch.autograd.grad(validation, list(leaves.values())))
    damping = 60.0  # makes this Hessian positive definite
    curvature = damping * (b @ hessian @ b).abs() / (b @ b)
    whole = hessian + curvature * torch.eye(len(b), dtype=torch.float64)
    assert torch.linalg.eigvalsh(whole).min() > 0
    assert torch.linalg.eigvalsh(hessian).min() < 0  # else there would be no need of it
    solution = torch.linalg.solve(whole, b)

    found_loss, found = newton_influence(learner, trajectory, batches, data, products=len(b), damping=damping)
    assert float(found_loss) == pytest.approx(float(validation.detach()))
    for batch, influence in zip(batches, found, strict=True):

        def along(sample_weights, batch=batch):
            """How steep the loss is along the solution."""
            return torch.func.grad(loss)(at, batch, sample_weights) @ solution

        expected = -torch.func.grad(along)(torch.ones(len(batch), dtype=torch.float64))
        torch.testing.assert_close(influence, expected, rtol=1e-5, atol=1e-8)  # of differences
    _, few = newton_influence(learner, trajectory, batches, data, products=3, damping=damping)
    torch.testing.assert_close(flat(few), flat(found), rtol=0.2, atol=float(flat(found).abs().max()) / 20)


def test_there_is_no_way_beyond_a_direction_without_curvature():
    """The first direction has curvature, the second one has none: the answer is that along the first."""
    b = {"w": torch.tensor([1.0, 1.0], dtype=torch.float64)}
    hessian = torch.tensor([[3.0, 0.0], [0.0, -1.0]], dtype=torch.float64)

    def product(v):
        return {"w": hessian @ v["w"]}

    torch.testing.assert_close(conjugate_gradients(product, b, 5, 0.0)["w"], b["w"])  # |b|^2 / b'Hb = 1
    falling = {"w": torch.tensor([0.1, 1.0], dtype=torch.float64)}
    assert torch.equal(conjugate_gradients(product, falling, 5, 0.0)["w"], falling["w"])
