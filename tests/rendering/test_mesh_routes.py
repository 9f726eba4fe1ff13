"""Three renderers that share nothing but the scene and the light model: each is an oracle for the others."""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from hgenv.generators.shapes import ShapeGenerator
from hgenv.problem import RenderError
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.rendering.csg.gl import PyrenderRenderer
from hgenv.rendering.csg.mesh import MeshRenderer, object_mesh
from hgenv.rendering.csg.scene import (
    CONE,
    CUBE,
    DIFFERENCE,
    EMPTY,
    SPHERE,
    TETRAHEDRON,
    UNION,
    Frame,
    Renderer,
    Scene,
)
from hgenv.rendering.framing import pixel_centres

SIZE = 64
ROUTES = {"analytic": AnalyticRenderer, "mesh": MeshRenderer, "pyrender": PyrenderRenderer}


@pytest.fixture(scope="module")
def opengl() -> Iterator[None]:
    try:
        PyrenderRenderer(8)
    except RenderError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    yield
    PyrenderRenderer.close()


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> type[Renderer]:
    if request.param == "pyrender":
        request.getfixturevalue("opengl")
    return ROUTES[request.param]


def random_scenes(count: int, first_seed: int = 0) -> Scene:
    """Objects of random decision vectors, half of them near the initial one, half from the whole space."""
    generator = ShapeGenerator(lit=True)
    space = generator.space
    numbers = torch.rand(
        count, space.dimension, generator=torch.Generator().manual_seed(first_seed), dtype=torch.float64
    )
    spread = torch.linspace(0, 2, count, dtype=torch.float64).round().clamp(0.3, 1)[:, None]
    betas = space.project(space.denormalize((1 - spread) * space.normalize(space.initial) + spread * numbers))
    return generator.scene(betas, torch.arange(first_seed, first_seed + count))


@pytest.fixture(scope="module")
def scenes() -> Scene:
    return random_scenes(300)


@pytest.fixture(scope="module")
def analytic(scenes: Scene) -> Frame:
    return AnalyticRenderer(SIZE)(scenes)


def scene_of(*objects: dict[str, object]) -> Scene:
    """White objects lit from the viewer, from the fields given: kind, size, and others as needed."""
    rows = []
    for fields in objects:
        leaves = len(fields["kind"])
        defaults = {
            "linear": torch.eye(3).repeat(leaves, 1, 1),
            "offset": torch.zeros(leaves, 3),
            "operator": torch.zeros(leaves - 1, dtype=torch.int64),
            "light": torch.tensor([0.0, 0.0, 1.0]),
            "ambient": torch.tensor(0.2),
            "wave": torch.zeros(1, 3),
            "phase": torch.zeros(1),
            "texture": torch.tensor(0.0),
            "exposure": torch.tensor(1.0),
            "contrast": torch.tensor(1.0),
        }
        rows.append({**defaults, **{name: torch.as_tensor(value) for name, value in fields.items()}})
    return Scene(**{f.name: torch.stack([row[f.name] for row in rows]) for f in dataclasses.fields(Scene)})


def box(half: float) -> list[float]:
    return [half, 0.0, 0.0]


def angles(a: Frame, b: Frame) -> Tensor:
    """Degrees between the normals of two frames where both see a surface."""
    cross = torch.linalg.cross(a.normal, b.normal, dim=1).norm(dim=1)
    return torch.rad2deg(torch.atan2(cross, (a.normal * b.normal).sum(1)))[(a.mask * b.mask)[:, 0] > 0]


def difference(a: Tensor, b: Tensor, frames: tuple[Frame, Frame]) -> Tensor:
    return (a - b).abs()[(frames[0].mask * frames[1].mask) > 0]


def silhouette(a: Frame, b: Frame) -> Tensor:
    """Pixels that only one of two frames covers, for each object."""
    return (a.mask != b.mask).flatten(1).sum(1).double()


def rows(frame: Frame, where: slice) -> Frame:
    return Frame(frame.image[where], frame.normal[where], frame.depth[where], frame.mask[where])


def assert_agreement(a: Frame, b: Frame, *, image_outliers: float) -> None:
    """Agreement of any two routes on random trees, the meshes with 128 segments, at 64 px.

    Measured against analytic (mesh, pyrender): 0.34, 0.45 silhouette pixels of 4,096 an object, 6 at most; 99th
    percentiles of the normals 1.9, 2.0 degrees, of depth 0.0025, 0.0028, of the image 0.016, 0.018. Pixels further off
    lie on creases and shadow edges: 1.6e-4, 1.8e-4 of the normals by more than 5 degrees; 1.9e-4, 8.1e-4 of the image
    by more than 0.05 (a shadow map has edges of its own). With 256 segments: 0.06 pixels, 0.9 degrees, depth 0.0006.
    """
    assert silhouette(a, b).mean() < 0.6
    assert silhouette(a, b).max() <= 12
    angle, depth, image = angles(a, b), difference(a.depth, b.depth, (a, b)), difference(a.image, b.image, (a, b))
    assert len(angle) > 100 * len(a.mask)  # there was something to compare
    assert angle.quantile(0.99) < 2.5
    assert (angle > 5).double().mean() < 5e-4
    assert depth.quantile(0.99) < 4e-3
    assert (depth > 0.05).double().mean() < 1e-4
    assert image.quantile(0.99) < 0.025
    assert (image > 0.05).double().mean() < image_outliers


def test_mesh_route_agrees_with_analytic(scenes: Scene, analytic: Frame) -> None:
    assert_agreement(analytic, MeshRenderer(SIZE)(scenes), image_outliers=5e-4)


def test_pyrender_agrees_with_analytic(scenes: Scene, analytic: Frame, opengl: None) -> None:
    some = slice(0, 300, 3)
    assert_agreement(rows(analytic, some), PyrenderRenderer(SIZE)(scenes[some]), image_outliers=2e-3)


def test_meshes_converge_to_analytic_with_second_order(scenes: Scene, analytic: Frame) -> None:
    some = slice(0, 300, 6)
    exact = rows(analytic, some)
    coarse, fine = (MeshRenderer(SIZE, segments=n)(scenes[some]) for n in (32, 128))
    depth = [difference(exact.depth, m.depth, (exact, m)).quantile(0.99) for m in (coarse, fine)]
    angle = [angles(exact, m).quantile(0.99) for m in (coarse, fine)]
    assert depth[0] / depth[1] > 10  # chords: 16
    assert angle[0] / angle[1] > 3  # facets: 4


@pytest.mark.parametrize("name", ["mesh", "pyrender"])
def test_flat_solids_agree_to_rounding(name: str, scenes: Scene, request: pytest.FixtureRequest) -> None:
    if name == "pyrender":
        request.getfixturevalue("opengl")
    some = scenes[:100]
    kind = torch.where(some.kind == SPHERE, CUBE, torch.where(some.kind == CONE, TETRAHEDRON, some.kind))
    flat = dataclasses.replace(some, kind=kind)
    a, b = AnalyticRenderer(SIZE)(flat), ROUTES[name](SIZE)(flat)
    # What is left are pixels whose centres lie on an edge, to single precision (mesh: measured none of 409,600) or to
    # OpenGL's 1/256 of a pixel (0.09 an object).
    assert silhouette(a, b).mean() < (0.02 if name == "mesh" else 0.2)
    assert angles(a, b).quantile(0.999) < 1e-3
    assert difference(a.depth, b.depth, (a, b)).quantile(0.999) < 1e-5


def test_frames_have_the_promised_form(route: type[Renderer], scenes: Scene) -> None:
    frame = route(24)(scenes[:20])
    for tensor, channels in ((frame.image, 1), (frame.normal, 3), (frame.depth, 1), (frame.mask, 1)):
        assert tensor.shape == (20, channels, 24, 24)
        assert tensor.dtype == torch.float32
        assert (tensor * (1 - frame.mask) == 0).all()
    inside = frame.mask[:, 0] == 1
    assert ((frame.mask == 0) | (frame.mask == 1)).all()
    assert torch.allclose(frame.normal.norm(dim=1)[inside], torch.ones(()), atol=1e-5)
    assert (frame.normal[:, 2][inside] > -1e-4).all()
    assert frame.image.min() >= 0
    assert frame.image.max() <= 1


def test_resized_is_the_same_renderer_with_another_size(route: type[Renderer], scenes: Scene) -> None:
    for shadows in (True, False):
        there, back = route(40, shadows), route(8, shadows).resized(40)
        assert (back.size, back.shadows) == (40, shadows)
        assert torch.equal(back(scenes[:4]).image, there(scenes[:4]).image)
    with pytest.raises(ValueError, match="at least 1 pixel, not 0"):
        route(8).resized(0)


def test_same_bits_again_and_in_any_batch(route: type[Renderer], scenes: Scene) -> None:
    renderer = route(32)
    whole, again, part = renderer(scenes[:12]), renderer(scenes[:12]), renderer(scenes[5:8])
    for name in ("image", "normal", "depth", "mask"):
        assert torch.equal(getattr(whole, name), getattr(again, name))
        assert torch.equal(getattr(whole, name)[5:8], getattr(part, name))


def test_sphere_in_closed_form(route: type[Renderer]) -> None:
    centre, radius = torch.tensor([0.15, -0.2, 0.3]), 0.6
    light = torch.tensor([0.6, 0.0, 0.8])
    scene = scene_of({"kind": [SPHERE], "size": [[radius, 0.0, 0.0]], "offset": centre[None], "light": light})
    frame = route(48)(scene)
    x, y = (c.reshape(48, 48) for c in pixel_centres(48))
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    inner = square < (0.98 * radius) ** 2
    assert torch.equal(frame.mask[0, 0] > 0, square < radius**2)
    point = torch.stack([x, y, centre[2] + (radius**2 - square).clamp(min=0).sqrt()])
    assert ((frame.depth[0, 0] - point[2]).abs()[inner] < 2e-3).all()
    normal = (point - centre[:, None, None]) / radius
    assert ((frame.normal[0] - normal).norm(dim=0)[inner] < math.radians(2.5)).all()
    image = 0.2 + 0.8 * (light[:, None, None] * normal).sum(0).clamp(min=0)
    assert ((frame.image[0, 0] - image).abs()[inner] < 0.03).all()


def test_cube_seen_face_on(route: type[Renderer]) -> None:
    scene = scene_of({"kind": [CUBE], "size": [box(0.5)]})
    frame = route(48)(scene)
    x, y = (c.reshape(48, 48) for c in pixel_centres(48))
    mask = ((x.abs() < 0.5) & (y.abs() < 0.5)).float()
    assert torch.equal(frame.mask[0, 0], mask)
    assert torch.allclose(frame.depth[0, 0], 0.5 * mask, atol=1e-6)
    assert torch.allclose(frame.normal[0], torch.tensor([0.0, 0.0, 1.0])[:, None, None] * mask, atol=1e-6)
    assert torch.allclose(frame.image[0, 0], mask, atol=1e-6)


@pytest.mark.parametrize("shadows", [True, False])
def test_shadow_in_closed_form(route: type[Renderer], shadows: bool) -> None:
    """A box of half edge 0.2 floats 0.4 above a floor at z = 0; light falls in from the right at 45 degrees."""
    floor = torch.diag(torch.tensor([1.0, 1.0, 0.05]))
    scene = scene_of(
        {
            "kind": [CUBE, CUBE],
            "size": [box(0.9), box(0.2)],
            "linear": torch.stack([floor, torch.eye(3)]),
            "offset": [[0.0, 0.0, -0.045], [0.0, 0.0, 0.6]],
            "light": torch.tensor([1.0, 0.0, 1.0]) / math.sqrt(2),
        }
    )
    frame = route(SIZE, shadows=shadows)(scene)
    x, y = (c.reshape(SIZE, SIZE) for c in pixel_centres(SIZE))
    shadow = (x > -1.0) & (x < -0.2) & (y.abs() < 0.2)
    bright, dark = 0.2 + 0.8 / math.sqrt(2), 0.2
    expected = torch.where(shadow, dark, bright) if shadows else torch.full_like(x, bright)
    pixel = 2 / SIZE
    on_floor = torch.maximum(x.abs(), y.abs()) < 0.9
    clear = ((y.abs() - 0.2).abs() > pixel) & ((x + 0.2).abs() > pixel) & on_floor
    assert int((shadow & clear).sum()) > 100
    assert torch.allclose(frame.image[0, 0][clear], expected[clear], atol=1e-4)


def test_empty_solid_has_an_empty_frame(route: type[Renderer]) -> None:
    nothing = {"kind": [CUBE, CUBE], "size": [box(0.3), box(0.5)], "operator": [DIFFERENCE]}
    something = {"kind": [CUBE, CUBE], "size": [box(0.5), box(0.3)], "operator": [DIFFERENCE]}
    frame = route(16)(scene_of(nothing, something))
    for tensor in (frame.image, frame.normal, frame.depth, frame.mask):
        assert (tensor[0] == 0).all()
    assert frame.mask[1].sum() == 64


# Meshes and files.


def test_meshes_are_watertight(scenes: Scene) -> None:
    for i in range(0, 300, 3):
        mesh = object_mesh(scenes, i, segments=32)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0


def test_mesh_volumes_in_closed_form() -> None:
    r0, r1, h = 0.5, 0.2, 0.4
    cone = {"kind": [CONE], "size": [[r0, r1, h]]}
    tetrahedron = {"kind": [TETRAHEDRON], "size": [box(0.7)], "linear": torch.diag(torch.tensor([1.0, 2.0, 0.5]))[None]}
    assert object_mesh(scene_of(cone), 0, 256).volume == pytest.approx(
        math.pi / 3 * 2 * h * (r0**2 + r0 * r1 + r1**2), rel=1e-3
    )
    assert object_mesh(scene_of(tetrahedron), 0).volume == pytest.approx(0.7**3 / (6 * math.sqrt(2)), rel=1e-6)
    hollow = {"kind": [CUBE, SPHERE], "size": [box(0.5), box(0.4)], "operator": [DIFFERENCE]}
    assert object_mesh(scene_of(hollow), 0, 256).volume == pytest.approx(1 - 4 / 3 * math.pi * 0.4**3, rel=1e-3)


@pytest.mark.parametrize(
    ("operator", "halves", "volume"),
    [
        # Cubes around one centre; the tree is (a . b) . (c . d) with the operators in heap order.
        ([DIFFERENCE, UNION, DIFFERENCE], [0.5, 0.4, 0.3, 0.1], 1 - (0.216 - 0.008)),
        ([UNION, DIFFERENCE, DIFFERENCE], [0.5, 0.4, 0.3, 0.1], 1 - 0.512 + 0.216 - 0.008),
        ([DIFFERENCE, DIFFERENCE, UNION], [0.5, 0.2, 0.3, 0.4], 1 - 0.512),
        ([DIFFERENCE, DIFFERENCE, UNION], [0.5, None, 0.3, None], 1 - 0.216),
        ([UNION, DIFFERENCE, DIFFERENCE], [0.3, None, None, 0.5], 0.216),
    ],
)
def test_trees_in_closed_form(operator: list[int], halves: list[float | None], volume: float) -> None:
    scene = scene_of(
        {
            "kind": [EMPTY if half is None else CUBE for half in halves],
            "size": [box(half or 0.0) for half in halves],
            "operator": operator,
        }
    )
    assert object_mesh(scene, 0).volume == pytest.approx(volume, rel=1e-6)


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_written_mesh_reads_back(suffix: str, scenes: Scene, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "shape" + suffix)
    for i in (0, 299):
        mesh = object_mesh(scenes, i, segments=32)
        mesh.export(path)
        back = trimesh.load_mesh(path)
        assert back.volume == pytest.approx(mesh.volume, rel=1e-4)
        assert np.allclose(back.bounds, mesh.bounds, atol=1e-5)
        assert back.is_watertight


def test_objects_without_a_solid_are_named() -> None:
    good = {"kind": [CUBE, CUBE], "size": [box(0.5), box(0.3)]}
    empty = {"kind": [CUBE, CUBE], "size": [box(0.3), box(0.5)], "operator": [DIFFERENCE]}
    broken = {"kind": [SPHERE, CUBE], "size": [box(math.nan), box(0.5)]}
    scene = scene_of(good, empty, broken)
    with pytest.raises(RenderError, match="object 1 has no solid"):
        object_mesh(scene, 1)
    with pytest.raises(RenderError, match=r"object 2 cannot be built: the primitive in leaf slot 0 .*finite"):
        object_mesh(scene, 2)
    with pytest.raises(RenderError, match="object 2 cannot be built"):
        MeshRenderer(16)(scene)


# OpenGL and its library.


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYOPENGL_PLATFORM", "PYGLET_HEADLESS")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**clean, **environment}, capture_output=True, text=True
    )


def test_opengl_is_imported_late() -> None:
    done = python(
        "import sys, hgenv.rendering.csg.gl, hgenv.rendering.csg.mesh\n"
        "assert not {'OpenGL', 'pyrender', 'pyglet'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_renderers_are_imported_when_they_are_asked_for() -> None:
    done = python(
        "import sys\n"
        "from hgenv import datasets, generators\n"
        "from hgenv.rendering import csg\n"
        "csg.AnalyticRenderer(8), generators.ShapeGenerator(), generators.QuadraticGenerator()\n"
        "assert not {'numba', 'embreex', 'manifold3d', 'trimesh', 'OpenGL', 'cv2', 'scipy'} & set(sys.modules)\n"
        "csg.MeshRenderer(8)\n"
        "assert 'embreex' in sys.modules and 'OpenGL' not in sys.modules\n"
        "try:\n"
        "    csg.PovrayRenderer\n"
        "except AttributeError as error:\n"
        "    assert 'PovrayRenderer' in str(error)\n"
        "else:\n"
        "    sys.exit(1)\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", ["EGL", "GL"])
def test_missing_library_is_named_with_its_cure(library: str) -> None:
    done = python(
        "import ctypes, ctypes.util\n"
        "load, find = ctypes.CDLL.__init__, ctypes.util.find_library\n"
        "def refuse(self, name, *rest, **options):\n"
        f"    if name and str(name).removeprefix('lib').split('.')[0] == {library!r}:\n"
        "        raise OSError(f'{name}: cannot open shared object file')\n"
        "    load(self, name, *rest, **options)\n"
        "ctypes.CDLL.__init__ = refuse\n"
        f"ctypes.util.find_library = lambda name: None if name == {library!r} else find(name)\n"
        "from hgenv.rendering.csg.gl import PyrenderRenderer\n"
        "PyrenderRenderer(16)\n"
    )
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("hgenv.problem.RenderError"), done.stderr
    assert "apt-get install libegl1 libgl1" in message
    assert "`analytic` or `mesh`" in message


def test_another_platform_is_refused() -> None:
    done = python("from hgenv.rendering.csg import PyrenderRenderer; PyrenderRenderer(16)", PYOPENGL_PLATFORM="osmesa")
    message = done.stderr.strip().splitlines()[-1]
    assert "RenderError: PYOPENGL_PLATFORM is 'osmesa'" in message
    assert "set it to egl" in message


def test_forked_child_is_told_to_spawn(opengl: None) -> None:
    done = python(
        "import os\n"
        "from hgenv.rendering.csg.gl import PyrenderRenderer\n"
        "from hgenv.problem import RenderError\n"
        "PyrenderRenderer(16)\n"
        "if os.fork():\n"
        "    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "try:\n"
        "    PyrenderRenderer(16)\n"
        "except RenderError as error:\n"
        "    os._exit(7 if 'spawn' in str(error) else 8)\n"
    )
    assert done.returncode == 7, done.stderr


def test_context_is_released_and_reopened(scenes: Scene, opengl: None) -> None:
    renderer, other = PyrenderRenderer(24), PyrenderRenderer(16)
    before = renderer(scenes[:3])
    other(scenes[:3])
    PyrenderRenderer.close()
    PyrenderRenderer.close()
    assert torch.equal(renderer(scenes[:3]).image, before.image)
    assert other(scenes[:1]).mask.any()
