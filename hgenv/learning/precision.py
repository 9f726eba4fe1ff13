"""How precisely a GPU computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep a GPU's convolutions from rounding to TF32, which PyTorch has them do: small differences drown in that."""
    # torch puts an object in the module's place when it is imported, and type checkers see the module.
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
