"""Data by the names that settings give them. What a data set needs is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import find_folder

if TYPE_CHECKING:
    from .heads import Heads
    from .morphable import MorphableModel
    from .photos import Photos

PHOTOS = ("standin", "mbii")
HEADS = ("standin", "scans", "relatives", "basel")
MODELS = ("standin", "ict", "bfm")


def load_photos(
    data: str, data_folder: Path | str | None = None, input: str = "diffuse", size: int = 64
) -> tuple[Photos, Photos]:
    """Validation and test photos: MBII's 10 train and 10 test objects, or the stand-in's.

    Args:
        data: One of `PHOTOS`.
        data_folder: The folder that contains `mbii/`; None: what the environment variable HGENV_DATA names.
        input: Which photos of MBII, see `hgenv.datasets.mbii`.
        size: S, pixels along the edge of the network's input.

    Raises:
        ValueError: `data` or `input` is unknown.
        DataError: The photos are not where they should be, or damaged.
    """
    _check("data", data, PHOTOS)
    if data == "standin":
        from . import standin

        return standin.load("validation", size=size), standin.load("test", size=size)
    from . import mbii

    root = find_folder(data_folder, f"data={data!r}", "mbii/")
    return mbii.load(root, "train", input=input, size=size), mbii.load(root, "test", input=input, size=size)


def some_photos(
    validate_on: Sequence[int],
    *,
    inner: bool = False,
    data: str = "mbii",
    data_folder: Path | str | None = None,
    input: str = "diffuse",
    size: int = 64,
) -> tuple[Photos, Photos]:
    """Photos for a look at how many real ones tuning needs, or for choices that no test photo may see.

        env.data={_target_: hgenv.datasets.some_photos, validate_on: [0, 1]}                 # two to validate on
        env.data={_target_: hgenv.datasets.some_photos, validate_on: [0, 1, 2], inner: true} # an inner hold-out

    Args:
        validate_on: Numbers of the validation photos that are left to validate on.
        inner: Whether the other validation photos take the place of the test photos.
        data: See `load_photos`.
        data_folder: See there.
        input: See there.
        size: See there.

    Returns:
        What to validate on and what to test on.

    Raises:
        ValueError: See `load_photos`.
        DataError: See there; or there are no such photos, or none is left for the inner hold-out.
    """
    validation, test = load_photos(data, data_folder, input, size)
    chosen = validation.some(list(validate_on))
    if not inner:
        return chosen, test
    return chosen, validation.some([n for n in range(len(validation)) if n not in set(validate_on)])


def load_heads(data: str, data_folder: Path | str | None = None, size: int = 64) -> tuple[Heads, Heads]:
    """Renders of validation and test heads, see `hgenv.datasets.heads`.

    Args:
        data: One of `HEADS`.
        data_folder: The folder that contains `faces/` (scans, relatives), or that of the Basel scans; None: what the
            environment variable HGENV_DATA names.
        size: S, pixels along an edge.

    Raises:
        ValueError: `data` is unknown.
        DataError: Their files are not there, or damaged.
    """
    _check("data", data, HEADS)
    from . import heads

    if data == "standin":
        return heads.cached_standin("validation", size), heads.cached_standin("test", size)
    root = find_folder(data_folder, f"data={data!r}", "the scans (.ply)" if data == "basel" else "faces/")
    load = {"scans": heads.load_scans, "relatives": heads.load_relatives, "basel": heads.load_basel}[data]
    return load(root, "validation", size=size), load(root, "test", size=size)


def load_model(model: str, path: Path | str | None = None, data_folder: Path | str | None = None) -> MorphableModel:
    """A morphable model.

    Args:
        model: One of `MODELS`: made by code, USC ICT-FaceKit, Basel Face Model.
        path: Its folder (ict) or `BFM.mat` (bfm); None: where it lies in the data folder.
        data_folder: The folder that contains `faces/`; None: what the environment variable HGENV_DATA names.

    Raises:
        ValueError: The name is unknown.
        DataError: Its files are not there, or damaged.
    """
    _check("model", model, MODELS)
    if model == "standin":
        from . import standin_faces

        return standin_faces.model()
    from . import basel, ict_facekit

    load, below = (ict_facekit.load, "ict_facekit") if model == "ict" else (basel.load, "BFM.mat")
    return load(path if path is not None else find_folder(data_folder, f"model={model!r}", "faces/") / "faces" / below)


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(known)}")
