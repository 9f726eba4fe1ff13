"""The frame that all renderers share.

View coordinates: the camera is orthographic and looks down -z; x points right, y up, z toward the camera. A frame of
S x S pixels shows [-1, 1] x [-1, 1]; pixel (row i, column j) is sampled at x = (2j + 1) / S - 1, y = 1 - (2i + 1) / S.
A view unit is half of the frame's edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the frame's edge that the longer side of an object's bounding rectangle takes; photos are cropped alike.
FIT = 0.9


def check_size(size: int) -> int:
    """A frame's edge in pixels.

    Raises:
        ValueError: It is less than a pixel.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    return size


def pixel_centres(size: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """x and y of every pixel, each (size * size,) float32, row by row from the top left."""
    line = (2 * torch.arange(size, device=device, dtype=torch.float32) + 1) / size - 1
    return line.repeat(size), (-line).repeat_interleave(size)
