"""The map: who is first where the baseline ends, over the price of a render and of a training step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .. import files
from ..records import RecordError
from ..studies import Run
from .figures import line_art
from .prices import STEP, named, priced
from .style import ordered, styles
from .tables import BASELINE, reached

RENDERS = np.logspace(-5, 1, 25)  # seconds a sample
STEPS = np.logspace(-3, 1, 17)  # seconds a training step; as many to a decade
KNOWN = {
    7.5e-5: "compiled CSG",
    0.0128: "meshes",
    0.19: "Blender's Cycles",
}  # on a core


def first(runs: Sequence[Run], ratio: float) -> tuple[str, float]:
    """Who is first at the baseline's final validation figure, and after which share of the budget.

    Args:
        runs: Of one environment.
        ratio: Price of a sample by that of a training step. Shares depend on nothing else.
    """
    shares = reached(priced(runs, named("core"), {"sample": ratio, STEP: 1.0, "update": 0.0}))
    return min(shares.items(), key=lambda pair: (pair[1], pair[0] != BASELINE))


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write the map as a PNG, a panel for each environment.

    Args:
        runs: Finished ones, sorted by environment.
        path: The file.

    Raises:
        RecordError: An environment has no run of the baseline; or its rows do not say what a training step is.
        OSError: The system refuses.
    """
    groups = [(label, list(own)) for label, own in groupby(runs, key=lambda run: run.environment)]
    for label, own in groups:
        if BASELINE not in {run.optimizer for run in own}:
            raise RecordError(f"{label}: no run of {BASELINE} has ended, and a map is measured against it")
    looks = styles({run.optimizer for run in runs})
    canvas = Canvas(figsize=(4.6 * len(groups), 4.4), layout="constrained")
    FigureCanvasAgg(canvas)
    winners: set[str] = set()
    for axis, (label, own) in zip(canvas.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        found = [first(own, RENDERS[0] / STEPS[-1] * 10 ** (k / 4)) for k in range(len(RENDERS) + len(STEPS) - 1)]
        cells = [[found[i + len(STEPS) - 1 - j] for i in range(len(RENDERS))] for j in range(len(STEPS))]
        shares: NDArray[np.float64] = np.array([[share for _, share in row] for row in cells])
        colours = np.array([[_rgb(looks[name][0]) for name, _ in row] for row in cells])
        strength = np.clip(1.15 - shares, 0.15, 1)[..., None]  # the sooner, the fuller
        axis.pcolormesh(RENDERS, STEPS, 1 - strength * (1 - colours), shading="nearest")
        for j in range(2, len(STEPS), 4):
            for i in (2, 6, 10, 14, 19, 23):  # where no name stands
                text = f"{shares[j, i]:.0%}" if shares[j, i] < np.inf else "never"
                axis.text(RENDERS[i], STEPS[j], text, fontsize=7, ha="center", va="center")
        axis.set(xscale="log", yscale="log", xlabel="price of a render (s)", title=label)
        axis.set_ylabel("price of a training step (s)")
        for render, name in KNOWN.items():
            axis.axvline(render, color="black", lw=0.6, ls=":")
            axis.text(render * 1.1, STEPS[-1], name, rotation=90, fontsize=7, va="top")
        winners |= {name for row in cells for name, _ in row}
    patches = [Patch(color=looks[name][0], label=name) for name in ordered(winners)]
    canvas.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    files.write(path, line_art(canvas, "map", "").data)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
