"""Random search: independent uniform candidates, the best of which is trained on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from hgenv import DataGenEnv, DecisionSpace

from .base import Initial, Optimizer


class RandomSearch(Optimizer):
    """Pure random search (Rastrigin, 1963; Bergstra and Bengio, JMLR 2012).

    Each search draws candidates uniformly from the box of the bounds, moves them to the nearest valid vectors, and
    probes them and the incumbent from the same weights and sample seeds: losses of different updates cannot be
    compared, since the weights train. The best becomes the incumbent, and the environment steps there. If every probe
    fails, the incumbent stays.

    Args:
        space: The decision space.
        seed: Decides the candidates.
        initial: Where to start, see `Optimizer`.
        period: Updates from one search to the next; those between only step.
        candidates: New ones a search.
    """

    def __init__(
        self, space: DecisionSpace, *, seed: int, initial: Initial = None, period: int = 4, candidates: int = 4
    ) -> None:
        super().__init__(space, seed=seed, initial=initial, period=period)
        if candidates < 1:
            raise ValueError(f"candidates must be positive, not {candidates}")
        self.candidates = candidates

    def improve(self, env: DataGenEnv) -> None:
        """Probe the incumbent and its challengers, keep the best."""
        members = torch.cat([self.normalized[None], self._project(self._draw(env))])
        outcomes = env.probe(self._valid(members))
        losses = torch.tensor([float("inf") if o.loss is None else o.loss for o in outcomes])
        # argmin takes the first of equals: the incumbent, should all have failed.
        self.normalized = members[losses.argmin()]

    def _draw(self, env: DataGenEnv) -> Tensor:
        """New candidates, (candidates, d) in [0, 1]."""
        return torch.rand((self.candidates, self.space.dimension), generator=self.random, dtype=torch.float64)


class QuasiRandomSearch(RandomSearch):
    """Random search whose candidates fill the box evenly: a scrambled Sobol sequence (Sobol, 1967; Owen, 1998).

    Bergstra and Bengio, JMLR 2012, found it ahead of independent draws where a search has some hundreds of candidates.
    Arguments are those of `RandomSearch`; the seed decides the scrambling.
    """

    def __init__(
        self, space: DecisionSpace, *, seed: int, initial: Initial = None, period: int = 4, candidates: int = 4
    ) -> None:
        super().__init__(space, seed=seed, initial=initial, period=period, candidates=candidates)
        if space.dimension > SobolEngine.MAXDIM:
            raise ValueError(f"Sobol sequences have at most {SobolEngine.MAXDIM} components, not {space.dimension}")

    def _draw(self, env: DataGenEnv) -> Tensor:
        """The next ones of the sequence: how many came before, the environment's update says."""
        # The seed of the optimizer's own source, which a saved state brings along and from which nothing else draws.
        sequence = SobolEngine(self.space.dimension, scramble=True, seed=self.random.initial_seed())
        sequence.fast_forward(env.update // self.period * self.candidates)
        return sequence.draw(self.candidates, dtype=torch.float64)
