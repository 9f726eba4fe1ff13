"""What generators make and learners train on: records of tensors, one row a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor


class Samples:
    """B training samples X, everything of them that enters the loss; subclasses are frozen dataclasses of tensors.

    Each field is a tensor whose first dimension is B. Floating-point fields are what L can be differentiated by; others
    (class labels, numbers of boxes) have no gradient. A record may also hold gradients, field by field.

        @dataclass(frozen=True)
        class LabelledPairs(Samples):
            left: Tensor   # (B, 3, H, W)
            right: Tensor  # (B, 3, H, W)
            label: Tensor  # (B,) int64
    """

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The fields, in order."""
        return tuple(getattr(self, name) for name in self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        record: Any = self  # a dataclass, which this base is not
        return tuple(f.name for f in fields(record))

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return self.map(lambda x: x[rows])

    def with_tensors(self, tensors: Iterable[Tensor]) -> Self:
        """The same kind of record of other tensors, in the order of the fields."""
        return type(self)(*tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """`function` applied to each field."""
        return self.with_tensors(function(x) for x in self.tensors)

    def to(self, device: torch.device | str) -> Self:
        """The same samples on another device."""
        return self.map(lambda x: x.to(device))

    def dot(self, other: Samples) -> Tensor:
        """Inner product of each sample with its partner in `other`, (B,), over all floating-point fields."""
        products = [
            torch.linalg.vecdot(_rows(a), _rows(b))
            for a, b in zip(self.tensors, other.tensors, strict=True)
            if a.is_floating_point() and b.is_floating_point()
        ]
        return torch.stack(products).sum(0)

    def split(self, size: int) -> list[Self]:
        """The samples in parts of `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The samples of all `parts`, in order."""
        columns = zip(*(part.tensors for part in parts), strict=True)
        return parts[0].with_tensors(torch.cat(column) for column in columns)

    @classmethod
    def stack(cls, parts: Sequence[Self]) -> Self:
        """`parts` of equal size along a new first dimension."""
        columns = zip(*(part.tensors for part in parts), strict=True)
        return parts[0].with_tensors(torch.stack(column) for column in columns)


def _rows(tensor: Tensor) -> Tensor:
    """(B, ...) to (B, n), also where a sample is a single number."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]


@dataclass(frozen=True)
class DenseSamples(Samples):
    """Samples whose targets are maps, or numbers, with a mask.

    Attributes:
        image: What the network sees; (B, C, H, W) for images.
        target: What it should say; (B, T, H, W) for images.
        mask: Weight of each pixel in the loss, 0 or 1; (B, 1, H, W) for images.
    """

    image: Tensor
    target: Tensor
    mask: Tensor
