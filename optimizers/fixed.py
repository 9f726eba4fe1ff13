"""No optimization: the control that every optimizer has to beat."""

from __future__ import annotations

from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace

from .base import Initial, Optimizer


class Fixed(Optimizer):
    """Trains at one beta throughout.

    The paper's table 1 does so at ten random betas; here a run of it is `initial="random:<n>"`.

    Args:
        space: The decision space.
        seed: Without effect: nothing is drawn.
        initial: Which beta, see `Optimizer`.
    """

    def __init__(self, space: DecisionSpace, *, seed: int, initial: Initial = None) -> None:
        super().__init__(space, seed=seed, initial=initial)

    def improve(self, env: DataGenEnv) -> None:
        """Leave beta where it is."""

    def foresee(self, env: DataGenEnv) -> tuple[Tensor, Tensor]:
        """The samples of the next step: beta stays where it is."""
        return self._next_samples(env)
