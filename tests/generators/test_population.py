"""A population of CSG trees: how its numbers are read, against scipy, manifold3d, and the heap counted by hand."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from hgenv.generators import PopulationGenerator
from hgenv.generators.population import (
    Trees,
    composed,
    pack,
    population_form,
    rotation_matrices,
    transformed,
    unpack,
)
from hgenv.generators.shapes import ShapeGenerator
from hgenv.rendering.csg import AnalyticRenderer, MeshRenderer, Scene
from hgenv.rendering.csg.mesh import object_mesh


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_trees(members: int, depth: int, seed: int = 0) -> Trees:
    space = PopulationGenerator(members=members, depth=depth).space
    return unpack(space.split(space.random(seed)), 2**depth)


def scene_of(trees: Trees) -> Scene:
    """The solids where the trees have them, not fitted into a view."""
    one, three = torch.ones(len(trees)), torch.ones(len(trees), 3)
    return Scene(
        kind=trees.kinds, size=trees.sizes.float(), linear=trees.linear.float(), offset=trees.translation.float(),
        operator=trees.operators, light=three, ambient=one, wave=three[:, None], phase=one[:, None], texture=one,
        exposure=one, contrast=one,
    )  # fmt: skip


@pytest.mark.parametrize(("members", "depth", "lit"), [(1, 1, False), (16, 3, False), (5, 2, True)])
def test_the_space_says_what_population_it_holds(members: int, depth: int, lit: bool) -> None:
    space = PopulationGenerator(members=members, depth=depth, lit=lit).space
    assert space.dimension == members * (11 * 2**depth + 2 * (2**depth - 1)) + 8 * lit
    assert population_form(space) == (members, 2**depth)
    beta = space.random(3)
    packed = pack(unpack(space.split(beta), 2**depth))
    for name, values in packed.items():
        assert torch.equal(values, beta[space.slice(name)])
    assert population_form(ShapeGenerator().space) is None


def test_it_begins_with_the_four_primitives() -> None:
    space = PopulationGenerator(members=5).space
    trees = unpack(space.split(space.initial), 8)
    assert trees.present.sum(1).tolist() == [1] * 5
    assert trees.kinds[:, 0].tolist() == [0, 2, 1, 2, 0]
    assert trees.taper[:4, 0].tolist() == pytest.approx([1, 1, 1, 0])


def test_a_slot_is_joined_where_its_way_up_meets_that_of_the_slot_before() -> None:
    trees = some_trees(40, 3)
    for row in range(len(trees)):
        expected = [0] * 7
        for slot in range(1, 8):
            mine, before = slot + 7, slot - 1 + 7
            while mine != before:
                mine, before = (mine - 1) // 2, (before - 1) // 2
            first = mine  # the leftmost leaf below the node
            while first < 7:
                first = 2 * first + 1
            something = bool(trees.present[row, first - 7 : slot].any())
            expected[mine] = int(trees.operation[row, slot] >= 0.5 and something)
        assert trees.operators[row].tolist() == expected


def test_rotation_vectors_are_those_of_scipy() -> None:
    first, second = (torch.randn(50, 3, generator=draws(s), dtype=torch.float64) for s in (0, 1))
    first[0], second[0] = 0.0, 0.0
    second[1] = -first[1]
    first[2], second[2] = torch.tensor([1e-9, 0.0, 0.0]), 0.0
    theirs = Rotation.from_rotvec((math.pi * first).numpy())
    expected = Rotation.from_rotvec((math.pi * second).numpy()) * theirs
    both = composed(second, first)
    assert torch.allclose(rotation_matrices(both), torch.tensor(expected.as_matrix()), atol=1e-9)
    assert both.norm(dim=-1).max() <= 1 + 1e-9
    assert torch.allclose(rotation_matrices(first), torch.tensor(theirs.as_matrix()), atol=1e-9)


def test_points_inside_have_the_volume_of_the_mesh() -> None:
    """manifold3d knows nothing of `inside`."""
    trees = some_trees(12, 2)
    points = 4 * (2 * torch.rand(1, 20000, 3, generator=draws(), dtype=torch.float64) - 1)
    found = trees.inside(points.expand(12, -1, -1)).double().mean(1) * 8**3
    scene = scene_of(trees)
    for row in range(12):
        volume = object_mesh(scene, row, 64).volume
        assert float(found[row]) == pytest.approx(volume, abs=4 * math.sqrt(max(volume, 0.1) * 8**3 / 20000))


def test_transformed_trees_are_the_same_solids_elsewhere() -> None:
    trees, random = some_trees(6, 3), draws(2)
    points = 2 * torch.randn(6, 2000, 3, generator=random, dtype=torch.float64)
    turn, shift = (torch.randn(6, 3, generator=random, dtype=torch.float64) for _ in range(2))
    factor = torch.rand(6, generator=random, dtype=torch.float64) + 0.5
    matrix = torch.tensor(Rotation.from_rotvec((math.pi * turn).numpy()).as_matrix())
    there = factor[:, None, None] * (points @ matrix.transpose(1, 2)) + shift[:, None]
    inside = trees.inside(points)
    assert inside.any(1).sum() >= 5
    assert torch.equal(transformed(trees, turn, factor, shift).inside(there), inside)


def test_a_sample_shows_the_member_that_its_seed_picks() -> None:
    generator, seeds = PopulationGenerator(AnalyticRenderer(16), members=4), torch.arange(200)
    space = generator.space
    beta = space.initial
    moved = beta.clone()
    unpack(space.split(moved), 8).kind[2] = 0.9  # a view
    before, after = (generator(b.expand(200, -1), seeds) for b in (beta, moved))
    changed = ((before.target - after.target).abs().amax((1, 2, 3)) > 0).double().mean()
    assert 0.15 < changed < 0.35  # each of four is as likely as any other


def test_random_populations_look_alike_to_another_renderer() -> None:
    betas = torch.stack([PopulationGenerator().space.random(n) for n in range(12)])
    seeds = torch.arange(12)
    ours, theirs = (PopulationGenerator(make(32))(betas, seeds) for make in (AnalyticRenderer, MeshRenderer))
    assert (ours.mask != theirs.mask).float().mean() < 2e-3
    assert ((ours.target - theirs.target).abs().amax(1) > 0.1).float().mean() < 2e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members must be between 1 and 128 at depth 3"),
        ({"members": 129}, "members must be between 1 and 128 at depth 3"),
        ({"depth": 0}, "depth must be between 1 and 5"),
        ({"depth": 6}, "depth must be between 1 and 5"),
        ({"light": {"lamp": 1.0}}, "light has no lamp"),
    ],
)
def test_populations_that_there_are_not(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PopulationGenerator(**options)


def test_in_light_beta_holds_the_render_block_too() -> None:
    generator = PopulationGenerator(AnalyticRenderer(16), members=2, lit=True)
    assert generator.pathwise == ShapeGenerator(lit=True).pathwise

    def image(light: Tensor) -> Tensor:
        beta = generator.space.initial.clone()
        beta[generator.space.slice("light")] = light
        return generator(beta.expand(3, -1), torch.arange(3)).image

    assert not torch.equal(image(torch.tensor([-0.8, 0.0])), image(torch.tensor([0.8, 0.0])))
