"""Logs for TensorBoard.

A run is one entry, by the name of its folder. Everything is written with the accounted time as its wall time, so that
TensorBoard's "Relative" axis is computation time, CPU + GPU (figure 4 of the paper). On a GPU the curves are there
twice more, against CPU and against GPU time, in sub-runs `cpu` and `gpu`; without one these would all be the same.

TensorBoard sorts tags by name: the curves come first, `loss`, `test` and `validation`; behind them `vector beta`, the
blocks of beta, and `view`, the pictures. A beta of more than `CURVES` components has no curves: it is in the rows.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from hgenv.env import DataGenEnv
from hgenv.problem import RenderError

from . import pictures
from .records import Row

MAIN = "total_seconds"
OTHERS = {"cpu": "cpu_seconds", "gpu": "gpu_seconds"}  # sub-runs, where they differ from the main clock
BETA, VIEW = "vector beta", "view"
FILES = "events.out.tfevents.*"
GALLERY = 8  # samples
CURVES = 512  # components of beta; nobody looks at more curves, and they would be most of the log


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
        self.main = _Log(folder, first)
        self.curves = {MAIN: self.main}
        if env.device.type == "cuda":
            self.curves |= {clock: _Log(folder / name, first) for name, clock in OTHERS.items()}
        self.drawn = -1

    def row(self, row: Row) -> None:
        """Write an update: its curves and its beta, now and then pictures."""
        update = row["update"]
        scalars = {"loss": row["loss"]}
        for data in ("validation", "test"):
            # The metrics of single objects would bury the rest; they are in the rows.
            scalars |= {f"{data}/{name}": value for name, value in row[data].items() if "/" not in name}
        for clock, writer in self.curves.items():
            for tag, value in scalars.items():
                if value is not None:
                    writer.add(summary.scalar(tag, value), update, row["spent"][clock])
        if self.env.space.dimension <= CURVES:
            beta = torch.tensor(row["beta"], dtype=torch.float64)
            for block, values in self.env.space.split(beta).items():
                for i, value in enumerate(values.tolist()):
                    tag = f"{BETA}/{block}/{i}" if len(values) > 1 else f"{BETA}/{block}"
                    self.main.add(summary.scalar(tag, value), update, row["spent"][MAIN])
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
        when = update, row["spent"][MAIN]
        drawn = [
            pictures.arrange(p) for p in (pictures.validation_images(env), pictures.error_maps(env)) if p is not None
        ]
        if not drawn:
            return
        self._image("validation", np.concatenate(drawn), when)
        beta = env.space.check(row["beta"])
        # A beta at which something cannot be rendered has no picture of it; that is no reason to end a run.
        with suppress(RenderError):
            gallery = pictures.gallery(env, beta, GALLERY)
            if gallery is not None:
                self._image("samples", pictures.arrange(gallery), when)
            if hasattr(env.generator, "mesh"):
                self._mesh(env.generator.mesh(beta, 0), when)

    def _image(self, name: str, pixels: pictures.Pixels, when: tuple[int, float]) -> None:
        self.main.add(summary.image(f"{VIEW}/{name}", pixels, dataformats="HWC"), *when)

    def _mesh(self, mesh: Any, when: tuple[int, float]) -> None:
        corners = mesh.triangles.reshape(1, -1, 3)  # corners of their own, so that facets keep their colour
        colours = ((mesh.face_normals.repeat(3, axis=0) + 1) * 127.5).astype("uint8")[None]
        faces = torch.arange(corners.shape[1]).reshape(1, -1, 3)
        drawn = summary.mesh(f"{VIEW}/sample", torch.tensor(corners), torch.from_numpy(colours), faces, None)
        self.main.add(drawn, *when)


class _Log:
    """One file of events, written in this thread: torch's own writer reports what the disk refuses from another one.

    Args:
        folder: Where; made if it is not there.
        first: Update that is written first. What older files have at or after it is void.
    """

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of the second in their names: ours comes after what it voids, whatever
        # the clock says by now.
        seconds = [path.name.split(".")[3] for path in folder.glob(FILES)]
        later = [int(second) + 1 for second in seconds if second.isdecimal() and len(second) <= 10]
        name = f"events.out.tfevents.{max([int(time.time()), *later]):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._writer = RecordWriter(self._file)
        self._event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first:
            start = SessionLog(status=SessionLog.START)
            self._event(Event(wall_time=time.time(), step=first, session_log=start))

    def add(self, value: Any, update: int, seconds: float) -> None:
        """Write a summary of an update, at so many seconds."""
        self._event(Event(wall_time=seconds, step=update, summary=value))

    def flush(self) -> None:
        """Have the system know all of it."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and end."""
        self._file.close()

    def _event(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
