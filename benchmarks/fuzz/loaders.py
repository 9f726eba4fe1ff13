"""Data files that are damaged, and what their loaders make of them.

Small valid files are made here; those in HGENV_DATA serve, too. A result is compared with that of the whole file: where
its form has checksums, bits that are wrong must be noticed; elsewhere what is accepted must at least be plausible.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
import torch
import trimesh
from numpy.typing import NDArray

from hgenv import patience
from hgenv.benchmarks.gpu import photos as packed
from hgenv.datasets import Folder, basel, heads, ict_facekit, mbii, standin_faces
from hgenv.datasets.folder import VARIABLE
from hgenv.datasets.heads import Heads
from hgenv.datasets.morphable import IBUG_NOSE, MorphableModel
from hgenv.datasets.photos import NativePhoto, Photos, prepare
from hgenv.rendering.surfaces import CAMERA

from .case import Finding, Verdict, attempt, same
from .damage import BYTES, Arrays, Random, damaged, greedy_mat, greedy_npz, greedy_png, npz

OWN = ("own0", "own1", "own2", "own3")  # names of images with labels
SIZE = 8  # pixels that the network sees
REAL = 0.1  # share of cases with the data in HGENV_DATA, where they are


@dataclass(frozen=True)
class Loader:
    """A way to data.

    Attributes:
        make: Writes small valid files into a folder, or links to real ones.
        load: Reads them.
        flaw: What is wrong with what was read, in words; None if nothing is.
        exact: Endings of files in which every wrong bit must be noticed.
    """

    make: Callable[[Path], Any]
    load: Callable[[Path], Any]
    flaw: Callable[[Any], str | None]
    exact: tuple[str, ...] = (".png", ".npz", ".mat", "")


def case(rng: Random, folder: Path) -> Finding:
    """A loader and a damage."""
    names = [name for name in LOADERS if name not in REAL_ONES]
    there = [name for name in REAL_ONES if _real(REAL_ONES[name]) is not None]
    if there and rng.uniform() < REAL:
        names = there
    if rng.uniform() < 0.15:
        return _own_photo(rng)
    name = str(rng.choice(names))
    loader, (whole, facts) = LOADERS[name], _whole(name)
    _link(whole, folder)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir() and _is_read(p))
    chosen = folder / files[int(rng.integers(len(files)))]
    what, change = _damage(chosen, rng)
    exact = chosen.suffix in loader.exact and not change
    words = (str(chosen), str(chosen.parent), chosen.parent.name, chosen.stem, chosen.name, ", head '")  # a file each

    def judge(result: Any) -> tuple[Verdict, str]:
        if (flaw := loader.flaw(result)) is not None:
            return Verdict.WRONG, f"accepted: {flaw}"
        differs = same(facts, _facts(result), 1e-3)
        told = "made skins" in getattr(result, "label", "")  # what is used where there are none
        if differs and exact and not told:
            return Verdict.WRONG, f"accepted: {differs}"
        return Verdict.UNHARMED, differs or "the same"

    what = f"{name}, {chosen.relative_to(folder)}: {what}"
    return attempt(what, lambda: loader.load(folder), words, judge)


# --- Damage to a file -------------------------------------------------------------------------------------------------


def _damage(path: Path, rng: Random) -> tuple[str, bool]:
    """Damage a file in its place. Returns what was done, and whether another result than before is plausible."""
    data = path.read_bytes()
    path.unlink()
    structured = path.suffix in (".npz", ".mat", ".png", ".json", ".obj", ".mtl", ".jpg", ".ply")
    kind = str(
        rng.choice(["bytes", "place", "form", "greedy"], p=[0.45, 0.1, 0.3, 0.15] if structured else [0.8, 0.2, 0, 0])
    )
    if kind == "place":
        return _displaced(path, data, rng), False
    if kind == "bytes":
        damage = BYTES[int(rng.integers(len(BYTES)))]
        path.write_bytes(damage(data, rng))
        return damage.__name__, False
    if path.suffix == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
        if kind == "greedy":
            spoilt, what = greedy_npz(arrays, rng)
            path.write_bytes(spoilt)
            return what, False
        arrays, what, plausible = damaged(arrays, rng)
        path.write_bytes(npz(arrays, bool(rng.uniform() < 0.8)))
        return what, plausible
    if path.suffix == ".mat":
        return _damaged_mat(path, data, kind, rng)
    if path.suffix == ".png":
        if kind == "greedy":
            spoilt, what = greedy_png(rng)
            path.write_bytes(spoilt)
            return what, False
        return _damaged_png(path, data, rng)
    if path.suffix == ".json":
        return _damaged_json(path, data, rng), True
    return _damaged_words(path, data, rng), True


def _displaced(path: Path, data: bytes, rng: Random) -> str:
    kind = str(rng.choice(["missing", "folder", "link to nowhere", "link to itself", "other file"]))
    if kind == "folder":
        path.mkdir()
    elif kind == "link to nowhere":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "other file":
        path.write_bytes(b"PK\x03\x04" + data[4:] if path.suffix != ".npz" else b"\x89PNG\r\n\x1a\n" + data)
    return kind


def _damaged_mat(path: Path, data: bytes, kind: str, rng: Random) -> tuple[str, bool]:
    found = {k: v for k, v in scipy.io.loadmat(io.BytesIO(data)).items() if not k.startswith("__")}
    (name, value), *_ = found.items()
    if kind == "greedy":
        spoilt, what = greedy_mat(name, rng)
        path.write_bytes(spoilt)
        return what, False
    content: dict[str, Any]
    if value.dtype.names is None:
        content, what, _ = damaged({name: value}, rng)
    else:
        record = value.flatten()[0]
        fields, what, _ = damaged({key: np.asarray(record[key]) for key in value.dtype.names}, rng)
        content = {name: fields}
    try:
        scipy.io.savemat(path, content, do_compression=bool(rng.uniform() < 0.5))
    except Exception:  # what it cannot write is no case
        path.write_bytes(b"")
        return f"{what} (cannot be written: empty)", False
    # Without names for their axes, other numbers, fewer of them or other coefficients are as plausible.
    return what, True


def _damaged_png(path: Path, data: bytes, rng: Random) -> tuple[str, bool]:
    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    eight = (pixels >> (8 * (pixels.itemsize - 1))).astype(np.uint8)
    kind = str(rng.choice(["eight bits", "turned", "smaller", "grey", "four channels", "black", "white", "jpeg"]))
    forms: dict[str, Callable[[], NDArray]] = {
        "eight bits": lambda: eight,
        "turned": lambda: np.ascontiguousarray(np.swapaxes(pixels, 0, 1)),
        "smaller": lambda: pixels[::2, ::2],
        "grey": lambda: pixels if pixels.ndim == 2 else pixels[..., 0],
        "four channels": lambda: np.dstack([pixels] * 4)[..., :4],
        "black": lambda: np.zeros_like(pixels),
        "white": lambda: np.full_like(pixels, 65535 if pixels.dtype == np.uint16 else 255),
        "jpeg": lambda: pixels,
    }
    changed = forms[kind]()
    if kind == "jpeg":
        path.write_bytes(cv2.imencode(".jpg", eight)[1].tobytes())
    else:
        path.write_bytes(cv2.imencode(".png", changed)[1].tobytes())
    return kind, kind in ("grey", "white", "eight bits")  # of a mask, eight bits are as good


def _damaged_json(path: Path, data: bytes, rng: Random) -> str:
    content = json.loads(data)
    key = str(rng.choice(sorted(content)))
    odd: list[Any] = [
        None, 3, "text", {}, [], [[1, 2], [3]], [1.5] * 68, ["../../x"] * 12, [True] * 68, [-1] * 68, [10**30] * 68,
        [float("nan")] * 68, [None] * 68, content[key][:-1], content[key] * 2, content[key][::-1], [content[key]],
    ]  # fmt: skip
    i = int(rng.integers(len(odd) + 2))
    if i == len(odd):
        path.write_text('{"idx_to_landmark_verts": ' + "[" * 100_000)
    elif i > len(odd):
        del content[key]
        path.write_text(json.dumps(content))
    else:
        path.write_text(json.dumps(content | {key: odd[i]}))
    return f"{key}: form {i}"


def _damaged_words(path: Path, data: bytes, rng: Random) -> str:
    """Some words of a text otherwise; of what is no text, some bytes."""
    odd = [b"nan", b"inf", b"-1", b"0", b"1e400", b"99999999999", b"x", b"", b"1/1/1", b"\xff", b"uint", b"4000000000"]
    words = data.split(b" ")
    for _ in range(int(rng.choice([1, 1, 3, 30]))):
        words[int(rng.integers(len(words)))] = odd[int(rng.integers(len(odd)))]
    path.write_bytes(b" ".join(words))
    return "odd words"


# --- What is compared, and what is wrong ------------------------------------------------------------------------------


def _facts(result: Any) -> Arrays:
    if isinstance(result, MorphableModel):
        names = ("mean", "identity", "expression", "albedo", "texture", "texture_limit", "triangles")
        return {name: getattr(result, name) for name in names} | {"nose": np.array(result.nose)}
    if isinstance(result, dict):
        return result
    sets = result if isinstance(result, tuple) else (result,)
    found: Arrays = {}
    for i, data in enumerate(sets):
        found |= {f"{i} {name}": x.numpy() for name, x in zip(data.samples.names, data.samples.tensors, strict=True)}
        if isinstance(data, Photos):
            for k, truth in enumerate(data.native):
                found |= {f"{i} normal {k}": truth.normal.numpy(), f"{i} mask {k}": truth.mask.numpy()}
                found[f"{i} window {k}"] = np.array(truth.window)
    return found


def _flaw_of_data(result: Any) -> str | None:
    sets = result if isinstance(result, tuple) else (result,)
    for data in sets:
        image, target, mask = data.samples.tensors
        inside = mask > 0
        if not all(x.isfinite().all() for x in (image, target, mask)):
            return "numbers that are not finite"
        if image.min() < 0 or image.max() > 1 or not ((mask == 0) | (mask == 1)).all():
            return "images beyond 0..1, or masks that are no masks"
        if not inside.flatten(1).any(1).all():
            return "a sample of which nothing is known"
        if isinstance(data, Heads):
            if ((target - CAMERA).abs()[inside] > 2).any() or (target[~inside] != 0).any():
                return "depths that no face has"
            continue
        lengths = target.norm(dim=1, keepdim=True)
        if (lengths[inside] - 1).abs().max() > 1e-2 or (lengths[~inside] > 0).any():
            return "normals without unit length"
        for truth in data.native:
            if truth.mask.dtype != torch.bool or (truth.normal[:, truth.mask].norm(dim=0) - 1).abs().max() > 0.03:
                return "a truth without unit normals"
    return None


def _flaw_of_model(model: MorphableModel) -> str | None:
    for name, array in _facts(model).items():
        if not np.isfinite(array).all():
            return f"{name} is not finite"
    if model.triangles.min() < 0 or model.triangles.max() >= len(model.mean):
        return "triangles beyond the vertices"
    if not 0 <= model.nose < len(model.mean) or model.mean.shape[1] != 3:
        return "no nose"
    if not (np.ptp(model.mean, axis=0)[:2] > 1).all() or np.abs(model.mean).max() > 1e4:
        return "a face that is no face"
    return None


# --- Small valid files ------------------------------------------------------------------------------------------------


def _write_mbii(folder: Path) -> None:
    """Ten tilted planes, no two photos of one size, with their masks and depths."""
    for number, name in enumerate(mbii.SPLITS["train"]):
        rng, root = np.random.default_rng(number), folder / "mbii" / mbii.RELEASE / name
        root.mkdir(parents=True)
        shape = 20 + number, 30
        row, column = np.mgrid[: shape[0], : shape[1]].astype(float)
        mask = np.zeros(shape, dtype=np.uint16)
        mask[3:18, 4:25] = 65025
        cv2.imwrite(str(root / "diffuse.png"), rng.integers(200, 60000, (*shape, 3)).astype(np.uint16))
        cv2.imwrite(str(root / "mask.png"), mask)
        depth = np.where(mask > 0, 0.5 * column - 0.25 * row, np.nan)
        scipy.io.savemat(root / "Z.mat", {"depth": depth}, do_compression=number % 2 == 0)


def _write_templates(folder: Path) -> None:
    grid, triangles = standin_faces.face_grid(30)
    for i, sex in enumerate(("female", "male")):
        vertices = standin_faces.relief(grid, nose=1 + 0.1 * i)
        root = folder / "faces" / "scans" / "bowman_face3d_templates"
        root.mkdir(parents=True, exist_ok=True)
        content: Arrays = {
            "vertices": vertices,
            "faces": triangles.astype(np.int32),
            "vertex_rgb": np.random.default_rng(i).integers(60, 200, vertices.shape).astype(np.uint8),
            "landmarks": vertices[np.array([vertices[:, 2].argmax(), 5, 9])],
        }
        (root / f"template_{sex}.npz").write_bytes(npz(content))


def _write_test_scans(folder: Path) -> None:
    """A textured OBJ file in metres, and a scan with seven landmarks."""
    grid, triangles = standin_faces.face_grid(30)
    vertices = standin_faces.relief(grid)
    root = folder / "faces" / "scans" / "lee_perry_smith"
    root.mkdir(parents=True)
    lines = ["mtllib LeePerrySmith.mtl", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices / 1000)]
    lines += [f"vt {u:.4f} {v:.4f}" for u, v in (grid + 1) / 2]
    lines += ["usemtl skin", *("f " + " ".join(f"{i + 1}/{i + 1}" for i in t) for t in triangles)]
    (root / "LeePerrySmith.obj").write_text("\n".join(lines) + "\n")
    (root / "LeePerrySmith.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd Map-COL.jpg\n")
    skin = cv2.resize(np.random.default_rng(0).integers(60, 220, (4, 4, 3)).astype(np.uint8), (32, 32))
    cv2.imwrite(str(root / "Map-COL.jpg"), skin)
    other = folder / "faces" / "scans" / "rvcg_humface"
    other.mkdir(parents=True)
    nose = vertices[vertices[:, 2].argmax()]
    marks = [(-45, 35, -30), (-15, 35, -30), (15, 35, -30), (45, 35, -30), (0, 0, 0), (-25, -35, -20), (25, -35, -20)]
    content = {"vertices": vertices, "faces": triangles.astype(np.int32)}
    content["landmarks"] = (nose + np.array(marks)).astype(np.float32)
    (other / "humface_clean.npz").write_bytes(npz(content))


def _write_basel_scans(folder: Path) -> None:
    grid, triangles = standin_faces.face_grid(30)
    for i in range(2):
        vertices = 1000 * standin_faces.relief(grid, nose=1 + 0.1 * i)
        colours = np.random.default_rng(i).integers(60, 200, (len(vertices), 4)).astype(np.uint8)
        mesh = trimesh.Trimesh(vertices, triangles, vertex_colors=colours, process=False)
        mesh.export(folder / f"{i}.ply", encoding="binary" if i else "ascii")


def _write_basel(folder: Path) -> None:
    grid, triangles = standin_faces.face_grid(25)
    vertices = 1000 * standin_faces.relief(grid).astype(np.float64)
    rng, marks = np.random.default_rng(1), np.zeros(68)
    marks[IBUG_NOSE] = vertices[:, 2].argmax()
    fields = {
        "shapeMU": vertices.reshape(-1, 1),
        "expMU": np.full((vertices.size, 1), 50.0),
        "texMU": rng.uniform(80, 200, (vertices.size, 1)),
        "tri": triangles[:-5, ::-1].T + 1.0,
        "tri_mouth": triangles[-5:, ::-1].T + 1.0,
        "kpt_ind": marks[None] + 1,
    }
    for i, kind in enumerate(("shape", "exp", "tex")):
        fields[f"{kind}PC"] = rng.normal(size=(vertices.size, 11 + i))
        fields[f"{kind}EV"] = np.linspace(2, 1, 11 + i)[:, None]
    scipy.io.savemat(folder / "BFM.mat", {"model": fields}, do_compression=True)


def _ict_parts() -> Arrays:
    """A face in centimetres with as many vertices as ICT-FaceKit's has."""
    side = 97
    grid, _ = standin_faces.face_grid(side)
    vertices = standin_faces.relief(grid) / 10
    number = np.arange(side**2).reshape(side, side)
    quads = np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]], -1).reshape(-1, 4)
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (21, 1, 3))
    waves = np.sin(rng.normal(size=(21, 1, 3)) * vertices / 4 + phase)
    return {
        "neutral": vertices,
        "faces": quads.astype(np.int32),
        "identity_deltas": (0.2 * waves[:10]).astype(np.float16),
        "expression_deltas": (0.5 * waves[10:]).astype(np.float16),
        "expression_names": np.array([f"shape{i}_{side}" for i in range(5) for side in "LR"] + ["jaw"]),
    }


def _write_indices(folder: Path, parts: Arrays) -> None:
    marks = [0] * 68
    marks[IBUG_NOSE] = int(parts["neutral"][:, 2].argmax())
    content = {"idx_to_landmark_verts": marks, "expressions": parts["expression_names"].tolist()}
    (folder / "vertex_indices.json").write_text(json.dumps(content))


def _write_skins(path: Path) -> None:
    skins = np.random.default_rng(2).integers(60, 220, (11, 1, 3)) + np.zeros((1, ict_facekit.FACE, 1), int)
    path.write_bytes(npz({"albedo_srgb": skins.astype(np.uint8)}))


def _write_ict(folder: Path) -> None:
    parts, root = _ict_parts(), folder / "ict"
    root.mkdir()
    (root / "ict_facekit_light_head11248.npz").write_bytes(npz(parts))
    _write_indices(root, parts)
    _write_skins(folder / ict_facekit.ALBEDO)


def _write_ict_clone(folder: Path) -> None:
    parts, root = _ict_parts(), folder / "ict" / "FaceXModel"
    root.mkdir(parents=True)
    _write_indices(root, parts)
    _write_skins(folder / ict_facekit.ALBEDO)
    meshes = {"generic_neutral_mesh": parts["neutral"]}
    meshes |= {f"identity{i:03d}": parts["neutral"] + d for i, d in enumerate(parts["identity_deltas"])}
    names = parts["expression_names"].tolist()
    meshes |= {n: parts["neutral"] + d for n, d in zip(names, parts["expression_deltas"], strict=True)}
    faces = "".join("f " + " ".join(str(i + 1) for i in quad) + "\n" for quad in parts["faces"])
    for name, vertices in meshes.items():
        text = "".join(f"v {x:.6g} {y:.6g} {z:.6g}\n" for x, y, z in vertices.astype(float))
        (root / f"{name}.obj").write_text(text + faces * (name == "generic_neutral_mesh"))


def made_photo(seed: int, name: str = "thing") -> NativePhoto:
    """A photo of random intensities and normals on a rectangle."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 30), dtype=bool)
    mask[4:20, 5:25] = True
    normal = rng.normal(size=(3, 24, 30))
    normal[2] = np.abs(normal[2]) + 0.5
    return NativePhoto(name, rng.uniform(0.1, 1, mask.shape), mask, normal / np.linalg.norm(normal, axis=0), mask)


def made_photos(size: int = SIZE, count: int = 2) -> Photos:
    """Some such photos as the network sees them."""
    return prepare([made_photo(i, f"thing{i}") for i in range(count)], size, "made")


def _write_packed(folder: Path) -> None:
    packed.pack(folder / "photos.npz", {size: (made_photos(size), made_photos(size, 3)) for size in (SIZE, 16)})


def _kept(folder: Path) -> Arrays:
    """What is made of nothing, through the cache in a folder."""
    before = os.environ.get(patience.FOLDER)
    os.environ[patience.FOLDER] = str(folder)
    try:
        rng = np.random.default_rng(5)
        return dict(patience.kept("made", [__file__], lambda: {"a": rng.normal(size=40), "b": np.arange(9)}))
    finally:
        if before is None:
            del os.environ[patience.FOLDER]
        else:
            os.environ[patience.FOLDER] = before


def _write_pairs(folder: Path) -> None:
    rng = np.random.default_rng(6)
    for part in ("image", "label"):
        (folder / part).mkdir()
    for stem in OWN:
        cv2.imwrite(str(folder / "image" / f"{stem}.png"), rng.integers(0, 256, (12, 10, 3), np.uint8))
        cv2.imwrite(str(folder / "label" / f"{stem}.png"), rng.integers(0, 3, (12, 10), np.uint8))


def _read_pairs(folder: Path) -> tuple[Any, Any]:
    found = Folder.of_pairs(folder, SIZE, 3)
    return found.validation, found.test


def _flaw_of_pairs(result: Any) -> str | None:
    for data in result:
        image, label = data.samples.tensors
        if not image.isfinite().all() or image.min() < 0 or image.max() > 1:
            return "images beyond 0..1"
        if ((label >= 3) & (label != 255)).any() or label.min() < 0:
            return "labels that are no classes"
    return None


# --- Photos of one's own ----------------------------------------------------------------------------------------------


def _own_photo(rng: Random) -> Finding:
    """Arrays that a user hands over."""
    photo = made_photo(0)
    parts: Arrays = {part: getattr(photo, part) for part in ("intensity", "object", "normal", "valid")}
    kind = str(rng.choice(["damaged", "mask", "huge", "list", "name", "size"]))
    size: Any = SIZE
    name: Any = photo.name
    plausible = False
    if kind == "damaged":
        parts, kind, plausible = damaged(parts, rng)
        missing = [part for part in ("intensity", "object", "normal", "valid") if part not in parts]
        parts |= {part: np.array(None) for part in missing}
    elif kind == "mask":
        which, dtype = str(rng.choice(["object", "valid"])), str(rng.choice(["uint8", "int64", "float32", "float64"]))
        high = int(rng.choice([1, 2, 127, 255]))
        parts[which] = (parts[which] * high).astype(dtype)
        if rng.uniform() < 0.5:
            parts[which][3, 7] = 3  # an edge that some tool has smoothed
        kind = f"{which} as {dtype} 0 and {high}, {len(np.unique(parts[which]))} values"
    elif kind == "huge":
        which = str(rng.choice(sorted(parts)))
        parts[which] = np.broadcast_to(parts[which].reshape(-1)[-1], (10**6, 10**7))
        kind = f"{which} of 10^13 pixels"
    elif kind == "list":
        which = str(rng.choice(sorted(parts)))
        parts[which] = parts[which].tolist()
        kind = f"{which} as a list"
    elif kind == "name":
        name = [None, 3, "", "a\nb", b"bytes", ("a",)][int(rng.integers(6))]
        kind = f"name {name!r}"
    else:
        size = [0, -1, 10**7, 2.5, True, None, "8", 10**30, np.int64(8)][int(rng.integers(9))]
        kind = f"size {size!r}"
    spoilt = replace(photo, name=name, **{part: parts[part] for part in ("intensity", "object", "normal", "valid")})
    facts = _facts(prepare([photo], SIZE, "own"))

    def judge(result: Photos) -> tuple[Verdict, str]:
        flaw = _flaw_of_data(result)
        differs = same(facts, _facts(result), 1e-3)
        if flaw or (differs and not plausible):
            return Verdict.WRONG, f"accepted: {flaw or differs}"
        return Verdict.UNHARMED, differs or "the same"

    return attempt(f"own photo, {kind}", lambda: prepare([spoilt], size, "own"), ("own, photo", "size"), judge)


# --- The loaders ------------------------------------------------------------------------------------------------------


def _pair(load: Callable[..., Any], *splits: str) -> Callable[[Path], Any]:
    return lambda folder: tuple(load(folder, split, size=SIZE) for split in splits)


LOADERS: dict[str, Loader] = {
    "mbii": Loader(_write_mbii, lambda f: mbii.load(f, "train", size=SIZE), _flaw_of_data),
    "scans to validate": Loader(_write_templates, _pair(heads.load_scans, "validation"), _flaw_of_data),
    "scans to test": Loader(_write_test_scans, _pair(heads.load_scans, "test"), _flaw_of_data),
    "basel scans": Loader(_write_basel_scans, _pair(heads.load_basel, "validation", "test"), _flaw_of_data),
    "basel model": Loader(_write_basel, lambda f: basel.load(f / "BFM.mat"), _flaw_of_model),
    "ict model": Loader(_write_ict, lambda f: ict_facekit.load(f / "ict"), _flaw_of_model),
    "ict clone": Loader(_write_ict_clone, lambda f: ict_facekit.load(f / "ict"), _flaw_of_model),
    "packed photos": Loader(_write_packed, lambda f: packed.unpack(f / "photos.npz", SIZE), _flaw_of_data),
    "images and labels": Loader(_write_pairs, _read_pairs, _flaw_of_pairs, ()),  # another image is as plausible
    "cache": Loader(_kept, _kept, lambda found: None),
    "real mbii": Loader(lambda f: _link_real("mbii", f), lambda f: mbii.load(f, "train", size=SIZE), _flaw_of_data),
    "real scans": Loader(
        lambda f: _link_real("faces", f), _pair(heads.load_scans, "validation", "test"), _flaw_of_data
    ),
    "real ict model": Loader(
        lambda f: _link_real("faces", f), lambda f: ict_facekit.load(f / "faces" / "ict_facekit"), _flaw_of_model
    ),
}
REAL_ONES = {
    "real mbii": f"mbii/{mbii.RELEASE}",
    "real scans": "faces/scans/lee_perry_smith",
    "real ict model": "faces/ict_facekit",
}


def _real(below: str) -> Path | None:
    root = os.environ.get(VARIABLE)
    return Path(root) / below if root and (Path(root) / below).is_dir() else None


def _link_real(name: str, folder: Path) -> None:
    _link(Path(os.environ[VARIABLE]) / name, folder / name)


def _link(source: Path, target: Path) -> None:
    """The same folders, with links to the files, so that a damaged file takes only a link's place."""
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())


def _is_read(path: Path) -> bool:
    """Whether a loader looks at this file of the release."""
    seen: Iterable[str] = ("diffuse", "mask", "Z", "LeePerrySmith", "Map-COL", "BFM", "photos", "vertex_indices", *OWN)
    ends = (".npz", ".ply", ".obj", ".mat", "")
    name = path.name
    if "MIT-Berkeley" in str(path) and path.parent.name not in mbii.SPLITS["train"]:
        return False
    return path.stem in seen or (path.suffix in ends and "crop" not in name and path.stem != "L" and name.isascii())


@cache
def _whole(name: str) -> tuple[Path, Arrays]:
    """A folder with valid files, made once in a process, and what is read from them."""
    folder = Path(tempfile.mkdtemp(prefix="hgenv-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    LOADERS[name].make(folder)
    return folder, _facts(LOADERS[name].load(folder))
