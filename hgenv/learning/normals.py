"""Surface normals from a grey image: a stacked hourglass, its training loss and its validation loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hgenv.batch import Batch
from hgenv.learning.dense import DenseLearner
from hgenv.learning.metrics import angles, score_normals
from hgenv.learning.unroll import Weights

if TYPE_CHECKING:
    from hgenv.datasets.photos import Photos


class NormalsLearner(DenseLearner):
    """Predicts the normal of every pixel; implements `hgenv.learning.unroll.Learner`, see `DenseLearner`.

    Images are (B, 1, S, S), targets (B, 3, S, S) unit normals inside the mask and zero outside, masks (B, 1, S, S).
    """

    max_loss = math.pi
    inputs, outputs = 1, 3

    def training_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """1 - cosine of the angle between prediction and target, averaged over mask pixels of the batch and stacks."""
        image, target, mask = batch.map(self._here).tensors
        maps = self.maps(weights, image)
        errors = [1 - (_unit_vectors(m) * target).sum(1, keepdim=True) for m in maps]
        # A mask of nothing has loss zero: it cannot hold less than one pixel otherwise.
        return (mask * sum(errors)).sum() / (len(maps) * mask.sum().clamp(min=1))

    def validation_loss(self, weights: Weights, photos: Photos) -> Tensor:
        """Mean angle error of the last stack in radians at network resolution, over the valid pixels of all views."""
        image, target, mask = photos.batch.map(self._here).tensors
        errors = angles(self.predict(weights, image), target, dim=1)[:, None]
        return (mask * errors).sum() / mask.sum().clamp(min=1)

    def metrics(self, weights: Weights, photos: Photos) -> dict[str, float]:
        """Metrics of the paper's appendix A.1 over the valid pixels of all photos, at native resolution."""
        with torch.no_grad():
            return score_normals(self.predict(weights, photos.batch.image[: len(photos)]), photos)

    def predict(self, weights: Weights, images: Tensor) -> Tensor:
        """Unit normals, (N, 3, S, S), of (N, 1, S, S) images, by the last stack."""
        return _unit_vectors(self.maps(weights, images)[-1])


def _unit_vectors(maps: Tensor) -> Tensor:
    """(B, 3, H, W) divided by their lengths over the channels; 1e-8 under the root keeps the origin harmless."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-8).rsqrt()
