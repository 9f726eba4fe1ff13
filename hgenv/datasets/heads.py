"""Held-out heads: renders of scanned faces that no morphable model here knows, with their depth. Not photos.

Every head is cut to what lies within `morphable.RADIUS` of the nose's tip, turned to `POSES` (nine), lit from `LIGHTS`
(three) and framed like the generator's faces (`hgenv.generators.faces`), and rendered with `FINE` x `FINE` points a
pixel: images and depths are means over the points that see the face, the mask is where at least half of them do.

Sources, in `faces/scans/` of the data folder: validation heads are the female and the male template of the R package
face3d (A. Bowman, GPL-2), with colours; test heads are "Infinite, 3D Head Scan" by Lee Perry-Smith (CC BY 3.0), with
colours, and the scan `humface` of the R package Rvcg (GPL-2+), in a neutral skin. Or all scans (`.ply`, micrometres,
colours) in the folder of the Basel Face Model, every other one for validation. Or faces made by code. They are few:
what is measured on them is said per head.

The paper has five heads to validate on and five to test on. `load_relatives` makes as many of the scans, by warping:
each split's relatives come from its own scans. They are no scans, and their names say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import radians
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor
from trimesh.resolvers import Resolver

from ..rendering.shading.skin import shade_skin
from ..rendering.surfaces import ZBuffer, depth_samples, fit, rotation, turn
from ..rendering.surfaces import product as turned
from ..samples import DenseSamples
from .files import MOST_PIXELS, read, read_npz, read_text, real_numbers, whole_numbers
from .folder import DataError
from .morphable import RADIUS
from .photos import check_size
from .standin_faces import face_grid, made_skins, relief

SPLITS = ("validation", "test")
# Yaw and pitch, radians.
POSES = tuple((radians(yaw), radians(pitch)) for yaw, pitch in product((-30, 0, 30), (-15, 0, 15)))
# Directions toward the light in the head's own coordinates, before normalizing: front, left and right in the image.
LIGHTS = ((0.0, 0.4, 1.0), (-0.9, 0.3, 0.6), (0.9, 0.3, 0.6))
FINE = 4
NEUTRAL = (0.75, 0.6, 0.53)  # sRGB
SMALLEST = 80.0  # millimetres that a face is wide and high at least, once it is cut
HEADS = 5  # of a split, as in the paper, with relatives
STRETCH = 0.08  # largest share by which an axis of a relative differs from its scan's
BUMPS, WIDE, PUSH = 16, 22.0, 3.5  # how many, how wide (mm), and how far vertices are pushed along each axis (mm)
SHADE = (0.6, 1.1)  # factor on the skin's colour
MOST_BYTES = 2**28  # of a mesh

_CURE = "get the scans that this module names, or choose data='standin'"


@dataclass(frozen=True)
class Head:
    """A scanned face.

    Attributes:
        name: What it is called in reports.
        vertices: (V, 3) millimetres, x right, y up, z out of the face.
        triangles: (F, 3) int64, anticlockwise seen from outside.
        colours: (V, 3) sRGB 0..1.
        nose: (3,) the nose's tip.
    """

    name: str
    vertices: NDArray[np.floating]
    triangles: NDArray[np.int64]
    colours: NDArray[np.floating]
    nose: NDArray[np.floating]


@dataclass(frozen=True)
class Heads:
    """M renders of some heads.

    Attributes:
        samples: image (M, 3, S, S) sRGB, target (M, 1, S, S) depth, zero outside the mask, mask (M, 1, S, S); float32.
        names: The heads' names.
        head: (M,) int64, whose render each is.
        label: Which data these are; to be written beside every figure.
    """

    samples: DenseSamples
    names: tuple[str, ...]
    head: Tensor
    label: str

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            DataError: They do not.
        """
        if self.head.shape != (len(self.samples),):
            raise DataError(
                f"{self.label}: head must say for each of {len(self.samples)} renders whose it is, not be of shape "
                f"{tuple(self.head.shape)}; use hgenv.datasets.heads.render"
            )

    def __len__(self) -> int:
        return len(self.head)

    def __repr__(self) -> str:
        return f"<Heads: {self.label}, {len(self)} renders of {', '.join(self.names)}>"

    def to(self, device: torch.device | str) -> Heads:
        """The same renders on another device."""
        return replace(self, samples=self.samples.to(device), head=self.head.to(device))


def load_scans(folder: Path | str, split: str, *, size: int = 64) -> Heads:
    """Renders of the scans in `faces/scans/`.

    Args:
        folder: The folder that contains `faces/`, or `faces/scans/` itself.
        split: "validation" or "test".
        size: S, pixels along an edge.

    Raises:
        ValueError: Unknown split.
        DataError: A file is missing or damaged.
    """
    return render(_scans(Path(folder), split), size, f"renders of scans, {split}")


def load_relatives(folder: Path | str, split: str, *, size: int = 64) -> Heads:
    """Renders of five heads: the two scans of a split, and three that are warped from them.

    A relative is wider or narrower, longer or shorter and deeper or flatter than its scan, has bumps and hollows some
    centimetres wide, and a darker or lighter skin.

    Args:
        folder: See `load_scans`.
        split: See there.
        size: See there.

    Raises:
        ValueError: Unknown split.
        DataError: A file is missing or damaged.
    """
    scans = _scans(Path(folder), split)
    made = [_relative(scans[n % len(scans)], n, [SPLITS.index(split), n]) for n in range(HEADS - len(scans))]
    return render([*scans, *made], size, f"renders of scans and of heads warped from them, {split}")


def _scans(folder: Path, split: str) -> list[Head]:
    _check_split(split)
    root = folder / "faces" / "scans" if (folder / "faces" / "scans").is_dir() else folder
    if split == "validation":
        return [_template(root / "bowman_face3d_templates", sex) for sex in ("female", "male")]
    return [_perry_smith(root / "lee_perry_smith"), _humface(root / "rvcg_humface" / "humface_clean.npz")]


def _relative(scan: Head, number: int, seed: list[int]) -> Head:
    """A head that is warped from a scan."""
    rng = np.random.default_rng(seed)
    near = scan.vertices[np.linalg.norm(scan.vertices - scan.nose, axis=1) <= RADIUS]
    stretch = rng.uniform(1 - STRETCH, 1 + STRETCH, 3)
    middles = near[rng.integers(len(near), size=BUMPS)]
    pushes = rng.normal(scale=PUSH, size=(BUMPS, 3))
    shade = rng.uniform(*SHADE, size=1) * rng.uniform(0.95, 1.05, 3)

    def warp(points: NDArray) -> NDArray:
        square = ((points[:, None] - middles) ** 2).sum(-1)
        return (points - scan.nose) * stretch + scan.nose + np.exp(-square / (2 * WIDE**2)) @ pushes

    nose = warp(scan.nose[None])[0]
    colours = np.clip(scan.colours * shade, 0, 1)
    return Head(f"warped{number + 1}_{scan.name}", warp(scan.vertices), scan.triangles, colours, nose)


def load_basel(folder: Path | str, split: str, *, size: int = 64) -> Heads:
    """Renders of the scans that come with the Basel Face Model: all `.ply` files of a folder, in order of their names.

    The first, third, ... are for validation, the others for the test.

    Raises:
        ValueError: Unknown split.
        DataError: There are fewer than two, or one is damaged.
    """
    _check_split(split)
    paths = sorted(Path(folder).glob("*.ply"))
    if len(paths) < 2:
        raise DataError(f"{folder}: {len(paths)} .ply files where two are the least; name the folder of the scans")
    heads = []
    for path in paths[SPLITS.index(split) :: 2]:
        mesh = _read_mesh(path)
        vertices = np.asarray(mesh.vertices) / 1000
        heads.append(Head(path.stem, vertices, np.asarray(mesh.faces), _colours(path, mesh), _foremost(vertices)))
    return render(heads, size, f"renders of Basel scans, {split}")


def load_standin(split: str, *, size: int = 64) -> Heads:
    """Renders of two faces made by code, other ones than the stand-in model's.

    Raises:
        ValueError: Unknown split.
    """
    _check_split(split)
    heads = []
    for number in range(2):
        seed = 2 * SPLITS.index(split) + number
        rng = np.random.default_rng([seed, 7])
        grid, triangles = face_grid(70)
        vertices = relief(grid, nose=rng.uniform(0.8, 1.3), brow=rng.uniform(0.6, 1.5), lips=rng.uniform(0.7, 1.4))
        x, y, z = vertices.T
        vertices = np.stack([x * rng.uniform(0.9, 1.08), y * rng.uniform(0.94, 1.06), z * rng.uniform(0.9, 1.15)], 1)
        skins = made_skins(vertices, 12, seed=100 + seed)
        skin = skins[rng.integers(2, 11)]
        nose = vertices[vertices[:, 2].argmax()]
        heads.append(Head(f"made{seed + 1}", vertices, triangles, skin, nose))
    return render(heads, size, f"stand-in {split}")


def render(heads: list[Head], size: int, label: str) -> Heads:
    """All poses and lights of each head, as the module's docstring says.

    Raises:
        ValueError: `size` is not a positive integer.
        DataError: A head has nothing around its nose.
    """
    check_size(size)
    parts = [_render(head, size, label) for head in heads]
    count = len(POSES) * len(LIGHTS)
    owner = torch.arange(len(heads)).repeat_interleave(count)
    return Heads(DenseSamples.cat(parts), tuple(head.name for head in heads), owner, label)


def _render(head: Head, size: int, label: str) -> DenseSamples:
    near = np.linalg.norm(head.vertices - head.nose, axis=1) <= RADIUS
    triangles = head.triangles[near[head.triangles].all(1)]
    if len(triangles) < 100:
        raise DataError(
            f"{label}, head {head.name!r}: {len(triangles)} triangles lie within {RADIUS:g} mm of the nose's tip; "
            "is it in millimetres, looking along z?"
        )
    kept, triangles = np.unique(triangles, return_inverse=True)
    edges = np.ptp(head.vertices[kept], axis=0)[:2]
    if (edges < SMALLEST).any():
        raise DataError(
            f"{label}, head {head.name!r}: the face is {edges[0]:g} wide and {edges[1]:g} high, where {SMALLEST:g} mm "
            "are the least; is it in millimetres, looking along z?"
        )
    triangles = torch.from_numpy(triangles.reshape(-1, 3))
    vertices = torch.from_numpy(head.vertices[kept].astype(np.float32))
    colours = torch.from_numpy(head.colours[kept].astype(np.float32))
    light = torch.nn.functional.normalize(torch.tensor(LIGHTS, dtype=torch.float64), dim=-1)
    renderer = ZBuffer(triangles, FINE * size)
    parts = []
    for yaw, pitch in POSES:
        turns = rotation(torch.tensor([[yaw, pitch, 0.0]], dtype=torch.float64)).expand(len(LIGHTS), -1, -1)
        lights = turned(turns, light)
        seen = renderer(fit(turn(vertices.expand(len(LIGHTS), -1, -1), turns)), lights)
        corners = triangles[seen.triangle]
        colour = sum(seen.weight[:, i, :, None] * colours[corners[..., i]] for i in range(3))
        image = shade_skin(torch.as_tensor(colour).transpose(1, 2), seen.normal, lights.float(), seen.lit, seen.mask)
        parts.append(_coarse(depth_samples(image, seen, FINE * size)))
    return DenseSamples.cat(parts)


def _coarse(fine: DenseSamples) -> DenseSamples:
    """Means over `FINE` x `FINE` points that see the face, where at least half of them do."""
    image, target, mask = (torch.nn.functional.avg_pool2d(x, FINE) for x in fine.tensors)
    inside = (mask >= 0.5).to(mask.dtype)
    share = torch.where(inside > 0, mask, 1)
    return DenseSamples(image / share * inside, target / share * inside, inside)


def _template(folder: Path, sex: str) -> Head:
    path = folder / f"template_{sex}.npz"
    content = read_npz(path, ("vertices", "faces", "vertex_rgb", "landmarks"), _CURE)
    vertices, triangles = _mesh(path, content)
    colours, landmarks = content["vertex_rgb"], real_numbers(content["landmarks"])
    if colours.dtype != np.uint8:
        raise DataError(f"{path}: vertex_rgb is {colours.dtype} where uint8, 0..255, is needed; {_CURE}")
    if landmarks is None:
        raise DataError(f"{path}: landmarks are not finite numbers; {_CURE}")
    if colours.shape != vertices.shape or landmarks.ndim != 2 or landmarks.shape[1] != 3 or not len(landmarks):
        raise DataError(f"{path}: colours {colours.shape} or landmarks {landmarks.shape} do not fit; {_CURE}")
    _check_nose(path, vertices, landmarks[0])
    return Head(f"template_{sex}", vertices, triangles, colours / 255, landmarks[0])


def _humface(path: Path) -> Head:
    content = read_npz(path, ("vertices", "faces", "landmarks"), _CURE)
    vertices, triangles = _mesh(path, content)
    landmarks = real_numbers(content["landmarks"])
    if landmarks is None or landmarks.shape != (7, 3):
        raise DataError(
            f"{path}: landmarks of shape {content['landmarks'].shape} where (7, 3) finite numbers are needed; {_CURE}"
        )
    _check_nose(path, vertices, landmarks[4])
    # Corners of the eyes from right to left, the nose's tip, corners of the mouth. The scan looks past the camera: turn
    # it so that the eyes are level and lie above the mouth.
    across = landmarks[3] - landmarks[0]
    up = landmarks[:4].mean(0) - landmarks[5:].mean(0)
    if np.linalg.norm(np.cross(across, up)) < 1:  # square millimetres
        raise DataError(f"{path}: the landmarks of eyes and mouth lie on one line; {_CURE}")
    across /= np.linalg.norm(across)
    up -= up @ across * across
    up /= np.linalg.norm(up)
    axes = np.stack([across, up, np.cross(across, up)])
    colours = np.tile(NEUTRAL, (len(vertices), 1))
    return Head("humface", vertices @ axes.T, triangles, colours, axes @ landmarks[4])


def _perry_smith(folder: Path) -> Head:
    path = folder / "LeePerrySmith.obj"
    mesh = _read_mesh(path)
    vertices = 1000 * np.asarray(mesh.vertices)  # metres
    return Head("perry_smith", vertices, np.asarray(mesh.faces), _colours(path, mesh), _foremost(vertices))


def _foremost(vertices: NDArray) -> NDArray:
    """The nose's tip of a head that looks along z."""
    return vertices[vertices[:, 2].argmax()]


def _colours(path: Path, mesh: trimesh.Trimesh) -> NDArray:
    """Colours of a mesh's vertices, sRGB 0..1: its own, or its texture's where they are."""
    visual = mesh.visual
    try:
        if visual.kind == "texture":
            image, places = getattr(visual.material, "image", None), visual.uv
            if image is None or np.prod(image.size) > MOST_PIXELS:
                raise ValueError("there is no texture image, it is damaged or too large, or Pillow is not installed")
            if places is None or places.shape != (len(mesh.vertices), 2) or not np.isfinite(places).all():
                raise ValueError("there is no finite place in the texture for each vertex")
        if visual.kind == "texture":
            visual = visual.to_color()
        if visual.kind != "vertex":
            raise ValueError("it has none")
        colours = np.asarray(visual.vertex_colors)[:, :3] / 255
        if colours.shape != mesh.vertices.shape:
            raise ValueError(f"there are {len(colours)} of them for {len(mesh.vertices)} vertices")
        return colours
    except Exception as error:  # whatever a missing or damaged texture leads to
        raise DataError(
            f"{path}: its colours, or the texture that has them, cannot be read: {error}; {_CURE}"
        ) from error


def _mesh(path: Path, content: dict[str, NDArray]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return _checked_mesh(path, content["vertices"], content["faces"])


def _checked_mesh(path: Path, places: NDArray, corners: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if places.ndim != 2 or places.shape[1] != 3 or corners.ndim != 2 or corners.shape[1] != 3 or not len(corners):
        raise DataError(f"{path}: vertices {places.shape} and faces {corners.shape} are no mesh; {_CURE}")
    vertices, triangles = real_numbers(places), whole_numbers(corners)
    if vertices is None or triangles is None or triangles.min() < 0 or triangles.max() >= len(vertices):
        raise DataError(f"{path}: vertices are not finite, or faces point at none; {_CURE}")
    return vertices, triangles


def _check_nose(path: Path, vertices: NDArray[np.float64], nose: NDArray[np.float64]) -> None:
    near = float(np.linalg.norm(vertices - nose, axis=1).min())
    if near > 20:  # a landmark need not be a vertex
        raise DataError(f"{path}: the landmark of the nose's tip lies {near:g} mm from the mesh; {_CURE}")


def _read_mesh(path: Path) -> trimesh.Trimesh:
    painted = path.suffix != ".obj" or _check_materials(path)
    if path.suffix == ".ply":
        _check_counts(path)
    try:
        mesh = trimesh.load(path, process=False, force="mesh", resolver=_Beside(path.parent))
    except Exception as error:  # readers of meshes raise anything
        raise DataError(f"{path}: truncated or damaged ({error}); {_CURE}") from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise DataError(f"{path}: holds no triangles; {_CURE}")
    _checked_mesh(path, np.asarray(mesh.vertices), np.asarray(mesh.faces))
    if mesh.visual.kind == "texture" and not painted:
        raise DataError(f"{path}: its colours are in a texture, but it names no material (mtllib, usemtl); {_CURE}")
    return mesh


class _Beside(Resolver):
    """What a mesh names is in its folder. trimesh's own resolver silently leaves out what is a symbolic link there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> bytes:
        return read(self.folder / key, _CURE, MOST_BYTES)

    def keys(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def namespaced(self, namespace: str) -> _Beside:
        return _Beside(self.folder / namespace)

    def write(self, name: str, data: Any) -> None:
        raise NotImplementedError("data are only read")


def _check_counts(path: Path) -> None:
    """Make sure that a PLY file does not announce more elements than it has bytes."""
    data = read(path, _CURE, MOST_BYTES)
    head, end, _ = data[:100_000].partition(b"end_header")
    counts = [int(line.split()[2]) for line in head.splitlines() if re.fullmatch(rb"element\s+\w+\s+\d{1,15}\s*", line)]
    if not end or sum(counts) > len(data) or len(counts) != head.count(b"element "):
        raise DataError(f"{path}: truncated or damaged: {sum(counts)} elements in {len(data)} bytes; {_CURE}")


def _check_materials(path: Path) -> bool:
    """Whether an OBJ file has materials; all must be there, since trimesh paints grey what it misses."""
    text = read_text(path, _CURE, MOST_BYTES)
    libraries, used = _words(text, "mtllib"), _words(text, "usemtl")
    materials: dict[str, str | None] = {}
    for library in libraries:
        name = ""
        if Path(library).is_absolute() or ".." in Path(library).parts:
            raise DataError(f"{path}: its colours are to be in {library!r}, which is not beside it; {_CURE}")
        for line in read_text(path.parent / library, f"{path.name} needs it for its colours; {_CURE}").splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "newmtl":
                name = rest.strip()
                materials[name] = None
            elif word == "map_Kd":
                materials[name] = rest.split()[-1] if rest.split() else None
    for name in used:
        if materials.get(name) is None:
            raise DataError(
                f"{path}: its material {name!r} has no texture (map_Kd) in {libraries or 'any file'}; {_CURE}"
            )
        texture = path.parent / str(materials[name])
        if not texture.is_file():
            raise DataError(f"{texture}: there is no such file, but {path.name} takes its colours from it; {_CURE}")
    if used and text.find("\nf ") < text.find("usemtl "):
        raise DataError(f"{path}: some of its faces come before the first material; {_CURE}")
    return bool(used)


def _words(text: str, key: str) -> list[str]:
    """What stands behind a key in the lines of an OBJ file, each once."""
    found = (line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{key} "))
    return list(dict.fromkeys(found))


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")


@cache
def cached_standin(split: str, size: int) -> Heads:
    """They take a second to make."""
    return load_standin(split, size=size)
