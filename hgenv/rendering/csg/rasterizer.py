"""What pyrender lacks for this project: facet normals and depth in floating point, sampled at pixel centres.

Importing this module imports pyrender and with it OpenGL; `gl` beside it does so when it is first used.
"""

from __future__ import annotations

import numpy as np
import pyrender
from numpy.typing import NDArray
from OpenGL import GL
from pyrender.shader_program import ShaderProgram

# pyrender numbers the vertex attributes so: position, normal, and a matrix for each instance.
_VERTEX = """
#version 330 core
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in mat4 inst_m;
uniform mat4 M;
uniform mat4 V;
uniform mat4 P;
flat out vec3 facet;
out float range;
void main()
{
    vec4 seen = V * M * inst_m * vec4(position, 1.0);
    gl_Position = P * seen;
    facet = normal;
    range = -seen.z;
}
"""
_FRAGMENT = """
#version 330 core
flat in vec3 facet;
in float range;
out vec4 surface;
void main()
{
    surface = vec4(facet, range);
}
"""


class Rasterizer(pyrender.Renderer):
    """pyrender's renderer with a shader and a frame buffer of its own.

    It returns (S, S, 4) float32 images, rows from the top: the normal of the facet seen at each pixel's centre in world
    coordinates, zero where there is none, and its distance from the camera's plane. pyrender's frame buffer instead
    holds 8-bit colours and takes four samples a pixel, none of them at the centre.
    """

    def __init__(self) -> None:
        super().__init__(1, 1)
        self._program = _Program(_VERTEX, _FRAGMENT)
        self._buffers: dict[int, tuple[int, int, int]] = {}
        self._main_fb_ms: int | None = None

    def look(self, offscreen: pyrender.OffscreenRenderer, scene: pyrender.Scene, size: int) -> NDArray[np.float32]:
        """Rasterize `scene` as its main camera sees it, with S = `size`."""
        offscreen.viewport_width = offscreen.viewport_height = size
        # Of pyrender's modes, segmentation is the one without materials, lights and multisampling.
        return offscreen.render(scene, pyrender.RenderFlags.SEG, dict.fromkeys(scene.mesh_nodes, 0))

    def delete(self) -> None:
        """Free all OpenGL resources."""
        self._program.delete()
        for frame, colour, depth in self._buffers.values():
            GL.glDeleteFramebuffers(1, [frame])
            GL.glDeleteRenderbuffers(2, [colour, depth])
        self._buffers = {}
        self._main_fb_ms = None
        super().delete()

    # The methods that follow replace pyrender's own.

    def _get_primitive_program(self, primitive: pyrender.Primitive, flags: int, program_flags: int) -> ShaderProgram:
        if not self._program._in_context():
            self._program._add_to_context()
        return self._program

    def _configure_main_framebuffer(self) -> None:
        size = self.viewport_width
        if size not in self._buffers:
            frame = GL.glGenFramebuffers(1)
            colour, depth = (int(name) for name in GL.glGenRenderbuffers(2))
            GL.glBindFramebuffer(GL.GL_DRAW_FRAMEBUFFER, frame)
            for name, kind, attachment in (
                (colour, GL.GL_RGBA32F, GL.GL_COLOR_ATTACHMENT0),
                (depth, GL.GL_DEPTH_COMPONENT32F, GL.GL_DEPTH_ATTACHMENT),
            ):
                GL.glBindRenderbuffer(GL.GL_RENDERBUFFER, name)
                GL.glRenderbufferStorage(GL.GL_RENDERBUFFER, kind, size, size)
                GL.glFramebufferRenderbuffer(GL.GL_DRAW_FRAMEBUFFER, attachment, GL.GL_RENDERBUFFER, name)
            self._buffers[size] = int(frame), colour, depth
        self._main_fb_ms = self._buffers[size][0]  # what pyrender draws into

    def _read_main_framebuffer(self, scene: pyrender.Scene, flags: int) -> NDArray[np.float32]:
        size = self.viewport_width
        GL.glBindFramebuffer(GL.GL_READ_FRAMEBUFFER, self._main_fb_ms)
        pixels = GL.glReadPixels(0, 0, size, size, GL.GL_RGBA, GL.GL_FLOAT)
        return np.asarray(pixels, np.float32).reshape(size, size, 4)[::-1]


class _Program(ShaderProgram):
    """A shader program made from source text instead of files."""

    def _load(self, source: str) -> str:
        return source.lstrip()
