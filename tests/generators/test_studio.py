"""Shapes in an environment map: what is shared with the lit shapes, and what the light and the camera do."""

import pytest
import torch
from torch import Tensor

from hgenv.generators import ShapeGenerator, StudioGenerator
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.rendering.shading.environment_map import COLUMNS, ROWS

SEEDS = torch.arange(40)
STUDIO = StudioGenerator(AnalyticRenderer(32))


def at(generator: StudioGenerator, **changes: float | Tensor) -> Tensor:
    beta = generator.space.initial.clone()
    for name, value in changes.items():
        beta[generator.space.slice(name)] = value
    return beta.expand(len(SEEDS), -1)


def test_it_starts_like_the_lit_shapes() -> None:
    lit = ShapeGenerator(AnalyticRenderer(32), lit=True)
    theirs = lit(lit.space.initial.expand(len(SEEDS), -1), SEEDS)
    ours = STUDIO(at(STUDIO), SEEDS)
    assert torch.equal(ours.target, theirs.target)
    assert torch.equal(ours.mask, theirs.mask)
    seen = ours.mask > 0
    assert abs(float(ours.image[seen].mean() - theirs.image[seen].mean())) < 0.05
    # Textures differ. Without them the light is the same, but for shadows.
    plain = lit.space.initial.clone()
    plain[lit.space.slice("texture")] = 0
    a, b = lit(plain.expand(len(SEEDS), -1), SEEDS).image[seen], STUDIO(at(STUDIO, texture=0), SEEDS).image[seen]
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.9
    assert (a - b).abs().median() < 0.05


def test_light_comes_from_where_the_map_is_bright() -> None:
    space, seeds = STUDIO.space, SEEDS
    for rows, columns, axis, sign in (
        (slice(5, 11), slice(5, 11), 0, -1),  # left
        (slice(5, 11), slice(21, 27), 0, 1),  # right
        (slice(0, 4), slice(0, COLUMNS), 1, 1),  # above
        (slice(ROWS - 4, ROWS), slice(0, COLUMNS), 1, -1),  # below
    ):
        light = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
        light[rows, columns] = 0.5
        made = STUDIO(at(STUDIO, light_map=light.flatten(), light_spread=0, texture=0, exposure=-0.5), seeds)
        seen = made.mask[:, 0] > 0
        image, normal = made.image[:, 0][seen], made.target[:, axis][seen] * sign
        assert image[normal > 0.5].mean() > 1.5 * image[normal < -0.5].mean()
    assert space.slice("light_map") == slice(29, 29 + ROWS * COLUMNS)


def test_the_camera_does_not_see_how_strong_all_light_is() -> None:
    dim, bright = (STUDIO(at(STUDIO, light_map=v), SEEDS).image for v in (-0.05, 0.05))
    weak = STUDIO(at(STUDIO), SEEDS).image
    # One number brightens all directions nearly alike, more near the poles than at the equator.
    assert (dim - bright).abs().mean() < 0.02
    assert (weak - bright).abs().mean() < 0.02


def test_shadows_only_darken() -> None:
    open_ = StudioGenerator(AnalyticRenderer(32, shadows=False))
    shaded, plain = (g(at(g, texture=0), SEEDS).image for g in (STUDIO, open_))
    assert (shaded <= plain + 1e-4).all()
    assert ((plain - shaded) > 0.02).float().mean() > 2e-3


def test_scores_are_those_of_the_shapes() -> None:
    lit = ShapeGenerator(AnalyticRenderer(32), lit=True)
    ours = STUDIO.log_prob_score(at(STUDIO), SEEDS)
    theirs = lit.log_prob_score(lit.space.initial.expand(len(SEEDS), -1), SEEDS)
    assert ours.shape == (len(SEEDS), STUDIO.space.dimension)
    assert torch.equal(ours[:, :29], theirs[:, :29])
    assert ours[:, 29:].isnan().all()


def test_noise_has_the_standard_deviation_that_it_says() -> None:
    grey = {"texture": 0, "tone": 0, "exposure": -1}
    plain, noisy = (STUDIO(at(STUDIO, noise=v, **grey), SEEDS) for v in (0, 0.03))
    inside = (plain.image > 0.1) & (plain.image < 0.9)
    difference = (noisy.image - plain.image)[inside]
    assert abs(float(difference.std()) - 0.03) < 1e-3
    assert abs(float(difference.mean())) < 1e-3
    assert (noisy.image[plain.mask == 0] == 0).all()


def test_vignetting_darkens_corners() -> None:
    plain, dark = (STUDIO(at(STUDIO, vignetting=v, exposure=-1, contrast_spread=0), SEEDS) for v in (0, 0.5))
    line = (2 * torch.arange(32) + 1) / 32 - 1
    r2 = line[:, None] ** 2 + line**2
    inside = plain.mask * (plain.image > 0.01) * (plain.image < 0.99) > 0
    expected = plain.image * torch.exp(-0.5 * (r2 + r2 * r2))
    torch.testing.assert_close(dark.image[inside], expected[inside], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("map_rows", "d"), [(2, 62), (4, 86), (8, 182)])
def test_a_map_of_few_numbers_lights_from_the_same_side(map_rows: int, d: int) -> None:
    generator = StudioGenerator(AnalyticRenderer(32), map_rows=map_rows)
    assert generator.space.dimension == d
    # Where the map's numbers are all zero, it is the initial map, however many there are.
    initial = generator(at(generator, light_map=0), SEEDS).image
    torch.testing.assert_close(initial, STUDIO(at(STUDIO, light_map=0), SEEDS).image, rtol=1e-4, atol=1e-5)
    half = map_rows // 2
    for columns, sign in (
        (slice(half // 2, half // 2 + half), -1),
        (slice(-half // 2 - half, -(half // 2) or None), 1),
    ):
        light = torch.zeros(map_rows, 2 * map_rows, dtype=torch.float64)
        light[:, columns] = 0.6
        beta = at(generator, light_map=light.flatten(), light_spread=0, texture=0, exposure=-0.5)
        made = generator(beta, SEEDS)
        seen = made.mask[:, 0] > 0
        image, normal = made.image[:, 0][seen], made.target[:, 0][seen] * sign
        assert image[normal > 0.5].mean() > 1.2 * image[normal < -0.5].mean()


def test_a_map_has_two_to_sixteen_rows() -> None:
    for wrong in (1, 17):
        with pytest.raises(ValueError, match="map_rows must be between 2 and 16"):
            StudioGenerator(map_rows=wrong)
