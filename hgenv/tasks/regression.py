"""Numbers of every pixel: depth, flow, coordinates, whatever has a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hgenv.problem import SampleData
from hgenv.samples import DenseSamples

from .dense import DenseTask, last
from .task import Metric

KNEE = 0.02  # share of the range below which the L1 training loss is a parabola, so that it has second derivatives
WORST = 0.1  # share of the range that gets the last colour of an error map
BEYOND = 1.0  # ranges that a prediction may lie outside of the range


@dataclass(frozen=True)
class RegressionTask(DenseTask):
    """Numbers of every pixel, on `DenseSamples`; the output is (B, outputs, S, S), in the targets' units, or several.

    Losses are in fractions of the range, so that learning rates mean the same whatever the unit is.

    Attributes:
        inputs: Channels of the images.
        outputs: Channels of the targets.
        low: The smallest target that there may be.
        high: The largest.
        loss: "l1", absolute errors, the tip of the training loss being rounded; or "l2", squared errors.
        unit: Of the targets, for tables.

    Raises:
        ValueError: There is no range, or no such loss.
    """

    inputs: int = 3
    outputs: int = 1
    low: float = 0.0
    high: float = 1.0
    loss: Literal["l1", "l2"] = "l1"
    unit: str = "1"

    error_note = f"Error: black none, white from {WORST:.0%} of the range on."

    def __post_init__(self) -> None:
        """Check range and loss; name the metrics, and bound L."""
        if not self.low < self.high < float("inf") or self.low == -float("inf"):
            raise ValueError(f"low must be below high, and both finite, not {self.low} and {self.high}")
        if self.loss not in ("l1", "l2"):
            raise ValueError(f"loss must be 'l1' or 'l2', not {self.loss!r}")
        bracket = "" if self.unit == "1" else f" ({self.unit})"
        metrics = (
            Metric("mean_absolute_error", f"mean absolute error{bracket}", self.unit),
            Metric("rmse", f"RMSE{bracket}", self.unit),
        )
        object.__setattr__(self, "metrics", metrics if self.loss == "l1" else metrics[::-1])
        object.__setattr__(self, "max_loss", (1 + BEYOND) ** (1 if self.loss == "l1" else 2))

    def pixel_loss(self, maps: Tensor, target: Tensor) -> Tensor:
        """Mean over the channels of the rounded absolute, or of the squared error, in fractions of the range."""
        error = (maps - target) / (self.high - self.low)
        losses = (error**2 + KNEE**2).sqrt() - KNEE if self.loss == "l1" else error**2
        return losses.mean(1, keepdim=True)

    def validation_loss(self, output: Any, data: SampleData) -> Tensor:
        """Mean absolute or squared error of the last map over the mask, in fractions of the range."""
        samples = _dense(data)
        error = (self.predict(output) - samples.target) / (self.high - self.low)
        losses = (error.abs() if self.loss == "l1" else error**2).mean(1, keepdim=True)
        return (samples.mask * losses).sum() / samples.mask.sum().clamp(min=1)

    def score(self, output: Any, data: SampleData) -> dict[str, float]:
        """Mean absolute error, and root of the mean squared one, over the mask's pixels and all channels."""
        samples = _dense(data)
        error = (self.predict(output).detach() - samples.target).double()
        weight = samples.mask.double().expand_as(error)
        total = weight.sum().clamp(min=1)
        absolute, square = ((weight * x).sum() / total for x in (error.abs(), error**2))
        return {"mean_absolute_error": float(absolute), "rmse": float(square.sqrt())}

    def predict(self, output: Any) -> Tensor:
        """The last map, (B, outputs, S, S), no further outside of the range than the range is wide."""
        reach = BEYOND * (self.high - self.low)
        return last(output).clamp(self.low - reach, self.high + reach)

    def colours(self, targets: Tensor, truth: DenseSamples) -> NDArray[np.floating]:
        """Three channels are red, green and blue; of others the first, from dark, low, to bright, high."""
        level = ((targets - self.low) / (self.high - self.low)).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        if self.outputs == 3:
            return level
        import matplotlib  # late: only who draws needs it

        return matplotlib.colormaps["viridis"](level[..., 0])[..., :3]

    def error_level(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The largest error of all channels, 1 being `WORST` of the range."""
        return (prediction - target).abs().amax(1) / (WORST * (self.high - self.low))


def _dense(data: SampleData) -> DenseSamples:
    assert isinstance(data.samples, DenseSamples)
    return data.samples
