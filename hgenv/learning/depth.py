"""Depth from one image: a stacked hourglass, its losses, and the metrics of the paper's appendix A.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hgenv.batch import Batch
from hgenv.learning.dense import DenseLearner
from hgenv.learning.unroll import Weights
from hgenv.rendering.surfaces import CAMERA

if TYPE_CHECKING:
    from hgenv.datasets.heads import Heads

REACH = 2.0  # predictions lie within so much of CAMERA; faces within 1
KNEE = 0.1  # below this error the training loss is a parabola, so that dL/dX holds for changes of samples this large


class DepthLearner(DenseLearner):
    """Predicts the depth of every pixel; implements `hgenv.learning.unroll.Learner`, see `DenseLearner`.

    Images are (B, 3, S, S), targets (B, 1, S, S) positive depths inside the mask, masks (B, 1, S, S). Depth is measured
    in halves of the frame's edge from a plane `CAMERA` of them before the middle of the face.
    """

    # Predicted within REACH of CAMERA, true within 1 of it.
    max_loss = (REACH + 1) / (CAMERA - 1)
    inputs, outputs = 3, 1

    def training_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """Absolute error with a rounded tip, averaged over mask pixels of the batch and stacks."""
        image, target, mask = batch.map(self._here).tensors
        maps = self.maps(weights, image)
        errors = [((_depth(m) - target) ** 2 + KNEE**2).sqrt() - KNEE for m in maps]
        return (mask * sum(errors)).sum() / (len(maps) * mask.sum().clamp(min=1))

    def validation_loss(self, weights: Weights, heads: Heads) -> Tensor:
        """Mean absolute relative error of the last stack over the face pixels of all renders."""
        image, target, mask = heads.batch.map(self._here).tensors
        # Outside the mask there is no depth to divide by.
        error = (self.predict(weights, image) - target).abs() / torch.where(mask > 0, target, 1)
        return (mask * error).sum() / mask.sum().clamp(min=1)

    def metrics(self, weights: Weights, heads: Heads) -> dict[str, float]:
        """`depth_metrics` over the face pixels of all renders, and `abs_rel/<head>` of each head's."""
        with torch.no_grad():
            predicted = self.predict(weights, heads.batch.image)
        true, inside = heads.batch.target, heads.batch.mask > 0
        found = depth_metrics(predicted[inside], true[inside])
        for i, name in enumerate(heads.names):
            own = inside & (heads.head == i)[:, None, None, None]
            found[f"abs_rel/{name}"] = depth_metrics(predicted[own], true[own])["abs_rel"]
        return found

    def predict(self, weights: Weights, images: Tensor) -> Tensor:
        """Depths, (N, 1, S, S), of (N, 3, S, S) images, by the last stack."""
        return _depth(self.maps(weights, images)[-1])


def depth_metrics(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """The figures of appendix A.1 over M pixels (Eigen et al., "Depth map prediction from a single image", 2014).

    Args:
        predicted: (M,) positive depths.
        true: The same.

    Returns:
        `abs_rel` mean |d - t| / t, `sq_rel` mean (d - t)^2 / t, `rmse`, `rmse_log` root mean square of the differences
        of depths and of their natural logarithms, `rmse_log_invariant` standard deviation of the latter, which does not
        change when all predictions are scaled.

    Raises:
        ValueError: There are no pixels, or a depth is not positive.
    """
    d, t = predicted.detach().double().flatten(), true.double().flatten()
    if not len(t):
        raise ValueError("there are no pixels to take metrics of: at least one depth is needed")
    if not (d > 0).all() or not (t > 0).all():
        raise ValueError("relative and logarithmic errors need positive depths")
    difference, ratio = d - t, d.log() - t.log()
    return {
        "abs_rel": float((difference.abs() / t).mean()),
        "sq_rel": float((difference**2 / t).mean()),
        "rmse": float((difference**2).mean().sqrt()),
        "rmse_log": float((ratio**2).mean().sqrt()),
        "rmse_log_invariant": float(ratio.var(unbiased=False).sqrt()),
    }


def _depth(maps: Tensor) -> Tensor:
    """What the network says, to depths between CAMERA - REACH and CAMERA + REACH."""
    return CAMERA + REACH * (maps / REACH).tanh()
