"""Held-out heads: how they are framed and shared out, their files, and what is said of damaged ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import trimesh

from hgenv.datasets import heads
from hgenv.datasets.folder import DataError
from hgenv.datasets.heads import FINE, LIGHTS, POSES, Head, load_basel, load_relatives, load_scans, load_standin, render
from hgenv.datasets.standin_faces import face_grid, relief
from hgenv.rendering.framing import FIT
from hgenv.rendering.surfaces import CAMERA

DATA = Path(os.environ.get("HGENV_DATA", Path(__file__).parents[3] / "shared" / "data"))
EACH = len(POSES) * len(LIGHTS)


def test_standin() -> None:
    validation, test = (load_standin(split, size=32) for split in heads.SPLITS)
    for found in (validation, test):
        assert "stand-in" in found.label
        assert len(found) == 2 * EACH
        assert found.samples.image.shape == (2 * EACH, 3, 32, 32)
        assert found.samples.target.shape == found.samples.mask.shape == (2 * EACH, 1, 32, 32)
        assert torch.bincount(found.head).tolist() == [EACH, EACH]
        image, target, mask = found.samples.tensors
        assert ((mask == 0) | (mask == 1)).all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert (image * (1 - mask) == 0).all()
        assert (target * (1 - mask) == 0).all()
        assert (target[mask > 0] - CAMERA).abs().max() < 1
        # The longer side of the bounding rectangle spans FIT of the frame.
        rows, columns = mask.amax(3).sum((1, 2)), mask.amax(2).sum((1, 2))
        assert ((torch.maximum(rows, columns) / 32 - FIT).abs() < 2 / 32 + 1e-6).all()
    assert not set(validation.names) & set(test.names)
    assert torch.equal(load_standin("test", size=32).samples.image, test.samples.image)


def test_poses_and_lights_are_what_they_are_called() -> None:
    found = load_standin("validation", size=48)
    image, target, _ = found.samples[:EACH].tensors
    grey = image.mean(1)
    halves = grey[..., :24].sum((1, 2)) / grey[..., 24:].sum((1, 2))
    straight = POSES.index((0.0, 0.0)) * len(LIGHTS)
    front, left, right = halves[straight : straight + 3].tolist()
    assert left > 1.5 > front > 1 / 1.5 > right
    # Where the nose is: the nearest point of the face goes to the side that it turns to.
    nearest = torch.where(target > 0, target, 9.0).flatten(1).argmin(1) % 48
    turned = {yaw: nearest[i * len(LIGHTS)].item() for i, (yaw, pitch) in enumerate(POSES) if pitch == 0}
    assert [turned[yaw] for yaw in sorted(turned)] == sorted(turned.values())
    assert len(set(turned.values())) == 3


def test_fine_points_are_averaged_over_the_face_alone() -> None:
    grid, triangles = face_grid(60)
    vertices = relief(grid).astype(np.float64)
    white = Head("white", vertices, triangles, np.ones_like(vertices), vertices[vertices[:, 2].argmax()])
    found = render([white], 24, "test")
    fine = render([white], 24 * FINE, "test")
    # The depth of a pixel is the mean of those of its points: compare with a render of that resolution.
    share = torch.nn.functional.avg_pool2d(fine.samples.mask, FINE)
    depth = torch.nn.functional.avg_pool2d(fine.samples.target, FINE) / share.clamp(min=1e-6)
    whole = (share == 1) & (found.samples.mask > 0)
    assert whole.float().mean() > 0.2
    torch.testing.assert_close(found.samples.target[whole], depth[whole], rtol=0, atol=2e-2)
    assert found.samples.image[(found.samples.mask > 0).expand(-1, 3, -1, -1)].min() > 0.2  # nothing of the background


def write_scan(path: Path, stretch: float) -> None:
    grid, triangles = face_grid(40)
    vertices = 1000 * relief(grid) * np.array([stretch, 1, 1])
    colours = np.full((len(vertices), 4), (200, 150, 130, 255), np.uint8)
    trimesh.Trimesh(vertices, triangles, vertex_colors=colours, process=False).export(path)


def test_basel_scans(tmp_path: Path) -> None:
    for i in range(5):
        write_scan(tmp_path / f"{i:05d}_face05.ply", 0.9 + 0.05 * i)
    validation, test = (load_basel(tmp_path, split, size=32) for split in heads.SPLITS)
    assert validation.names == ("00000_face05", "00002_face05", "00004_face05")
    assert test.names == ("00001_face05", "00003_face05")
    assert not torch.equal(test.samples.mask[:EACH], test.samples.mask[EACH:])
    # Brightest where it is lit straight on: the colour itself.
    assert test.samples.image.amax((0, 2, 3)).tolist() == pytest.approx([200 / 255, 150 / 255, 130 / 255], abs=0.03)


def test_damaged_basel_scans(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two are the least"):
        load_basel(tmp_path, "test")
    for i in range(2):
        write_scan(tmp_path / f"{i}.ply", 1)
    broken = tmp_path / "1.ply"
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(DataError, match=r"1.ply: (truncated|holds no triangles)"):
        load_basel(tmp_path, "test")
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"1.ply: (truncated|holds no triangles)"):
        load_basel(tmp_path, "test")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unknown split 'train'"):
        load_standin("train")
    with pytest.raises(ValueError, match="positive number of pixels"):
        load_standin("test", size=0)
    far = Head("far", np.eye(3) * 1e6, np.array([[0, 1, 2]]), np.ones((3, 3)), np.zeros(3))
    with pytest.raises(DataError, match=r"'far'.*millimetres"):
        render([far], 16, "test")


def template(folder: Path, **changes: np.ndarray) -> None:
    grid, triangles = face_grid(40)
    vertices = relief(grid)
    content = {
        "vertices": vertices,
        "faces": triangles,
        "vertex_rgb": np.full(vertices.shape, 120, np.uint8),
        "landmarks": vertices[[vertices[:, 2].argmax()]],
    }
    for sex in ("female", "male"):
        np.savez(folder / f"template_{sex}.npz", **(content | changes))


def test_damaged_scans(tmp_path: Path) -> None:
    folder = tmp_path / "bowman_face3d_templates"
    with pytest.raises(DataError, match=r"template_female.npz: there is no such file"):
        load_scans(tmp_path, "validation")
    folder.mkdir()
    template(folder)
    assert load_scans(tmp_path, "validation", size=16).names == ("template_female", "template_male")
    for change, message in (
        ({"faces": np.array([[0, 1, 99999]])}, "point at none"),
        ({"vertices": np.zeros((5, 2))}, "are no mesh"),
        ({"vertex_rgb": np.zeros((5, 3), np.uint8)}, "do not fit"),
    ):
        template(folder, **change)
        with pytest.raises(DataError, match=message):
            load_scans(tmp_path, "validation", size=16)
    with pytest.raises(DataError, match=r"LeePerrySmith.obj: there is no such file"):
        load_scans(tmp_path, "test")
    scan = tmp_path / "lee_perry_smith"
    scan.mkdir()
    (scan / "LeePerrySmith.obj").write_text("v 1 2\nf 1 2 3\n")
    with pytest.raises(DataError, match=r"LeePerrySmith.obj"):
        load_scans(tmp_path, "test")


@pytest.mark.skipif(not (DATA / "faces" / "scans").is_dir(), reason="needs the shared data: faces/scans")
def test_scans_themselves() -> None:
    validation, test = (load_scans(DATA, split, size=32) for split in heads.SPLITS)
    assert validation.names == ("template_female", "template_male")
    assert test.names == ("perry_smith", "humface")
    for found in (validation, test):
        _, target, mask = found.samples.tensors
        assert 0.2 < mask.mean() < 0.7
        # Seen straight on, the nose is nearest to the camera, near the middle of the frame.
        straight = POSES.index((0.0, 0.0)) * len(LIGHTS)
        for first in (0, EACH):
            nose = torch.where(target > 0, target, 9.0)[first + straight].argmin().item()
            assert abs(nose % 32 - 15.5) < 4
            assert abs(nose // 32 - 15.5) < 8
    # One of them has no colours of its own.
    plain = test.samples.image[EACH:]
    assert plain[:, 0].sum() > plain[:, 2].sum()


@pytest.mark.skipif(not (DATA / "faces" / "scans").is_dir(), reason="needs the shared data: faces/scans")
def test_relatives_of_scans() -> None:
    validation, test = (load_relatives(DATA, split, size=16) for split in heads.SPLITS)
    assert len(validation.names) == len(test.names) == len(set(validation.names + test.names)) / 2 == 5
    assert all(name.startswith("warped") for name in (*validation.names[2:], *test.names[2:]))
    assert torch.equal(validation.samples.image[: 2 * EACH], load_scans(DATA, "validation", size=16).samples.image)


def test_a_relative_is_another_face_of_the_same_size() -> None:
    grid, triangles = face_grid(40)
    places = relief(grid)
    scan = Head("scan", places, triangles, np.full_like(places, 0.5), places[places[:, 2].argmax()])
    first, second, again = (heads._relative(scan, 0, [0, n]) for n in (0, 1, 0))
    assert np.array_equal(first.vertices, again.vertices)
    for made in (first, second):
        moved = np.linalg.norm(made.vertices - scan.vertices, axis=1)
        assert 2 < np.median(moved) < 20  # millimetres
        assert (np.abs(np.ptp(made.vertices, axis=0) / np.ptp(scan.vertices, axis=0) - 1) < 0.25).all()
        # Neighbours stay neighbours: no edge is torn or folded.
        edges = lambda v: np.linalg.norm(v[triangles[:, 0]] - v[triangles[:, 1]], axis=1)  # noqa: E731
        ratio = edges(made.vertices) / edges(scan.vertices)
        assert ratio.min() > 0.5
        assert ratio.max() < 2
    assert np.linalg.norm(first.vertices - second.vertices, axis=1).mean() > 2


def test_scans_without_colours(tmp_path: Path) -> None:
    grid, triangles = face_grid(20)
    for i in range(2):
        trimesh.Trimesh(1000 * relief(grid), triangles, process=False).export(tmp_path / f"{i}.ply")
    with pytest.raises(DataError, match="its colours"):
        load_basel(tmp_path, "test")


def write_textured(folder: Path) -> Path:
    """A face in metres with a texture of four colours, as the scan of Lee Perry-Smith is."""
    folder.mkdir(parents=True)
    grid, triangles = face_grid(30)
    lines = ["mtllib LeePerrySmith.mtl", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in relief(grid) / 1000)]
    lines += [f"vt {u:.4f} {v:.4f}" for u, v in (grid + 1) / 2]
    lines += ["usemtl skin", *("f " + " ".join(f"{i + 1}/{i + 1}" for i in t) for t in triangles)]
    (folder / "LeePerrySmith.obj").write_text("\n".join(lines) + "\n")
    (folder / "LeePerrySmith.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd Map-COL.jpg\n")
    colours = np.full((32, 32, 3), (40, 120, 220), np.uint8)  # blue, green, red
    cv2.imwrite(str(folder / "Map-COL.jpg"), colours)
    return folder


def test_colours_come_from_the_texture_also_behind_links(tmp_path: Path) -> None:
    folder = write_textured(tmp_path / "whole")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    for place in (folder, linked):
        head = heads._perry_smith(place)
        np.testing.assert_allclose(255 * head.colours.mean(0), (220, 120, 40), atol=2)
        assert np.ptp(head.vertices, axis=0).max() > 150  # millimetres


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("LeePerrySmith.mtl", Path.unlink, r"LeePerrySmith.mtl: there is no such file; LeePerrySmith.obj needs it"),
        ("Map-COL.jpg", Path.unlink, r"Map-COL.jpg: there is no such file, but LeePerrySmith.obj takes its colours"),
        ("Map-COL.jpg", lambda p: p.write_bytes(p.read_bytes()[:300]), "its colours, or the texture"),
        ("Map-COL.jpg", lambda p: p.write_bytes(b"no image"), "its colours, or the texture"),
        ("LeePerrySmith.mtl", lambda p: p.write_text("newmtl other\nmap_Kd Map-COL.jpg\n"), "'skin' has no texture"),
        ("LeePerrySmith.mtl", lambda p: p.write_text("newmtl skin\nKd 1 1 1\n"), "'skin' has no texture"),
        ("LeePerrySmith.obj", lambda p: replaced(p, "usemtl skin\n", ""), "names no material"),
        ("LeePerrySmith.obj", lambda p: replaced(p, "mtllib LeePerrySmith.mtl\n", ""), "'skin' has no texture"),
        ("LeePerrySmith.obj", lambda p: replaced(p, "usemtl", "f 1/1 2/2 3/3\nusemtl"), "before the first material"),
        ("LeePerrySmith.obj", lambda p: replaced(p, "mtllib ", "mtllib ../"), "is not beside it"),
        ("LeePerrySmith.obj", lambda p: replaced(p, "v 0.0", "v nan"), "LeePerrySmith.obj: "),
    ],
)
def test_colours_that_are_not_there_are_missed(
    tmp_path: Path, file: str, damage: Callable[[Path], object], message: str
) -> None:
    folder = write_textured(tmp_path / "scan")
    damage(folder / file)
    with pytest.raises(DataError, match=message):
        heads._perry_smith(folder)


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"vertex_rgb": c["vertex_rgb"] / 255}, "vertex_rgb is float64 where uint8"),
        (lambda c: {"vertices": c["vertices"] / 1000, "landmarks": c["landmarks"] / 1000}, "is it in millimetres"),
        (lambda c: {"vertices": c["vertices"] * np.nan}, "not finite"),
        (lambda c: {"faces": c["faces"] + 0.5}, "point at none"),
        (lambda c: {"faces": c["faces"][:0]}, "no mesh"),
        (lambda c: {"landmarks": c["landmarks"] * np.inf}, "landmarks are not finite"),
        (lambda c: {"landmarks": c["landmarks"] + 100}, "lies .* mm from the mesh"),
    ],
)
def test_templates_that_would_look_wrong_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = tmp_path / "bowman_face3d_templates"
    folder.mkdir()
    template(folder)
    with np.load(folder / "template_female.npz") as content:
        changes = change(dict(content))
    template(folder, **changes)
    with pytest.raises(DataError, match=rf"template_female.*{message}"):
        load_scans(tmp_path, "validation", size=16)


def test_numbers_of_other_types_that_are_the_same_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "bowman_face3d_templates"
    folder.mkdir()
    template(folder)
    before = load_scans(tmp_path, "validation", size=8).samples.image
    with np.load(folder / "template_female.npz") as content:
        swapped = {"vertices": content["vertices"].astype(">f8"), "faces": content["faces"].astype(float)}
    template(folder, **swapped)
    assert torch.equal(load_scans(tmp_path, "validation", size=8).samples.image, before)


def test_a_ply_file_that_announces_more_than_it_holds(tmp_path: Path) -> None:
    for i in range(2):
        write_scan(tmp_path / f"{i}.ply", 1)
    data = (tmp_path / "1.ply").read_bytes()
    (tmp_path / "1.ply").write_bytes(data.replace(b"element face ", b"element face 99999999", 1))
    with pytest.raises(DataError, match=r"1.ply: truncated or damaged: \d+ elements in"):
        load_basel(tmp_path, "test")
