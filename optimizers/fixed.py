"""No optimization: the control that every optimizer has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv

from .base import Optimizer


class Fixed(Optimizer):
    """Trains at one beta throughout: the space's initial one (the paper's table 1), a random one (table 4), or a given.

    Args:
        space: The decision space.
        seed: Decides the random beta.
        every: Without effect.
        beta: "initial", where all others start; "random", drawn uniformly from the box of the bounds and moved to the
            nearest valid vector; or (d,) numbers in their own units, for instance what an earlier run recommends.

    Raises:
        ValueError: `beta` is another word.
        DecisionError: `beta` has the wrong length, or is out of bounds.
    """

    def __init__(
        self, space: DecisionSpace, *, seed: int, every: int = 1, beta: str | Sequence[float] = "initial"
    ) -> None:
        super().__init__(space, seed=seed, every=every)
        if beta == "random":
            self.scaled = self._project(torch.rand(space.dimension, generator=self.random, dtype=torch.float64))
        elif not isinstance(beta, str):
            self.scaled = self._project(space.scale(space.check(beta)))
        elif beta != "initial":
            raise ValueError(f"beta must be initial, random, or {space.dimension} numbers, not {beta!r}")

    def improve(self, env: DataGenEnv) -> None:
        """Leave beta where it is."""
