"""What `random` and `deform` do on a CPU, compiled."""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..jit import njit

_GAMMA, _MIX_1, _MIX_2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_30, _27, _31, _11 = (np.uint64(x) for x in (30, 27, 31, 11))
_BLOCK = 1024  # numbers that stay in the first-level cache


def uniforms(seeds: Tensor, count: int) -> Tensor:
    """See `random.uniforms`: the same bits in one pass over memory."""
    numbers = torch.empty((count, len(seeds)), dtype=torch.float64)
    _fill(seeds.to(torch.int64).contiguous().numpy().view(np.uint64), numbers.numpy())
    return numbers.T


@njit()
def _mix(x):
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


@njit()
def _fill(seeds, numbers):
    starts = np.empty_like(seeds)
    for i in range(len(seeds)):
        starts[i] = _mix(seeds[i] + _GAMMA)
    for slot in range(len(numbers)):
        step = np.uint64(slot + 1) * _GAMMA
        for i in range(len(seeds)):
            numbers[slot, i] = (np.float64(_mix(starts[i] + step) >> _11) + 0.5) * 2.0**-53


def deform(mean: Tensor, modes: Tensor, coefficients: Tensor) -> Tensor:
    """See `deform.deform`; bits of a row depend on no other row."""
    result = mean.repeat(len(coefficients), 1)
    _add(modes.numpy(), coefficients.detach().contiguous().numpy(), result.numpy())
    return result


@njit(error_model="numpy")
def _add(modes, coefficients, result):
    count, size = modes.shape
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        for i in range(len(coefficients)):
            row = result[i, start:stop]
            for k in range(count):
                share = np.float32(coefficients[i, k])
                mode = modes[k, start:stop]
                for n in range(stop - start):
                    row[n] += share * mode[n]
