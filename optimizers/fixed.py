"""No optimization: the control that every optimizer has to beat."""

from __future__ import annotations

import torch

from hgenv.decision import DecisionSpace
from hgenv.env import DataGenEnv

from .base import Optimizer


class Fixed(Optimizer):
    """Trains at one beta throughout: the space's initial one (the paper's table 1), or a random one (table 4).

    Args:
        space: The decision space.
        seed: Decides the random beta.
        every: Without effect.
        random_beta: Whether beta is drawn uniformly from the box of the bounds, and moved to the nearest valid vector,
            instead of being the one that all others start from.
    """

    def __init__(self, space: DecisionSpace, *, seed: int, every: int = 1, random_beta: bool = False) -> None:
        super().__init__(space, seed=seed, every=every)
        if random_beta:
            self.scaled = self._project(torch.rand(space.dimension, generator=self.random, dtype=torch.float64))

    def improve(self, env: DataGenEnv) -> None:
        """Leave beta where it is."""
