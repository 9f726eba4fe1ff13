"""Pictures of samples and of predictions, as (H, W, 3) uint8 arrays."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv.batch import Batch
from hgenv.datasets.photos import Photos
from hgenv.env import DataGenEnv
from hgenv.learning.metrics import angles

Picture = NDArray[np.uint8]

WORST = 60.0  # degrees that get the last colour of an error map


def has_pictures(batch: Batch) -> bool:
    """Whether samples are images with normals."""
    return batch.image.dim() == 4 and batch.target.dim() == 4 and batch.target.shape[1] == 3


def samples(env: DataGenEnv, beta: Tensor, count: int) -> Batch:
    """`count` samples at `beta`, for the same sample seeds whoever asks."""
    return env.generator(beta.expand(count, -1), torch.arange(count, device=env.device))


def gallery(batch: Batch) -> Picture:
    """Two rows: images, and their normals."""
    return _upscaled(_grid([_greys(batch.image), _normals(batch.target, batch.mask)]))


def error_maps(env: DataGenEnv) -> Picture:
    """Four rows for the validation photos (figure 5): photo, true normals, predicted normals, angle between the two."""
    learner: Any = env.learner
    truth = env.validation.batch
    if isinstance(env.validation, Photos):
        truth = truth[: len(env.validation)]  # without further views of them
    with torch.no_grad():
        prediction = learner.predict(env.state.weights, truth.image)
        errors = angles(prediction, truth.target, dim=1).rad2deg()
    colours = matplotlib.colormaps["magma"](errors.cpu().numpy() / WORST)[..., :3] * _mask(truth.mask)
    rows = _greys(truth.image), _normals(truth.target, truth.mask), _normals(prediction, truth.mask), colours
    return _upscaled(_grid(list(rows)))


def _greys(images: Tensor) -> NDArray[np.floating]:
    return images[:, :1].clamp(0, 1).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().numpy()


def _normals(normals: Tensor, mask: Tensor) -> NDArray[np.floating]:
    return (normals.permute(0, 2, 3, 1).cpu().numpy() + 1) / 2 * _mask(mask)


def _mask(mask: Tensor) -> NDArray[np.floating]:
    return mask.permute(0, 2, 3, 1).cpu().numpy()


def _grid(rows: list[NDArray[np.floating]]) -> NDArray[np.floating]:
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def _upscaled(picture: NDArray[np.floating]) -> Picture:
    """As bytes, narrow pictures at twice their size."""
    levels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    times = 2 if picture.shape[1] < 1000 else 1
    return levels.repeat(times, axis=0).repeat(times, axis=1)
