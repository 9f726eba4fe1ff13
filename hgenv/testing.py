"""Conformance kits: what every generator, environment and optimizer has to do, as tests to inherit.

    from hgenv.testing import GeneratorConformance

    class TestMyGenerator(GeneratorConformance):
        def make(self):
            return MyGenerator()

pytest collects the inherited checks; so does any runner that calls methods named `test_*`. A failure says what to fix.
A check that does not apply raises `unittest.SkipTest`.
"""

from __future__ import annotations

import io
import random
import unittest
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from torch import Tensor

from .accounting import COUNTS
from .batch import Batch
from .decision import DecisionError, DecisionSpace
from .env import DataGenEnv, Generator
from .rendering import RenderError


class Optimizer(Protocol):
    """What an optimizer offers, as far as the kit is concerned."""

    @property
    def recommendation(self) -> Tensor:
        """The beta to report, (d,)."""
        ...

    def update(self, env: Any) -> None:
        """Spend what it needs and end in one `env.step`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where it was taken."""
        ...


class OptimizerConformance:
    """Checks for an optimizer of decision vectors, on `hgenv/Quadratic-v0` unless `make_env` says otherwise.

    Attributes:
        improves: Whether the optimizer is to do better than the initial beta.
        updates: After how many updates it must have.
    """

    improves = True
    updates = 40

    def make(self, space: DecisionSpace, seed: int) -> Optimizer:
        """A new optimizer."""
        raise NotImplementedError("override make(self, space, seed) to return the optimizer to check")

    def make_env(self) -> DataGenEnv:
        """A new environment, always the same one."""
        return gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped

    def test_starts_at_the_common_beta(self) -> None:
        """Before the first update the recommendation is the space's initial vector."""
        space = self.make_env().space
        torch.testing.assert_close(
            self.make(space, 0).recommendation,
            space.project(space.initial),
            msg=lambda m: f"start at space.project(space.initial), as every optimizer does\n{m}",
        )

    def test_bounds_are_respected(self) -> None:
        """Whatever is stepped at, probed or recommended is valid."""
        optimizer, env = self._run(self.updates)
        for name, beta in [*env.calls, ("recommendation", optimizer.recommendation)]:
            if name == "step_each":  # has no need of projection, and refuses what is out of bounds
                continue
            valid = env.space.project(env.space.check(beta))
            assert torch.allclose(beta, valid, rtol=0, atol=1e-9), (
                f"{beta} is not valid: pass every vector through space.project"
            )

    def test_an_update_ends_in_its_only_step(self) -> None:
        """Exactly one `env.step` or `env.step_each` an update, after all probes."""
        env = _Recorder(self._reset())
        optimizer = self.make(env.space, 0)
        for _ in range(5):
            before = len(env.calls)
            optimizer.update(env)
            names = [name for name, _ in env.calls[before:]]
            assert [i for i, name in enumerate(names) if name != "probe"] == [len(names) - 1], (
                f"an update made the calls {names}; it must step exactly once, at its end"
            )

    def test_same_seed_same_proposals(self) -> None:
        """Two runs with one seed visit the same betas, bit for bit, whatever the global random state."""
        first = self._run(8)[1].calls
        with _disturbed_global_randomness():
            second = self._run(8)[1].calls
        assert _same_calls(first, second), (
            "two runs with the same seed differ: draw only from a generator of your own, seeded with `seed`"
        )

    def test_global_randomness_is_left_alone(self) -> None:
        """Construction and updates do not touch the random state of torch, numpy and random."""
        with _global_randomness_unchanged("the optimizer"):
            self._run(8)

    def test_survives_failures(self) -> None:
        """Steps, probes and slopes that fail, now and then or all at once, neither stop it nor lead it astray."""
        for kind in ("unrenderable", "diverging"):
            env = _Recorder(self._reset())
            faulty = _FaultyGenerator(env.generator, kind)
            env.environment.generator = faulty
            optimizer = self.make(env.space, 0)
            for update in range(15):
                faulty.rate = 1.0 if update in (0, 6, 7) else 0.3
                optimizer.update(env)
                assert optimizer.recommendation.isfinite().all(), (
                    f"the recommendation is not finite after {kind} samples: leave failed outcomes (outcome.ok is "
                    "False, outcome.loss is None) and gradients that are not finite out of the arithmetic"
                )
                env.space.check(optimizer.recommendation)
            assert faulty.faults > 0

    def test_state_round_trip(self) -> None:
        """Saved and loaded, with the environment, it goes on with the same bits."""
        optimizer, env = self._run(4)
        saved = _through_file({"optimizer": optimizer.state_dict(), "env": env.state_dict()})
        before = len(env.calls)
        for _ in range(4):
            optimizer.update(env)

        resumed = _Recorder(self._reset(seed=9))
        resumed.load_state_dict(saved["env"])
        other = self.make(resumed.space, 9)
        other.load_state_dict(saved["optimizer"])
        for _ in range(4):
            other.update(resumed)
        assert _same_calls(env.calls[before:], resumed.calls), (
            "a run that was saved and loaded differs from the unbroken one: put everything that the next update "
            "depends on into state_dict (random generator, moments, counters)"
        )
        assert torch.equal(optimizer.recommendation, other.recommendation), "the recommendation is not restored"

    def test_improves(self) -> None:
        """Training at the recommendation ends in a lower loss than training at the initial beta."""
        optimizer, env = self._run(self.updates)
        found, initial = self._loss_at(optimizer.recommendation), self._loss_at(env.space.project(env.space.initial))
        if self.improves:
            assert found < initial, (
                f"training at the recommendation ends at L = {found}, at the initial beta at {initial}: after "
                f"{self.updates} updates it should be lower"
            )
        else:
            assert found == initial, f"it is said not to improve, yet L went from {initial} to {found}"

    def _loss_at(self, beta: Tensor) -> float:
        """L after training at `beta` alone, averaged over the last ten of forty steps."""
        env = self._reset(seed=1)
        return -float(np.mean([env.step(beta)[1] for _ in range(40)][-10:]))

    def _reset(self, seed: int = 0) -> DataGenEnv:
        env = self.make_env()
        env.reset(seed=seed)
        return env

    def _run(self, updates: int) -> tuple[Optimizer, _Recorder]:
        env = _Recorder(self._reset())
        optimizer = self.make(env.space, 0)
        for _ in range(updates):
            optimizer.update(env)
        return optimizer, env


class GeneratorConformance:
    """Checks for a generator f(beta, r).

    Attributes:
        samples: How many samples a check draws.
        difference: Half the distance of the central differences that check `smooth`, as a fraction of range.
        tolerance: How far they may be from the exact derivatives, as a fraction of their size (medians over samples).
    """

    samples = 7
    difference = 1e-3
    tolerance = 2e-2

    def make(self) -> Generator:
        """A new generator, always the same one."""
        raise NotImplementedError("override make(self) to return the generator to check")

    def test_deterministic(self) -> None:
        """The same betas and seeds give the same bits, in this generator and in a new one."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        first = generator(betas, seeds)
        for again in (generator(betas, seeds), self.make()(betas, seeds)):
            assert _same_batch(first, again), "two calls with equal betas and seeds differ: draw from the seeds alone"

    def test_rows_are_independent_of_the_batch(self) -> None:
        """A sample has the same bits in whatever batch, at whatever place it is made."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        whole = generator(betas, seeds)
        split = Batch.cat([generator(betas[:1], seeds[:1]), generator(betas[1:], seeds[1:])])
        assert _same_batch(whole, split), (
            "a sample changes with the size of its batch: hash each row's own seed, and avoid operations whose "
            "rounding depends on the batch"
        )
        order = torch.arange(self.samples).flip(0)
        assert _same_batch(whole[order], generator(betas[order], seeds[order])), (
            "a sample changes with its place in the batch: derive its draws from its own seed, not from its index"
        )

    def test_each_row_has_its_own_beta(self) -> None:
        """Moving one row's beta changes that sample and no other."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        moved = betas.clone()
        moved[0] = betas[1]
        before, after = generator(betas, seeds), generator(moved, seeds)
        assert _same_batch(before[1:], after[1:]), "the beta of one row changed other rows"
        assert not _same_batch(before[:1], after[:1]), "a sample does not depend on its row of betas"

    def test_shapes_and_types(self) -> None:
        """Image, target and mask have one row a sample, are floating point and on one device; the mask is 0 or 1."""
        generator = self.make()
        betas, seeds = self._inputs(generator.space)
        batch = generator(betas, seeds)
        for name, tensor in zip(("image", "target", "mask"), batch.tensors, strict=True):
            assert len(tensor) == self.samples, f"{name} has {len(tensor)} rows for {self.samples} samples"
            assert tensor.is_floating_point(), f"{name} is {tensor.dtype}; dL/dX needs floating point"
            assert tensor.device == seeds.device, f"{name} is on {tensor.device}; samples belong where the seeds are"
            if tensor.dim() == batch.image.dim() == 4:
                assert tensor.shape[2:] == batch.image.shape[2:], (
                    f"{name} is {tuple(tensor.shape)}, the image {tuple(batch.image.shape)}; their pixels must match"
                )
        assert ((batch.mask == 0) | (batch.mask == 1)).all(), "the mask has values other than 0 and 1"

    def test_finite_at_corners(self) -> None:
        """Every tensor is finite at corners of the box of the bounds, moved to the nearest valid vector."""
        generator = self.make()
        space, draw = generator.space, torch.Generator().manual_seed(5)
        corners = torch.randint(0, 2, (8, space.dimension), generator=draw).to(torch.float64)
        corners = torch.cat([corners, torch.zeros_like(corners[:1]), torch.ones_like(corners[:1])])
        for beta in space.project(space.unscale(corners)):
            try:
                batch = generator(beta.expand(self.samples, -1), torch.arange(self.samples))
            except RenderError as error:
                raise AssertionError(f"narrow the bounds or define a rule: at beta = {beta} {error}") from error
            for name, tensor in zip(("image", "target", "mask"), batch.tensors, strict=True):
                assert tensor.isfinite().all(), f"{name} is not finite at beta = {beta}; narrow the bounds"

    def test_global_randomness_is_left_alone(self) -> None:
        """Construction and sampling neither touch nor use the random state of torch, numpy and random."""
        with _global_randomness_unchanged("the generator"):
            generator = self.make()
            betas, seeds = self._inputs(generator.space)
            first = generator(betas, seeds)
        with _disturbed_global_randomness():
            assert _same_batch(first, generator(betas, seeds)), "samples depend on global random state; use the seeds"

    def test_smooth_blocks(self) -> None:
        """In `smooth` blocks the derivative by autograd agrees with central differences for most samples.

        Not for all: a sample may happen to stand at a kink, or at the edge of a shadow.
        """
        generator = self.make()
        space = generator.space
        if not generator.smooth:
            raise unittest.SkipTest("the generator declares no smooth blocks")
        scaled, seeds = space.scale(self._inputs(space)[0]) / 2 + 0.25, torch.arange(self.samples)
        with torch.no_grad():
            example = generator(space.unscale(scaled), seeds)
        draw = torch.Generator().manual_seed(6)
        probe = example.map(lambda x: torch.randn(x.shape, generator=draw, dtype=torch.float64))

        def value(scaled: Tensor) -> Tensor:
            return probe.dot(generator(space.unscale(scaled), seeds).map(lambda x: x.to(torch.float64)))

        variable = scaled.clone().requires_grad_()
        (exact,) = torch.autograd.grad(value(variable).sum(), variable)
        for name in generator.smooth:
            for component in range(*space.slice(name).indices(space.dimension)):
                step = torch.zeros_like(scaled)
                step[:, component] = self.difference
                with torch.no_grad():
                    expected = (value(scaled + step) - value(scaled - step)) / (2 * self.difference)
                error, size = float((exact[:, component] - expected).abs().median()), float(expected.abs().median())
                assert error <= self.tolerance * size, (
                    f"component {component} (block {name!r}): autograd and central differences are {error:.3g} apart, "
                    f"their size being {size:.3g}; take the block out of `smooth`, or repair its derivative"
                )

    def _inputs(self, space: DecisionSpace) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(4)
        scaled = torch.rand((self.samples, space.dimension), generator=draw, dtype=torch.float64)
        return space.project(space.unscale(scaled)), torch.arange(7, 7 + self.samples)


class EnvironmentConformance:
    """Checks for an environment built on `DataGenEnv`.

    Attributes:
        check_render: Whether Gymnasium's checker is to render in every mode, too.
        difference: Half the distance of the central differences of L that check `sample_gradient`.
        tolerance: How far they may be from it, as a fraction; None skips this check. Smooth problems in float64 reach
            1e-6; networks in float32 need larger differences and tolerances.
    """

    check_render = True
    difference = 1e-4
    tolerance: float | None = None

    def make(self) -> DataGenEnv:
        """A new environment, always the same one, without wrappers (`gymnasium.make(...).unwrapped`)."""
        raise NotImplementedError("override make(self) to return the environment to check")

    def test_gymnasium_checker(self) -> None:
        """`gymnasium.utils.env_checker.check_env` has nothing to say."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(self.make(), skip_render_check=not self.check_render)

    def test_same_seed_same_rewards(self) -> None:
        """Two environments with one seed pay the same rewards, bit for bit, whatever the global random state."""
        first = self._rewards(self._reset())
        with _global_randomness_unchanged("the environment"):
            again = self._rewards(self._reset())
        with _disturbed_global_randomness():
            disturbed = self._rewards(self._reset())
        assert first == again == disturbed, (
            f"one seed gave the rewards {first}, {again} and {disturbed}: use the seeds alone, no global random state"
        )
        assert first != self._rewards(self._reset(seed=1)), "the seed of reset has no effect"

    def test_probe_foretells_the_step(self) -> None:
        """A probe gives the outcome of a step at the same beta, and leaves weights and update as they were."""
        env = self._reset()
        env.probe_batch = 1  # more differ from a step by rounding
        betas = self._betas(env.space)
        before = _through_file(env.state_dict())
        outcomes = env.probe(betas)
        assert _same_weights(before, env.state_dict()), "probe changed the weights or the update; it must keep nothing"
        env.step(betas[1])
        assert env.outcome is not None
        assert outcomes[1].ok, f"a probe failed: {outcomes[1]}"
        assert env.outcome.loss == outcomes[1].loss, (
            f"a probe gave {outcomes[1]}, the step at the same beta {env.outcome}: both must start from the same "
            "weights and sample seeds"
        )

    def test_probes_made_together_agree(self) -> None:
        """Probes as one batch, as on a GPU, give what single ones give, but for rounding, at the same price."""
        env = self._reset()
        betas = self._betas(env.space)
        found: list[NDArray[np.float64]] = []
        costs: list[dict[str, int]] = []
        for env.probe_batch in (1, len(betas)):
            with _cost(env) as cost:
                found.append(np.array([outcome.loss for outcome in env.probe(betas)], dtype=np.float64))
            costs.append(cost)
        np.testing.assert_allclose(found[1], found[0], rtol=1e-3, err_msg="probes as one batch have other losses")
        assert costs[0] == costs[1], f"probes are charged {costs[0]} one by one, but {costs[1]} as one batch"

    def test_bad_beta_is_refused(self) -> None:
        """A beta of wrong shape, out of bounds or not finite raises DecisionError and changes nothing."""
        env = self._reset()
        good = env.space.project(env.space.initial)
        env.step(good)
        before, counts = _through_file(env.state_dict()), dict(env.ledger.counts)
        above, below, undefined, infinite = (good.clone() for _ in range(4))
        above[0], below[0] = env.space.high[0] + 1, env.space.low[0] - 1
        undefined[0], infinite[0] = float("nan"), float("inf")
        for bad in (good[:-1], torch.cat([good, good[:1]]), above, below, undefined, infinite, "beta"):
            try:
                env.step(bad)
            except DecisionError:
                pass
            else:
                raise AssertionError(f"{bad} was accepted: pass every beta through space.check")
            assert _same_weights(before, env.state_dict()), f"refusing {bad} changed the weights or the update"
            assert env.ledger.counts == counts, f"refusing {bad} was charged for"

    def test_state_round_trip(self) -> None:
        """Saved and loaded into a new environment, it goes on with the same bits."""
        env = self._reset()
        betas = self._betas(env.space)
        env.step(betas[0])
        saved = _through_file(env.state_dict())
        resumed = self._reset(seed=9)
        resumed.load_state_dict(saved)
        assert env.ledger.counts == resumed.ledger.counts, "the ledger's counts are not restored"
        for one in (env, resumed):
            one.sample_gradient()
        assert _same_batch(env.sample_gradient(), resumed.sample_gradient()), (
            "the sample gradient differs after loading: state_dict must hold all of the last step"
        )
        for beta in betas:
            expected, found = env.step(beta)[1], resumed.step(beta)[1]
            assert expected == found, (
                f"after loading a step pays {found}, the unbroken run {expected}: state_dict must hold everything that "
                "the next step depends on"
            )

    def test_everything_has_its_price(self) -> None:
        """Steps, probes, gradients and slopes are counted, whoever asks; scoring is free."""
        env = self._reset()
        betas, samples, steps = self._betas(env.space), env.samples_per_update, env.unroll_steps
        with _cost(env) as step:
            env.step(betas[0])
        assert step["flops"] > 0, "a step costs no floating-point operations: count them in learner.flops"
        expected = {"samples": samples, "training_steps": steps, "validation_passes": 1, "flops": step["flops"]}
        _assert_cost("a step", step, expected | {"updates": 1})
        with _cost(env) as probe:
            env.probe(betas)
        _assert_cost("a probe", probe, {name: len(betas) * count for name, count in expected.items()})
        with _cost(env) as each:
            env.step_each(betas[:1].expand(samples, -1))
        _assert_cost("a step whose samples have their own betas", each, expected | {"updates": 1})
        with _cost(env) as credits:
            env.credits()
        assert credits["flops"] > 0, "credits cost no floating-point operations"
        _assert_cost("credits", credits, {"validation_passes": 1, "flops": credits["flops"]})
        with _cost(env) as gradient:
            env.sample_gradient()
        assert gradient["flops"] > 0, "a sample gradient costs no floating-point operations"
        expected = {"gradient_steps": steps, "validation_passes": 1, "flops": gradient["flops"]}
        _assert_cost("the sample gradient", gradient, expected)
        with _cost(env) as part:
            env.sample_gradient(steps=1)
        _assert_cost("a part of the sample gradient, the whole being paid for", part, {})
        with _cost(env) as slopes:
            env.slopes(torch.full((2, samples, env.space.dimension), 1e-2, dtype=torch.float64))
        _assert_cost("two slopes per sample, the gradient being paid for", slopes, {"samples": 4 * samples})
        with _cost(env) as score:
            env.test_metrics()
            env.validation_metrics()
        _assert_cost("scoring", score, {})

    def test_metrics_are_numbers(self) -> None:
        """Test and validation metrics are finite floats, and scoring twice gives the same."""
        env = self._reset()
        env.step(env.space.project(env.space.initial))
        for score in (env.test_metrics, env.validation_metrics):
            metrics = score()
            assert metrics, "there are no metrics"
            wrong = {k: v for k, v in metrics.items() if not isinstance(v, float) or not np.isfinite(v)}
            assert not wrong, f"these metrics are not finite floats: {wrong}"
            assert metrics == score(), "scoring twice gives different figures"

    def test_sample_gradient(self) -> None:
        """The sample gradient agrees with central differences of L when the generated samples are moved."""
        if self.tolerance is None:
            raise unittest.SkipTest("set `tolerance` to check sample_gradient against differences of L")
        env = self._reset()
        start = _through_file(env.state_dict())
        beta = env.space.project(env.space.initial)
        env.step(beta)
        gradient = env.sample_gradient()
        draw = torch.Generator().manual_seed(6)
        direction = gradient.map(lambda x: torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x))
        expected = float(gradient.dot(direction).sum())
        env.load_state_dict(start)
        generator = env.generator
        losses = []
        for step in (self.difference, -self.difference):
            env.generator = _ShiftedGenerator(generator, direction, step)
            (outcome,) = env.probe(beta[None])
            assert outcome.loss is not None, f"a probe of moved samples failed: {outcome}"
            losses.append(outcome.loss)
        env.generator = generator
        found = (losses[0] - losses[1]) / (2 * self.difference)
        assert abs(found - expected) <= self.tolerance * abs(expected), (
            f"moving the samples changes L by {found}, dL/dX says {expected}: the learner's losses must be "
            "differentiable functions of all of the batch, and without randomness of their own"
        )

    def _reset(self, seed: int = 0) -> DataGenEnv:
        env = self.make()
        env.reset(seed=seed)
        return env

    def _rewards(self, env: DataGenEnv) -> list[float]:
        return [env.step(beta)[1] for beta in self._betas(env.space)]

    @staticmethod
    def _betas(space: DecisionSpace) -> Tensor:
        """Three valid vectors: the initial one and two on the way to random ones."""
        draw = torch.Generator().manual_seed(3)
        drawn = space.unscale(torch.rand((2, space.dimension), generator=draw, dtype=torch.float64))
        return space.project(torch.cat([space.initial[None], (space.initial + drawn) / 2]))


# --- What the checks are made with --------------------------------------------------------------------------------


class _Recorder:
    """An environment that remembers what was asked of it: ("step", "step_each" or "probe", beta), in order."""

    def __init__(self, environment: DataGenEnv) -> None:
        self.environment = environment
        self.calls: list[tuple[str, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.environment, name)

    def step(self, beta: Any) -> Any:
        self.calls.append(("step", torch.as_tensor(beta).clone()))
        return self.environment.step(beta)

    def step_each(self, betas: Tensor, share: int = 1) -> Any:
        self.calls.append(("step_each", betas.clone()))
        return self.environment.step_each(betas, share)

    def probe(self, betas: Any) -> Any:
        self.calls += [("probe", torch.as_tensor(beta).clone()) for beta in betas]
        return self.environment.probe(betas)


class _FaultyGenerator:
    """A generator that breaks in a share `rate` of its calls: raises RenderError, or makes images of NaN."""

    def __init__(self, generator: Generator, kind: str) -> None:
        self.space, self.smooth = generator.space, generator.smooth
        self.rate, self.faults = 0.0, 0
        self._generator, self._kind = generator, kind
        self._random = np.random.default_rng(2)

    def __call__(self, betas: Tensor, seeds: Tensor) -> Batch:
        batch = self._generator(betas, seeds)
        if self._random.random() >= self.rate:
            return batch
        self.faults += 1
        if self._kind == "unrenderable":
            raise RenderError("this sample was made unrenderable on purpose")
        return Batch(batch.image * float("nan"), batch.target, batch.mask)


class _ShiftedGenerator:
    """A generator whose samples are moved by `step` along a direction, row by row."""

    def __init__(self, generator: Generator, direction: Batch, step: float) -> None:
        self.space, self.smooth = generator.space, generator.smooth
        self._generator, self._direction, self._step = generator, direction, step

    def __call__(self, betas: Tensor, seeds: Tensor) -> Batch:
        pairs = zip(self._generator(betas, seeds).tensors, self._direction.tensors, strict=True)
        return Batch(*(x + self._step * d for x, d in pairs))


def _through_file(value: Any) -> Any:
    """What `torch.load` makes of what `torch.save` wrote."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _same_calls(first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in zip(first, second, strict=True)
    )


def _same_batch(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))


def _same_weights(first: dict[str, Any], second: dict[str, Any]) -> bool:
    a, b = first["state"].weights, second["state"].weights
    return first["update"] == second["update"] and all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def _cost(env: DataGenEnv) -> Iterator[dict[str, int]]:
    """The counts that were charged inside, known at the end."""
    cost: dict[str, int] = {}
    before = dict(env.ledger.counts)
    yield cost
    cost.update({name: env.ledger.counts[name] - before[name] for name in COUNTS})


def _assert_cost(what: str, cost: dict[str, int], expected: dict[str, int]) -> None:
    expected = dict.fromkeys(COUNTS, 0) | expected
    assert cost == expected, f"{what} was charged {cost}, but costs {expected}"


def _global_state() -> list[bytes]:
    # The legacy state is what is guarded here.
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    numpy_state = f"{np.asarray(keys).tobytes()!r} {position} {has_gauss} {gauss}".encode()
    return [torch.get_rng_state().numpy().tobytes(), numpy_state, repr(random.getstate()).encode()]


@contextmanager
def _global_randomness_unchanged(who: str) -> Iterator[None]:
    before = _global_state()
    yield
    for library, a, b in zip(("torch", "numpy", "random"), before, _global_state(), strict=True):
        assert a == b, f"{who} changed the global random state of {library}: use generators of your own"


@contextmanager
def _disturbed_global_randomness() -> Iterator[None]:
    """Another global random state inside, the old one afterwards; numpy's legacy one, since that is the global one."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(20201)
    np.random.seed(20202)  # noqa: NPY002
    random.seed(20203)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
