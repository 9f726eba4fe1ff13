"""The chain rule alone, where the generator is smooth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Proposal, UnsuitableError
from .differentiated import check_last_steps, clipped, pathwise_components, sample_gradient


@dataclass(frozen=True)
class Pathwise:
    """An analytic gradient of the training times one of the generator (cut nowhere), in its pathwise blocks.

        dL/dbeta = sum_i <dL/dX_i, dX_i/dbeta>

    It is what autograd would do (Neural-Sim, Ge et al., ECCV 2022, has such a generator). Other components are NaN.

    Attributes:
        last_steps: See `Hybrid`.
        curvature: See `Hybrid`.
        clip_samples: See `Hybrid`.

    Raises:
        ValueError: `last_steps` is not positive.
    """

    last_steps: int | None = 1
    curvature: bool = False
    clip_samples: bool = True

    def __post_init__(self) -> None:
        """Check `last_steps`."""
        check_last_steps(self.last_steps)

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: all samples are made at the center."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each differentiated sample of the last step, (N, d); None if that failed.

        Raises:
            UnsuitableError: The generator has no pathwise blocks.
        """
        if not env.generator.pathwise:
            raise UnsuitableError(
                f"the generator {type(env.generator).__name__} has no pathwise blocks, which this estimator is for"
            )
        gradient = sample_gradient(env, self.last_steps, self.curvature)
        if gradient is None:
            return None
        rows = torch.where(pathwise_components(env), gradient.pathwise(), torch.nan)
        return env.problem.num_samples * (clipped(rows, gradient) if self.clip_samples else rows)
