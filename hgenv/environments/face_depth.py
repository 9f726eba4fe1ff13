"""`hgenv/FaceDepth-v0` and `hgenv/FaceDepthLit-v0`: the paper's third experiment (sections 5.3, A.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from ..datasets import load_heads, load_model
from ..datasets.heads import Heads
from ..decision import DecisionSpace
from ..env import DataGenEnv, Options
from ..generators.faces import FaceGenerator
from ..generators.faces_lit import LitFaceGenerator
from ..learning.dense import DenseLearner, Network
from ..learning.rules import SGD, Rule
from ..problem import Generator
from ..tasks.depth import DepthTask


class FaceDepthEnv(DataGenEnv):
    """Tune the distribution of a morphable model's faces so that a network sees depth in images of other faces.

    ## Decision vector (d = 204)

    {table}

    A sample draws which component it belongs to, once for the face and once for the pose; the order within a block is
    component by component. Coefficients are standard deviations of the model's modes; those that beta does not hold
    are uniform within 1.73 of them. Angles are radians: a positive yaw turns the face to the right of the image, a
    positive pitch downwards, a positive roll anticlockwise.

    ## Image

    One white directional light, from a direction uniform over the hemisphere before the face, on skin
    (`hgenv.rendering.shading.skin`); the face cut at 95 mm around the nose's tip, framed so that its bounding rectangle
    takes 0.9 of the frame; black background; orthographic. Depth is measured along the view from a plane 5 halves of
    the frame's edge before the middle of the face, in such halves: relative errors depend on this.

    ## Observation

    `Box(d + 2,)` float32: beta scaled to [-1, 1], the last validation loss / its maximum, the episode's share
    that is gone.

    ## Reward

    -L, L being the mean absolute relative error of depth over the face pixels of the validation renders after the step.

    ## End of the episode

    Terminated when the step failed (`info["status"]`, see `hgenv.Status`); truncated after `max_updates` steps.

    ## Metrics

    Appendix A.1's over the face pixels of all renders: `abs_rel`, `sq_rel`, `rmse`, `rmse_log`, `rmse_log_invariant`
    (`hgenv.tasks.depth.depth_metrics`), and `abs_rel/<head>`.

    ## Arguments

    | argument | meaning | default |
    | --- | --- | --- |
    | model | "standin" (made by code), "ict" (USC ICT-FaceKit) or "bfm" (Basel Face Model) | "standin" |
    | model_path | its folder (ict) or `BFM.mat` (bfm); None: where it lies in the data folder | None |
    | data | held-out faces: "standin", "scans", "relatives", "basel" (`hgenv.datasets.heads`), or a pair | "standin" |
    | data_folder | the folder that contains `faces/` (scans), or of the Basel scans; None: HGENV_DATA | None |
    | shadows | whether faces shade themselves | True |
    | generator | what beta configures; None: the default of the model, at the network's size | None |
    | network | the hourglass and the size of its images | `Network("small", "smooth", 64)` |
    | rule | how the network is trained | `SGD(0.02, 0.9, decay_steps=100)` |
    | unroll_steps, batch_size | K, and samples of each of the K steps | 2, 32 |
    | max_updates | length of the episode | 1000 |
    | device, threads, prober, cuda_graphs, replay, render_mode | see `DataGenEnv` | |

    Heads of your own are a pair, to validate and to test on, that `hgenv.datasets.heads.render` made at the network's
    size. All are renders, not photos.

    ## Version history

    * v0: initial version.
    """

    faces: type[FaceGenerator] = FaceGenerator

    def __init__(
        self,
        *,
        model: str = "standin",
        model_path: str | Path | None = None,
        data: str | tuple[Heads, Heads] = "standin",
        data_folder: str | Path | None = None,
        shadows: bool = True,
        generator: Generator | None = None,
        network: Network = Network(),
        rule: Rule = SGD(0.02, momentum=0.9, decay_steps=100),
        **options: Unpack[Options],
    ) -> None:
        validation, test = load_heads(data, data_folder, network.size) if isinstance(data, str) else data
        network.check(validation, test)
        if generator is None:
            loaded = load_model(model, model_path, data_folder)
            generator = self.faces(loaded, size=network.size, shadows=shadows)
        super().__init__(generator, DenseLearner(DepthTask(), network), validation, test, rule=rule, **options)


class FaceDepthLitEnv(FaceDepthEnv):
    """`FaceDepth-v0` with the light and the camera in beta, too.

    ## Decision vector (d = 219)

    {table}

    The first 204 components are those of `FaceDepth-v0`. At the initial values of the others the light is the same, and
    the camera far away and nearly still.

    ## Image

    One directional light on skin (`hgenv.rendering.shading.skin`); the face cut at 95 mm around the nose's tip; black
    background. The face's bounding rectangle takes 0.9 * 2**zoom of the frame as seen from far away; perspective
    narrows it. Depth is measured along the view from a plane 5 halves of the frame's edge before the middle of the
    face, in such halves: relative errors depend on this.

    """

    faces = LitFaceGenerator


if FaceDepthEnv.__doc__:  # python -OO has none
    for cls in (FaceDepthEnv, FaceDepthLitEnv):
        table = DecisionSpace(cls.faces.blocks()).table().replace("\n", "\n    ")
        cls.__doc__ = str(cls.__doc__).replace("{table}", table)
    # From the observation on, both are alike.
    FaceDepthLitEnv.__doc__ = (
        str(FaceDepthLitEnv.__doc__) + FaceDepthEnv.__doc__[FaceDepthEnv.__doc__.index("## Observation") :]
    )
