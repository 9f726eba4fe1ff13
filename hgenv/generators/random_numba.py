"""The numbers of `random.uniforms` on a CPU, compiled: one pass over memory, with the same bits."""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

_GAMMA, _MIX_1, _MIX_2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_30, _27, _31, _11 = (np.uint64(x) for x in (30, 27, 31, 11))


def uniforms(seeds: Tensor, count: int) -> Tensor:
    """(B,) int64 seeds on the CPU to (B, count) float64, those of one slot side by side in memory."""
    numbers = torch.empty((count, len(seeds)), dtype=torch.float64)
    _fill(seeds.to(torch.int64).contiguous().numpy().view(np.uint64), numbers.numpy())
    return numbers.T


@njit(cache=True, nogil=True)
def _mix(x):
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


@njit(cache=True, nogil=True)
def _fill(seeds, numbers):
    starts = np.empty_like(seeds)
    for i in range(len(seeds)):
        starts[i] = _mix(seeds[i] + _GAMMA)
    for slot in range(len(numbers)):
        step = np.uint64(slot + 1) * _GAMMA
        for i in range(len(seeds)):
            numbers[slot, i] = (np.float64(_mix(starts[i] + step) >> _11) + 0.5) * 2.0**-53
