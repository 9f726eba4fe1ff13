"""The Blender route: booleans (manifold3d), then Cycles on a CPU, in a process of Blender's own.

Blender is either an executable or the module `bpy`; both have a Python and a NumPy of their own, which need not be
ours. `blender_worker` runs there. It renders one ray through the centre of each pixel: normals, depth and the share of
the sun's light, so that a frame is exact, and is shaded by the formula that all renderers share. Nothing else of Cycles
is used (no bounces, no soft light): that would need many rays, and the exact derivative by the light would be gone.
"""

from __future__ import annotations

import importlib.util
import io
import os
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...clocks import free_children, spent_elsewhere
from ...problem import RenderError
from ..framing import check_size
from .mesh import Surface, render
from .scene import Frame, Scene

WORKER = Path(__file__).with_name("blender_worker.py")
KEY = "HGENV_BLENDER_KEY"
VARIABLE = "HGENV_BLENDER"  # names the executable, or a Python that has bpy
CURE = (
    f"install Blender, and put it on the PATH or name it in the environment variable {VARIABLE}; or name there a "
    "Python that has Blender as a module (pip install bpy)"
)
LAST_WORDS = 500  # characters of what Blender said, for a message


class BlenderRenderer:
    """Renders by booleans of tessellated primitives and Blender's Cycles, one object at a time; see `Renderer`.

    Blender starts with the first frame, which takes some seconds, and ends with this object. The ledger charges its CPU
    time.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
        segments: Edges around a circle of a tessellated sphere or cone.
        timeout: Seconds that Blender may take for its start, and for a frame.
    """

    def __init__(self, size: int = 64, shadows: bool = True, segments: int = 128, timeout: float = 120) -> None:
        self.size = check_size(size)
        self.shadows = shadows
        self.segments = segments
        self.timeout = timeout
        self._blender: _Blender | None = None

    def __call__(self, scene: Scene) -> Frame:
        """Render all B objects; one whose tree leaves no solid has an empty mask.

        Raises:
            RenderError: A primitive of an object is not valid; or Blender is not there, has ended, or takes too long.
        """
        return render(scene, self.size, self.segments, self._see)

    def resized(self, size: int) -> BlenderRenderer:
        """See `Renderer`; both share a process."""
        other = BlenderRenderer(size, self.shadows, self.segments, self.timeout)
        other._blender = self._blender
        return other

    def close(self) -> None:
        """End Blender; the next frame starts it again."""
        if self._blender is not None:
            self._blender.close()
        self._blender = None

    def __getstate__(self) -> dict[str, Any]:
        """A process belongs to one object: a copy starts its own."""
        return self.__dict__ | {"_blender": None}

    def _see(self, vertices: NDArray[np.float64], faces: NDArray[np.int64], light: NDArray[np.float64]) -> Surface:
        if self._blender is None or self._blender.owner != os.getpid():
            self._blender = _Blender(self.timeout)
        try:
            seen = self._blender.look(vertices, faces, light, self.size, self.timeout)
        except RenderError:
            self.close()
            raise
        hit = seen[:, 0] > 0.5
        normal, z, received = seen[hit, 1:4], seen[hit, 4], seen[hit, 5]
        pixel = (np.arange(self.size) + 0.5) * 2 / self.size - 1
        x, y = np.meshgrid(pixel, -pixel)
        point = np.stack([x.ravel()[hit], y.ravel()[hit], z], 1)
        lit = np.ones(len(point), bool)
        if self.shadows:
            lit = received > 0.5 * (normal @ light).clip(min=0)
        return hit, normal, point, lit


class _Blender:
    """A process of Blender, and the connection to it."""

    def __init__(self, timeout: float) -> None:
        self.owner, self._spent = os.getpid(), 0.0
        command, key = _command(), secrets.token_bytes(16)
        with ExitStack() as stack:
            self._said = stack.enter_context(tempfile.TemporaryFile())
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            listener = stack.enter_context(Listener(f"{folder}/socket", "AF_UNIX", authkey=key))
            self._process = subprocess.Popen(
                [*command, "--", f"{folder}/socket"],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                env=os.environ | {KEY: key.hex()},
                start_new_session=True,  # an interrupt is for us to handle
            )
            stack.callback(_end, self._process)
            self._connection = stack.enter_context(self._accept(listener, timeout))
            kept = stack.pop_all()
        self.close = weakref.finalize(self, kept.close)

    def look(
        self,
        vertices: NDArray[np.float64],
        faces: NDArray[np.int64],
        light: NDArray[np.float64],
        size: int,
        timeout: float,
    ) -> NDArray[np.float32]:
        """What `blender_worker` says of a mesh, (S * S, 6).

        Raises:
            RenderError: Blender has ended, or takes too long.
        """
        request = io.BytesIO()
        np.savez(request, vertices=vertices, faces=faces, light=light, size=size)
        try:
            self._connection.send_bytes(request.getvalue())
            if not self._connection.poll(timeout):
                raise RenderError(f"Blender has rendered for {timeout:g} s; it was ended{self._last_words()}")
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise RenderError(f"Blender has ended while it rendered{self._last_words()}") from error
        (spent,) = struct.unpack_from("<d", answer)
        spent_elsewhere(spent - self._spent)
        self._spent = spent
        return np.frombuffer(answer, np.float32, offset=8).reshape(size * size, -1)

    def _accept(self, listener: Listener, timeout: float) -> Connection:
        """The connection, once Blender has started."""
        listener._listener._socket.settimeout(1)  # type: ignore[attr-defined] # accept has no other timeout
        for _ in range(max(1, round(timeout))):
            try:
                return listener.accept()
            except TimeoutError:
                if self._process.poll() is not None:
                    raise RenderError(f"Blender ended at once{self._last_words()}; {CURE}") from None
        raise RenderError(f"Blender has not started within {timeout:g} s{self._last_words()}; {CURE}")

    def _last_words(self) -> str:
        self._said.seek(0)
        words = self._said.read()[-LAST_WORDS:].decode(errors="replace").strip()
        return f", saying: {words}" if words else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with free_children():  # what it spent has been charged, frame by frame
        process.wait()


def _command() -> Sequence[str]:
    """How Blender is started with the worker.

    Raises:
        RenderError: There is no Blender.
    """
    named = os.environ.get(VARIABLE)
    if named and (found := shutil.which(named)) is None:
        raise RenderError(f"{VARIABLE} names {named!r}, which is no program; {CURE}")
    if not named:
        found = shutil.which("blender")
        if found is None and importlib.util.find_spec("bpy") is not None:
            found = sys.executable
    if found is None:
        raise RenderError(f"there is no Blender here; {CURE}")
    if "python" in Path(found).name:
        return [found, str(WORKER)]
    return [found, "-b", "--factory-startup", "-P", str(WORKER)]
