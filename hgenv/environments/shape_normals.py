"""`hgenv/ShapeNormals-v0` and `hgenv/ShapeNormalsLit-v0`: the paper's first experiment (sections 5.1, A.2)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from ..datasets import mbii, standin
from ..datasets.photos import DataError, Photos
from ..env import DataGenEnv
from ..generators.shapes import ShapeGenerator
from ..learning.hourglass import Units
from ..learning.normals import NormalsLearner
from ..learning.unroll import SGD
from ..rendering import make_renderer


class ShapeNormalsEnv(DataGenEnv):
    """Tune a grammar of CSG shapes so that a network sees surface normals in photos of real objects.

    ## Decision vector (d = 29)

    {table}

    Lengths are relative: every object is fitted into the frame. `hgenv.generators.grammar` defines the grammar's parts.
    Light, texture and exposure follow a fixed distribution: the one that `ShapeNormalsLit-v0` starts from, or `light`.

    ## Observation

    `Box(d + 2,)` float32: beta scaled to [-1, 1], the last validation loss / pi, the share of the episode gone.

    ## Reward

    -L in radians, L being the mean angle error over the valid pixels of the validation photos after the step, at the
    network's resolution.

    ## End of the episode

    Terminated when the step failed (`info["status"]`, see `hgenv.Status`); truncated after `max_updates` steps.

    ## Metrics

    Appendix A.1's, at the photos' native resolution over all valid pixels of all photos: `within_11.25`, `within_22.5`,
    `within_30` (percent), `mean_degrees`, `median_degrees`, `mse_radians2`, and `mean_degrees/<object>`.

    ## Arguments

    | argument | meaning | default |
    | --- | --- | --- |
    | data | "standin" (made by code) or "mbii" (MIT-Berkeley Intrinsic Images) | "standin" |
    | data_folder | the folder that contains `mbii/`; None: the environment variable HGENV_DATA | None |
    | input | MBII photos: "diffuse", "shading" (no texture) or "original" | "diffuse" |
    | size | pixels along an edge of what the network sees | 64 |
    | views | more from each validation photo for L: any of "flips", "crops" (`hgenv.datasets.photos`) | none |
    | network, units | "small" or "paper"; "smooth" or "relu" | "small", "smooth" |
    | renderer, shadows | "analytic", "mesh" or "pyrender"; whether objects shade themselves | "analytic", True |
    | depth | levels of the grammar's tree, 2**depth primitives at most | 3 |
    | light | initial values of render blocks by name, see the 37-d environment | None |
    | learning_rate, momentum, weight_decay, decay_steps | see `hgenv.learning.unroll.SGD` | 0.05, 0.9, 0, 100 |
    | unroll_steps, batch_size | K, and samples of each of the K steps | 2, 32 |
    | max_updates | length of the episode | 1000 |
    | workers | processes that share the probes of an update, on a CPU; 0: none, one after the other here | 0 |
    | probe_batch | probes that are made as one batch; None: all on a GPU, 1 on a CPU | None |
    | device | "auto" (CUDA where there is one), "cpu", "cuda" | "auto" |

    ## Version history

    * v0: initial version.
    """

    lit = False

    def __init__(
        self,
        *,
        data: str = "standin",
        data_folder: str | Path | None = None,
        input: str = "diffuse",
        size: int = 64,
        views: Collection[str] = (),
        network: str = "small",
        units: Units = "smooth",
        renderer: str = "analytic",
        shadows: bool = True,
        depth: int = 3,
        light: dict[str, tuple[float, ...]] | None = None,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        decay_steps: float = 100,
        unroll_steps: int = 2,
        batch_size: int = 32,
        max_updates: int = 1000,
        device: str = "auto",
        workers: int = 0,
        probe_batch: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        chosen = choose_device(device)
        validation, test = (photos.to(chosen) for photos in load_photos(data, data_folder, input, size, views))
        super().__init__(
            ShapeGenerator(make_renderer(renderer, size=size, shadows=shadows), depth=depth, lit=self.lit, light=light),
            NormalsLearner(network, units=units, size=size, device=chosen),
            validation,
            test,
            sgd=SGD(learning_rate, momentum, weight_decay, decay_steps),
            unroll_steps=unroll_steps,
            batch_size=batch_size,
            max_updates=max_updates,
            device=chosen,
            workers=workers,
            probe_batch=probe_batch,
            render_mode=render_mode,
        )


class ShapeNormalsLitEnv(ShapeNormalsEnv):
    """`ShapeNormals-v0` with the render block beta_R of equation 4: how the shapes are lit and photographed.

    ## Decision vector (d = 37)

    {table}

    The first 29 components are those of `ShapeNormals-v0`; a sample's light is drawn around the mean that beta gives.
    The argument `light` moves initial values of the render blocks.

    """

    lit = True


if ShapeNormalsEnv.__doc__ and ShapeNormalsLitEnv.__doc__:  # python -OO has none
    for cls in (ShapeNormalsEnv, ShapeNormalsLitEnv):
        cls.__doc__ = str(cls.__doc__).replace(
            "{table}", ShapeGenerator(lit=cls.lit).space.table().replace("\n", "\n    ")
        )
    # From the observation on, both are alike.
    ShapeNormalsLitEnv.__doc__ += ShapeNormalsEnv.__doc__[ShapeNormalsEnv.__doc__.index("## Observation") :]


def choose_device(device: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:<n>" names.

    Raises:
        ValueError: A GPU was asked for and there is none, or the name means nothing.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; choose 'auto', 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here; use device='cpu' "
            "or 'auto', or install a CUDA build of torch"
        )
    return chosen


def load_photos(
    data: str, folder: str | Path | None, input: str, size: int, views: Collection[str] = ()
) -> tuple[Photos, Photos]:
    """Validation and test photos: MBII's 10 train and 10 test objects, or the stand-in's.

    Raises:
        ValueError: `data`, `input` or a view is unknown.
        DataError: The photos are not where they should be, or damaged.
    """
    if data == "standin":
        return standin.load("validation", size=size, views=views), standin.load("test", size=size)
    if data != "mbii":
        raise ValueError(f"unknown data {data!r}; choose 'standin' or 'mbii'")
    root = folder if folder is not None else mbii.find_data()
    if root is None:
        raise DataError(
            "data='mbii' needs the folder that contains mbii/: set the environment variable HGENV_DATA or pass "
            "data_folder"
        )
    validation = mbii.load(root, "train", input=input, size=size, views=views)
    return validation, mbii.load(root, "test", input=input, size=size)
