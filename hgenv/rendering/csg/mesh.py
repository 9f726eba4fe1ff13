"""The mesh route: exact booleans of finely tessellated primitives (manifold3d), then ray casting (Embree).

Nothing is shared with the analytic renderer but the scene and the light model, so each is an oracle for the other. What
separates them is tessellation: chords instead of arcs (at most radius * (1 - cos(pi / segments)), 3e-4 of the radius at
128 segments) and flat facets instead of curved surfaces.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene
from manifold3d import Error, Manifold
from numpy.typing import NDArray
from torch import Tensor

from ...problem import RenderError
from ..framing import check_size, pixel_centres
from ..shading.texture import shade
from .scene import CONE, CUBE, EMPTY, SPHERE, UNION, Frame, Scene

# Shadow rays start this far above the surface, in view units: beyond float32 rounding, below anything visible.
_LIFT = 1e-4


def object_mesh(scene: Scene, index: int, segments: int = 128) -> trimesh.Trimesh:
    """The solid of one object as a watertight triangle mesh in view coordinates.

    Args:
        scene: B objects.
        index: Which of them.
        segments: Edges around a circle of a tessellated sphere or cone.

    Raises:
        RenderError: The object's tree leaves no solid, or a primitive of it is not valid.
    """
    solid = _solid(scene, index, segments)
    if solid.is_empty():
        raise RenderError(
            f"object {index} has no solid: its differences take everything away; choose another object or sample seed"
        )
    vertices, faces = triangles(solid)
    return trimesh.Trimesh(vertices, faces, process=False)


class MeshRenderer:
    """Renders by booleans of tessellated primitives and ray casting, one object at a time; see `Renderer`.

    Normals are those of the flat facet that is hit. Everything is computed on the CPU; frames return to the scene's
    device.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
        segments: Edges around a circle of a tessellated sphere or cone.
    """

    def __init__(self, size: int = 64, shadows: bool = True, segments: int = 128) -> None:
        self.size = check_size(size)
        self.shadows = shadows
        self.segments = segments
        self._pixels = torch.stack(pixel_centres(size), 1).numpy()

    def __call__(self, scene: Scene) -> Frame:
        """Render all B objects; one whose tree leaves no solid has an empty mask.

        Raises:
            RenderError: A primitive of an object is not valid.
        """
        return render(scene, self.size, self.segments, self._see)

    def resized(self, size: int) -> MeshRenderer:
        """See `Renderer`."""
        return MeshRenderer(size, self.shadows, self.segments)

    def _see(self, vertices: NDArray[np.float64], faces: NDArray[np.int64], light: NDArray[np.float64]) -> Surface:
        rays = EmbreeScene(_device(), robust=True)
        TriangleMesh(rays, vertices.astype(np.float32), faces.astype(np.int32))
        down = np.array([0, 0, -1], np.float32)
        origins = np.insert(self._pixels, 2, vertices[:, 2].max() + 1, axis=1)
        hits = rays.run(origins, np.tile(down, (len(origins), 1)), output=True)
        hit = hits["primID"] >= 0
        point = origins[hit] + np.outer(hits["tfar"][hit], down)
        normal = face_normals(vertices[faces[hits["primID"][hit]]])
        lit = np.ones(len(point), bool)
        if self.shadows:
            start = (point + _LIFT * normal).astype(np.float32)
            lit = rays.run(start, np.tile(light.astype(np.float32), (len(start), 1)), query="OCCLUDED") < 0
        return hit, normal, point, lit


# What is seen of one object in P = S * S pixels: which of them see it (P,); of those, normals (H, 3), points (H, 3) and
# whether the light reaches them (H,).
Surface = tuple[NDArray[np.bool_], NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]


def render(
    scene: Scene,
    size: int,
    segments: int,
    see: Callable[[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]], Surface],
) -> Frame:
    """Build each object's mesh, let `see` look at it, and shade what it saw.

    Args:
        scene: B objects.
        size: S, pixels along an edge.
        segments: Edges around a circle of a tessellated sphere or cone.
        see: From vertices (V, 3), faces (F, 3) and the direction (3,) toward the light to a `Surface`.
    """
    normal, point = (np.zeros((len(scene), size**2, 3), np.float32) for _ in range(2))
    lit, mask = (np.zeros((len(scene), size**2), np.float32) for _ in range(2))
    light = scene.light.detach().cpu().numpy().astype(np.float64)
    for i in range(len(scene)):
        solid = _solid(scene, i, segments)
        if not solid.is_empty():
            hit, normal[i, hit], point[i, hit], lit[i, hit] = see(*triangles(solid), light[i])
            mask[i] = hit

    def tensor(array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(scene.light.device)

    normals, points, inside = tensor(normal).transpose(1, 2), tensor(point).transpose(1, 2), tensor(mask)
    image = shade(scene, normals, points, tensor(lit), inside).float()
    shape = (len(scene), -1, size, size)
    return Frame(image.reshape(shape), normals.reshape(shape), points[:, 2].reshape(shape), inside.reshape(shape))


def triangles(solid: Manifold) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (V, 3) and outward faces (F, 3) of a solid."""
    mesh = solid.to_mesh64()
    return mesh.vert_properties[:, :3], mesh.tri_verts.astype(np.int64)


def face_normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outward unit normals (F, 3) of triangles (F, 3, 3); slivers without area get a finite vector near zero."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _solid(scene: Scene, index: int, segments: int) -> Manifold:
    """The solid of one object; it may be empty."""
    kinds, sizes = scene.kind[index].tolist(), scene.size[index].tolist()
    linears, offsets = scene.linear[index].tolist(), scene.offset[index].tolist()
    operators = scene.operator[index].tolist()
    leaves = [_leaf(*leaf, segments) for leaf in zip(kinds, sizes, linears, offsets, strict=True)]
    for slot, leaf in enumerate(leaves):
        # A boolean would take a failed operand for an empty one.
        if leaf.is_empty() and kinds[slot] != EMPTY:
            raise RenderError(
                f"object {index} cannot be built: the primitive in leaf slot {slot} has size {sizes[slot]}, linear "
                f"{linears[slot]}, offset {offsets[slot]}; sizes must be positive, all numbers finite"
            )
    nodes = [Manifold()] * len(operators) + leaves
    for node in reversed(range(len(operators))):
        left, right = nodes[2 * node + 1], nodes[2 * node + 2]
        nodes[node] = left + right if operators[node] == UNION else left - right
    if nodes[0].status() != Error.NoError:
        raise RenderError(f"object {index} cannot be built: manifold3d reports {nodes[0].status().name}")
    return nodes[0]


def _leaf(kind: int, size: list[float], linear: list[list[float]], offset: list[float], segments: int) -> Manifold:
    """One primitive, carried into the view."""
    if kind == EMPTY:
        return Manifold()
    if kind == SPHERE:
        solid = _unit_sphere(segments).scale((size[0],) * 3)
    elif kind == CUBE:
        solid = Manifold.cube((2 * size[0],) * 3, center=True)
    elif kind == CONE:
        solid = Manifold.cylinder(2 * size[2], size[0], size[1], segments, center=True)
    else:
        # manifold3d's tetrahedron has the corners of TETRAHEDRON_CORNERS.
        solid = Manifold.tetrahedron().scale((size[0] / (2 * math.sqrt(2)),) * 3)
    return solid.transform([[*row, shift] for row, shift in zip(linear, offset, strict=True)])


@functools.cache
def _unit_sphere(segments: int) -> Manifold:
    """Made once: tessellating takes as long as a boolean."""
    return Manifold.sphere(1, segments)


@functools.cache
def _device() -> EmbreeDevice:
    return EmbreeDevice()
