"""Surface normals from a grey image, with the metrics of the paper's appendix A.1.

Figures are taken at the photos' native resolution, over the pixels with a known normal, pooled over all photos (so that
a large photo counts more than a small one); beside them stands the mean of each object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hgenv.samples import DenseSamples

from .dense import DenseTask, last
from .task import Metric

if TYPE_CHECKING:
    from hgenv.datasets.photos import NativeTruth, Photos

THRESHOLDS = (11.25, 22.5, 30.0)  # degrees
WORST_DEGREES = 60.0  # what gets the last colour of an error map


@dataclass(frozen=True)
class NormalsTask(DenseTask):
    """The normal of every pixel. Maps are vectors of any length; they count as their directions.

    Images are (B, 1, S, S), targets (B, 3, S, S) unit normals inside the mask and zero outside, masks (B, 1, S, S).
    """

    inputs = 1
    outputs = 3
    max_loss = math.pi
    metrics = (
        Metric("mean_degrees", "mean (°)", "°"),
        Metric("median_degrees", "median (°)", "°"),
        *(Metric(f"within_{t:g}", f"≤ {t:g}° (%)", "%", "max") for t in THRESHOLDS),
        Metric("mse_radians2", "MSE (rad²)", "rad²"),
    )
    error_note = f"Error: black none, white from {WORST_DEGREES:g} degrees on."

    def pixel_loss(self, maps: Tensor, target: Tensor) -> Tensor:
        """1 - cosine of the angle between prediction and target."""
        return 1 - (unit_vectors(maps) * target).sum(1, keepdim=True)

    def validation_loss(self, output: Any, data: Photos) -> Tensor:
        """Mean angle error of the last map in radians at network resolution, over the valid pixels of all photos."""
        samples = data.samples
        errors = angles(self.predict(output), samples.target, dim=1)[:, None]
        return (samples.mask * errors).sum() / samples.mask.sum().clamp(min=1)

    def score(self, output: Any, data: Photos) -> dict[str, float]:
        """`normal_metrics` over the valid pixels of all photos at native resolution, `mean_degrees/<object>`."""
        return score_normals(self.predict(output), data)

    def predict(self, output: Any) -> Tensor:
        """Unit normals, (B, 3, S, S), of the last map."""
        return unit_vectors(last(output))

    def colours(self, targets: Tensor, truth: DenseSamples) -> NDArray[np.floating]:
        """Red, green and blue are x, y and z, from -1 to 1."""
        return (targets.permute(0, 2, 3, 1).cpu().numpy() + 1) / 2

    def error_level(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Angles, 1 being `WORST_DEGREES`."""
        return angles(prediction, target, dim=1).rad2deg() / WORST_DEGREES


def unit_vectors(maps: Tensor) -> Tensor:
    """(B, 3, H, W) divided by their lengths over the channels; 1e-8 under the root keeps the origin harmless."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-8).rsqrt()


def angles(prediction: Tensor, truth: Tensor, dim: int = -3) -> Tensor:
    """Angles between vectors, by atan2(|a x b|, a . b): sharp at 0 and pi, where the arc cosine loses half the digits.

    Differentiable, with finite gradients everywhere. A vector of length zero has no direction and counts as pi / 2 off.

    Args:
        prediction: Vectors along `dim`, of any length; (..., 3, h, w) by default.
        truth: The same; what is computed has the predictions' precision.
        dim: The dimension of size 3.

    Returns:
        Radians, 0..pi; the shape without `dim`.
    """
    truth = truth.to(prediction.dtype)  # unlike the rest, the cross product does not do that by itself
    # vector_norm over a leading dimension takes sixty times as long as this.
    square = torch.linalg.cross(prediction, truth, dim=dim).square().sum(dim)
    parallel = square == 0
    sine = torch.where(parallel, 0, torch.where(parallel, 1, square).sqrt())
    cosine = (prediction * truth).sum(dim)
    undefined = (sine == 0) & (cosine == 0)
    return torch.atan2(torch.where(undefined, 1, sine), cosine)


def normal_metrics(angles_in_radians: Tensor) -> dict[str, float]:
    """The figures of appendix A.1 over M angle errors, (M,) in radians.

    Returns:
        `within_11.25`, `within_22.5`, `within_30`: percent of the errors that are at most that many degrees;
        `mean_degrees`, `median_degrees`; `mse_radians2`, the mean squared error.

    Raises:
        ValueError: There are no errors to take figures of.
    """
    radians = angles_in_radians.detach().double().cpu().numpy().ravel()
    if not radians.size:
        raise ValueError("there are no pixels to take metrics of: at least one angle is needed")
    degrees = np.degrees(radians)
    return {f"within_{t:g}": float(100 * np.mean(degrees <= t)) for t in THRESHOLDS} | {
        "mean_degrees": float(degrees.mean()),
        "median_degrees": float(np.median(degrees)),
        "mse_radians2": float(np.mean(radians**2)),
    }


@torch.no_grad()
def score_normals(predictions: Tensor, photos: Photos) -> dict[str, float]:
    """Metrics of predicted normals at the photos' native resolution over their valid pixels.

    Args:
        predictions: (N, 3, S, S) normals as the network sees the photos; they need not have unit length.
        photos: The N photos, on the same device.

    Returns:
        The keys of `normal_metrics`, pooled over all pixels of all photos, and `mean_degrees/<name>` of each object.

    Raises:
        ValueError: There is not one prediction for each photo.
    """
    needed = photos.samples.target.shape
    if predictions.shape != needed:
        raise ValueError(
            f"predictions have shape {tuple(predictions.shape)}, but the {len(photos)} photos of {photos.label} need "
            f"{tuple(needed)}"
        )
    errors = [_errors(p, t) for p, t in zip(predictions, photos.native, strict=True)]
    means = {f"mean_degrees/{n}": float(e.mean().rad2deg()) for n, e in zip(photos.names, errors, strict=True)}
    return normal_metrics(torch.cat(errors)) | means


@torch.no_grad()
def error_map(prediction: Tensor, truth: NativeTruth) -> Tensor:
    """Angle errors in degrees at native resolution, (3, S, S) to (h, w) float64; NaN where the normal is not known."""
    errors = torch.full(truth.mask.shape, torch.nan, dtype=torch.float64, device=truth.mask.device)
    errors[truth.mask] = _errors(prediction, truth).rad2deg()
    return errors


def _errors(prediction: Tensor, truth: NativeTruth) -> Tensor:
    """Angle errors in radians at the M valid native pixels, (3, S, S) to (M,) float64.

    Predictions are interpolated bilinearly between the centres of the network's pixels, and constant beyond the
    outermost ones.
    """
    position, normal = truth.valid
    sampled = functional.grid_sample(
        prediction.to(position.dtype)[None],
        position[None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, :, 0]
    return angles(sampled, normal, dim=0).double()
