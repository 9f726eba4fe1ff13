"""Depth from one image, with the metrics of the paper's appendix A.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv.rendering.surfaces import CAMERA
from hgenv.samples import DenseSamples

from .dense import DenseTask, last
from .task import Metric

if TYPE_CHECKING:
    from hgenv.datasets.heads import Heads

REACH = 2.0  # predictions lie within so much of CAMERA; faces within 1
KNEE = 0.1  # below this error the training loss is a parabola, so that dL/dX holds for changes of samples this large
WORST_RELATIVE = 0.1  # what gets the last colour of an error map


@dataclass(frozen=True)
class DepthTask(DenseTask):
    """The depth of every pixel.

    Images are (B, 3, S, S), targets (B, 1, S, S) positive depths inside the mask, masks (B, 1, S, S). Depth is measured
    in halves of the frame's edge from a plane `CAMERA` of them before the middle of the face. Maps are any numbers;
    `predict` makes depths of them.
    """

    inputs = 3
    outputs = 1
    max_loss = (REACH + 1) / (CAMERA - 1)  # predicted within REACH of CAMERA, true within 1 of it
    metrics = (
        Metric("abs_rel", "abs. rel."),
        Metric("sq_rel", "sq. rel."),
        Metric("rmse", "RMSE"),
        Metric("rmse_log", "RMSE log"),
        Metric("rmse_log_invariant", "RMSE log, scale-invariant"),
    )
    error_note = f"Error: black none, white from {WORST_RELATIVE:.0%} of the depth on."

    def pixel_loss(self, maps: Tensor, target: Tensor) -> Tensor:
        """Absolute error with a rounded tip."""
        return ((_depth(maps) - target) ** 2 + KNEE**2).sqrt() - KNEE

    def validation_loss(self, output: Any, data: Heads) -> Tensor:
        """Mean absolute relative error of the last map over the face pixels of all renders."""
        target, mask = data.samples.target, data.samples.mask
        # Outside the mask there is no depth to divide by.
        error = (self.predict(output) - target).abs() / torch.where(mask > 0, target, 1)
        return (mask * error).sum() / mask.sum().clamp(min=1)

    def score(self, output: Any, data: Heads) -> dict[str, float]:
        """`depth_metrics` over the face pixels of all renders, and `abs_rel/<head>` of each head's."""
        predicted = self.predict(output).detach()
        true, inside = data.samples.target, data.samples.mask > 0
        found = depth_metrics(predicted[inside], true[inside])
        for i, name in enumerate(data.names):
            own = inside & (data.head == i)[:, None, None, None]
            found[f"abs_rel/{name}"] = depth_metrics(predicted[own], true[own])["abs_rel"]
        return found

    def predict(self, output: Any) -> Tensor:
        """Depths, (B, 1, S, S), of the last map."""
        return _depth(last(output))

    def colours(self, targets: Tensor, truth: DenseSamples) -> NDArray[np.floating]:
        """From bright, near, to dark, far, over the range of each true one."""
        import matplotlib  # late: only who draws needs it

        inside = truth.mask > 0
        near = torch.where(inside, truth.target, torch.inf).amin((1, 2, 3), keepdim=True)
        far = torch.where(inside, truth.target, -torch.inf).amax((1, 2, 3), keepdim=True)
        level = ((far - targets) / (far - near).clamp(min=1e-6))[:, 0].clamp(0, 1).nan_to_num(0)
        return matplotlib.colormaps["viridis"](level.cpu().numpy())[..., :3]

    def error_level(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Relative errors, 1 being `WORST_RELATIVE`."""
        return ((prediction - target).abs() / target.clamp(min=1e-6))[:, 0] / WORST_RELATIVE


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
