"""What generators make and learners train on: records of tensors, one row a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

MARGIN = 0.1  # that masks may leave 0..1 by: whoever differentiates by them moves them a little


class SamplesError(ValueError):
    """Samples that a task cannot take. The message says whose, which field, and what it should be."""


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
            torch.linalg.vecdot(_rows(a), _rows(b).to(a.dtype))
            for a, b in zip(self.tensors, other.tensors, strict=True)
            if a.is_floating_point() and b.is_floating_point()
        ]
        return torch.stack(products).sum(0) if products else torch.zeros(len(self), device=self.tensors[0].device)

    def not_finite(self) -> str | None:
        """The first number that is infinite or NaN, in words; None if there is none."""
        for name, x in self._pairs():
            if x.is_floating_point() and not x.isfinite().all():
                row = int((~_rows(x).isfinite()).any(1).nonzero()[0])
                return f"{name}[{row}] with values that are infinite or NaN"
        return None

    def check(self, count: int, device: torch.device, who: str) -> None:
        """Make sure that this is a record of so many samples on a device.

        Args:
            count: How many samples there should be.
            device: Where they should be.
            who: Who made them, for the message.

        Raises:
            SamplesError: It is not.
        """
        if not self.names:
            raise SamplesError(f"{who}: {type(self).__name__} has no fields, so there is nothing to learn from")
        for name, x in self._pairs():
            if not isinstance(x, Tensor):
                raise SamplesError(f"{who}: the field {name!r} must be a tensor, not {type(x).__name__}")
            if x.layout != torch.strided:
                raise SamplesError(f"{who}: the field {name!r} must be dense, not {x.layout}; use its to_dense()")
            if not x.dim() or len(x) != count:
                shape = tuple(x.shape)
                raise SamplesError(f"{who}: the field {name!r} must be ({count}, ...), a row a sample, not {shape}")
            if x.device.type != device.type:
                raise SamplesError(f"{who}: the field {name!r} is on {x.device.type}, but {device.type} is needed")

    def __repr__(self) -> str:
        fields = (f"{n}={str(x.dtype).removeprefix('torch.')}{tuple(x.shape)}" for n, x in self._pairs())
        return f"{type(self).__name__}({', '.join(fields)})"

    def _pairs(self) -> list[tuple[str, Tensor]]:
        return list(zip(self.names, self.tensors, strict=True))

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


@dataclass(frozen=True, repr=False)
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

    def check_mask(self, who: str) -> None:
        """Make sure that the mask are weights, give or take the step of a difference quotient.

        Raises:
            SamplesError: They are not.
        """
        near = (self.mask > -MARGIN) & (self.mask < 1 + MARGIN)  # NaN is not
        if self.mask.device.type != "meta" and not near.all():
            raise SamplesError(
                f"{who}: the field 'mask' must be 0 or 1, a pixel that counts or not; compare, or divide"
            )


@dataclass(frozen=True, repr=False)
class LabelledImages(Samples):
    """Images with a class, or with a class for each pixel.

    Attributes:
        image: What the network sees, (B, C, H, W).
        label: Numbers of classes, int64; (B,) for whole images, (B, H, W) for pixels.
    """

    image: Tensor
    label: Tensor


@dataclass(frozen=True, repr=False)
class KeypointSamples(Samples):
    """Images with named points.

    Attributes:
        image: What the network sees, (B, C, S, S).
        point: (B, J, 2) x, right, and y, down, of each point in half frames: the edges are at -1 and 1.
        visible: Weight of each point in the loss, 0 or 1; (B, J).
    """

    image: Tensor
    point: Tensor
    visible: Tensor
