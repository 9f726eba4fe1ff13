"""Rules against torch.optim with a schedule of its own, and against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hgenv.optimizers import SGD, Adam, GradientOptimizer, RMSprop, Rule

from .tools import Given, center, quadratic

GRADIENTS = [[1.0, -2.0, 0.1, 3.0], [1.0, 2.0, 0.1, -1.0], [-0.5, 2.0, 0.1, 0.0], [0.2, -1.0, 0.1, 0.5]]


def followed(rule: Rule, gradients: list[list[float]]) -> list[Tensor]:
    """Where a gradient optimizer goes along given gradients, normalized."""
    env = quadratic()
    estimator = Given(None)
    optimizer = GradientOptimizer(env.space, estimator, rule, seed=0)
    path = []
    for gradient in gradients:
        estimator.rows = torch.tensor([gradient], dtype=torch.float64)
        optimizer.update(env)
        path.append(optimizer.normalized.detach().clone())
    return path


@pytest.mark.parametrize("decay", [math.inf, 2.0])
@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (SGD(0.01), lambda p: torch.optim.SGD(p, lr=0.01)),
        (SGD(0.01, momentum=0.7), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.7)),
        (RMSprop(0.02, rho=0.8, eps=1e-4), lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.8, eps=1e-4)),
        (
            RMSprop(0.02, rho=0.8, momentum=0.6),
            lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.8, eps=1e-8, momentum=0.6),
        ),
        (Adam(0.03, 0.8, 0.95, 1e-5), lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.8, 0.95), eps=1e-5)),
    ],
)
def test_a_rule_is_that_of_torch_with_a_falling_rate(
    rule: Rule, make: Callable[[list[Tensor]], torch.optim.Optimizer], decay: float
) -> None:
    rule = type(rule)(**(vars(rule) | {"decay_updates": decay}))
    beta = torch.nn.Parameter(center(quadratic()))
    torch_rule = make([beta])
    schedule = torch.optim.lr_scheduler.LambdaLR(torch_rule, lambda t: 1 / math.sqrt(1 + t / decay))
    for gradient, found in zip(GRADIENTS, followed(rule, GRADIENTS), strict=True):
        beta.grad = torch.tensor(gradient, dtype=torch.float64)
        torch_rule.step()
        schedule.step()
        torch.testing.assert_close(found, beta.detach(), rtol=0, atol=1e-12)
    assert ((beta > 0) & (beta < 1)).all()  # or bounds would have had a say


def test_rmsprop_written_out() -> None:
    rate, rho, eps, decay = 0.02, 0.8, 1e-4, 2.0
    square, beta = torch.zeros(4, dtype=torch.float64), center(quadratic())
    path = followed(RMSprop(rate, rho=rho, eps=eps, decay_updates=decay), GRADIENTS)
    for t, (numbers, found) in enumerate(zip(GRADIENTS, path, strict=True)):
        gradient = torch.tensor(numbers, dtype=torch.float64)
        square = rho * square + (1 - rho) * gradient**2
        beta = (beta - rate / (1 + t / decay) ** 0.5 * gradient / (square.sqrt() + eps)).clamp(0, 1)
        torch.testing.assert_close(found, beta)


def test_adams_first_move_is_the_learning_rate() -> None:
    (found,) = followed(Adam(0.03), GRADIENTS[:1])
    signs = torch.tensor(GRADIENTS[0], dtype=torch.float64).sign()
    torch.testing.assert_close(found, center(quadratic()) - 0.03 * signs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rule", [SGD, RMSprop, Adam])
def test_the_learning_rate_falls_with_moves_alone(rule: type[Rule]) -> None:
    """Updates without an estimate are none."""
    values = rule(0.4, decay_updates=1.0)
    assert [values.rate(move) for move in (0, 3, 8)] == [0.4, 0.2, pytest.approx(0.4 / 3)]
    assert rule(0.4).rate(10**9) == 0.4


def test_only_moves_count_for_the_schedule() -> None:
    env = quadratic()
    estimator = Given(None)
    optimizer = GradientOptimizer(env.space, estimator, SGD(0.1, decay_updates=1.0), seed=0)
    for _ in range(3):
        optimizer.update(env)
    estimator.rows = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = center(env)
    for move in range(2):
        optimizer.update(env)
        expected[0] -= 0.1 / math.sqrt(1 + move)
        torch.testing.assert_close(optimizer.normalized.detach(), expected)


@pytest.mark.parametrize("rule", [SGD, RMSprop, Adam])
@pytest.mark.parametrize("options", [{"learning_rate": 0.0}, {"learning_rate": -1.0}, {"decay_updates": 0.0}])
def test_what_is_not_positive_is_refused(rule: type[Rule], options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive, not"):
        rule(**options)  # type: ignore[arg-type]
