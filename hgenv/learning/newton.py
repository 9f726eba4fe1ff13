"""What a sample would do to L if training on its like were led to the end, by one Newton step.

Behl, Baydin, Gal, Torr and Vineet, "AutoSimulate: (Quickly) Learning Synthetic Data Generation", ECCV 2020, after the
implicit function theorem, as Koh and Liang, "Understanding black-box predictions via influence functions", ICML 2017:
where training ends at w* = argmin_w l(w), more of sample i moves w* by -H^-1 grad_w l_i, and so

    influence_i = -<lambda, grad_w l_i>,    (H + damping) lambda = grad_w L.

H is the Hessian of the training loss. lambda comes from conjugate gradients, which need products with H alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .first_order import influence_along, moved, norm, reach_along
from .learner import Learner
from .precision import full_precision
from .rules import TrainingState, Weights
from .unroll import LastAdjoint, last_adjoint, training_gradient


@full_precision()
def newton_influence(
    learner: Learner,
    trajectory: list[TrainingState],
    batches: list[Any],
    data: Any,
    *,
    products: int,
    damping: float,
    last: LastAdjoint | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The validation loss after training, and every sample's influence by a Newton step from the last weights.

    Args:
        learner: What was trained.
        trajectory: What `train` gave for `batches`.
        batches: X_0 .. X_{K-1}; H is that of the loss on the last one.
        data: What the learner validates on.
        products: Products with H, at the price of two training steps each.
        damping: As a fraction of the curvature along grad L.
        last: What `last_adjoint` gave, if that is known already.

    Returns:
        L, and (B,) influences for each k.
    """
    loss, adjoint = last or last_adjoint(learner, trajectory[-1], data)
    weights = trajectory[-1].weights

    def product(v: Weights) -> Weights:
        """H v, as a central difference of gradients."""
        reach = reach_along(weights, v)
        ahead, behind = (training_gradient(learner, moved(weights, v, sign * reach), batches[-1]) for sign in (1, -1))
        return {name: (ahead[name] - behind[name]) / (2 * reach) for name in v}

    solution = conjugate_gradients(product, adjoint.weights, products, damping)
    downhill = {name: -part for name, part in solution.items()}
    return loss, [influence_along(learner, weights, downhill, batch) for batch in batches]


def conjugate_gradients(product: Any, b: Weights, products: int, damping: float) -> Weights:
    """Approximately (H + damping * curvature along b)^-1 b (Hestenes and Stiefel, 1952).

    Where a direction has no positive curvature there is no minimum along it, and what was found so far is the answer
    (Steihaug, 1983); b itself, if that is so from the start.

    Args:
        product: v -> H v.
        b: The right-hand side.
        products: How many may be asked for, at least 1.
        damping: At least 0.
    """
    x = {name: torch.zeros_like(part) for name, part in b.items()}
    r, p = b, b
    shift = None
    for _ in range(products):
        hp = product(p)
        if shift is None:
            shift = damping * _dot(p, hp).abs() / _dot(p, p).clamp(min=1e-30)
        hp = moved(hp, p, shift)
        curvature = _dot(p, hp)
        if not curvature > 0:
            break
        step = _dot(r, r) / curvature
        x, after = moved(x, p, step), moved(r, hp, -step)
        p = moved(after, p, _dot(after, after) / _dot(r, r))
        r = after
    return x if norm(x) > 0 else b


def _dot(a: Weights, b: Weights) -> Tensor:
    return torch.stack([(part * b[name]).sum() for name, part in a.items()]).sum()
