"""Blender beside the mesh route, where there is one; and what is said of one that fails, by programs in its place."""

import copy
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from hgenv import RenderError
from hgenv.clocks import cpu_and_wall
from hgenv.generators import ShapeGenerator
from hgenv.rendering.csg import BlenderRenderer, MeshRenderer, Scene
from hgenv.rendering.csg.blender import VARIABLE

THERE = os.environ.get(VARIABLE) or shutil.which("blender")
needs_blender = pytest.mark.skipif(not THERE, reason=f"needs Blender, on the PATH or named by {VARIABLE}")


def objects(count: int) -> Scene:
    generator = ShapeGenerator(lit=True)
    return generator.scene(generator.space.initial.expand(count, -1), torch.arange(count))


@needs_blender
def test_fifty_frames_agree_with_the_mesh_route() -> None:
    scene, renderer = objects(50), BlenderRenderer(32)
    theirs, ours = MeshRenderer(32)(scene), renderer(scene)
    assert (ours.mask != theirs.mask).float().mean() < 1e-3
    seen = (ours.mask * theirs.mask)[:, 0] > 0
    angle = (ours.normal * theirs.normal).sum(1)[seen].clamp(-1, 1).acos().rad2deg()
    assert angle.quantile(0.99) < 0.2
    assert (ours.depth - theirs.depth)[:, 0][seen].abs().quantile(0.99) < 1e-3
    assert ((ours.image - theirs.image)[:, 0][seen].abs() > 0.01).float().mean() < 2e-3  # edges of shadows
    again = copy.deepcopy(renderer)
    small = renderer.resized(16)
    assert small(scene[:2]).mask.shape == (2, 1, 16, 16)
    assert torch.equal(again(scene[:2]).image, ours.image[:2])
    for each in (renderer, again):
        each.close()


@needs_blender
def test_blender_starts_again_after_its_end() -> None:
    scene, renderer = objects(1), BlenderRenderer(16)
    before = renderer(scene)
    assert renderer._blender is not None
    renderer._blender._process.kill()
    with pytest.raises(RenderError, match="Blender has ended"):
        renderer(scene)
    assert torch.equal(renderer(scene).image, before.image)
    renderer.close()


def program(folder: Path, code: str) -> str:
    """Something that is started in place of Blender."""
    path = folder / "python_in_place_of_blender"
    imports = "import io, os, sys, time\nimport numpy as np\nfrom multiprocessing.connection import Client\n"
    connect = "def connect(): return Client(sys.argv[-1], authkey=bytes.fromhex(os.environ['HGENV_BLENDER_KEY']))\n"
    path.write_text(f"#!{sys.executable}\n{imports}{connect}{code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('no display'); sys.exit(3)", r"Blender ended at once, saying: no display; install Blender"),
        ("time.sleep(100)", r"Blender has not started within 2 s; install Blender"),
        (
            "c = connect(); c.recv_bytes(); print('out of memory', flush=True); os._exit(1)",
            "Blender has ended .*out of",
        ),
        ("c = connect(); c.recv_bytes(); time.sleep(100)", "Blender has rendered for 2 s; it was ended"),
    ],
)
def test_a_blender_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    monkeypatch.setenv(VARIABLE, program(tmp_path, code))
    renderer = BlenderRenderer(16, timeout=2)
    with pytest.raises(RenderError, match=words):
        renderer(objects(1))
    assert renderer._blender is None


def test_what_is_sent_and_what_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A plane that faces the camera at z = 0.5 in the left half of the frame, in light from the camera.
    code = (
        "c = connect()\n"
        "while True:\n"
        "    try: asked = np.load(io.BytesIO(c.recv_bytes()))\n"
        "    except EOFError: break\n"
        "    assert asked['vertices'].shape[1] == asked['faces'].shape[1] == 3 and asked['light'].shape == (3,)\n"
        "    s = int(asked['size']); seen = np.zeros((s, s, 6), np.float32)\n"
        "    seen[:, : s // 2] = [1, 0, 0, 1, 0.5, asked['light'][2]]\n"
        "    c.send_bytes(np.float64(7).tobytes() + seen.tobytes())\n"
    )
    monkeypatch.setenv(VARIABLE, program(tmp_path, code))
    renderer, scene = BlenderRenderer(16), objects(2)
    before = cpu_and_wall()[0]
    frame = renderer(scene)
    assert 7 <= cpu_and_wall()[0] - before < 14  # it says that it has spent 7 seconds in all
    assert (frame.mask[..., :8] == 1).all()
    assert (frame.mask[..., 8:] == 0).all()
    assert (frame.normal[:, 2, :, :8] == 1).all()
    assert (frame.depth[..., :8] == 0.5).all()
    assert frame.image[..., :8].min() > 0.1
    process = renderer._blender._process  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(renderer))._blender is None
    renderer.close()
    assert process.poll() is not None


def test_without_blender_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RenderError, match=r"there is no Blender here; install Blender, and put it on the PATH"):
        BlenderRenderer(16)(objects(1))
    monkeypatch.setenv(VARIABLE, "no-such-program")
    with pytest.raises(RenderError, match="names 'no-such-program', which is no program"):
        BlenderRenderer(16)(objects(1))
