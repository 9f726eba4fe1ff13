"""Random numbers that belong to a sample and a slot, not to a stream.

Number j of sample r is a hash of (r, j): whatever beta does, it never shifts which number goes where, any subset of
samples can be drawn again alone, and a CPU and a GPU draw the same bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..device import compiled_kernels_serve

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # golden-ratio increment of SplitMix64 (Steele et al., OOPSLA 2014)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer; int64 arithmetic wraps."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def hash_integers(seeds: Tensor, count: int) -> Tensor:
    """`count` well-mixed int64 numbers for each seed, (B,) to (B, count), those of one slot side by side in memory."""
    slots = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64)
    return _mix(_mix(seeds.to(torch.int64) + _GAMMA) + slots[:, None] * _GAMMA).T


def uniforms(seeds: Tensor, count: int) -> Tensor:
    """`count` uniform numbers in (0, 1) for each seed, (B,) to (B, count) float64, exact to 53 bits."""
    if compiled_kernels_serve(seeds):
        from . import compiled  # late: loading or compiling the kernels takes a moment

        return compiled.uniforms(seeds, count)
    return (_shift(hash_integers(seeds, count), 11).to(torch.float64) + 0.5) * 2.0**-53


def normals(uniform: Tensor) -> Tensor:
    """Standard normal numbers by inverse transform of uniform ones, any shape."""
    return torch.special.ndtri(uniform)


def directions(height: Tensor, turn: Tensor) -> Tensor:
    """Unit vectors (..., 3) of z = `height` (...), `turn` (...) turns about z from x on.

    They are uniform on the sphere if height is uniform in -1..1 and turn in 0..1 (Archimedes).
    """
    around = 2 * math.pi * turn
    flat = (1 - height**2).sqrt()
    return torch.stack([flat * around.cos(), flat * around.sin(), height], -1)
