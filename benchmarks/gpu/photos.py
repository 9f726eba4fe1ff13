"""Photos in a file of a few MiB, for machines that the release does not fit on.

It holds what the network sees of them at each size, in half precision, and the truth at native resolution that metrics
need: of the valid pixels alone the slopes x / z and y / z, in half precision, which keep a normal within 0.01 degrees.
A sum over all arrays by name is in it, so that none can take another's place.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgenv.datasets import load_photos
from hgenv.datasets.files import read, unpack_npz
from hgenv.datasets.folder import VARIABLE, DataError
from hgenv.datasets.photos import NativeTruth, Photos
from hgenv.samples import DenseSamples

SPLITS = ("validation", "test")
SIZES = (64, 128)
INPUT = "shading"
MOST_BYTES = 2**29  # of a file and of what is in it
STEEPEST = 1e-3  # least z of a unit normal that a slope can tell

Pair = tuple[Photos, Photos]


def pack(path: Path, photos: Mapping[int, Pair]) -> None:
    """Write validation and test photos, by the size that the network sees."""
    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {"sizes": sorted(photos)}
    for i, split in enumerate(SPLITS):
        for size, pair in photos.items():
            samples = pair[i].samples
            arrays[f"{split}/{size}/image"] = samples.image.numpy().astype(np.float16)
            arrays[f"{split}/{size}/target"] = samples.target.numpy().astype(np.float16)
            arrays[f"{split}/{size}/mask"] = samples.mask.numpy() > 0
        some = pair[i]
        about[split] = {"label": some.label, "names": some.names, "windows": [t.window for t in some.native]}
        for k, truth in enumerate(some.native):
            x, y, z = truth.normal[:, truth.mask].double().numpy()
            arrays[f"{split}/native/{k}/slopes"] = (np.stack([x, y]) / np.maximum(z, STEEPEST)).astype(np.float16)
            arrays[f"{split}/native/{k}/mask"] = truth.mask.numpy()
    about["sum"] = _sum(arrays)
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)


def unpack(path: Path, size: int) -> Pair:
    """Validation and test photos as the network sees them at a size.

    Raises:
        DataError: The file is missing or damaged, or has no photos of that size.
    """
    cure = f"make it again by `python -m hgenv.benchmarks.gpu --pack {path.name}`"
    data = read(path, cure, MOST_BYTES)
    try:
        arrays = unpack_npz(data, most=MOST_BYTES)
        about = json.loads(str(arrays.pop("about")))
        if about["sum"] != _sum(arrays):
            raise ValueError("its arrays are not those that were packed")
        if size not in about["sizes"]:
            raise DataError(f"{path}: has photos of {about['sizes']} pixels, not of {size}; pack them again")
        validation, test = (_unpack(arrays, split, about[split], size) for split in SPLITS)
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises anything
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); {cure}") from error
    return validation, test


def _sum(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _unpack(arrays: Any, split: str, about: dict[str, Any], size: int) -> Photos:
    image, target, mask = (
        torch.from_numpy(arrays[f"{split}/{size}/{name}"]).float() for name in ("image", "target", "mask")
    )
    native = []
    for k, window in enumerate(about["windows"]):
        valid = torch.from_numpy(arrays[f"{split}/native/{k}/mask"])
        slopes = torch.from_numpy(arrays[f"{split}/native/{k}/slopes"]).float()
        normal = torch.zeros(3, *valid.shape)
        normal[:, valid] = torch.nn.functional.normalize(torch.cat([slopes, torch.ones_like(slopes[:1])]), dim=0)
        native.append(NativeTruth(normal, valid, tuple(window)))
    samples = DenseSamples(image, _unit(target), mask)
    return Photos(samples, tuple(about["names"]), tuple(native), about["label"])


def _unit(normals: Tensor) -> Tensor:
    return torch.nn.functional.normalize(normals, dim=1)


def released(size: int) -> Pair:
    """MBII's photos from the release.

    Raises:
        DataError: They are not there.
    """
    return load_photos("mbii", None, INPUT, size)


def find(path: Path | None, size: int) -> Pair | None:
    """MBII's photos from a file, or from the release; None where there is neither.

    Raises:
        DataError: What was named is missing or damaged.
    """
    if path is not None:
        return unpack(path, size)
    return released(size) if os.environ.get(VARIABLE) else None
