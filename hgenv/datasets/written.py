"""Samples as files, in the layouts that others read, `hgenv.datasets.Folder` among them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..samples import KeypointSamples, LabelledImages, Samples, SamplesError

DIGITS = 6  # of a sample's number in file names
SEEN = ("image", "mask")  # fields that become PNG files if they are images


class Writer:
    """Writes samples into a folder, one file or more for each.

    | samples | layout |
    | --- | --- |
    | `LabelledImages` of whole images | a folder for each class: `cat/000007.png`; `Folder.of_classes` |
    | `LabelledImages` of pixels | `image/000007.png`, and class numbers in `label/000007.png`; `Folder.of_pairs` |
    | `KeypointSamples` | `images/000007.png`, and `annotations.json` as COCO has it; `Folder.of_keypoints` |
    | others | a folder for each field: `image` and `mask` as PNG if they are images, the rest as `.npy` |

    Images become PNG files of 8 bits; what is below 0 or above 1 is cut off.

    Args:
        folder: Where to; it is made if it is not there.
        names: Of the classes or points; their numbers, where there are none.

    Raises:
        SamplesError: A name cannot be that of a folder.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ()) -> None:
        self.folder, self.names = folder, list(names)
        for name in self.names:
            if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
                raise SamplesError(f"the class {name!r} cannot be the name of a folder; give it another one")
        self._coco: dict[str, Any] | None = None

    def write(self, samples: Samples, first: int) -> None:
        """Write samples, numbered from `first`; those that are there are written again.

        Raises:
            SamplesError: They do not fit the layout.
            OSError: The system refuses.
        """
        arrays = {name: x.detach().cpu().numpy() for name, x in zip(samples.names, samples.tensors, strict=True)}
        numbers = [f"{first + i:0{DIGITS}}" for i in range(len(samples))]
        if isinstance(samples, LabelledImages):
            self._labelled(arrays, numbers)
        elif isinstance(samples, KeypointSamples):
            self._keypoints(arrays, numbers, first)
        else:
            for name, x in arrays.items():
                is_image = name in SEEN and x.ndim == 4 and x.shape[1] in (1, 3) and x.dtype.kind == "f"
                for number, row in zip(numbers, x, strict=True):
                    if is_image:
                        self._png(self.folder / name / f"{number}.png", row)
                    else:
                        self._put(self.folder / name / f"{number}.npy", _npy(row))

    def _labelled(self, arrays: dict[str, NDArray[Any]], numbers: Sequence[str]) -> None:
        image, label = arrays["image"], arrays["label"]
        if label.ndim == 1:
            for number, row, name in zip(numbers, image, self._named(label), strict=True):
                self._png(self.folder / name / f"{number}.png", row)
            return
        if label.min() < 0 or label.max() > 255:
            raise SamplesError(f"class numbers must be from 0 to 255 to be written, not {label.min()} to {label.max()}")
        for number, row, classes in zip(numbers, image, label.astype(np.uint8), strict=True):
            self._png(self.folder / "image" / f"{number}.png", row)
            self._put(self.folder / "label" / f"{number}.png", _encoded(Image.fromarray(classes)))

    def _named(self, label: NDArray[Any]) -> list[str]:
        """The folders of classes."""
        if not self.names:
            return [f"{n:03}" for n in label.tolist()]
        if label.min() < 0 or label.max() >= len(self.names):
            raise SamplesError(f"class numbers must be from 0 to {len(self.names) - 1}, for {', '.join(self.names)}")
        return [self.names[n] for n in label.tolist()]

    def _keypoints(self, arrays: dict[str, NDArray[Any]], numbers: Sequence[str], first: int) -> None:
        size = arrays["image"].shape[-1]
        points = (arrays["point"] + 1) / 2 * size - 0.5  # the centre of pixel (x, y) is at (x + 1/2, y + 1/2)
        coco = self._annotations(points.shape[1])
        known = {entry["id"] for entry in coco["images"]}
        for i, number in enumerate(numbers):
            self._png(self.folder / "images" / f"{number}.png", arrays["image"][i])
            if first + i in known:
                continue
            seen = arrays["visible"][i] > 0
            triples = [[float(x), float(y), 2] if k else [0, 0, 0] for (x, y), k in zip(points[i], seen, strict=True)]
            coco["images"].append({"id": first + i, "file_name": f"{number}.png", "width": size, "height": size})
            coco["annotations"].append(
                {
                    "id": first + i,
                    "image_id": first + i,
                    "category_id": 1,
                    "bbox": [0, 0, size, size],
                    "area": size * size,
                    "iscrowd": 0,
                    "num_keypoints": int(seen.sum()),
                    "keypoints": [x for triple in triples for x in triple],
                }
            )
        self._put(self.folder / "annotations.json", json.dumps(coco).encode())

    def _annotations(self, count: int) -> dict[str, Any]:
        """What is in the COCO file so far."""
        if self._coco is None:
            path = self.folder / "annotations.json"
            names = self.names or [str(i) for i in range(count)]
            category = {"id": 1, "name": "object", "keypoints": names, "skeleton": []}
            empty: dict[str, Any] = {"images": [], "annotations": [], "categories": [category]}
            self._coco = json.loads(path.read_text()) if path.is_file() else empty
        return self._coco

    def _png(self, path: Path, image: NDArray[Any]) -> None:
        """An image (C, H, W) from 0 to 1.

        Raises:
            SamplesError: It is neither grey nor in colours.
        """
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise SamplesError(f"images must be (1, H, W) or (3, H, W) to be written as PNG files, not {image.shape}")
        pixels = np.round(255 * np.nan_to_num(image).clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
        self._put(path, _encoded(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)))

    @staticmethod
    def _put(path: Path, content: bytes) -> None:
        """A file that is there completely or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        part.replace(path)


def _encoded(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "png")
    return data.getvalue()


def _npy(row: NDArray[Any]) -> bytes:
    data = io.BytesIO()
    np.save(data, row)
    return data.getvalue()
