"""Renderers behind one protocol: scenes in, frames out."""

from __future__ import annotations

from .analytic import AnalyticRenderer
from .scene import Frame, Renderer, RenderError, Scene

RENDERERS = ("analytic", "mesh", "pyrender")

__all__ = ["RENDERERS", "AnalyticRenderer", "Frame", "RenderError", "Renderer", "Scene", "make_renderer"]


def make_renderer(name: str, *, size: int = 64, shadows: bool = True) -> Renderer:
    """A renderer by name; what the mesh routes need is imported only here.

    Raises:
        ValueError: The name is not in `RENDERERS`.
        RenderError: The libraries of this renderer are missing.
    """
    if name == "analytic":
        return AnalyticRenderer(size, shadows)
    if name == "mesh":
        from .mesh import MeshRenderer

        return MeshRenderer(size, shadows)
    if name == "pyrender":
        from .gl import PyrenderRenderer

        return PyrenderRenderer(size, shadows)
    raise ValueError(f"unknown renderer {name!r}; choose one of {', '.join(RENDERERS)}")
