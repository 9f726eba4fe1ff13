"""The analytic renderer on a CPU, compiled: the same surfaces, shadows and light model as `analytic`, tile by tile.

Rays are parallel: those of the camera look down -z, those of the shadows toward the light. In coordinates (u, v, t)
with t along the rays, every leaf is a closed form of (u, v): a face is met at t affine in (u, v), a sphere or a cone's
side at an affine t plus or minus the root of a quadratic. So a leaf is some thirty coefficients per direction, worked
out once per object in double precision and moved to the middle of each tile, where single precision loses nothing; a
ray then costs a few vector instructions per leaf.

Per tile, only leaves whose rectangle on the screen touches it are looked at, and of these only those that can decide:
what is subtracted from nothing disappears, and entering a leaf makes a union solid whatever its sibling says. The state
of the tree behind an event is one bit per leaf slot, folded in halves, a level of the tree at a time.

All loops over rays are branch-free elementwise arithmetic, neither reassociated nor contracted: the bits depend neither
on how the compiler vectorizes nor on batch or threads.
"""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...jit import njit
from ...problem import RenderError
from ..elementary import cos_turns as _cos_turns
from ..elementary import exp2 as _exp2
from ..elementary import log2 as _log2
from ..elementary import sqrt as _sqrt
from ..elementary import where as _where
from .scene import CONE, CUBE, DIFFERENCE, EMPTY, SHADOW_OFFSET, SPHERE, TETRAHEDRON_CORNERS, Frame, Scene

LARGEST = 32  # leaf slots: one bit each

# Tiles of WIDTH x HEIGHT pixels: their rays fill a few vector registers, their data stays in the first-level cache.
WIDTH, HEIGHT = 8, 8
RAYS = WIDTH * HEIGHT
CHUNK = 16  # objects that a thread takes at a time

# Plain integers as arguments would have every function compiled once per value.
_integers = np.arange(64)

# Rows of the single-precision scratch, each of RAYS numbers.
_DX, _DY, _T, _NX, _NY, _NZ, _SHADE, _U, _V, _W, _LIT, _WAVES, _ENTER = _integers[:13]
_LEAVE = _ENTER + LARGEST
_ROWS = int(_LEAVE) + LARGEST
# Rows of the integer scratch.
_WHICH, _BITS, _BLOCKER = _integers[:3]

# The two directions of rays.
_CAMERA, _LIGHT = _integers[:2]
# Coefficients of a leaf seen along one of them: (1, u, v) of t at three faces where rays enter and three where they
# leave; then of a quadric's middle (or b), (1, u, v), and of the square of its half length (or discriminant) and of c,
# (1, u, v, u^2, u v, v^2); then a, and the rate at which a cone's radius grows.
_FACES_IN, _FACES_OUT, _MIDDLE, _SQUARE, _CONSTANT, _A, _RATE = _integers[[0, 9, 18, 21, 27, 33, 34]]
_FORM = 35
# How they are used.
_ROUND, _FLAT, _SIDE, _STEEP = _integers[:4]

# Rows of a tree's record, see `_read_tree`.
_ADDS, _RELEVANT, _ASSUMED, _UNIONS, _MINUSES, _LEFTS, _RIGHTS, _COUNTS = range(8)

_ZERO, _ONE, _TWO, _HALF, _QUARTER = (np.float32(x) for x in (0, 1, 2, 0.5, 0.25))
_INFINITY = np.float32(math.inf)
_TINY = np.float32(1e-20)
_LOG2E = np.float32(1 / math.log(2))
_DARKEST = np.float32(1e-4)
_CORNERS = np.array(TETRAHEDRON_CORNERS)
_OFFSET = np.float32(SHADOW_OFFSET)

_compiled = njit(error_model="numpy")
# Minima and maxima do not depend on the order; without these two flags they are not vectorized.
_compiled_extremum = njit(error_model="numpy", fastmath={"nnan", "nsz"})


def render(scene: Scene, size: int, shadows: bool, threads: int | None = None) -> Frame:
    """Render all objects of a scene on the CPU.

    Args:
        scene: B objects of at most 32 leaf slots, float32, on the CPU, without gradients.
        size: S, pixels along an edge.
        shadows: Whether the object casts shadows on itself.
        threads: At most so many threads; by default as many as torch uses. The bits do not depend on it.

    Returns:
        The frame that the torch form renders, but for rounding.

    Raises:
        RenderError: The objects have too many leaves.
    """
    leaves = scene.kind.shape[1]
    if leaves > LARGEST:
        raise RenderError(f"the compiled renderer takes trees of at most {LARGEST} leaf slots, not {leaves}")
    batch = len(scene)
    image = torch.empty(batch, 1, size, size, dtype=torch.float32)
    normal = torch.empty(batch, 3, size, size, dtype=torch.float32)
    depth = torch.empty(batch, 1, size, size, dtype=torch.float32)
    mask = torch.empty(batch, 1, size, size, dtype=torch.float32)
    inputs = [
        np.ascontiguousarray(x.numpy())
        for x in (
            scene.kind, scene.size, scene.linear, scene.offset, scene.operator, scene.light, scene.ambient, scene.wave,
            scene.phase, scene.texture, scene.exposure, scene.contrast,
        )
    ]  # fmt: skip
    outputs = [x.view(-1).numpy() for x in (image, normal, depth, mask)]

    def chunk(first: int) -> None:
        _render(first, min(first + CHUNK, batch), size, shadows, *inputs, *outputs)

    firsts = range(0, batch, CHUNK)
    threads = min(torch.get_num_threads() if threads is None else threads, len(firsts))
    if threads <= 1:
        _render(0, batch, size, shadows, *inputs, *outputs)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(chunk, firsts))
    return Frame(image, normal, depth, mask)


# --- An object: coefficients of its leaves, its tree ------------------------------------------------------------------


@_compiled
def _dot(p, i, j, sign):
    """Product of rows i and j of p with the metric (1, 1, sign)."""
    return p[i, 0] * p[j, 0] + p[i, 1] * p[j, 1] + sign * p[i, 2] * p[j, 2]


@_compiled
def _quadratic(form, view, leaf, at, p, sign, factor):
    """Coefficients of factor * <x, x>, x = p[0] + u p[1] + v p[2]."""
    form[view, leaf, at] = factor * _dot(p, 0, 0, sign)
    form[view, leaf, at + 1] = factor * 2 * _dot(p, 0, 1, sign)
    form[view, leaf, at + 2] = factor * 2 * _dot(p, 0, 2, sign)
    form[view, leaf, at + 3] = factor * _dot(p, 1, 1, sign)
    form[view, leaf, at + 4] = factor * 2 * _dot(p, 1, 2, sign)
    form[view, leaf, at + 5] = factor * _dot(p, 2, 2, sign)


@_compiled
def _invert(matrices, row, leaf, inverse):
    """Inverse of a leaf's linear part, by cofactors, in double precision."""
    determinant = 0.0
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            first = np.float64(matrices[row, leaf, j, b]) * np.float64(matrices[row, leaf, k, c])
            second = np.float64(matrices[row, leaf, j, c]) * np.float64(matrices[row, leaf, k, b])
            inverse[a, i] = first - second
        determinant += matrices[row, leaf, i, 0] * inverse[0, i]
    for a in range(3):
        for i in range(3):
            inverse[a, i] /= determinant


@_compiled
def _nonzero(rate):
    """Rays parallel to a face meet it very far away."""
    return 1e-12 if abs(rate) < 1e-12 else rate


@_compiled
def _add_face(form, view, leaf, counts, faces, nx, ny, nz, height, rate, p, inverse):
    """The face n . x <= height of a leaf, in its own coordinates; p holds its rays' origin, u, v and direction d.

    `rate` is n . d, kept from zero.
    """
    leaves = 1 if rate > 0 else 0
    at = counts[leaves]
    counts[leaves] += 1
    for i in range(3):
        along = nx * p[i, 0] + ny * p[i, 1] + nz * p[i, 2]
        form[view, leaf, 9 * leaves + 3 * at + i] = ((height if i == 0 else 0.0) - along) / rate
    x = nx * inverse[0, 0] + ny * inverse[1, 0] + nz * inverse[2, 0]
    y = nx * inverse[0, 1] + ny * inverse[1, 1] + nz * inverse[2, 1]
    z = nx * inverse[0, 2] + ny * inverse[1, 2] + nz * inverse[2, 2]
    length = math.sqrt(x * x + y * y + z * z)
    faces[view, leaf, leaves, at, 0] = x / length
    faces[view, leaf, leaves, at, 1] = y / length
    faces[view, leaf, leaves, at, 2] = z / length


@_compiled
def _add_leaf(kind, sizes, offsets, row, leaf, view, inverse, basis, form, faces, gradient, p, counts):
    """Fill in a leaf's coefficients for rays u basis[0] + v basis[1] + t basis[2], and the normals of its surfaces.

    `faces` (2 views, leaves, 2, 3, 3): of the faces where rays enter and leave; `gradient` (2 views, leaves, 4, 3): of
    a quadric, at 1, u, v, t. `p` (4, 3) and `counts` (2) are scratch.
    """
    for a in range(3):
        p[0, a] = 0.0
        for i in range(3):
            p[0, a] -= inverse[a, i] * offsets[row, leaf, i]
            p[i + 1, a] = (
                inverse[a, 0] * basis[view, i, 0]
                + inverse[a, 1] * basis[view, i, 1]
                + inverse[a, 2] * basis[view, i, 2]
            )
    size0, size1, size2 = (
        np.float64(sizes[row, leaf, 0]), np.float64(sizes[row, leaf, 1]), np.float64(sizes[row, leaf, 2])
    )  # fmt: skip
    counts[0] = counts[1] = 0
    if kind == CUBE:
        for axis in range(3):
            rate = _nonzero(p[3, axis])
            for sign in (-1.0, 1.0):
                x, y, z = sign * (axis == 0), sign * (axis == 1), sign * (axis == 2)
                _add_face(form, view, leaf, counts, faces, x, y, z, size0, sign * rate, p, inverse)
    elif kind == CONE:
        rate = _nonzero(p[3, 2])
        for sign in (-1.0, 1.0):
            _add_face(form, view, leaf, counts, faces, 0.0, 0.0, sign, size2, sign * rate, p, inverse)
    elif kind != SPHERE:
        for c in range(4):
            x, y, z = -_CORNERS[c, 0], -_CORNERS[c, 1], -_CORNERS[c, 2]
            rate = _nonzero(x * p[3, 0] + y * p[3, 1] + z * p[3, 2])
            _add_face(form, view, leaf, counts, faces, x, y, z, size0 / (2 * math.sqrt(2)), rate, p, inverse)
    if kind != SPHERE and kind != CONE:
        for leaves in range(2):  # three each: repeat the first
            for at in range(counts[leaves], 3):
                for i in range(3):
                    form[view, leaf, 9 * leaves + 3 * at + i] = form[view, leaf, 9 * leaves + i]
                    faces[view, leaf, leaves, at, i] = faces[view, leaf, leaves, 0, i]
        return _FLAT

    # A sphere is |x|^2 <= r^2. A cone's side is the same with (x, y, radius at z), the metric (1, 1, -1) and zero.
    sign, square, last = 1.0, size0 * size0, 1.0
    if kind == CONE:
        slope = (size1 - size0) / (2 * size2)
        sign, square, last = -1.0, 0.0, -slope
        for i in range(4):
            p[i, 2] *= slope
        p[0, 2] += (size0 + size1) / 2
    for i in range(4):
        for axis in range(3):
            gradient[view, leaf, i, axis] = (
                p[i, 0] * inverse[0, axis] + p[i, 1] * inverse[1, axis] + last * p[i, 2] * inverse[2, axis]
            )
    a = _dot(p, 3, 3, sign)
    b0, b1, b2 = _dot(p, 0, 3, sign), _dot(p, 1, 3, sign), _dot(p, 2, 3, sign)
    if a > 0.1 * _dot(p, 3, 3, 1.0):
        form[view, leaf, _MIDDLE] = -b0 / a
        form[view, leaf, _MIDDLE + 1] = -b1 / a
        form[view, leaf, _MIDDLE + 2] = -b2 / a
        for i in range(3):  # what is left perpendicular to the rays
            along = form[view, leaf, _MIDDLE + i]
            for axis in range(3):
                p[i, axis] += along * p[3, axis]
        _quadratic(form, view, leaf, _SQUARE, p, sign, -1 / a)
        form[view, leaf, _SQUARE] += square / a
        return _ROUND if kind == SPHERE else _SIDE
    if abs(a) < 1e-9:
        a = 1e-9
    form[view, leaf, _A], form[view, leaf, _RATE] = a, p[3, 2]
    form[view, leaf, _MIDDLE], form[view, leaf, _MIDDLE + 1], form[view, leaf, _MIDDLE + 2] = b0, b1, b2
    _quadratic(form, view, leaf, _CONSTANT, p, sign, 1.0)
    for i, product in enumerate((b0 * b0, 2 * b0 * b1, 2 * b0 * b2, b1 * b1, 2 * b1 * b2, b2 * b2)):
        form[view, leaf, _SQUARE + i] = product - a * form[view, leaf, _CONSTANT + i]
    return _STEEP


@_compiled
def _add_extent(kind, sizes, linears, offsets, row, leaf, view, basis, bounds):
    """Exact bounds of a leaf along the axes of a view, with a margin for rounding."""
    r0, r1, r2 = sizes[row, leaf, 0], sizes[row, leaf, 1], sizes[row, leaf, 2]
    for axis in range(3):
        x = y = z = centre = 0.0
        for i in range(3):
            x += basis[view, axis, i] * linears[row, leaf, i, 0]
            y += basis[view, axis, i] * linears[row, leaf, i, 1]
            z += basis[view, axis, i] * linears[row, leaf, i, 2]
            centre += basis[view, axis, i] * offsets[row, leaf, i]
        if kind == SPHERE:
            high = r0 * math.sqrt(x * x + y * y + z * z)
            low = -high
        elif kind == CUBE:
            high = r0 * (abs(x) + abs(y) + abs(z))
            low = -high
        elif kind == CONE:
            flat, up = math.sqrt(x * x + y * y), r2 * z
            high = max(flat * r0 - up, flat * r1 + up)
            low = min(-flat * r0 - up, -flat * r1 + up)
        else:
            high, low = -math.inf, math.inf
            for c in range(4):
                reach = r0 / (2 * math.sqrt(2)) * (x * _CORNERS[c, 0] + y * _CORNERS[c, 1] + z * _CORNERS[c, 2])
                high, low = max(high, reach), min(low, reach)
        margin = 1e-5 + 1e-6 * (high - low)
        bounds[view, leaf, axis, 0] = centre + low - margin
        bounds[view, leaf, axis, 1] = centre + high + margin


@_compiled
def _read_tree(operators, row, tree):
    """Bit masks that describe an object's tree, one bit per leaf slot.

    Rows of `tree`:
        _ADDS (leaves): whether the event that can make the tree solid is entering the leaf.
        _RELEVANT (leaves): slots that decide whether it does.
        _ASSUMED (leaves): bits to set for the others, and for the leaf itself behind its event, so that the tree is
            solid if and only if every node above the leaf has changed.
        _UNIONS, _MINUSES (levels): a bit at the leftmost slot of every node of a level with that operator.
        _LEFTS, _RIGHTS (differences): the slots left and right of each difference, from the bottom up.
        _COUNTS: the number of levels and of differences.
    """
    leaves = operators.shape[1] + 1
    levels = differences = 0
    while 1 << levels < leaves:
        stride = 1 << levels
        first = leaves // (2 * stride) - 1
        union = minus = 0
        for i in range(leaves // (2 * stride)):
            position = 2 * stride * i
            if operators[row, first + i] == DIFFERENCE:
                minus |= 1 << position
                tree[_LEFTS, differences] = ((1 << stride) - 1) << position
                tree[_RIGHTS, differences] = ((1 << stride) - 1) << (position + stride)
                differences += 1
            else:
                union |= 1 << position
        tree[_UNIONS, levels], tree[_MINUSES, levels] = union, minus
        levels += 1
    tree[_COUNTS, 0], tree[_COUNTS, 1] = levels, differences
    for leaf in range(leaves):
        adds = 1
        for difference in range(differences):
            adds ^= (tree[_RIGHTS, difference] >> leaf) & 1
        inside = adds  # of the node that the walk to the root has reached, behind the event
        relevant, assumed = 0, adds << leaf
        for level in range(levels):
            stride = 1 << level
            position = leaf // (2 * stride) * (2 * stride)
            right = (leaf // stride) % 2
            sibling = ((1 << stride) - 1) << (position if right else position + stride)
            if not (tree[_MINUSES, level] >> position) & 1:
                if not inside:  # leaving the union if the sibling is out
                    relevant |= sibling
            elif not right:
                if inside:  # entering the difference if the sibling is out
                    relevant |= sibling
            else:
                if inside:  # leaving the difference, whose left side had better be in
                    assumed |= 1 << position
                else:  # entering the difference if the sibling is in
                    relevant |= sibling
                inside = 1 - inside
        tree[_ADDS, leaf], tree[_RELEVANT, leaf], tree[_ASSUMED, leaf] = adds, relevant, assumed


@_compiled
def _simplify(present, tree):
    """Drop what is subtracted from nothing."""
    for difference in range(tree[_COUNTS, 1]):
        if present & tree[_LEFTS, difference] == 0:
            present &= ~tree[_RIGHTS, difference]
    return present


# --- A tile -----------------------------------------------------------------------------------------------------------


@_compiled
def _move(form, view, leaf, u, v, out):
    """A leaf's coefficients around (u, v), in single precision."""
    for i in range(7):
        c = 3 * i
        out[leaf, c] = form[view, leaf, c] + form[view, leaf, c + 1] * u + form[view, leaf, c + 2] * v
        out[leaf, c + 1] = form[view, leaf, c + 1]
        out[leaf, c + 2] = form[view, leaf, c + 2]
    for c in (_SQUARE, _CONSTANT):
        k1, k2 = form[view, leaf, c + 1], form[view, leaf, c + 2]
        k3, k4, k5 = form[view, leaf, c + 3], form[view, leaf, c + 4], form[view, leaf, c + 5]
        out[leaf, c] = form[view, leaf, c] + (k1 + k3 * u + k4 * v) * u + (k2 + k5 * v) * v
        out[leaf, c + 1] = k1 + 2 * k3 * u + k4 * v
        out[leaf, c + 2] = k2 + 2 * k5 * v + k4 * u
        out[leaf, c + 3] = k3
        out[leaf, c + 4] = k4
        out[leaf, c + 5] = k5
    out[leaf, _A], out[leaf, _RATE] = form[view, leaf, _A], form[view, leaf, _RATE]


@_compiled
def _affine(f, leaf, c):
    return f[leaf, c], f[leaf, c + 1], f[leaf, c + 2]


@_compiled
def _intervals(mode, f, leaf, s, u, v):
    """Where rays (rows u and v of the scratch) enter and leave a leaf: infinity and minus infinity where they miss it.

    Returns:
        Whether any ray meets it.
    """
    enter, leave = _ENTER + leaf, _LEAVE + leaf
    met = np.int32(0)
    if mode == _FLAT:
        a0, a1, a2 = _affine(f, leaf, _FACES_IN)
        b0, b1, b2 = _affine(f, leaf, _FACES_IN + 3)
        c0, c1, c2 = _affine(f, leaf, _FACES_IN + 6)
        p0, p1, p2 = _affine(f, leaf, _FACES_OUT)
        q0, q1, q2 = _affine(f, leaf, _FACES_OUT + 3)
        r0, r1, r2 = _affine(f, leaf, _FACES_OUT + 6)
        for i in range(RAYS):
            x, y = s[u, i], s[v, i]
            t_in = max(max(a0 + a1 * x + a2 * y, b0 + b1 * x + b2 * y), c0 + c1 * x + c2 * y)
            t_out = min(min(p0 + p1 * x + p2 * y, q0 + q1 * x + q2 * y), r0 + r1 * x + r2 * y)
            hit = t_in < t_out
            s[enter, i] = _where(hit, t_in, _INFINITY)
            s[leave, i] = _where(hit, t_out, -_INFINITY)
            met |= np.int32(hit)
        return met != 0
    m0, m1, m2 = _affine(f, leaf, _MIDDLE)
    s0, s1, s2 = _affine(f, leaf, _SQUARE)
    s3, s4, s5 = _affine(f, leaf, _SQUARE + 3)
    a0, a1, a2 = _affine(f, leaf, _FACES_IN)
    p0, p1, p2 = _affine(f, leaf, _FACES_OUT)
    if mode == _ROUND:
        for i in range(RAYS):
            x, y = s[u, i], s[v, i]
            middle = m0 + m1 * x + m2 * y
            square = s0 + (s1 + s3 * x + s4 * y) * x + (s2 + s5 * y) * y
            half = _sqrt(max(square, _ZERO))
            t_in, t_out = middle - half, middle + half
            hit = t_in < t_out
            s[enter, i] = _where(hit, t_in, _INFINITY)
            s[leave, i] = _where(hit, t_out, -_INFINITY)
            met |= np.int32(hit)
    elif mode == _SIDE:
        for i in range(RAYS):
            x, y = s[u, i], s[v, i]
            middle = m0 + m1 * x + m2 * y
            square = s0 + (s1 + s3 * x + s4 * y) * x + (s2 + s5 * y) * y
            half = _sqrt(max(square, _ZERO))
            t_in = max(middle - half, a0 + a1 * x + a2 * y)
            t_out = min(middle + half, p0 + p1 * x + p2 * y)
            hit = t_in < t_out
            s[enter, i] = _where(hit, t_in, _INFINITY)
            s[leave, i] = _where(hit, t_out, -_INFINITY)
            met |= np.int32(hit)
    else:
        # Rays nearly along the side, or steeper: roots of a t^2 + 2 b t + c without cancellation.
        k0, k1, k2 = _affine(f, leaf, _CONSTANT)
        k3, k4, k5 = _affine(f, leaf, _CONSTANT + 3)
        a, convex, grows = f[leaf, _A], f[leaf, _A] > _ZERO, f[leaf, _RATE] > _ZERO
        for i in range(RAYS):
            x, y = s[u, i], s[v, i]
            b = m0 + m1 * x + m2 * y
            square = s0 + (s1 + s3 * x + s4 * y) * x + (s2 + s5 * y) * y
            c = k0 + (k1 + k3 * x + k4 * y) * x + (k2 + k5 * y) * y
            root = _sqrt(max(square, _ZERO))
            q = -(b + _where(b < _ZERO, -root, root))
            one, two = q / a, c / _where(q == _ZERO, _TINY, q)
            near, far = min(one, two), max(one, two)
            # Steeper than the side, a ray is inside before the near root or after the far one: where the radius grows.
            low = _where(convex, near, _where(grows, far, -_INFINITY))
            high = _where(convex, far, _where(grows, _INFINITY, near))
            t_in = max(low, a0 + a1 * x + a2 * y)
            t_out = min(high, p0 + p1 * x + p2 * y)
            hit = (t_in < t_out) & ((not convex) | (square >= _ZERO))
            s[enter, i] = _where(hit, t_in, _INFINITY)
            s[leave, i] = _where(hit, t_out, -_INFINITY)
            met |= np.int32(hit)
    return met != 0


@_compiled
def _events(present, events, tree, s, n, start, best, which):
    """The first event after `start` behind which the tree is solid: its parameter and leaf, where before `best`.

    Args:
        present: Slots of the leaves that any ray meets, whose intervals the scratch `s` holds.
        events: Slots whose events count.
        tree: As from `_read_tree`.
        s: The scratch.
        n: The integer scratch.
        start: Row of `s`.
        best: Row of `s`; updated.
        which: Row of `n`; updated.
    """
    for leaf in range(LARGEST):
        if not (events >> leaf) & 1:
            continue
        event = (_ENTER if tree[_ADDS, leaf] else _LEAVE) + leaf
        others = present & tree[_RELEVANT, leaf]
        slot = np.int32(leaf)
        if others == 0:
            if tree[_ADDS, leaf]:
                for i in range(RAYS):
                    t = s[event, i]
                    better = (t > s[start, i]) & (t < s[best, i])
                    s[best, i] = _where(better, t, s[best, i])
                    n[which, i] = _where(better, slot, n[which, i])
            continue
        given = np.int32(tree[_ASSUMED, leaf])
        for i in range(RAYS):
            n[_BITS, i] = given
        for other in range(LARGEST):
            if not (others >> other) & 1:
                continue
            bit, enter, leave = np.int32(1 << other), _ENTER + other, _LEAVE + other
            for i in range(RAYS):
                t = s[event, i]
                n[_BITS, i] |= _where((s[enter, i] <= t) & (t < s[leave, i]), bit, np.int32(0))
        for level in range(tree[_COUNTS, 0]):
            union, minus, stride = np.int32(tree[_UNIONS, level]), np.int32(tree[_MINUSES, level]), np.int32(1 << level)
            for i in range(RAYS):
                left = n[_BITS, i]
                right = np.int32(left >> stride)
                n[_BITS, i] = (left | (right & union)) & ~(right & minus)
        for i in range(RAYS):
            t = s[event, i]
            better = ((n[_BITS, i] & 1) != 0) & (t > s[start, i]) & (t < s[best, i])
            s[best, i] = _where(better, t, s[best, i])
            n[which, i] = _where(better, slot, n[which, i])


@_compiled
def _normals(leaf, mode, adds, f, faces, gradient, x0, y0, s, n):
    """Unit normals, out of the solid, of the rays around (x0, y0) that `leaf` won.

    `f`, `faces` and `gradient` as from `_move` and `_add_leaf`; `adds` is the leaf's polarity, 0 or 1.
    """
    slot, sign = np.int32(leaf), 1.0 if adds else -1.0
    o = _FACES_IN if adds else _FACES_OUT
    a0, a1, a2 = _affine(f, leaf, o)
    ax, ay, az = (
        np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 0, 0]),
        np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 0, 1]),
        np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 0, 2]),
    )
    if mode == _FLAT:
        b0, b1, b2 = _affine(f, leaf, o + 3)
        c0, c1, c2 = _affine(f, leaf, o + 6)
        bx, by, bz = (
            np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 1, 0]),
            np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 1, 1]),
            np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 1, 2]),
        )
        cx, cy, cz = (
            np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 2, 0]),
            np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 2, 1]),
            np.float32(sign * faces[_CAMERA, leaf, 1 - adds, 2, 2]),
        )
        # Of the faces, the surface is the last to be entered or the first to be left.
        order = _ONE if adds else -_ONE
        for i in range(RAYS):
            x, y = s[_DX, i], s[_DY, i]
            a = order * (a0 + a1 * x + a2 * y)
            b = order * (b0 + b1 * x + b2 * y)
            c = order * (c0 + c1 * x + c2 * y)
            second, third, mine = b > a, c > max(a, b), n[_WHICH, i] == slot
            px, py, pz = _where(second, bx, ax), _where(second, by, ay), _where(second, bz, az)
            px, py, pz = _where(third, cx, px), _where(third, cy, py), _where(third, cz, pz)
            s[_NX, i] = _where(mine, px, s[_NX, i])
            s[_NY, i] = _where(mine, py, s[_NY, i])
            s[_NZ, i] = _where(mine, pz, s[_NZ, i])
        return
    gx = np.float32(
        sign * (gradient[_CAMERA, leaf, 0, 0] + gradient[_CAMERA, leaf, 1, 0] * x0 + gradient[_CAMERA, leaf, 2, 0] * y0)
    )
    gy = np.float32(
        sign * (gradient[_CAMERA, leaf, 0, 1] + gradient[_CAMERA, leaf, 1, 1] * x0 + gradient[_CAMERA, leaf, 2, 1] * y0)
    )
    gz = np.float32(
        sign * (gradient[_CAMERA, leaf, 0, 2] + gradient[_CAMERA, leaf, 1, 2] * x0 + gradient[_CAMERA, leaf, 2, 2] * y0)
    )
    ux, uy, uz = (
        np.float32(sign * gradient[_CAMERA, leaf, 1, 0]),
        np.float32(sign * gradient[_CAMERA, leaf, 1, 1]),
        np.float32(sign * gradient[_CAMERA, leaf, 1, 2]),
    )
    vx, vy, vz = (
        np.float32(sign * gradient[_CAMERA, leaf, 2, 0]),
        np.float32(sign * gradient[_CAMERA, leaf, 2, 1]),
        np.float32(sign * gradient[_CAMERA, leaf, 2, 2]),
    )
    tx, ty, tz = (
        np.float32(sign * gradient[_CAMERA, leaf, 3, 0]),
        np.float32(sign * gradient[_CAMERA, leaf, 3, 1]),
        np.float32(sign * gradient[_CAMERA, leaf, 3, 2]),
    )
    capped = mode != _ROUND
    for i in range(RAYS):
        x, y, t = s[_DX, i], s[_DY, i], s[_T, i]
        # The very expression of the interval: where it is the event, the bits agree.
        cap = capped & (a0 + a1 * x + a2 * y == t)
        px = gx + ux * x + vx * y + tx * t
        py = gy + uy * x + vy * y + ty * t
        pz = gz + uz * x + vz * y + tz * t
        scale = _ONE / _sqrt(max(px * px + py * py + pz * pz, _TINY))
        mine = n[_WHICH, i] == slot
        px, py, pz = px * scale, py * scale, pz * scale
        px, py, pz = _where(cap, ax, px), _where(cap, ay, py), _where(cap, az, pz)
        s[_NX, i] = _where(mine, px, s[_NX, i])
        s[_NY, i] = _where(mine, py, s[_NY, i])
        s[_NZ, i] = _where(mine, pz, s[_NZ, i])


@_compiled
def _won(leaf, n):
    """Whether any ray's surface is on the leaf."""
    slot, found = np.int32(leaf), np.int32(0)
    for i in range(RAYS):
        found |= np.int32(n[_WHICH, i] == slot)
    return found != 0


@_compiled_extremum
def _extremes(s, row, inside):
    """Least and greatest of a row of the scratch where the row `inside` is positive."""
    low, high = _INFINITY, -_INFINITY
    for i in range(RAYS):
        x, counts = s[row, i], s[inside, i] > _ZERO
        below, above = _where(counts, x, _INFINITY), _where(counts, x, -_INFINITY)
        low = _where(below < low, below, low)
        high = _where(above > high, above, high)
    return low, high


@intrinsic
def _copy(_: Any, out: Any, to: Any, s: Any, row: Any, at: Any, count: Any) -> Any:
    """out[to : to + count] = s[row, at : at + count] without the cost of slices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = context.make_array(signature.args[0])(context, builder, args[0])
        source = context.make_array(signature.args[2])(context, builder, args[2])
        offset = builder.add(builder.mul(args[3], context.get_constant(types.intp, RAYS)), args[4])
        cgutils.raw_memcpy(builder, builder.gep(target.data, [args[1]]), builder.gep(source.data, [offset]), args[5], 4)
        return context.get_dummy_value()

    return types.void(out, types.intp, s, types.intp, types.intp, types.intp), generate


@_compiled
def _write(s, row, out, base, size, columns, rows):
    """Copy a row of the scratch to a tile of a plane."""
    if columns == WIDTH:
        for r in range(rows):
            _copy(out, base + r * size, s, row, r * WIDTH, WIDTH)
    else:
        for r in range(rows):
            _copy(out, base + r * size, s, row, r * WIDTH, columns)


@_compiled
def _render(
    first, last, size, shadows, kinds, sizes, linears, offsets, operators, lights, ambients, waves, phases, textures,
    exposures, contrasts, image, normal, depth, mask,
):  # fmt: skip
    """Render objects first..last - 1 of a scene into flat images (B, 1, S, S), normals, depths and masks."""
    leaves = kinds.shape[1]
    s = np.zeros((_ROWS, RAYS), np.float32)
    n = np.zeros((3, RAYS), np.int32)
    tree = np.zeros((8, LARGEST), np.int64)
    mode = np.zeros((2, LARGEST), np.int64)
    form = np.zeros((2, LARGEST, _FORM))
    moved = np.zeros((LARGEST, _FORM), np.float32)
    faces = np.zeros((2, LARGEST, 2, 3, 3))
    gradient = np.zeros((2, LARGEST, 4, 3))
    bounds = np.zeros((2, LARGEST, 3, 2))
    inverse, p, counts = np.zeros((3, 3)), np.zeros((4, 3)), np.zeros(2, np.int64)
    basis = np.zeros((2, 3, 3))
    basis[_CAMERA, 0, 0] = basis[_CAMERA, 1, 1] = 1.0
    basis[_CAMERA, 2, 2] = -1.0
    pixel = 2.0 / size
    for i in range(RAYS):
        s[_DX, i] = pixel * (i % WIDTH - (WIDTH - 1) / 2)
        s[_DY, i] = pixel * ((HEIGHT - 1) / 2 - i // WIDTH)
    plane = size * size

    for row in range(first, last):
        _read_tree(operators, row, tree)
        used = 0
        for leaf in range(leaves):
            if kinds[row, leaf] != EMPTY:
                used |= 1 << leaf
        used = _simplify(used, tree)
        # Light coordinates: u and v perpendicular to the light's direction.
        lx, ly, lz = np.float64(lights[row, 0]), np.float64(lights[row, 1]), np.float64(lights[row, 2])
        if abs(lz) > 0.5:
            ux, uy, uz = lz, 0.0, -lx
        else:
            ux, uy, uz = -ly, lx, 0.0
        length = math.sqrt(ux * ux + uy * uy + uz * uz)
        ux, uy, uz = ux / length, uy / length, uz / length
        basis[_LIGHT, 0, 0], basis[_LIGHT, 0, 1], basis[_LIGHT, 0, 2] = ux, uy, uz
        basis[_LIGHT, 1, 0] = ly * uz - lz * uy
        basis[_LIGHT, 1, 1] = lz * ux - lx * uz
        basis[_LIGHT, 1, 2] = lx * uy - ly * ux
        basis[_LIGHT, 2, 0], basis[_LIGHT, 2, 1], basis[_LIGHT, 2, 2] = lx, ly, lz
        for leaf in range(leaves):
            if not (used >> leaf) & 1:
                continue
            _invert(linears, row, leaf, inverse)
            kind = kinds[row, leaf]
            for view in range(2 if shadows else 1):
                mode[view, leaf] = _add_leaf(
                    kind, sizes, offsets, row, leaf, view, inverse, basis, form, faces, gradient, p, counts
                )
                _add_extent(kind, sizes, linears, offsets, row, leaf, view, basis, bounds)

        light_x, light_y, light_z = lights[row, 0], lights[row, 1], lights[row, 2]
        ambient = ambients[row]
        direct = _ONE - ambient
        texture = textures[row] * _LOG2E
        exposure, contrast = exposures[row], contrasts[row]

        for top in range(0, size, HEIGHT):
            rows = min(HEIGHT, size - top)
            y0 = 1.0 - pixel * (top + HEIGHT / 2)
            for left in range(0, size, WIDTH):
                columns = min(WIDTH, size - left)
                x0 = pixel * (left + WIDTH / 2) - 1.0
                x_low, x_high = x0 - pixel * (WIDTH / 2), x0 + pixel * (WIDTH / 2)
                y_low, y_high = y0 - pixel * (HEIGHT / 2), y0 + pixel * (HEIGHT / 2)
                present = 0
                for leaf in range(leaves):
                    if (
                        (used >> leaf) & 1
                        and bounds[_CAMERA, leaf, 0, 0] < x_high
                        and bounds[_CAMERA, leaf, 0, 1] > x_low
                        and bounds[_CAMERA, leaf, 1, 0] < y_high
                        and bounds[_CAMERA, leaf, 1, 1] > y_low
                    ):
                        present |= 1 << leaf
                present = _simplify(present, tree)
                for leaf in range(leaves):
                    if (present >> leaf) & 1:
                        _move(form, _CAMERA, leaf, x0, y0, moved)
                        if not _intervals(mode[_CAMERA, leaf], moved, leaf, s, _DX, _DY):
                            present &= ~(1 << leaf)
                present = _simplify(present, tree)
                corner = top * size + left
                at = row * plane + corner
                found = False
                if present != 0:
                    for i in range(RAYS):
                        s[_T, i] = _INFINITY
                        s[_W, i] = -_INFINITY
                        n[_WHICH, i] = -1
                        s[_NX, i] = _ZERO
                        s[_NY, i] = _ZERO
                        s[_NZ, i] = _ZERO
                    _events(present, present, tree, s, n, _W, _T, _WHICH)
                    hits = np.int32(0)
                    for i in range(RAYS):
                        hit = n[_WHICH, i] >= 0
                        s[_T, i] = _where(hit, s[_T, i], _ZERO)
                        hits |= np.int32(hit)
                    found = hits != 0
                if not found:
                    for i in range(RAYS):
                        s[_SHADE, i] = _ZERO
                    _write(s, _SHADE, image, at, size, columns, rows)
                    _write(s, _SHADE, depth, at, size, columns, rows)
                    _write(s, _SHADE, mask, at, size, columns, rows)
                    for axis in range(3):
                        _write(s, _SHADE, normal, (3 * row + axis) * plane + corner, size, columns, rows)
                    continue

                winners = 0
                for leaf in range(leaves):
                    if (present >> leaf) & 1 and _won(leaf, n):
                        winners |= 1 << leaf
                        _normals(leaf, mode[_CAMERA, leaf], tree[_ADDS, leaf], moved, faces, gradient, x0, y0, s, n)

                for i in range(RAYS):
                    cosine = light_x * s[_NX, i] + light_y * s[_NY, i] + light_z * s[_NZ, i]
                    s[_LIT, i] = _where(n[_WHICH, i] >= 0, cosine, _ZERO)
                    s[_LIT, i] = max(s[_LIT, i], _ZERO)
                if shadows:
                    _cast_shadows(
                        winners, used, leaves, mode, form, bounds, moved, x0, y0, basis,
                        tree, s, n,
                    )  # fmt: skip

                if texture > _ZERO:
                    for i in range(RAYS):
                        s[_WAVES, i] = _ZERO
                    for j in range(waves.shape[1]):
                        turns = (phases[row, j] + waves[row, j, 0] * x0 + waves[row, j, 1] * y0) / (2 * math.pi)
                        k0 = np.float32(turns - math.floor(turns))
                        kx = np.float32(waves[row, j, 0] / (2 * math.pi))
                        ky = np.float32(waves[row, j, 1] / (2 * math.pi))
                        kz = np.float32(waves[row, j, 2] / (2 * math.pi))
                        for i in range(RAYS):
                            s[_WAVES, i] += _cos_turns(k0 + kx * s[_DX, i] + ky * s[_DY, i] - kz * s[_T, i])
                    for i in range(RAYS):
                        # tanh(x) - 1 = -2 / (exp(2 x) + 1)
                        s[_WAVES, i] = _exp2(texture * (-_TWO / (_exp2(_TWO * _LOG2E * s[_WAVES, i]) + _ONE)))
                else:
                    for i in range(RAYS):
                        s[_WAVES, i] = _ONE
                for i in range(RAYS):
                    radiance = exposure * s[_WAVES, i] * (ambient + direct * s[_LIT, i])
                    radiance = min(max(radiance, _DARKEST), _ONE)
                    hit = n[_WHICH, i] >= 0
                    s[_SHADE, i] = _where(hit, _exp2(contrast * _log2(radiance)), _ZERO)
                    s[_T, i] = _where(hit, -s[_T, i], _ZERO)
                    s[_W, i] = _where(hit, _ONE, _ZERO)
                _write(s, _SHADE, image, at, size, columns, rows)
                _write(s, _T, depth, at, size, columns, rows)
                _write(s, _W, mask, at, size, columns, rows)
                for axis in range(3):
                    _write(s, _NX + axis, normal, (3 * row + axis) * plane + corner, size, columns, rows)


@_compiled
def _cast_shadows(
    winners, used, leaves, mode, form, bounds, moved, x0, y0, basis,
    tree, s, n,
):  # fmt: skip
    """Take the light from the points of a tile that the object itself keeps it from."""
    ux, uy, uz = np.float32(basis[_LIGHT, 0, 0]), np.float32(basis[_LIGHT, 0, 1]), np.float32(basis[_LIGHT, 0, 2])
    vx, vy, vz = np.float32(basis[_LIGHT, 1, 0]), np.float32(basis[_LIGHT, 1, 1]), np.float32(basis[_LIGHT, 1, 2])
    lx, ly, lz = np.float32(basis[_LIGHT, 2, 0]), np.float32(basis[_LIGHT, 2, 1]), np.float32(basis[_LIGHT, 2, 2])
    cx, cy = np.float32(x0), np.float32(y0)
    for i in range(RAYS):
        x = (cx + s[_DX, i]) + _OFFSET * s[_NX, i]
        y = (cy + s[_DY, i]) + _OFFSET * s[_NY, i]
        z = _OFFSET * s[_NZ, i] - s[_T, i]
        s[_U, i] = ux * x + uy * y + uz * z
        s[_V, i] = vx * x + vy * y + vz * z
        s[_W, i] = lx * x + ly * y + lz * z
    u_low, u_high = _extremes(s, _U, _LIT)
    if u_low > u_high:
        return
    v_low, v_high = _extremes(s, _V, _LIT)
    w_low, _ = _extremes(s, _W, _LIT)
    present = 0
    for leaf in range(leaves):
        if (
            (used >> leaf) & 1
            and bounds[_LIGHT, leaf, 0, 0] <= u_high
            and bounds[_LIGHT, leaf, 0, 1] >= u_low
            and bounds[_LIGHT, leaf, 1, 0] <= v_high
            and bounds[_LIGHT, leaf, 1, 1] >= v_low
            and bounds[_LIGHT, leaf, 2, 1] >= w_low
        ):
            present |= 1 << leaf
    present = _simplify(present, tree)
    # A leaf that adds is convex: it never blocks the points on it that face the light.
    own = 0
    if winners & (winners - 1) == 0:
        for leaf in range(leaves):
            if (winners >> leaf) & 1 and tree[_ADDS, leaf]:
                own = winners
    if present & ~own == 0:
        return
    u0, v0 = _HALF * (u_low + u_high), _HALF * (v_low + v_high)
    for i in range(RAYS):
        s[_U, i] -= u0
        s[_V, i] -= v0
        s[_SHADE, i] = _INFINITY
    for leaf in range(leaves):
        if (present >> leaf) & 1:
            _move(form, _LIGHT, leaf, np.float64(u0), np.float64(v0), moved)
            if not _intervals(mode[_LIGHT, leaf], moved, leaf, s, _U, _V):
                present &= ~(1 << leaf)
    present = _simplify(present, tree)
    if present & ~own == 0:
        return
    _events(present, present & ~own, tree, s, n, _W, _SHADE, _BLOCKER)
    for i in range(RAYS):
        s[_LIT, i] = _where(s[_SHADE, i] == _INFINITY, s[_LIT, i], _ZERO)
