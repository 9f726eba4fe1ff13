"""What every optimizer has to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from ..decision import DecisionSpace
from ..env import DataGenEnv
from ..problem import Generator, RenderError
from ..samples import Samples
from .tools import disturbed_global_randomness, global_randomness_unchanged, through_file


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
        # No abstract method: pytest would only say that it cannot make the class, and not what is missing.
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
        for beta in [*(beta for _, beta in env.calls), optimizer.recommendation]:
            if beta.dim() == 2:  # a beta of each sample's own is refused if out of bounds, and needs no projection
                continue
            valid = env.space.project(env.space.check(beta))
            assert torch.allclose(beta, valid, rtol=0, atol=1e-9), (
                f"{beta} is not valid: pass every vector through space.project"
            )

    def test_an_update_ends_in_its_only_step(self) -> None:
        """Exactly one `env.step`, or one `env.rollout` that is kept, an update, after everything else."""
        env = _Recorder(self._reset())
        optimizer = self.make(env.space, 0)
        for _ in range(5):
            before = len(env.calls)
            optimizer.update(env)
            names = [name for name, _ in env.calls[before:]]
            assert [i for i, name in enumerate(names) if name == "step"] == [len(names) - 1], (
                f"an update made the calls {names}; it must step exactly once, at its end"
            )

    def test_same_seed_same_proposals(self) -> None:
        """Two runs with one seed visit the same betas, bit for bit, whatever the global random state."""
        first = self._run(8)[1].calls
        with disturbed_global_randomness():
            second = self._run(8)[1].calls
        assert _same_calls(first, second), (
            "two runs with the same seed differ: draw only from a generator of your own, seeded with `seed`"
        )

    def test_global_randomness_is_left_alone(self) -> None:
        """Construction and updates do not touch the random state of torch, numpy and random."""
        with global_randomness_unchanged("the optimizer"):
            self._run(8)

    def test_survives_failures(self) -> None:
        """Steps, probes and slopes that fail, now and then or all at once, neither stop it nor lead it astray."""
        for kind in ("unrenderable", "diverging"):
            env = _Recorder(self._reset())
            faulty = _FaultyGenerator(env.generator, kind)
            env.environment.problem = replace(env.problem, generator=faulty)
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
        saved = through_file({"optimizer": optimizer.state_dict(), "env": env.state_dict()})
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


class _Recorder:
    """An environment that remembers what was asked of it: ("step", "rollout" or "probe", betas), in order."""

    def __init__(self, environment: DataGenEnv) -> None:
        self.environment = environment
        self.calls: list[tuple[str, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.environment, name)

    def step(self, beta: Any) -> Any:
        self.calls.append(("step", torch.as_tensor(beta).clone()))
        return self.environment.step(beta)

    def rollout(self, betas: Tensor, *, keep: bool = False, **options: Any) -> Any:
        self.calls.append(("step" if keep else "rollout", betas.clone()))
        return self.environment.rollout(betas, keep=keep, **options)

    def probe(self, betas: Any) -> Any:
        self.calls += [("probe", torch.as_tensor(beta).clone()) for beta in betas]
        return self.environment.probe(betas)


class _FaultyGenerator:
    """A generator that breaks in a share `rate` of its calls: raises RenderError, or makes NaN of the first field."""

    def __init__(self, generator: Generator, kind: str) -> None:
        self.space, self.pathwise = generator.space, generator.pathwise
        self.rate, self.faults = 0.0, 0
        self._generator, self._kind = generator, kind
        self._random = np.random.default_rng(2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)  # what a generator may have besides

    def __call__(self, betas: Tensor, seeds: Tensor) -> Samples:
        samples = self._generator(betas, seeds)
        if self._random.random() >= self.rate:
            return samples
        self.faults += 1
        if self._kind == "unrenderable":
            raise RenderError("this sample was made unrenderable on purpose")
        first, *rest = samples.tensors
        return samples.with_tensors([first * float("nan"), *rest])


def _same_calls(first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in zip(first, second, strict=True)
    )
