"""The compiled form against the torch form, which shares no code with it, and against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hgenv.generators.shapes import ShapeGenerator
from hgenv.problem import RenderError
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.rendering.csg.compiled import render
from hgenv.rendering.csg.scene import (
    CONE,
    CUBE,
    DIFFERENCE,
    EMPTY,
    SPHERE,
    TETRAHEDRON,
    UNION,
    Frame,
    Scene,
)
from hgenv.rendering.framing import pixel_centres


def random_scene(count: int, depth: int = 3, varied: bool = False, seed: int = 0) -> Scene:
    """Trees of the grammar; `varied` draws every sample's beta uniformly within its bounds, light included."""
    generator = ShapeGenerator(AnalyticRenderer(64), depth=depth, lit=varied)
    space = generator.space
    betas = space.initial.repeat(count, 1)
    if varied:
        random = torch.Generator().manual_seed(seed)
        betas = space.project(space.denormalize(torch.rand(betas.shape, generator=random, dtype=torch.float64)))
    return generator.scene(betas, seed + torch.arange(count))


def torch_form(scene: Scene, size: int, shadows: bool = True) -> Frame:
    return AnalyticRenderer(size, shadows).render_torch(scene)


def plain_scene(kind: list[int], size: list[tuple[float, float, float]], **changes: Tensor) -> Scene:
    """One object of untransformed primitives, all united, seen in white light from the camera."""
    leaves = len(kind)
    fields = {
        "kind": torch.tensor([kind]),
        "size": torch.tensor([size]),
        "linear": torch.eye(3).expand(1, leaves, 3, 3),
        "offset": torch.zeros(1, leaves, 3),
        "operator": torch.full((1, leaves - 1), UNION),
        "light": torch.tensor([[0.0, 0.0, 1.0]]),
        "ambient": torch.zeros(1),
        "wave": torch.zeros(1, 1, 3),
        "phase": torch.zeros(1, 1),
        "texture": torch.zeros(1),
        "exposure": torch.ones(1),
        "contrast": torch.ones(1),
    }
    return Scene(**{**fields, **changes})


def tensors(frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return frame.image, frame.normal, frame.depth, frame.mask


def assert_same_bits(one: Frame, two: Frame) -> None:
    for a, b in zip(tensors(one), tensors(two), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("scene", "size"),
    [
        pytest.param({"count": 1000}, 64, id="initial"),
        pytest.param({"count": 1000, "varied": True}, 64, id="varied"),
        pytest.param({"count": 60, "varied": True, "depth": 4, "seed": 7}, 50, id="16-leaves-50-px"),
        pytest.param({"count": 40, "varied": True, "depth": 5, "seed": 8}, 64, id="32-leaves"),
        pytest.param({"count": 40, "depth": 0, "seed": 9}, 37, id="one-leaf-37-px"),
    ],
)
def test_agrees_with_torch_form(scene: dict[str, int], size: int) -> None:
    objects = random_scene(**scene)  # type: ignore[arg-type]
    ours, theirs = render(objects, size, True), torch_form(objects, size)
    # Not a single pixel of any silhouette, out of four million at 64 px.
    assert int((ours.mask != theirs.mask).sum()) == 0
    assert float(ours.mask.mean()) > 0.1

    depth = (ours.depth - theirs.depth).abs()
    normal = (ours.normal - theirs.normal).norm(dim=1, keepdim=True)
    image = (ours.image - theirs.image).abs()
    # Grazing rays amplify the rounding of single precision, mostly the torch form's.
    assert float((depth > 1e-5).sum()) <= max(5, 5e-5 * ours.mask.sum())
    assert float(depth.max()) < 2e-3
    # Two faces meet within rounding in a pixel's centre, and the forms choose differently.
    assert float((normal > 1e-3).sum()) <= max(2, 5e-6 * ours.mask.sum())
    # So it is with shadows: a point's light passes within rounding of an edge.
    assert float((image > 1e-3).sum()) <= max(2, 5e-6 * ours.mask.sum())
    assert float((image > 1e-5).sum()) <= max(5, 3e-4 * ours.mask.sum())


def test_agrees_with_torch_form_without_shadows() -> None:
    objects = random_scene(60, varied=True)
    ours, theirs = render(objects, 64, False), torch_form(objects, 64, False)
    torch.testing.assert_close(ours.image, theirs.image, rtol=0, atol=1e-3)
    assert float(((ours.image - render(objects, 64, True).image) > 0.01).float().mean()) > 1e-3  # shadows do darken


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_threads_batches_or_repetition(threads: int) -> None:
    objects = random_scene(70, varied=True)  # more than a thread takes at a time
    whole = render(objects, 64, True, threads=1)
    assert_same_bits(whole, render(objects, 64, True, threads=threads))
    for step in (1, 7):
        parts = [render(objects[i : i + step], 64, True, threads=threads) for i in range(0, len(objects), step)]
        joined = Frame(*(torch.cat(p) for p in zip(*(tensors(f) for f in parts), strict=True)))
        assert_same_bits(whole, joined)


def test_leaves_torch_threads_alone() -> None:
    before = torch.get_num_threads()
    render(random_scene(40), 32, True, threads=2)
    assert torch.get_num_threads() == before


def test_zero_outside_the_mask_and_finite() -> None:
    frame = render(random_scene(50, varied=True), 50, True)
    assert set(frame.mask.unique().tolist()) == {0.0, 1.0}
    for tensor in tensors(frame):
        assert tensor.dtype == torch.float32
        assert bool(tensor.isfinite().all())
        assert float((tensor * (1 - frame.mask)).abs().max()) == 0
    length = frame.normal.norm(dim=1, keepdim=True)
    torch.testing.assert_close(length, frame.mask, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 20, 64])
def test_sphere(size: int) -> None:
    radius, middle = 0.7, torch.tensor([0.05, -0.1, 0.2])
    frame = render(plain_scene([SPHERE], [(radius, 0, 0)], offset=middle.expand(1, 1, 3)), size, True)
    x, y = (c.double().reshape(size, size) - m for c, m in zip(pixel_centres(size), middle[:2].double(), strict=True))
    square = radius**2 - x * x - y * y
    height = square.clamp(min=0).sqrt()
    mask = square > 0
    assert torch.equal(frame.mask[0, 0] > 0, mask)
    torch.testing.assert_close(frame.depth[0, 0].double(), (height + 0.2) * mask, rtol=0, atol=1e-5)
    normal = torch.stack([x, y, height]) / radius * mask
    torch.testing.assert_close(frame.normal[0].double(), normal, rtol=0, atol=1e-5)
    torch.testing.assert_close(frame.image[0, 0].double(), normal[2].clamp(min=1e-4) * mask, rtol=0, atol=1e-5)


def test_light_model() -> None:
    # A cube's front face, lit askew: every pixel has the same irradiance, the texture varies in x.
    light = torch.nn.functional.normalize(torch.tensor([[0.3, -0.4, 0.8]]), dim=1)
    wave, phase = torch.tensor([[[11.0, 0.0, 0.0], [3.0, 0.0, 7.0]]]), torch.tensor([[0.4, 5.0]])
    look = {"ambient": torch.tensor([0.2]), "texture": torch.tensor([0.7])}
    look |= {"exposure": torch.tensor([1.1]), "contrast": torch.tensor([1.7])}
    frame = render(plain_scene([CUBE], [(0.5, 0, 0)], light=light, wave=wave, phase=phase, **look), 32, True)
    x = pixel_centres(32)[0].double().reshape(32, 32)
    inside = frame.mask[0, 0] > 0
    waves = torch.cos(0.4 + 11 * x) + torch.cos(5 + 3 * x + 7 * 0.5)
    irradiance = 0.2 + 0.8 * 0.8 / math.sqrt(0.3**2 + 0.4**2 + 0.8**2)
    expected = (1.1 * torch.exp(0.7 * (torch.tanh(waves) - 1)) * irradiance).clamp(1e-4, 1) ** 1.7
    assert int(inside.sum()) == 256
    torch.testing.assert_close(frame.image[0, 0][inside].double(), expected[inside], rtol=0, atol=3e-6)


def test_cast_shadow() -> None:
    # A small sphere hovers over a large face; the light comes from the right, at 45 degrees.
    half = math.sqrt(0.5)
    scene = plain_scene(
        [CUBE, SPHERE],
        [(0.9, 0, 0), (0.1, 0, 0)],
        offset=torch.tensor([[[0, 0, -0.9], [0.3, 0, 0.5]]]),
        light=torch.tensor([[half, 0, half]]),
    )
    frame = render(scene, 64, True)
    x, y = (c.reshape(64, 64) for c in pixel_centres(64))
    # On z = 0 the shadow is an ellipse around (-0.2, 0), stretched along x by the slant.
    ellipse = ((x + 0.2) * half) ** 2 + y**2
    face = (frame.mask[0, 0] > 0) & (x < 0.15)
    dark, light = face & (ellipse < 0.1**2 * 0.9), face & (ellipse > 0.1**2 * 1.1)
    assert int(dark.sum()) > 20
    assert float(frame.image[0, 0][dark].max()) < 1.001e-4  # the light model's darkest
    torch.testing.assert_close(frame.image[0, 0][light], torch.full((int(light.sum()),), half))


def test_what_differences_leave_shows_the_wall_of_the_hole() -> None:
    # A cube from which a sphere around the middle of its front face is taken: a bowl.
    scene = plain_scene(
        [CUBE, SPHERE],
        [(0.8, 0, 0), (0.5, 0, 0)],
        offset=torch.tensor([[[0, 0, -0.8], [0, 0, 0.0]]]),
        operator=torch.tensor([[DIFFERENCE]]),
    )
    frame = render(scene, 64, True)
    x, y = (c.reshape(64, 64) for c in pixel_centres(64))
    bowl = x * x + y * y < 0.25
    depth = -(0.25 - x * x - y * y).clamp(min=0).sqrt()
    torch.testing.assert_close(frame.depth[0, 0][bowl], depth[bowl], rtol=0, atol=1e-5)
    torch.testing.assert_close(frame.normal[0, :, bowl], -torch.stack([x, y, depth])[:, bowl] / 0.5, rtol=0, atol=1e-5)


def test_nothing_left_renders_nothing() -> None:
    sizes = [(0.3, 0.4, 0.2), (0.9, 0.0, 0.0)]
    frame = render(plain_scene([CONE, SPHERE], sizes, operator=torch.tensor([[DIFFERENCE]])), 32, True)
    assert all(float(t.abs().max()) == 0 for t in tensors(frame))


def test_slanted_views_of_a_steep_cone() -> None:
    # Rays along the axis, along the side, and between them: where the quadratic of the side degenerates.
    angles = torch.tensor([0.0, 0.3, 0.4636476, 0.4637, 0.6, 1.2])  # the side's own slant is atan(1/2)
    turn = torch.zeros(len(angles), 1, 3, 3)
    turn[:, 0, 0, 0] = turn[:, 0, 2, 2] = angles.cos()
    turn[:, 0, 0, 2], turn[:, 0, 2, 0], turn[:, 0, 1, 1] = angles.sin(), -angles.sin(), 1.0
    one = plain_scene([CONE], [(0.7, 0.2, 0.5)])
    scene = Scene(
        **{k: v.expand(len(angles), *v.shape[1:]) for k, v in one.__dict__.items() if k != "linear"}, linear=turn
    )
    ours, theirs = render(scene, 64, True), torch_form(scene, 64)
    assert torch.equal(ours.mask, theirs.mask)
    torch.testing.assert_close(ours.depth, theirs.depth, rtol=0, atol=1e-4)


def test_all_slots_of_the_largest_tree() -> None:
    # 32 small primitives on a grid, all united: the last bit of a word is the last leaf.
    kinds = [SPHERE, CUBE, CONE, TETRAHEDRON] * 8
    places = torch.tensor([[0.22 * (i % 8) - 0.77, 0.4 * (i // 8) - 0.6, 0.0] for i in range(32)])
    scene = plain_scene(kinds, [(0.1, 0.1, 0.1)] * 32, offset=places[None])
    ours, theirs = render(scene, 64, True), torch_form(scene, 64)
    assert torch.equal(ours.mask, theirs.mask)
    column = ((places[:, 0] + 1) * 32).long()
    row = ((1 - places[:, 1]) * 32).long()
    assert bool((ours.mask[0, 0, row, column] == 1).all())


def test_refuses_trees_that_are_too_large() -> None:
    with pytest.raises(RenderError, match="at most 32 leaf slots, not 64"):
        render(plain_scene([SPHERE] + [EMPTY] * 63, [(1.0, 0, 0)] * 64), 8, True)


def test_shading_for_autograd_gives_the_same_frames_and_the_torch_forms_derivatives() -> None:
    scene = random_scene(40, varied=True)
    renderer = AnalyticRenderer(64)
    expected = renderer(scene)
    gradients = []
    for form in (renderer, renderer.render_torch):
        leaves = {
            name: getattr(scene, name).clone().requires_grad_() for name in ("light", "ambient", "texture", "exposure")
        }
        frame = form(replace(scene, **leaves))
        for name in ("normal", "depth", "mask"):
            torch.testing.assert_close(getattr(frame, name), getattr(expected, name), atol=1e-3, rtol=0)
        assert ((frame.image - expected.image).abs() > 1e-4).sum() <= 20
        gradients.append(torch.autograd.grad(frame.image.sum(), list(leaves.values())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2 * float(theirs.abs().max()))


@pytest.mark.parametrize("size", [5, 16, 40])
def test_what_lies_beyond_the_frame_leaves_it_empty(size: int) -> None:
    scene = random_scene(3)
    away = replace(scene, offset=scene.offset + torch.tensor([0.0, 4.0, 0.0]))
    for form in (AnalyticRenderer(size), AnalyticRenderer(size).render_torch):
        for pictures in vars(form(away)).values():
            assert not pictures.any()
        assert form(scene).mask.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"kind": s.kind[:, :3]}, r"kind must be \(B, 2\*\*depth\)"),
        (lambda s: {"kind": s.kind + 4}, "kind must be -1 to 3"),
        (lambda s: {"operator": s.operator + 2}, "operator 0 or 1"),
        (lambda s: {"operator": s.operator[:1]}, r"operator must be \(2, 7\) beside this kind, not \(1, 7\)"),
        (lambda s: {"size": s.size[:, :4]}, r"size must be \(2, 8, 3\) beside this kind, not \(2, 4, 3\)"),
        (lambda s: {"wave": s.wave[:, :1]}, "wave must be"),
        (lambda s: {"linear": s.linear * torch.nan}, "object 0 has linear with values that are infinite or NaN"),
        (lambda s: {"exposure": torch.tensor([1.0, torch.inf])}, "object 1 has exposure with values"),
    ],
)
def test_scenes_that_cannot_be_rendered_are_refused(change, message) -> None:
    scene = random_scene(2)
    with pytest.raises(RenderError, match=message):
        AnalyticRenderer(16)(replace(scene, **change(scene)))
