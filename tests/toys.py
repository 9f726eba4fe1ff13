"""A problem of another kind than those that come with hgenv, for tests: images with class labels, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hgenv import DataGenEnv, DecisionSpace, Metric, Prober, SampleData, Samples, Task, TrainingState, block
from hgenv.generators.random import normals, uniforms
from hgenv.learning import SGD, Learner, Rule, training_loss, validation_loss

EDGE, CLASSES, HIDDEN = 6, 3, 5


@dataclass(frozen=True)
class LabelledImages(Samples):
    image: Tensor  # (B, 1, EDGE, EDGE) float64
    label: Tensor  # (B,) int64


class StripesGenerator:
    """f(beta, r): waves whose direction is the class; beta is their contrast and the noise on them."""

    pathwise: tuple[str, ...] = ("contrast", "noise")

    def __init__(self) -> None:
        self.space = DecisionSpace([
            block("contrast", 1, 0.0, 1.0, 0.3, "1", "amplitude of the waves"),
            block("noise", 1, 0.0, 1.0, 0.5, "1", "standard deviation of a pixel"),
        ])  # fmt: skip

    def __call__(self, betas: Tensor, seeds: Tensor) -> LabelledImages:
        beta, u = self.space.split(betas.to(seeds.device, torch.float64)), uniforms(seeds, 2 + EDGE**2)
        label = (CLASSES * u[:, 0]).long()
        y, x = torch.meshgrid(*2 * [torch.arange(EDGE, dtype=torch.float64, device=seeds.device)], indexing="ij")
        along = (x * (torch.pi * label / CLASSES).cos()[:, None, None]) + y * (torch.pi * label / CLASSES).sin()[
            :, None, None
        ]
        wave = (1.5 * along + 2 * torch.pi * u[:, 1, None, None]).sin()
        noise = normals(u[:, 2:]).reshape(-1, EDGE, EDGE)
        return LabelledImages((beta["contrast"][..., None] * wave + beta["noise"][..., None] * noise)[:, None], label)


@dataclass(frozen=True)
class ClassificationTask(Task):
    """Which class; the loss of a sample is its cross-entropy."""

    max_loss = 10.0
    metrics = (Metric("wrong", "wrong (%)", "%"), Metric("cross_entropy", "cross-entropy", "nat"))

    def training_loss(self, output: Tensor, samples: LabelledImages) -> Tensor:
        return functional.cross_entropy(output, samples.label, reduction="none")

    def validation_loss(self, output: Tensor, data: SampleData) -> Tensor:
        return self.training_loss(output, data.samples).mean()

    def score(self, output: Tensor, data: SampleData) -> dict[str, float]:
        wrong = output.argmax(1) != data.samples.label
        return {"wrong": float(100 * wrong.double().mean()), "cross_entropy": float(self.validation_loss(output, data))}


class TwoLayers:
    """A small smooth network; its output is (B, CLASSES)."""

    def __init__(self) -> None:
        self.task = ClassificationTask()

    def initial_weights(self, seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        shapes = {"in": (HIDDEN, EDGE**2), "bias": (HIDDEN,), "out": (CLASSES, HIDDEN)}
        return {
            name: 0.5 * torch.randn(*shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5
            for name, shape in shapes.items()
        }

    def output(self, weights: dict[str, Tensor], samples: LabelledImages) -> Tensor:
        hidden = torch.tanh(samples.image.flatten(1) @ weights["in"].T + weights["bias"])
        return hidden @ weights["out"].T

    def flops(self, kind: str, samples: int) -> int:
        return samples * 2 * HIDDEN * (EDGE**2 + CLASSES) * {"validate": 1, "train": 3, "gradient": 9}[kind]


def labelled_data(first_seed: int, label: str) -> SampleData:
    """Stronger waves than beta starts with, in less noise."""
    beta = torch.tensor([0.9, 0.1], dtype=torch.float64)
    return SampleData(StripesGenerator()(beta.expand(20, -1), torch.arange(first_seed, first_seed + 20)), label)


def labels_env(
    *,
    rule: Rule = SGD(0.3, momentum=0.9),  # noqa: B008 - a frozen value
    prober: Prober | None = None,
    unroll_steps: int = 3,
    batch_size: int = 6,
) -> DataGenEnv:
    return DataGenEnv(
        StripesGenerator(),
        TwoLayers(),
        labelled_data(1000, "validation stripes"),
        labelled_data(2000, "test stripes"),
        rule=rule,
        unroll_steps=unroll_steps,
        batch_size=batch_size,
        device="cpu",
        prober=prober,
    )


def loss_of_weighted_training(
    learner: Learner, rule: Rule, start: TrainingState, batches: list[Any], data: Any, weights: list[Tensor]
) -> float:
    """L after training anew, each sample of each batch having its own weight: what influence is the derivative of."""
    state = start
    for batch, weight in zip(batches, weights, strict=True):
        leaves = {name: w.detach().requires_grad_() for name, w in state.weights.items()}
        gradient = torch.autograd.grad(training_loss(learner, leaves, batch, weight), list(leaves.values()))
        state = rule(state, dict(zip(leaves, gradient, strict=True)))
    with torch.no_grad():
        return float(validation_loss(learner, state.weights, data))


def influence_by_differences(
    learner: Learner,
    rule: Rule,
    start: TrainingState,
    batches: list[Any],
    data: Any,
    step: int,
    row: int,
    width: float = 1e-4,
) -> float:
    """Fourth-order central difference of L by the weight of sample `row` of batch `step`."""

    def moved(by: float) -> float:
        weights = [torch.ones(len(batch), dtype=torch.float64) for batch in batches]
        weights[step][row] += by
        return loss_of_weighted_training(learner, rule, start, batches, data, weights)

    return (8 * (moved(width) - moved(-width)) - (moved(2 * width) - moved(-2 * width))) / (12 * width)
