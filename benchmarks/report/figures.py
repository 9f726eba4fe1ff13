"""The figures of a report, at most three: curves, samples, error maps.

They are drawn twice as large as pages show them. Each covers all environments of the report, side by side. Everything
in them that is no pixel of a sample is drawn by Matplotlib at its final size: nothing is scaled afterwards.
"""

from __future__ import annotations

import base64
import re
import struct
import textwrap
import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from PIL import Image

from hgenv.accounting import PRICED
from hgenv.problem import RenderError
from hgenv.tasks import Picture

from .. import pictures, records
from ..config import RunError, is_ours, make_environment
from ..studies import DATA, Run
from .style import styles
from .tables import by_optimizer, together

CLOCKS = {"total_seconds": "CPU + GPU time (s)", "gpu_seconds": "GPU time (s)", PRICED: "priced time (s)"}
LIMIT = 300 * 1024  # bytes of a file: reports are kept in repositories
WIDTH, DPI = 1800, 200  # pixels across, and how large letters are in them
SMALLER = (200, 180, 160, 140, 120, 100)  # DPI of curves: the first that keeps the limit
FLAT = 1e-6  # share of a figure that is rounding
WINDOW = 16  # of the 400 moments of a curve: single updates scatter more than optimizers differ
PANELS = 3  # beside each other
TILES = {1: 4, 2: 4, 3: 3}  # samples in a row of a picture, by the number of environments beside each other
LABEL = 30  # letters in a line of an axis' label
GAP = 12  # pixels between blocks of pictures
# How dense tasks word the scale of their error maps, and the colours that they draw them in.
SCALE, COLOURS = re.compile(r"(.+): black none, white from (.+) on\."), "magma"
SHARPER = 2  # rendered so many times as large as shown, for smooth edges

Group = tuple[str, list[Run]]


@dataclass(frozen=True)
class Figure:
    """A figure as the bytes of a file.

    Attributes:
        name: Its file, in the folder `figures`.
        caption: What it shows.
        data: The file's bytes.
    """

    name: str
    caption: str
    data: bytes

    @property
    def title(self) -> str:
        """The first sentence of the caption, for who cannot see it."""
        return self.caption.partition(".")[0]

    @property
    def base64(self) -> str:
        """For a page that needs no other file."""
        return f"data:image/{self.name.rpartition('.')[2]};base64,{base64.b64encode(self.data).decode()}"


def curves(groups: Sequence[Group], title: Callable[[Sequence[Run]], str]) -> Canvas:
    """Validation and test figures against computation time, and against GPU time where one ran, by environment.

    Mean and range over the seeds of means over the last `WINDOW` of 400 moments, to where the shortest run ends.
    """
    panels = [(name, runs, clock) for name, runs in groups for clock in _clocks(runs)]
    bands, across = -(-len(panels) // PANELS), min(len(panels), PANELS)
    looks = styles({run.optimizer for _, runs in groups for run in runs})
    height = bands * 4.6 + 0.4 + 0.22 * -(-len(looks) // 3)
    figure = _canvas(WIDTH, round(height * DPI), layout="constrained")
    axes = figure.subplots(2 * bands, across, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    drawn: dict[str, Any] = {}
    for k, (_, runs, clock) in enumerate(panels):
        main = runs[0].primary
        for row, data in enumerate(DATA):
            axis = axes[2 * (k // PANELS) + row][k % PANELS]
            axis.set_visible(True)
            shown = []
            for optimizer, group in by_optimizer(runs):
                colour, line = looks[optimizer]
                time, values = together(group, clock, data, main.name)
                values = _trailing_mean(values)
                shown.append(values)
                (drawn[optimizer],) = axis.plot(time, values.mean(0), color=colour, linestyle=line, lw=1.3)
                if len(group) > 1:
                    axis.fill_between(
                        time, values.min(0), values.max(0), alpha=0.13, color=colour, lw=0, antialiased=False
                    )
            axis.set_ylim(_limits(shown, main.direction))
            axis.set_xlim(0, max(curve.get_xdata()[-1] for curve in axis.get_lines()) * 1.01 or 1)
            axis.grid(alpha=0.3, lw=0.5)
            axis.tick_params(labelsize=8)
            axis.ticklabel_format(axis="y", useOffset=False)
            if row == 0:
                axis.set_title(title(runs), fontsize=9)
            else:
                axis.set_xlabel(CLOCKS[clock], fontsize=9)
            if k % PANELS == 0 or panels[k - 1][1][0].primary != main:
                axis.set_ylabel(textwrap.fill(f"{data} {main.title}", LABEL), fontsize=9)
    names = [name for name in looks if name in drawn]
    # Outside of the panels, where it covers no curve.
    figure.legend(
        [drawn[name] for name in names], names, loc="outside lower center", ncols=3, fontsize=9, frameon=False
    )
    return figure


def _clocks(runs: Sequence[Run]) -> list[str]:
    """What curves are drawn against."""
    if all(run.budget.unit == PRICED for run in runs):
        return [PRICED]
    return ["total_seconds", *(["gpu_seconds"] if any(run.has_gpu for run in runs) else [])]


def gallery(
    groups: Sequence[Group], title: Callable[[Sequence[Run]], str], *, trusted: Container[Path]
) -> tuple[Canvas | None, list[str]]:
    """Training samples before and after, for the same sample seeds; and what kept environments from having any.

    They are made by the generator that a run names. One that is not hgenv's own runs only where the run's folder is
    `trusted`: the folder may come from a stranger.
    """
    blocks, notes = [], []
    for name, runs in groups:
        try:
            if runs[0].source not in trusted and not is_ours(runs[0].config):
                raise RunError(
                    "its generator, or a part of it, is not hgenv's own; if you trust who made the run, "
                    "hgenv report --trust runs it"
                )
            made = _samples(runs, *_tiles(len(groups)))
        except Exception as error:  # settings and betas come from anywhere
            notes.append(f"{name}: no gallery: {error}")
            continue
        if made is None:
            notes.append(f"{name}: no gallery: the task of this environment draws no pictures")
        else:
            blocks.append((title(runs), made))
    return (_sheet(blocks) if blocks else None), notes


def errors(
    groups: Sequence[Group], title: Callable[[Sequence[Run]], str], *, truth: bool
) -> tuple[Canvas | None, list[str]]:
    """What the last weights say about validation samples, one run of each optimizer.

    With `truth`, below the samples themselves. Only the folders of raw runs have these pictures.
    """
    blocks, notes = [], []
    count, _ = _tiles(len(groups))
    for name, runs in groups:
        try:
            shown = _error_maps(runs, count, truth)
        except ValueError as error:
            notes.append(f"{name}: no error maps: {error}")
            continue
        if shown:
            blocks.append((title(runs), shown))
    return (_sheet(blocks) if blocks else None), notes


def line_art(canvas: Canvas, name: str, caption: str) -> Figure:
    """A figure of lines and letters, without loss, as large as the limit allows."""
    for dpi in SMALLER:
        canvas.set_dpi(dpi)
        data = _png(_pixels(canvas))
        if len(data) < LIMIT:
            break
    return Figure(f"{name}.png", caption, data)


def photographic(canvas: Canvas, name: str, caption: str) -> Figure:
    """A figure of pictures, as good as the limit allows: without loss, or in true colour with little."""
    pixels = Image.fromarray(_pixels(canvas))
    file = BytesIO()
    pixels.save(file, "png", optimize=True)
    if file.tell() < LIMIT:
        return Figure(f"{name}.png", caption, file.getvalue())
    for quality in (88, 84, 80, 70, 60, 40, 20):
        file = BytesIO()
        pixels.save(file, "webp", quality=quality, method=6)
        if file.tell() < LIMIT:
            break
    return Figure(f"{name}.webp", caption, file.getvalue())


def _limits(shown: Sequence[NDArray[Any]], direction: str) -> tuple[float, float]:
    """The ends of a vertical axis on which the ends of curves, (seeds, T) each, can be told apart.

    It shows every line at its best, where every seed ends, and where half of the lines are in the second half of their
    time. The first values come from untrained weights, far from anything that is to be compared, and a method with long
    updates may stay there for most of its time.
    """
    sign = -1 if direction == "max" else 1
    seeds = [sign * values for values in shown]
    lines = [values.mean(0) for values in seeds]
    usual = float(np.median([np.median(line[len(line) // 2 :]) for line in lines]))
    best = min(*(line.min() for line in lines), *(values[:, -1].min() for values in seeds))
    worst = max(usual, *(values[:, -1].max() for values in seeds))
    room = worst - best if worst - best > FLAT * abs(best) else abs(best) or 1.0  # no rounding drawn as steps
    low, high = sorted((sign * (best - 0.1 * room), sign * (worst + 0.25 * room)))
    return float(low), float(high)


def _trailing_mean(values: NDArray[Any]) -> NDArray[Any]:
    """Means over the last `WINDOW` columns of (seeds, T), over fewer at the beginning."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, sums.shape[1])
    starts = np.maximum(ends - WINDOW, 0)
    means: NDArray[Any] = (sums[:, ends] - sums[:, starts]) / (ends - starts)
    return means


# --- Pictures in blocks --------------------------------------------------------------------------------------------


def _lanes(environments: int) -> tuple[int, int]:
    """How many pictures stand beside each other where there are so many environments, and their width."""
    lanes = max(2, min(environments, PANELS))  # those of a single environment in two lanes
    return lanes, (WIDTH - (lanes + 1) * GAP) // lanes


def _tiles(environments: int) -> tuple[int, int]:
    """Samples in a row of a picture, and pixels of each."""
    count = TILES[min(environments, PANELS)]
    return count, _lanes(environments)[1] // count


def _samples(runs: Sequence[Run], count: int, tile: int) -> dict[str, Picture | str] | None:
    """Samples by what they are of; a text where some cannot be rendered, None where there is nothing to look at."""
    env = make_environment(_without_data(runs[0].config))
    try:
        betas = {"before": runs[0].start}
        for optimizer, group in by_optimizer(runs):
            betas[f"{optimizer}, seed {group[0].seed}"] = group[0].recommended
        found: dict[str, Picture | str] = {}
        for name, beta in betas.items():
            try:
                valid = env.space.project(env.space.initial.new_tensor(beta))
                picture = pictures.gallery(env, valid, count, SHARPER * tile)
            except RenderError as error:
                found[name] = f"cannot be rendered: {error}"
                continue
            if picture is None:
                return None
            found[name] = picture
        return found
    finally:
        env.close()


def _without_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the same generator with the stand-in as data: samples are made without the photos."""
    env = dict(config["env"])
    if "data" in env:
        env |= {"data": "standin", "data_folder": None}
    return {**config, "env": env, "where": {"device": "cpu"}}


def _error_maps(runs: Sequence[Run], count: int, truth: bool) -> dict[str, Picture | str]:
    shown = [(name, group[0]) for name, group in by_optimizer(runs) if (group[0].source / records.ERRORS).is_file()]
    found: dict[str, Picture | str] = {}
    if truth and shown and (shown[0][1].source / records.VALIDATION).is_file():
        found["validation"] = _some(pictures.load(shown[0][1].source / records.VALIDATION), count)
    for name, run in shown:
        found[f"{name}, seed {run.seed}"] = _some(pictures.load(run.source / records.ERRORS), count)
    return found


def _some(picture: Picture, count: int) -> Picture:
    """`count` columns of a picture, from all over it."""
    columns = len(picture.rows[0])
    chosen = np.unique(np.linspace(0, columns - 1, min(count, columns)).round().astype(int))
    return Picture(tuple(row[chosen] for row in picture.rows), picture.titles, picture.note)


def _sheet(blocks: Sequence[tuple[str, dict[str, Picture | str]]]) -> Canvas:
    """Environments beside each other, in each the pictures of what is compared below each other, with their names."""
    head, label, foot = 52, 40, 36
    lanes, width = _lanes(len(blocks))
    placed: list[tuple[str | None, list[tuple[str, NDArray[np.uint8]]]]] = []  # lane by lane, in bands of `lanes`
    for block, parts in blocks:
        drawn = _drawn(parts, width)
        placed += [(block, drawn)] if len(blocks) > 1 else [(block, drawn[0::2]), (None, drawn[1::2])]
    bands = [placed[start : start + lanes] for start in range(0, len(placed), lanes)]
    heights = [max(sum(label + len(image) + GAP for _, image in drawn) for _, drawn in band) for band in bands]
    words = _words(blocks)
    total = sum(heights) + head * len(bands) + foot * len(words) + GAP
    figure = _canvas(WIDTH, total)
    top = 0
    for band, tall in zip(bands, heights, strict=True):
        for lane, (title, drawn) in enumerate(band):
            left, down = GAP + lane * (width + GAP), top + head
            if title is not None:
                _write(figure, left, top + 10, title, total, size=10, weight="bold")
            for name, image in drawn:
                _write(figure, left, down, name, total, size=9)
                down += label
                figure.figimage(image, left, total - down - len(image), zorder=3)
                down += len(image) + GAP
        top += head + tall
    for line in words:
        _legend(figure, top, line, total)
        top += foot
    return figure


def _drawn(parts: Mapping[str, Picture | str], width: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Pictures at a width, with their names; those that are a text as a line with it."""
    found = []
    for name, part in parts.items():
        if isinstance(part, str):
            found.append((f"{name}: {part}", np.zeros((1, width, 3), np.uint8)))
            continue
        height, wide = part.rows[0].shape[1:3]
        tile = round(width / len(part.rows[0]) * height / wide)
        found.append((name, pictures.arrange(part, tile)[:, :width]))
    return found


def _words(blocks: Sequence[tuple[str, dict[str, Picture | str]]]) -> list[str]:
    """What the rows of the pictures are, and how to read them."""
    kinds = {title: _titles(parts) for title, parts in blocks}
    notes = dict.fromkeys(p.note for _, parts in blocks for p in parts.values() if not isinstance(p, str) and p.note)
    if len(set(kinds.values())) == 1:
        return [next(iter(kinds.values())), *notes]
    return [*(f"{title}: {kind}" for title, kind in kinds.items()), *notes]


def _titles(parts: Mapping[str, Picture | str]) -> str:
    """What the rows of each picture are."""
    kinds = dict.fromkeys(", ".join(p.titles) for p in parts.values() if not isinstance(p, str))
    return f"From top to bottom: {'; '.join(kinds)}."


def _legend(figure: Canvas, top: int, line: str, total: int) -> None:
    """A line below the pictures; one that words a scale is drawn as a colour bar."""
    scale = SCALE.fullmatch(line)
    if scale is None:
        _write(figure, GAP, top, line, total, size=8, color="#444444")
        return
    left, width, height = GAP + 180, WIDTH // 4, 22
    _write(figure, GAP, top, f"{scale[1]}: none", total, size=8, color="#444444")
    ramp = matplotlib.colormaps[COLOURS](np.linspace(0, 1, width))[None, :, :3].repeat(height, 0)
    figure.figimage((255 * ramp).round().astype(np.uint8), left, total - top - height - 2, zorder=3)
    _write(figure, left + width + GAP, top, f"{scale[2]} or more", total, size=8, color="#444444")


def _write(figure: Canvas, left: float, top: float, text: str, height: int, **style: Any) -> None:
    size = style.pop("size")
    figure.text(left / WIDTH, 1 - top / height, text, va="top", fontsize=size, **style)


def _canvas(width: int, height: int, **options: Any) -> Canvas:
    figure = Canvas(figsize=(width / DPI, height / DPI), dpi=DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file in true colour without PNG's filters, which help with photos and hurt with flat colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _pixels(canvas: Canvas) -> NDArray[np.uint8]:
    agg = canvas.canvas
    assert isinstance(agg, FigureCanvasAgg)
    agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()
