"""What every generator has to do."""

from __future__ import annotations

import math
import unittest
from typing import Any

import torch
from torch import Tensor

from ..decision import DecisionSpace
from ..problem import Generator, RenderError
from ..samples import DenseSamples
from .tools import disturbed_global_randomness, global_randomness_unchanged, same_samples

COARSE = 4  # pixels along an edge of maps that a score is told from
RIDGE = 0.3  # beside the mean square of what it is told from
SHIFT = 0.5  # standard deviations of a score's product with the move that its check makes


class GeneratorConformance:
    """Checks for a generator f(beta, r).

    Attributes:
        samples: How many samples a check draws.
        scored: How many samples the checks of scores and densities draw; the more, the smaller the mistakes they see.
        components: How many components of each `pathwise` block it checks, evenly spread over the block; None: all.
        difference: Half the distance of the central differences that check `pathwise` blocks, as a fraction of range.
        tolerance: How far they may be from the exact derivatives, as a fraction of their size (medians over samples).
    """

    samples = 7
    scored = 500
    components: int | None = None
    difference = 1e-3
    tolerance = 2e-2

    def make(self) -> Generator:
        """A new generator, always the same one."""
        # No abstract method: pytest would only say that it cannot make the class, and not what is missing.
        raise NotImplementedError("override make(self) to return the generator to check")

    def test_deterministic(self) -> None:
        """The same betas and seeds give the same bits, in this generator and in a new one."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        first = generator(betas, seeds)
        for again in (generator(betas, seeds), self.make()(betas, seeds)):
            assert same_samples(first, again), "two calls with equal betas and seeds differ: draw from the seeds alone"

    def test_rows_are_independent_of_the_batch(self) -> None:
        """A sample has the same bits in whatever batch, at whatever place it is made."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        whole = generator(betas, seeds)
        split = type(whole).cat([generator(betas[:1], seeds[:1]), generator(betas[1:], seeds[1:])])
        assert same_samples(whole, split), (
            "a sample changes with the size of its batch: hash each row's own seed, and avoid operations whose "
            "rounding depends on the batch"
        )
        order = torch.arange(self.samples).flip(0)
        assert same_samples(whole[order], generator(betas[order], seeds[order])), (
            "a sample changes with its place in the batch: derive its draws from its own seed, not from its index"
        )

    def test_each_row_has_its_own_beta(self) -> None:
        """Moving one row's beta changes that sample and no other."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        moved = betas.clone()
        moved[0] = betas[1]
        before, after = generator(betas, seeds), generator(moved, seeds)
        assert same_samples(before[1:], after[1:]), "the beta of one row changed other rows"
        assert not same_samples(before[:1], after[:1]), "a sample does not depend on its row of betas"

    def test_shapes_and_types(self) -> None:
        """Fields have a row for each sample, on the seeds' device; one at least is floating point; masks are 0 or 1."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        samples = generator(betas, seeds)
        for name, tensor in zip(samples.names, samples.tensors, strict=True):
            assert len(tensor) == self.samples, f"{name} has {len(tensor)} rows for {self.samples} samples"
            assert tensor.device == seeds.device, f"{name} is on {tensor.device}; samples belong where the seeds are"
        assert any(tensor.is_floating_point() for tensor in samples.tensors), (
            f"none of {', '.join(samples.names)} is floating point; L cannot be differentiated by any of them"
        )
        if isinstance(samples, DenseSamples):
            for name, tensor in zip(samples.names, samples.tensors, strict=True):
                assert tensor.is_floating_point(), f"{name} is {tensor.dtype}; dL/dX needs floating point"
                if tensor.dim() == samples.image.dim() == 4:
                    shapes = tuple(tensor.shape), tuple(samples.image.shape)
                    assert shapes[0][2:] == shapes[1][2:], f"{name} and image are {shapes}; their pixels must match"
            assert ((samples.mask == 0) | (samples.mask == 1)).all(), "the mask has values other than 0 and 1"

    def test_finite_at_corners(self) -> None:
        """Every tensor is finite at corners of the box of the bounds, moved to the nearest valid vector."""
        generator = self.make()
        space, draw = generator.space, torch.Generator().manual_seed(5)
        corners = torch.randint(0, 2, (8, space.dimension), generator=draw).to(torch.float64)
        corners = torch.cat([corners, torch.zeros_like(corners[:1]), torch.ones_like(corners[:1])])
        for beta in space.project(space.denormalize(corners)):
            try:
                samples = generator(beta.expand(self.samples, -1), torch.arange(self.samples))
            except RenderError as error:
                raise AssertionError(f"narrow the bounds or define a rule: at beta = {beta} {error}") from error
            for name, tensor in zip(samples.names, samples.tensors, strict=True):
                assert tensor.isfinite().all(), f"{name} is not finite at beta = {beta}; narrow the bounds"

    def test_global_randomness_is_left_alone(self) -> None:
        """Construction and sampling neither touch nor use the random state of torch, numpy and random."""
        with global_randomness_unchanged("the generator"):
            generator = self.make()
            betas, seeds = self._inputs(generator.space)
            first = generator(betas, seeds)
        with disturbed_global_randomness():
            assert same_samples(first, generator(betas, seeds)), "samples depend on global random state; use the seeds"

    def test_pathwise_blocks(self) -> None:
        """In `pathwise` blocks the derivative by autograd agrees with central differences for most samples.

        Not for all: a sample may happen to stand at a kink, or at the edge of a shadow.
        """
        generator = self.make()
        space = generator.space
        if not generator.pathwise:
            raise unittest.SkipTest("the generator declares no pathwise blocks")
        normalized, seeds = space.normalize(self._inputs(space)[0]) / 2 + 0.25, torch.arange(self.samples)
        with torch.no_grad():
            example = generator(space.denormalize(normalized), seeds)
        draw = torch.Generator().manual_seed(6)
        probe = example.map(
            lambda x: torch.randn(x.shape, generator=draw, dtype=torch.float64) if x.is_floating_point() else x
        )

        def value(normalized: Tensor) -> Tensor:
            return probe.dot(
                generator(space.denormalize(normalized), seeds).map(
                    lambda x: x.to(torch.float64) if x.is_floating_point() else x
                )
            )

        variable = normalized.clone().requires_grad_()
        (exact,) = torch.autograd.grad(value(variable).sum(), variable)
        for name in generator.pathwise:
            block = range(*space.slice(name).indices(space.dimension))
            for component in block[:: -(-len(block) // (self.components or len(block)))]:
                step = torch.zeros_like(normalized)
                step[:, component] = self.difference
                with torch.no_grad():
                    expected = (value(normalized + step) - value(normalized - step)) / (2 * self.difference)
                error, size = float((exact[:, component] - expected).abs().median()), float(expected.abs().median())
                assert error <= self.tolerance * size, (
                    f"component {component} (block {name!r}): autograd and central differences are {error:.3g} apart, "
                    f"their size being {size:.3g}; take the block out of `pathwise`, or repair its derivative"
                )

    def test_log_prob_score(self) -> None:
        """A score is zero in the mean, and says how the means of statistics of the samples move with beta."""
        generator = self.make()
        log_prob_score, space = getattr(generator, "log_prob_score", None), generator.space
        if log_prob_score is None:
            raise unittest.SkipTest("the generator declares no scores")
        # Well within the bounds.
        beta = space.project(space.denormalize(space.normalize(self._inputs(space)[0][0]) / 2 + 0.25))
        betas, seeds = beta.expand(2 * self.scored, -1), torch.arange(2 * self.scored)
        score = log_prob_score(betas, seeds)
        assert (score.shape, score.dtype) == (betas.shape, torch.float64), (
            f"log_prob_score gave {tuple(score.shape)} {score.dtype}; {tuple(betas.shape)} float64 is needed"
        )
        assert torch.equal(score.nan_to_num(), log_prob_score(betas, seeds).nan_to_num()), "two calls differ"
        known = ~score.isnan().any(0)
        assert known.any(), "all components of log_prob_score are NaN; leave it out"
        assert score[:, known].isfinite().all(), "log_prob_score is infinite somewhere; say NaN where there is no score"
        error = score.std(0) / math.sqrt(len(seeds))
        wrong = known & (score.mean(0).abs() > 5 * error + 1e-9)
        assert not wrong.any(), (
            f"components {wrong.nonzero().flatten().tolist()} of log_prob_score are not zero in the mean, so they are "
            "no derivatives of a density's logarithm"
        )
        center, score = space.normalize(beta), score * (space.high - space.low)
        here = self._features(generator, center, seeds)
        draw = torch.Generator().manual_seed(5)
        for block in space.blocks:
            inside = torch.zeros_like(known)
            inside[space.slice(block.name)] = True
            inside &= known
            if not inside.any() or (block.simplex and inside.sum() < block.size):
                continue
            direction = torch.zeros(space.dimension, dtype=torch.float64)
            direction[inside] = torch.randn(int(inside.sum()), generator=draw, dtype=torch.float64)
            if block.simplex:
                direction[inside] -= direction[inside].mean()
            along = score.nan_to_num() @ direction
            # As far as makes samples differ by SHIFT standard deviations, and stays within the bounds.
            room = (0.2 / direction.abs()[inside]).min()
            move = min(SHIFT / float(along.std().clamp(min=1e-12)), float(room))
            self._check_expectation(generator, center, move * direction, here, move * along, block.name)

    def test_log_density(self) -> None:
        """The density of draws is normalized alike at all betas, and the score is the derivative of its logarithm."""
        made: Any = self.make()
        space: DecisionSpace = made.space
        if not hasattr(made, "log_density"):
            raise unittest.SkipTest("the generator declares no densities")
        beta = space.project(space.denormalize(space.normalize(self._inputs(space)[0][0]) / 2 + 0.25))
        betas, seeds = beta.expand(2 * self.scored, -1), torch.arange(2 * self.scored)
        draws = made.draws(betas, seeds)
        for name, x in draws.items():
            assert len(x) == len(seeds), f"draws gave {name!r} as {tuple(x.shape)}; a row for each seed is needed"
        here, score = made.log_density(betas, draws), made.score(betas, draws)
        assert (here.shape, here.dtype) == (seeds.shape, torch.float64), (
            f"log_density gave {tuple(here.shape)} {here.dtype}; {tuple(seeds.shape)} float64 is needed"
        )
        assert here.isfinite().all(), "log_density is not finite at the beta that made the draws"
        if hasattr(made, "log_prob_score"):
            assert torch.equal(score.nan_to_num(), made.log_prob_score(betas, seeds).nan_to_num()), (
                "score and log_prob_score differ at the beta that made the draws"
            )
        known = ~score.isnan().any(0)
        for name in getattr(made, "handed_over", ()):
            assert not known[space.slice(name)].any(), f"{name!r} is handed over as it is, but has a score"
        if not known.any():
            raise unittest.SkipTest("no component of beta has a score")
        direction = torch.zeros(space.dimension, dtype=torch.float64)
        draw = torch.Generator().manual_seed(6)
        direction[known] = torch.randn(int(known.sum()), generator=draw, dtype=torch.float64)
        for block in (block for block in space.blocks if block.simplex):
            direction[space.slice(block.name)] -= direction[space.slice(block.name)].mean()
        direction *= known * (space.high - space.low)
        along = score.nan_to_num() @ direction
        step = 1e-5 * direction
        ahead, behind = (made.log_density(betas + sign * step, draws) for sign in (1, -1))
        error = ((ahead - behind) / 2e-5 - along).abs() / (1 + along.abs())
        assert error.max() < 1e-3, (
            f"score is no derivative of log_density: along a line they are {float(error.max()):.3g} apart"
        )
        # As far as makes the logarithm of the ratio differ by SHIFT, and stays within the bounds.
        room = float((0.2 * (space.high - space.low) / direction.abs())[known].min())
        other = beta + min(SHIFT / float(along.std().clamp(min=1e-12)), room) * direction
        ratio = (made.log_density(other.expand(len(seeds), -1), draws) - here).exp()
        gap, noise = float(ratio.mean() - 1), float(ratio.std()) / math.sqrt(len(seeds))
        assert abs(gap) <= 5 * noise + 1e-9, (
            f"the mean ratio of densities at two betas is {1 + gap:.4g}, {abs(gap) / noise:.1f} standard errors off 1: "
            "log_density must be that of all draws, with what normalizes it"
        )

    @staticmethod
    def _features(generator: Generator, normalized: Tensor, seeds: Tensor) -> Tensor:
        """Numbers that say much about samples, a row each: of maps, coarse ones and means of products."""
        with torch.no_grad():
            samples = generator(generator.space.denormalize(normalized).expand(len(seeds), -1), seeds)
            numbers = [x.to(torch.float64) for x in samples.tensors]
            maps = [x for x in numbers if x.dim() == 4 and x.shape[2:] == numbers[0].shape[2:]]
            found = [x.reshape(len(x), -1) for x in numbers if not any(x is known for known in maps)]
            if maps:
                found += [torch.nn.functional.adaptive_avg_pool2d(x, COARSE).flatten(1) for x in maps]
                fields = torch.cat(maps, 1).flatten(2)
                products = fields @ fields.mT / fields.shape[2]
                row, column = torch.triu_indices(*products.shape[1:])
                found += [fields.mean(2), products[:, row, column]]
            whole = torch.cat(found, 1)
            return torch.cat([whole, whole**2], 1)

    def _check_expectation(
        self, generator: Generator, center: Tensor, direction: Tensor, here: Tensor, score: Tensor, name: str
    ) -> None:
        """E[h score] against the difference of E[h], h being what samples tell about their score.

        One half of the seeds is for finding h, by ridge regression, the other half for the means. Where samples tell
        nothing about a score, this says nothing about it either.
        """
        fit, test = torch.arange(2 * self.scored).split(self.scored)
        mean, scale = here[fit].mean(0), here[fit].std(0) + 1e-6
        known = (here[fit] - mean) / scale
        kernel = known @ known.T
        ridge = RIDGE * kernel.diagonal().mean() * torch.eye(len(fit), dtype=torch.float64)
        telling = known.T @ torch.linalg.solve(kernel + ridge, score[fit])

        def told(features: Tensor) -> Tensor:
            return (features - mean) / scale @ telling

        ahead, behind = (told(self._features(generator, center + sign * direction, test)) for sign in (1, -1))
        value, change = told(here[test]), (ahead - behind) / 2
        product = (value - value.mean()) * score[test]
        gap, error = (product - change).mean(), (product - change).std() / math.sqrt(self.scored)
        # A move is no derivative: by the third term of a Gaussian's they differ by less than a twentieth.
        assert gap.abs() <= 4 * error + 0.05 * change.mean().abs() + 1e-9, (
            f"along block {name!r} the mean of a statistic of the samples moves by {float(change.mean()):.4g}, but "
            f"log_prob_score says by {float(product.mean()):.4g}, {float(gap.abs() / error):.1f} standard errors off"
        )

    def _inputs(self, space: DecisionSpace) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(4)
        normalized = torch.rand((self.samples, space.dimension), generator=draw, dtype=torch.float64)
        seeds = torch.arange(7, 7 + self.samples)
        seeds[1::2] *= -1  # half of all seeds are negative
        return space.project(space.denormalize(normalized)), seeds
