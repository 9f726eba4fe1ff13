"""Where named points are in an image."""

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
from hgenv.samples import MARGIN, KeypointSamples, SamplesError

from .images import check_images, enlarged, grey_or_colours, outputs
from .task import Metric, Picture, Task

WITHIN = (0.05, 0.1)  # shares of the frame's edge
BEYOND = 2.0  # half frames from the middle that a prediction may lie
TINY = 1e-4  # half frames; below this a distance is a parabola, so that its derivative stays finite


@dataclass(frozen=True)
class KeypointTask(Task):
    """Points of an object, on `KeypointSamples`.

    The output are coordinates, (B, J, 2) or (B, 2 J), in half frames; or heatmaps, (B, J, h, w), whose softmax has its
    mean at the point (Sun et al., "Integral human pose regression", ECCV 2018). The training loss is half the squared
    distance. L is the mean distance. Both are over the visible points, in half frames.

    Attributes:
        points: Their names, or how many there are.

    Raises:
        ValueError: There are none.
    """

    points: Sequence[str] | int

    max_loss = math.sqrt(2) * (BEYOND + 1)
    metrics = (
        *(Metric(f"pck_{100 * w:g}", f"PCK, within {w:.0%} of the frame (%)", "%", "max") for w in reversed(WITHIN)),
        Metric("distance", "distance (% of the frame)", "%"),
    )

    def __post_init__(self) -> None:
        """Name the points."""
        names = map(str, range(self.points) if isinstance(self.points, int) else self.points)
        object.__setattr__(self, "points", tuple(names))
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"points must be names, each once, or how many there are, not {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the points, in order."""
        assert isinstance(self.points, tuple)
        return self.points

    def check(self, samples: Any, who: str) -> None:
        """Make sure that these are square images with so many points.

        Raises:
            SamplesError: They are not.
        """
        check_images(self, samples, KeypointSamples, who)
        if samples.image.shape[2] != samples.image.shape[3]:
            raise SamplesError(f"{who}: the field 'image' must be square, not {tuple(samples.image.shape)}")
        count = (len(samples), len(self.names))
        for name, x, shape in (("point", samples.point, (*count, 2)), ("visible", samples.visible, count)):
            if x.shape != shape or not x.is_floating_point():
                raise SamplesError(
                    f"{who}: the field {name!r} must be {shape} floating-point, not {tuple(x.shape)} {x.dtype}"
                )
        near = (samples.visible > -MARGIN) & (samples.visible < 1 + MARGIN)
        if not near.is_meta and not near.all():
            raise SamplesError(f"{who}: the field 'visible' must be 0 or 1, a point that counts or not")

    def training_loss(self, output: Any, samples: KeypointSamples) -> Tensor:
        """Sum over the visible points of each sample, the mean of all outputs."""
        found = [self._coordinates(x, samples) for x in outputs(output, self)]
        square = sum(((x - samples.point) ** 2).sum(2) for x in found)
        assert isinstance(square, Tensor)
        return (samples.visible * square).sum(1) / (2 * len(found))

    def sizes(self, samples: KeypointSamples) -> Tensor:
        """Visible points of each sample."""
        return samples.visible.sum(1)

    def validation_loss(self, output: Any, data: SampleData) -> Tensor:
        """Mean distance of the last output from all visible points, in half frames."""
        samples = _points(data)
        square = ((self.predict(output, samples) - samples.point) ** 2).sum(2)
        distance = (square + TINY**2).sqrt() - TINY
        return (samples.visible * distance).sum() / samples.visible.sum().clamp(min=1)

    def score(self, output: Any, data: SampleData) -> dict[str, float]:
        """Share of the visible points that are near enough, and of each, `pck_10/<point>`; the mean distance."""
        samples = _points(data)
        seen = samples.visible > 0.5
        frames = (self.predict(output, samples).detach() - samples.point).double().norm(dim=2) / 2
        found = {f"pck_{100 * w:g}": _percent(frames[seen] <= w) for w in WITHIN}
        found["distance"] = 100 * float(frames[seen].mean()) if seen.any() else 0.0
        primary, width = self.metrics[0].name, max(WITHIN)
        own = {name: frames[:, i][seen[:, i]] <= width for i, name in enumerate(self.names)}
        return found | {f"{primary}/{name}": _percent(near) for name, near in own.items() if len(near)}

    def predict(self, output: Any, samples: KeypointSamples) -> Tensor:
        """Coordinates, (B, J, 2), of the last output; at most two half frames from the middle."""
        return self._coordinates(outputs(output, self)[-1], samples).clamp(-BEYOND, BEYOND)

    def picture(self, samples: KeypointSamples, output: Any = None) -> Picture:
        """Images with the true points; with the output for them, the predicted ones, joined with the true ones."""
        image = enlarged(grey_or_colours(samples.image))
        truth, seen = samples.point.detach().cpu().double().numpy(), (samples.visible > 0.5).cpu().numpy()
        if output is None:
            return Picture((image, _drawn(image, truth, seen, None)), ("image", "points"), "Each point has its colour.")
        said = self.predict(output, samples).detach().cpu().double().numpy()
        note = "Dots: predictions. White lines lead to the true points."
        return Picture((_drawn(image, said, seen, truth),), ("prediction",), note)

    def _coordinates(self, x: Tensor, samples: KeypointSamples) -> Tensor:
        """(B, J, 2) of coordinates, or of heatmaps."""
        batch, count = len(samples), len(self.names)
        if x.shape in ((batch, count, 2), (batch, 2 * count)):
            return x.reshape(batch, count, 2)
        if x.dim() != 4 or x.shape[:2] != (batch, count):
            raise PartError(
                f"the network gives {tuple(x.shape)}, and KeypointTask with {count} points needs coordinates "
                f"({batch}, {count}, 2) or ({batch}, {2 * count}), or heatmaps ({batch}, {count}, h, w): replace its "
                "last layer"
            )
        height, width = x.shape[2:]
        share = torch.softmax(x.flatten(2), 2).unflatten(2, (height, width))
        # Pixel j's centre is at (2 j + 1) / width - 1.
        at_x, at_y = ((2 * torch.arange(n, dtype=x.dtype, device=x.device) + 1) / n - 1 for n in (width, height))
        return torch.stack([(share.sum(2) * at_x).sum(2), (share.sum(3) * at_y).sum(2)], 2)


def _points(data: SampleData) -> KeypointSamples:
    assert isinstance(data.samples, KeypointSamples)
    return data.samples


def _percent(right: Tensor) -> float:
    return float(100 * right.double().mean()) if right.numel() else 0.0


def _drawn(
    image: NDArray[np.uint8], points: NDArray[np.float64], seen: NDArray[np.bool_], towards: NDArray[np.float64] | None
) -> NDArray[np.uint8]:
    """Images with dots, and lines from these to other points; (B, S, S, 3)."""
    import matplotlib  # late: only who draws needs it
    from PIL import Image, ImageDraw

    edge = image.shape[1]
    radius = max(2, edge // 40)
    colours = [tuple(round(255 * c) for c in rgb) for rgb in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    made = []
    for i, pixels in enumerate(image):
        picture = Image.fromarray(pixels)
        draw = ImageDraw.Draw(picture)
        for j in np.flatnonzero(seen[i]):
            x, y = (points[i, j] + 1) / 2 * edge
            if towards is not None:
                draw.line([x, y, *((towards[i, j] + 1) / 2 * edge)], fill="white", width=max(1, radius // 2))
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colours[j % 10], outline="black")
        made.append(np.asarray(picture))
    return np.stack(made)
