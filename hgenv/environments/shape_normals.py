"""`hgenv/ShapeNormals-v0`, `ShapeNormalsLit-v0`, `ShapeNormalsStudio-v0`: the paper's first experiment (5.1, A.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from ..datasets import load_photos
from ..datasets.photos import Photos
from ..env import DataGenEnv, Options
from ..generators.shapes import ShapeGenerator
from ..generators.studio import StudioGenerator
from ..learning.dense import DenseLearner, Network
from ..learning.rules import SGD, Rule
from ..problem import Generator
from ..rendering.csg import AnalyticRenderer
from ..tasks.normals import NormalsTask


class ShapeNormalsEnv(DataGenEnv):
    """Tune a grammar of CSG shapes so that a network sees surface normals in photos of real objects.

    ## Decision vector (d = 29)

    {table}

    Lengths are relative: every object is fitted into the frame. `hgenv.generators.grammar` defines the grammar's parts.
    Light, texture and exposure follow a fixed distribution: the one that `ShapeNormalsLit-v0` starts from, or the
    generator's `light`.

    ## Observation

    `Box(d + 2,)` float32: beta scaled to [-1, 1], the last validation loss / pi, the share of the episode gone.

    ## Reward

    -L in radians, L being the mean angle error over the valid pixels of the validation photos after the step, at the
    network's resolution.

    ## End of the episode

    Terminated when the step failed (`info["status"]`, see `hgenv.Status`); truncated after `max_updates` steps.

    ## Metrics

    Appendix A.1's, at the photos' native resolution over all valid pixels of all photos: `mean_degrees`,
    `median_degrees`, `within_11.25`, `within_22.5`, `within_30` (percent), `mse_radians2`, and `mean_degrees/<object>`.

    ## Arguments

    | argument | meaning | default |
    | --- | --- | --- |
    | data | "standin" (made by code), "mbii" (MIT-Berkeley Intrinsic Images), or a pair of your own | "standin" |
    | data_folder | the folder that contains `mbii/`; None: the environment variable HGENV_DATA | None |
    | input | MBII photos: "diffuse", "shading" (no texture) or "original" | "diffuse" |
    | generator | what beta configures, with images of the network's size; None: `ShapeGenerator` at that size | None |
    | network | the hourglass and the size of its images | `Network("small", "smooth", 64)` |
    | rule | how the network is trained | `SGD(0.05, 0.9, decay_steps=100)` |
    | unroll_steps, batch_size | K, and samples of each of the K steps | 2, 32 |
    | max_updates | length of the episode | 1000 |
    | device, threads, prober, cuda_graphs, replay, render_mode | see `DataGenEnv` | |

    Photos of your own are a pair, to validate and to test on, that `hgenv.datasets.prepare` made at the network's size.

    ## Version history

    * v0: initial version.
    """

    @staticmethod
    def default_generator(size: int) -> Generator:
        """What beta configures if nobody says otherwise, with images of `size` pixels."""
        return ShapeGenerator(AnalyticRenderer(size))

    def __init__(
        self,
        *,
        data: str | tuple[Photos, Photos] = "standin",
        data_folder: str | Path | None = None,
        input: str = "diffuse",
        generator: Generator | None = None,
        network: Network = Network(),
        rule: Rule = SGD(0.05, momentum=0.9, decay_steps=100),
        **options: Unpack[Options],
    ) -> None:
        validation, test = load_photos(data, data_folder, input, network.size) if isinstance(data, str) else data
        network.check(validation, test)
        super().__init__(
            generator or self.default_generator(network.size),
            DenseLearner(NormalsTask(), network),
            validation,
            test,
            rule=rule,
            **options,
        )


class ShapeNormalsLitEnv(ShapeNormalsEnv):
    """`ShapeNormals-v0` with the render block beta_R of equation 4: how the shapes are lit and photographed.

    ## Decision vector (d = 37)

    {table}

    The first 29 components are those of `ShapeNormals-v0`; a sample's light is drawn around the mean that beta gives.
    The generator's argument `light` moves initial values of the render blocks.

    """

    @staticmethod
    def default_generator(size: int) -> Generator:
        """See `ShapeNormalsEnv`."""
        return ShapeGenerator(AnalyticRenderer(size), lit=True)


class ShapeNormalsStudioEnv(ShapeNormalsEnv):
    """`ShapeNormals-v0` in an environment map, before a camera of many settings.

    ## Decision vector (d = {d})

    {table}

    The first 29 components are those of `ShapeNormals-v0`; autograd gives the exact derivative in all others. The light
    is a map of all directions around the object. Its initial value looks like that of `ShapeNormalsLit-v0`: one lamp at
    the camera, and 0.2 of the light from everywhere. Each sample has the map turned by a random angle, and shadows of
    one direction of its own (`hgenv.generators.StudioGenerator`). The camera meters the light, so that the image does
    not depend on how strong all of it is.

    """

    @staticmethod
    def default_generator(size: int) -> Generator:
        """See `ShapeNormalsEnv`."""
        return StudioGenerator(AnalyticRenderer(size))


if ShapeNormalsEnv.__doc__:  # python -OO has none
    for cls in (ShapeNormalsEnv, ShapeNormalsLitEnv, ShapeNormalsStudioEnv):
        space = cls.default_generator(64).space
        table = space.table().replace("\n", "\n    ")
        cls.__doc__ = str(cls.__doc__).replace("{d}", str(space.dimension)).replace("{table}", table)
    # From the observation on, all are alike.
    for cls in (ShapeNormalsLitEnv, ShapeNormalsStudioEnv):
        cls.__doc__ = str(cls.__doc__) + ShapeNormalsEnv.__doc__[ShapeNormalsEnv.__doc__.index("## Observation") :]
