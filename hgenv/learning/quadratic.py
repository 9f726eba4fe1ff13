"""A learner so simple that the whole line from beta to L is known in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hgenv.generators.random import hash_integers, uniforms
from hgenv.tasks.quadratic import QuadraticTask

from .learner import Work
from .rules import Weights


class QuadraticLearner:
    """Weights w (3,) follow the mean of the training points; they are the output, whatever the samples.

    With l(w, X) = mean_i |w - x_i|^2 / 2 and plain SGD of learning rate eta,

        w_K = (1 - eta)^K w_0 + eta * sum_k (1 - eta)^(K-1-k) mean(X_k)
        dL/dx_ki = eta (1 - eta)^(K-1-k) / B * (w_K - w*)
        dL/dposition = (1 - (1 - eta)^K) (w_K - w*)
    """

    def __init__(self) -> None:
        self.task = QuadraticTask()

    def initial_weights(self, seed: int) -> Weights:
        """Uniform in [-1, 1]."""
        return {"w": 2 * uniforms(hash_integers(torch.tensor([seed]), 1)[0], 3)[0] - 1}

    def output(self, weights: Weights, samples: Any) -> Tensor:
        """The weights."""
        return weights["w"]

    def flops(self, kind: Work, samples: int) -> int:
        """Three multiplications a sample and pass: one pass to validate, three to train, nine to differentiate."""
        return 3 * samples * {"validate": 1, "train": 3, "gradient": 9}[kind]
