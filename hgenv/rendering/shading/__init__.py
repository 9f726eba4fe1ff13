"""Light models: formulas of what has been found on a surface, differentiable wherever its silhouette stays.

On a CPU compiled kernels do the same, where nobody differentiates.
"""

from torch import Tensor

from ...device import compiled_kernels_serve


def forward_alone(*tensors: Tensor) -> bool:
    """Whether compiled kernels may take these: they are on a CPU, and no gradient is to go through them."""
    return all(compiled_kernels_serve(x) and not x.requires_grad for x in tensors)
