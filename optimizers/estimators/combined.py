"""Several estimators of one step, each believed where it is the sharpest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hgenv import DataGenEnv

from ..base import Estimator, Proposal, UnsuitableError
from .pathwise import Pathwise
from .score_influence import ScoreInfluence


@dataclass(frozen=True)
class Combined:
    """The mean of several estimates, weighted component by component by their precision (cut at several).

    With m_e the estimate of estimator e and v_e its squared standard error, both from its rows,

        dL/dbeta_c ~ sum_e w_ec m_ec,    w_ec = (1 / v_ec) / sum_f (1 / v_fc)

    (as Metz et al., "Understanding and correcting pathologies in the training of learned optimizers", ICML 2019, mix
    reparameterized and score-function gradients). A component that one estimator alone knows is that one's.

    What an estimator needs and the generator does not have makes the mixture go without it.

    By default score influence looks at the samples of the last training step alone: beside `Pathwise`, that is free.

    Attributes:
        estimators: Which; one of them at most may propose betas for its samples.

    Raises:
        ValueError: There is none, or something else is among them.
    """

    estimators: Sequence[Estimator] = (Pathwise(), ScoreInfluence(num_virtual=0, last_steps=1))

    def __post_init__(self) -> None:
        """Check them."""
        if not isinstance(self.estimators, Sequence) or not self.estimators:
            raise ValueError(f"estimators must be a list of at least one, not {self.estimators!r}")
        for estimator in self.estimators:
            if not hasattr(estimator, "estimate"):
                raise ValueError(f"estimators must be a list of estimators, but {estimator!r} is none")

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """What the one that proposes proposes.

        Raises:
            ValueError: Several do.
        """
        wanted = [p for e in self.estimators if (p := e.propose(env, center, random)) is not None]
        if len(wanted) > 1:
            names = ", ".join(type(e).__name__ for e in self.estimators)
            raise ValueError(f"several of {names} want samples at betas of their own; combine one of them at most")
        return wanted[0] if wanted else None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """The rows of all, (sum of M, d), moved and scaled so that their mean and its standard error are the mixture's.

        Raises:
            RenderError: A sample cannot be rendered.
            UnsuitableError: The generator has what none of the estimators needs.
        """
        found, unsuitable = list[Tensor | None](), list[str]()
        for estimator in self.estimators:
            try:
                found.append(estimator.estimate(env, center, random))
            except UnsuitableError as error:
                unsuitable.append(str(error))
        if not found:
            raise UnsuitableError("; ".join(unsuitable))
        some = [rows for rows in found if rows is not None]
        return _mixed(some) if some else None


def _mixed(estimates: list[Tensor]) -> Tensor:
    counts = torch.stack([(~rows.isnan()).sum(0) for rows in estimates])  # (E, d)
    means = torch.stack([rows.nanmean(0) for rows in estimates]).nan_to_num(0)
    scatter = torch.stack([(rows - mean).square().nansum(0) for rows, mean in zip(estimates, means, strict=True)])
    # One value says nothing about its noise: that is as large as itself then.
    squared_error = torch.where(counts > 1, scatter / (counts * (counts - 1)).clamp(min=1), means**2)
    precision = torch.where(counts > 0, 1 / squared_error.clamp(min=1e-300), 0)
    weights = precision / precision.sum(0).clamp(min=1e-300)
    mean, total = (weights * means).sum(0), counts.sum(0)
    # Each estimate's rows get the mixture's mean, and M / M_e times their weighted scatter: pooled they tell its error.
    return torch.cat([
        mean + weight * (total / count) * (rows - own)
        for rows, own, weight, count in zip(estimates, means, weights, counts, strict=True)
    ])  # fmt: skip
