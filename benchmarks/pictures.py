"""Pictures of samples and of predictions: which ones, and how they become one image. What they show is the task's."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from hgenv.env import DataGenEnv
from hgenv.samples import Samples
from hgenv.tasks import Picture

from . import files

Pixels = NDArray[np.uint8]

MOST = 10  # validation samples in a picture
LAYOUT = "hgenv"  # name of the text in a PNG that says where its rows and columns are


def samples(env: DataGenEnv, beta: Tensor, count: int, size: int | None = None) -> Samples:
    """`count` samples at `beta`, for the same sample seeds whoever asks.

    Args:
        env: What makes them.
        beta: (d,) a valid vector.
        count: How many.
        size: Edge in pixels, where the generator can make them of any size; by default as the network sees them.

    Raises:
        RenderError: One of them cannot be made.
    """
    generator = env.generator
    if size is not None and hasattr(generator, "resized"):
        generator = generator.resized(size)
    return generator(beta.expand(count, -1), torch.arange(count, device=env.device))


def gallery(env: DataGenEnv, beta: Tensor, count: int, size: int | None = None) -> Picture | None:
    """Samples at `beta`, see `samples`; None where there is nothing to look at."""
    return env.task.picture(samples(env, beta, count, size))


def validation_images(env: DataGenEnv) -> Picture | None:
    """Validation samples and their truth; None where there is nothing to look at."""
    return env.task.picture(_shown(env))


def error_maps(env: DataGenEnv) -> Picture | None:
    """What the present weights say about the samples in `validation_images`, and how wrong that is."""
    shown = _shown(env)
    with torch.no_grad():
        return env.task.picture(shown, env.learner.output(env.state.weights, shown))


def arrange(picture: Picture, tile: int | None = None) -> Pixels:
    """The rows of a picture as one image, (rows x H, columns x W, 3); `tile` is another height for its parts."""
    rows = picture.rows if tile is None else [np.stack([resized(part, tile) for part in row]) for row in picture.rows]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def resized(image: Pixels, height: int) -> Pixels:
    """An image (H, W, 3) at another height, smooth whichever way."""
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    way = Image.Resampling.LANCZOS if height < image.shape[0] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), way))


def save(picture: Picture, path: Path) -> None:
    """Write a picture to a PNG file, pixel by pixel, with what is needed to take it apart again."""
    layout = {"rows": len(picture.rows), "columns": len(picture.rows[0])}
    text = PngImagePlugin.PngInfo()
    text.add_itxt(LAYOUT, json.dumps(layout | {"titles": picture.titles, "note": picture.note}))
    data = BytesIO()
    Image.fromarray(arrange(picture)).save(data, "png", pnginfo=text, optimize=True)
    files.write(path, data.getvalue())


def load(path: Path) -> Picture:
    """Read it again.

    Raises:
        ValueError: The file is no picture that `save` wrote.
    """
    try:
        with files.readable(path) as data, Image.open(data) as file:
            layout = json.loads(getattr(file, "text", {})[LAYOUT])
            pixels = np.asarray(file.convert("RGB"))
        rows, columns = layout["rows"], layout["columns"]
        height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
        grid = pixels.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
        return Picture(tuple(grid), tuple(layout["titles"]), layout["note"])
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no picture that benchmarks.pictures wrote ({error!r})") from None


def _shown(env: DataGenEnv) -> Samples:
    """The validation samples that a picture has room for."""
    found = env.validation.samples
    if len(found) > MOST:
        found = found[torch.linspace(0, len(found) - 1, MOST).long()]
    return found
