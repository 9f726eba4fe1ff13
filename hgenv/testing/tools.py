"""What the kits are made with."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..samples import Samples


def through_file(value: Any) -> Any:
    """What `torch.load` makes of what `torch.save` wrote."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)


def same_samples(first: Samples, second: Samples) -> bool:
    """Whether two records have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))


def _global_state() -> list[bytes]:
    # The legacy state is what is guarded here.
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    numpy_state = f"{np.asarray(keys).tobytes()!r} {position} {has_gauss} {gauss}".encode()
    return [torch.get_rng_state().numpy().tobytes(), numpy_state, repr(random.getstate()).encode()]


@contextmanager
def global_randomness_unchanged(who: str) -> Iterator[None]:
    """Fail if `who` touches the random state of torch, numpy or random inside."""
    before = _global_state()
    yield
    for library, a, b in zip(("torch", "numpy", "random"), before, _global_state(), strict=True):
        assert a == b, f"{who} changed the global random state of {library}: use generators of your own"


@contextmanager
def disturbed_global_randomness() -> Iterator[None]:
    """Another global random state inside, the old one afterwards; numpy's legacy one, since that is the global one."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(20201)
    np.random.seed(20202)  # noqa: NPY002
    random.seed(20203)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
