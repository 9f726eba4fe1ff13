"""Where samples are made that are wanted on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import Tensor

from ..samples import Samples

G = TypeVar("G", bound=Callable[..., Samples])

FEW = 2**21  # pixels, of all samples together, that a CPU's compiled kernels make sooner than a GPU is told how


def few_on_the_cpu(call: G) -> G:
    """Have a generator make few samples on the CPU, and bring them to the seeds' device.

    A GPU takes as long for a single sample as for hundreds: it waits for Python.

    Args:
        call: (generator, betas, seeds) -> samples on the seeds' device. The generator has a `renderer` with a `size`.
    """

    @functools.wraps(call)
    def generate(self: Any, betas: Tensor, seeds: Tensor) -> Samples:
        if seeds.device.type == "cpu" or len(seeds) * self.renderer.size**2 > FEW:
            return call(self, betas, seeds)
        return call(self, betas.cpu(), seeds.cpu()).to(seeds.device)

    return cast(G, generate)
