"""What every environment built on `DataGenEnv` has to do."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from torch import Tensor

from ..accounting import COUNTS
from ..decision import DecisionError, DecisionSpace
from ..env import DataGenEnv
from ..probing import Batched, Serial
from ..problem import Generator
from ..samples import Samples
from .tools import disturbed_global_randomness, global_randomness_unchanged, same_samples, through_file


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
        # No abstract method: pytest would only say that it cannot make the class, and not what is missing.
        raise NotImplementedError("override make(self) to return the environment to check")

    def test_gymnasium_checker(self) -> None:
        """`gymnasium.utils.env_checker.check_env` has nothing to say."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(self.make(), skip_render_check=not self.check_render)

    def test_same_seed_same_rewards(self) -> None:
        """Two environments with one seed pay the same rewards, bit for bit, whatever the global random state."""
        first = self._rewards(self._reset())
        with global_randomness_unchanged("the environment"):
            again = self._rewards(self._reset())
        with disturbed_global_randomness():
            disturbed = self._rewards(self._reset())
        assert first == again == disturbed, (
            f"one seed gave the rewards {first}, {again} and {disturbed}: use the seeds alone, no global random state"
        )
        assert first != self._rewards(self._reset(seed=1)), "the seed of reset has no effect"

    def test_probe_foretells_the_step(self) -> None:
        """A probe gives the outcome of a step at the same beta, and leaves weights and update as they were."""
        env = self._reset()
        env.prober = Serial()  # a batch differs from a step by rounding
        betas = self._betas(env.space)
        before = through_file(env.state_dict())
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
        for env.prober in (Serial(), Batched()):
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
        before, counts = through_file(env.state_dict()), dict(env.ledger.counts)
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
        saved = through_file(env.state_dict())
        resumed = self._reset(seed=9)
        resumed.load_state_dict(saved)
        assert env.ledger.counts == resumed.ledger.counts, "the ledger's counts are not restored"
        assert env.last is not None
        assert resumed.last is not None, "the last step is not restored"
        assert same_samples(env.last.sample_gradient().samples, resumed.last.sample_gradient().samples), (
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
        betas, samples, steps = self._betas(env.space), env.problem.num_samples, env.problem.unroll_steps
        with _cost(env) as step:
            env.step(betas[0])
        assert step["flops"] > 0, "a step costs no floating-point operations: count them in learner.flops"
        expected = {"samples": samples, "training_steps": steps, "validation_passes": 1, "flops": step["flops"]}
        _assert_cost("a step", step, expected | {"updates": 1})
        with _cost(env) as probe:
            env.probe(betas)
        _assert_cost("a probe", probe, {name: len(betas) * count for name, count in expected.items()})
        with _cost(env) as rollout:
            env.rollout(betas[:1].expand(samples, -1))
        _assert_cost("a rollout whose samples have their own betas", rollout, expected)
        last = env.last
        assert last is not None
        with _cost(env) as influence:
            last.influence()
        assert influence["flops"] > 0, "influence costs no floating-point operations"
        _assert_cost("influence", influence, {"validation_passes": 1, **_gradient(influence)})
        with _cost(env) as gradient:
            last.sample_gradient()
        assert gradient["flops"] > 0, "a sample gradient costs no floating-point operations"
        expected = {"gradient_steps": steps, **_gradient(gradient)}
        _assert_cost("the sample gradient, its validation pass being paid for with influence", gradient, expected)
        with _cost(env) as part:
            last.sample_gradient(last_steps=1)
            last.influence()
            last.influence(curvature=True)
        _assert_cost("a part of the sample gradient, and influence, being paid for", part, {})
        with _cost(env) as slopes:
            last.sample_gradient().slopes(torch.full((2, samples, env.space.dimension), 1e-2, dtype=torch.float64))
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
        start = through_file(env.state_dict())
        beta = env.space.project(env.space.initial)
        env.step(beta)
        assert env.last is not None
        gradient = env.last.sample_gradient().samples
        draw = torch.Generator().manual_seed(6)
        direction = gradient.map(
            lambda x: torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x) if x.is_floating_point() else x
        )
        expected = float(gradient.dot(direction).sum())
        env.load_state_dict(start)
        problem = env.problem
        losses = []
        for step in (self.difference, -self.difference):
            env.problem = replace(problem, generator=_ShiftedGenerator(problem.generator, direction, step))
            (outcome,) = env.probe(beta[None])
            assert outcome.loss is not None, f"a probe of moved samples failed: {outcome}"
            losses.append(outcome.loss)
        env.problem = problem
        found = (losses[0] - losses[1]) / (2 * self.difference)
        assert abs(found - expected) <= self.tolerance * abs(expected), (
            f"moving the samples changes L by {found}, dL/dX says {expected}: the task's losses must be "
            "differentiable functions of all of the samples, and without randomness of their own"
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
        drawn = space.denormalize(torch.rand((2, space.dimension), generator=draw, dtype=torch.float64))
        return space.project(torch.cat([space.initial[None], (space.initial + drawn) / 2]))


class _ShiftedGenerator:
    """A generator whose samples are moved by `step` along a direction, row by row."""

    def __init__(self, generator: Generator, direction: Samples, step: float) -> None:
        self.space, self.pathwise = generator.space, generator.pathwise
        self._generator, self._direction, self._step = generator, direction, step

    def __call__(self, betas: Tensor, seeds: Tensor) -> Samples:
        samples = self._generator(betas, seeds)
        pairs = zip(samples.tensors, self._direction.tensors, strict=True)
        return samples.with_tensors(x + self._step * d if x.is_floating_point() else x for x, d in pairs)


def _same_weights(first: dict[str, Any], second: dict[str, Any]) -> bool:
    a, b = first["state"]["weights"], second["state"]["weights"]
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


def _gradient(cost: dict[str, int]) -> dict[str, int]:
    """The floating-point operations of a gradient, counted as such."""
    return {"flops": cost["flops"], "gradient_flops": cost["flops"]}
