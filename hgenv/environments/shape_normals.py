"""`hgenv/ShapeNormals-v0` and `hgenv/ShapeNormalsLit-v0`: the paper's first experiment (sections 5.1, A.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from ..datasets import load_photos
from ..datasets.photos import Photos
from ..env import DataGenEnv, Options
from ..generators.shapes import ShapeGenerator
from ..learning.dense import DenseLearner, Network
from ..learning.rules import SGD, Rule
from ..problem import Generator
from ..rendering.csg import AnalyticRenderer, Renderer
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
    | device, threads, prober, render_mode | see `DataGenEnv` | |

    Photos of your own are a pair, to validate and to test on, that `hgenv.datasets.prepare` made at the network's size.

    ## Version history

    * v0: initial version.
    """

    lit = False

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
            generator or self._default_generator(AnalyticRenderer(network.size)),
            DenseLearner(NormalsTask(), network),
            validation,
            test,
            rule=rule,
            **options,
        )

    def _default_generator(self, renderer: Renderer) -> Generator:
        return ShapeGenerator(renderer, lit=self.lit)


class ShapeNormalsLitEnv(ShapeNormalsEnv):
    """`ShapeNormals-v0` with the render block beta_R of equation 4: how the shapes are lit and photographed.

    ## Decision vector (d = 37)

    {table}

    The first 29 components are those of `ShapeNormals-v0`; a sample's light is drawn around the mean that beta gives.
    The generator's argument `light` moves initial values of the render blocks.

    """

    lit = True


if ShapeNormalsEnv.__doc__ and ShapeNormalsLitEnv.__doc__:  # python -OO has none
    for cls in (ShapeNormalsEnv, ShapeNormalsLitEnv):
        cls.__doc__ = str(cls.__doc__).replace(
            "{table}", ShapeGenerator(lit=cls.lit).space.table().replace("\n", "\n    ")
        )
    # From the observation on, both are alike.
    ShapeNormalsLitEnv.__doc__ += ShapeNormalsEnv.__doc__[ShapeNormalsEnv.__doc__.index("## Observation") :]
