"""The OpenGL route: booleans (manifold3d), then rasterization with pyrender on EGL, without a display.

pyrender is imported when a renderer is first made, not before: it needs the system libraries libEGL and libGL. Its
traps, and what is done about them here: PYOPENGL_PLATFORM must be `egl` before OpenGL is first imported, and
PYGLET_HEADLESS set (both are set for this process where they are not); a process has one EGL context, because deleting
one ends the others too; a forked child cannot use its parent's. pyrender's lights and `Mesh.bounds` (broken on NumPy 2)
are not used, and normals, depth and pixel centres are ours: see `hgenv.rendering.csg.rasterizer`.
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...problem import RenderError
from ..framing import check_size, pixel_centres
from .mesh import Surface, face_normals, render
from .scene import Frame, Scene

CURE = (
    "install the system packages libegl1 and libgl1 (Debian, Ubuntu: apt-get install libegl1 libgl1) and leave "
    "PYOPENGL_PLATFORM unset or set it to egl, or choose the renderer `analytic` or `mesh`, which need neither"
)

# Texels along an edge of the shadow map, per pixel of the frame.
_SHADOW_TEXELS = 4
# Points are lifted by this many texels before they are looked up: one covers any plane, the rest curvature.
_SHADOW_LIFT = 1.5


class PyrenderRenderer:
    """Renders by booleans of tessellated primitives and OpenGL rasterization, one object at a time; see `Renderer`.

    A pixel shows the facet at its centre; normals are flat and depth is in single precision. Shadows are looked up in a
    second view, from the light, with four times as many pixels along an edge; they are off by up to two of those at
    their edges. All renderers of a process share one GL context, to be used from one thread; frames are computed on the
    CPU or GPU that EGL offers and return to the scene's device.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
        segments: Edges around a circle of a tessellated sphere or cone.
    """

    def __init__(self, size: int = 64, shadows: bool = True, segments: int = 128) -> None:
        _context()  # fail now rather than at the first frame
        self.size = check_size(size)
        self.shadows = shadows
        self.segments = segments
        self._pixels = torch.stack(pixel_centres(size), 1).numpy()

    def __call__(self, scene: Scene) -> Frame:
        """Render all B objects; one whose tree leaves no solid has an empty mask.

        Raises:
            RenderError: A primitive of an object is not valid, or OpenGL cannot be used in this process (any more).
        """
        return render(scene, self.size, self.segments, self._see)

    def resized(self, size: int) -> PyrenderRenderer:
        """See `Renderer`."""
        return PyrenderRenderer(size, self.shadows, self.segments)

    def _see(self, vertices: NDArray[np.float64], faces: NDArray[np.int64], light: NDArray[np.float64]) -> Surface:
        view = _View(vertices[faces])
        height = vertices[:, 2].max() + 1
        seen = view.look(np.eye(3), np.array([0, 0, height]), 1, height + 1 - vertices[:, 2].min(), self.size)
        hit = np.linalg.norm(seen[:, :3], axis=1) > 0
        normal = seen[hit, :3]
        point = np.insert(self._pixels[hit], 2, height - seen[hit, 3], axis=1)
        lit = np.ones(len(point), bool)
        if self.shadows:
            # The light looks at the bounding sphere from outside it, with room for the lift.
            centre = (vertices.min(0) + vertices.max(0)) / 2
            radius = np.linalg.norm(vertices - centre, axis=1).max()
            texels = _SHADOW_TEXELS * self.size
            reach = 1.01 * radius / (1 - 2 * _SHADOW_LIFT / texels)
            texel = 2 * reach / texels
            axes = _axes(light)
            eye = centre + (radius + 1) * axes[2]
            shadow = view.look(axes, eye, reach, 2 * radius + 2, texels)
            x, y, z = axes @ (point + _SHADOW_LIFT * texel * normal - eye).T
            column, row = (((reach + across) / texel).astype(int) for across in (x, -y))
            first = shadow[row * texels + column]
            lit = (np.linalg.norm(first[:, :3], axis=1) == 0) | (-z <= first[:, 3])
        return hit, normal, point, lit

    @staticmethod
    def close() -> None:
        """Release the GL context of this process; the next frame opens a new one, which takes about 0.1 s."""
        global _opened
        if _opened is not None and _opened[0] == os.getpid():
            _opened[1].delete()
        _opened = None


class _View:
    """One solid, to be looked at from several sides."""

    def __init__(self, corners: NDArray[np.float64]) -> None:
        pyrender = _library()
        normals = np.repeat(face_normals(corners), 3, 0)
        self._scene = pyrender.Scene()
        self._scene.add(pyrender.Mesh([pyrender.Primitive(positions=corners.reshape(-1, 3), normals=normals)]))

    def look(
        self, axes: NDArray[np.float64], eye: NDArray[np.float64], reach: float, far: float, size: int
    ) -> NDArray[np.float32]:
        """Normal and distance (size * size, 4) in an orthographic view.

        Args:
            axes: (3, 3) rows are the camera's right, up and backward.
            eye: (3,) a point on the camera's plane, in the middle of the view.
            reach: Half the edge of the view.
            far: Distance beyond which nothing is seen.
            size: Pixels along an edge.
        """
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes.T, eye
        camera = _library().OrthographicCamera(reach, reach, znear=0.5, zfar=far)
        self._scene.main_camera_node = self._scene.add(camera, pose=pose)
        offscreen = _context()
        return offscreen._renderer.look(offscreen, self._scene, size).reshape(-1, 4)


def _axes(backward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows right, up, backward of some camera that looks along -`backward`."""
    right = np.cross(np.eye(3)[np.abs(backward).argmin()], backward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(backward, right), backward])


_opened: tuple[int, Any] | None = None  # process and context


def _context() -> Any:
    """The process's pyrender.OffscreenRenderer, opened when first asked for."""
    global _opened
    if _opened is None:
        pyrender = _library()
        try:
            from .rasterizer import Rasterizer

            offscreen = pyrender.OffscreenRenderer(1, 1)
            offscreen._renderer.delete()
            offscreen._renderer = Rasterizer()
        except Exception as error:  # PyOpenGL has no one error for this
            raise RenderError(f"OpenGL could not be started through EGL ({error}); {CURE}") from error
        _opened = os.getpid(), offscreen
    if _opened[0] != os.getpid():
        raise RenderError(
            "this process was forked after a GL context had been opened, and cannot use it; start worker processes "
            "with the method `spawn`"
        )
    return _opened[1]


def _library() -> ModuleType:
    """Import pyrender.

    Raises:
        RenderError: It cannot be imported here.
    """
    platform = os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if platform != "egl":
        raise RenderError(f"PYOPENGL_PLATFORM is {platform!r}, but pyrender is only used through EGL here; {CURE}")
    os.environ.setdefault("PYGLET_HEADLESS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what old libraries say on newer Pythons is not our user's concern
            import pyrender
    except Exception as error:  # PyOpenGL raises AttributeError where a library is missing
        raise RenderError(f"pyrender cannot be imported ({error}); {CURE}") from error
    return pyrender
