"""The generator of shapes as a whole: its light, its sizes, its meshes. The grammar has tests of its own."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from omegaconf import OmegaConf

from hgenv.generators import FaceGenerator, QuadraticGenerator, ShapeGenerator
from hgenv.problem import RenderError
from hgenv.rendering.csg import AnalyticRenderer, MeshRenderer

SEEDS = torch.arange(12)


def samples(generator: ShapeGenerator) -> tuple[torch.Tensor, ...]:
    return generator(generator.space.initial.expand(len(SEEDS), -1), SEEDS).tensors


def test_light_may_come_as_lists_and_numbers_of_a_configuration() -> None:
    plain = ShapeGenerator(AnalyticRenderer(32), light={"light": (0.3, -0.2), "ambient": (0.5,)})
    settings = OmegaConf.create({"light": [0.3, -0.2], "ambient": 0.5})
    for light in (settings, OmegaConf.to_container(settings)):
        generator = ShapeGenerator(AnalyticRenderer(32), light=light)
        assert all(torch.equal(a, b) for a, b in zip(samples(generator), samples(plain), strict=True))
        lit = ShapeGenerator(lit=True, light=light).space
        assert lit.initial[lit.slice("light")].tolist() == [0.3, -0.2]
        assert lit.initial[lit.slice("ambient")].tolist() == [0.5]
    assert not torch.equal(samples(plain)[0], samples(ShapeGenerator(AnalyticRenderer(32)))[0])
    assert torch.equal(samples(ShapeGenerator(light={}))[0], samples(ShapeGenerator())[0])


@pytest.mark.parametrize(
    ("light", "message"),
    [
        ({"lamp": 1.0}, "light has no lamp; it knows light, light_spread"),
        ({"light": [0.1, 0.2, 0.3]}, "light's light takes 2 numbers, not 3"),
        ({"ambient": 1.5}, "block 'ambient': needs finite low < high and low <= initial <= high"),
    ],
)
def test_light_that_there_is_not(light: dict[str, float | list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeGenerator(light=light)


def test_depths_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="depth must be between 0 and 5"):
        ShapeGenerator(depth=6)


def test_other_sizes_show_the_same_objects() -> None:
    small = ShapeGenerator(AnalyticRenderer(32, shadows=False), depth=2, lit=True)
    large = small.resized(96)
    assert (large.renderer.size, large.renderer.shadows, small.renderer.size) == (96, False, 32)
    again = ShapeGenerator(AnalyticRenderer(96, shadows=False), depth=2, lit=True)
    assert all(torch.equal(a, b) for a, b in zip(samples(large), samples(again), strict=True))
    # A pixel of the small frame is sampled where the middle one of nine of the large frame is.
    for a, b in zip(samples(small), samples(large), strict=True):
        assert ((a - b[..., 1::3, 1::3]).abs() > 1e-3).float().mean() < 1e-3


def test_the_mesh_is_the_object_that_is_seen(tmp_path: Path) -> None:
    generator = ShapeGenerator(AnalyticRenderer(64), depth=2)
    beta = generator.space.initial
    mesh = generator.mesh(beta, 7)
    assert mesh.is_watertight
    assert len(generator.mesh(beta, 7, segments=16).faces) < len(mesh.faces)
    frame = generator.frame(beta[None], torch.tensor([7]))
    assert mesh.vertices[:, 2].max() == pytest.approx(float(frame.depth.max()), abs=0.05)
    mesh.export(tmp_path / "shape.glb")
    assert np.allclose(trimesh.load_mesh(tmp_path / "shape.glb").bounds, mesh.bounds, atol=1e-5)


def test_an_object_that_cannot_be_rendered_is_named_by_its_seed() -> None:
    class Blind(AnalyticRenderer):
        def __call__(self, scene):  # type: ignore[no-untyped-def]
            frame = super().__call__(scene)
            return type(frame)(*(x * 0 for x in (frame.image, frame.normal, frame.depth, frame.mask)))

    generator = ShapeGenerator(Blind(16))
    with pytest.raises(RenderError, match="sample seed 5: the object covers less than"):
        generator(generator.space.initial[None], torch.tensor([5]))


def test_what_is_exact_is_said() -> None:
    assert ShapeGenerator().pathwise == ()
    assert ShapeGenerator(lit=True).pathwise[:2] == ("light", "light_spread")
    assert QuadraticGenerator().pathwise == ("position", "spread")
    assert FaceGenerator.pathwise == ("texture_mean", "texture_spread")


def test_any_renderer_will_do() -> None:
    ours, theirs = (samples(ShapeGenerator(make(24))) for make in (AnalyticRenderer, MeshRenderer))
    assert (ours[2] != theirs[2]).float().mean() < 0.01


def test_meshes_without_their_libraries_name_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "hgenv.rendering.csg.mesh", raising=False)
    monkeypatch.setitem(sys.modules, "embreex.rtcore", None)
    generator = ShapeGenerator(AnalyticRenderer(16))
    with pytest.raises(RenderError, match=r"meshes need the module embreex.rtcore: pip install 'hgenv\[mesh\]'"):
        generator.mesh(generator.space.initial, 0)
