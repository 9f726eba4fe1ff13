"""Samples that are used more than once: a pool of the most recent ones, and what a step takes of them.

Sample j of the pool was drawn at a beta of its own. With n_k of its M samples made at beta_k, the pool as a whole was
drawn from the mixture of these densities. What it is worth at the present beta is an importance weight against it,

    w_j = p(x_j | beta) / sum_k (n_k / M) p(x_j | beta_k),

the deterministic mixture of multiple importance sampling (Veach and Guibas, SIGGRAPH 1995; Owen and Zhou, JASA 2000).
Against the density at the sample's own beta alone, a single old sample could outweigh all others; here it cannot, where
younger ones lie beside it. A step resamples in proportion to the weights (sampling-importance-resampling, Rubin 1987),
so that whoever trains on the samples needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from .generators.random import uniforms
from .problem import Generator, PartError, RenderError, part
from .samples import Samples
from .saved import CURE, copy_like

NEEDED = ("draws", "log_density", "score")  # of a generator
SLACK = 1e-6  # of sums that are rounded


@dataclass(frozen=True)
class Replay:
    """How samples are used more than once. For generators whose draws have a density, see `hgenv.Generator`.

    In a step at one beta, a part of the samples is rendered; the others are drawn from the most recent ones, in
    proportion to their importance weights at this beta. On average a sample is trained on 1 / fresh times.

    How many are drawn: all but the share `fresh`, but no more than the pool is worth at this beta. That is its
    effective size, (sum of weights)^2 / (sum of their squares), and no more than the sum of weights, which is near the
    size of the pool where it has what beta asks for, and near zero where it has not. So a beta that jumps has its
    samples rendered. A weight counts as the square root of the pool's size at most (Ionides, JCGS 2008).

    Probes, and steps with betas or seeds of their own, render all of their samples and leave the pool as it is.

    Attributes:
        capacity: How many samples are kept; in memory, where training is.
        fresh: Share of a step's samples that are rendered in any case; one sample is at least. The less, the more a
            network learns its samples by heart, and the less it says about new ones: a quarter did harm where a half
            paid (docs/black-box.md).

    Raises:
        ValueError: The capacity is not positive, or the share not above 0 and at most 1.
    """

    capacity: int = 1024
    fresh: float = 0.5

    def __post_init__(self) -> None:
        """Check both."""
        if isinstance(self.capacity, bool) or not isinstance(self.capacity, int) or self.capacity < 1:
            raise ValueError(f"capacity must be a positive number of samples, not {self.capacity!r}")
        if not 0 < self.fresh <= 1:
            raise ValueError(f"fresh must be a share above 0 and at most 1, not {self.fresh!r}")

    def most(self, count: int) -> int:
        """How many of so many samples may be drawn from the pool."""
        return count - max(1, math.ceil(self.fresh * count - 1e-9))  # 0.1 * 30 is more than 3


@dataclass(frozen=True, eq=False)
class Drawn:
    """Which samples of a step are not rendered, and what stands in their places.

    Attributes:
        replayed: (N,) bool, which they are.
        betas: (m, d) what these were made with, in order.
        seeds: (m,) and from which sample seed.
        samples: Themselves; None if there are none.
    """

    replayed: Tensor
    betas: Tensor
    seeds: Tensor
    samples: Samples | None = field(repr=False)

    @classmethod
    def nothing(cls, count: int, dimension: int) -> Self:
        """None of so many samples."""
        replayed = torch.zeros(count, dtype=torch.bool)
        betas = torch.zeros((0, dimension), dtype=torch.float64)
        return cls(replayed, betas, torch.zeros(0, dtype=torch.int64), None)

    def place(self, betas: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """What all N samples are made with: of (N, d) betas and (N,) seeds, the first are for those to be rendered."""
        if self.samples is None:
            return betas, seeds
        all_betas, all_seeds, replayed = betas.clone(), seeds.clone(), self.replayed.to(seeds.device)
        all_betas[self.replayed] = self.betas
        all_seeds[replayed] = self.seeds.to(seeds.device)
        all_seeds[~replayed] = seeds[: int((~replayed).sum())]
        return all_betas, all_seeds

    def merge(self, fresh: Any) -> Any:
        """All N samples: those that were rendered, and these, each in its place."""
        if self.samples is None:
            return fresh
        order = torch.cat([(~self.replayed).nonzero(), self.replayed.nonzero()]).squeeze(1).argsort()
        both = type(fresh).cat([fresh, self.samples])
        return both[order.to(both.tensors[0].device)]


class ReplayPool:
    """The most recent samples of a generator, at most `replay.capacity`, the oldest first.

    Args:
        replay: How many, and how they are used.
        generator: Whose.

    Raises:
        TypeError: The generator's draws have no density.
    """

    def __init__(self, replay: Replay, generator: Generator) -> None:
        self._who = f"the generator {type(generator).__name__}"
        if missing := [name for name in NEEDED if not hasattr(generator, name)]:
            raise TypeError(
                f"replay needs the density of a sample's draws, but {self._who} has no {missing[0]}(); see "
                "hgenv.Generator for what to give it (hgenv.generators.BlackBox has it), or leave replay out"
            )
        self.replay, self._generator = replay, generator
        self._exact = torch.zeros(
            generator.space.dimension, dtype=torch.bool
        )  # components that are no numbers of draws
        for name in getattr(generator, "handed_over", ()):
            self._exact[generator.space.slice(name)] = True
        self.clear()

    def __len__(self) -> int:
        return len(self._seeds)

    def clear(self) -> None:
        """Forget all."""
        self._betas = torch.zeros((0, len(self._exact)), dtype=torch.float64)  # (n, d), each once
        self._group = torch.zeros(0, dtype=torch.int64)  # (M,) which of them a sample was made with
        self._seeds = torch.zeros(0, dtype=torch.int64)  # (M,)
        self._density = torch.zeros((0, 0), dtype=torch.float64)  # (n, M) log p(x_j | beta_k)
        self._draws: dict[str, Tensor] = {}  # (M, ...) each
        self._samples: list[Samples] = []  # one each, without the dimension of the batch

    def draw(self, beta: Tensor, count: int, batch_size: int, key: Tensor) -> Drawn:
        """Which of the samples of a step are taken from here, and which ones these are.

        Each batch gets as many as the others, or one more.

        Args:
            beta: (d,) the step's.
            count: N, its samples.
            batch_size: B, which divides N.
            key: (1,) int64 that decides whatever is random about it.
        """
        most = self.replay.most(count)
        weights = self.weights(beta) if most and len(self) else torch.zeros(0)
        number = min(most, int(effective_size(weights) + SLACK))
        if not number:
            return Drawn.nothing(count, len(beta))
        first, rest = uniforms(key.cpu(), 1 + count)[0].split([1, count])
        picks = systematic(weights, number, float(first))
        rank = rest.reshape(-1, batch_size).argsort(1).argsort(1)  # a random order within each batch
        places = (rank.flatten() + rest).argsort()[:number]
        picks = picks[places.argsort()]
        replayed = torch.zeros(count, dtype=torch.bool)
        replayed[places] = True
        samples = type(self._samples[0]).stack([self._samples[i] for i in picks.tolist()])
        return Drawn(replayed, self._betas[self._group[picks]], self._seeds[picks], samples)

    def weights(self, beta: Tensor) -> Tensor:
        """The importance weights of all samples at (d,) beta, (M,) float64; their mean is about 1 where all is well."""
        alike = (self._betas[:, self._exact] == beta[self._exact]).all(1)[self._group]
        count = int(alike.sum())
        if not count:
            return torch.zeros(len(self), dtype=torch.float64)
        numbers = torch.bincount(self._group, minlength=len(self._betas)).to(torch.float64)
        mixture = (self._density + numbers.log()[:, None]).logsumexp(0) - math.log(count)
        here = self._log_density(beta.expand(len(self), -1), self._draws, self._betas[self._group])
        weights = (here - mixture).exp().nan_to_num(0, posinf=math.inf)
        return weights.clamp(max=math.sqrt(count))

    def add(self, beta: Tensor, seeds: Tensor, samples: Samples) -> None:
        """Put in samples that were made at one beta; the oldest make room.

        Args:
            beta: (d,).
            seeds: (F,).
            samples: F of them.
        """
        capacity = self.replay.capacity
        seeds, samples = seeds[-capacity:].cpu(), samples[slice(-capacity, None)]
        new, known = len(seeds), len(self) > 0 and torch.equal(self._betas[-1], beta)
        betas = self._betas if known else torch.cat([self._betas, beta[None]])
        own = beta.expand(new, -1)
        draws = self._drawn(own, seeds)
        density = self._density
        if not known:  # that of the others at this beta
            row = self._log_density(beta.expand(len(self), -1), self._draws, self._betas[self._group])
            density = torch.cat([density, row[None]])
        # Their own at all betas.
        each = {name: x.repeat(len(betas), *[1] * (x.dim() - 1)) for name, x in draws.items()}
        columns = self._log_density(betas.repeat_interleave(new, 0), each, own.repeat(len(betas), 1))
        density = torch.cat([density, columns.reshape(len(betas), new)], 1)
        group = torch.cat([self._group, torch.full((new,), len(betas) - 1)])[-capacity:]
        kept, self._group = group.unique(return_inverse=True)
        self._betas, self._density = betas[kept], density[kept, -capacity:]
        self._seeds = torch.cat([self._seeds, seeds])[-capacity:]
        before = self._draws or {name: x[:0] for name, x in draws.items()}
        self._draws = {name: torch.cat([before[name], x])[-capacity:] for name, x in draws.items()}
        every = [*self._samples, *(samples.map(lambda x, i=i: x[i]) for i in range(new))]  # type: ignore[misc]
        self._samples = list(islice(every, max(0, len(every) - capacity), None))

    def state_dict(self) -> dict[str, Any]:
        """What `restored` makes it of. Samples are not in it: seeds and betas are their names."""
        return {"betas": self._betas, "group": self._group, "seeds": self._seeds, "density": self._density}

    def restored(self, kept: dict[str, Any], make: Callable[[Tensor, Tensor], Any]) -> ReplayPool:
        """A pool of this kind from a `state_dict` that `check` has copied; its samples are made again.

        Args:
            kept: The state.
            make: The generator as a function that says what is wrong with its samples.

        Raises:
            ValueError: It contradicts itself.
        """
        pool = type(self)(self.replay, self._generator)
        if not len(kept["seeds"]):
            return pool
        betas, seeds = kept["betas"][kept["group"]], kept["seeds"]
        draws = pool._drawn(betas, seeds)
        n, m = kept["density"].shape
        each = {name: x.repeat(n, *[1] * (x.dim() - 1)) for name, x in draws.items()}
        expected = pool._log_density(kept["betas"].repeat_interleave(m, 0), each, betas.repeat(n, 1)).reshape(n, m)
        if not torch.allclose(kept["density"], expected, rtol=SLACK, atol=SLACK):
            raise ValueError(f"the pool for replay: density is not that of its samples; {CURE}")
        try:
            samples = make(betas, seeds)
        except RenderError as error:
            raise ValueError(f"the pool for replay: its samples cannot be made again: {error}") from error
        pool._betas, pool._group, pool._seeds, pool._density = (kept[x] for x in ("betas", "group", "seeds", "density"))
        pool._draws = draws
        pool._samples = [samples.map(lambda x, i=i: x[i]) for i in range(m)]
        return pool

    def check(self, found: Any) -> dict[str, Any]:
        """A copy of a saved state, see `hgenv.saved.copy_like`.

        Raises:
            ValueError: It is none, or one of another pool.
        """
        where = "the pool for replay"

        def sizes(name: str) -> list[int]:
            x = found.get(name) if isinstance(found, dict) else None
            return list(x.shape) if isinstance(x, Tensor) else []

        n, m = (sizes("betas") or [0])[0], (sizes("seeds") or [0])[0]
        like = {
            "betas": torch.zeros((n, len(self._exact)), dtype=torch.float64),
            "group": torch.zeros(m, dtype=torch.int64),
            "seeds": torch.zeros(m, dtype=torch.int64),
            "density": torch.zeros((n, m), dtype=torch.float64),
        }
        kept: dict[str, Any] = copy_like(found, like, where)
        if m > self.replay.capacity:
            raise ValueError(
                f"{where}: the saved state has {m} samples, and at most {self.replay.capacity} fit; {CURE}"
            )
        if not torch.equal(kept["group"].unique(), torch.arange(n)):
            raise ValueError(f"{where}: group must name each of its {n} betas; {CURE}")
        for beta in kept["betas"]:
            self._generator.space.check(beta)
        return kept

    def _drawn(self, betas: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """What the generator draws for (B, d) betas and (B,) seeds."""
        generator: Any = self._generator
        with part(self._who):
            return dict(generator.draws(betas, seeds))

    def _log_density(self, betas: Tensor, draws: Mapping[str, Tensor], own: Tensor) -> Tensor:
        """log p(x | beta) for (B, d) betas, and B draws that were made with `own`; (B,) float64.

        What is handed over as it is has all of its probability at one point.
        """
        if not len(betas):
            return torch.zeros(0, dtype=torch.float64)
        generator: Any = self._generator
        with part(self._who):
            found = generator.log_density(betas, draws)
        if not isinstance(found, Tensor) or found.shape != (len(betas),):
            said = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise PartError(f"{self._who}: log_density must give ({len(betas)},), a number a sample, not {said}")
        same = (betas[:, self._exact] == own[:, self._exact]).all(1)
        return found.to("cpu", torch.float64).where(same, -math.inf)


def effective_size(weights: Tensor) -> float:
    """How many samples of weight 1 some weights are worth; see `Replay`."""
    total = float(weights.sum())
    return min(total, total**2 / float(weights.square().sum())) if total > 0 else 0.0


def systematic(weights: Tensor, count: int, uniform: float) -> Tensor:
    """Numbers of samples in proportion to weights, (count,) int64, ascending.

    By systematic resampling: each is taken as often as its share of `count` says, rounded down or up.

    Args:
        weights: (M,) not negative, and not all zero.
        count: How many.
        uniform: In (0, 1); all that is random about it.
    """
    ends = weights.cumsum(0)
    places = (torch.arange(count, dtype=torch.float64) + uniform) / count * ends[-1]
    found = torch.searchsorted(ends, places, right=True)
    last = int(weights.nonzero()[-1])  # rounding may lead beyond
    return found.clamp(max=last)
