"""A renderer that knows nothing of hgenv: a digit, drawn with Pillow in one of the fonts that come with matplotlib."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FINE = 64  # pixels along an edge of what is drawn
COARSE = 8  # pixels along an edge of what comes out
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that is `size` pixels high."""
    return ImageFont.truetype(str(FONTS / f"{name}.ttf"), size)


def digit(parameters: dict, seed: int) -> dict:
    """An image of a digit, and which one it is."""
    p = parameters
    paper = Image.new("L", (FINE, FINE))
    pen = ImageDraw.Draw(paper)
    letters = font(p["font"], max(8, round(FINE * p["size"])))
    middle = (FINE / 2, FINE / 2)
    pen.text(middle, str(p["digit"]), fill=255, font=letters, anchor="mm", stroke_width=max(0, round(p["width"])))
    turn = np.radians(p["turn"])
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # from the image to the letter
    back = back @ np.array([[1 / p["stretch"], p["slant"]], [0, 1]])
    offset = middle - back @ (middle + FINE * p["shift"])
    paper = paper.transform(paper.size, Image.Transform.AFFINE, (*back[0], offset[0], *back[1], offset[1]))
    image = np.asarray(paper, dtype=np.float32).reshape(COARSE, FINE // COARSE, COARSE, -1).mean((1, 3)) / 255
    noise = np.random.default_rng(seed).normal(size=image.shape)
    return {"image": np.clip(image * p["ink"] + p["noise"] * noise, 0, 1)[None], "label": int(p["digit"])}
