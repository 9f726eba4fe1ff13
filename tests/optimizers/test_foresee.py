"""What optimizers say they will ask the generator for next, and when it is told."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hgenv import DataGenEnv
from hgenv.optimizers import Fixed, credit_gradient, score_influence

from ..toys import StripesGenerator, labels_env


class Scored(StripesGenerator):
    """With numbers in the place of scores, and a list of what it is asked for: betas and seeds side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, set[tuple[float, ...]]]] = []

    def __call__(self, betas: Tensor, seeds: Tensor) -> Any:
        self.events.append(("asked", rows(betas, seeds)))
        return super().__call__(betas, seeds)

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        return torch.stack([(seeds % 7).double() - 3, (seeds % 5).double() - 2], 1)


class Foreseeing(Scored):
    """Writes down, too, what it is told will be asked for."""

    def prepare(self, betas: Tensor, seeds: Tensor) -> None:
        self.events.append(("prepared", rows(betas, seeds)))


def rows(betas: Tensor, seeds: Tensor) -> set[tuple[float, ...]]:
    return {(*beta, seed) for beta, seed in zip(betas.tolist(), seeds.tolist(), strict=True)}


def env_of(generator: Scored) -> DataGenEnv:
    env = labels_env()
    env.problem = replace(env.problem, generator=generator)
    env.reset(seed=0)
    return env


# How often an update asks for samples, and how often they had been prepared: of updates 1 to 6.
CASES = [
    (Fixed, 6 * [(1, 1)]),
    (score_influence, 3 * [(1, 1), (2, 1)]),  # at each second one beta moves, before a step and after virtual samples
    (credit_gradient, 3 * [(1, 1), (1, 0)]),
    (partial(credit_gradient, period=3), 2 * [(1, 1), (1, 1), (1, 0)]),
]


@pytest.mark.parametrize(("make", "expected"), CASES)
def test_what_is_foreseen_is_what_is_asked_for(make: Any, expected: list[tuple[int, int]]) -> None:
    """To the last bit; it is told once the step's own samples are there, and changes nothing."""
    generator = Foreseeing()
    env, other = env_of(generator), env_of(Scored())
    optimizer, its = make(env.space, seed=0), make(env.space, seed=0)
    found, ready = [], set[tuple[float, ...]]()
    for _ in range(7):
        generator.events.clear()
        optimizer.update(env)
        its.update(other)
        asked = [what for kind, what in generator.events if kind == "asked"]
        assert all(what <= ready or not what & ready for what in asked), "all of a set, or nothing of it"
        found.append((len(asked), sum(what <= ready for what in asked)))
        kinds = [kind for kind, _ in generator.events]
        assert "prepared" not in kinds[:-1], "after the step's own samples"
        ready = generator.events[-1][1] if kinds[-1] == "prepared" else set()
        assert env.outcome is not None
        assert other.outcome is not None
        assert env.outcome.loss == other.outcome.loss
    assert found[1:] == expected
    assert torch.equal(optimizer.recommendation, its.recommendation)
    assert env.ledger.counts == other.ledger.counts


def test_a_reset_forgets_what_was_expected() -> None:
    generator = Foreseeing()
    env = env_of(generator)
    env.expect(env.space.initial[None], env.sample_seeds(1))
    env.reset(seed=1)
    env.step(env.space.initial)
    assert [kind for kind, _ in generator.events] == ["asked"]
    env.expect(env.space.initial[None], env.sample_seeds(1, later=1))
    env.probe(env.space.initial[None])
    env.step(env.space.initial)
    env.step(env.space.initial)
    assert [kind for kind, _ in generator.events[1:]] == ["asked", "asked", "prepared", "asked"]
    seeds = [what for _, what in generator.events[-2:]]
    assert seeds[0] <= seeds[1], "the first of the step after the coming one"
