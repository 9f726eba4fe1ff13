"""What the optimizers' tests are made with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import torch
from torch import Tensor

import hgenv
from hgenv import DataGenEnv, DecisionSpace, DenseSamples, Outcome, RenderError, Samples, block
from hgenv.generators.random import normals, uniforms
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.optimizers import Estimator, Proposal
from hgenv.tasks.quadratic import point_data

# They ask an environment for nothing that another one in the registry does not ask it for. Where that is slow, the
# other one is enough.
ALIKE = (
    *("reinforce", "spsa", "openai_es", "guided_es", "snes", "persistent_es", "quasi_random_search"),
    *("diagonal_cma", "cmaes_lra", "tbpsa", "one_plus_one", "de", "pso", "optuna"),
)


def quadratic(**options: Any) -> DataGenEnv:
    """A fresh `hgenv/Quadratic-v0` with K = 4 steps of 8 samples, d = 4."""
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True, **options).unwrapped
    env.reset(seed=3)
    return env


def center(env: DataGenEnv) -> Tensor:
    """The common beta, (d,) normalized."""
    return env.space.normalize(env.space.initial)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(estimator: Estimator, env: DataGenEnv, at: Tensor | None = None, seed: int = 0) -> Tensor:
    """What a gradient optimizer would follow, (d,)."""
    rows = estimator.estimate(env, center(env) if at is None else at, draws(seed))
    assert rows is not None
    return rows.nanmean(0).nan_to_num(0)


def losses(env: DataGenEnv, normalized: Tensor) -> Tensor:
    """L after a step at each of (P, d) betas, (P,)."""
    return torch.tensor([o.loss for o in env.probe(env.space.denormalize(normalized))], dtype=torch.float64)


def probes(env: DataGenEnv) -> list[tuple[Tensor, list[Outcome]]]:
    """A list that fills with what is probed and what came of it."""
    seen: list[tuple[Tensor, list[Outcome]]] = []
    probe = env.probe

    def recording(betas: Tensor) -> list[Outcome]:
        seen.append((betas, probe(betas)))
        return seen[-1][1]

    env.probe = recording  # type: ignore[method-assign]
    return seen


class Breaking:
    """The generator of an environment, which fails on demand from now on."""

    def __init__(self, env: DataGenEnv) -> None:
        self.inner, self.space, self.pathwise = env.generator, env.space, env.generator.pathwise
        self.failing = False
        env.problem = replace(env.problem, generator=self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # what a generator may have besides

    def __call__(self, betas: Tensor, seeds: Tensor) -> Samples:
        if self.failing:
            raise RenderError("sample 0 cannot be rendered")
        return self.inner(betas, seeds)


class Given:
    """An estimator that gives the same rows each time, and says when it was asked."""

    def __init__(self, rows: Tensor | None) -> None:
        self.rows, self.asked = rows, list[int]()

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        return None

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        self.asked.append(env.update)
        return self.rows


class MixtureGenerator:
    """Points that are one of three corners in the mean: a simplex block, and their spread."""

    pathwise: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.space = DecisionSpace([
            block("corner", 3, 0.0, 1.0, (0.2, 0.2, 0.6), "1", "how much of each corner", simplex=True, floor=0.02),
            block("spread", 1, 0.0, 1.0, 0.3, "1", "standard deviation around the mean"),
        ])  # fmt: skip

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        parts = self.space.split(betas)
        points = parts["corner"] + parts["spread"] * normals(uniforms(seeds, 3))
        return DenseSamples(points, torch.zeros_like(points), torch.ones_like(points[:, :1]))


def mixture() -> DataGenEnv:
    """The quadratic problem with a simplex block: to find a point between the corners."""
    data = point_data((0.7, 0.2, 0.1), "mixture")
    env = DataGenEnv(
        MixtureGenerator(),
        QuadraticLearner(),
        data,
        data,
        rule=hgenv.SGD(0.1),
        unroll_steps=4,
        batch_size=8,
        device="cpu",
    )
    env.reset(seed=3)
    return env
