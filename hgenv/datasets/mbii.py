"""MIT-Berkeley Intrinsic Images: laboratory photos of 20 objects with normals, as released with SIRFS 1.5.

Source: Barron and Malik, "Shape, illumination, and reflectance from shading", TPAMI 2015; built on Grosse et al.,
"Ground truth dataset and baseline evaluations for intrinsic image algorithms", ICCV 2009. For education, research and
other use that is not for profit. The layout read here is SIRFS's own, `MIT-Berkeley-Laboratory/<object>/`:

- `original.png`, `diffuse.png` (without the specular part: what SIRFS takes as input), `shading.png` (without texture):
  16 bits, linear.
- `mask.png`: the object, where it is greater than zero.
- `Z.mat`: key `depth`, in pixels, growing toward the camera, NaN where unknown; orthographic.

Normals are those of the depth, with the 3 x 3 Sobel filter over 8 (edge pixels repeated at the border): (-dZ/dcolumn,
dZ/drow, 1) normalized, so that x is right, y up and z toward the camera. A pixel is valid where it is on the object and
the nine depths under the filter are known: 92 to 99 % of the object, but 80 % of frog1 and 78 % of panther. The photos
are lit from the left.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .files import read_mat, read_png
from .folder import VARIABLE, DataError
from .photos import NativePhoto, Photos, prepare

# The standard split: MIT_TRAIN.m and MIT_TEST.m of SIRFS 1.5.
SPLITS = {
    "train": ("apple", "box", "cup1", "dinosaur", "frog1", "panther", "paper1", "phone", "squirrel", "teabag2"),
    "test": ("cup2", "deer", "frog2", "paper2", "pear", "potato", "raccoon", "sun", "teabag1", "turtle"),
}
INPUTS = ("diffuse", "shading", "original")
RELEASE = "MIT-Berkeley-Laboratory"
MOST_PIXELS = 2**24  # of a photo; the largest of the release has 320,400
DEEPEST = 100  # depths, in longer edges of the photo; the release's stay within one

_CURE = (
    "get the data of the SIRFS 1.5 release (Barron and Malik) and name the folder that contains mbii/, "
    f"or the release's data/, in data_folder or {VARIABLE}; or choose data='standin'"
)
_REPLACE = "replace it by the file of the SIRFS 1.5 release"


def load(folder: Path | str, split: str, *, input: str = "diffuse", size: int = 64) -> Photos:
    """The photos of one half of the standard split.

    Args:
        folder: The folder that contains `mbii/`, or that folder itself, or the SIRFS release or its `data/`.
        split: "train" (in the paper these score beta) or "test".
        input: Which photo: "diffuse", "shading" or "original".
        size: S, pixels along the edge of the network's input.

    Raises:
        ValueError: Unknown split or input.
        DataError: The data are not there, or a file is missing or damaged.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits of MBII are {', '.join(SPLITS)}")
    if input not in INPUTS:
        raise ValueError(f"unknown input {input!r}; the inputs of MBII are {', '.join(INPUTS)}")
    release = find_release(folder)
    return prepare((_read(release / name, input) for name in SPLITS[split]), size, f"MBII {split} ({input})")


def find_release(folder: Path | str) -> Path:
    """Where `MIT-Berkeley-Laboratory/` is at or below `folder`.

    Raises:
        DataError: It is at none of the known places.
    """
    tried = [Path(folder, *below, RELEASE) for below in (("mbii",), (), ("data",))]
    for path in tried:
        if path.is_dir():
            return path
    raise DataError(f"no MBII photos in {folder}: tried {', '.join(map(str, tried))}; {_CURE}")


def normals_of_depth(depth: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Normals of an orthographic depth map in pixels, growing toward the camera.

    Args:
        depth: (h, w), NaN where unknown.

    Returns:
        (3, h, w) unit normals, x right, y up, z toward the camera, and (h, w) where all depths under the filter are
        known.
    """
    padded = np.pad(depth, 1, mode="edge")
    finite = np.isfinite(padded)
    known = np.all(np.lib.stride_tricks.sliding_window_view(finite, (3, 3)), axis=(-2, -1))
    padded = np.where(finite, padded, 0)
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    gradient_x = (down[:, 2:] - down[:, :-2]) / 8
    gradient_row = (across[2:] - across[:-2]) / 8
    normal = np.stack([-gradient_x, gradient_row, np.ones_like(depth)])
    return normal / np.linalg.norm(normal, axis=0), known


def _read(folder: Path, input: str) -> NativePhoto:
    """One object of the release."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder, the release is incomplete; {_CURE}")
    photo, mask = _read_png(folder / f"{input}.png"), _read_png(folder / "mask.png")
    if photo.dtype != np.uint16:
        raise DataError(
            f"{folder / input}.png: {photo.dtype} where 16 bits are needed, some tool reduced it; {_REPLACE}"
        )
    if photo.ndim == 3 and photo.shape[2] != 3:
        raise DataError(f"{folder / input}.png: {photo.shape[2]} channels where 1 or 3 are needed; {_REPLACE}")
    if mask.ndim == 3:
        raise DataError(f"{folder / 'mask.png'}: {mask.shape[2]} channels where 1 is needed; {_REPLACE}")
    depth = _read_depth(folder / "Z.mat")
    for path, shape in ((folder / "mask.png", mask.shape), (folder / "Z.mat", depth.shape)):
        if shape != photo.shape[:2]:
            raise DataError(f"{path}: {shape} pixels, but {input}.png beside it has {photo.shape[:2]}; {_REPLACE}")
    if not mask.any():
        raise DataError(f"{folder / 'mask.png'}: the mask is empty; {_REPLACE}")
    normal, known = normals_of_depth(depth)
    valid = known & (mask > 0)
    if not valid.any():
        raise DataError(f"{folder / 'Z.mat'}: no depth is known on the object; {_REPLACE}")
    intensity = photo.astype(np.float64) / np.iinfo(np.uint16).max
    return NativePhoto(folder.name, intensity if photo.ndim == 2 else intensity.mean(-1), mask > 0, normal, valid)


def _read_png(path: Path) -> NDArray:
    """The pixels of a PNG file as they are stored, (h, w) or (h, w, channels)."""
    return read_png(path, f"the release is incomplete; {_CURE}", _REPLACE, MOST_PIXELS)


def _read_depth(path: Path) -> NDArray[np.float64]:
    """The depth map of a MATLAB file, (h, w)."""
    depth = read_mat(path, "depth", f"the release is incomplete; {_CURE}", _REPLACE, 16 * MOST_PIXELS)
    if depth.ndim != 2 or depth.dtype.kind != "f":
        raise DataError(f"{path}: 'depth' is {depth.dtype} of shape {depth.shape}, not a matrix of numbers; {_REPLACE}")
    depth = depth.astype(np.float64)
    most = DEEPEST * max(depth.shape)
    if (np.abs(depth) > most).any():  # NaN is not
        raise DataError(
            f"{path}: a depth of {float(np.nanmax(np.abs(depth))):g} pixels, where {most} are the most that make sense "
            f"(NaN says that it is unknown); {_REPLACE}"
        )
    return depth
