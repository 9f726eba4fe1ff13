from .csg import AnalyticRenderer, Frame, MeshRenderer, PyrenderRenderer, Renderer, Scene
from .surfaces import Fragments, SurfaceRenderer, ZBuffer

__all__ = [
    "AnalyticRenderer",
    "Fragments",
    "Frame",
    "MeshRenderer",
    "PyrenderRenderer",
    "Renderer",
    "Scene",
    "SurfaceRenderer",
    "ZBuffer",
]
