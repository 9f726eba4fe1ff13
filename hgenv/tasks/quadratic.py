"""A task so simple that the whole line from beta to L is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hgenv.problem import SampleData
from hgenv.samples import DenseSamples, SamplesError

from .task import Metric, Task


@dataclass(frozen=True)
class QuadraticTask(Task):
    """The output, a point (3,), is to follow the mean of the samples; L is half its squared distance to the data's.

    The loss of a sample is mask_i |w - x_i - target_i|^2 / 2.
    """

    metrics = (Metric("distance", "distance"),)
    max_loss = 50.0  # no state that the environment reaches is worse

    def check(self, samples: Any, who: str) -> None:
        """Make sure that these are points.

        Raises:
            SamplesError: They are not.
        """
        if not isinstance(samples, DenseSamples):
            raise SamplesError(f"{who}: {type(self).__name__} needs DenseSamples, not {type(samples).__name__}")
        for name, x, size in zip(samples.names, samples.tensors, (3, 3, 1), strict=True):
            if x.shape != (len(samples), size) or not x.is_floating_point():
                raise SamplesError(
                    f"{who}: the field {name!r} must be ({len(samples)}, {size}) floating-point, not {tuple(x.shape)} "
                    f"{x.dtype}"
                )
        samples.check_mask(who)

    def training_loss(self, output: Tensor, samples: DenseSamples) -> Tensor:
        """Half the squared distance of each sample."""
        return (samples.mask * (output - samples.image - samples.target) ** 2).sum(-1) / 2

    def validation_loss(self, output: Tensor, data: SampleData) -> Tensor:
        """Half the squared distance."""
        return ((output - point(data)) ** 2).sum(-1).mean() / 2

    def score(self, output: Tensor, data: SampleData) -> dict[str, float]:
        """The distance itself."""
        return {"distance": float((2 * self.validation_loss(output, data)).sqrt())}


def point_data(position: tuple[float, ...], label: str) -> SampleData:
    """Data that hold one point, as the image of their only sample."""
    place = torch.tensor([position], dtype=torch.float64)
    return SampleData(DenseSamples(place, torch.zeros_like(place), torch.ones_like(place[:, :1])), label)


def point(data: SampleData) -> Tensor:
    """The point that data hold, (1, 3)."""
    samples = data.samples
    assert isinstance(samples, DenseSamples)
    return samples.image
