"""The z-buffer in its two forms, against each other, against Embree's rays and against closed forms."""

import itertools
import math

import pytest
import torch

from hgenv.datasets.standin_faces import face_grid, relief
from hgenv.problem import RenderError
from hgenv.rendering.framing import pixel_centres
from hgenv.rendering.surfaces import (
    CAMERA,
    Fragments,
    ZBuffer,
    depth_samples,
    fit,
    rotation,
    turn,
)
from hgenv.rendering.surfaces.compiled import render
from hgenv.rendering.surfaces.embree import EmbreeSurfaces
from hgenv.rendering.surfaces.fragments import SCATTER, light_axes, triangles_around

FIELDS = ("mask", "triangle", "weight", "point", "normal", "lit")


def faces(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reliefs turned in various ways, their triangles and lights."""
    grid, triangles = face_grid(40)
    draw = torch.Generator().manual_seed(3)
    angles = 0.5 * torch.randn(count, 3, generator=draw, dtype=torch.float64)
    vertices = fit(turn(torch.from_numpy(relief(grid)).expand(count, -1, -1), rotation(angles)))
    light = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    light[:, 2] = light[:, 2].abs() + 0.1
    return vertices, torch.from_numpy(triangles), light / light.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def seen() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Fragments]:
    vertices, triangles, light = faces(12)
    return vertices, triangles, light, ZBuffer(triangles, 48)(vertices, light)


def test_compiled_and_torch_form_agree(seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor, Fragments]) -> None:
    vertices, triangles, light, compiled = seen
    reference = ZBuffer(triangles, 48).render_torch(vertices, light)
    assert int(compiled.mask.sum()) > 5000
    for name in ("mask", "triangle", "weight", "point"):
        assert torch.equal(getattr(compiled, name), getattr(reference, name)), name
    torch.testing.assert_close(compiled.normal, reference.normal, rtol=0, atol=1e-6)
    torch.testing.assert_close(compiled.lit, reference.lit, rtol=0, atol=1e-5)


def test_rays_see_the_same(seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor, Fragments]) -> None:
    vertices, triangles, light, ours = seen
    rays = EmbreeSurfaces(triangles, 48)(vertices, light)
    assert torch.equal(ours.mask, rays.mask)
    on = ours.mask > 0
    assert (ours.triangle != rays.triangle)[on].float().mean() < 1e-3
    assert (ours.point - rays.point).abs().amax(1)[on].quantile(0.999) < 1e-5
    cosine = (ours.normal * rays.normal).sum(1)[on].clamp(-1, 1)
    assert cosine.acos().rad2deg().quantile(0.999) < 0.1


def test_shadows_come_closer_to_those_of_rays_with_the_number_of_texels() -> None:
    vertices, triangles, light = faces(6)
    apart = []
    for size in (48, 96, 192, 384):
        ours, rays = (make(triangles, size)(vertices, light) for make in (ZBuffer, EmbreeSurfaces))
        apart.append(float((ours.lit - rays.lit).abs()[ours.mask > 0].mean()))
    assert apart[0] < 0.08
    assert all(after < 0.75 * before for before, after in itertools.pairwise(apart))


def test_bits_depend_on_neither_batch_nor_threads(
    seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor, Fragments],
) -> None:
    vertices, triangles, light, whole = seen
    renderer = ZBuffer(triangles, 48)
    parts = [renderer(vertices[i : i + 5], light[i : i + 5]) for i in range(0, 12, 5)]
    threaded = render(vertices, renderer.triangles, renderer.around, light, 48, True, threads=3)
    for name in FIELDS:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
        assert torch.equal(getattr(whole, name), getattr(threaded, name)), name


@pytest.mark.parametrize("renderer", [ZBuffer, EmbreeSurfaces])
def test_resized_is_the_same_renderer_with_another_size(renderer: type[ZBuffer] | type[EmbreeSurfaces]) -> None:
    vertices, triangles, light = faces(2)
    there, back = renderer(triangles, 40, shadows=False), renderer(triangles, 8, shadows=False).resized(40)
    for name in FIELDS:
        assert torch.equal(getattr(there(vertices, light), name), getattr(back(vertices, light), name)), name


def test_a_triangle_by_hand() -> None:
    corners = torch.tensor([[[-0.6, -0.5, 0.0], [0.7, -0.4, 0.3], [0.0, 0.8, -0.2]]])
    front = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    found = ZBuffer(torch.tensor([[0, 1, 2]]), 32)(corners, front)
    x, y = (axis.double() for axis in pixel_centres(32))
    a, b, c = corners[0].double()
    basis = torch.stack([b - a, c - a], 1)[:2]
    shares = torch.linalg.solve(basis, torch.stack([x - a[0], y - a[1]]))
    inside = (shares >= 0).all(0) & (shares.sum(0) <= 1)
    assert torch.equal(found.mask[0] > 0, inside)
    z = a[2] + shares[0] * (b - a)[2] + shares[1] * (c - a)[2]
    torch.testing.assert_close(found.point[0, 2][inside], z[inside].float(), rtol=0, atol=1e-6)
    normal = torch.linalg.cross(b - a, c - a)
    expected = (normal / normal.norm()).float()[:, None].expand(-1, int(inside.sum()))
    torch.testing.assert_close(found.normal[0][:, inside], expected, rtol=0, atol=1e-6)
    samples = depth_samples(found.point, found, 32)
    assert samples.target.shape == (1, 1, 32, 32)
    torch.testing.assert_close(samples.target[0, 0].flatten()[inside], CAMERA - z[inside].float(), rtol=0, atol=1e-6)


def test_a_roof_keeps_the_light_off_the_floor() -> None:
    square = torch.tensor([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    floor = torch.cat([square, torch.zeros(4, 1)], 1)
    height = 3 * SCATTER
    roof = torch.cat([square / 4, torch.full((4, 1), height)], 1)
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    # The light comes from the left at 45 degrees: the shadow lies `height` to the right of the roof.
    light = torch.tensor([[-math.sqrt(0.5), 0.0, math.sqrt(0.5)]], dtype=torch.float64)
    found = ZBuffer(triangles, 64)(torch.cat([floor, roof])[None], light)
    x, y = pixel_centres(64)
    on_floor = (found.triangle[0] < 2) & (found.mask[0] > 0)
    border = 0.1
    shaded = on_floor & (x > 0.2) & (x < 0.2 + height - border / 2) & (y.abs() < 0.2 - border)
    free = on_floor & ((x < -0.2 - border) | (x > 0.2 + height + border) | (y.abs() > 0.2 + border))
    assert int(shaded.sum()) > 5
    assert int(free.sum()) > 1000
    thickness = height / math.sqrt(0.5)
    torch.testing.assert_close(
        found.lit[0][shaded], torch.full((int(shaded.sum()),), math.exp(-thickness / SCATTER)), rtol=0, atol=0.02
    )
    assert found.lit[0][free].min() > 0.99
    without = ZBuffer(triangles, 64, shadows=False)(torch.cat([floor, roof])[None], light)
    assert torch.equal(without.lit, without.mask)


def test_the_nearest_triangle_wins_and_the_first_of_two_at_one_place() -> None:
    near = torch.tensor([[-0.5, -0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.5, 0.5]])
    vertices = torch.cat([near - torch.tensor([0.0, 0.0, 1.0]), near])[None]
    light = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    found = ZBuffer(torch.tensor([[0, 1, 2], [3, 4, 5], [3, 4, 5]]), 16)(vertices, light)
    assert found.mask.sum() > 0
    assert set(found.triangle[found.mask > 0].tolist()) == {1}


def test_axes_across_the_light_are_right_angled() -> None:
    light = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    light = light / light.norm(dim=1, keepdim=True)
    axes = torch.stack(light_axes(light), 1)
    torch.testing.assert_close(axes @ axes.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(50, -1, -1))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(50, dtype=torch.float64))


def test_rotations_turn_as_they_say() -> None:
    angles = torch.tensor([[0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]], dtype=torch.float64)
    nose, top = torch.tensor([0, 0, 1.0]).double(), torch.tensor([0, 1.0, 0]).double()
    yaw, pitch, roll = rotation(angles)
    assert (yaw @ nose)[0] == pytest.approx(math.sin(0.3))  # to the right
    assert (pitch @ nose)[1] == pytest.approx(-math.sin(0.3))  # downwards
    assert (roll @ top)[0] == pytest.approx(-math.sin(0.3))  # anticlockwise


def test_triangles_around_vertices() -> None:
    around = triangles_around(torch.tensor([[0, 1, 2], [2, 1, 3], [0, 2, 3]]))
    assert around.tolist() == [[0, 2, 3], [0, 1, 3], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("renderer", [ZBuffer, EmbreeSurfaces])
def test_bad_input(renderer: type[ZBuffer] | type[EmbreeSurfaces]) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        renderer(torch.tensor([[0, 1, 2]]), 0)
    with pytest.raises(ValueError, match="whole numbers"):
        renderer(torch.tensor([[0.0, 1.0, 2.0]]))
    with pytest.raises(ValueError, match="numbered from 0"):
        renderer(torch.tensor([[0, 1, -1]]))


@pytest.mark.parametrize("kind", [ZBuffer, EmbreeSurfaces])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, t: (v[:, :-1], t), "vertices are 1599, but the triangles have corner 1599"),
        (lambda v, t: (v[0], t), r"vertices must be \(B, V, 3\)"),
        (lambda v, t: (v.long(), t), r"vertices must be \(B, V, 3\)"),
        (lambda v, t: (v, t[:1]), r"light must be \(2, 3\)"),
        (lambda v, t: (torch.cat([v[:1], v[1:] * torch.nan]), t), "mesh 1 has vertices or a light that are infinite"),
        (lambda v, t: (v, torch.cat([t[:1] * torch.inf, t[1:]])), "mesh 0 has vertices or a light that are infinite"),
    ],
)
def test_meshes_that_cannot_be_rendered_are_refused(kind, change, message) -> None:
    vertices, triangles, light = faces(2)
    with pytest.raises(RenderError, match=message):
        kind(triangles, 16)(*change(vertices, light))
