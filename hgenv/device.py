"""Where and how things are computed: devices, threads, and the modes of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


def choose_device(device: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:<n>" names.

    Raises:
        ValueError: A GPU was asked for and there is none, or the name means nothing.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; choose 'auto', 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here; use device='cpu' "
            "or 'auto', or install a CUDA build of torch"
        )
    return chosen


def compiled_kernels_serve(tensor: Tensor) -> bool:
    """Whether compiled kernels take this tensor: they work on a CPU. Elsewhere torch does the same."""
    return tensor.device.type == "cpu"


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Have torch work with `count` threads on the CPU inside; None for as many as it has."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_modes() -> Iterator[None]:
    """Have torch compute inside as everything here is written: gradients, in the precision that each tensor has.

    Whatever surrounds the call is without effect: `no_grad`, `inference_mode`, autocast, another default dtype or
    device. What is made inside are ordinary tensors.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
