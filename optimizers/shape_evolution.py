"""Shape evolution: a genetic algorithm over explicit CSG trees, the rival of the paper's table 2."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace
from hgenv.device import own_modes
from hgenv.generators.population import NO, UNIT, YES, Trees, pack, population_form, transformed, unpack

from .base import Initial, Optimizer, UnsuitableError

TRIES = 20  # at a child that is not trivial
POINTS = 64  # in each primitive, to see what a child is like
CHANGED = 0.05  # share of a solid; a child that differs by less from what it was made of is that over again
LEFT = 0.02  # share of those points; a child of which less is left has been taken away
SMALLER = 0.3  # mean and standard deviation of -log and log of the factor on what is attached


class ShapeEvolution(Optimizer):
    """The algorithm of Yang and Deng, "Shape from Shading through Shape Evolution" (CVPR 2018).

    The network trains on a population of shapes. A generation is one improvement of it:

    1. Children are bred. Some combine two members: a random rotation, scaling and translation of the one is united with
       the other, or taken away from it. Others are mutants of one member: all its parameters are perturbed, or one of
       its primitives is replaced. A child that is hardly different from what it was made of, or of which hardly
       anything is left, is bred again.
    2. The fitness of a child is how well the network is validated after training on the population and the child: a
       probe from the current weights, in which a `share` of the members gives way to the child.
    3. The fittest children join the population, and the oldest members leave.

    The network goes on training on the new population. So shapes are always bred for the network as it is, and what
    helped once and does so no more dies out with its age. That, and that trivial children are refused, keeps the
    population diverse.

    This follows the authors' own summary, their poster. There the shapes that the network trains on only become more;
    here they are of a fixed number, as beta is, and they are the ones that breed. The summary has no numbers and shows
    unions alone; numbers and differences are ours.

    Components of beta that are no trees stay where they start.

    Args:
        space: A decision space with a population in it, as that of `hgenv/ShapePopulation-v0`.
        seed: Decides everything that is drawn.
        initial: Where to start, see `Optimizer`.
        period: Updates from one generation to the next; those between only step.
        offspring: Children a generation; each costs a probe.
        joining: How many of them join.
        share: Of a probe's members that are the child; 1 trains on the child alone.
        combining: How likely a child combines two members rather than being a mutant of one.
        sigma: Standard deviation of a perturbation, as a fraction of each component's range.

    Raises:
        UnsuitableError: There is no population in this space.
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        space: DecisionSpace,
        *,
        seed: int,
        initial: Initial = None,
        period: int = 8,
        offspring: int = 8,
        joining: int = 2,
        share: float = 0.5,
        combining: float = 0.5,
        sigma: float = 0.05,
    ) -> None:
        form = population_form(space)
        if form is None:
            raise UnsuitableError(
                "ShapeEvolution evolves a population of CSG trees, and there is none in this space of "
                f"{space.dimension} components ({', '.join(b.name for b in space.blocks)}); use it with "
                "hgenv/ShapePopulation-v0 (env=shape_population), and another optimizer here"
            )
        super().__init__(space, seed=seed, initial=initial, period=period)
        self.members, self.slots = form
        if not 1 <= joining <= min(offspring, self.members):
            raise ValueError(
                f"joining must be between 1 and the {offspring} children, and the {self.members} members, not {joining}"
            )
        if not (0 < share <= 1 and 0 <= combining <= 1 and sigma > 0):
            raise ValueError(
                "share must be above 0 and at most 1, combining between 0 and 1, and sigma positive, not "
                f"{share}, {combining} and {sigma}"
            )
        self.offspring, self.joining, self.share = offspring, joining, share
        self.combining, self.sigma = combining, sigma
        self._born = 0  # children that have joined; the next one takes the place of the oldest

    def improve(self, env: DataGenEnv) -> None:
        """A generation: breed, probe, let the fittest join."""
        population = self._population()
        children = [self._child(population) for _ in range(self.offspring)]
        among = max(1, round(self.share * self.members))
        outcomes = env.probe(torch.stack([self._with(self._joined(population, child, among)) for child in children]))
        losses = torch.tensor([float("inf") if o.loss is None else o.loss for o in outcomes])
        for i in losses.argsort(stable=True)[: self.joining].tolist():
            if outcomes[i].ok:
                population = self._joined(population, children[i], 1)
                self._born += 1
        self.normalized = self.space.normalize(self._with(population))

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        return super().state_dict() | {"born": self._born}

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: As `Optimizer.load_state_dict`.
        """
        kept = self._checked(state, {"born": 0}, ["normalized", "random", "born"])
        super().load_state_dict(state)
        self._born = kept["born"]

    # --- The population and beta -------------------------------------------------------------------------------------

    def _population(self) -> Trees:
        """The members, in beta's own units."""
        return unpack(self.space.split(self.recommendation), self.slots)

    def _with(self, population: Trees) -> Tensor:
        """The valid beta with this population, (d,)."""
        beta = self.recommendation.clone()
        for name, values in pack(population).items():
            beta[self.space.slice(name)] = values
        return self.space.project(beta)

    def _joined(self, population: Trees, child: Trees, places: int) -> Trees:
        """The population with the child in so many places: those of the oldest."""
        oldest = (self._born + torch.arange(places)) % self.members
        parts = {f.name: getattr(population, f.name).clone() for f in fields(population)}
        for name, values in parts.items():
            values[oldest] = getattr(child, name)
        return Trees(**parts)

    # --- Breeding: each takes and gives one tree, as Trees of one row ------------------------------------------------

    def _child(self, population: Trees) -> Trees:
        for _ in range(TRIES):
            first, second = (population[i : i + 1] for i in self._two_members())
            if self._chance(self.combining):
                child, made_of = self._combination(first, second)
            else:
                child, made_of = self._mutant(first), [first]
            if not self._trivial(child, made_of):
                break
        return self._within_bounds(child)

    def _combination(self, first: Trees, second: Trees) -> tuple[Trees, list[Trees]]:
        """Two members, joined by a union or a difference; and both, as they are in it."""
        left, right = self._half(first), self._half(second)
        # What is attached is centred about where the surface of the other's first primitive is.
        reach = UNIT * left.scale[:, 0].mean(-1, keepdim=True).exp()
        shift = left.translation[:, 0] + reach * _unit(self._normals(1, 3))
        factor = (SMALLER * (self._normals(1) - 1)).exp()
        right = transformed(right, self._rotation(), factor, shift)
        width = max(_width(left), _width(right))
        parts = {f.name: getattr(left, f.name).clone() for f in fields(left)}
        for name, values in parts.items():
            values[:, width : 2 * width] = getattr(right, name)[:, :width]
        parts["presence"][:, width] = YES
        parts["operation"][:, width] = YES if self._chance(0.5) else NO
        return Trees(**parts), [left, right]

    def _half(self, tree: Trees) -> Trees:
        """The tree, if half of the slots are enough for it; else one of its halves."""
        half = self.slots // 2
        if _width(tree) <= half:
            return tree
        first = half if bool(tree.present[0, half]) and self._chance(0.5) else 0
        parts = {f.name: getattr(tree, f.name).roll(-first, 1) for f in fields(tree)}
        parts["presence"][:, half:] = NO
        return Trees(**parts)

    def _mutant(self, tree: Trees) -> Trees:
        return self._perturbed(tree) if self._chance(0.5) else self._with_another_primitive(tree)

    def _perturbed(self, tree: Trees) -> Trees:
        moved = {}
        for name, span in (("rotation", 2), ("translation", 2), ("scale", 2), ("taper", 1)):
            old = getattr(tree, name)
            moved[name] = old + self.sigma * span * self._normals(*old.shape)
        return replace(tree, **moved)

    def _with_another_primitive(self, tree: Trees) -> Trees:
        present = tree.present[0].nonzero()[:, 0]
        slot = int(present[self._integers(len(present), 1)[0]])
        parts = {name: getattr(tree, name).clone() for name in ("kind", "rotation", "scale", "taper")}
        parts["kind"][:, slot] = self._integers(4, 1)[0] / 4 + 0.125
        parts["rotation"][:, slot] = self._rotation()
        parts["scale"][:, slot] = parts["scale"][:, slot].mean() + SMALLER * self._normals(3)
        parts["taper"][:, slot] = self._uniform()
        return replace(tree, **parts)

    def _trivial(self, child: Trees, made_of: list[Trees]) -> bool:
        """Whether a child is hardly different from what it was made of, or hardly there, by points in its parts."""
        present = child.present[0]
        shape = (int(present.sum()), POINTS, 3)
        box = 2 * torch.rand(shape, generator=self.random, dtype=torch.float64) - 1
        turned = UNIT * (child.linear[0, present][:, None] * box[..., None, :]).sum(-1)
        points = (turned + child.translation[0, present][:, None]).reshape(1, -1, 3)
        solid = child.inside(points)
        if solid.sum() < LEFT * solid.numel():
            return True
        others = [other.inside(points) for other in made_of]
        return any(bool((solid ^ other).sum() < CHANGED * (solid | other).sum()) for other in others)

    def _within_bounds(self, tree: Trees) -> Trees:
        """The same solid, as far as the bounds allow: centred, and smaller if it reaches beyond them."""
        present = tree.present[0]
        middle = tree.translation[:, present].mean(1)
        reach = (tree.translation[:, present] - middle[:, None]).abs().max()
        factor = (1 / reach).clamp(max=1).reshape(1)
        return transformed(tree, torch.zeros_like(middle), factor, -factor * middle)

    # --- Draws -------------------------------------------------------------------------------------------------------

    def _uniform(self) -> Tensor:
        return torch.rand((), generator=self.random, dtype=torch.float64)

    def _chance(self, probability: float) -> bool:
        return bool(self._uniform() < probability)

    def _integers(self, below: int, count: int) -> list[int]:
        drawn: list[int] = torch.randint(below, (count,), generator=self.random).tolist()
        return drawn

    def _two_members(self) -> list[int]:
        """Two different ones, unless there is one alone."""
        drawn: list[int] = torch.randperm(max(2, self.members), generator=self.random)[:2].tolist()
        return [i % self.members for i in drawn]

    def _normals(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, dtype=torch.float64)

    def _rotation(self) -> Tensor:
        """A uniformly random rotation, (1, 3) in half turns: that of a random unit quaternion."""
        real, *rest = _unit(self._normals(4))
        axis, half = _unit(torch.stack(rest)), torch.arccos(real.abs())
        return (2 * half / math.pi * axis * torch.where(real < 0, -1.0, 1.0))[None]


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True)


def _width(tree: Trees) -> int:
    """The smallest power of two so that all primitives are in as many slots."""
    last = int(tree.present[0].nonzero().max())
    return 1 << last.bit_length()
