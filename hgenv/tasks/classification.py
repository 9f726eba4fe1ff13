"""Which class an image has, or each of its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv.problem import PartError, SampleData
from hgenv.samples import LabelledImages, SamplesError

from .images import PLAIN, RIGHT, WRONG, check_images, enlarged, grey_or_colours, outputs, tiles
from .task import Metric, Picture, Task

FLOOR = 1e-3  # share of the uniform distribution in L


@dataclass(frozen=True)
class _LabelTask(Task):
    """Cross-entropy of labels, of images or of pixels; see the two tasks."""

    classes: Sequence[str] | int
    ignore: int = -1

    pixels = False

    def __post_init__(self) -> None:
        """Name the classes, and bound L."""
        names = map(str, range(self.classes) if isinstance(self.classes, int) else self.classes)
        object.__setattr__(self, "classes", tuple(names))
        count = len(self.names)
        if count < 2 or len(set(self.names)) < count:
            raise ValueError(f"classes must be at least two names, each once, or how many, not {self.names}")
        if 0 <= self.ignore < count:
            raise ValueError(f"ignore={self.ignore} is the number of the class {self.names[self.ignore]!r}; choose -1")
        object.__setattr__(self, "max_loss", math.log(count / FLOOR))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in the order of their numbers."""
        assert isinstance(self.classes, tuple)
        return self.classes

    def check(self, samples: Any, who: str) -> None:
        """Make sure that these are images with labels of the classes.

        Raises:
            SamplesError: They are not.
        """
        check_images(self, samples, LabelledImages, who)
        image, label = samples.image, samples.label
        shape = (len(image), *image.shape[2:]) if self.pixels else (len(image),)
        if label.shape != shape or label.dtype != torch.int64:
            raise SamplesError(
                f"{who}: the field 'label' must be {shape} int64, not {tuple(label.shape)} {label.dtype}; use long()"
            )
        wrong = (label != self.ignore) & ((label < 0) | (label >= len(self.names)))
        if not label.is_meta and wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise SamplesError(
                f"{who}: label[{row}] has {int(label[wrong][0])}, but there are {len(self.names)} classes, 0 to "
                f"{len(self.names) - 1}, and {self.ignore} for what is not known"
            )

    def training_loss(self, output: Any, samples: LabelledImages) -> Tensor:
        """Sum of the cross-entropies of each sample's labels, the mean of all maps."""
        maps = [self._logits(x, samples.label) for x in outputs(output, self)]
        known, label = self._known(samples.label)
        total = sum(-torch.where(known, _of(torch.log_softmax(x, 1), label), 0) for x in maps)
        assert isinstance(total, Tensor)
        return total.reshape(len(label), -1).sum(1) / len(maps)

    def sizes(self, samples: LabelledImages) -> Tensor:
        """Known labels of each sample."""
        known, _ = self._known(samples.label)
        return known.reshape(len(known), -1).sum(1).to(samples.image.dtype)

    def validation_loss(self, output: Any, data: SampleData) -> Tensor:
        """Mean over all known labels, see the class."""
        samples = data.samples
        assert isinstance(samples, LabelledImages)
        known, label = self._known(samples.label)
        probability = _of(torch.softmax(self._last(output, samples), 1), label)
        losses = -((1 - FLOOR) * probability + FLOOR / len(self.names)).log()
        return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)

    def _last(self, output: Any, samples: LabelledImages) -> Tensor:
        return self._logits(outputs(output, self)[-1], samples.label)

    def _logits(self, x: Tensor, label: Tensor) -> Tensor:
        expected = (len(label), len(self.names), *label.shape[1:])
        if x.shape != expected:
            cure = "its last layer must have as many channels, and its maps the labels' size" if self.pixels else ""
            raise PartError(
                f"the network gives {tuple(x.shape)}, and {type(self).__name__} with {len(self.names)} classes needs "
                f"{expected}: {cure or 'replace its last layer'}"
            )
        return x

    def _known(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Which labels are known, and the labels, those that are not being 0."""
        known = label != self.ignore
        return known, torch.where(known, label, 0)


@dataclass(frozen=True)
class ClassificationTask(_LabelTask):
    """The class of an image. The output is (B, classes), logits.

    The training loss is the cross-entropy. L is that of the predicted probabilities with a thousandth of the uniform
    ones mixed in: a label that the network is wrong about costs at most log(1000 classes), instead of infinitely much.

    Attributes:
        classes: Their names, or how many there are.
        ignore: The label of what is not known; it counts nowhere.

    Raises:
        ValueError: There are fewer than two classes, or `ignore` is one of them.
    """

    metrics = (
        Metric("accuracy", "accuracy (%)", "%", "max"),
        Metric("cross_entropy", "cross-entropy (nat)", "nat"),
    )

    def score(self, output: Any, data: SampleData) -> dict[str, float]:
        """Share of images whose class is right, `accuracy/<class>` of those of a class, and the cross-entropy."""
        samples = data.samples
        assert isinstance(samples, LabelledImages)
        logits, label = self._last(output, samples).detach(), samples.label
        right = (logits.argmax(1) == label).double()
        found = {"accuracy": _percent(right[label != self.ignore]), "cross_entropy": _cross_entropy(self, logits, data)}
        own = {f"accuracy/{name}": right[label == i] for i, name in enumerate(self.names)}
        return found | {name: _percent(part) for name, part in own.items() if len(part)}

    def picture(self, samples: LabelledImages, output: Any = None) -> Picture:
        """Images and classes; with the output for them, predictions."""
        image = enlarged(grey_or_colours(samples.image))
        shape = image.shape[1:3]
        known = [n != self.ignore for n in samples.label.tolist()]
        truth = [self.names[n] if k else "?" for n, k in zip(samples.label.tolist(), known, strict=True)]
        if output is None:
            return Picture((image, tiles(truth, [PLAIN] * len(truth), shape)), ("image", "class"))
        probability, best = torch.softmax(self._last(output, samples).detach().double(), 1).max(1)
        said = [self.names[n] for n in best.tolist()]
        words = [f"{name}\n{100 * p:.0f} %" for name, p in zip(said, probability.tolist(), strict=True)]
        right = zip(said, truth, known, strict=True)
        grounds = [(RIGHT if a == b else WRONG) if k else PLAIN for a, b, k in right]
        return Picture((tiles(words, grounds, shape),), ("prediction",), "Green: the class is right, red: wrong.")


@dataclass(frozen=True)
class SegmentationTask(_LabelTask):
    """The class of every pixel. The output is (B, classes, H, W), logits of the labels' size, or several such.

    The training loss is the cross-entropy. L is that of the predicted probabilities with a thousandth of the uniform
    ones mixed in: a label that the network is wrong about costs at most log(1000 classes), instead of infinitely much.

    Attributes:
        classes: Their names, or how many there are.
        ignore: The label of what is not known; it counts nowhere. 255 is PASCAL VOC's.

    Raises:
        ValueError: There are fewer than two classes, or `ignore` is one of them.
    """

    ignore: int = 255

    pixels = True
    metrics = (
        Metric("mean_iou", "mean IoU (%)", "%", "max"),
        Metric("pixel_accuracy", "right pixels (%)", "%", "max"),
        Metric("cross_entropy", "cross-entropy (nat)", "nat"),
    )

    def score(self, output: Any, data: SampleData) -> dict[str, float]:
        """Figures over the known pixels of all images.

        `mean_iou` is the mean, over the classes that occur in truth or prediction, of `mean_iou/<class>`: pixels that
        are the class's in both, as a share of those that are in either.
        """
        samples = data.samples
        assert isinstance(samples, LabelledImages)
        logits, label, count = self._last(output, samples).detach(), samples.label, len(self.names)
        known = label != self.ignore
        pairs = label[known] * count + logits.argmax(1)[known]
        table = torch.bincount(pairs, minlength=count**2).reshape(count, count).cpu().double()
        both, either = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
        own = {self.names[i]: float(100 * both[i] / either[i]) for i in range(count) if either[i] > 0}
        return {
            "mean_iou": float(np.mean(list(own.values()))) if own else 0.0,
            "pixel_accuracy": float(100 * both.sum() / table.sum().clamp(min=1)),
            "cross_entropy": _cross_entropy(self, logits, data),
        } | {f"mean_iou/{name}": value for name, value in own.items()}

    def picture(self, samples: LabelledImages, output: Any = None) -> Picture:
        """Images and labels; with the output for them, predictions and errors."""
        truth = samples.label
        if output is None:
            return Picture((grey_or_colours(samples.image), self._colours(truth)), ("image", "label"))
        said = self._last(output, samples).detach().argmax(1)
        errors = torch.where(truth == self.ignore, 127, torch.where(said == truth, 0, 255)).byte().cpu().numpy()
        return Picture(
            (self._colours(said), np.stack([errors] * 3, -1)),
            ("prediction", "error"),
            "Error: black right, white wrong, grey not known.",
        )

    def _colours(self, label: Tensor) -> NDArray[np.uint8]:
        """A colour for each class; grey where it is not known."""
        import matplotlib  # late: only who draws needs it

        pairs = np.array(matplotlib.colormaps["tab20"].colors).reshape(10, 2, 3)  # type: ignore[attr-defined]
        # The strong one of each pair first, so that neighbours differ.
        colours = pairs.transpose(1, 0, 2).reshape(20, 3)[np.arange(len(self.names)) % 20]
        known, number = self._known(label)
        shown = np.where(known.cpu().numpy()[..., None], colours[number.cpu().numpy()], 0.5)
        found: NDArray[np.uint8] = np.round(255 * shown).astype(np.uint8)
        return found


def _of(values: Tensor, label: Tensor) -> Tensor:
    """Those of the labels' classes: (B, classes, ...) to (B, ...)."""
    return values.gather(1, label[:, None])[:, 0]


def _percent(right: Tensor) -> float:
    return float(100 * right.mean()) if len(right) else 0.0


def _cross_entropy(task: _LabelTask, logits: Tensor, data: SampleData) -> float:
    samples = data.samples
    assert isinstance(samples, LabelledImages)
    return float(task.training_loss(logits, samples).sum() / task.sizes(samples).sum().clamp(min=1))
