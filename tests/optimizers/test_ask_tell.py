"""What a method of a library is told: losses of one update, or the sum of differences to the incumbent."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hgenv.optimizers import AskTell, Evolution
from hgenv.testing.tools import through_file

from .test_evolution import Scored, generations, unit_box

NAN = float("nan")


class Line:
    """A method that asks what it is given, two candidates at a time, and writes down what it is told."""

    def __init__(self, script: list[list[float]]) -> None:
        self.script, self.told = [np.array(points)[:, None] for points in script], list[list[float]]()

    def ask(self) -> np.ndarray:
        return self.script[len(self.told)]

    def tell(self, losses: list[float]) -> None:
        self.told.append(losses)

    def retell(self, losses: list[float]) -> np.ndarray:
        candidates = self.ask()
        self.tell(losses)
        return candidates


class Scripted(AskTell):
    LIBRARY, PLAIN = "scripted", "write another"

    def __init__(self, script: list[list[float]], seed: int = 0) -> None:
        self.script = script
        super().__init__(unit_box(1), seed=seed, initial=None, period=1, population=2, name="Line")

    def _make(self, seed: int, initial: Tensor) -> Line:
        return Line(self.script)


class Ranking(Scripted):
    compares = False


class Failing(Scripted):
    FAILED = NAN


def told(kind: type[Scripted], script: list[list[float]], table: list[list[float | None]]) -> tuple[Any, Any]:
    """What is told, and what is probed, where probes give the numbers of a table."""
    optimizer, env = kind(script), Scored(lambda betas, update: table[update])
    for _ in table:
        optimizer.update(env)  # type: ignore[arg-type]
    return optimizer._method.told, [betas.flatten().tolist() for betas in env.probed]  # type: ignore[attr-defined]


def test_values_are_sums_of_differences_to_the_incumbent() -> None:
    """L of the incumbent first. Levels of 10, 5 and 2 come from training; the second candidate is the first to be
    better than the initial beta, the fourth better than that, and the last is told against the fourth."""
    script = [[0.1, 0.2], [0.3, 0.4], [0.6, 0.7]]
    values, probed = told(Scripted, script, [[10.0, 11.0, 9.5], [5.0, 5.25, 4.0], [2.0, 1.0, 3.0]])
    assert values == [[1.0, -0.5], [-0.25, -1.5], [-2.5, -0.5]]
    assert probed == [[0.5, 0.1, 0.2], [0.2, 0.3, 0.4], [0.4, 0.6, 0.7]]


def test_who_ranks_is_told_losses_and_pays_for_no_incumbent() -> None:
    script = [[0.1, 0.2], [0.3, 0.4]]
    values, probed = told(Ranking, script, [[10.0, 11.0, 9.5], [5.0, 5.25]])
    assert values == [[11.0, 9.5], [5.0, 5.25]]
    assert probed == [[0.5, 0.1, 0.2], [0.3, 0.4]]


def test_failures() -> None:
    """Of a candidate: the worst loss, or the library's own word. Of the incumbent: the median stands in."""
    script = [[0.1, 0.2], [0.3, 0.4], [0.6, 0.7], [0.8, 0.9]]
    table: list[list[float | None]] = [[10.0, None, 9.0], [None, 4.0, 6.0], [None, None, 3.0], [None, None, None]]
    values, probed = told(Scripted, script, table)
    assert values == [[50.0, -1.0], [-2.0, 0.0], [50.0, -2.0], [50.0, 50.0]]
    assert [row[0] for row in probed] == [0.5, 0.2, 0.3, 0.3]
    values, _ = told(Failing, script, table)
    np.testing.assert_array_equal(values, [[NAN, -1.0], [-2.0, 0.0], [NAN, -2.0], [NAN, NAN]])


def test_a_state_knows_the_incumbent() -> None:
    script = [[0.1, 0.2], [0.3, 0.4]]
    first, env = Scripted(script), Scored(lambda betas, update: [10.0, 11.0, 9.5])
    first.update(env)  # type: ignore[arg-type]
    resumed, other = Scripted(script, seed=1), Scored(lambda betas, update: [5.0, 5.25, 4.0])
    resumed.load_state_dict(through_file(first.state_dict()))
    resumed.update(other)  # type: ignore[arg-type]
    assert other.probed[0].flatten().tolist() == [0.2, 0.3, 0.4]
    assert resumed._method.told == [[1.0, -0.5], [-0.25, -1.5]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["CMA", "DE", "OnePlusOne", "RealSpacePSO", "TBPSA"])
def test_training_does_not_mislead(name: str) -> None:
    """A level of L that falls from update to update changes no candidate: eighths are added without rounding."""

    def score(level: float) -> Any:
        def of(betas: Tensor, update: int) -> list[float | None]:
            rounded = (betas - 0.7).square().sum(1).mul(1024).round().div(1024)
            return [float(x) + level * 0.5**update for x in rounded]

        return of

    plain, falling = (
        generations(Evolution(unit_box(3), seed=0, name=name, population=6, period=1), score(level), 8)
        for level in (0.0, 32.0)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, falling, strict=True))


def test_a_method_that_compares_follows_what_is_better_at_the_weights_there_are() -> None:
    """Differences shrink a hundredfold as the network learns. Told those to the initial beta, one plus one would stay
    where it was when they were large."""

    def score(betas: Tensor, update: int) -> list[float | None]:
        optimum = 0.3 if update < 5 else 0.7
        return ((betas - optimum).square().sum(1) * 0.01 ** (update >= 5)).tolist()

    optimizer, env = Evolution(unit_box(3), seed=0, name="OnePlusOne", period=1), Scored(score)
    for _ in range(30):
        optimizer.update(env)  # type: ignore[arg-type]
    assert float((optimizer._history.incumbent - 0.7).abs().max()) < 0.1
