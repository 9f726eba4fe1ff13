"""Morphable models: the files they come in, what they say when a file is damaged, and what faces they make."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hgenv.datasets import basel, ict_facekit, morphable, standin_faces
from hgenv.datasets.folder import DataError
from hgenv.datasets.ict_facekit import FACE
from hgenv.datasets.morphable import RADIUS, MorphableModel, close_openings, cut

SHARED = Path(os.environ.get("HGENV_DATA", Path(__file__).parents[3] / "shared" / "data")) / "faces"
NAMES = [f"{name}_{side}" for name in ("brow", "blink", "smile", "frown", "puff") for side in "LR"] + ["jaw", "pucker"]


def grid_mesh(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A relief in centimetres of side**2 vertices, and its quadrilaterals."""
    grid, _ = standin_faces.face_grid(side)
    number = np.arange(side**2).reshape(side, side)
    quads = np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]], -1).reshape(-1, 4)
    return standin_faces.relief(grid) / 10, quads


def landmarks(vertices: np.ndarray) -> list[int]:
    found = [0] * 68
    found[morphable.IBUG_NOSE] = int(vertices[:, 2].argmax())
    return found


@pytest.fixture(scope="module")
def parts() -> dict[str, np.ndarray]:
    """A model in the form of ICT-FaceKit's light one, with as many vertices as its face has."""
    vertices, quads = grid_mesh(97)
    assert len(vertices) == FACE
    rng = np.random.default_rng(0)
    waves = np.sin(rng.normal(size=(12 + len(NAMES), 1, 3)) * vertices / 4 + rng.uniform(0, 6, (12 + len(NAMES), 1, 3)))
    return {
        "neutral": vertices,
        "faces": quads.astype(np.int32),
        "identity_deltas": (0.2 * waves[:12]).astype(np.float16),
        "expression_deltas": (0.5 * waves[12:]).astype(np.float16),
        "expression_names": np.array(NAMES),
    }


def write_packed(folder: Path, parts: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "ict_facekit_light_head11248.npz", **parts)
    write_indices(folder, parts)
    return folder


def write_indices(folder: Path, parts: dict[str, np.ndarray]) -> None:
    indices = {"idx_to_landmark_verts": landmarks(parts["neutral"]), "expressions": NAMES}
    (folder / "vertex_indices.json").write_text(json.dumps(indices))


def write_obj(path: Path, vertices: np.ndarray, quads: np.ndarray) -> None:
    lines = [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in vertices]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in quad) for quad in quads]
    path.write_text("\n".join(["# made", *lines]) + "\n")


def write_clone(root: Path, parts: dict[str, np.ndarray]) -> Path:
    folder = root / "FaceXModel"
    folder.mkdir(parents=True)
    neutral, quads = parts["neutral"], parts["faces"]
    write_obj(folder / "generic_neutral_mesh.obj", neutral, quads)
    for i, deltas in enumerate(parts["identity_deltas"].astype(np.float32)):
        write_obj(folder / f"identity{i:03d}.obj", neutral + deltas, quads[:0])
    for name, deltas in zip(NAMES, parts["expression_deltas"].astype(np.float32), strict=True):
        write_obj(folder / f"{name}.obj", neutral + deltas, quads[:0])
    write_indices(folder, parts)
    return root


def test_a_clone_and_the_packed_form_are_the_same_model(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    packed = ict_facekit.load(write_packed(tmp_path / "packed", parts))
    clone = ict_facekit.load(write_clone(tmp_path / "clone", parts))
    np.testing.assert_array_equal(packed.triangles, clone.triangles)
    for name in ("mean", "identity", "expression", "albedo", "texture"):
        np.testing.assert_allclose(getattr(packed, name), getattr(clone, name), atol=2e-3)
    assert len(packed.identity) == 12
    assert len(packed.expression) == 12
    # Without skins beside it, they are made.
    assert len(packed.texture) >= morphable.LEAST


def test_expression_modes_have_the_covariance_of_the_population(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    model = ict_facekit.load(write_packed(tmp_path, parts))
    shapes = 10 * parts["expression_deltas"].astype(np.float64)
    stem = [name.split("_")[0] for name in NAMES]
    correlation = np.array([[0.8 if a == b else 0.0 for a in stem] for b in stem]) + 0.2 * np.eye(len(NAMES))
    correlation[np.diag_indices(len(NAMES))] = 1
    # At single vertices, those that the cut has left; found by their place.
    neutral = 10 * parts["neutral"] + 0.12 * shapes.sum(0)
    for at in (100, 1500, 3000):
        vertex = int(np.linalg.norm(neutral - model.mean[at], axis=1).argmin())
        moves = shapes[:, vertex]  # (shapes, 3)
        expected = 0.15**2 * moves.T @ correlation @ moves
        modes = model.expression[:, at].astype(np.float64)
        np.testing.assert_allclose(modes.T @ modes, expected, rtol=2e-2, atol=1e-3)


def test_texture_modes_are_the_skins_principal_components() -> None:
    model = standin_faces.model()
    vertices = standin_faces.relief(standin_faces.face_grid(44)[0])
    skins = standin_faces.made_skins(vertices, 20, 0)
    mean, modes, limit = morphable.principal_textures(skins)
    flat = modes.reshape(len(modes), -1).astype(np.float64)
    gram = flat @ flat.T
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-6 * gram[0, 0])
    # Every skin is the mean and modes of at most the limits, and nothing is lost.
    coefficients = ((skins - mean).reshape(len(skins), -1) @ flat.T) / np.diag(gram)
    np.testing.assert_allclose(coefficients @ flat + mean.ravel(), skins.reshape(len(skins), -1), atol=1e-4)
    assert (np.abs(coefficients) <= limit * (1 + 1e-6)).all()
    np.testing.assert_allclose((coefficients**2).sum(0) / (len(skins) - 1), 1, rtol=1e-3)
    assert np.abs(modes[0]).mean() > 3 * np.abs(modes[1]).mean()  # the tone of the skin comes first
    assert len(model.texture) == len(limit)


def test_cut_keeps_what_is_near_the_nose() -> None:
    model = standin_faces.model()
    assert np.linalg.norm(model.mean - model.mean[model.nose], axis=1).max() <= RADIUS
    closer = cut(model, 40)
    assert np.linalg.norm(closer.mean - closer.mean[closer.nose], axis=1).max() <= 40
    np.testing.assert_array_equal(closer.mean[closer.nose], model.mean[model.nose])
    # Its triangles are triangles of the whole, corner by corner.
    there = {corners.tobytes() for corners in model.mean[model.triangles]}
    assert all(corners.tobytes() in there for corners in closer.mean[closer.triangles])
    with pytest.raises(DataError, match="millimetres"):
        cut(model, 0.001)


def test_openings_are_closed_and_the_outline_stays() -> None:
    model = standin_faces.model()
    eye = np.linalg.norm(model.mean[:, :2] - model.mean[model.nose, :2] - [30, 45], axis=1)
    open_eye = model.triangles[~(eye[model.triangles] < 9).any(1)]
    with_hole = MorphableModel(**{**vars(model), "triangles": open_eye})
    around = np.flatnonzero((eye > 9) & (eye < 16))
    closed = close_openings(with_hole, [around])
    loops = morphable.border_loops(closed.triangles)
    assert len(morphable.border_loops(open_eye)) == 2
    assert len(loops) == 1
    assert len(closed.mean) > len(model.mean)
    # It moves with what is around it, and is white around a dark middle.
    added = closed.identity[:, len(model.mean) :]
    assert np.abs(added).max() <= np.abs(model.identity).max()
    assert closed.albedo[-1].max() < 0.1
    assert closed.albedo[len(model.mean)].min() > 0.7
    assert np.abs(closed.texture[:, len(model.mean) :]).max() == 0
    # All triangles look the same way: an edge is never run through twice in one direction.
    edges = np.concatenate([closed.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    assert len(np.unique(edges, axis=0)) == len(edges)


# --- The Basel Face Model's form --------------------------------------------------------------------------------------


def basel_fields(clockwise: bool = True) -> dict[str, np.ndarray]:
    """A small made model as face3d writes it: micrometres, counted from 1."""
    grid, triangles = standin_faces.face_grid(25)
    vertices = 1000 * standin_faces.relief(grid).astype(np.float64)
    rng = np.random.default_rng(1)
    modes = rng.normal(size=(3, vertices.size, 11))
    points = landmarks(vertices)
    return {
        "shapeMU": (vertices - 50).reshape(-1, 1),
        "expMU": np.full((vertices.size, 1), 50.0),
        "texMU": rng.uniform(80, 200, (vertices.size, 1)),
        "shapePC": modes[0],
        "expPC": modes[1],
        "texPC": modes[2],
        "shapeEV": np.arange(1.0, 12)[:, None],
        "expEV": np.full((11, 1), 2.0),
        "texEV": np.full((11, 1), 3.0),
        "tri": (triangles[:-5, ::-1] if clockwise else triangles[:-5]).T + 1.0,
        "tri_mouth": (triangles[-5:, ::-1] if clockwise else triangles[-5:]).T + 1.0,
        "kpt_ind": np.array([points]) + 1.0,
    }


@pytest.mark.parametrize("clockwise", [True, False])
def test_basel_model(tmp_path: Path, clockwise: bool) -> None:
    fields = basel_fields(clockwise)
    scipy.io.savemat(tmp_path / "BFM.mat", {"model": fields})
    model = basel.load(tmp_path / "BFM.mat")
    grid, triangles = standin_faces.face_grid(25)
    vertices = standin_faces.relief(grid)
    assert len(model.triangles) <= len(triangles)
    at = int(np.linalg.norm(vertices - model.mean[model.nose], axis=1).argmin())
    np.testing.assert_allclose(model.mean[model.nose], vertices[at], atol=1e-3)
    modes = fields["shapePC"].reshape(-1, 3, 11)[at]
    np.testing.assert_allclose(model.identity[:, model.nose], 1e-3 * (modes * np.arange(1, 12)).T, rtol=1e-4)
    modes = fields["texPC"].reshape(-1, 3, 11)[at]
    np.testing.assert_allclose(model.texture[:, model.nose], 3 * modes.T / 255, rtol=1e-4)
    # They look out of the face.
    a, b, c = (model.mean[model.triangles[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).mean() > 0.95


def without(name: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda fields: {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("expPC"), "no field 'expPC'"),
        (lambda f: f | {"texMU": f["texMU"][:-3]}, "texMU has"),
        (lambda f: f | {"shapeEV": f["shapeEV"][:-1]}, "shapePC has shape"),
        (lambda f: f | {"kpt_ind": f["kpt_ind"] * 1e6}, "kpt_ind"),
        (lambda f: f | {"tri": f["tri"] + 1e5}, "point at vertices"),
        (lambda f: f | {"shapeMU": f["shapeMU"] * np.nan}, "not finite"),
        (lambda f: f | {"shapeMU": f["shapeMU"] / 1000}, "the face is .* is it in millimetres"),
        (lambda f: f | {"shapePC": f["shapePC"] * 1e6}, "a mode of identity goes as far as"),
        (lambda f: f | {"expEV": -f["expEV"]}, "expEV holds negative"),
        (lambda f: f | {"texMU": f["texMU"] / 255}, "texMU runs from"),
        (lambda f: f | {"texMU": f["texMU"] * 10}, "texMU runs from"),
        (lambda f: f | {"tri": f["tri"] + 0.5}, r"tri is not \(3, F\) whole numbers"),
        (lambda f: f | {"tri": f["tri"].T}, r"tri is not \(3, F\) whole numbers"),
        (lambda f: f | {"kpt_ind": f["kpt_ind"] + 0.5}, "kpt_ind"),
        (lambda f: f | {"kpt_ind": f["kpt_ind"][:, :5]}, "kpt_ind"),
        (lambda f: f | {"shapeEV": "many"}, "shapeEV holds what is no number"),
        (lambda f: f | {k: f[k][..., :9] for k in ("texPC",)} | {"texEV": f["texEV"][:9]}, "9 modes of texture"),
    ],
)
def test_damaged_basel_model(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], message: str
) -> None:
    scipy.io.savemat(tmp_path / "BFM.mat", {"model": change(basel_fields())})
    with pytest.raises(DataError, match=message):
        basel.load(tmp_path / "BFM.mat")


def test_no_basel_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file.*face3d"):
        basel.load(tmp_path / "BFM.mat")
    (tmp_path / "BFM.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(50))
    with pytest.raises(DataError, match="damaged"):
        basel.load(tmp_path / "BFM.mat")
    scipy.io.savemat(tmp_path / "BFM.mat", {"other": np.zeros(3)})
    with pytest.raises(DataError, match="no variable 'model'"):
        basel.load(tmp_path / "BFM.mat")


# --- Damage to ICT-FaceKit's files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("faces"), "holds no faces"),
        (lambda p: p | {"neutral": p["neutral"][:100]}, "9409 vertices"),
        (lambda p: p | {"identity_deltas": p["identity_deltas"][:, :100]}, "identity of shape"),
        (lambda p: p | {"expression_names": p["expression_names"][:3]}, "3 names"),
        (lambda p: p | {"identity_deltas": p["identity_deltas"][:4]}, "4 modes of identity"),
        (lambda p: p | {"identity_deltas": p["identity_deltas"] * np.float16(np.nan)}, "identity must be finite"),
        (lambda p: p | {"neutral": 10 * p["neutral"]}, "neutral must be finite numbers within 100 cm"),
        (lambda p: p | {"neutral": 0 * p["neutral"]}, "the neutral face is flat"),
        (lambda p: p | {"faces": p["faces"] + 0.5}, "faces are not quadrilaterals"),
        (lambda p: p | {"faces": p["faces"] - 1}, "faces are not quadrilaterals"),
        (lambda p: p | {"expression_names": np.array(["jaw"] * len(NAMES))}, "several expressions have one name"),
    ],
)
def test_damaged_packed_model(
    tmp_path: Path,
    parts: dict[str, np.ndarray],
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    message: str,
) -> None:
    write_packed(tmp_path, parts)
    np.savez(tmp_path / "ict_facekit_light_head11248.npz", **change(parts))
    with pytest.raises(DataError, match=message):
        ict_facekit.load(tmp_path)


def test_truncated_or_missing_files(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match="neither"):
        ict_facekit.load(tmp_path)
    folder = write_packed(tmp_path / "packed", parts)
    (folder / "vertex_indices.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        ict_facekit.load(folder)
    (folder / "vertex_indices.json").write_text('{"idx_to_landmark_verts": [1, 2]}')
    with pytest.raises(DataError, match="not 68 vertices"):
        ict_facekit.load(folder)
    for odd in ([[1, 2], [3]], [1.5] * 68, ["a"] * 68, [10**30] * 68, [None] * 68):
        (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": odd}))
        with pytest.raises(DataError, match="not whole numbers"):
            ict_facekit.load(folder)
    (folder / "vertex_indices.json").unlink()
    with pytest.raises(DataError, match="no such file"):
        ict_facekit.load(folder)
    packed = folder / "ict_facekit_light_head11248.npz"
    packed.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        ict_facekit.load(folder)


def test_damaged_clone(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    folder = write_clone(tmp_path, parts) / "FaceXModel"
    kept = (folder / "jaw.obj").read_text()
    (folder / "jaw.obj").write_text(kept[: len(kept) // 2].rsplit("\n", 1)[0])
    with pytest.raises(DataError, match=r"jaw.obj: \d+ vertices"):
        ict_facekit.load(tmp_path)
    (folder / "jaw.obj").write_text(kept.replace("v ", "v x", 1))
    with pytest.raises(DataError, match="not a Wavefront file"):
        ict_facekit.load(tmp_path)
    (folder / "jaw.obj").write_text(kept.replace("v ", "v 1 2\nv ", 1))  # two coordinates
    with pytest.raises(DataError, match="not a Wavefront file"):
        ict_facekit._read_obj(folder / "jaw.obj")
    indices = (folder / "vertex_indices.json").read_text()
    (folder / "vertex_indices.json").write_text(indices.replace('"jaw"', '"../../jaw"'))
    with pytest.raises(DataError, match="must be names of files beside it"):
        ict_facekit.load(tmp_path)
    (folder / "vertex_indices.json").write_text(indices)
    (folder / "identity003.obj").rename(folder / "identity099.obj")
    with pytest.raises(DataError, match=r"identity003.obj: there is no such file"):
        ict_facekit.load(tmp_path)
    (folder / "identity099.obj").rename(folder / "identity003.obj")
    (folder / "jaw.obj").unlink()
    with pytest.raises(DataError, match="the model is incomplete"):
        ict_facekit.load(tmp_path)


def test_damaged_skins(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    folder = write_packed(tmp_path / "model", parts)
    with pytest.raises(DataError, match="no such file"):
        ict_facekit.load(folder, tmp_path / "skins.npz")
    np.savez(tmp_path / "skins.npz", albedo_srgb=np.zeros((20, 5, 3), np.uint8))
    with pytest.raises(DataError, match="skins"):
        ict_facekit.load(folder, tmp_path / "skins.npz")


@pytest.mark.skipif(not (SHARED / "ict_facekit").is_dir(), reason="needs the shared data: faces/ict_facekit")
def test_ict_facekit_itself() -> None:
    model = ict_facekit.load(SHARED / "ict_facekit")
    assert len(model.identity) == 100
    assert len(model.texture) == 19
    assert model.landmarks is not None
    # A face of natural size with the nose in front, closed but for its outline.
    size = model.mean.max(0) - model.mean.min(0)
    assert 110 < size[0] < 170
    assert 140 < size[1] < 190
    assert model.mean[model.nose, 2] == pytest.approx(model.mean[:, 2].max(), abs=2)
    assert len(morphable.border_loops(model.triangles)) == 1
    assert 0.2 < model.albedo.mean() < 0.8


def test_skins_that_cannot_be_read_are_not_made_in_their_place(tmp_path: Path, parts: dict[str, np.ndarray]) -> None:
    folder = write_packed(tmp_path / "model", parts)
    (tmp_path / ict_facekit.ALBEDO).symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"{ict_facekit.ALBEDO}: there is no such file"):
        ict_facekit.load(folder)
    (tmp_path / ict_facekit.ALBEDO).unlink()
    assert ict_facekit.load(folder).label == "ICT-FaceKit with made skins"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"nose": len(m.mean)}, "the nose's tip is vertex"),
        (lambda m: {"mean": m.mean / 1000}, "is it in millimetres"),
        (lambda m: {"mean": m.mean[:, :2]}, "mean must be"),
        (lambda m: {"albedo": 255 * m.albedo}, "albedo must be colours from 0 to 1"),
        (lambda m: {"triangles": m.triangles.astype(float)}, "triangles must be"),
        (lambda m: {"texture": 255 * m.texture}, "a mode of texture goes as far as"),
    ],
)
def test_models_that_would_look_wrong_are_refused(change: Callable[[MorphableModel], dict], message: str) -> None:
    model = standin_faces.model(resolution=24)
    with pytest.raises(DataError, match=message):
        MorphableModel(**{**vars(model), **change(model)})


def test_a_nose_that_no_triangle_has_cannot_be_cut_around() -> None:
    model = standin_faces.model(resolution=24)
    without_nose = model.triangles[(model.triangles != model.nose).all(1)]
    with pytest.raises(DataError, match="is no corner of a triangle"):
        cut(MorphableModel(**{**vars(model), "triangles": without_nose}))
