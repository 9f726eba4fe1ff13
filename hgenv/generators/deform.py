"""Linear modes added to a mean: a product of matrices whose bits do not depend on the batch, on a CPU.

BLAS blocks a product by its size, so that a row comes out differently in another batch. Here each number is summed up
mode by mode, whoever else is in the batch. On a GPU, where samples are made in one batch anyway, torch does it.
"""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

_BLOCK = 1024  # numbers that stay in the first-level cache


def deform(mean: Tensor, modes: Tensor, coefficients: Tensor) -> Tensor:
    """mean + coefficients @ modes, differentiable in the coefficients.

    Args:
        mean: (n,) float32.
        modes: (K, n) float32, contiguous.
        coefficients: (B, K), on the same device.

    Returns:
        (B, n) float32.
    """
    if coefficients.device.type != "cpu":
        return mean + coefficients.float() @ modes
    return _Deform.apply(mean, modes, coefficients.float())


class _Deform(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, modes: Tensor, coefficients: Tensor) -> Tensor:
        ctx.save_for_backward(modes)
        result = mean.repeat(len(coefficients), 1)
        _add(modes.numpy(), coefficients.detach().contiguous().numpy(), result.numpy())
        return result

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[None, None, Tensor]:
        (modes,) = ctx.saved_tensors
        return None, None, gradient[0] @ modes.T


@njit(cache=True, nogil=True, error_model="numpy")
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
