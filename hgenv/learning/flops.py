"""Floating-point operations, counted by PyTorch's own formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of a call: convolutions, products of matrices, attention.

    A multiplication and an addition are two. What is done number by number counts as nothing.
    """
    with _FlopCounter() as counter:
        work()
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """Sums the formulas.

    `FlopCounterMode` does too, but it also tracks modules, and second derivatives break that (PyTorch 2.13).
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*arguments, **(options or {}), out_val=result)
        return result
