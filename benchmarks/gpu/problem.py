"""The environment that a sitting measures: `hgenv/ShapeNormalsLit-v0` with photos that need not be a release's."""

from __future__ import annotations

import os
import warnings

import torch

from hgenv.env import DataGenEnv
from hgenv.generators import ShapeGenerator
from hgenv.learning import SGD, DenseLearner, Network
from hgenv.memory import keep_memory
from hgenv.rendering.csg import AnalyticRenderer
from hgenv.tasks.normals import NormalsTask

from .photos import Pair

RULE = SGD(0.05, momentum=0.9, decay_steps=100)  # the environment's own


def make(
    photos: Pair,
    network: Network,
    *,
    unroll_steps: int = 2,
    batch_size: int = 32,
    device: str,
    cuda_graphs: bool = True,
) -> DataGenEnv:
    """The environment, reset with seed 0."""
    generator = ShapeGenerator(AnalyticRenderer(network.size), lit=True)
    learner = DenseLearner(NormalsTask(), network)
    env = DataGenEnv(
        generator, learner, *photos, rule=RULE, unroll_steps=unroll_steps, batch_size=batch_size, device=device,
        cuda_graphs=cuda_graphs,
    )  # fmt: skip
    env.reset(seed=0)
    return env


def as_in_a_run() -> None:
    """Set this process up as `hgenv run` does: one thread, and on a GPU the same bits for the same seed."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling new tensors costs a kernel each. Type checkers do not see the object in that module's place.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message=".*deterministic.*")
    torch.set_num_threads(1)
    keep_memory()
