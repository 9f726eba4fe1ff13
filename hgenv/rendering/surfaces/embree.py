"""Surfaces by ray casting (Embree): the oracle of the z-buffer, one mesh after the other on a CPU.

Nothing is shared with it but the conventions. Light is followed from outside toward the point itself, so that it has no
texels; a point is lifted by `LIFT` only.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene
from torch import Tensor

from ..framing import check_size, pixel_centres
from .fragments import SCATTER, Fragments, check_meshes, check_triangles

LIFT = 2e-3  # halves of the frame's edge


class EmbreeSurfaces:
    """See `hgenv.rendering.surfaces.SurfaceRenderer`.

    Args:
        triangles: (F, 3) int64, anticlockwise seen from outside.
        size: S, pixels along an edge.
        shadows: Whether a mesh casts shadows on itself.
    """

    def __init__(self, triangles: Tensor, size: int = 64, shadows: bool = True) -> None:
        self.size, self.shadows = check_size(size), shadows
        self.triangles = check_triangles(triangles)
        self._pixels = torch.stack(pixel_centres(size), 1).numpy()

    def __call__(self, vertices: Tensor, light: Tensor) -> Fragments:
        """Cast one ray a pixel, and one from the light."""
        check_meshes(vertices, light, self.triangles)
        meshes, lights = vertices.detach().cpu().numpy(), light.detach().cpu().numpy()
        seen = [self._see(mesh, toward) for mesh, toward in zip(meshes, lights, strict=True)]
        return Fragments(*(torch.from_numpy(np.stack(parts)).to(vertices.device) for parts in zip(*seen, strict=True)))

    def resized(self, size: int) -> EmbreeSurfaces:
        """See `SurfaceRenderer`."""
        return EmbreeSurfaces(self.triangles, size, self.shadows)

    def _see(self, vertices: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, ...]:
        triangles = self.triangles.numpy()
        rays = EmbreeScene(_device(), robust=True)
        TriangleMesh(rays, np.ascontiguousarray(vertices, np.float32), triangles.astype(np.int32))
        origins = np.insert(self._pixels, 2, vertices[:, 2].max() + 1, axis=1).astype(np.float32)
        hits = rays.run(origins, np.tile(np.array([0, 0, -1], np.float32), (len(origins), 1)), output=True)
        found = hits["primID"] >= 0
        triangle = np.where(found, hits["primID"], 0).astype(np.int64)
        u, v = hits["u"], hits["v"]
        weight = np.stack([1 - u - v, u, v]) * found
        corners = triangles[triangle]
        point = (weight.T[:, :, None] * vertices[corners]).sum(1)
        area = np.cross(
            vertices[triangles[:, 1]] - vertices[triangles[:, 0]], vertices[triangles[:, 2]] - vertices[triangles[:, 0]]
        )
        normals = np.zeros_like(vertices)
        for i in range(3):
            np.add.at(normals, triangles[:, i], area)
        normal = (weight.T[:, :, None] * normals[corners]).sum(1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        lit = np.ones(len(point))
        if self.shadows:
            far = 4.0  # beyond every mesh in the frame
            start = point + LIFT * normal + far * light
            toward = np.tile((-light).astype(np.float32), (len(start), 1))
            first = rays.run(start.astype(np.float32), toward, output=True)
            behind = np.where(first["primID"] >= 0, far - first["tfar"], 0)
            lit = np.exp(-np.maximum(behind, 0) / SCATTER)
        single = found.astype(np.float32)
        return (
            single,
            triangle,
            weight.astype(np.float32),
            (point.T * single).astype(np.float32),
            (normal.T * single).astype(np.float32),
            (lit * single).astype(np.float32),
        )


@functools.cache
def _device() -> EmbreeDevice:
    return EmbreeDevice()
