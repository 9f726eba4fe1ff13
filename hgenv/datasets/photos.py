"""What a set of photos with known normals is, and how a photo becomes what the network sees.

Every data set goes through `prepare`, so that photos and renders look alike:

- **Frame.** The network sees a square of the photo. The bounding box of the object's mask is centred in it and its
  longer side spans `FIT` of the edge, as in the renders. What reaches outside the photo is black padding.
- **Resampling.** Exact area averages: each of the S x S pixels averages the part of the native pixels that it covers.
  The image averages over the object's pixels only, so that no background bleeds in at the silhouette; normals average
  over valid pixels only and are normalized again.
- **Masks.** Two of them. The *object* mask is the silhouette; the *valid* mask, a part of it, holds the pixels whose
  normal is known. A pixel belongs to either where at least half of its area does. The image is zero outside the object
  mask and shows the whole object; loss and metrics look at valid pixels, so the samples' mask is the valid one.
- **Exposure.** Linear intensity, the mean of red, green and blue. It is divided by its 99th percentile over the
  object's native pixels and clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..rendering.framing import FIT
from ..samples import DenseSamples
from .folder import DataError

EXPOSURE_PERCENTILE = 99.0
LENGTH_TOLERANCE = 0.02  # of normals
MOST_PIXELS = 2**26  # of a photo: 8192 x 8192
LARGEST_SIZE = 4096  # of what the network sees

Window = tuple[float, float, float]


@dataclass(frozen=True)
class NativePhoto:
    """A photo at its own resolution, h x w.

    Attributes:
        name: Name of the object.
        intensity: (h, w) float, linear, any scale.
        object: (h, w) bool, the object's silhouette. Other numbers will do where they are 0 and one other, as in a mask
            that was saved as an image.
        normal: (3, h, w) float unit vectors, x right, y up, z toward the camera; anything where not valid.
        valid: (h, w) bool, where the normal is known, or such numbers; a part of `object`.
    """

    name: str
    intensity: NDArray[np.floating]
    object: NDArray[np.bool_]
    normal: NDArray[np.floating]
    valid: NDArray[np.bool_]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, np.shape(self.intensity)))
        return f"<NativePhoto {self.name!r}: {shape}, {np.count_nonzero(self.valid)} valid pixels>"


@dataclass(frozen=True)
class NativeTruth:
    """The known normals of a photo at its own resolution, h x w.

    Attributes:
        normal: (3, h, w) float32 unit vectors, x right, y up, z toward the camera; zero where not valid.
        mask: (h, w) bool, valid pixels.
        window: The square that the network sees: left, top, edge, in native pixels. Pixel (i, j) covers
            [j, j + 1] x [i, i + 1]; the square may reach outside the photo.
    """

    normal: Tensor
    mask: Tensor
    window: Window

    @cached_property
    def valid(self) -> tuple[Tensor, Tensor]:
        """The M valid pixels: where they lie in the window, (M, 2) x and y from -1 to 1, and their normals, (3, M)."""
        left, top, edge = self.window
        row, column = self.mask.nonzero(as_tuple=True)
        # The centre of pixel (i, j) is at (j + 1/2, i + 1/2); the window's edges are at -1 and 1.
        centre = torch.stack([column, row], -1).double() + 0.5
        position = 2 * (centre - centre.new_tensor([left, top])) / edge - 1
        return position.float(), self.normal[:, row, column].float()


@dataclass(frozen=True)
class Photos:
    """N photos as the network sees them, and their truth at native resolution.

    Attributes:
        samples: image (N, 1, S, S) in [0, 1], target (N, 3, S, S) unit normals, mask (N, 1, S, S) valid pixels;
            float32.
        names: N names of objects.
        native: N truths at native resolution.
        label: Which data these are; to be written beside every figure.
    """

    samples: DenseSamples
    names: tuple[str, ...]
    native: tuple[NativeTruth, ...]
    label: str

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            DataError: They do not.
        """
        if not len(self.samples) == len(self.names) == len(self.native) > 0:
            raise DataError(
                f"{self.label}: {len(self.samples)} samples, {len(self.names)} names and {len(self.native)} truths; "
                "each photo needs one of each: use hgenv.datasets.prepare"
            )
        for name, truth in zip(self.names, self.native, strict=True):
            left, top, edge = truth.window
            if truth.mask.dtype != torch.bool or truth.normal.shape != (3, *truth.mask.shape):
                raise DataError(
                    f"{self.label}, photo {name!r}: a truth has a mask (h, w) of bool and normals (3, h, w), not "
                    f"{truth.mask.dtype} {tuple(truth.mask.shape)} and {tuple(truth.normal.shape)}"
                )
            if not np.isfinite([left, top, edge]).all() or edge <= 0:
                raise DataError(f"{self.label}, photo {name!r}: there is no window {truth.window}")

    def __len__(self) -> int:
        return len(self.names)

    def some(self, numbers: Sequence[int]) -> Photos:
        """The photos with these numbers, counted from 0; the label says how many, and of how many.

        Raises:
            DataError: There are no such photos, or one is named twice.
        """
        if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= n < len(self) for n in numbers):
            raise DataError(f"{self.label}: choose some of the photos 0 to {len(self) - 1}, each once, not {numbers}")
        rows = torch.tensor(numbers)
        return Photos(
            self.samples[rows],
            tuple(self.names[n] for n in numbers),
            tuple(self.native[n] for n in numbers),
            f"{self.label}, {len(numbers)} of {len(self)}",
        )

    def __repr__(self) -> str:
        return f"<Photos: {self.label}, {len(self)} of {self.samples.image.shape[-1]} px>"

    def to(self, device: torch.device | str) -> Photos:
        """The same photos on another device."""
        native = tuple(replace(t, normal=t.normal.to(device), mask=t.mask.to(device)) for t in self.native)
        return replace(self, samples=self.samples.to(device), native=native)


def prepare(photos: Iterable[NativePhoto], size: int, label: str) -> Photos:
    """What the network sees of `photos`, as the module's docstring says.

    Args:
        photos: At least one photo.
        size: S, pixels along the edge of the network's input.
        label: Which data these are.

    Raises:
        ValueError: `size` is not a positive integer, or too large.
        DataError: A photo's parts do not fit each other, or its numbers make no sense; it has no object, no valid pixel
            (at native resolution or after resampling), is black, or has the name of another.
    """
    check_size(size)
    names, native = [], []
    seen: list[list[NDArray]] = []  # image, normal, mask of each
    for photo in photos:
        where = f"{label}, photo {photo.name!r}"
        photo = _checked(photo, where)
        bright = float(np.percentile(photo.intensity[photo.object], EXPOSURE_PERCENTILE))
        if not bright > 0:
            raise DataError(
                f"{where}: the object is black (99th percentile {bright:g}); replace the photo by an intact one"
            )
        window = frame(photo.object)
        intensity = np.clip(photo.intensity / bright, 0, 1)
        seen.append(_resample(photo, intensity, window, size))
        if not seen[-1][2].any():
            raise DataError(
                f"{where}: of {int(photo.valid.sum())} native pixels with a known normal none is left at size {size}; "
                f"replace the photo's depth by an intact one or raise the size"
            )
        names.append(photo.name)
        truth = np.where(photo.valid, photo.normal, 0)
        native.append(NativeTruth(_float32(truth), torch.from_numpy(photo.valid.copy()), window))
    if not names:
        raise DataError(f"{label}: there are no photos")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{label}: several photos have the name {twice[0]!r}; each needs its own, its metrics go by it")
    samples = DenseSamples(*(_float32(np.stack(parts)) for parts in zip(*seen, strict=True)))
    return Photos(samples, tuple(names), tuple(native), label)


def check_size(size: int) -> None:
    """Make sure that images can have so many pixels along an edge.

    Raises:
        ValueError: They cannot.
    """
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_SIZE:
        raise ValueError(f"size must be a positive number of pixels, {LARGEST_SIZE} at most, not {size!r}")


def _checked(photo: NativePhoto, where: str) -> NativePhoto:
    """The photo with arrays of the documented types, if its parts fit each other and its numbers make sense.

    Raises:
        DataError: They do not; the message says which.
    """
    if not isinstance(photo.name, str) or not photo.name.isprintable() or not photo.name:
        raise DataError(f"{where}: its name must be a text that can be printed; metrics go by it")
    parts: dict[str, NDArray] = {}
    for part in ("intensity", "object", "normal", "valid"):
        parts[part] = found = np.asarray(getattr(photo, part))
        if found.dtype.kind not in "biuf":
            raise DataError(f"{where}: {part} must be real numbers, not {found.dtype}")
    shape = parts["intensity"].shape
    if len(shape) != 2:
        raise DataError(f"{where}: intensity must be (h, w), not {shape}; take the mean of the colours")
    if not 0 < shape[0] * shape[1] <= MOST_PIXELS:
        raise DataError(f"{where}: {shape[0]} x {shape[1]} pixels, where 1 to {MOST_PIXELS} make sense; scale it down")
    for part, expected in (("object", shape), ("normal", (3, *shape)), ("valid", shape)):
        if parts[part].shape != expected:
            raise DataError(f"{where}: {part} must be {expected} beside this intensity, not {parts[part].shape}")
    for part in ("object", "valid"):
        mask = as_mask(parts[part])
        if mask is None:
            raise DataError(
                f"{where}: {part} must be bool, or 0 and one other number; this {parts[part].dtype} has more of them: "
                "compare it with a threshold"
            )
        parts[part] = mask
    if parts["intensity"].dtype == np.bool_ or parts["normal"].dtype.kind != "f":
        types = f"{parts['intensity'].dtype} and {parts['normal'].dtype}"
        raise DataError(f"{where}: intensity must be numbers and normals must be floating-point, not {types}")
    if parts["intensity"].dtype.kind == "f":
        parts["intensity"] = parts["intensity"].astype(np.float64)  # half precision has no room for sums
    parts["normal"] = parts["normal"].astype(np.float64)
    photo = NativePhoto(photo.name, **parts)
    if not photo.object.any():
        raise DataError(f"{where}: the object's mask is empty; replace the photo's mask file by an intact one")
    if (outside := photo.valid & ~photo.object).any():
        raise DataError(f"{where}: {int(outside.sum())} valid pixels are outside the object; use valid & object")
    seen = photo.intensity[photo.object]
    if not np.isfinite(seen).all() or (seen < 0).any():
        raise DataError(f"{where}: intensity must be finite and not negative within the object")
    lengths = np.linalg.norm(photo.normal[:, photo.valid], axis=0)
    wrong = ~(np.abs(lengths - 1) < LENGTH_TOLERANCE)  # so is NaN
    if wrong.any():
        raise DataError(
            f"{where}: normals must have length 1 where valid; {int(wrong.sum())} do not, such as "
            f"{lengths[wrong][0]:.3g}; normalize them, or mark fewer as valid"
        )
    return photo


def as_mask(numbers: NDArray) -> NDArray[np.bool_] | None:
    """True where a mask's numbers are not 0, if they are 0 and one other, such as 255; None if there are more."""
    if numbers.dtype == np.bool_:
        return numbers
    most = numbers.max(initial=0)
    inside = numbers == most
    if not most > 0 or not (inside | (numbers == 0)).all():  # so is NaN
        return None if (numbers != 0).any() else np.zeros(numbers.shape, dtype=bool)
    return inside


def _resample(photo: NativePhoto, intensity: NDArray, window: Window, size: int) -> list[NDArray]:
    """Image (1, S, S), normals (3, S, S) and valid pixels (1, S, S) of what a window shows."""
    left, top, edge = window
    rows = coverage(photo.object.shape[0], top, edge, size)
    columns = coverage(photo.object.shape[1], left, edge, size)
    image, _ = _average(intensity, photo.object, rows, columns)
    normal, mask = _average(photo.normal, photo.valid, rows, columns)
    return [image[None], _normalized(normal), mask[None]]


def frame(mask: NDArray[np.bool_]) -> Window:
    """The square that shows the object of an (h, w) mask: left, top and edge, in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    edge = max(bottom - top, right - left) / FIT
    return float((left + right - edge) / 2), float((top + bottom - edge) / 2), float(edge)


def coverage(length: int, start: float, edge: float, size: int) -> NDArray[np.float64]:
    """(size, length): the share of each pixel of the frame that each native pixel covers, along one axis."""
    bounds = start + edge / size * np.arange(size + 1)
    pixels = np.arange(length)
    overlap = np.minimum(bounds[1:, None], pixels + 1) - np.maximum(bounds[:-1, None], pixels)
    return np.clip(overlap, 0, None) * (size / edge)


def _average(
    values: NDArray, over: NDArray[np.bool_], rows: NDArray, columns: NDArray
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Mean of (..., h, w) over the pixels `over` in each pixel of the frame, and where they cover at least half of it.

    Zero where they do not.
    """
    share = rows @ over @ columns.T
    inside = share >= 0.5 - 1e-9  # exactly half counts, whatever the rounding
    return (rows @ np.where(over, values, 0) @ columns.T) * inside / np.where(inside, share, 1), inside


def _normalized(vectors: NDArray) -> NDArray:
    """(3, h, w) vectors of unit length; zero stays zero."""
    length = np.linalg.norm(vectors, axis=0)
    return vectors / np.where(length > 0, length, 1)


def _float32(array: NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
