"""Evolution strategies for unrolls that never end: particles that carry weights of their own from update to update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace, TrainingState
from hgenv.device import own_modes
from hgenv.saved import Each, copy_like

from .base import GradientOptimizer, Initial, Proposal
from .rules import RMSprop, Rule
from .shrinkage import Shrinkage


@dataclass(frozen=True)
class Particle:
    """An antithetic pair that trains on, at beta + delta and at beta - delta.

    Attributes:
        delta: (d,) its perturbation, in fractions of each component's range.
        total: (d,) the sum of what its weights have seen of perturbations.
        ahead: The weights at beta + delta.
        behind: And at beta - delta.
        age: Estimates that it has been part of since it started from the environment's weights.
    """

    delta: Tensor
    total: Tensor
    ahead: TrainingState
    behind: TrainingState
    age: int


class ParticleES(GradientOptimizer):
    """Follows differences of L between pairs of particles, each with weights of its own.

    A probe starts from the weights that the environment has, and sees what beta does within K training steps. A
    particle starts there too, but then trains on at its own beta for a whole episode, so that it sees what beta does in
    the long run, at the price of a probe for each estimate. All particles train on the same sample seeds as the
    environment. Where the projection onto the valid set cuts a perturbation, what is left of it counts. A particle that
    fails starts again.

    The papers train anew in each episode. Here there is one training, so a particle starts from the weights that the
    environment has then. Particles start at different times, evenly spread over the episode.

    With a period above 1 the particles train less often than the environment, and fall behind within an episode.

    Args:
        space: The decision space.
        rule: Turns an estimate into a move.
        seed: Decides everything that the optimizer draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one estimate to the next.
        num_particles: J, pairs; each estimate takes 2 J rollouts.
        sigma: Standard deviation of the perturbations, as a fraction of each component's range.
        episode: Estimates after which a particle starts again; None for never.
        shrinkage: See `GradientOptimizer`.
        bounds: See `GradientOptimizer`.

    Attributes:
        REUSE: Whether a particle keeps its perturbation for the episode.

    Raises:
        ValueError: `num_particles`, `sigma` or `episode` are not positive.
    """

    REUSE: ClassVar[bool]

    def __init__(
        self,
        space: DecisionSpace,
        rule: Rule = RMSprop(0.01, decay_updates=30),  # noqa: B008, a frozen value
        *,
        seed: int,
        initial: Initial = None,
        period: int = 1,
        num_particles: int = 1,
        sigma: float = 0.05,
        episode: int | None = 8,
        shrinkage: Shrinkage | None = None,
        bounds: Literal["project", "clip"] = "project",
    ) -> None:
        if num_particles < 1 or not sigma > 0 or (episode is not None and episode < 1):
            raise ValueError(
                "num_particles, sigma and episode (if it is not None) must be positive, not "
                f"{num_particles}, {sigma} and {episode}"
            )
        self._particles = _Particles([None] * num_particles, sigma, episode, self.REUSE)
        super().__init__(
            space, self._particles, rule,
            seed=seed, initial=initial, period=period, shrinkage=shrinkage, bounds=bounds,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        kept = [
            None if p is None else vars(p) | {"ahead": p.ahead.state_dict(), "behind": p.behind.state_dict()}
            for p in self._particles.all
        ]
        return super().state_dict() | {"particles": kept}

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: As `Optimizer.load_state_dict`.
        """

        def particle(found: Any) -> Particle | None:
            if found is None:
                return None
            like = {"delta": self._beta, "total": self._beta, "ahead": _weights, "behind": _weights, "age": 0}
            made = Particle(**copy_like(found, like, "the optimizer's particles"))
            ahead, behind = (_forms(state.state_dict()) for state in (made.ahead, made.behind))
            if ahead != behind:
                raise ValueError("the optimizer's particles: the two networks of a particle are not alike")
            return made

        like = {"normalized": self._beta, "particles": [particle] * len(self._particles.all)}
        kept = self._checked(state, like, state)
        super().load_state_dict(state)
        self._particles.all, self._particles.foreign = kept["particles"], True


class NoiseReuseES(ParticleES):
    """Particles that keep their perturbation for a whole episode.

    Noise-reuse evolution strategies: Li, Harrison, Sohl-Dickstein, Smith and Metz, "Variance-reduced gradient
    estimation via noise-reuse in online evolution strategies", NeurIPS 2023; and, the same up to details, ES-Single:
    Vicol, "Low-variance gradient estimation in unrolled computation graphs with ES-Single", ICML 2023. With
    delta_j ~ N(0, sigma^2 I) drawn when the episode begins, and each loss that of the particle's own weights,

        g = mean_j (L_j(beta + delta_j) - L_j(beta - delta_j)) / (2 sigma^2) * delta_j

    ES-Single keeps it as long as an unroll lasts. With `episode=None` that is the whole run; but then beta moves along
    the directions of the J particles alone, so there should be as many as beta has dimensions. Arguments are those of
    `ParticleES`.
    """

    REUSE = True


class PersistentES(ParticleES):
    """Particles that draw a perturbation at each estimate, and remember the sum of all in the episode.

    Vicol, Metz and Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with persistent
    evolution strategies", ICML 2021. With delta_j,t ~ N(0, sigma^2 I) at estimate t of the episode,

        g = mean_j (L_j(beta + delta_j,t) - L_j(beta - delta_j,t)) / (2 sigma^2) * sum_{s <= t} delta_j,s

    Its variance grows with the episode, that of `NoiseReuseES` does not. Arguments are those of `ParticleES`.
    """

    REUSE = False


def _forms(part: Any) -> Any:
    """Names, shapes and types of what a state of training holds."""
    if isinstance(part, dict):
        return {name: _forms(own) for name, own in part.items()}
    return (part.shape, part.dtype) if isinstance(part, Tensor) else type(part)


@dataclass
class _Particles:
    """The estimator of `ParticleES`, which is no value: it carries the particles (cut at L).

    Attributes:
        all: The J particles; None for those that are to start from the environment's weights.
        sigma: See `ParticleES`.
        episode: See `ParticleES`.
        reuse: Whether a particle keeps its perturbation.
        foreign: Whether the particles come from a saved state, and no environment has seen them.
    """

    all: list[Particle | None]
    sigma: float
    episode: int | None
    reuse: bool
    foreign: bool = False

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """None: particles have rollouts of their own."""
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """A row for each particle that worked, (J, d); None if there is none."""
        if self.foreign:
            self.all, self.foreign = [_at_home(particle, env) for particle in self.all], False
        rows, after = list[Tensor](), list[Particle | None]()
        first = all(particle is None for particle in self.all)
        for j, particle in enumerate(self.all):
            starts = particle is None or particle.age == self.episode
            delta = self.sigma * torch.randn(len(center), generator=random, dtype=torch.float64)
            if particle is None or starts:
                age = j * (self.episode or 0) // len(self.all) if first else 0
                particle = Particle(delta, torch.zeros_like(delta), env.state, env.state, age)
            row, moved = self._train(env, center, particle.delta if self.reuse else delta, particle)
            after.append(moved)
            if row is not None:
                rows.append(row)
        self.all = after
        return torch.stack(rows) if rows else None

    def _train(
        self, env: DataGenEnv, center: Tensor, delta: Tensor, particle: Particle
    ) -> tuple[Tensor | None, Particle | None]:
        """K training steps on both sides: the particle's row of the estimate, and the particle then."""
        space = env.space
        ends = [space.project(space.denormalize(center + sign * delta)) for sign in (1.0, -1.0)]
        ahead, behind = (
            env.rollout(end, start=start) for end, start in zip(ends, (particle.ahead, particle.behind), strict=True)
        )
        if ahead.outcome.loss is None or behind.outcome.loss is None:
            return None, None
        moved = (space.normalize(ends[0]) - space.normalize(ends[1])) / 2  # delta, less what the projection cut
        total = moved if self.reuse else particle.total + moved
        row = (ahead.outcome.loss - behind.outcome.loss) / (2 * self.sigma**2) * total
        return row, Particle(delta, total, ahead.end, behind.end, particle.age + 1)


def _weights(found: Any) -> TrainingState:
    """A copy of a saved state of training, of whichever network.

    Raises:
        ValueError: It is none.
    """

    def numbers(tensor: Any) -> Tensor:
        # Not contiguous: one number that stands for a million is no memory of its own.
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.layout != torch.strided:
            raise ValueError("the optimizer's particles: the saved state's weights must be tensors of numbers")
        if not tensor.is_contiguous() or not tensor.isfinite().all():
            raise ValueError("the optimizer's particles: the saved state's weights are not finite numbers, or no copy")
        return tensor.detach().clone()

    like = {"weights": Each(numbers), "slots": Each(Each(numbers)), "step": 0}
    return TrainingState(**copy_like(found, like, "the optimizer's particles"))


def _at_home(particle: Particle | None, env: DataGenEnv) -> Particle | None:
    """A particle from a saved state, its weights on the environment's device.

    Raises:
        ValueError: They are those of another network.
    """
    if particle is None:
        return None
    like = env.state.state_dict()
    ahead, behind = (
        TrainingState(**copy_like(state.state_dict(), like, "the optimizer's particles"))
        for state in (particle.ahead, particle.behind)
    )
    return Particle(particle.delta, particle.total, ahead, behind, particle.age)
