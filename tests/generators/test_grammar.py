"""The grammar's draws, transforms and fit, against recursion in plain Python and against the rendered image."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgenv.generators.grammar import compiled, numbers_needed, reference, shapes
from hgenv.generators.random import uniforms
from hgenv.generators.shapes import LIGHT_NUMBERS, ShapeGenerator
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.rendering.csg.scene import CONE, CUBE, DIFFERENCE, EMPTY, SPHERE, TETRAHEDRON, Scene
from hgenv.rendering.framing import FIT

DEPTH = 3
GENERATOR = ShapeGenerator(depth=DEPTH)
SPACE = GENERATOR.space


def draws_of(beta: torch.Tensor, samples: int) -> reference.Draws:
    numbers = uniforms(torch.arange(samples), numbers_needed(DEPTH))
    return reference.draw(SPACE.split(beta.expand(samples, -1)), numbers, DEPTH)


def test_beta_has_the_papers_29_components() -> None:
    sizes = {b.name: b.size for b in SPACE.blocks}
    assert sizes == {
        "primitive": 4, "operator": 2, "expand": 1, "translation": 6, "scale": 6,
        "sphere": 2, "cube": 2, "cone": 4, "tetrahedron": 2,
    }  # fmt: skip
    assert SPACE.dimension == 29
    assert ShapeGenerator(lit=True).space.dimension == 37


# Which of a sample's draws each block of beta may move; every other draw stays bit for bit.
MOVES = {
    "primitive": {"kind", "size"},
    "operator": {"operator"},
    "expand": {"expand", "exists"},
    "translation": {"translation"},
    "scale": {"scale"},
    "sphere": {"size"},
    "cube": {"size"},
    "cone": {"size"},
    "tetrahedron": {"size"},
}


@pytest.mark.parametrize("component", range(29))
def test_a_component_moves_its_own_draws_and_no_other(component: int) -> None:
    samples = 400
    name = next(b.name for b in SPACE.blocks if SPACE.slice(b.name).start <= component < SPACE.slice(b.name).stop)
    beta = SPACE.initial.clone()
    before = draws_of(beta, samples)
    beta[component] += 1e-3 * (SPACE.high - SPACE.low)[component]
    after = draws_of(beta, samples)
    moved = {
        f.name for f in fields(reference.Draws) if not torch.equal(getattr(before, f.name), getattr(after, f.name))
    }
    assert moved <= MOVES[name]
    assert moved & MOVES[name]
    # Continuous draws move a little everywhere; discrete ones flip in a few places only.
    for discrete in moved & {"kind", "operator", "expand", "exists"}:
        changed = (getattr(before, discrete) != getattr(after, discrete)).float().mean()
        assert 0 < changed < 0.01
    if "size" in moved and name != "primitive":
        same_kind = (before.size - after.size).abs().amax(0)
        assert same_kind.max() < 0.02
        expected = {"sphere": SPHERE, "cube": CUBE, "cone": CONE, "tetrahedron": TETRAHEDRON}[name]
        assert (same_kind[before.kind != expected] == 0).all()


def test_frequencies_follow_the_probabilities() -> None:
    beta = SPACE.initial.clone()
    beta[SPACE.slice("primitive")] = torch.tensor([0.4, 0.3, 0.2, 0.1])
    beta[SPACE.slice("operator")] = torch.tensor([0.7, 0.3])
    beta[SPACE.slice("expand")] = 0.6
    draws = draws_of(beta, 4000)
    error = 4 * 0.5 / math.sqrt(4000)
    for kind, probability in enumerate([0.4, 0.3, 0.2, 0.1]):
        assert abs(float((draws.kind[0] == kind).float().mean()) - probability) < error
    assert abs(float((draws.operator[0] == DIFFERENCE).float().mean()) - 0.3) < error
    assert abs(float(draws.expand[0].float().mean()) - 0.6) < error
    leaves = (reference.build(draws, DEPTH).kind != EMPTY).sum(1)
    # Expected leaves of the branching process cut at depth 3: m(h) = (1 - p) + 2 p m(h - 1), m(0) = 1.
    mean = 1.0
    for _ in range(DEPTH):
        mean = 0.4 + 1.2 * mean
    assert leaves.max() == 8
    assert abs(float(leaves.float().mean()) - mean) < 4 * float(leaves.float().std()) / math.sqrt(4000)


@settings(deadline=None)  # the first example compiles
@given(depth=st.integers(0, 5), seed=st.integers(0, 2**62), corner=st.booleans())
def test_the_compiled_form_makes_the_same_shapes(depth: int, seed: int, corner: bool) -> None:
    samples = 20
    fraction = torch.rand(samples, SPACE.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    beta = SPACE.split(SPACE.project(SPACE.denormalize(fraction.round() if corner else fraction)))
    numbers = uniforms(seed + torch.arange(samples), numbers_needed(depth))
    ours, theirs = compiled.shapes(beta, numbers, depth), reference.shapes(beta, numbers, depth)
    assert torch.equal(ours.kind, theirs.kind)
    assert torch.equal(ours.operator, theirs.operator)
    for name in ("size", "linear", "offset"):
        # What stands in empty slots is nobody's business, but finite.
        assert getattr(ours, name).isfinite().all()
        a, b = (getattr(shape, name)[theirs.kind != EMPTY] for shape in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def shape_numbers(seeds: torch.Tensor) -> torch.Tensor:
    """The random numbers that `GENERATOR` gives to the shapes of these samples."""
    return uniforms(seeds, LIGHT_NUMBERS + numbers_needed(DEPTH))[:, LIGHT_NUMBERS:]


def before_the_union_rule(betas: torch.Tensor, seeds: torch.Tensor) -> Scene:
    """The samples' shapes as the grammar makes them, in some light."""
    shape = shapes(SPACE.split(betas), shape_numbers(seeds), DEPTH)
    geometry = {f.name: getattr(shape, f.name) for f in fields(shape)}
    light = GENERATOR.scene(SPACE.initial.expand(len(seeds), -1), seeds)
    return replace(light, **{n: v.float() if v.is_floating_point() else v for n, v in geometry.items()})


def membership(draws: reference.Draws, sample: int, node: int, points: np.ndarray) -> np.ndarray:
    """Which points (n, 3) of the node's own frame are inside it: the grammar by plain recursion."""
    if not draws.expand[node, sample]:
        kind, size = int(draws.kind[node, sample]), draws.size[:, node, sample].numpy()
        if kind == SPHERE:
            return (points**2).sum(1) < size[0] ** 2
        if kind == CUBE:
            return (np.abs(points) < size[0]).all(1)
        if kind == CONE:
            radius = np.interp(points[:, 2], [-size[2], size[2]], size[:2])
            return (np.hypot(points[:, 0], points[:, 1]) < radius) & (np.abs(points[:, 2]) < size[2])
        corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * size[0] / (2 * math.sqrt(2))
        weights = np.linalg.solve(np.vstack([corners.T, np.ones(4)]), np.vstack([points.T, np.ones(len(points))]))
        return (weights > 0).all(0)
    left, right = 2 * node + 1, 2 * node + 2
    first = left
    while draws.expand[first, sample]:
        first = 2 * first + 1
    # attach: march from the first primitive's centre until it is left.
    direction = draws.direction[:, right, sample].numpy()
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        inside = membership(draws, sample, first, middle * direction[None])[0]
        low, high = (middle, high) if inside else (low, middle)
    matrix = draws.rotation[..., right, sample].numpy() * draws.scale[:, right, sample].numpy()
    moved = low * direction + draws.translation[:, right, sample].numpy()
    a = membership(draws, sample, left, points)
    b = membership(draws, sample, right, np.linalg.solve(matrix, (points - moved).T).T)
    return a & ~b if draws.operator[node, sample] == DIFFERENCE else a | b


def test_rendered_depth_is_the_surface_of_the_recursively_built_solid() -> None:
    """Independent oracle: just below each rendered surface point is inside, everything in front of it outside."""
    samples = 60
    seeds = torch.arange(samples)
    frame = GENERATOR.renderer(before_the_union_rule(SPACE.initial.expand(samples, -1), seeds))
    numbers = shape_numbers(seeds)
    draws = reference.draw(SPACE.split(SPACE.initial.expand(samples, -1)), numbers, DEPTH)
    shape = reference.build(draws, DEPTH)
    rng = np.random.default_rng(0)
    checked = wrong = 0
    size = frame.mask.shape[-1]
    for sample in range(samples):
        # Slot 0's leaf stands in the root's own frame: its transform is the root's.
        root, origin = shape.linear[sample, 0].numpy(), shape.offset[sample, 0].numpy()
        rows, columns = np.nonzero(frame.mask[sample, 0].numpy())
        pick = rng.choice(len(rows), min(20, len(rows)), replace=False)
        x, y = (2 * columns[pick] + 1) / size - 1, 1 - (2 * rows[pick] + 1) / size
        z = frame.depth[sample, 0].numpy()[rows[pick], columns[pick]]
        below = np.stack([x, y, z - 1e-3], 1)
        front = np.stack(
            [np.tile(x, 40), np.tile(y, 40), np.concatenate([z + 1e-3 + d for d in np.linspace(0, 2, 40)])], 1
        )

        def inside(points: np.ndarray, root=root, origin=origin, sample=sample) -> np.ndarray:
            return membership(draws, sample, 0, np.linalg.solve(root, (points - origin).T).T)

        wrong += int((~inside(below)).sum()) + int(inside(front).any())
        checked += len(pick)
    assert checked > 1000
    assert wrong <= 0.005 * checked  # rays that graze a thin edge leave it again within 1e-3


def test_the_object_fills_the_frame_and_is_centred() -> None:
    samples = 300
    beta = SPACE.initial.clone()
    beta[SPACE.slice("operator")] = torch.tensor([1.0, 0.0])  # nearly only unions: the rectangle is then exact
    frame = GENERATOR.frame(SPACE.project(beta).expand(samples, -1), torch.arange(samples))
    for mask in frame.mask[:, 0].numpy():
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert longer <= 0.9 * 64 + 1


def test_exact_extent_of_a_lone_primitive() -> None:
    """Where an object is one primitive, its longer side fills FIT of the frame to within two pixels."""
    beta = SPACE.initial.clone()
    beta[SPACE.slice("expand")] = 0.0
    betas = beta.expand(300, -1)
    seeds = torch.arange(300)
    alone = (GENERATOR.scene(betas, seeds).kind != EMPTY).sum(1) == 1
    masks = GENERATOR(betas, seeds).mask[alone, 0].numpy()
    assert len(masks) > 200
    for mask in masks:
        longer = max(np.ptp(np.nonzero(mask.any(1))[0]), np.ptp(np.nonzero(mask.any(0))[0])) + 1
        assert abs(longer - FIT * 64) <= 3


def test_rows_do_not_depend_on_the_batch() -> None:
    betas = SPACE.denormalize(torch.rand(40, 29, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    seeds = torch.arange(40)
    whole = GENERATOR(betas, seeds)
    parts = [GENERATOR(betas[rows], seeds[rows]) for rows in (slice(0, 1), slice(1, 8), slice(8, 40))]
    for i, tensor in enumerate(whole.tensors):
        assert torch.equal(tensor, torch.cat([p.tensors[i] for p in parts]))


def test_shapes_that_would_vanish_become_unions() -> None:
    """Subtract mostly, by large solids: many differences leave nothing; every frame still shows something."""
    beta = SPACE.initial.clone()
    beta[SPACE.slice("operator")] = torch.tensor([0.0, 1.0])
    beta[SPACE.slice("expand")] = 1.0
    beta[SPACE.slice("scale")][:3] = 1.0
    betas, seeds = SPACE.project(beta).expand(200, -1), torch.arange(200)
    raw = GENERATOR.renderer(before_the_union_rule(betas, seeds)).mask.mean((1, 2, 3))
    assert (raw < 0.005).sum() > 10  # the case does occur
    assert (GENERATOR(betas, seeds).mask.mean((1, 2, 3)) >= 0.005).all()


def test_shading_is_smooth_in_the_render_block() -> None:
    """Autograd against central differences; without shadows, whose edges jump from pixel to pixel."""
    generator = ShapeGenerator(AnalyticRenderer(64, shadows=False), lit=True)
    space = generator.space
    seeds = torch.arange(12)
    beta = space.initial.clone()
    beta[space.slice("texture")] = 0.5
    for name in generator.pathwise:
        for component in range(space.slice(name).start, space.slice(name).stop):
            step = torch.zeros_like(beta)
            step[component] = 5e-4
            betas = beta.expand(12, -1).clone().requires_grad_()
            image = generator(betas, seeds).image
            ahead = generator((beta + step).expand(12, -1), seeds)
            behind = generator((beta - step).expand(12, -1), seeds)
            difference = (ahead.image - behind.image) / 1e-3
            direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(component))
            (gradient,) = torch.autograd.grad((image * direction).sum(), betas)
            torch.testing.assert_close(
                gradient[:, component].float(), (difference * direction).sum((1, 2, 3)), rtol=0.02, atol=0.5
            )
