"""What `environment_map`, `texture` and `camera` do on a CPU where nobody differentiates, compiled.

Elementwise arithmetic in blocks of pixels, in a fixed order: bits depend on no other row.
"""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...jit import njit
from ..elementary import cos_turns, exp2, log2
from .camera import tone_slopes

_BLOCK = 512  # pixels whose scratch stays in the first-level cache
_ZERO, _ONE, _TWO = (np.float32(x) for x in (0, 1, 2))
_TURN = 1 / (2 * math.pi)
_LOG2E = np.float32(1 / math.log(2))

_compiled = njit(error_model="numpy")


def received(
    coefficients: Tensor, axes: Tensor, normal: Tensor, direction: Tensor, share: Tensor, direct: Tensor
) -> Tensor:
    """See `environment_map.received`."""
    result = torch.empty_like(direct)
    _received(*_arrays(coefficients, axes, normal, direction, share, direct, result))
    return result


def solid_texture(wave: Tensor, phase: Tensor, contrast: Tensor, point: Sequence[Tensor], amplitude: Tensor) -> Tensor:
    """See `texture.solid_texture`; x and y are (P,)."""
    result = torch.zeros_like(point[2])
    _solid_texture(*_arrays(wave * _TURN, phase * _TURN, contrast, *point, amplitude, result))
    return result


def expose(light: Tensor, r2: Tensor, exposure: Tensor, vignetting: Tensor, contrast: Tensor, tone: Tensor) -> Tensor:
    """See `camera.expose`."""
    result = torch.empty_like(light)
    _expose(*_arrays(light, r2, exposure, vignetting, contrast, tone_slopes(tone), result))
    return result


def blurred(image: Tensor, mask: Tensor, blur: Tensor) -> Tensor:
    """See `camera.blurred`."""
    result = image.contiguous().clone()
    _blurred(*_arrays(result, mask, blur))
    return result


def _arrays(*tensors: Tensor) -> list:
    return [x.detach().contiguous().numpy() for x in tensors]


@_compiled
def _received(coefficients, axes, normal, direction, share, direct, result):
    rows, pixels = result.shape
    p = np.empty((9, _BLOCK), np.float32)  # the turned normal, and the products of its components
    for row in range(rows):
        for start in range(0, pixels, _BLOCK):
            count = min(_BLOCK, pixels - start)
            x = normal[row, 0, start : start + count]
            y = normal[row, 1, start : start + count]
            z = normal[row, 2, start : start + count]
            for axis in range(3):
                a, b, c = axes[row, axis, 0], axes[row, axis, 1], axes[row, axis, 2]
                for n in range(count):
                    p[axis, n] = a * x[n] + b * y[n] + c * z[n]
            for n in range(count):
                p[3, n], p[4, n], p[5, n] = p[0, n] * p[0, n], p[1, n] * p[1, n], p[2, n] * p[2, n]
                p[6, n], p[7, n], p[8, n] = p[0, n] * p[1, n], p[1, n] * p[2, n], p[2, n] * p[0, n]
            out = result[row, start : start + count]
            a, b, c = direction[row, 0], direction[row, 1], direction[row, 2]
            for n in range(count):
                toward = max(a * x[n] + b * y[n] + c * z[n], _ZERO)
                out[n] = -share[row] * max(toward - direct[row, start + n], _ZERO)
            for i in range(3):
                c = coefficients[row, i]
                for n in range(count):
                    out[n] += c * p[i, n]
            k = 3
            for i in range(3, 9):
                for j in range(i, 9):
                    c = coefficients[row, k]
                    k += 1
                    for n in range(count):
                        out[n] += c * p[i, n] * p[j, n]


@_compiled
def _solid_texture(wave, turns, contrast, across, up, depth, amplitude, result):
    rows, pixels = result.shape
    for row in range(rows):
        scale = _TWO * contrast[row] * _LOG2E
        for start in range(0, pixels, _BLOCK):
            count = min(_BLOCK, pixels - start)
            x, y, z = across[start : start + count], up[start : start + count], depth[row, start : start + count]
            out = result[row, start : start + count]
            for w in range(wave.shape[1]):
                kx, ky, kz = wave[row, w, 0], wave[row, w, 1], wave[row, w, 2]
                k0, a = turns[row, w], amplitude[row, w]
                for n in range(count):
                    out[n] += a * cos_turns(k0 + kx * x[n] + ky * y[n] + kz * z[n])
            for n in range(count):
                # tanh(x) - 1 = -2 / (exp(2 x) + 1)
                out[n] = exp2(-scale / (exp2(_TWO * _LOG2E * out[n]) + _ONE))


@_compiled
def _expose(light, r2, exposure, vignetting, contrast, slope, result):
    rows, height, width = light.shape
    knots = slope.shape[1]
    darkest, half, length = np.float32(1e-4), np.float32(0.5), np.float32(knots - 1)
    for row in range(rows):
        e, power = exposure[row], contrast[row]
        rest = _ZERO
        for k in range(1, knots):
            rest += half * slope[row, k]
        v1, v2 = vignetting[row, 0] * _LOG2E, vignetting[row, 1] * _LOG2E
        for line in range(height):
            out = result[row, line]
            for n in range(width):
                r = r2[line, n]
                seen = e * light[row, line, n] * exp2(-(v1 * r + v2 * r * r))
                out[n] = exp2(power * log2(min(max(seen, darkest), _ONE)))
            for n in range(width):
                x = length * out[n]
                y = rest
                for k in range(knots):
                    t = min(max(x - np.float32(k), -_ONE), _ONE)
                    y += slope[row, k] * (t - half * t * abs(t))
                out[n] = y


@_compiled
def _blurred(image, mask, blur):
    rows, height, width = image.shape
    least = np.float32(1e-6)
    whole, weight = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    across = np.empty((2, height, width), np.float32)
    for row in range(rows):
        for scale in range(blur.shape[1]):
            share, step = blur[row, scale], 1 << scale
            if share == _ZERO:
                continue
            for i in range(height):
                for j in range(width):
                    whole[i, j] = image[row, i, j] * mask[row, i, j]
                    weight[i, j] = mask[row, i, j]
            for i in range(height):
                up, down = i >= step, i + step < height
                for j in range(width):
                    a, b = _TWO * whole[i, j], _TWO * weight[i, j]
                    if up:
                        a += whole[i - step, j]
                        b += weight[i - step, j]
                    if down:
                        a += whole[i + step, j]
                        b += weight[i + step, j]
                    across[0, i, j] = a
                    across[1, i, j] = b
            for i in range(height):
                for j in range(width):
                    a, b = _TWO * across[0, i, j], _TWO * across[1, i, j]
                    if j >= step:
                        a += across[0, i, j - step]
                        b += across[1, i, j - step]
                    if j + step < width:
                        a += across[0, i, j + step]
                        b += across[1, i, j + step]
                    around = a / np.float32(16) / max(b / np.float32(16), least)
                    image[row, i, j] += share * (around - image[row, i, j])
