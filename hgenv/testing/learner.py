"""What every learner has to do, and its task."""

from __future__ import annotations

import math
import re
import unittest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..learning.learner import Learner, training_loss
from ..learning.rules import SGD, Weights
from ..learning.unroll import train, train_together
from ..samples import Samples
from ..tasks.task import Picture
from .tools import disturbed_global_randomness, global_randomness_unchanged

KINDS = ("train", "gradient", "validate")


class LearnerConformance:
    """Checks for a learner and its task.

    Attributes:
        seeded: Whether the initial weights follow from a seed; those of a checkpoint do not.
        batched: Whether `torch.func.vmap` goes through network and losses, as probes in one batch need.
        reach: How far, as a share of their length, weights and samples are moved for the central differences that check
            second derivatives.
        tolerance: How far results may be apart that are the same but for rounding, and derivatives from differences, as
            a fraction of their size. The default is for float64; float32 needs about 1e-2.
    """

    seeded = True
    batched = True
    reach = 1e-4
    tolerance = 1e-4

    def make(self) -> Learner:
        """A new learner, always the same one."""
        # No abstract method: pytest would only say that it cannot make the class, and not what is missing.
        raise NotImplementedError("override make(self) to return the learner to check")

    def samples(self) -> Samples:
        """At least three training samples, always the same ones, all different."""
        raise NotImplementedError("override samples(self) to return some training samples")

    def data(self) -> Any:
        """Held-out data for the task's validation loss and metrics."""
        raise NotImplementedError("override data(self) to return held-out data")

    def test_initial_weights(self) -> None:
        """They follow from the seed alone, are on the CPU and have no graph."""
        with global_randomness_unchanged("the learner"):
            first = self.make().initial_weights(3)
        with disturbed_global_randomness():
            again = self.make().initial_weights(3)
        assert _same(first, again), "one seed gave two sets of weights: use a generator of your own, seeded with it"
        if self.seeded:
            assert not _same(first, self.make().initial_weights(4)), "the seed has no effect on the weights"
        for name, weight in first.items():
            assert weight.device.type == "cpu", f"{name} is on {weight.device}; the environment moves weights, not you"
            assert weight.is_floating_point(), f"{name} is {weight.dtype}; weights are trained"
            assert not weight.requires_grad, f"{name} requires a gradient; whoever trains asks for it"
            assert weight.isfinite().all(), f"{name} is not finite"

    def test_losses_per_sample(self) -> None:
        """The task gives a finite loss and a size for each sample."""
        learner, samples = self.make(), self.samples()
        losses, sizes = self._losses(learner, samples), learner.task.sizes(samples)
        for what, values in (("training_loss", losses), ("sizes", sizes)):
            assert values.shape == (len(samples),), (
                f"{what} has shape {tuple(values.shape)} for {len(samples)} samples; one number a sample is needed, "
                "neither a sum nor a mean over them"
            )
            assert values.isfinite().all(), f"{what} is not finite: {values}"
        assert (sizes >= 0).all(), f"sizes are negative: {sizes}"
        assert sizes.sum() >= 1, f"all samples together have size {float(sizes.sum())}; at least 1 is needed"

    def test_losses_are_deterministic(self) -> None:
        """The same weights and samples give the same bits, and nothing random is used or changed."""
        learner, samples = self.make(), self.samples()
        weights = learner.initial_weights(0)
        before = {name: w.clone() for name, w in weights.items()}
        with global_randomness_unchanged("the learner"):
            first = self._losses(learner, samples, weights)
        with disturbed_global_randomness():
            again = self._losses(learner, samples, weights)
        assert torch.equal(first, again), "two passes differ: a network that is unrolled has no dropout and no memory"
        assert _same(before, weights), "the learner changed the weights that it was given"

    def test_rows_are_independent(self) -> None:
        """A sample's loss is the same in whatever batch: no statistics over the samples."""
        learner, samples = self.make(), self.samples()
        whole = self._losses(learner, samples)
        alone = torch.cat([self._losses(learner, part) for part in samples.split(1)])
        self._assert_close("the losses of samples in a batch and alone", whole, alone)
        order = torch.arange(len(samples)).flip(0)
        self._assert_close("losses in another order", self._losses(learner, samples[order]), whole[order])

    def test_twice_differentiable(self) -> None:
        """Derivatives of the training loss's gradient agree with central differences, by weights and by samples.

        The adjoint of a training step needs both.
        """
        learner, samples = self.make(), self.samples()
        draw = torch.Generator().manual_seed(8)
        weights = learner.initial_weights(0)
        fields = [x for x in samples.tensors if x.is_floating_point()]

        def drawn(like: list[Tensor]) -> list[Tensor]:
            return [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x) for x in like]

        v = drawn(list(weights.values()))

        def slope(values: list[Tensor], parts: list[Tensor], *, graph: bool = False) -> Tensor:
            """Of the training loss at these weights and fields, along v."""
            leaves = values if graph else [w.detach().requires_grad_() for w in values]
            loss = training_loss(learner, dict(zip(weights, leaves, strict=True)), _with_fields(samples, parts))
            gradient = torch.autograd.grad(loss, leaves, create_graph=graph)
            return torch.stack([(g * d).sum() for g, d in zip(gradient, v, strict=True)]).sum()

        values = [w.detach().requires_grad_() for w in weights.values()]
        parts = [x.detach().requires_grad_() for x in fields]
        found = torch.autograd.grad(slope(values, parts, graph=True), [*values, *parts], materialize_grads=True)
        for what, derivatives, start in (
            ("weights", found[: len(values)], list(weights.values())),
            ("samples", found[len(values) :], fields),
        ):
            if not start:
                continue
            directions = drawn(start)
            step = self.reach * math.sqrt(_square(start) / _square(directions))

            def moved(by: float, what: str = what, start: Any = start, directions: Any = directions) -> float:
                there = [x + by * d for x, d in zip(start, directions, strict=True)]
                return float(slope(there, fields) if what == "weights" else slope(list(weights.values()), there))

            near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
            difference = (8 * near - far) / (12 * step)
            exact = sum(float((a * d).sum()) for a, d in zip(derivatives, directions, strict=True))
            assert abs(exact - difference) <= self.tolerance * abs(difference) + 1e-12, (
                f"the derivative of the training loss's gradient by the {what} is {exact} by autograd and {difference} "
                "by central differences: network and training_loss must be twice differentiable"
            )

    def test_validation_loss(self) -> None:
        """L is a finite number, at most the task's maximum, and can be differentiated by the weights."""
        learner = self.make()
        weights = {name: w.requires_grad_() for name, w in learner.initial_weights(0).items()}
        data = self.data()
        loss = learner.task.validation_loss(learner.output(weights, data.samples), data)
        assert loss.shape == (), f"validation_loss has shape {tuple(loss.shape)}; a scalar is needed"
        gradient = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        assert loss.isfinite(), f"validation_loss is {float(loss.detach())}"
        assert float(loss.detach()) <= learner.task.max_loss, (
            f"L = {float(loss.detach())}, but max_loss is {learner.task.max_loss}"
        )
        assert all(g is None or g.isfinite().all() for g in gradient), "the gradient of L is not finite"
        assert any(g is not None and g.any() for g in gradient), "L does not depend on the weights"

    def test_scores_are_the_metrics(self) -> None:
        """Scores are finite floats under the names of the metrics, or `<metric>/<object>`."""
        learner, data = self.make(), self.data()
        metrics = learner.task.metrics
        assert metrics, "the task has no metrics; the first one is the primary metric"
        names = [metric.name for metric in metrics]
        assert len(set(names)) == len(names), f"two metrics have one name: {names}"
        for metric in metrics:
            assert re.fullmatch(r"[\w.]+", metric.name, re.ASCII), (
                f"{metric.name!r} has characters other than letters, digits, _ and ."
            )
            assert metric.direction in ("min", "max"), f"{metric.name}: direction is {metric.direction!r}"
        with torch.no_grad():
            scores = learner.task.score(learner.output(learner.initial_weights(0), data.samples), data)
        wrong = {name: v for name, v in scores.items() if not isinstance(v, float) or not math.isfinite(v)}
        assert not wrong, f"these scores are not finite floats: {wrong}"
        found = {name for name in scores if "/" not in name}
        assert found == set(names), f"score gives {sorted(found)}, metrics names {sorted(names)}"
        others = {name for name in scores if "/" in name and name.partition("/")[0] not in names}
        assert not others, f"these are of single objects, but of no metric: {others}"

    def test_flops(self) -> None:
        """Prices are whole positive numbers, in proportion to the samples."""
        learner = self.make()
        for kind in KINDS:
            one = learner.flops(kind, 1)  # type: ignore[arg-type] # of KINDS
            assert isinstance(one, int), f"flops({kind!r}, 1) is {one!r}; a whole number is needed"
            assert one > 0, f"flops({kind!r}, 1) is {one}: count what a sample costs"
            seven = learner.flops(kind, 7)  # type: ignore[arg-type] # of KINDS
            assert seven == 7 * one, f"flops({kind!r}, 7) is {seven}, not seven times {one}"

    def test_trains_as_one_batch(self) -> None:
        """Copies that train on samples of their own through `torch.func.vmap` are what each is alone."""
        if not self.batched:
            raise unittest.SkipTest("`batched` is off: probes in one batch cannot be made with this learner")
        learner, samples = self.make(), self.samples()
        rule = SGD(1e-3)
        start = rule.start(learner.initial_weights(0))
        rows = torch.arange(len(samples))
        own = [samples, samples[0 * rows], samples[(rows + 1) // 2]]
        together = train_together(learner, rule, start, [type(samples).stack(own)])
        for copy, batch in enumerate(own):
            alone = train(learner, rule, start, [batch])[-1]
            for name, weight in alone.weights.items():
                self._assert_close(
                    f"{name}, trained in one batch with others and alone,",
                    together.weights[name][copy] - start.weights[name],
                    weight - start.weights[name],
                )

    def test_picture(self) -> None:
        """Pictures of samples, without and with the network's output, are None or rows of uint8 images of one size."""
        learner, samples = self.make(), self.samples()
        with torch.no_grad():
            output = learner.output(learner.initial_weights(0), samples)
        for what, picture in (
            ("picture(samples)", learner.task.picture(samples)),
            ("picture(samples, output)", learner.task.picture(samples, output)),
        ):
            if picture is not None:
                _check_picture(what, picture, len(samples))

    @staticmethod
    def _losses(learner: Learner, samples: Samples, weights: Weights | None = None) -> Tensor:
        with torch.no_grad():
            output = learner.output(learner.initial_weights(0) if weights is None else weights, samples)
            return learner.task.training_loss(output, samples)

    def _assert_close(self, what: str, found: Tensor, expected: Tensor) -> None:
        error, size = float((found - expected).norm()), float(expected.norm())
        assert error <= self.tolerance * size + 1e-12, f"{what} are {error:.3g} apart, their size being {size:.3g}"


def _check_picture(what: str, picture: Picture, count: int) -> None:
    assert picture.rows, f"{what} has no rows; return None where there is nothing to look at"
    assert len(picture.rows) == len(picture.titles), (
        f"{what} has {len(picture.rows)} rows, but {len(picture.titles)} titles"
    )
    for row, title in zip(picture.rows, picture.titles, strict=True):
        assert row.dtype == np.uint8, f"{what}: {title} is {row.dtype}; uint8 is needed"
        assert row.shape == (count, *row.shape[1:3], 3), (
            f"{what}: {title} has shape {row.shape}; ({count}, H, W, 3) is needed"
        )
        assert row.shape == picture.rows[0].shape, f"{what}: {title} and {picture.titles[0]} differ in size"


def _with_fields(samples: Samples, fields: list[Tensor]) -> Samples:
    """The samples with other floating-point fields."""
    given = iter(fields)
    return samples.map(lambda x: next(given) if x.is_floating_point() else x)


def _same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(w, second[name]) for name, w in first.items())


def _square(tensors: list[Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors)
