"""What tasks that look at every pixel have in common: maps, a mask, and pictures of both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv.samples import DenseSamples, SamplesError

from .task import Picture, Task


class DenseTask(Task):
    """A task on `DenseSamples`; the output is a map or several, (B, outputs, S, S), the last of which counts.

    Subclasses set what follows and write the errors.

    Attributes:
        inputs: Channels of the images.
        outputs: Channels of the maps.
    """

    inputs: int
    outputs: int

    @abstractmethod
    def predict(self, output: Any) -> Tensor:
        """What the last map says, in the task's own units, (B, outputs, S, S)."""

    @abstractmethod
    def pixel_loss(self, maps: Tensor, target: Tensor) -> Tensor:
        """The training loss of every pixel, (B, 1, S, S), of one map."""

    @abstractmethod
    def colours(self, targets: Tensor, truth: DenseSamples) -> NDArray[np.floating]:
        """Targets or predictions (B, outputs, S, S) as colours (B, S, S, 3), 0..1; the truth tells the range."""

    @abstractmethod
    def error_level(self, prediction: Tensor, target: Tensor) -> Tensor:
        """How wrong every pixel is, (B, S, S), 1 being what gets the last colour of an error map."""

    error_note: str

    def check(self, samples: Any, who: str) -> None:
        """Make sure that these are square images, maps and masks of one size.

        Raises:
            SamplesError: They are not.
        """
        if not isinstance(samples, DenseSamples):
            raise SamplesError(
                f"{who}: {type(self).__name__} needs DenseSamples (image, target, mask), not {type(samples).__name__}"
            )
        size = samples.image.shape[-1] if samples.image.dim() else 0
        channels = {"image": self.inputs, "target": self.outputs, "mask": 1}
        for name, x in zip(samples.names, samples.tensors, strict=True):
            shape = (len(samples), channels[name], size, size)
            if x.shape != shape:
                raise SamplesError(f"{who}: the field {name!r} must be {shape}, not {tuple(x.shape)}")
            if not x.is_floating_point():
                raise SamplesError(f"{who}: the field {name!r} must be floating-point, not {x.dtype}")
        samples.check_mask(who)

    def training_loss(self, output: Any, samples: DenseSamples) -> Tensor:
        """Sum over the mask's pixels of each sample of the loss, the mean of all maps."""
        maps = _maps(output)
        errors = sum(self.pixel_loss(m, samples.target) for m in maps)
        return (samples.mask * errors).flatten(1).sum(1) / len(maps)

    def sizes(self, samples: DenseSamples) -> Tensor:
        """Pixels of each sample's mask."""
        return samples.mask.flatten(1).sum(1)

    def example(self, size: int) -> DenseSamples:
        """One sample of S x S pixels, all ones, for counting what it costs."""
        channels = self.inputs, self.outputs, 1
        return DenseSamples(*(torch.ones(1, count, size, size) for count in channels))

    def picture(self, samples: DenseSamples, output: Any = None) -> Picture:
        """Images and targets; with the output for them, predictions and error maps."""
        mask = samples.mask.permute(0, 2, 3, 1).cpu().numpy()
        if output is None:
            image = samples.image.clamp(0, 1).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().numpy()
            return Picture((_bytes(image), _bytes(self.colours(samples.target, samples) * mask)), ("image", "target"))
        import matplotlib  # late: only who draws needs it

        prediction = self.predict(output).detach()
        level = self.error_level(prediction, samples.target).clamp(0, 1).cpu().numpy()
        errors = matplotlib.colormaps["magma"](level)[..., :3]
        rows = _bytes(self.colours(prediction, samples) * mask), _bytes(errors * mask)
        return Picture(rows, ("prediction", "error"), self.error_note)


def _maps(output: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """The maps of all stacks."""
    return [output] if isinstance(output, Tensor) else output


def last(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The map that counts."""
    return _maps(output)[-1]


def _bytes(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.round(255 * np.clip(levels, 0, 1)).astype(np.uint8)
