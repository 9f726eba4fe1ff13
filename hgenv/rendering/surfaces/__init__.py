"""Batches of triangle meshes that share their triangles: what a morphable model deforms, seen pixel by pixel.

A pixel shows the triangle that is nearest to the camera at its centre, from either side (on an edge, the first in the
list); position and normal are interpolated between corners, corner normals being the sum of the area vectors of the
triangles around them.

Shadows are looked up in a second view, from the light, over the square around the mesh with `SHADOW_TEXELS` times as
many pixels along an edge: bilinear weights of four texels. Of the light that enters the mesh a distance t above a
point, exp(-t / SCATTER) arrives: thin parts glow, and the border of light and shade on a round part is soft (Green,
"Real-time approximations to subsurface scattering", GPU Gems, chapter 16).

`zbuffer` has the renderer and its torch form, `compiled` the same for a CPU; `embree` casts rays instead, and is the
oracle of both.
"""

from .fragments import Fragments, SurfaceRenderer
from .placing import CAMERA, depth_samples, fit, product, project, rotation, turn, unproject_normals
from .zbuffer import ZBuffer

__all__ = [
    "CAMERA",
    "Fragments",
    "SurfaceRenderer",
    "ZBuffer",
    "depth_samples",
    "fit",
    "product",
    "project",
    "rotation",
    "turn",
    "unproject_normals",
]
