"""Generators, one a file or a folder, and what they share. What each needs is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faces import FaceGenerator
    from .quadratic import QuadraticGenerator
    from .shapes import ShapeGenerator

__all__ = ["FaceGenerator", "QuadraticGenerator", "ShapeGenerator"]

_HOMES = {"FaceGenerator": ".faces", "QuadraticGenerator": ".quadratic", "ShapeGenerator": ".shapes"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
