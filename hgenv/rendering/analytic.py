"""Exact CSG on rays: no meshes, no system packages, any device, bits independent of the batch.

This is the torch form: the reference, and what runs on a GPU. On a CPU `analytic_numba` renders the same frames some
twenty times faster; where autograd is to go through the light, it finds the surfaces and torch shades them.

Every convex primitive meets a ray in one interval [t_in, t_out]. From outside, a ray enters the solid either where it
enters a primitive that adds, or where it leaves one that is subtracted; so each leaf offers one candidate, and the
first candidate behind which the whole tree says "inside" is the surface. Shadows are the same question asked toward
the light.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import torch
from torch import Tensor

from .scene import (
    CONE,
    CUBE,
    DIFFERENCE,
    EMPTY,
    SHADOW_OFFSET,
    SPHERE,
    TETRAHEDRON,
    TETRAHEDRON_CORNERS,
    Frame,
    Scene,
    pixel_centres,
    polarity,
)
from .shading import shade

Vector = tuple[Tensor, ...]  # x, y, z


class AnalyticRenderer:
    """The default renderer.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
    """

    def __init__(self, size: int = 64, shadows: bool = True) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {size}")
        self.size = size
        self.shadows = shadows

    def __call__(self, scene: Scene) -> Frame:
        """Render all objects; see `Renderer`."""
        if scene.kind.device.type != "cpu" or scene.linear.requires_grad:
            return self.render_torch(scene)
        from .analytic_numba import render  # late: compiling or loading the kernel takes a moment

        if not any(getattr(scene, f.name).requires_grad for f in fields(scene)):
            return render(scene, self.size, self.shadows)
        # White matter in direct light alone shows what is lit; where the light only grazes, it does not matter.
        nothing, one = torch.zeros(len(scene)), torch.ones(len(scene))
        plain = {f.name: getattr(scene, f.name).detach() for f in fields(scene)}
        plain |= {"ambient": nothing, "texture": nothing, "exposure": one, "contrast": one}
        frame = render(Scene(**plain), self.size, self.shadows)
        x, y = pixel_centres(self.size)
        mask, z = frame.mask.flatten(1), frame.depth.flatten(1)
        lit = (frame.image.flatten(1) > 2e-4).to(torch.float32)
        image = shade(scene, frame.normal.flatten(2), torch.stack([x * mask, y * mask, z], 1), lit, mask)
        return replace(frame, image=image.reshape(frame.image.shape))

    def render_torch(self, scene: Scene) -> Frame:
        """The torch form, on any device."""
        rows = max(1, 2**17 // self.size**2)  # what stays in a core's cache
        if scene.kind.device.type != "cpu":
            rows *= 256
        frames = [self._render(scene[i : i + rows]) for i in range(0, len(scene), rows)]
        return Frame(
            *(torch.cat(parts) for parts in zip(*((f.image, f.normal, f.depth, f.mask) for f in frames), strict=True))
        )

    def _render(self, scene: Scene) -> Frame:
        x, y = pixel_centres(self.size, scene.kind.device)
        solid = _Solid(scene)
        down = torch.tensor([0.0, 0.0, -1.0], device=x.device).expand(len(scene), 3)
        zero = torch.zeros_like(x)
        hit, leaf = solid.first_hit((x[None], y[None], zero[None]), down, -math.inf)
        found = hit < math.inf
        mask = found.to(torch.float32)
        z = torch.where(found, -hit, 0.0)
        point = torch.stack([x * mask, y * mask, z], 1)
        normal = solid.normal(point, leaf, found)
        lit = torch.ones_like(mask)
        if self.shadows:
            start = point + SHADOW_OFFSET * normal
            blocked, _ = solid.first_hit((start[:, 0], start[:, 1], start[:, 2]), scene.light.detach(), 0.0)
            lit = (blocked == math.inf).to(torch.float32)
        image = shade(scene, normal, point, lit, mask)
        square = (self.size, self.size)
        return Frame(
            image.unflatten(-1, square)[:, None],
            normal.unflatten(-1, square),
            z.unflatten(-1, square)[:, None],
            mask.unflatten(-1, square)[:, None],
        )


class _Solid:
    """The objects of a scene, with what rays need to know about their leaves."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.inverse = inverse(scene.linear)
        self.adds = polarity(scene.operator) > 0

    def first_hit(self, origin: Vector, direction: Tensor, start: float) -> tuple[Tensor, Tensor]:
        """The first time each ray enters the solid after `start`, and the leaf whose surface it meets there.

        Args:
            origin: Three tensors (B or 1, P), view coordinates, outside the solid.
            direction: (B, 3), one for all rays of an object.
            start: Parameter from which on hits count.

        Returns:
            (B, P) parameter, infinity where the ray misses; (B, P) int64 leaf slot.
        """
        scene = self.scene
        batch, leaves = scene.kind.shape
        pixels = origin[0].shape[1]
        enter = direction.new_full((leaves, batch, pixels), math.inf)
        leave = direction.new_full((leaves, batch, pixels), -math.inf)
        for kind, interval in ((SPHERE, _sphere), (CUBE, _cube), (CONE, _cone), (TETRAHEDRON, _tetrahedron)):
            row, slot = (scene.kind == kind).nonzero(as_tuple=True)
            if len(row) == 0:
                continue
            m, size = self.inverse[row, slot][..., None, :], scene.size[row, slot, :, None]
            o = tuple(
                (x[row] if len(x) == batch else x) - c[:, None]
                for x, c in zip(origin, scene.offset[row, slot].unbind(-1), strict=True)
            )
            d = direction[row]
            local_o = tuple(m[:, a, :, 0] * o[0] + m[:, a, :, 1] * o[1] + m[:, a, :, 2] * o[2] for a in range(3))
            local_d = tuple(
                m[:, a, :, 0] * d[:, :1] + m[:, a, :, 1] * d[:, 1:2] + m[:, a, :, 2] * d[:, 2:] for a in range(3)
            )
            t_in, t_out = interval(local_o, local_d, size)
            misses = t_in >= t_out
            enter[slot, row] = t_in.masked_fill_(misses, math.inf)
            leave[slot, row] = t_out.masked_fill_(misses, -math.inf)

        best = direction.new_full((batch, pixels), math.inf)
        which = torch.zeros(batch, pixels, dtype=torch.int64, device=best.device)
        used = scene.kind != EMPTY
        for leaf in range(leaves):
            rows = used[:, leaf].nonzero()[:, 0]
            if len(rows) == 0:
                continue
            adds = self.adds[rows, leaf, None]
            t = torch.where(adds, enter[leaf, rows], leave[leaf, rows])
            inside = [
                (enter[other, rows] <= t) & (t < leave[other, rows]) if bool(used[rows, other].any()) else None
                for other in range(leaves)
            ]
            inside[leaf] = adds.expand_as(t) & (t < math.inf)
            solid = self._combine(inside, rows)
            better = solid & (t > start) & (t < best[rows])
            best[rows] = torch.where(better, t, best[rows])
            which[rows] = torch.where(better, leaf, which[rows])
        return best, which

    def _combine(self, inside: list[Tensor | None], rows: Tensor) -> Tensor:
        """Evaluate the tree bottom-up on (B, P) memberships of its leaves; None is nowhere inside."""
        while len(inside) > 1:
            first = len(inside) // 2 - 1  # heap index of the level above
            level = []
            for i, (left, right) in enumerate(zip(inside[::2], inside[1::2], strict=True)):
                if right is None or left is None:
                    level.append(left)
                    continue
                minus = (self.scene.operator[rows, first + i] == DIFFERENCE)[:, None]
                level.append((left | (right & ~minus)) & ~(right & minus))
            inside = level
        assert inside[0] is not None  # the leftmost leaf is never empty
        return inside[0]

    def normal(self, point: Tensor, leaf: Tensor, found: Tensor) -> Tensor:
        """Unit normals (B, 3, P) of the surface at points (B, 3, P) on leaves (B, P); zero where nothing was found."""
        scene = self.scene
        row, pixel = found.nonzero(as_tuple=True)
        slot = leaf[row, pixel]
        kind, size, m = scene.kind[row, slot], scene.size[row, slot], self.inverse[row, slot]
        o = point[row, :, pixel] - scene.offset[row, slot]
        p = (m * o[:, None]).unbind(-1)
        local = p[0] + p[1] + p[2]
        gradient = torch.where((kind == SPHERE)[:, None], local, 0.0)

        at = (kind == CUBE).nonzero()[:, 0]
        gradient[at] = _one_hot(local[at].abs().argmax(-1), 3) * local[at].sign()

        at = (kind == CONE).nonzero()[:, 0]
        bottom, top, half = size[at].unbind(-1)
        x, y, z = local[at].unbind(-1)
        slope = (top - bottom) / (2 * half)
        radius = (x * x + y * y).sqrt()
        # Of the two constraints, the surface is where the distance is closer to zero.
        side = (radius - (bottom + top) / 2 - slope * z) / (1 + slope * slope).sqrt()
        cap = z.abs() - half
        on_side = torch.stack([x, y, -slope * radius], -1)
        on_cap = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z.sign()], -1)
        gradient[at] = torch.where((side > cap)[:, None], on_side, on_cap)

        at = (kind == TETRAHEDRON).nonzero()[:, 0]
        corners = torch.tensor(TETRAHEDRON_CORNERS, device=point.device)
        heights = torch.stack([local[at, 0] * c[0] + local[at, 1] * c[1] + local[at, 2] * c[2] for c in corners], -1)
        gradient[at] = -corners[heights.argmin(-1)]

        g = gradient[:, 0:1] * m[:, 0] + gradient[:, 1:2] * m[:, 1] + gradient[:, 2:3] * m[:, 2]  # inverse transpose
        length = (g[:, 0:1] ** 2 + g[:, 1:2] ** 2 + g[:, 2:3] ** 2).sqrt().clamp(min=1e-20)
        sign = torch.where(self.adds[row, slot], 1.0, -1.0)[:, None]
        normal = torch.zeros_like(point)
        normal[row, :, pixel] = sign * g / length
        return normal


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of (..., 3, 3) by cofactors."""
    a, b, c = matrix.unbind(-2)
    bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
    determinant = a[..., 0] * bc[..., 0] + a[..., 1] * bc[..., 1] + a[..., 2] * bc[..., 2]
    return torch.stack([bc, ca, ab], -1) / determinant[..., None, None]


def _one_hot(index: Tensor, count: int) -> Tensor:
    return (index[:, None] == torch.arange(count, device=index.device)).to(torch.float32)


# Each of these takes rays in a primitive's own coordinates, origin (n, P) and direction (n, 1), and its size (n, 3, 1),
# and returns the parameters (n, P) at which they enter and leave it; entering at or after leaving is a miss.


def _sphere(o: Vector, d: Vector, size: Tensor) -> tuple[Tensor, Tensor]:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    nearest = -(o[0] * d[0] + o[1] * d[1] + o[2] * d[2]) / a
    # The discriminant from the point of nearest approach: no cancellation for far origins.
    x, y, z = o[0] + nearest * d[0], o[1] + nearest * d[1], o[2] + nearest * d[2]
    half = ((size[:, 0] ** 2 - (x * x + y * y + z * z)) / a).clamp_(min=0).sqrt_()
    return nearest - half, nearest + half


def _slab(o: Tensor, d: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """low <= o + t d <= high."""
    step = 1 / torch.where(d.abs() < 1e-12, 1e-12, d)
    a, b = (low - o) * step, (high - o) * step
    return torch.minimum(a, b), torch.maximum(a, b)


def _cube(o: Vector, d: Vector, size: Tensor) -> tuple[Tensor, Tensor]:
    half = size[:, 0]
    t_in, t_out = _slab(o[0], d[0], -half, half)
    for axis in (1, 2):
        low, high = _slab(o[axis], d[axis], -half, half)
        t_in, t_out = torch.maximum(t_in, low), torch.minimum(t_out, high)
    return t_in, t_out


def _tetrahedron(o: Vector, d: Vector, size: Tensor) -> tuple[Tensor, Tensor]:
    distance = size[:, 0] / (2 * math.sqrt(2))  # of the face's plane, times sqrt(3): corner . x >= -distance
    t_in, t_out = torch.full_like(o[0], -math.inf), torch.full_like(o[0], math.inf)
    for corner in TETRAHEDRON_CORNERS:
        height = corner[0] * o[0] + corner[1] * o[1] + corner[2] * o[2] + distance
        rate = corner[0] * d[0] + corner[1] * d[1] + corner[2] * d[2]
        t = height * (-1 / torch.where(rate.abs() < 1e-12, 1e-12, rate))
        t_in = torch.where(rate > 0, torch.maximum(t_in, t), t_in)
        t_out = torch.where(rate > 0, t_out, torch.minimum(t_out, t))
    return t_in, t_out


def _cone(o: Vector, d: Vector, size: Tensor) -> tuple[Tensor, Tensor]:
    bottom, top, half = size[:, 0], size[:, 1], size[:, 2]
    slope = (top - bottom) / (2 * half)
    t_in, t_out = _slab(o[2], d[2], -half, half)
    # Inside the side where |(x, y)| <= r along the ray; r and its rate are linear in t: a t^2 + 2 b t + c <= 0.
    r, rate = (bottom + top) / 2 + slope * o[2], slope * d[2]
    a = d[0] * d[0] + d[1] * d[1] - rate * rate
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    b = o[0] * d[0] + o[1] * d[1] - r * rate
    c = o[0] * o[0] + o[1] * o[1] - r * r
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt_()
    q = -(b + torch.where(b < 0, -root, root))
    one, two = q / a, c / torch.where(q == 0, 1e-20, q)
    near, far = torch.minimum(one, two), torch.maximum(one, two)
    # Steeper than the side (a < 0), a ray is inside before the near root or after the far one: where r grows.
    convex = a > 0
    t_in = torch.maximum(t_in, torch.where(convex, near, torch.where(rate > 0, far, -math.inf)))
    t_out = torch.minimum(t_out, torch.where(convex, far, torch.where(rate > 0, math.inf, near)))
    # No roots: a flat ray misses, a steep one stays inside.
    return t_in, torch.where((discriminant < 0) & convex, -math.inf, t_out)
