"""Logs for TensorBoard.

A run is one entry, by the name of its folder. Everything is written with the accounted time as its wall time, so that
TensorBoard's "Relative" axis is computation time, CPU + GPU (figure 4 of the paper). On a GPU the curves are there
twice more, against CPU and against GPU time, in sub-runs `cpu` and `gpu`; without one these would all be the same.

TensorBoard sorts tags by name: the curves come first, `loss`, `test` and `validation`; behind them `vector beta`, the
blocks of beta, and `view`, the pictures.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from hgenv.env import DataGenEnv
from hgenv.problem import RenderError

from . import pictures
from .records import Row

MAIN = "total_seconds"
OTHERS = {"cpu": "cpu_seconds", "gpu": "gpu_seconds"}  # sub-runs, where they differ from the main clock
BETA, VIEW = "vector beta", "view"
FILES = "events.out.tfevents.*"
GALLERY = 8  # samples


class Board:
    """Writes a run's logs. Nothing here is for the optimizer, so it belongs off the clock.

    Args:
        folder: The run's.
        env: What pictures are made from; one whose task draws none has none.
        picture_updates: Updates between two sets of pictures.
        first: Update that is written first. What an interrupted run left at or after it is void.
    """

    def __init__(self, folder: Path, env: DataGenEnv, picture_updates: int, first: int) -> None:
        self.env, self.picture_updates = env, picture_updates
        purge = first or None
        if purge:
            # TensorBoard reads files in the order of the second in their names: ours has to come after what it voids.
            seconds = [int(second) for path in folder.rglob(FILES) if (second := path.name.split(".")[3]).isdecimal()]
            wait = max(seconds, default=0) + 1 - time.time()
            time.sleep(min(max(0.0, wait), 2))  # a clock that was set back is not waited for
        self.main = SummaryWriter(str(folder), purge_step=purge)
        self.curves = {MAIN: self.main}
        if env.device.type == "cuda":
            self.curves |= {
                clock: SummaryWriter(str(folder / name), purge_step=purge) for name, clock in OTHERS.items()
            }
        self.drawn = -1

    def row(self, row: Row) -> None:
        """Write an update: its curves and its beta, now and then pictures."""
        update = row["update"]
        scalars = {"loss": row["loss"]} if row["loss"] is not None else {}
        for data in ("validation", "test"):
            # The metrics of single objects would bury the rest; they are in the rows.
            scalars |= {f"{data}/{name}": value for name, value in row[data].items() if "/" not in name}
        for clock, writer in self.curves.items():
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, update, walltime=row["spent"][clock])
        beta = torch.tensor(row["beta"], dtype=torch.float64)
        for block, values in self.env.space.split(beta).items():
            for i, value in enumerate(values.tolist()):
                tag = f"{BETA}/{block}/{i}" if len(values) > 1 else f"{BETA}/{block}"
                self.main.add_scalar(tag, value, update, walltime=row["spent"][MAIN])
        if update % self.picture_updates == 0:
            self._pictures(row)

    def last_pictures(self, row: Row) -> None:
        """Write the pictures of the last update, unless they are there."""
        if self.drawn != row["update"]:
            self._pictures(row)

    def flush(self) -> None:
        """Write to the disk what has been logged so far."""
        for writer in self.curves.values():
            writer.flush()

    def close(self) -> None:
        """Flush and end."""
        for writer in self.curves.values():
            writer.close()

    def _pictures(self, row: Row) -> None:
        env, update = self.env, row["update"]
        self.drawn = update
        when: dict[str, Any] = {"global_step": update, "walltime": row["spent"][MAIN]}
        drawn = [
            pictures.arrange(p) for p in (pictures.validation_images(env), pictures.error_maps(env)) if p is not None
        ]
        if not drawn:
            return
        self.main.add_image(f"{VIEW}/validation", np.concatenate(drawn), dataformats="HWC", **when)
        beta = env.space.check(row["beta"])
        # A beta at which something cannot be rendered has no picture of it; that is no reason to end a run.
        with suppress(RenderError):
            gallery = pictures.gallery(env, beta, GALLERY)
            if gallery is not None:
                self.main.add_image(f"{VIEW}/samples", pictures.arrange(gallery), dataformats="HWC", **when)
            if hasattr(env.generator, "mesh"):
                self._mesh(env.generator.mesh(beta, 0), when)

    def _mesh(self, mesh: Any, when: dict[str, Any]) -> None:
        corners = mesh.triangles.reshape(1, -1, 3)  # corners of their own, so that facets keep their colour
        colours = ((mesh.face_normals.repeat(3, axis=0) + 1) * 127.5).astype("uint8")[None]
        self.main.add_mesh(
            f"{VIEW}/sample",
            torch.tensor(corners),
            colors=torch.from_numpy(colours),
            faces=torch.arange(corners.shape[1]).reshape(1, -1, 3),
            **when,
        )
