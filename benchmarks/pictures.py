"""Pictures of samples and of predictions, as (H, W, 3) uint8 arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgenv.batch import Batch
from hgenv.datasets.photos import Photos
from hgenv.env import DataGenEnv
from hgenv.learning.metrics import angles

Picture = NDArray[np.uint8]

# What gets the last colour of an error map.
WORST_DEGREES = 60.0
WORST_RELATIVE = 0.1
MOST = 10  # validation images in a picture of errors


def has_pictures(batch: Batch) -> bool:
    """Whether samples are images with normals (three channels) or depth (one)."""
    return batch.image.dim() == 4 and batch.target.dim() == 4 and batch.target.shape[1] in (1, 3)


def has_error_maps(env: DataGenEnv) -> bool:
    """Whether there are pictures of predictions on the validation data."""
    return has_pictures(env.validation.batch) and hasattr(env.learner, "predict")


def samples(env: DataGenEnv, beta: Tensor, count: int) -> Batch:
    """`count` samples at `beta`, for the same sample seeds whoever asks."""
    return env.generator(beta.expand(count, -1), torch.arange(count, device=env.device))


def gallery(batch: Batch) -> Picture:
    """Two rows: images, and their normals or depth."""
    return _upscaled(_grid([_colours(batch.image), _targets(batch.target, batch)]))


def validation_images(env: DataGenEnv) -> Picture:
    """Two rows: validation images, and their true normals or depth."""
    return gallery(_shown(env))


def error_maps(env: DataGenEnv) -> Picture:
    """Two rows below `validation_images` (figure 5): prediction, and its error (an angle, or relative)."""
    learner: Any = env.learner
    truth = _shown(env)
    with torch.no_grad():
        prediction = learner.predict(env.state.weights, truth.image)
    if truth.target.shape[1] == 3:
        errors = angles(prediction, truth.target, dim=1).rad2deg() / WORST_DEGREES
    else:
        errors = ((prediction - truth.target).abs() / truth.target.clamp(min=1e-6))[:, 0] / WORST_RELATIVE
    colours = matplotlib.colormaps["magma"](errors.cpu().numpy())[..., :3] * _mask(truth.mask)
    return _upscaled(_grid([_targets(prediction, truth), colours]))


def save(picture: Picture, path: Path) -> None:
    """Write a picture to a PNG file."""
    matplotlib.image.imsave(path, picture)


def load(path: Path) -> Picture:
    """Read it again."""
    levels = matplotlib.image.imread(path)[..., :3]
    return np.round(255 * levels).astype(np.uint8)


def _shown(env: DataGenEnv) -> Batch:
    """The validation images that a picture has room for."""
    batch = env.validation.batch
    if isinstance(env.validation, Photos):
        batch = batch[: len(env.validation)]  # without further views of them
    if len(batch) > MOST:
        batch = batch[torch.linspace(0, len(batch) - 1, MOST).long()]
    return batch


def _colours(images: Tensor) -> NDArray[np.floating]:
    """Images of one channel in grey, of three in colour."""
    return images.clamp(0, 1).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().numpy()


def _targets(targets: Tensor, truth: Batch) -> NDArray[np.floating]:
    """Normals as colours; depth from bright, near, to dark, far, over the range of each true one."""
    mask = _mask(truth.mask)
    if targets.shape[1] == 3:
        return (targets.permute(0, 2, 3, 1).cpu().numpy() + 1) / 2 * mask
    inside = truth.mask > 0
    near = torch.where(inside, truth.target, torch.inf).amin((1, 2, 3), keepdim=True)
    far = torch.where(inside, truth.target, -torch.inf).amax((1, 2, 3), keepdim=True)
    level = ((far - targets) / (far - near).clamp(min=1e-6))[:, 0].clamp(0, 1).nan_to_num(0)
    return matplotlib.colormaps["viridis"](level.cpu().numpy())[..., :3] * mask


def _mask(mask: Tensor) -> NDArray[np.floating]:
    return mask.permute(0, 2, 3, 1).cpu().numpy()


def _grid(rows: list[NDArray[np.floating]]) -> NDArray[np.floating]:
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def _upscaled(picture: NDArray[np.floating]) -> Picture:
    """As bytes, narrow pictures at twice their size."""
    levels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    times = 2 if picture.shape[1] < 1000 else 1
    return levels.repeat(times, axis=0).repeat(times, axis=1)
