"""What generators make and learners train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B training samples X: everything that comes out of a generator and enters the loss.

    Also holds gradients with respect to such samples, tensor by tensor.

    Attributes:
        image: What the network sees; (B, C, H, W) for images.
        target: What it should say; (B, T, H, W) for images.
        mask: Weight of each pixel in the loss, 0 or 1; (B, 1, H, W) for images.
    """

    image: Tensor
    target: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        return self.map(lambda x: x[rows])

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """image, target, mask."""
        return self.image, self.target, self.mask

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """`function` applied to each of the three tensors."""
        return Batch(*(function(x) for x in self.tensors))

    def dot(self, other: Batch) -> Tensor:
        """Inner product of each sample with its partner in `other`, (B,), summed over all three tensors."""
        products = (
            torch.linalg.vecdot(a.flatten(1), b.flatten(1)) for a, b in zip(self.tensors, other.tensors, strict=True)
        )
        return torch.stack(list(products)).sum(0)

    def split(self, size: int) -> list[Batch]:
        """The samples in parts of `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    @staticmethod
    def cat(batches: list[Batch]) -> Batch:
        """The samples of all `batches`, in order."""
        return Batch(*(torch.cat(parts) for parts in zip(*(b.tensors for b in batches), strict=True)))
