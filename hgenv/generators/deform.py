"""Linear modes added to a mean: a product of matrices whose bits do not depend on the batch, on a CPU.

BLAS blocks a product by its size, so that a row comes out differently in another batch. Here each number is summed up
mode by mode, whoever else is in the batch. On a GPU, where samples are made in one batch anyway, torch does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..device import compiled_kernels_serve


def deform(mean: Tensor, modes: Tensor, coefficients: Tensor) -> Tensor:
    """mean + coefficients @ modes, differentiable in the coefficients.

    Args:
        mean: (n,) float32.
        modes: (K, n) float32, contiguous.
        coefficients: (B, K), on the same device.

    Returns:
        (B, n) float32.
    """
    if not compiled_kernels_serve(coefficients):
        return mean + coefficients.float() @ modes
    return _Deform.apply(mean, modes, coefficients.float())


class _Deform(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, modes: Tensor, coefficients: Tensor) -> Tensor:
        from . import compiled  # late: loading or compiling the kernels takes a moment

        ctx.save_for_backward(modes)
        return compiled.deform(mean, modes, coefficients)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[None, None, Tensor]:
        (modes,) = ctx.saved_tensors
        return None, None, gradient[0] @ modes.T
