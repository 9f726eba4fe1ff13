"""Surface normals from a grey image: a stacked hourglass, its training loss and its validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hgenv.batch import Batch
from hgenv.learning.hourglass import PRESETS, StackedHourglass, Units
from hgenv.learning.metrics import angles, score_normals
from hgenv.learning.unroll import SGD, Weights, adjoint_step, train

if TYPE_CHECKING:
    from hgenv.datasets.photos import Photos


class NormalsLearner:
    """Predicts the normal of every pixel; implements `hgenv.learning.unroll.Learner`.

    Images are (B, 1, S, S), targets (B, 3, S, S) unit normals inside the mask and zero outside, masks (B, 1, S, S).

    Args:
        preset: "small" or "paper", see `hgenv.learning.hourglass.PRESETS`.
        units: "smooth" (SiLU, average pooling) or "relu" (ReLU, max-pooling).
        size: S, pixels along an edge of what it trains and validates on.
        device: Where its weights are.
        dtype: Their type.

    Raises:
        ValueError: There is no such preset, there are no such units, or the network cannot halve S often enough.
    """

    max_loss = math.pi

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
            self.network = StackedHourglass(PRESETS[preset], outputs=3, units=units)
            self.network(torch.empty(1, 1, size, size))

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

    def training_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """1 - cosine of the angle between prediction and target, averaged over mask pixels of the batch and stacks."""
        image, target, mask = batch.map(self._here).tensors
        maps = functional_call(self.network, weights, (image,))
        errors = [1 - (_unit_vectors(m) * target).sum(1, keepdim=True) for m in maps]
        # A mask of nothing has loss zero: it cannot hold less than one pixel otherwise.
        return (mask * sum(errors)).sum() / (len(maps) * mask.sum().clamp(min=1))

    def validation_loss(self, weights: Weights, photos: Photos) -> Tensor:
        """Mean angle error of the last stack in radians at network resolution, over the valid pixels of all views."""
        image, target, mask = photos.batch.map(self._here).tensors
        errors = angles(self.predict(weights, image), target, dim=1)[:, None]
        return (mask * errors).sum() / mask.sum().clamp(min=1)

    def metrics(self, weights: Weights, photos: Photos) -> dict[str, float]:
        """Metrics of the paper's appendix A.1 over the valid pixels of all photos, at native resolution."""
        with torch.no_grad():
            return score_normals(self.predict(weights, photos.batch.image[: len(photos)]), photos)

    def predict(self, weights: Weights, images: Tensor) -> Tensor:
        """Unit normals, (N, 3, S, S), of (N, 1, S, S) images, by the last stack."""
        return _unit_vectors(functional_call(self.network, weights, (self._here(images),))[-1])

    def flops(self, kind: Literal["train", "gradient", "validate"], samples: int) -> int:
        """Floating-point operations of one training step, adjoint step or validation pass, over `samples` images.

        A multiplication and an addition are two. What is counted is convolutions: nearly everything, and proportional
        to the number of images. A validation pass is a forward pass; its gradient costs twice as much again.
        """
        return samples * _flops_of_one_image(self.preset, self.units, self.size)[kind]

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)


def _unit_vectors(maps: Tensor) -> Tensor:
    """(B, 3, H, W) divided by their lengths over the channels; 1e-8 under the root keeps the origin harmless."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-8).rsqrt()


@cache
def _flops_of_one_image(preset: str, units: Units, size: int) -> dict[str, int]:
    """Counted on tensors without memory, so that nothing is computed."""
    learner, sgd = NormalsLearner(preset, units, size, device="meta"), SGD(learning_rate=1.0)
    state = sgd.start(learner.initial_weights(0))
    batch = Batch(*(torch.empty(1, channels, size, size, device="meta") for channels in (1, 3, 1)))
    work: dict[str, Callable[[], object]] = {
        "train": lambda: train(learner, sgd, state, [batch]),
        "gradient": lambda: adjoint_step(learner, sgd, state, batch, state),
        "validate": lambda: learner.predict(state.weights, batch.image),
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
