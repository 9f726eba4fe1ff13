"""What every renderer of this family takes and gives: CSG scenes in, frames out, in `framing`'s view coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import reduce
from typing import Protocol, Self

import torch
from torch import Tensor

from ...problem import RenderError
from ..shading.texture import Look

EMPTY, SPHERE, CUBE, CONE, TETRAHEDRON = -1, 0, 1, 2, 3
UNION, DIFFERENCE = 0, 1

# Shadow rays start this far above the surface, in view units (a pixel of a 64-px frame is 0.03).
SHADOW_OFFSET = 2e-3

# Corners of a regular tetrahedron of edge 1 around the origin are these times 1 / (2 sqrt 2).
TETRAHEDRON_CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


@dataclass(frozen=True)
class Scene(Look):
    """B objects, each a complete binary tree with L = 2**depth leaf slots, and the light they are seen in.

    A leaf is a convex primitive in its own coordinates, carried into the view by `linear @ x + offset`:

    | kind | solid in its own coordinates | size |
    | --- | --- | --- |
    | EMPTY (-1) | nothing | - |
    | SPHERE (0) | around the origin | radius, -, - |
    | CUBE (1) | axis-parallel, around the origin | half edge, -, - |
    | CONE (2) | truncated, axis z, from z = -h to h | radius at -h, radius at h, half height h |
    | TETRAHEDRON (3) | corners at edge / (2 sqrt 2) * `TETRAHEDRON_CORNERS` | edge, -, - |

    Attributes:
        kind: (B, L) int64. Slot 0, the leftmost leaf, is never empty.
        size: (B, L, 3) view units before `linear`.
        linear: (B, L, 3, 3).
        offset: (B, L, 3) view units.
        operator: (B, L - 1) int64, UNION or DIFFERENCE (left minus right) of the inner nodes in heap order: the
            children of node i are 2i + 1 and 2i + 2; node L - 1 + l is leaf slot l.
    """

    kind: Tensor
    size: Tensor
    linear: Tensor
    offset: Tensor
    operator: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | Tensor) -> Scene:
        return Scene(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def check_scene(scene: Scene) -> None:
    """Make sure that a scene can be rendered: an index beyond its end would read what is not there.

    Raises:
        RenderError: It cannot.
    """
    batch, leaves = scene.kind.shape if scene.kind.dim() == 2 else (-1, 0)
    if leaves < 1 or leaves & (leaves - 1):
        raise RenderError(f"kind must be (B, 2**depth), the leaf slots of trees, not {tuple(scene.kind.shape)}")
    waves = scene.phase.shape[-1] if scene.phase.dim() == 2 else 0
    shapes = {
        "size": (leaves, 3), "linear": (leaves, 3, 3), "offset": (leaves, 3), "operator": (leaves - 1,),
        "light": (3,), "ambient": (), "wave": (waves, 3), "phase": (waves,), "texture": (), "exposure": (),
        "contrast": (),
    }  # fmt: skip
    for name, shape in shapes.items():
        if (found := tuple(getattr(scene, name).shape)) != (batch, *shape):
            raise RenderError(f"{name} must be {(batch, *shape)} beside this kind, not {found}")
    if scene.kind.device.type != "cpu":
        return
    if bool(((scene.kind < EMPTY) | (scene.kind > TETRAHEDRON)).any()) or bool((scene.operator & ~1).any()):
        raise RenderError("kind must be -1 to 3, and operator 0 or 1, see Scene")
    for name in shapes:
        values = getattr(scene, name)
        if values.is_floating_point() and not values.isfinite().all():
            row = int((~values.reshape(batch, -1).isfinite().all(1)).nonzero()[0])
            raise RenderError(f"object {row} has {name} with values that are infinite or NaN")


def polarity(operator: Tensor) -> Tensor:
    """(B, L - 1) to (B, L): +1 where a leaf adds to the solid, -1 right of an odd number of differences."""
    sign = operator.new_ones(len(operator), 1)
    inner = 0
    while inner < operator.shape[1]:
        level = operator[:, inner : inner + sign.shape[1]]
        inner += level.shape[1]
        sign = torch.stack([sign, torch.where(level == DIFFERENCE, -sign, sign)], -1).flatten(1)
    return sign


def extent(kind: Tensor, size: Tensor, linear: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Exact lower and upper bounds of primitives along x, y, z of the view, (B, L, 3); of empty ones: anything.

    The arguments are those of `Scene`.
    """
    a, b, c = linear.unbind(-1)  # of each axis of the view, as the primitive sees it
    bottom, top, half = size[:, :, None].unbind(-1)
    flat, tall = (a * a + b * b).sqrt(), half * c
    ball, box = bottom * (a * a + b * b + c * c).sqrt(), bottom * (a.abs() + b.abs() + c.abs())
    corners = [bottom / (2 * math.sqrt(2)) * (a * x + b * y + c * z) for x, y, z in TETRAHEDRON_CORNERS]
    kind = kind[..., None]
    high = torch.where(kind == SPHERE, ball, box)
    high = torch.where(kind == CONE, torch.maximum(flat * bottom - tall, flat * top + tall), high)
    low = torch.where(kind == CONE, torch.minimum(-flat * bottom - tall, -flat * top + tall), -high)
    high = torch.where(kind == TETRAHEDRON, reduce(torch.maximum, corners), high)
    low = torch.where(kind == TETRAHEDRON, reduce(torch.minimum, corners), low)
    return low + offset, high + offset


@dataclass(frozen=True)
class Frame:
    """B rendered objects; zero wherever the mask is zero.

    Attributes:
        image: (B, 1, S, S) linear intensity, 0..1.
        normal: (B, 3, S, S) unit vectors.
        depth: (B, 1, S, S) z in view units, growing toward the camera.
        mask: (B, 1, S, S) 1.0 where a ray hits the object, else 0.0.
    """

    image: Tensor
    normal: Tensor
    depth: Tensor
    mask: Tensor


class Renderer(Protocol):
    """Anything that turns scenes into frames.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
    """

    size: int
    shadows: bool

    def __call__(self, scene: Scene) -> Frame:
        """Render all B objects of `scene`.

        Raises:
            RenderError: What this renderer needs is missing here, or an object cannot be rendered.
        """
        ...

    def resized(self, size: int) -> Self:
        """The same renderer with frames of another size in pixels."""
        ...
