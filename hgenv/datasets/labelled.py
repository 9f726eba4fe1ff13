"""Folders of one's own labelled images, in the layouts that are common.

All become what a network can be validated on:

- **Size.** Images of any sizes become H x W: the largest part in the middle that has this shape, by exact area
  averages. Labels of pixels take the label in the middle of each new pixel.
- **Values.** As stored (sRGB, most often), in 0..1: bytes are divided by 255, 16 bits by 65535. Grey is repeated where
  colours are asked for; where grey is, it is the mean of the colours.
- **Rotation** that a camera noted (EXIF) is applied. **Transparent** pixels are blended with black.
- **Split.** The images of each class are shuffled with a fixed seed. A share of them is for validation, the rest for
  testing. The same folder and seed give the same split on every machine.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..problem import SampleData
from ..samples import KeypointSamples, LabelledImages, Samples
from . import files
from .folder import DataError
from .photos import check_size, coverage

logger = logging.getLogger(__name__)

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SMALL = 30  # images to validate on, below which a warning is given
REPLACE = "replace the file by an intact one, or remove it"
ORIENTATION = 0x0112  # of EXIF
# What undoes each orientation, on (h, w, ...).
UPRIGHT: dict[int, Any] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}

Size = int | tuple[int, int]
Window = tuple[float, float, float, float]  # top, height, left, width in native pixels


@dataclass(frozen=True)
class Folder:
    """Images of one's own, split into those that score beta and those for reports alone.

    Attributes:
        validation: What beta is tuned on.
        test: What nothing is tuned on.
        names: Of the classes or points, in the order of their numbers; what the task takes.
    """

    validation: SampleData
    test: SampleData
    names: tuple[str, ...]

    @classmethod
    def of_classes(
        cls, folder: Path | str, size: Size, *, channels: int = 3, share: float = 0.5, seed: int = 0
    ) -> Folder:
        """A folder for each class, as torchvision's ImageFolder: `photos/cat/1.jpg`, `photos/dog/7.png`.

        Samples are `LabelledImages`, for `ClassificationTask(folder.names)`. Classes are numbered in the order of their
        names. Each class is split by itself.

        Args:
            folder: The folder of folders.
            size: Pixels of an image along an edge, or height and width.
            channels: 3 for colours, 1 for grey.
            share: Of the images that are for validation.
            seed: Of the split.

        Raises:
            DataError: There are no two classes, or no two images, or one is broken; the message names the file.
            ValueError: An argument makes no sense.
        """
        root, shape = _checked(folder, size, channels, share)
        names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if len(names) < 2:
            raise DataError(
                f"{root}: {len(names)} folders, and at least two are needed, one for each class, with its images in "
                f"it: {root}/cat/1.jpg, {root}/dog/1.jpg"
            )
        groups = []
        for name in names:
            groups.append(_images(sorted((root / name).rglob("*"))))
            if not groups[-1]:
                raise DataError(f"{root / name}: no images ({', '.join(ENDINGS)}); add some, or remove the folder")
        _check_count(root, sum(map(len, groups)), shape, channels)
        paths = [path for group in groups for path in group]
        image = np.stack([_read(path, shape, channels) for path in paths])
        label = np.concatenate([np.full(len(group), i) for i, group in enumerate(groups)])
        samples = LabelledImages(torch.from_numpy(image), torch.from_numpy(label.astype(np.int64)))
        return cls._split(root, samples, [len(group) for group in groups], share, seed, names)

    @classmethod
    def of_pairs(
        cls,
        folder: Path | str,
        size: Size,
        classes: Sequence[str] | int,
        *,
        ignore: int = 255,
        channels: int = 3,
        share: float = 0.5,
        seed: int = 0,
    ) -> Folder:
        """Images in `image/` and, under the same name, PNG files of class numbers in `label/`, for segmentation.

        Samples are `LabelledImages`, for `SegmentationTask(folder.names)`. A label file has one channel, or a palette
        whose indices are the numbers, as in PASCAL VOC.

        Args:
            folder: The folder that holds both.
            size: Pixels of an image along an edge, or height and width.
            classes: Names of the classes, or how many there are.
            ignore: The number of what is not known.
            channels: 3 for colours, 1 for grey.
            share: Of the images that are for validation.
            seed: Of the split.

        Raises:
            DataError: An image or label is missing or broken, they do not fit, or a number is that of no class.
            ValueError: An argument makes no sense.
        """
        root, shape = _checked(folder, size, channels, share)
        names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
        for part in ("image", "label"):
            if not (root / part).is_dir():
                raise DataError(f"{root / part}: there is no such folder; {root} needs image/ and label/")
        found: dict[str, dict[str, Path]] = {"image": {}, "label": {}}
        for part, those in found.items():
            for path in _images(sorted((root / part).iterdir())):
                if path.stem in those:
                    raise DataError(f"{path}: {those[path.stem].name} has the same name; remove one of the two")
                those[path.stem] = path
        for part, other in (("image", "label"), ("label", "image")):
            for stem, path in found[part].items():
                if stem not in found[other]:
                    raise DataError(f"{path}: there is no {other}/{stem}.png to it; add it, or remove the file")
        _check_count(root, len(found["image"]), shape, channels)
        seen, labels = [], []
        for stem, path in found["image"].items():
            pixels = _pixels(path, channels)
            label = _labels(found["label"][stem], len(names), ignore)
            if label.shape != pixels.shape[:2]:
                raise DataError(
                    f"{found['label'][stem]}: {label.shape[0]} x {label.shape[1]} pixels, but {path.name} has "
                    f"{pixels.shape[0]} x {pixels.shape[1]}; they must be of one size"
                )
            window = _middle(label.shape, shape)
            seen.append(_averaged(pixels, window, shape))
            labels.append(_nearest(label, window, shape))
        samples = LabelledImages(torch.from_numpy(np.stack(seen)), torch.from_numpy(np.stack(labels)))
        if not (samples.label != ignore).any():
            raise DataError(f"{root / 'label'}: no pixel of any file has a class; all are {ignore}")
        return cls._split(root, samples, [len(samples)], share, seed, names)

    @classmethod
    def of_keypoints(
        cls,
        annotations: Path | str,
        images: Path | str,
        size: int,
        *,
        margin: float = 1.25,
        channels: int = 3,
        share: float = 0.5,
        seed: int = 0,
    ) -> Folder:
        """Points of objects, from a COCO JSON file (`images`, `annotations`, `categories` with `keypoints`).

        Samples are `KeypointSamples`, one for each annotated object, for `KeypointTask(folder.names)`. A sample is the
        square around the object's box; what reaches outside of the image is black. Points count where they are labelled
        (COCO's visibility 1 or 2). Objects of one image stay together in the split.

        Args:
            annotations: The JSON file.
            images: The folder that `file_name` is relative to.
            size: Pixels of a sample along an edge.
            margin: Edge of the square, in longer sides of the box.
            channels: 3 for colours, 1 for grey.
            share: Of the images that are for validation.
            seed: Of the split.

        Raises:
            DataError: A file is missing or broken, or says what makes no sense.
            ValueError: An argument makes no sense.
        """
        root, shape = _checked(images, size, channels, share)
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be a positive number, not {margin}")
        path = Path(annotations)
        names, objects = _coco(path, root)
        _check_count(path, sum(map(len, objects.values())), shape, channels)
        seen, points, visible, counts = [], [], [], []
        for file, those in objects.items():
            pixels = _pixels(file, channels)
            counts.append(len(those))
            for box, point in those:
                edge = margin * max(box[2], box[3])
                start = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2]) - edge / 2
                seen.append(_averaged(pixels, (start[1], edge, start[0], edge), shape))
                known = point[:, 2] > 0
                # The centre of pixel (x, y) is at (x + 1/2, y + 1/2).
                place = 2 * (point[:, :2] + 0.5 - start) / edge - 1
                points.append(np.where(known[:, None], place, 0))
                visible.append(known)
        columns = [np.stack(seen), np.stack(points), np.stack(visible)]
        samples = KeypointSamples(*(torch.from_numpy(x.astype(np.float32)) for x in columns))
        _check_count(path, len(counts), shape, channels)
        chosen = _chosen([len(counts)], share, seed)
        return cls._parts(path, samples, np.repeat(chosen, counts), names)

    @classmethod
    def _split(
        cls, root: Path, samples: Samples, counts: list[int], share: float, seed: int, names: tuple[str, ...]
    ) -> Folder:
        return cls._parts(root, samples, _chosen(counts, share, seed), names)

    @classmethod
    def _parts(cls, root: Path, samples: Samples, chosen: NDArray[np.bool_], names: tuple[str, ...]) -> Folder:
        if chosen.all():
            raise DataError(f"{root}: no class has two images, so there is none left to test on; add images")
        count = int(chosen.sum())
        if count < SMALL:
            logger.warning(
                "%s: only %d images to validate on; beta may come to suit these rather than the world. Use more, or "
                "look at the test figures as well",
                root,
                count,
            )
        rows = torch.from_numpy(chosen)
        label = f"{root.name}, {{}} of {len(samples)} images"
        validation, test = (SampleData(samples[r], label.format(int(r.sum()))) for r in (rows, ~rows))
        return cls(validation, test, names)


def _checked(folder: Path | str, size: Size, channels: int, share: float) -> tuple[Path, tuple[int, int]]:
    """The folder, and height and width, if all arguments make sense."""
    shape = (size, size) if isinstance(size, int) else tuple(size)
    if len(shape) != 2:
        raise ValueError(f"size must be a number of pixels, or height and width, not {size!r}")
    for edge in shape:
        check_size(edge)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 3 for colours or 1 for grey, not {channels}")
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, of the images that are for validation, not {share}")
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    return root, (shape[0], shape[1])


def _images(paths: Sequence[Path]) -> list[Path]:
    return [p for p in paths if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and not p.is_dir()]


def _check_count(root: Path, count: int, shape: tuple[int, int], channels: int) -> None:
    if count < 2:
        what = "one image" if count else "no images"
        raise DataError(f"{root}: {what}; at least two are needed, one to validate on and one to test on")
    size = 4 * count * channels * shape[0] * shape[1]
    if size > files.MOST_BYTES:
        raise DataError(
            f"{root}: {count} images of {shape[0]} x {shape[1]} pixels take {size} bytes, where {files.MOST_BYTES} are "
            "the most that make sense: all of them are looked at in each step; lower the size, or take fewer"
        )


def _chosen(counts: Sequence[int], share: float, seed: int) -> NDArray[np.bool_]:
    """Which samples are for validation; each group is split by itself, and a single sample is for validation."""
    draw, parts = np.random.default_rng(seed), []
    for count in counts:
        some = min(max(1, round(share * count)), max(1, count - 1))
        parts.append(draw.permutation(count) < some)
    return np.concatenate(parts)


def _read(path: Path, shape: tuple[int, int], channels: int) -> NDArray[np.float32]:
    """An image as the network sees it, (channels, H, W)."""
    pixels = _pixels(path, channels)
    return _averaged(pixels, _middle(pixels.shape[:2], shape), shape)


def _middle(native: tuple[int, ...], shape: tuple[int, int]) -> Window:
    """The largest window in the middle that has the form of `shape`."""
    scale = min(native[0] / shape[0], native[1] / shape[1])
    height, width = scale * shape[0], scale * shape[1]
    return (native[0] - height) / 2, height, (native[1] - width) / 2, width


def _averaged(pixels: NDArray, window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Area averages of (h, w, C) over a window, (C, H, W); black outside of the image."""
    top, height, left, width = window
    rows, columns = coverage(pixels.shape[0], top, height, shape[0]), coverage(pixels.shape[1], left, width, shape[1])
    return np.ascontiguousarray(rows @ pixels.transpose(2, 0, 1) @ columns.T, dtype=np.float32)


def _nearest(label: NDArray, window: Window, shape: tuple[int, int]) -> NDArray[np.int64]:
    """The label in the middle of each new pixel."""
    top, height, left, width = window
    row = (top + (np.arange(shape[0]) + 0.5) * height / shape[0]).astype(int)
    column = (left + (np.arange(shape[1]) + 0.5) * width / shape[1]).astype(int)
    return label[np.ix_(row, column)].astype(np.int64)


def _pixels(path: Path, channels: int) -> NDArray[np.float64]:
    """An image upright, (h, w, channels) in 0..1, blended with black where it is transparent.

    Raises:
        DataError: It is missing or broken, or has numbers of no known range.
    """
    stored, orientation = _decoded(path, palette=False)
    if stored.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: numbers of type {stored.dtype}, whose range is not known; save it with 8 or 16 bits")
    pixels = np.atleast_3d(stored).astype(np.float64) / np.iinfo(stored.dtype).max
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1] * pixels[..., -1:]
    if pixels.shape[2] != channels:
        pixels = pixels.repeat(3, 2) if channels == 3 else pixels.mean(2, keepdims=True)
    return UPRIGHT.get(orientation, lambda x: x)(pixels)


def _labels(path: Path, classes: int, ignore: int) -> NDArray:
    """Numbers of classes, (h, w), upright.

    Raises:
        DataError: It is missing or broken, or there are others.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: numbers of classes must be in a PNG file; JPEG and the like change them")
    stored, orientation = _decoded(path, palette=True)
    if stored.ndim != 2:
        raise DataError(
            f"{path}: {stored.shape[2]} channels, and a label has one, the number of each pixel's class; replace "
            "colours by numbers"
        )
    wrong = (stored >= classes) & (stored != ignore)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: the pixel at row {row}, column {column} is {stored[row, column]}, but there are {classes} "
            f"classes, 0 to {classes - 1}, and {ignore} for what is not known; renumber, or name more classes"
        )
    return UPRIGHT.get(orientation, lambda x: x)(stored)


def _decoded(path: Path, *, palette: bool) -> tuple[NDArray, int]:
    """Pixels as stored, colours as RGB, and the EXIF orientation; of a palette, the indices if they are asked for.

    Raises:
        DataError: It is missing or broken.
    """
    from PIL import Image  # late: data may come from elsewhere

    data = files.read(path, REPLACE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever has a cure is raised below
            with Image.open(io.BytesIO(data)) as image:
                if not 0 < image.width * image.height <= files.MOST_PIXELS:
                    raise ValueError(f"{image.height} x {image.width} pixels; scale it down")
                orientation = image.getexif().get(ORIENTATION, 1)
                if image.format != "PNG" or (palette and image.mode == "P"):
                    return _plain(image, palette), orientation
        pixels = files.read_png(path, REPLACE, REPLACE)
        bits, colours = data[24], data[25]  # of the header, which is intact
        if palette and bits < 8 and not colours:
            pixels = pixels // (255 // (2**bits - 1))  # OpenCV spreads them over all of 0..255
    except DataError:
        raise
    except Exception as error:  # whatever decoders say
        raise DataError(f"{path}: truncated or damaged, or not an image ({error}); {REPLACE}") from error
    # OpenCV has blue first.
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]], orientation


def _plain(image: Any, palette: bool) -> NDArray:
    """An array of Pillow's image; all pixels are read here."""
    if palette and image.mode == "P":
        return np.asarray(image)
    transparent = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
    if image.mode in ("P", "PA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return np.asarray(image.convert("RGBA" if transparent else "RGB"))
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    found = np.asarray(image)
    return found.astype(found.dtype.newbyteorder("=")) if image.mode.startswith("I;16") else found


Objects = dict[Path, list[tuple[NDArray, NDArray]]]


def _coco(path: Path, root: Path) -> tuple[tuple[str, ...], Objects]:
    """Names of the points, and box (x, y, width, height) and points (J, 3) of the objects of each image.

    Raises:
        DataError: The file is missing or broken, or what it says makes no sense.
    """
    cure = "see cocodataset.org/#format-data"
    said = files.read_json(path, cure)
    try:
        named = {tuple(map(str, c["keypoints"])) for c in said["categories"] if c.get("keypoints")}
        images = {i["id"]: root / str(i["file_name"]) for i in said["images"]}
        found = [a for a in said["annotations"] if any(v > 0 for v in a.get("keypoints", ())[2::3])]
        where = [(a["image_id"], np.array(a["bbox"], float), np.array(a["keypoints"], float)) for a in found]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: no COCO file with keypoints ({words}); {cure}") from error
    if len(named) != 1:
        raise DataError(f"{path}: {len(named)} categories with different keypoints, and one is needed; split the file")
    (names,) = named
    objects: Objects = {}
    for number, (image, box, points) in enumerate(where):
        what = f"{path}: annotation {found[number].get('id', number)}"
        if image not in images:
            raise DataError(f"{what} is of image {image}, which is not in the list of images; remove it")
        if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > 0).all():
            raise DataError(f"{what} has the box {box.tolist()}; x, y and positive width and height are needed")
        if points.shape != (3 * len(names),) or not np.isfinite(points).all():
            raise DataError(f"{what} has {points.size} numbers of keypoints, and {len(names)} names need three each")
        objects.setdefault(images[image], []).append((box, points.reshape(-1, 3)))
    return names, objects
