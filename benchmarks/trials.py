"""Tuning as a part of a method: as many trials of settings for each optimizer, chosen on validation alone.

    hgenv trials optimizer=combined,basic_random_search env=shapes_lit env.data=mbii env.input=shading,diffuse workers=2

The first trial is the optimizer as it is configured. The others are quasi-random points of a space that depends on the
optimizer alone, never on the environment. Each trial is made in every environment and with every seed that is asked
for. What it is worth is its end on validation, divided by the first trial's: the mean over environments and seeds. No
test figure is looked at.

Settings come as for `hgenv compare`, and besides `trials=16`. Runs that are finished are not made again. The tables are
also in `<root>/<study>/trials.md`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from hgenv.accounting import PRICED

from . import files, report
from .compare import compare, expand, parsed
from .config import RunError, compose, plainly
from .report.tables import Table, late
from .studies import Run

TRIALS = 16
FILE = "trials.md"
DEFAULTS = ("study=trials", f"budget.unit={PRICED}", "budget.amount=60", "seed=10")


@dataclass(frozen=True)
class Factor:
    """A number that is tried up to `most` times smaller and larger than configured, log-uniformly."""

    most: float

    def at(self, share: float, configured: Any) -> str:
        """The value at a share of the range, from 0 to 1."""
        return f"{float(configured) * self.most ** (2 * share - 1):.3g}"


@dataclass(frozen=True)
class Choice:
    """Values that are tried alike."""

    values: tuple[Any, ...]

    def at(self, share: float, configured: Any) -> str:
        """The value at a share of the list, from 0 to 1."""
        return str(self.values[min(int(share * len(self.values)), len(self.values) - 1)])


Knob = Factor | Choice
RULE: dict[str, Knob] = {"rule.learning_rate": Factor(5), "rule.decay_updates": Choice((10, 30, 100, "inf"))}
GRADIENT = RULE | {"period": Choice((1, 2, 4, 8))}
PAIRS: dict[str, Knob] = {"estimator.sigma": Factor(3), "estimator.num_directions": Choice((1, 2, 4))}
SPACES: dict[str, dict[str, Knob]] = {
    "combined": GRADIENT | {"shrinkage.memory": Choice((0.0, 0.5, 0.9)), "shrinkage.threshold": Choice((1.0, 2.0))},
    "score_influence": GRADIENT | {"estimator.num_virtual": Choice((0, 32, 128)), "estimator.clip": Factor(3)},
    "autosimulate": GRADIENT | {"estimator.damping": Factor(10)},
    "hybrid_gradient": GRADIENT | PAIRS,
    "hybrid_gradient_paper": RULE | {"estimator.sigma": Factor(3), "estimator.num_directions": Choice((16, 24, 32))},
    "credit_gradient": GRADIENT | {"estimator.sigma": Factor(3)},
    "basic_random_search": GRADIENT | PAIRS,
    "reinforce": GRADIENT | {"estimator.sigma": Factor(3)},
    "spsa": GRADIENT | {"estimator.sigma": Factor(3)},
    "openai_es": GRADIENT | PAIRS,
    "guided_es": GRADIENT | PAIRS,
    "evolution": {"sigma": Factor(3), "period": Choice((1, 2, 4, 8))},
    "cmaes_lra": {"sigma": Factor(3), "period": Choice((1, 2, 4, 8))},
    "snes": {"sigma": Factor(3), "period": Choice((1, 2, 4, 8))},
}


def settings_of(name: str, count: int) -> list[list[str]]:
    """Settings of the trials of an optimizer; the first has none.

    Raises:
        RunError: It has no space of settings, or a setting of its space is none of the optimizer's.
    """
    if name not in SPACES:
        raise RunError(f"optimizer {name!r} has nothing to be tuned; there are {', '.join(SPACES)}")
    configured = compose([f"optimizer={name}"]).identity["optimizer"]
    knobs = SPACES[name]
    points = qmc.Sobol(len(knobs), rng=0).random_base2(max(1, math.ceil(math.log2(count))))[: count - 1]
    found: list[list[str]] = [[]]
    for point in points:
        values = zip(knobs.items(), point, strict=True)
        found.append([f"optimizer.{path}={knob.at(share, _value(configured, path))}" for (path, knob), share in values])
    return found


def _value(configured: Mapping[str, Any], path: str) -> Any:
    """The configured value of a setting.

    Raises:
        RunError: There is no such setting.
    """
    value: Any = configured
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise RunError(f"{configured['label']} has no setting optimizer.{path}")
        value = value[part]
    return value


def table(name: str, settings: Sequence[Sequence[str]], runs: Sequence[Run]) -> Table:
    """What the trials of an optimizer are worth, the best first."""
    metric = runs[0].primary
    ends = {(r.optimizer, r.environment, r.seed): float(late([r], "validation", metric.name)[0]) for r in runs}
    places = sorted({(environment, seed) for _, environment, seed in ends})
    environments = list(dict.fromkeys(environment for environment, _ in places))
    rows = []
    for number, own in enumerate(settings):
        label = _label(name, number)
        ratios = [ends[label, *place] / ends[_label(name, 0), *place] for place in places]
        cells = [
            f"{np.mean([ends[label, environment, seed] for there, seed in places if there == environment]):.2f}"
            for environment in environments
        ]
        said = ", ".join(word.removeprefix("optimizer.") for word in own) or "as configured"
        rows.append((float(np.mean(ratios)), [str(number), f"{np.mean(ratios):.3f}", *cells, said]))
    rows.sort(key=lambda row: row[0], reverse=metric.direction == "max")
    header = ["trial", "of trial 0's", *(f"{e}, validation {metric.title}" for e in environments), "settings"]
    return Table(header, [cells for _, cells in rows])


def _label(name: str, number: int) -> str:
    return f"{name}-trial{number:02d}"


def make(words: Sequence[str]) -> str:
    """Make the trials that are missing, write the tables, and return them.

    Raises:
        RunError: The words make no sense, or a run failed.
    """
    counts = [word.partition("=")[2] for word in words if word.startswith("trials=")]
    count = counts[-1] if counts else str(TRIALS)
    if not count.isdecimal() or int(count) < 2:
        raise RunError(f"trials must be a whole number of at least 2, not {count!r}")
    overrides, workers, config_dir = parsed([word for word in words if not word.startswith("trials=")])
    said = {word.partition("=")[0] for word in overrides}
    rest = [word for word in DEFAULTS if word.partition("=")[0] not in said]
    asked = [word for word in overrides if word.startswith("optimizer=")]
    if not asked:
        raise RunError("name the optimizers to be tuned: optimizer=combined,basic_random_search")
    others = [word for word in overrides if not word.startswith("optimizer=")]
    parts, folders = [], list[Path]()
    for (word,) in expand(asked[-1:]):
        name = word.partition("=")[2]
        settings = settings_of(name, int(count))
        each = [[word, f"optimizer.label={_label(name, n)}", *own] for n, own in enumerate(settings)]
        folders, failed = compare([*rest, *others], workers, config_dir, each)
        for folder, words_ in failed.items():
            raise RunError(f"{folder} failed: {words_.removeprefix('error: ')}")
        parts.append(f"## {name}\n\n{table(name, settings, report.collect(folders).runs).markdown()}\n")
    study = folders[0].parents[2]
    text = "# Trials, judged on validation alone\n\n" + "\n".join(parts)
    files.write(study / FILE, text)
    return f"{text}\n{study / FILE}"


@plainly
def main(arguments: Sequence[str] | None = None) -> int:
    """Make trials from the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    print("\n" + make(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
