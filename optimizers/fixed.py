"""No optimization: the control that every optimizer has to beat."""

from __future__ import annotations

from hgenv.env import DataGenEnv

from .base import Optimizer


class Fixed(Optimizer):
    """Trains at the space's initial beta throughout (the paper's table 1 trains at fixed beta).

    Args:
        space: The decision space.
        seed: Unused, as nothing is drawn.
    """

    def improve(self, env: DataGenEnv) -> None:
        """Leave beta where it is."""
