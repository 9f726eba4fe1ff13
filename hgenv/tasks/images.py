"""What tasks on images have in common: checks, and pictures that can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hgenv.problem import PartError
from hgenv.samples import SamplesError

LEGIBLE = 96  # pixels along the shorter edge of a picture that has words or points in it, at least
RIGHT, WRONG, PLAIN = (27, 120, 55), (178, 24, 43), (60, 60, 60)


def check_images(task: Any, samples: Any, kind: type, who: str) -> None:
    """Make sure that these are samples of a kind, with images.

    Raises:
        SamplesError: They are not.
    """
    name = type(task).__name__
    if not isinstance(samples, kind):
        raise SamplesError(f"{who}: {name} needs {kind.__name__}, not {type(samples).__name__}; see hgenv.samples")
    image = samples.image  # type: ignore[attr-defined] # all kinds of this project have one
    if image.dim() != 4 or not image.is_floating_point():
        raise SamplesError(
            f"{who}: the field 'image' must be (B, C, H, W) floating-point, not {tuple(image.shape)} {image.dtype}; "
            "divide bytes by 255"
        )


def outputs(output: Any, task: Any) -> Sequence[Tensor]:
    """What a network puts out: one tensor, or several, the last of which counts.

    Raises:
        PartError: It is neither.
    """
    found = output if isinstance(output, list | tuple) else [output]
    if not found or not all(isinstance(x, Tensor) for x in found):
        kind = type(output).__name__
        has = f" of {', '.join(map(str, output))}" if isinstance(output, dict) else ""
        raise PartError(
            f"the network gives {kind}{has}, and {type(task).__name__} needs a tensor, or a list of them: wrap the "
            "network in a module that returns the one that counts"
        )
    return found


def enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(B, H, W, 3), each pixel repeated until words can be read."""
    factor = max(1, math.ceil(LEGIBLE / min(image.shape[1:3])))
    return image.repeat(factor, 1).repeat(factor, 2)


def grey_or_colours(image: Tensor) -> NDArray[np.uint8]:
    """(B, C, H, W) in 0..1 as (B, H, W, 3); of other than 1 or 3 channels, the mean."""
    image = image.detach() if image.shape[1] in (1, 3) else image.detach().mean(1, keepdim=True)
    shown = image.clamp(0, 1).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().double().numpy()
    found: NDArray[np.uint8] = np.round(255 * shown).astype(np.uint8)
    return found


def tiles(words: Sequence[str], grounds: Sequence[tuple[int, int, int]], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """White words on coloured grounds, (B, H, W, 3); lines that are too long are cut."""
    import matplotlib  # late: only who draws needs it
    from PIL import Image, ImageDraw, ImageFont

    height, width = shape
    font = ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), max(9, min(width // 7, height // 4))
    )
    made = []
    for text, ground in zip(words, grounds, strict=True):
        tile = Image.new("RGB", (width, height), ground)
        draw, lines = ImageDraw.Draw(tile), []
        for line in text.split("\n"):
            cut = line
            while cut and draw.textlength(cut if cut == line else f"{cut}…", font) > width - 4:
                cut = cut[:-1]
            lines.append(cut if cut == line else f"{cut}…")
        draw.multiline_text((width / 2, height / 2), "\n".join(lines), "white", font, anchor="mm", align="center")
        made.append(np.asarray(tile))
    return np.stack(made)
