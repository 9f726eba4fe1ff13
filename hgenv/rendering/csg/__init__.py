"""Solids made of primitives by union and difference: scenes in, frames out.

Four renderers that share nothing but the scene and the light model. What each needs is imported when it is first
asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .scene import Frame, Renderer, Scene

if TYPE_CHECKING:
    from .analytic import AnalyticRenderer
    from .blender import BlenderRenderer
    from .gl import PyrenderRenderer
    from .mesh import MeshRenderer

__all__ = ["AnalyticRenderer", "BlenderRenderer", "Frame", "MeshRenderer", "PyrenderRenderer", "Renderer", "Scene"]

_HOMES = {
    "AnalyticRenderer": ".analytic",
    "BlenderRenderer": ".blender",
    "MeshRenderer": ".mesh",
    "PyrenderRenderer": ".gl",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
