"""Turning meshes, framing them, and making samples of what was seen of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...samples import DenseSamples
from ..framing import FIT
from .fragments import Fragments

CAMERA = 5.0  # depth of the middle of a mesh's bounding box, in halves of the frame's edge


def rotation(angles: Tensor) -> Tensor:
    """Rotations (B, 3, 3) for (B, 3) yaw, pitch and roll in radians, in this order about y, x and z.

    A face turns to the right of the image, then downwards, then anticlockwise.
    """
    (cy, cp, cr), (sy, sp, sr) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    yaw = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).unflatten(-1, (3, 3))
    pitch = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).unflatten(-1, (3, 3))
    roll = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).unflatten(-1, (3, 3))
    return _product(roll, _product(pitch, yaw))


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, 3, 3) times (B, 3), elementwise, so that bits do not depend on the batch."""
    return matrix[:, :, 0] * vector[:, :1] + matrix[:, :, 1] * vector[:, 1:2] + matrix[:, :, 2] * vector[:, 2:]


def turn(vertices: Tensor, rotation: Tensor) -> Tensor:
    """(B, V, 3) vertices turned by (B, 3, 3)."""
    r = rotation.to(vertices.dtype)[:, None]
    return r[..., 0] * vertices[..., :1] + r[..., 1] * vertices[..., 1:2] + r[..., 2] * vertices[..., 2:]


def fit(vertices: Tensor) -> Tensor:
    """Scale and centre meshes (B, V, 3) in the frame, in all three directions."""
    low, high = vertices.amin(1, keepdim=True), vertices.amax(1, keepdim=True)
    edge = (high - low)[..., :2].amax(-1, keepdim=True)
    return (vertices - (low + high) / 2) * (2 * FIT / edge)


def project(vertices: Tensor, distance: Tensor) -> Tensor:
    """Meshes (B, V, 3) as a camera sees them from `distance` (B,) before the origin, for parallel rays.

    The plane z = 0 keeps its scale: (x, y, z) is seen where (s x, s y, z) stands, with s = distance / (distance - z).
    """
    d = distance.to(vertices.dtype)[:, None]
    scale = d / (d - vertices[..., 2])
    return torch.stack([scale * vertices[..., 0], scale * vertices[..., 1], vertices[..., 2]], -1)


def unproject_normals(normal: Tensor, point: Tensor, distance: Tensor) -> Tensor:
    """What normals (B, 3, P) at points (B, 3, P) of `project`ed meshes are on the meshes themselves.

    A normal goes back by the transpose of the map's derivative. Zero stays zero.
    """
    d = distance.to(normal.dtype)[:, None]
    (nx, ny, nz), (x, y, z) = normal.unbind(1), point.unbind(1)
    scale = d / (d - z)
    back = torch.stack([scale * nx, scale * ny, nz + (x * nx + y * ny) / (d - z)], 1)
    length = (back[:, 0] ** 2 + back[:, 1] ** 2 + back[:, 2] ** 2).sqrt()
    return back / length.clamp(min=1e-20)[:, None]


def depth_samples(image: Tensor, seen: Fragments, size: int) -> DenseSamples:
    """Image (B, 3, P) and what was seen, as squares with their depth, which is zero outside the mask."""
    depth = (CAMERA - seen.point[:, 2]) * seen.mask
    square = (size, size)
    depth, mask = (x.unflatten(-1, square)[:, None] for x in (depth, seen.mask))
    return DenseSamples(image.unflatten(-1, square), depth, mask)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :1] * b[..., :1, :] + a[..., 1:2] * b[..., 1:2, :] + a[..., 2:] * b[..., 2:, :]
