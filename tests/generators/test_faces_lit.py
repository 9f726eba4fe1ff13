"""Faces whose light and camera are in beta: how they start, where the light comes from, what perspective does."""

import math

import pytest
import torch
from torch import Tensor

from hgenv.datasets import standin_faces
from hgenv.generators import FaceGenerator, LitFaceGenerator, cardioid
from hgenv.generators.faces_lit import PATHWISE
from hgenv.rendering.surfaces import project, unproject_normals

SEEDS = torch.arange(24)


@pytest.fixture(scope="module")
def generator() -> LitFaceGenerator:
    return LitFaceGenerator(standin_faces.model(), size=32)


def betas(generator: LitFaceGenerator, count: int = len(SEEDS), **changes: float | Tensor) -> Tensor:
    beta = generator.space.initial.clone()
    for name, value in changes.items():
        beta[generator.space.slice(name)] = value
    return beta.expand(count, -1)


def test_it_starts_like_the_faces_of_the_other_generator(generator: LitFaceGenerator) -> None:
    other = FaceGenerator(generator.model, size=32)
    still = betas(generator, zoom_spread=0, distance_spread=0, distance=1)
    theirs, ours = other(betas(generator)[:, : other.space.dimension], SEEDS), generator(still, SEEDS)
    assert (ours.mask == theirs.mask).float().mean() > 0.98
    both = (ours.mask * theirs.mask).expand_as(ours.image) > 0
    assert (ours.image - theirs.image).abs()[both].mean() < 0.02
    drawn, draws = generator.draw(still, SEEDS), other.draw(still[:, : other.space.dimension], SEEDS)
    assert all(torch.equal(drawn[name], values) for name, values in draws.items())
    # Of the same surfaces, from far away, it makes the same image.
    seen = other.renderer(other.place(draws), draws["light"])
    far = drawn | {"distance": torch.full_like(drawn["distance"], 1e6)}
    torch.testing.assert_close(generator.shade(far, seen), other.shade(draws, seen), rtol=0, atol=1e-4)


def test_colours_follow_their_intensities(generator: LitFaceGenerator) -> None:
    red = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    plain, tinted = (generator(betas(generator, intensity=v), SEEDS) for v in (0.0, red))
    inside = (plain.mask[:, 0] > 0) & (tinted.image.amax(1) < 1) & (plain.image.amax(1) < 1)
    for channel, stop in enumerate(red.tolist()):
        ratio = (tinted.image[:, channel] / plain.image[:, channel].clamp(min=1e-6))[inside]
        assert float(ratio.median()) == pytest.approx(2 ** (stop / 2.2), rel=1e-3)


def test_light_comes_from_where_beta_says(generator: LitFaceGenerator) -> None:
    count, seeds = 4000, torch.arange(4000)

    def own(**changes: float | Tensor) -> Tensor:
        drawn = generator.draw(betas(generator, count, **changes), seeds)
        return (drawn["rotation"].transpose(1, 2) @ drawn["light"][..., None])[..., 0]

    # uniform ** (1 / a) has the mean a / (1 + a).
    assert float(own(light_height=0.5)[:, 2].mean()) == pytest.approx(2 / 3, abs=0.01)
    side = torch.tensor([0.5, -0.3], dtype=torch.float64)
    light = own(light_side=side)
    around = light[:, :2] / light[:, :2].norm(dim=1, keepdim=True)
    torch.testing.assert_close(around.mean(0), side / 2, rtol=0, atol=0.03)


def test_cardioid() -> None:
    u = torch.linspace(1e-6, 1 - 1e-6, 2001, dtype=torch.float64)
    for x, y in ((0.0, 0.0), (0.65, 0.65), (-0.3, 0.6)):
        turn = cardioid(u, torch.full_like(u, x), torch.full_like(u, y))
        angle = 2 * math.pi * turn
        below = turn + (x * angle.sin() + y * (1 - angle.cos())) / (2 * math.pi)
        torch.testing.assert_close(below, u, rtol=0, atol=1e-12)
        assert (turn.diff() > 0).all()


def test_scores_of_the_light_are_derivatives_of_its_density(generator: LitFaceGenerator) -> None:
    space = generator.space
    beta = betas(generator, light_height=0.4, light_side=torch.tensor([0.3, -0.2], dtype=torch.float64))
    score = generator.log_prob_score(beta, SEEDS)
    drawn = generator.draw(beta, SEEDS)
    own = (drawn["rotation"].transpose(1, 2) @ drawn["light"][..., None])[..., 0]
    height, angle = own[:, 2], torch.atan2(own[:, 1], own[:, 0])
    given = torch.tensor([0.4, 0.3, -0.2], dtype=torch.float64).expand(len(SEEDS), -1).clone().requires_grad_()
    a = 4 ** given[:, 0]
    density = a * height ** (a - 1) * (1 + given[:, 1] * angle.cos() + given[:, 2] * angle.sin()) / (2 * math.pi)
    (expected,) = torch.autograd.grad(density.log().sum(), given)
    found = torch.cat([score[:, space.slice("light_height")], score[:, space.slice("light_side")]], 1)
    torch.testing.assert_close(found, expected)
    other = FaceGenerator(generator.model, size=32)
    assert torch.equal(score[:, :204], other.log_prob_score(beta[:, :204], SEEDS))
    assert all(score[:, space.slice(name)].isnan().all() for name in PATHWISE)


def test_normals_come_back_from_the_projection() -> None:
    draws = torch.Generator().manual_seed(0)
    corner = 1.8 * torch.rand(50, 1, 3, generator=draws, dtype=torch.float64) - 0.9
    triangle = corner + 1e-5 * torch.randn(50, 3, 3, generator=draws, dtype=torch.float64)
    distance = 3 + 9 * torch.rand(50, generator=draws, dtype=torch.float64)

    def normals(t: Tensor) -> Tensor:
        n = torch.linalg.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
        return n / n.norm(dim=1, keepdim=True)

    seen = project(triangle, distance)
    found = unproject_normals(normals(seen)[..., None], seen.mean(1)[..., None], distance)[..., 0]
    torch.testing.assert_close(found, normals(triangle), rtol=0, atol=1e-4)
    # A camera at `distance` sees a point where its ray meets the plane z = 0.
    ray = triangle[:, 0, :2] / (distance - triangle[:, 0, 2])[:, None] * distance[:, None]
    torch.testing.assert_close(seen[:, 0, :2], ray)


def test_zoom_scales_what_is_seen(generator: LitFaceGenerator) -> None:
    large, small = (generator(betas(generator, zoom=v, zoom_spread=0), SEEDS) for v in (0.25, -0.25))
    assert float(small.mask.sum() / large.mask.sum()) == pytest.approx(0.5, rel=0.05)
