"""Random search: independent uniform candidates, the best of which is trained on."""

from __future__ import annotations

import torch

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
        shape = (self.candidates, self.space.dimension)
        drawn = self._project(torch.rand(shape, generator=self.random, dtype=torch.float64))
        members = torch.cat([self.normalized[None], drawn])
        outcomes = env.probe(self._valid(members))
        losses = torch.tensor([float("inf") if o.loss is None else o.loss for o in outcomes])
        # argmin takes the first of equals: the incumbent, should all have failed.
        self.normalized = members[losses.argmin()]
