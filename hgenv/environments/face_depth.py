"""`hgenv/FaceDepth-v0`: the paper's third experiment (sections 5.3, A.4)."""

from __future__ import annotations

import os
from pathlib import Path

from ..datasets import basel, heads, ict_facekit, standin_faces
from ..datasets.heads import Heads
from ..datasets.mbii import VARIABLE
from ..datasets.morphable import MorphableModel
from ..datasets.photos import DataError
from ..decision import DecisionSpace
from ..env import DataGenEnv
from ..generators.faces import FaceGenerator, face_blocks
from ..learning.depth import DepthLearner
from ..learning.hourglass import Units
from ..learning.unroll import SGD
from .shape_normals import choose_device

MODELS = ("standin", "ict", "bfm")
DATA = ("standin", "scans", "basel")


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
    (`hgenv.rendering.skin`); the face cut at 95 mm around the nose's tip, framed so that its bounding rectangle takes
    0.9 of the frame; black background; orthographic. Depth is measured along the view from a plane 5 halves of the
    frame's edge before the middle of the face, in such halves: relative errors depend on this.

    ## Observation

    `Box(d + 2,)` float32: beta scaled to [-1, 1], the last validation loss / its maximum, the episode's share
    that is gone.

    ## Reward

    -L, L being the mean absolute relative error of depth over the face pixels of the validation renders after the step.

    ## End of the episode

    Terminated when the step failed (`info["status"]`, see `hgenv.Status`); truncated after `max_updates` steps.

    ## Metrics

    Appendix A.1's over the face pixels of all renders: `abs_rel`, `sq_rel`, `rmse`, `rmse_log`, `rmse_log_invariant`
    (`hgenv.learning.depth.depth_metrics`), and `abs_rel/<head>`.

    ## Arguments

    | argument | meaning | default |
    | --- | --- | --- |
    | model | "standin" (made by code), "ict" (USC ICT-FaceKit) or "bfm" (Basel Face Model) | "standin" |
    | model_path | its folder (ict) or `BFM.mat` (bfm); None: where it lies in the data folder | None |
    | data | held-out faces: "standin", "scans" or "basel"; renders, not photos (`hgenv.datasets.heads`) | "standin" |
    | data_folder | the folder that contains `faces/` (scans), or of the Basel scans; None: HGENV_DATA | None |
    | size | pixels along an edge | 64 |
    | network, units | "small" or "paper"; "smooth" or "relu" | "small", "smooth" |
    | shadows | whether faces shade themselves | True |
    | learning_rate, momentum, weight_decay, decay_steps | see `hgenv.learning.unroll.SGD` | 0.02, 0.9, 0, 100 |
    | unroll_steps, batch_size | K, and samples of each of the K steps | 2, 32 |
    | max_updates | length of the episode | 1000 |
    | workers | processes that share the probes of an update, on a CPU; 0: none, one after the other here | 0 |
    | probe_batch | probes that are made as one batch; None: all on a GPU, 1 on a CPU | None |
    | device | "auto" (CUDA where there is one), "cpu", "cuda" | "auto" |

    ## Version history

    * v0: initial version.
    """

    def __init__(
        self,
        *,
        model: str = "standin",
        model_path: str | Path | None = None,
        data: str = "standin",
        data_folder: str | Path | None = None,
        size: int = 64,
        network: str = "small",
        units: Units = "smooth",
        shadows: bool = True,
        learning_rate: float = 0.02,
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
        validation, test = (load_heads(data, data_folder, split, size).to(chosen) for split in heads.SPLITS)
        super().__init__(
            FaceGenerator(load_model(model, model_path, data_folder), size=size, shadows=shadows),
            DepthLearner(network, units=units, size=size, device=chosen),
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


if FaceDepthEnv.__doc__:  # python -OO has none
    table = DecisionSpace(face_blocks()).table().replace("\n", "\n    ")
    FaceDepthEnv.__doc__ = FaceDepthEnv.__doc__.replace("{table}", table)


def load_model(model: str, path: str | Path | None = None, data_folder: str | Path | None = None) -> MorphableModel:
    """A morphable model by name.

    Raises:
        ValueError: The name is unknown.
        DataError: Its files are not there, or damaged.
    """
    if model == "standin":
        return standin_faces.model()
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; choose one of {', '.join(MODELS)}")
    load, below = (ict_facekit.load, "ict_facekit") if model == "ict" else (basel.load, "BFM.mat")
    return load(path if path is not None else _root(data_folder, f"model={model!r}") / "faces" / below)


def load_heads(data: str, folder: str | Path | None, split: str, size: int) -> Heads:
    """Renders of held-out faces by the name of their source.

    Raises:
        ValueError: The name is unknown.
        DataError: Their files are not there, or damaged.
    """
    if data == "standin":
        return heads.cached_standin(split, size)
    if data == "scans":
        return heads.load_scans(_root(folder, "data='scans'"), split, size=size)
    if data == "basel":
        return heads.load_basel(_root(folder, "data='basel'"), split, size=size)
    raise ValueError(f"unknown data {data!r}; choose one of {', '.join(DATA)}")


def _root(folder: str | Path | None, what: str) -> Path:
    root = folder if folder is not None else os.environ.get(VARIABLE)
    if not root:
        raise DataError(
            f"{what} needs the folder that contains faces/: set the environment variable {VARIABLE} or pass data_folder"
        )
    return Path(root)
