"""Exact CSG on rays: no meshes, no system packages, any device, bits independent of the batch.

This is the torch form: the reference, and what runs on a GPU. On a CPU `compiled` renders the same frames some twenty
times faster; where autograd is to go through the light, it finds the surfaces and torch shades them.

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

from ...device import compiled_kernels_serve
from ..framing import check_size, pixel_centres
from ..shading.texture import shade
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
    check_scene,
    extent,
    polarity,
)

Vector = tuple[Tensor, ...]  # x, y, z

TILE = 16  # pixels along the edge of a square whose rays are traced together, past the leaves that it can meet
ROW = 128  # hits of one leaf that are shaded together
MARGIN = 1e-4  # view units around a leaf's rectangle: more than its rounding
CACHED_RAYS = 2**18  # what stays in a core's cache
GPU_RAYS = 2**26  # what fills a GPU


class AnalyticRenderer:
    """The default renderer.

    Attributes:
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
    """

    def __init__(self, size: int = 64, shadows: bool = True) -> None:
        self.size = check_size(size)
        self.shadows = shadows

    def __call__(self, scene: Scene) -> Frame:
        """Render all objects; see `Renderer`."""
        check_scene(scene)
        if not compiled_kernels_serve(scene.kind):
            return self.render_torch(scene, GPU_RAYS)
        if scene.linear.requires_grad:
            return self.render_torch(scene)
        from .compiled import render  # late: loading or compiling the kernels takes a moment

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

    def resized(self, size: int) -> AnalyticRenderer:
        """See `Renderer`."""
        return AnalyticRenderer(size, self.shadows)

    def render_torch(self, scene: Scene, rays: int = CACHED_RAYS) -> Frame:
        """The torch form, on any device, for so many rays at once."""
        rows = max(1, rays // self.size**2)
        frames = [self._render(scene[i : i + rows]) for i in range(0, len(scene), rows)]
        return Frame(
            *(torch.cat(parts) for parts in zip(*((f.image, f.normal, f.depth, f.mask) for f in frames), strict=True))
        )

    def _render(self, scene: Scene) -> Frame:
        solid = _Solid(scene)
        pixel, within = _tiles(self.size, scene.kind.device)
        x, y = (axis[pixel] for axis in pixel_centres(self.size, scene.kind.device))
        shows = solid.shows(x, y)
        owner, tile = shows.any(1).nonzero(as_tuple=True)
        x, y, pixel = x[tile], y[tile], pixel[tile]
        down = torch.tensor([0.0, 0.0, -1.0], device=x.device).expand(len(owner), 3)
        t, leaf = solid.first_hit(owner, shows[owner, :, tile], (x, y, torch.zeros_like(x)), down, -math.inf)

        # From here on a row is filled with pixels that show one leaf of one object.
        leaves = torch.arange(scene.kind.shape[1], device=leaf.device, dtype=leaf.dtype)
        found = ((t < math.inf) & within[tile]).flatten()
        slot, ray = ((leaf.flatten() == leaves[:, None]) & found).nonzero(as_tuple=True)
        packed = _Packing(slot * len(scene) + owner.index_select(0, ray // TILE**2))
        slot, owner = packed.group // len(scene), packed.group % len(scene)
        x, y, z = (packed.fill(values.flatten().index_select(0, ray)) for values in (x, y, -t))
        point = torch.stack([x, y, z], 1)
        normal = solid.normal(point, slot, owner)
        lit = torch.ones_like(z)
        if self.shadows:
            start = (point + SHADOW_OFFSET * normal).unbind(1)
            used = (scene.kind != EMPTY)[owner]
            blocked, _ = solid.first_hit(owner, used, start, scene.light[owner].detach(), 0.0)
            lit = (blocked == math.inf).to(torch.float32)
        image = shade(scene[owner], normal, point, lit, torch.ones_like(z))

        place, pixel = packed.flat(owner[:, None].expand_as(z)), pixel.flatten().index_select(0, ray)

        def picture(channels: list[Tensor]) -> Tensor:
            flat = z.new_zeros(len(scene) * len(channels) * self.size**2)
            for i, values in enumerate(channels):
                at = (place * len(channels) + i) * self.size**2 + pixel
                flat = flat.scatter(0, at, packed.flat(values))
            return flat.reshape(len(scene), len(channels), self.size, self.size)

        return Frame(picture([image]), picture(list(normal.unbind(1))), picture([z]), picture([torch.ones_like(z)]))


def _tiles(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Squares of `TILE` pixels that cover a frame.

    Returns:
        (T, P) int64 pixel numbers, those beyond the frame's edge replaced by the nearest within; (T, P) bool, whether
        a pixel is within.
    """
    line = torch.arange(-(-size // TILE) * TILE, device=device).reshape(-1, TILE)
    row, column = torch.broadcast_tensors(line[:, None, :, None], line[None, :, None, :])
    pixel = row.clamp(max=size - 1) * size + column.clamp(max=size - 1)
    return pixel.reshape(-1, TILE**2), ((row < size) & (column < size)).reshape(-1, TILE**2)


class _Packing:
    """The places of flat values in rows of `ROW`, each row of one group, padded with repetitions.

    Attributes:
        group: (R,) the group of each row.
    """

    def __init__(self, groups: Tensor) -> None:
        """`groups` are those of the values, (N,) int64, values of one group side by side."""
        group, count = groups.unique_consecutive(return_counts=True)
        rows = (count + ROW - 1) // ROW
        self.group = group.repeat_interleave(rows)
        number = torch.arange(len(groups), device=groups.device)
        gaps = (rows.cumsum(0) - rows) * ROW - (count.cumsum(0) - count)
        self._place = number + gaps.repeat_interleave(count, output_size=len(groups))
        source = number.new_zeros(len(self.group) * ROW)
        source[self._place] = number
        self._source = source.cummax(0).values

    def fill(self, values: Tensor) -> Tensor:
        """(N,) to (R, P)."""
        return values.index_select(0, self._source).reshape(-1, ROW)

    def flat(self, values: Tensor) -> Tensor:
        """(R, P) to (N,)."""
        return values.flatten().index_select(0, self._place)


class _Solid:
    """The objects of a scene, with what rays need to know about their leaves."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.inverse = inverse(scene.linear)
        self.adds = polarity(scene.operator) > 0
        self.minus = scene.operator == DIFFERENCE

    @torch.no_grad()
    def shows(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, L, T) bool: whether a leaf can be met in a tile, by its exact rectangle; x, y are (T, P)."""
        scene = self.scene
        low, high = extent(scene.kind, scene.size, scene.linear, scene.offset)
        shows = (scene.kind != EMPTY)[..., None]
        for axis, line in enumerate((x, y)):
            above, below = line.amin(1) - MARGIN, line.amax(1) + MARGIN
            shows = shows & (high[..., axis, None] >= above) & (low[..., axis, None] <= below)
        return shows

    def first_hit(
        self, owner: Tensor, used: Tensor, origin: Vector, direction: Tensor, start: float
    ) -> tuple[Tensor, Tensor]:
        """The first time each ray enters its solid after `start`, and the leaf whose surface it meets there.

        Args:
            owner: (R,) the object that a row of rays is for.
            used: (R, L) bool, the leaves that the row can meet.
            origin: Three tensors (R, P), view coordinates, outside the solid.
            direction: (R, 3), one for all rays of a row.
            start: Parameter from which on hits count.

        Returns:
            (R, P) parameter, infinity where the ray misses; (R, P) int8 leaf slot.
        """
        scene, leaves = self.scene, used.shape[1]
        shape = origin[0].shape
        kinds = scene.kind[owner].masked_fill(~used, EMPTY)
        # All that the host has to know of the leaves, in one answer: how many rows meet both of two, and of each kind.
        numbers = torch.stack([(kinds == kind).sum() for kind, _ in INTERVALS])
        known = torch.cat([(used.T.float() @ used.float()).flatten(), numbers]).tolist()
        both = [[int(n) for n in known[i * leaves : (i + 1) * leaves]] for i in range(leaves)]
        of_kind = [int(n) for n in known[leaves**2 :]]
        # What a row meets of a leaf stands at pair[leaf, row] of enter and leave, kind by kind; 0 is nothing.
        slots, rows = used.T.nonzero(as_tuple=True)
        by_kind = kinds[rows, slots].argsort(stable=True)
        pair = torch.zeros(leaves, len(owner), dtype=torch.int64, device=owner.device)
        pair[slots[by_kind], rows[by_kind]] = torch.arange(1, len(rows) + 1, device=owner.device)
        enter = [direction.new_full((1, shape[1]), math.inf)]
        leave = [direction.new_full((1, shape[1]), -math.inf)]
        for at, (_, interval) in zip(by_kind.split(of_kind), INTERVALS, strict=True):
            if len(at) == 0:
                continue
            row, slot = rows[at], slots[at]
            at = owner[row]
            m, d = self.inverse[at, slot], direction[row]
            c, size = scene.offset[at, slot, :, None], scene.size[at, slot, :, None]
            o = [origin[a].index_select(0, row) - c[:, a] for a in range(3)]
            local_o = tuple(m[:, a, :1] * o[0] + m[:, a, 1:2] * o[1] + m[:, a, 2:] * o[2] for a in range(3))
            local_d = tuple(
                m[:, a, :1] * d[:, :1] + m[:, a, 1:2] * d[:, 1:2] + m[:, a, 2:] * d[:, 2:] for a in range(3)
            )
            t_in, t_out = interval(local_o, local_d, size)
            misses = t_in >= t_out
            enter.append(t_in.masked_fill_(misses, math.inf))
            leave.append(t_out.masked_fill_(misses, -math.inf))

        def interval_of(leaf: int, rows: Tensor) -> tuple[Tensor, Tensor]:
            at = pair[leaf, rows]
            return entered.index_select(0, at), left.index_select(0, at)

        entered, left = torch.cat(enter), torch.cat(leave)
        best = direction.new_full(shape, math.inf)
        which = torch.zeros(shape, dtype=torch.int8, device=best.device)
        for leaf, row in enumerate(rows.split([both[leaf][leaf] for leaf in range(leaves)])):
            if len(row) == 0:
                continue
            adds, minus = self.adds[owner[row], leaf, None], self.minus[owner[row]]
            t = torch.where(adds, *interval_of(leaf, row))
            inside: list[Tensor | None] = [None] * leaves
            for other in range(leaves):
                if both[leaf][other]:
                    t_in, t_out = interval_of(other, row)
                    inside[other] = (t_in <= t) & (t < t_out)
            inside[leaf] = adds & (t < math.inf)
            so_far = best.index_select(0, row)
            better = _combine(inside, minus) & (t > start) & (t < so_far)
            best[row] = torch.where(better, t, so_far)
            which[row] = which.index_select(0, row).masked_fill_(better, leaf)
        return best, which

    def normal(self, point: Tensor, leaf: Tensor, owner: Tensor) -> Tensor:
        """Unit normals (R, 3, P) of the surface at points (R, 3, P), each row on one leaf (R,) of an object (R,)."""
        m = self.inverse[owner, leaf]
        o = [point[:, a] - self.scene.offset[owner, leaf, a, None] for a in range(3)]
        local = torch.stack([m[:, a, :1] * o[0] + m[:, a, 1:2] * o[1] + m[:, a, 2:] * o[2] for a in range(3)], 1)
        kind, size = self.scene.kind[owner, leaf], self.scene.size[owner, leaf]
        gradient = local.clone()  # a sphere's
        numbers = torch.stack([(kind == solid).sum() for solid, _ in INTERVALS]).tolist()
        for at, outward in zip(kind.argsort(stable=True).split(numbers), OUTWARD, strict=True):
            if outward is not None:
                gradient[at] = outward(local[at], size[at, :, None])
        n = gradient.unbind(1)  # through the inverse transpose
        g = [m[:, 0, a, None] * n[0] + m[:, 1, a, None] * n[1] + m[:, 2, a, None] * n[2] for a in range(3)]
        length = (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]).sqrt().clamp(min=1e-20)
        sign = torch.where(self.adds[owner, leaf], 1.0, -1.0)[:, None]
        return torch.stack(g, 1) * (sign / length)[:, None]


def _combine(inside: list[Tensor | None], minus: Tensor) -> Tensor:
    """Evaluate trees bottom-up on (R, P) memberships of their leaves, None where no row is inside.

    `minus` is (R, L - 1), whether an inner node is a difference.
    """
    while len(inside) > 1:
        first = len(inside) // 2 - 1  # heap index of the level above
        level = []
        for i, (left, right) in enumerate(zip(inside[::2], inside[1::2], strict=True)):
            if right is None:
                level.append(left)
                continue
            subtracts = minus[:, first + i, None]
            if left is None:
                level.append(right & ~subtracts)
            else:
                level.append((left | right) ^ (right & subtracts))
        inside = level
    assert inside[0] is not None  # the leaf in question is never None
    return inside[0]


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of (..., 3, 3) by cofactors."""
    a, b, c = matrix.unbind(-2)
    bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
    determinant = a[..., 0] * bc[..., 0] + a[..., 1] * bc[..., 1] + a[..., 2] * bc[..., 2]
    return torch.stack([bc, ca, ab], -1) / determinant[..., None, None]


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


# And these take points (n, 3, P) on a primitive's surface and return vectors along its outward normals.


def _cube_outward(point: Tensor, size: Tensor) -> Tensor:
    x, y, z = point.abs().unbind(1)
    on_x = (x >= y) & (x >= z)
    on_y = ~on_x & (y >= z)
    return torch.where(torch.stack([on_x, on_y, ~on_x & ~on_y], 1), point.sign(), 0.0)


def _cone_outward(point: Tensor, size: Tensor) -> Tensor:
    x, y, z = point.unbind(1)
    bottom, top, half = size.unbind(1)
    slope = (top - bottom) / (2 * half)
    radius = (x * x + y * y).sqrt()
    # Of the two constraints, the surface is where the distance is closer to zero.
    side = (radius - (bottom + top) / 2 - slope * z) / (1 + slope * slope).sqrt()
    cap = z.abs() - half
    flat = torch.zeros_like(z)
    on_side, on_cap = torch.stack([x, y, -slope * radius], 1), torch.stack([flat, flat, z.sign()], 1)
    return torch.where((side > cap)[:, None], on_side, on_cap)


def _tetrahedron_outward(point: Tensor, size: Tensor) -> Tensor:
    lowest, outward = torch.full_like(point[:, 0], math.inf), torch.zeros_like(point)
    for corner in TETRAHEDRON_CORNERS:
        height = point[:, 0] * corner[0] + point[:, 1] * corner[1] + point[:, 2] * corner[2]
        # On the face opposite this corner, as far as is known.
        opposite = (height < lowest)[:, None]
        outward = torch.where(opposite, -point.new_tensor(corner)[:, None], outward)
        lowest = torch.minimum(height, lowest)
    return outward


# By kind, in ascending order.
INTERVALS = ((SPHERE, _sphere), (CUBE, _cube), (CONE, _cone), (TETRAHEDRON, _tetrahedron))
OUTWARD = (None, _cube_outward, _cone_outward, _tetrahedron_outward)
