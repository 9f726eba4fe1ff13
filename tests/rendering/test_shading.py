"""Environment maps against the sum that they stand for, cameras against what they promise, compiled against torch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hgenv.rendering.shading import camera, environment_map
from hgenv.rendering.shading.environment_map import COLUMNS, ROWS
from hgenv.rendering.shading.texture import solid_texture

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


def cells() -> tuple[Tensor, Tensor]:
    """Directions and solid angles of a map's cells, written out."""
    found = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            down, turn = (row + 0.5) / ROWS * math.pi, ((column + 0.5) / COLUMNS - 0.5) * 2 * math.pi
            angle = 2 * math.pi / COLUMNS * (math.cos(row / ROWS * math.pi) - math.cos((row + 1) / ROWS * math.pi))
            found.append((math.sin(down) * math.sin(turn), math.cos(down), math.sin(down) * math.cos(turn), angle))
    both = torch.tensor(found, dtype=torch.float64)
    return both[:, :3], both[:, 3]


def random_maps(count: int, size: float = 2.0) -> Tensor:
    basis = environment_map.basis(CPU)
    return torch.exp(basis.initial + (draw(count, ROWS * COLUMNS, low=-size, high=size).float() @ basis.bumps))


@pytest.mark.parametrize(("maps", "tolerance"), [(random_maps(20), 0.02), (torch.eye(ROWS * COLUMNS)[7::50], 0.06)])
def test_irradiance_is_the_sum_over_the_map(maps: Tensor, tolerance: float) -> None:
    direction, angle = cells()
    normal = unit(1, 3, 500)
    cosine = (direction[:, :, None] * normal).sum(1).clamp(min=0)
    expected = (maps.double() * angle / math.pi) @ cosine
    coefficients = maps @ environment_map.basis(CPU).moments[:, :24]
    found = environment_map.irradiance(coefficients, normal.float().expand(len(maps), -1, -1))
    assert ((found - expected).abs().amax(1) / expected.amax(1)).max() < tolerance


def test_the_camera_meters_the_light_before_the_object() -> None:
    direction, angle = cells()
    intensity = torch.eye(ROWS * COLUMNS, dtype=torch.float64)[direction[:, 2] > 0][::20].float()
    _, brightest = environment_map.metered(intensity @ environment_map.basis(CPU).moments)
    expected = (intensity.double() @ angle) / math.pi  # of a plane that faces the light
    torch.testing.assert_close(brightest[:, 0].double(), expected, rtol=1e-5, atol=0)


def test_a_number_brightens_its_own_direction_most() -> None:
    direction, _ = cells()
    basis = environment_map.basis(CPU)
    torch.testing.assert_close(basis.direction.double(), direction, rtol=0, atol=1e-6)
    assert torch.equal(basis.bumps.argmax(1), torch.arange(ROWS * COLUMNS))
    torch.testing.assert_close(basis.bumps.square().sum(0), torch.ones(ROWS * COLUMNS))


def test_shadows_take_what_comes_from_around_their_direction() -> None:
    maps, direction, angle = random_maps(6), cells()[0], cells()[1] / math.pi
    toward, normal = unit(6, 3, seed=3), unit(6, 3, 200, seed=4)
    near = maps.double() * torch.exp(environment_map.SHADOW * (toward @ direction.T - 1)) * angle
    share = ((near @ direction) * toward).sum(1)
    torch.testing.assert_close(maps * environment_map.around(toward.float()) * angle, near, rtol=1e-4, atol=1e-7)
    cosine = (toward[..., None] * normal).sum(1).clamp(min=0)
    axes = torch.eye(3).expand(6, 3, 3)
    coefficients = maps @ environment_map.basis(CPU).moments[:, :24]
    given = (coefficients, axes, normal.float(), toward.float(), share.float())
    lit, shaded = (environment_map.received(*given, direct) for direct in (cosine.float(), torch.zeros(6, 200)))
    torch.testing.assert_close((lit - shaded).double(), share[:, None] * cosine, rtol=1e-3, atol=1e-4)


def calls() -> dict[str, tuple[Any, tuple[Tensor, ...], tuple[int, ...]]]:
    """Functions with what they take, and which of that is differentiable."""
    b, size = 3, 24
    maps = random_maps(b) @ environment_map.basis(CPU).moments
    coefficients, _ = environment_map.metered(maps)
    own = unit(b, 3, seed=5).float()
    normal = unit(b, 3, size * size, seed=6).float()
    axes = torch.linalg.qr(draw(b, 3, 3, seed=7)).Q.float()
    light = draw(b, size, size, seed=8, high=1.3).float()
    mask = (draw(b, size, size, seed=9) < 0.7).float()
    r2 = draw(size, size, seed=10, high=2).float()
    point = (*draw(2, size * size, seed=11, low=-1).float(), draw(b, size * size, seed=12, low=-1).float())
    wave, phase = draw(b, 7, 3, seed=13, low=-40, high=40).float(), draw(b, 7, seed=14, high=6).float()
    direct = draw(b, size * size, seed=15).float()
    received = (coefficients, axes, normal, own, draw(b, seed=16).float(), direct)
    tone, vignetting = draw(b, camera.KNOTS, seed=17, low=-1).float(), draw(b, 2, seed=18, low=-0.5).float()
    exposed = (
        light,
        r2,
        draw(b, seed=19, low=0.5, high=2).float(),
        vignetting,
        draw(b, seed=20, low=0.5).float(),
        tone,
    )

    def texture(wave: Tensor, phase: Tensor, contrast: Tensor, z: Tensor, amplitude: Tensor) -> Tensor:
        return solid_texture(wave, phase, contrast, (point[0].to(z.dtype), point[1].to(z.dtype), z), amplitude)

    textured = (wave, phase, draw(b, seed=21).float(), point[2], draw(b, 7, seed=22).float())
    return {
        "received": (environment_map.received, received, (0, 1, 4)),
        "texture": (texture, textured, (2, 4)),
        "expose": (camera.expose, exposed, (0, 2, 3, 4, 5)),
        "blurred": (camera.blurred, (light, mask, draw(b, camera.SCALES, seed=23, low=-0.5).float()), (0, 2)),
    }


@pytest.mark.parametrize("name", ["received", "texture", "expose", "blurred"])
def test_compiled_and_torch_agree(name: str) -> None:
    function, given, smooth = calls()[name]
    watched = [x.clone().requires_grad_(i in smooth) for i, x in enumerate(given)]
    compiled, reference = function(*given), function(*watched)
    assert reference.requires_grad
    assert not compiled.requires_grad
    torch.testing.assert_close(compiled, reference.detach(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["received", "texture", "expose", "blurred"])
def test_derivatives_are_exact_in_double_precision(name: str) -> None:
    function, given, smooth = calls()[name]
    doubles = [x.double() for x in given]
    draws = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=draws, dtype=torch.float64) for x in doubles]
    probe = torch.randn(function(*given).shape, generator=draws, dtype=torch.float64)

    def value(t: Tensor) -> Tensor:
        moved = [x + t * v if i in smooth else x for i, (x, v) in enumerate(zip(doubles, directions, strict=True))]
        return (function(*moved) * probe).sum()

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(value(t), t)
    steps = (torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (1e-6, -1e-6))
    ahead, behind = (float(value(s).detach()) for s in steps)
    assert float(exact) == pytest.approx((ahead - behind) / 2e-6, rel=1e-5)


def test_tone_curves_rise_from_black_to_white() -> None:
    x = torch.linspace(0, 1, 201).clamp(min=1e-4).expand(2, 1, 201).contiguous()
    ones, flat = torch.ones(2), torch.zeros(2, 2)
    tone = torch.stack([torch.zeros(camera.KNOTS), torch.tensor([2.0, -2, 0, 1, 0, 0, 0, -1])])
    y = camera.expose(x, torch.zeros(1, 201), ones, flat, ones, tone)
    torch.testing.assert_close(y[0], x[0])
    assert (y.diff() > 0).all()
    torch.testing.assert_close(y[1, 0, [0, -1]], torch.tensor([0.0, 1.0]), rtol=0, atol=2e-3)
    slope = y[1, 0].diff() * 200
    assert float(slope[0] / slope[28:30].mean()) == pytest.approx(math.exp(4), rel=0.25)  # the second knot is at 1/7


def test_blur_stays_within_the_object() -> None:
    mask = (draw(2, 20, 20) < 0.6).float()
    blur = torch.tensor([[1.0, 1.0], [-0.5, 0.3]])
    torch.testing.assert_close(camera.blurred(0.7 * mask, mask, blur) * mask, 0.7 * mask)
    image = draw(2, 20, 20, seed=1).float()
    around = torch.ones(2, 20, 20)
    kernel = torch.tensor([1.0, 2, 1]) / 4
    weights = (kernel[:, None] * kernel)[None, None]
    expected = torch.nn.functional.conv2d(image[:, None], weights)[:, 0]
    found = camera.blurred(image, around, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(found[:, 1:-1, 1:-1], expected)
