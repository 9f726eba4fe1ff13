"""Maps from images by a stacked hourglass: what learners of normals and of depth have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hgenv.batch import Batch
from hgenv.learning.hourglass import PRESETS, StackedHourglass, Units
from hgenv.learning.unroll import SGD, Weights, adjoint_step, train


class DenseLearner(ABC):
    """A network that says something about every pixel; what it says, and how wrong that is, is up to the subclass.

    Subclasses set `max_loss`, `inputs` and `outputs`. Images are (B, inputs, S, S), masks (B, 1, S, S).

    Args:
        preset: "small" or "paper", see `hgenv.learning.hourglass.PRESETS`.
        units: "smooth" (SiLU, average pooling) or "relu" (ReLU, max-pooling).
        size: S, pixels along an edge of what it trains and validates on.
        device: Where its weights are.
        dtype: Their type.

    Attributes:
        inputs: Channels of the images.
        outputs: Channels of the maps.

    Raises:
        ValueError: There is no such preset, there are no such units, or the network cannot halve S often enough.
    """

    max_loss: float
    inputs: int
    outputs: int

    def __init__(
        self,
        preset: str = "small",
        units: Units = "smooth",
        size: int = 64,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"no network preset {preset!r}; the presets are {', '.join(PRESETS)}")
        self.preset, self.units, self.size = preset, units, size
        self.device, self.dtype = torch.device(device), dtype
        # The module is structure only: it has no memory, and making it draws no random numbers.
        with torch.device("meta"):
            self.network = StackedHourglass(PRESETS[preset], self.inputs, self.outputs, units)
            self.network(torch.empty(1, self.inputs, size, size))

    def initial_weights(self, seed: int) -> Weights:
        """PyTorch's ordinary initialization, uniform within 1 / sqrt(fan in), from `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        weights: Weights = {}
        for name, module in self.network.named_modules():
            if isinstance(module, nn.Conv2d):
                bound = module.weight[0].numel() ** -0.5
                for part, like in module.named_parameters():
                    weights[f"{name}.{part}"] = torch.empty(like.shape).uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.GroupNorm):
                weights[f"{name}.weight"] = torch.ones(module.num_channels)
                weights[f"{name}.bias"] = torch.zeros(module.num_channels)
        return {name: w.to(self.device, self.dtype) for name, w in weights.items()}

    def maps(self, weights: Weights, images: Tensor) -> list[Tensor]:
        """What every stack says about (B, inputs, S, S) images, each (B, outputs, S, S)."""
        return list(functional_call(self.network, weights, (self._here(images),)))

    @abstractmethod
    def training_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """See `hgenv.learning.unroll.Learner`."""

    @abstractmethod
    def validation_loss(self, weights: Weights, data: Any) -> Tensor:
        """See `hgenv.learning.unroll.Learner`."""

    @abstractmethod
    def metrics(self, weights: Weights, data: Any) -> dict[str, float]:
        """See `hgenv.learning.unroll.Learner`."""

    @abstractmethod
    def predict(self, weights: Weights, images: Tensor) -> Tensor:
        """What the last stack says about (N, inputs, S, S) images, in the task's own units."""

    def flops(self, kind: Literal["train", "gradient", "validate"], samples: int) -> int:
        """Floating-point operations of one training step, adjoint step or validation pass, over `samples` images.

        A multiplication and an addition are two. What is counted is convolutions: nearly everything, and proportional
        to the number of images. A validation pass is a forward pass; its gradient costs twice as much again.
        """
        return samples * _flops_of_one_image(type(self), self.preset, self.units, self.size)[kind]

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)


@cache
def _flops_of_one_image(task: type[DenseLearner], preset: str, units: Units, size: int) -> dict[str, int]:
    """Counted on tensors without memory, so that nothing is computed."""
    learner, sgd = task(preset, units, size, device="meta"), SGD(learning_rate=1.0)
    state = sgd.start(learner.initial_weights(0))
    channels = learner.inputs, learner.outputs, 1
    batch = Batch(*(torch.empty(1, count, size, size, device="meta") for count in channels))
    work: dict[str, Callable[[], object]] = {
        "train": lambda: train(learner, sgd, state, [batch]),
        "gradient": lambda: adjoint_step(learner, sgd, state, batch, state),
        "validate": lambda: learner.maps(state.weights, batch.image),
    }
    counts = {}
    for kind, function in work.items():
        with _FlopCounter() as counter:
            function()
        counts[kind] = counter.total
    return counts


class _FlopCounter(TorchDispatchMode):
    """Sums PyTorch's own formulas.

    `FlopCounterMode` does too, but it also tracks modules, and second derivatives break that (PyTorch 2.13).
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*arguments, **(options or {}), out_val=result)
        return result
