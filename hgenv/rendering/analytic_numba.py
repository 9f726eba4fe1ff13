"""The analytic renderer on a CPU, compiled: the same surfaces, shadows and light model as `analytic`, tile by tile.

Rays are parallel: all look along one direction d, those of the camera down -z, those of the shadows toward the light.
In coordinates (u, v, t) with t along d, every leaf is a closed form of (u, v): a face is met at t affine in (u, v), and
a sphere or a cone's side at an affine t plus or minus the root of a quadratic. So a leaf is some thirty coefficients per
direction, worked out once per object in double precision and moved to the middle of each tile, where single precision
loses nothing; rays then cost a few vector instructions per leaf.

Per tile, only leaves whose rectangle on the screen touches it are looked at, and among these only leaves that can decide:
what is subtracted from nothing disappears, and entering a leaf makes the tree solid no matter what a sibling of a union
says. The state of the tree behind an event is one bit per leaf slot, folded in halves, one level of the tree at a time.

All loops over rays are plain elementwise arithmetic without reassociation or contraction: bits depend neither on how the
compiler vectorizes nor on batch or threads.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .scene import CONE, CUBE, DIFFERENCE, EMPTY, SPHERE, TETRAHEDRON_CORNERS, Frame, RenderError, Scene

# As in `analytic`.
SHADOW_OFFSET = 2e-3

LARGEST = 32  # leaf slots: one bit each

# Tiles of WIDTH x HEIGHT pixels: their rays fill a few vector registers, their data stays in the first-level cache.
WIDTH, HEIGHT = 8, 8
RAYS = WIDTH * HEIGHT
CHUNK = 16  # objects that a thread takes at a time

# Rows of the single-precision scratch, each of RAYS numbers.
_DX, _DY, _T, _NX, _NY, _NZ, _SHADE, _U, _V, _W, _LIT, _WAVES, _ENTER = range(13)
_LEAVE = _ENTER + LARGEST
_ROWS = _LEAVE + LARGEST
# Rows of the integer scratch.
_WHICH, _BITS = range(2)

# Coefficients of a leaf seen along a direction: (1, u, v) of t at three faces where rays enter and three where they
# leave; then of a quadric's middle (or b), (1, u, v), and of the square of its half length (or discriminant) and of c,
# (1, u, v, u^2, u v, v^2); then a, and the rate at which a cone's radius grows.
_FACES_IN, _FACES_OUT, _MIDDLE, _SQUARE, _CONSTANT, _A, _RATE, _FORM = 0, 9, 18, 21, 27, 33, 34, 35
# How they are used.
_ROUND, _FLAT, _SIDE, _STEEP = range(4)

_ZERO, _ONE, _TWO, _HALF, _QUARTER = (np.float32(x) for x in (0, 1, 2, 0.5, 0.25))
_INFINITY = np.float32(math.inf)
_TINY = np.float32(1e-20)
_ROUNDER = np.float32(1.5 * 2**23)  # added and taken away, it leaves the nearest integer
_LIMIT = np.float32(126)
_LOG2E = np.float32(1 / math.log(2))
_DARKEST = np.float32(1e-4)
_SQRT_HALF_BITS = 0x3F3504F3
_EXP2 = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(8))
_SINE = tuple(np.float32((-1) ** n * (2 * math.pi) ** (2 * n + 1) / math.factorial(2 * n + 1)) for n in range(6))
_LOG2 = tuple(np.float32(2 / math.log(2) / (2 * n + 1)) for n in range(5))
_CORNERS = np.array(TETRAHEDRON_CORNERS)
_OFFSET = np.float32(SHADOW_OFFSET)

_compiled = njit(cache=True, nogil=True, error_model="numpy")
# Minima and maxima do not depend on the order; without these two flags they are not vectorized.
_compiled_extremum = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})


def render(scene: Scene, size: int, shadows: bool, threads: int | None = None) -> Frame:
    """Render all objects of a scene on the CPU.

    Args:
        scene: B objects of at most 32 leaf slots, float32, on the CPU.
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
    image = torch.empty(batch, 1, size, size)
    normal = torch.empty(batch, 3, size, size)
    depth = torch.empty(batch, 1, size, size)
    mask = torch.empty(batch, 1, size, size)
    inputs = [
        np.ascontiguousarray(x.detach().numpy())
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


# --- Elementary functions of single precision that the compiler can vectorize -----------------------------------------


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _bits_of(_: Any, x: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _from_bits(_: Any, x: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _sqrt(_: Any, x: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()])
        return builder.call(function, args)

    return types.float32(types.float32), generate


@_compiled
def _exp2(x):
    """2**x, for |x| <= 126."""
    x = min(max(x, -_LIMIT), _LIMIT)
    whole = (x + _ROUNDER) - _ROUNDER
    f = x - whole
    p = _EXP2[7]
    p = p * f + _EXP2[6]
    p = p * f + _EXP2[5]
    p = p * f + _EXP2[4]
    p = p * f + _EXP2[3]
    p = p * f + _EXP2[2]
    p = p * f + _EXP2[1]
    p = p * f + _EXP2[0]
    return p * _from_bits(np.int32((np.int32(whole) + 127) << 23))


@_compiled
def _log2(x):
    """Logarithm of a positive normal number; 0 at 1 exactly."""
    bits = _bits_of(x)
    exponent = np.int32(np.int32(bits - _SQRT_HALF_BITS) >> 23)
    f = _from_bits(np.int32(bits - (exponent << 23))) - _ONE
    s = f / (_TWO + f)
    z = s * s
    p = _LOG2[4]
    p = p * z + _LOG2[3]
    p = p * z + _LOG2[2]
    p = p * z + _LOG2[1]
    p = p * z + _LOG2[0]
    return np.float32(exponent) + p * s


@_compiled
def _cos_turns(x):
    """cos(2 pi x), for |x| < 2**22."""
    y = x - ((x + _ROUNDER) - _ROUNDER)
    y = _QUARTER - abs(y)
    z = y * y
    p = _SINE[5]
    p = p * z + _SINE[4]
    p = p * z + _SINE[3]
    p = p * z + _SINE[2]
    p = p * z + _SINE[1]
    p = p * z + _SINE[0]
    return p * y


# --- An object: coefficients of its leaves, its tree ------------------------------------------------------------------


@_compiled
def _dot(a, b, sign):
    return a[0] * b[0] + a[1] * b[1] + sign * a[2] * b[2]


@_compiled
def _quadratic(out, o, u, v, sign, factor):
    """Coefficients of factor * <o + p u + q v, same>, with the metric (1, 1, sign)."""
    out[0] = factor * _dot(o, o, sign)
    out[1] = factor * 2 * _dot(o, u, sign)
    out[2] = factor * 2 * _dot(o, v, sign)
    out[3] = factor * _dot(u, u, sign)
    out[4] = factor * 2 * _dot(u, v, sign)
    out[5] = factor * _dot(v, v, sign)


@_compiled
def _add_face(form, counts, normals, nx, ny, nz, height, local, inverse):
    """The face n . p <= height of a leaf, in its own coordinates; `local` holds its rays' origin, u, v and d."""
    rate = nx * local[3, 0] + ny * local[3, 1] + nz * local[3, 2]
    if abs(rate) < 1e-12:
        rate = 1e-12
    leaves = 1 if rate > 0 else 0
    at = counts[leaves]
    counts[leaves] += 1
    for i in range(3):
        along = nx * local[i, 0] + ny * local[i, 1] + nz * local[i, 2]
        form[9 * leaves + 3 * at + i] = ((height if i == 0 else 0.0) - along) / rate
    x = nx * inverse[0, 0] + ny * inverse[1, 0] + nz * inverse[2, 0]
    y = nx * inverse[0, 1] + ny * inverse[1, 1] + nz * inverse[2, 1]
    z = nx * inverse[0, 2] + ny * inverse[1, 2] + nz * inverse[2, 2]
    length = math.sqrt(x * x + y * y + z * z)
    normals[leaves, at, 0] = x / length
    normals[leaves, at, 1] = y / length
    normals[leaves, at, 2] = z / length


@_compiled
def _leaf_form(kind, size, inverse, offset, basis, form, normals, gradient, local, counts):
    """Fill in a leaf's coefficients for rays u basis[0] + v basis[1] + t basis[2], and the normals of its surfaces.

    `normals` (2, 3, 3): of the faces where rays enter and leave; `gradient` (4, 3): of a quadric, at 1, u, v, t.
    """
    for a in range(3):
        local[0, a] = -(inverse[a, 0] * offset[0] + inverse[a, 1] * offset[1] + inverse[a, 2] * offset[2])
        for i in range(3):
            local[i + 1, a] = inverse[a, 0] * basis[i, 0] + inverse[a, 1] * basis[i, 1] + inverse[a, 2] * basis[i, 2]
    counts[:] = 0
    mode = _FLAT
    if kind == CUBE:
        for axis in range(3):
            for sign in (-1.0, 1.0):
                nx, ny, nz = sign * (axis == 0), sign * (axis == 1), sign * (axis == 2)
                _add_face(form, counts, normals, nx, ny, nz, float(size[0]), local, inverse)
    elif kind == CONE:
        for sign in (-1.0, 1.0):
            _add_face(form, counts, normals, 0.0, 0.0, sign, float(size[2]), local, inverse)
    elif kind != SPHERE:
        for c in range(4):
            nx, ny, nz = -_CORNERS[c, 0], -_CORNERS[c, 1], -_CORNERS[c, 2]
            _add_face(form, counts, normals, nx, ny, nz, size[0] / (2 * math.sqrt(2)), local, inverse)
    if kind != SPHERE and kind != CONE:
        for leaves in range(2):  # three each: repeat the first
            for at in range(counts[leaves], 3):
                form[9 * leaves + 3 * at : 9 * leaves + 3 * at + 3] = form[9 * leaves : 9 * leaves + 3]
                normals[leaves, at] = normals[leaves, 0]
        return mode

    # A sphere is |p|^2 <= r^2. A cone's side is the same with (x, y, radius at z), the metric (1, 1, -1) and zero.
    sign, square, slope = 1.0, float(size[0]) ** 2, 0.0
    if kind == CONE:
        slope = (float(size[1]) - size[0]) / (2 * size[2])
        sign, square = -1.0, 0.0
        for i in range(4):
            local[i, 2] *= slope
        local[0, 2] += (float(size[0]) + size[1]) / 2
    last = 1.0 if kind == SPHERE else -slope
    for i in range(4):
        for axis in range(3):
            gradient[i, axis] = (
                local[i, 0] * inverse[0, axis] + local[i, 1] * inverse[1, axis] + last * local[i, 2] * inverse[2, axis]
            )
    o, u, v, d = local[0], local[1], local[2], local[3]
    a = _dot(d, d, sign)
    b = (_dot(o, d, sign), _dot(u, d, sign), _dot(v, d, sign))
    if a > 0.1 * _dot(d, d, 1.0):
        mode = _ROUND if kind == SPHERE else _SIDE
        for i in range(3):
            form[_MIDDLE + i] = -b[i] / a
            for axis in range(3):  # what is left perpendicular to d
                local[i, axis] -= b[i] / a * d[axis]
        _quadratic(form[_SQUARE : _SQUARE + 6], o, u, v, sign, -1 / a)
        form[_SQUARE] += square / a
        return mode
    if abs(a) < 1e-9:
        a = 1e-9
    form[_A], form[_RATE] = a, d[2]
    _quadratic(form[_CONSTANT : _CONSTANT + 6], o, u, v, sign, 1.0)
    for i in range(3):
        form[_MIDDLE + i] = b[i]
    form[_SQUARE] = b[0] * b[0] - a * form[_CONSTANT]
    form[_SQUARE + 1] = 2 * b[0] * b[1] - a * form[_CONSTANT + 1]
    form[_SQUARE + 2] = 2 * b[0] * b[2] - a * form[_CONSTANT + 2]
    form[_SQUARE + 3] = b[1] * b[1] - a * form[_CONSTANT + 3]
    form[_SQUARE + 4] = 2 * b[1] * b[2] - a * form[_CONSTANT + 4]
    form[_SQUARE + 5] = b[2] * b[2] - a * form[_CONSTANT + 5]
    return _STEEP


@_compiled
def _extent(kind, size, linear, offset, axis, out):
    """Exact bounds of a leaf along a view axis, with a margin for rounding."""
    x = axis[0] * linear[0, 0] + axis[1] * linear[1, 0] + axis[2] * linear[2, 0]
    y = axis[0] * linear[0, 1] + axis[1] * linear[1, 1] + axis[2] * linear[2, 1]
    z = axis[0] * linear[0, 2] + axis[1] * linear[1, 2] + axis[2] * linear[2, 2]
    if kind == SPHERE:
        high = size[0] * math.sqrt(x * x + y * y + z * z)
        low = -high
    elif kind == CUBE:
        high = size[0] * (abs(x) + abs(y) + abs(z))
        low = -high
    elif kind == CONE:
        flat, up = math.sqrt(x * x + y * y), size[2] * z
        high = max(flat * size[0] - up, flat * size[1] + up)
        low = min(-flat * size[0] - up, -flat * size[1] + up)
    else:
        high, low = -math.inf, math.inf
        for c in range(4):
            reach = size[0] / (2 * math.sqrt(2)) * (x * _CORNERS[c, 0] + y * _CORNERS[c, 1] + z * _CORNERS[c, 2])
            high, low = max(high, reach), min(low, reach)
    centre = axis[0] * offset[0] + axis[1] * offset[1] + axis[2] * offset[2]
    margin = 1e-5 + 1e-6 * (high - low)
    out[0] = centre + low - margin
    out[1] = centre + high + margin


@_compiled
def _read_tree(operator, leaves, unions, minuses, node_left, node_right, relevant, adds):
    """Bit masks of a tree: its operators by level, its differences, and what decides an event at each leaf.

    `unions`, `minuses` (levels): a bit at the leftmost slot of every node of the level with that operator. `node_left`,
    `node_right`: the slots left and right of each difference, from the bottom up. `relevant` (leaves): slots that decide
    whether the tree is solid behind an event. `adds` (leaves): whether that event is entering the leaf.

    Returns:
        The number of levels and of differences.
    """
    levels = differences = 0
    stride = 1
    while stride < leaves:
        first = leaves // (2 * stride) - 1
        union = minus = 0
        for i in range(leaves // (2 * stride)):
            position = 2 * stride * i
            if operator[first + i] == DIFFERENCE:
                minus |= 1 << position
                node_left[differences] = ((1 << stride) - 1) << position
                node_right[differences] = ((1 << stride) - 1) << (position + stride)
                differences += 1
            else:
                union |= 1 << position
        unions[levels], minuses[levels] = union, minus
        levels += 1
        stride *= 2
    for leaf in range(leaves):
        adds[leaf] = 1
        for n in range(differences):
            if (node_right[n] >> leaf) & 1:
                adds[leaf] ^= 1
        inside = adds[leaf] == 1  # of the node that the walk has reached, behind the event
        slots = 0
        for level in range(levels):
            stride = 1 << level
            position = leaf // (2 * stride) * (2 * stride)
            right = (leaf // stride) % 2 == 1
            sibling = ((1 << stride) - 1) << (position if right else position + stride)
            if (minuses[level] >> position) & 1:
                if right:
                    if not inside:  # solid if the left side is
                        slots |= sibling
                    inside = not inside
                elif inside:
                    slots |= sibling
            elif not inside:
                slots |= sibling
        relevant[leaf] = slots
    return levels, differences


@_compiled
def _simplify(present, node_left, node_right, differences):
    """Drop what is subtracted from nothing."""
    for n in range(differences):
        if present & node_left[n] == 0:
            present &= ~node_right[n]
    return present


# --- A tile -----------------------------------------------------------------------------------------------------------


@_compiled
def _move(form, u, v, out):
    """A leaf's coefficients around (u, v), in single precision."""
    for i in range(7):
        c = 3 * i
        out[c] = form[c] + form[c + 1] * u + form[c + 2] * v
        out[c + 1] = form[c + 1]
        out[c + 2] = form[c + 2]
    for c in (_SQUARE, _CONSTANT):
        out[c] = form[c] + (form[c + 1] + form[c + 3] * u + form[c + 4] * v) * u + (form[c + 2] + form[c + 5] * v) * v
        out[c + 1] = form[c + 1] + 2 * form[c + 3] * u + form[c + 4] * v
        out[c + 2] = form[c + 2] + 2 * form[c + 5] * v + form[c + 4] * u
        out[c + 3] = form[c + 3]
        out[c + 4] = form[c + 4]
        out[c + 5] = form[c + 5]
    out[_A], out[_RATE] = form[_A], form[_RATE]


@_compiled
def _at(f, c, u, v):
    return f[c] + f[c + 1] * u + f[c + 2] * v


@_compiled
def _intervals(mode, f, u, v, enter, leave):
    """Where rays enter and leave a leaf; infinity and minus infinity where they miss it. Whether any ray meets it."""
    met = np.int32(0)
    if mode == _FLAT:
        a0, a1, a2, b0, b1, b2, c0, c1, c2 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]
        p0, p1, p2, q0, q1, q2, r0, r1, r2 = f[9], f[10], f[11], f[12], f[13], f[14], f[15], f[16], f[17]
        for i in range(RAYS):
            x, y = u[i], v[i]
            t_in = max(max(a0 + a1 * x + a2 * y, b0 + b1 * x + b2 * y), c0 + c1 * x + c2 * y)
            t_out = min(min(p0 + p1 * x + p2 * y, q0 + q1 * x + q2 * y), r0 + r1 * x + r2 * y)
            hit = t_in < t_out
            enter[i] = t_in if hit else _INFINITY
            leave[i] = t_out if hit else -_INFINITY
            met |= np.int32(hit)
        return met != 0
    m0, m1, m2 = f[_MIDDLE], f[_MIDDLE + 1], f[_MIDDLE + 2]
    s0, s1, s2, s3, s4, s5 = (
        f[_SQUARE], f[_SQUARE + 1], f[_SQUARE + 2], f[_SQUARE + 3], f[_SQUARE + 4], f[_SQUARE + 5],
    )  # fmt: skip
    a0, a1, a2 = f[0], f[1], f[2]
    p0, p1, p2 = f[9], f[10], f[11]
    if mode == _ROUND:
        for i in range(RAYS):
            x, y = u[i], v[i]
            middle = m0 + m1 * x + m2 * y
            square = s0 + (s1 + s3 * x + s4 * y) * x + (s2 + s5 * y) * y
            half = _sqrt(max(square, _ZERO))
            t_in, t_out = middle - half, middle + half
            hit = t_in < t_out
            enter[i] = t_in if hit else _INFINITY
            leave[i] = t_out if hit else -_INFINITY
            met |= np.int32(hit)
    elif mode == _SIDE:
        for i in range(RAYS):
            x, y = u[i], v[i]
            middle = m0 + m1 * x + m2 * y
            square = s0 + (s1 + s3 * x + s4 * y) * x + (s2 + s5 * y) * y
            half = _sqrt(max(square, _ZERO))
            t_in = max(middle - half, a0 + a1 * x + a2 * y)
            t_out = min(middle + half, p0 + p1 * x + p2 * y)
            hit = t_in < t_out
            enter[i] = t_in if hit else _INFINITY
            leave[i] = t_out if hit else -_INFINITY
            met |= np.int32(hit)
    else:
        # Rays nearly along the side, or steeper: roots of a t^2 + 2 b t + c without cancellation.
        k0, k1, k2, k3, k4, k5 = (
            f[_CONSTANT], f[_CONSTANT + 1], f[_CONSTANT + 2], f[_CONSTANT + 3], f[_CONSTANT + 4], f[_CONSTANT + 5],
        )  # fmt: skip
        a, convex, grows = f[_A], f[_A] > _ZERO, f[_RATE] > _ZERO
        for i in range(RAYS):
            x, y = u[i], v[i]
            b = m0 + m1 * x + m2 * y
            square = s0 + (s1 + s3 * x + s4 * y) * x + (s2 + s5 * y) * y
            c = k0 + (k1 + k3 * x + k4 * y) * x + (k2 + k5 * y) * y
            root = _sqrt(max(square, _ZERO))
            q = -(b - root) if b < _ZERO else -(b + root)
            one, two = q / a, c / (q if q != _ZERO else _TINY)
            near, far = min(one, two), max(one, two)
            # Steeper than the side, a ray is inside before the near root or after the far one: where the radius grows.
            low = near if convex else (far if grows else -_INFINITY)
            high = far if convex else (_INFINITY if grows else near)
            t_in = max(low, a0 + a1 * x + a2 * y)
            t_out = min(high, p0 + p1 * x + p2 * y)
            hit = t_in < t_out and (not convex or square >= _ZERO)
            enter[i] = t_in if hit else _INFINITY
            leave[i] = t_out if hit else -_INFINITY
            met |= np.int32(hit)
    return met != 0


@_compiled
def _events(present, events, relevant, adds, unions, minuses, levels, enter, leave, bits, start, best, which):
    """The first event after `start` behind which the tree is solid: its parameter and leaf, where before `best`.

    Args:
        present: Slots of the leaves that any ray meets; `enter` and `leave` (leaves, RAYS) hold their intervals.
        events: Slots whose events count.
        relevant, adds, unions, minuses, levels: As from `_read_tree`.
        bits: Scratch for the leaves that hold each ray's event.
        start, best, which: One value a ray; the last two are updated.
    """
    for leaf in range(LARGEST):
        if not (events >> leaf) & 1:
            continue
        event = enter[leaf] if adds[leaf] else leave[leaf]
        others = present & relevant[leaf]
        slot = np.int32(leaf)
        if others == 0:
            if adds[leaf]:
                for i in range(RAYS):
                    t = event[i]
                    better = (t > start[i]) & (t < best[i])
                    best[i] = t if better else best[i]
                    which[i] = slot if better else which[i]
            continue
        own = np.int32(adds[leaf] << leaf)
        for i in range(RAYS):
            bits[i] = own
        for other in range(LARGEST):
            if not (others >> other) & 1:
                continue
            bit, low, high = np.int32(1 << other), enter[other], leave[other]
            for i in range(RAYS):
                t = event[i]
                bits[i] |= bit if (low[i] <= t) & (t < high[i]) else np.int32(0)
        for level in range(levels):
            union, minus, stride = np.int32(unions[level]), np.int32(minuses[level]), np.int32(1 << level)
            for i in range(RAYS):
                left = bits[i]
                right = np.int32(left >> stride)
                bits[i] = (left | (right & union)) & ~(right & minus)
        for i in range(RAYS):
            t = event[i]
            better = ((bits[i] & 1) != 0) & (t > start[i]) & (t < best[i])
            best[i] = t if better else best[i]
            which[i] = slot if better else which[i]


@_compiled
def _normals(leaf, mode, adds, f, faces, g, u, v, t, which, nx, ny, nz):
    """Unit normals of the rays that `leaf` won, out of the solid. `faces` (3, 3) and `g` (4, 3) bear the polarity."""
    slot = np.int32(leaf)
    o = 0 if adds else 9
    a0, a1, a2 = f[o], f[o + 1], f[o + 2]
    ax, ay, az = faces[0, 0], faces[0, 1], faces[0, 2]
    if mode == _FLAT:
        b0, b1, b2, c0, c1, c2 = f[o + 3], f[o + 4], f[o + 5], f[o + 6], f[o + 7], f[o + 8]
        bx, by, bz = faces[1, 0], faces[1, 1], faces[1, 2]
        cx, cy, cz = faces[2, 0], faces[2, 1], faces[2, 2]
        # Of the faces, the surface is the last to be entered or the first to be left.
        order = _ONE if adds else -_ONE
        for i in range(RAYS):
            x, y = u[i], v[i]
            a = order * (a0 + a1 * x + a2 * y)
            b = order * (b0 + b1 * x + b2 * y)
            c = order * (c0 + c1 * x + c2 * y)
            second = b > a
            third = c > max(a, b)
            mine = which[i] == slot
            nx[i] = (cx if third else (bx if second else ax)) if mine else nx[i]
            ny[i] = (cy if third else (by if second else ay)) if mine else ny[i]
            nz[i] = (cz if third else (bz if second else az)) if mine else nz[i]
        return
    gx, gy, gz = g[0, 0], g[0, 1], g[0, 2]
    ux, uy, uz = g[1, 0], g[1, 1], g[1, 2]
    vx, vy, vz = g[2, 0], g[2, 1], g[2, 2]
    tx, ty, tz = g[3, 0], g[3, 1], g[3, 2]
    capped = mode != _ROUND
    for i in range(RAYS):
        x, y, w = u[i], v[i], t[i]
        # The very expression of the interval: where it is the event, the bits agree.
        cap = capped & (a0 + a1 * x + a2 * y == w)
        px = gx + ux * x + vx * y + tx * w
        py = gy + uy * x + vy * y + ty * w
        pz = gz + uz * x + vz * y + tz * w
        scale = _ONE / _sqrt(max(px * px + py * py + pz * pz, _TINY))
        mine = which[i] == slot
        nx[i] = (ax if cap else px * scale) if mine else nx[i]
        ny[i] = (ay if cap else py * scale) if mine else ny[i]
        nz[i] = (az if cap else pz * scale) if mine else nz[i]


@_compiled
def _any_equal(values, wanted):
    found = np.int32(0)
    for i in range(RAYS):
        found |= np.int32(values[i] == wanted)
    return found != 0


@_compiled_extremum
def _bounds(values, inside, out):
    """Least and greatest of the values where `inside` is not zero."""
    low, high = _INFINITY, -_INFINITY
    for i in range(RAYS):
        low = min(low, values[i] if inside[i] > _ZERO else _INFINITY)
        high = max(high, values[i] if inside[i] > _ZERO else -_INFINITY)
    out[0], out[1] = low, high


@_compiled
def _write(s, row, out, base, size, columns, rows):
    """Copy a row of the scratch to a tile of a plane."""
    if columns == WIDTH and rows == HEIGHT:
        for r in range(HEIGHT):
            for c in range(WIDTH):
                out[base + r * size + c] = s[row, r * WIDTH + c]
    else:
        for r in range(rows):
            for c in range(columns):
                out[base + r * size + c] = s[row, r * WIDTH + c]


@_compiled
def _render(
    first, last, size, shadows, kinds, sizes, linears, offsets, operators, lights, ambients, waves, phases, textures,
    exposures, contrasts, image, normal, depth, mask,
):  # fmt: skip
    """Render objects first..last - 1 of a scene into flat images (B, 1, S, S), normals, depths and masks."""
    leaves = kinds.shape[1]
    s = np.zeros((_ROWS, RAYS), np.float32)
    n = np.zeros((2, RAYS), np.int32)
    enter, leave = s[_ENTER:_LEAVE], s[_LEAVE:_ROWS]
    which, bits = n[_WHICH], n[_BITS]
    dx, dy, t = s[_DX], s[_DY], s[_T]
    nx, ny, nz, shade, u, v, w, lit, angle = s[_NX], s[_NY], s[_NZ], s[_SHADE], s[_U], s[_V], s[_W], s[_LIT], s[_WAVES]
    unions, minuses = np.zeros(5, np.int64), np.zeros(5, np.int64)
    node_left, node_right = np.zeros(LARGEST, np.int64), np.zeros(LARGEST, np.int64)
    relevant, adds = np.zeros(LARGEST, np.int64), np.zeros(LARGEST, np.int64)
    mode = np.zeros((2, LARGEST), np.int64)
    form = np.zeros((2, LARGEST, _FORM))
    moved = np.zeros((LARGEST, _FORM), np.float32)
    faces64, gradient64 = np.zeros((2, 3, 3)), np.zeros((4, 3))
    faces = np.zeros((LARGEST, 3, 3), np.float32)
    gradient = np.zeros((LARGEST, 4, 3))
    g = np.zeros((4, 3), np.float32)
    bounds = np.zeros((5, LARGEST, 2))  # along x, y; along u, v and the direction of the light
    extent = np.zeros((3, 2))
    inverse, local, counts = np.zeros((3, 3)), np.zeros((4, 3)), np.zeros(2, np.int64)
    basis = np.zeros((2, 3, 3))
    basis[0, 0, 0] = basis[0, 1, 1] = 1.0
    basis[0, 2, 2] = -1.0
    pixel = 2.0 / size
    for i in range(RAYS):
        dx[i] = pixel * (i % WIDTH - (WIDTH - 1) / 2)
        dy[i] = pixel * ((HEIGHT - 1) / 2 - i // WIDTH)
    plane = size * size

    for row in range(first, last):
        levels, differences = _read_tree(
            operators[row], leaves, unions, minuses, node_left, node_right, relevant, adds
        )
        # Light coordinates: u and v perpendicular to the light's direction.
        lx, ly, lz = float(lights[row, 0]), float(lights[row, 1]), float(lights[row, 2])
        if abs(lz) > 0.5:
            ux, uy, uz = lz, 0.0, -lx
        else:
            ux, uy, uz = -ly, lx, 0.0
        length = math.sqrt(ux * ux + uy * uy + uz * uz)
        ux, uy, uz = ux / length, uy / length, uz / length
        b = basis[1]
        b[0, 0], b[0, 1], b[0, 2] = ux, uy, uz
        b[1, 0], b[1, 1], b[1, 2] = ly * uz - lz * uy, lz * ux - lx * uz, lx * uy - ly * ux
        b[2, 0], b[2, 1], b[2, 2] = lx, ly, lz
        used = 0
        for leaf in range(leaves):
            kind = kinds[row, leaf]
            if kind == EMPTY:
                continue
            used |= 1 << leaf
        used = _simplify(used, node_left, node_right, differences)
        for leaf in range(leaves):
            if not (used >> leaf) & 1:
                continue
            kind = kinds[row, leaf]
            m = linears[row, leaf]
            determinant = 0.0
            for i in range(3):
                j, k = (i + 1) % 3, (i + 2) % 3
                for a in range(3):
                    c, d = (a + 1) % 3, (a + 2) % 3
                    inverse[a, i] = float(m[j, c]) * m[k, d] - float(m[j, d]) * m[k, c]
                determinant += m[i, 0] * inverse[0, i]
            for a in range(3):
                for i in range(3):
                    inverse[a, i] /= determinant
            if shadows:
                mode[1, leaf] = _leaf_form(
                    kind, sizes[row, leaf], inverse, offsets[row, leaf], basis[1], form[1, leaf], faces64, gradient64,
                    local, counts,
                )  # fmt: skip
            mode[0, leaf] = _leaf_form(
                kind, sizes[row, leaf], inverse, offsets[row, leaf], basis[0], form[0, leaf], faces64, gradient[leaf],
                local, counts,
            )  # fmt: skip
            sign = 1.0 if adds[leaf] else -1.0
            for i in range(3):
                for axis in range(3):
                    faces[leaf, i, axis] = sign * faces64[1 - adds[leaf], i, axis]
            for i in range(4):
                for axis in range(3):
                    gradient[leaf, i, axis] *= sign
            _extent(kind, sizes[row, leaf], m, offsets[row, leaf], basis[0, 0], bounds[0, leaf])
            _extent(kind, sizes[row, leaf], m, offsets[row, leaf], basis[0, 1], bounds[1, leaf])
            for i in range(3):
                _extent(kind, sizes[row, leaf], m, offsets[row, leaf], basis[1, i], bounds[2 + i, leaf])

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
                        and bounds[0, leaf, 0] < x_high
                        and bounds[0, leaf, 1] > x_low
                        and bounds[1, leaf, 0] < y_high
                        and bounds[1, leaf, 1] > y_low
                    ):
                        present |= 1 << leaf
                present = _simplify(present, node_left, node_right, differences)
                for leaf in range(leaves):
                    if (present >> leaf) & 1:
                        _move(form[0, leaf], x0, y0, moved[leaf])
                        if not _intervals(mode[0, leaf], moved[leaf], dx, dy, enter[leaf], leave[leaf]):
                            present &= ~(1 << leaf)
                present = _simplify(present, node_left, node_right, differences)
                corner = top * size + left
                at = row * plane + corner
                found = False
                if present != 0:
                    for i in range(RAYS):
                        t[i] = _INFINITY
                        w[i] = -_INFINITY
                        which[i] = -1
                        nx[i] = _ZERO
                        ny[i] = _ZERO
                        nz[i] = _ZERO
                    _events(
                        present, present, relevant, adds, unions, minuses, levels, enter, leave, bits, w, t, which
                    )
                    hits = np.int32(0)
                    for i in range(RAYS):
                        hit = which[i] >= 0
                        t[i] = t[i] if hit else _ZERO
                        hits |= np.int32(hit)
                    found = hits != 0
                if not found:
                    for i in range(RAYS):
                        shade[i] = _ZERO
                    _write(s, _SHADE, image, at, size, columns, rows)
                    _write(s, _SHADE, depth, at, size, columns, rows)
                    _write(s, _SHADE, mask, at, size, columns, rows)
                    for axis in range(3):
                        _write(s, _SHADE, normal, (3 * row + axis) * plane + corner, size, columns, rows)
                    continue

                winners = 0
                for leaf in range(leaves):
                    if (present >> leaf) & 1 and _any_equal(which, leaf):
                        winners |= 1 << leaf
                        for axis in range(3):
                            q = gradient[leaf]
                            g[0, axis] = q[0, axis] + q[1, axis] * x0 + q[2, axis] * y0
                            for i in range(1, 4):
                                g[i, axis] = q[i, axis]
                        _normals(
                            leaf, mode[0, leaf], adds[leaf] == 1, moved[leaf], faces[leaf], g, dx, dy, t, which,
                            nx, ny, nz,
                        )  # fmt: skip

                for i in range(RAYS):
                    cosine = light_x * nx[i] + light_y * ny[i] + light_z * nz[i]
                    lit[i] = cosine if which[i] >= 0 else _ZERO
                    lit[i] = max(lit[i], _ZERO)
                if shadows:
                    _cast_shadows(
                        winners, used, leaves, mode[1], form[1], bounds, extent, moved, x0, y0, basis[1],
                        relevant, adds, unions, minuses, levels, node_left, node_right, differences,
                        dx, dy, t, nx, ny, nz, u, v, w, shade, which, bits, enter, leave, lit,
                    )  # fmt: skip

                if texture > _ZERO:
                    for i in range(RAYS):
                        angle[i] = _ZERO
                    for j in range(waves.shape[1]):
                        wave = waves[row, j]
                        turns = (phases[row, j] + wave[0] * x0 + wave[1] * y0) / (2 * math.pi)
                        k0 = np.float32(turns - math.floor(turns))
                        kx = np.float32(wave[0] / (2 * math.pi))
                        ky = np.float32(wave[1] / (2 * math.pi))
                        kz = np.float32(wave[2] / (2 * math.pi))
                        for i in range(RAYS):
                            angle[i] += _cos_turns(k0 + kx * dx[i] + ky * dy[i] - kz * t[i])
                    for i in range(RAYS):
                        # tanh(x) - 1 = -2 / (exp(2 x) + 1)
                        angle[i] = _exp2(texture * (-_TWO / (_exp2(_TWO * _LOG2E * angle[i]) + _ONE)))
                else:
                    for i in range(RAYS):
                        angle[i] = _ONE
                for i in range(RAYS):
                    radiance = exposure * angle[i] * (ambient + direct * lit[i])
                    radiance = min(max(radiance, _DARKEST), _ONE)
                    hit = which[i] >= 0
                    shade[i] = _exp2(contrast * _log2(radiance)) if hit else _ZERO
                    t[i] = -t[i] if hit else _ZERO
                    w[i] = _ONE if hit else _ZERO
                _write(s, _SHADE, image, at, size, columns, rows)
                _write(s, _T, depth, at, size, columns, rows)
                _write(s, _W, mask, at, size, columns, rows)
                for axis in range(3):
                    _write(s, _NX + axis, normal, (3 * row + axis) * plane + corner, size, columns, rows)


@_compiled
def _cast_shadows(
    winners, used, leaves, mode, form, bounds, extent, moved, x0, y0, basis,
    relevant, adds, unions, minuses, levels, node_left, node_right, differences,
    dx, dy, t, nx, ny, nz, u, v, w, best, which, bits, enter, leave, lit,
):  # fmt: skip
    """Take the light from the points of a tile that the object itself keeps it from; `which` tells no leaves after."""
    ux, uy, uz = np.float32(basis[0, 0]), np.float32(basis[0, 1]), np.float32(basis[0, 2])
    vx, vy, vz = np.float32(basis[1, 0]), np.float32(basis[1, 1]), np.float32(basis[1, 2])
    lx, ly, lz = np.float32(basis[2, 0]), np.float32(basis[2, 1]), np.float32(basis[2, 2])
    cx, cy = np.float32(x0), np.float32(y0)
    for i in range(RAYS):
        x = (cx + dx[i]) + _OFFSET * nx[i]
        y = (cy + dy[i]) + _OFFSET * ny[i]
        z = _OFFSET * nz[i] - t[i]
        u[i] = ux * x + uy * y + uz * z
        v[i] = vx * x + vy * y + vz * z
        w[i] = lx * x + ly * y + lz * z
    _bounds(u, lit, extent[0])
    _bounds(v, lit, extent[1])
    _bounds(w, lit, extent[2])
    if not extent[0, 0] <= extent[0, 1]:
        return
    present = 0
    for leaf in range(leaves):
        if (
            (used >> leaf) & 1
            and bounds[2, leaf, 0] <= extent[0, 1]
            and bounds[2, leaf, 1] >= extent[0, 0]
            and bounds[3, leaf, 0] <= extent[1, 1]
            and bounds[3, leaf, 1] >= extent[1, 0]
            and bounds[4, leaf, 1] >= extent[2, 0]
        ):
            present |= 1 << leaf
    present = _simplify(present, node_left, node_right, differences)
    # A leaf that adds is convex: it never blocks the points on it that face the light.
    own = 0
    if winners & (winners - 1) == 0:
        for leaf in range(leaves):
            if (winners >> leaf) & 1 and adds[leaf]:
                own = winners
    if present & ~own == 0:
        return
    u0, v0 = (extent[0, 0] + extent[0, 1]) / 2, (extent[1, 0] + extent[1, 1]) / 2
    mu, mv = np.float32(u0), np.float32(v0)
    for i in range(RAYS):
        u[i] -= mu
        v[i] -= mv
        best[i] = _INFINITY
    u0, v0 = float(mu), float(mv)
    for leaf in range(leaves):
        if (present >> leaf) & 1:
            _move(form[leaf], u0, v0, moved[leaf])
            if not _intervals(mode[leaf], moved[leaf], u, v, enter[leaf], leave[leaf]):
                present &= ~(1 << leaf)
    present = _simplify(present, node_left, node_right, differences)
    if present & ~own == 0:
        return
    _events(present, present & ~own, relevant, adds, unions, minuses, levels, enter, leave, bits, w, best, which)
    for i in range(RAYS):
        lit[i] = lit[i] if best[i] == _INFINITY else _ZERO
