"""Shape evolution: its generations as they are described, and what it breeds as sets of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

import hgenv
from hgenv import DataGenEnv, DecisionSpace, DenseSamples, Network
from hgenv.generators import PopulationGenerator
from hgenv.generators.population import Trees, population_blocks, rotation_matrices, unpack
from hgenv.generators.random import normals, uniforms
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.optimizers import REGISTRY, Optimizer, ShapeEvolution, UnsuitableError
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.tasks.quadratic import point_data
from hgenv.testing import OptimizerConformance

from .tools import Breaking, probes, quadratic

MEMBERS, DEPTH = 4, 1
SLOTS = 2**DEPTH


class LengthsGenerator:
    """Points around how much longer, wider and higher than 1 the first primitive of a random member is."""

    pathwise: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.space = DecisionSpace(population_blocks(MEMBERS, DEPTH))

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        u = uniforms(seeds, 4)
        row, which = torch.arange(len(betas)), (MEMBERS * u[:, 0]).long()
        scale = self.space.split(betas)["scale"].reshape(len(betas), MEMBERS, SLOTS, 3)[row, which, 0]
        points = scale + 0.1 * normals(u[:, 1:])
        return DenseSamples(points, torch.zeros_like(points), torch.ones_like(points[:, :1]))


def lengths() -> DataGenEnv:
    """The quadratic problem, its points being members of a population."""
    data = point_data((0.4, -0.3, 0.2), "lengths")
    env = DataGenEnv(
        LengthsGenerator(), QuadraticLearner(), data, data, rule=hgenv.SGD(0.1), unroll_steps=4, batch_size=8,
        device="cpu",
    )  # fmt: skip
    env.reset(seed=3)
    return env


class TestShapeEvolution(OptimizerConformance):
    updates = 15

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        return ShapeEvolution(space, seed=seed, period=1, offspring=3, joining=1)

    def make_env(self) -> DataGenEnv:
        return lengths()


def members(space: DecisionSpace, beta: Tensor) -> list[Tensor]:
    """Each member's numbers, for comparing."""
    trees = unpack(space.split(beta), SLOTS)
    parts = [getattr(trees, name).flatten(1) for name in ("kind", "rotation", "translation", "scale", "taper")]
    return list(torch.cat([trees.presence[:, 1:], trees.operation[:, 1:], *parts], 1))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-9)


def test_a_generation_breeds_probes_and_lets_the_fittest_join() -> None:
    env = lengths()
    optimizer = ShapeEvolution(env.space, seed=0, period=1, offspring=5, joining=2, share=0.5)
    seen = probes(env)
    for generation in range(3):
        before = members(env.space, optimizer.recommendation)
        optimizer.update(env)
        after = members(env.space, optimizer.recommendation)
        betas, outcomes = seen[generation]
        assert len(betas) == 5
        # Half of a probe's members are the child; it takes the places of the oldest, from the first place on.
        places = [(2 * generation + i) % MEMBERS for i in range(2)]
        children = []
        for beta in betas:
            probed = members(env.space, beta)
            children.append(probed[places[0]])
            assert all(same(probed[place], children[-1]) for place in places)
            assert all(same(probed[i], before[i]) for i in range(MEMBERS) if i not in places)
        fittest = sorted(range(5), key=lambda i, found=outcomes: found[i].loss)[:2]
        assert same(after[places[0]], children[fittest[0]])
        assert same(after[places[1]], children[fittest[1]])
        assert all(same(after[i], before[i]) for i in range(MEMBERS) if i not in places)
        assert env.outcome is not None
        assert same(env.outcome.beta, optimizer.recommendation)


def test_between_generations_it_only_trains() -> None:
    env = lengths()
    optimizer = ShapeEvolution(env.space, seed=0, period=3)
    seen = probes(env)
    for _ in range(6):
        optimizer.update(env)
    assert len(seen) == 2


def test_nobody_joins_when_all_fail() -> None:
    env = lengths()
    broken, optimizer = Breaking(env), ShapeEvolution(env.space, seed=0, period=1)
    optimizer.update(env)
    before = optimizer.recommendation
    broken.failing = True
    optimizer.update(env)
    assert same(optimizer.recommendation, before)


def test_what_is_no_tree_stays() -> None:
    """Light, say."""
    space = PopulationGenerator(members=4, lit=True).space
    start = space.random(1)
    optimizer = ShapeEvolution(space, seed=0, initial=start)
    optimizer.normalized = space.normalize(optimizer._with(optimizer._population()))
    light = slice(space.slice("light").start, None)
    assert torch.allclose(optimizer.recommendation[light], start[light], rtol=0, atol=1e-12)


# --- Breeding --------------------------------------------------------------------------------------------------------


def new() -> ShapeEvolution:
    return ShapeEvolution(PopulationGenerator(members=8).space, seed=5)


@cache
def grown() -> Trees:
    """A population of trees with several primitives, which nobody selected."""
    optimizer = new()
    population = optimizer._population()
    for _ in range(16):
        population = optimizer._joined(population, optimizer._child(population), 1)
        optimizer._born += 1
    assert population.present.sum(1).max() > 2
    return population


def cloud(count: int = 1000) -> Tensor:
    return 0.8 * torch.randn(1, count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def copied(trees: Trees) -> Trees:
    return Trees(**{f.name: getattr(trees, f.name).clone() for f in fields(trees)})


def test_a_combination_is_a_union_or_a_difference_of_both() -> None:
    optimizer, population = new(), grown()
    points, seen = cloud(), set()
    for i in range(12):
        child, (left, right) = optimizer._combination(population[i % 8 :][:1], population[i % 7 :][:1])
        both, taken = left.inside(points) | right.inside(points), left.inside(points) & ~right.inside(points)
        found = child.inside(points)
        assert torch.equal(found, both) or torch.equal(found, taken)
        seen.add(torch.equal(found, both))
        assert child.slots == 8
    assert seen == {True, False}


def test_half_of_a_large_tree_is_half_of_its_solid() -> None:
    optimizer = new()
    space = optimizer.space
    trees, points, seen = unpack(space.split(space.random(2)), 8), cloud(), set()
    trees.presence[:, 4] = 1.0
    for row in range(8):
        tree = trees[row : row + 1]
        left = copied(tree)
        left.presence[:, 4:] = 0.0
        right = Trees(**{f.name: getattr(tree, f.name).roll(-4, 1) for f in fields(tree)})
        right.presence[:, 4:] = 0.0
        found = optimizer._half(tree).inside(points)
        assert torch.equal(found, left.inside(points)) or torch.equal(found, right.inside(points))
        seen.add(torch.equal(found, left.inside(points)))
    assert seen == {True, False}


def test_a_tree_within_bounds_is_the_same_solid() -> None:
    optimizer, population = new(), grown()
    largest = int(population.present.sum(1).argmax())
    tree = population[largest : largest + 1]
    tree = replace(tree, translation=4 * tree.translation + 1)
    moved = optimizer._within_bounds(tree)
    assert moved.translation[:, tree.present[0]].abs().max() <= 1 + 1e-9
    # A similarity: found from where the first two primitives went.
    before, after = (t.translation[0, t.present[0]] for t in (tree, moved))
    factor = (after[1] - after[0]).norm() / (before[1] - before[0]).norm()
    points = 1.5 * cloud()
    assert torch.equal(tree.inside((points - after[0]) / factor + before[0]), moved.inside(points))
    assert factor < 1


def test_children_are_solids_that_differ_from_their_parents() -> None:
    optimizer, population = new(), grown()
    points = cloud(5000)
    parents = population.inside(points.expand(8, -1, -1))
    for _ in range(6):
        child = optimizer._child(population).inside(points)
        assert child.sum() > 0
        assert (child ^ parents).any(1).all()


def test_trivial_children_are_refused() -> None:
    optimizer = new()
    space = optimizer.space
    one = unpack(space.split(space.initial), 8)[:1]
    tree = copied(one)
    tree.presence[:, 1], tree.scale[:, 1], tree.translation[:, 1] = 1.0, -1.0, 0.0
    assert optimizer._trivial(tree, [one])  # a ball within the ball
    tree.translation[:, 1] = torch.tensor([0.8, 0.0, 0.0])
    assert not optimizer._trivial(tree, [one])
    tree.operation[:, 1], tree.translation[:, 1], tree.scale[:, 1] = 1.0, 0.0, 0.5
    assert optimizer._trivial(tree, [one])  # all of it is taken away


def test_random_rotations_are_uniform() -> None:
    """Entries of uniform rotations have mean 0 and variance 1/3, and traces have mean 0."""
    optimizer = new()
    matrices = rotation_matrices(torch.cat([optimizer._rotation() for _ in range(1000)]))
    assert matrices.mean(0).abs().max() < 5 * (1 / 3 / 1000) ** 0.5
    assert ((matrices**2).mean(0) - 1 / 3).abs().max() < 5 * 0.3 / 1000**0.5
    assert abs(float(matrices.diagonal(dim1=1, dim2=2).sum(1).mean())) < 5 / 1000**0.5


# --- Where it works --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [quadratic().space, hgenv.generators.ShapeGenerator(lit=True).space])
def test_spaces_without_a_population_are_refused(space: DecisionSpace) -> None:
    with pytest.raises(UnsuitableError, match=r"use it with hgenv/ShapePopulation-v0 \(env=shape_population\)"):
        ShapeEvolution(space, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"joining": 0}, "joining must be between 1 and the 8 children"),
        ({"joining": 9}, "joining must be between 1 and the 8 children"),
        ({"share": 0.0}, "share must be above 0"),
        ({"share": 1.1}, "share must be above 0"),
        ({"combining": 1.1}, "combining between 0 and 1"),
        ({"sigma": 0.0}, "sigma positive"),
        ({"period": 0}, "period"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeEvolution(lengths().space, seed=0, **options)


def small() -> DataGenEnv:
    kwargs = {
        "network": Network(size=16), "generator": PopulationGenerator(AnalyticRenderer(16), members=4),
        "unroll_steps": 1, "batch_size": 2,
    }  # fmt: skip
    return gymnasium.make("hgenv/ShapePopulation-v0", disable_env_checker=True, **kwargs).unwrapped


@pytest.mark.parametrize("name", ["fixed", "random_search", "basic_random_search", "shape_evolution"])
def test_the_environment_takes_whoever_works_on_any_space(name: str) -> None:
    env = small()
    env.reset(seed=0)
    makers: dict[str, Callable[..., Optimizer]] = {**REGISTRY, "shape_evolution": ShapeEvolution}
    optimizer = makers[name](env.space, seed=0)
    optimizer.update(env)
    assert env.outcome is not None
    assert env.outcome.ok
    assert env.ledger.counts["updates"] == 1
