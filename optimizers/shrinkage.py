"""How far an estimate is to be believed, component by component: not in the paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shrinkage:
    """The positive-part James-Stein factor max(0, 1 - (threshold / t)^2), t being an estimate over its standard error.

    Components that are pure noise stay where they are two times out of three, while RMSprop alone would move them at
    full step; with a threshold of 2, nineteen times out of twenty. With a memory m, mean and error are those of the
    moving average (1 - m) sum_j m^j (estimate of j moves ago): a signal that is weaker than the noise of one estimate
    shows in time, and noise averages out.

    Attributes:
        memory: m, at least 0 and below 1.
        threshold: Standard errors from which on an estimate is believed at all.

    Raises:
        ValueError: One of them is out of range.
    """

    memory: float = 0.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check it."""
        if not 0 <= self.memory < 1:
            raise ValueError(f"shrinkage.memory must be at least 0 and below 1, not {self.memory}")
        if not 0 < self.threshold < float("inf"):
            raise ValueError(f"shrinkage.threshold must be a positive number, not {self.threshold}")

    def start(self, dimension: int) -> ShrinkageState:
        """The state before the first estimate of d = `dimension` components."""
        zeros = torch.zeros(dimension, dtype=torch.float64)
        return ShrinkageState(zeros, zeros)

    def __call__(self, state: ShrinkageState, rows: Tensor) -> tuple[ShrinkageState, Tensor]:
        """Take in one estimate.

        Args:
            state: What is known so far.
            rows: (M, d) independent parts whose mean is the estimate, NaN for what is missing.

        Returns:
            What is known then, and (d,) factors in [0, 1].
        """
        counts = (~rows.isnan()).sum(0)
        mean = rows.nanmean(0).nan_to_num(0)
        variance = ((rows - mean) ** 2).nansum(0) / (counts - 1).clamp(min=1)
        # One value says nothing about its noise: that is as large as itself then.
        squared_error = torch.where(counts > 1, variance / counts.clamp(min=1), mean**2)
        known, m = counts > 0, self.memory
        mean = torch.where(known, m * state.mean + (1 - m) * mean, state.mean)
        error = m**2 * state.squared_error + (1 - m) ** 2 * squared_error
        error = torch.where(known, error, state.squared_error)
        factor = (1 - self.threshold**2 * error / (mean**2).clamp(min=1e-300)).clamp(min=0)
        return ShrinkageState(mean, error), torch.where(mean != 0, factor, 0)


@dataclass(frozen=True)
class ShrinkageState:
    """Moving averages of the estimate and of its squared standard error, (d,) each."""

    mean: Tensor
    squared_error: Tensor
