"""A learner so simple that the whole line from beta to L is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch
from ..generators.random import hash_integers, uniforms
from .unroll import Weights


@dataclass(frozen=True)
class Points:
    """The point that the weights should reach, as data: `batch.image` is (1, 3)."""

    batch: Batch
    label: str

    @staticmethod
    def at(position: tuple[float, ...], label: str) -> Points:
        """Data that holds one point."""
        point = torch.tensor([position], dtype=torch.float64)
        return Points(Batch(point, torch.zeros_like(point), torch.ones_like(point[:, :1])), label)


class QuadraticLearner:
    """Weights w (3,) follow the mean of the training points; L is half the squared distance to the data's point.

    With l(w, X) = mean_i mask_i |w - x_i - target_i|^2 / 2 and plain SGD of learning rate eta,

        w_K = (1 - eta)^K w_0 + eta * sum_k (1 - eta)^(K-1-k) mean(X_k)
        dL/dx_ki = eta (1 - eta)^(K-1-k) / B * (w_K - w*)
        dL/dposition = (1 - (1 - eta)^K) (w_K - w*)

    Attributes:
        max_loss: No state that the environment reaches is worse.
    """

    max_loss = 50.0

    def initial_weights(self, seed: int) -> Weights:
        """Uniform in [-1, 1]."""
        return {"w": 2 * uniforms(hash_integers(torch.tensor([seed]), 1)[0], 3)[0] - 1}

    def training_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """Mean over the samples of half the squared distance."""
        return (batch.mask * (weights["w"] - batch.image - batch.target) ** 2).sum(-1).mean() / 2

    def validation_loss(self, weights: Weights, data: Points) -> Tensor:
        """Half the squared distance."""
        return ((weights["w"] - data.batch.image) ** 2).sum(-1).mean() / 2

    def metrics(self, weights: Weights, data: Points) -> dict[str, float]:
        """The distance itself."""
        with torch.no_grad():
            return {"distance": float((2 * self.validation_loss(weights, data)).sqrt())}

    def flops(self, kind: str, samples: int) -> int:
        """Three multiplications a sample and pass: one pass to validate, three to train, nine to differentiate."""
        return 3 * samples * {"validate": 1, "train": 3, "gradient": 9}[kind]
