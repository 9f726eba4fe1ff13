"""Maps from images by a stacked hourglass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hgenv.problem import Data
from hgenv.samples import SamplesError
from hgenv.tasks.dense import DenseTask

from .flops import flops_of
from .hourglass import PRESETS, StackedHourglass, Units
from .learner import Work
from .rules import SGD, Weights
from .unroll import adjoint_step, train


@dataclass(frozen=True)
class Network:
    """A stacked hourglass and what it sees.

    Attributes:
        preset: "small" or "large", see `hgenv.learning.hourglass.PRESETS`.
        units: "smooth" (SiLU, average pooling) or "relu" (ReLU, max-pooling: L is then jagged in beta).
        size: S, pixels along an edge of the images.

    Raises:
        ValueError: There is no such preset, there are no such units, or the size is not a positive whole number.
    """

    preset: str = "small"
    units: Units = "smooth"
    size: int = 64

    def __post_init__(self) -> None:
        """Check all three."""
        if self.preset not in PRESETS:
            raise ValueError(f"no network preset {self.preset!r}; the presets are {', '.join(PRESETS)}")
        if self.units not in ("smooth", "relu"):
            raise ValueError(f"units are 'smooth' or 'relu', not {self.units!r}")
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size must be a positive number of pixels, not {self.size!r}")

    def check(self, *data: Data) -> None:
        """Make sure that the images of some data have the network's size.

        Raises:
            SamplesError: They do not.
        """
        for part in data:
            edge = part.samples.tensors[0].shape[-1]
            if edge != self.size:
                raise SamplesError(
                    f"{part.label}: the images have {edge} px and the network {self.size}; make them of one size"
                )


class DenseLearner:
    """A stacked hourglass with a task that looks at every pixel; implements `hgenv.learning.learner.Learner`.

    Samples have an image, (B, task.inputs, S, S). The output is a list of maps, (B, task.outputs, S, S), one of each
    stack.

    Args:
        task: Losses and metrics of maps.
        network: Which hourglass.
        dtype: Type of the initial weights; images are converted to that of the weights.

    Raises:
        ValueError: The network cannot halve S often enough.
    """

    def __init__(self, task: DenseTask, network: Network | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.task, self.network, self.dtype = task, network or Network(), dtype
        preset, size = PRESETS[self.network.preset], self.network.size
        preset.check((1, task.inputs, size, size))
        # The module is structure only: it has no memory, and making it draws no random numbers.
        with torch.device("meta"):
            self.module = StackedHourglass(preset, task.inputs, task.outputs, self.network.units)

    def initial_weights(self, seed: int) -> Weights:
        """PyTorch's ordinary initialization, uniform within 1 / sqrt(fan in), from `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        weights: Weights = {}
        for name, module in self.module.named_modules():
            if isinstance(module, nn.Conv2d):
                bound = module.weight[0].numel() ** -0.5
                for part, like in module.named_parameters():
                    weights[f"{name}.{part}"] = torch.empty(like.shape).uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.GroupNorm):
                weights[f"{name}.weight"] = torch.ones(module.num_channels)
                weights[f"{name}.bias"] = torch.zeros(module.num_channels)
        return {name: w.to(self.dtype) for name, w in weights.items()}

    def output(self, weights: Weights, samples: Any) -> list[Tensor]:
        """What every stack says about the samples' images."""
        return list(functional_call(self.module, weights, (samples.image.to(next(iter(weights.values())).dtype),)))

    def flops(self, kind: Work, samples: int) -> int:
        """Floating-point operations of one training step, adjoint step or validation pass, over `samples` images.

        A multiplication and an addition are two. What is counted is convolutions: nearly everything, and proportional
        to the number of images. A validation pass is a forward pass; its gradient costs twice as much again.
        """
        return samples * _flops_of_one_image(self.task, self.network)[kind]


@cache
def _flops_of_one_image(task: DenseTask, network: Network) -> dict[str, int]:
    """Counted on the smallest image, which takes no time; convolutions are proportional to the number of pixels."""
    smallest = PRESETS[network.preset].smallest
    learner, rule = DenseLearner(task, replace(network, size=smallest)), SGD(learning_rate=1.0)
    state, sample = rule.start(learner.initial_weights(0)), task.example(smallest)
    work: dict[str, Callable[[], object]] = {
        "train": lambda: train(learner, rule, state, [sample]),
        "gradient": lambda: adjoint_step(learner, rule, state, sample, state),
        "validate": lambda: learner.output(state.weights, sample),
    }
    return {kind: flops_of(function) * (network.size // smallest) ** 2 for kind, function in work.items()}
