"""What the runs of a report say together, by the rules of docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..studies import DATA, Run
from .tables import BASELINE, CONFIDENCE, FEWEST, Table, by_optimizer, late

RESAMPLES = 2000
TARGETS = 20  # of a ladder
PROPORTION = 0.25  # cut from both ends of an interquartile mean

Floats = NDArray[np.float64]
Statistic = Callable[[list[Floats]], Floats]  # of strata (R, n), as (R,)


def interquartile_mean(values: Floats) -> Floats:
    """The mean of the middle half of (..., n) (Agarwal et al., NeurIPS 2021), (...)."""
    return np.asarray(stats.trim_mean(values, PROPORTION, axis=-1))


def probability_of_improvement(ours: Sequence[Floats], theirs: Sequence[Floats], direction: str) -> Floats:
    """How likely a run of ours is better than one of theirs, a tie counting half: the mean over environments.

    Args:
        ours: Ends of our runs, (..., n) for each environment.
        theirs: And of theirs, (..., m).
        direction: "min" or "max", what is better.
    """
    sign = -1 if direction == "max" else 1
    gaps = [sign * (y[..., None, :] - x[..., :, None]) for x, y in zip(ours, theirs, strict=True)]
    # Mann and Whitney's U by the number of pairs.
    return np.mean([((gap > 0) + 0.5 * (gap == 0)).mean((-1, -2)) for gap in gaps], axis=0)


def bootstrapped(statistic: Statistic, strata: Sequence[Floats], seed: int) -> tuple[float, float]:
    """The percentile interval of a statistic, resampled within each stratum.

    Args:
        statistic: Of strata (R, n), as (R,).
        strata: Values (n,), say the seeds of each environment.
        seed: Decides the resamples.
    """
    random = np.random.default_rng(seed)
    found = statistic([s[random.integers(len(s), size=(RESAMPLES, len(s)))] for s in strata])
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def ladder(runs: Sequence[Run]) -> Floats:
    """Targets on validation in one environment: from what the first run had early to the best that any had.

    Evenly spaced between the median of all runs' figures after a twentieth of their budget, and the best moment
    of any, each over a window of a twentieth.
    """
    curves = [_smooth(run) for run in runs]
    sign = _sign(runs[0])
    early = float(np.median([sign * values[np.searchsorted(share, 0.05)] for share, values in curves]))
    best = min(float((sign * values).min()) for _, values in curves)
    return sign * np.linspace(early, best, TARGETS + 1)[1:]


def times_to(run: Run, targets: Floats) -> Floats:
    """The shares of its budget after which a run is at each target; infinite for those that it misses."""
    share, values = _smooth(run)
    sign = _sign(run)
    reached = sign * values[None] <= sign * targets[:, None] + 1e-12
    return np.where(reached.any(1), share[reached.argmax(1)], math.inf)


def expected_running_time(times: Floats) -> float:
    """Budget spent until a success, with restarts: all that was spent, by the number of successes (Hansen et al.)."""
    successes = np.isfinite(times).sum()
    return float(np.minimum(times, 1.0).sum() / successes) if successes else math.inf


def together(runs: Sequence[Run], baseline: str = BASELINE) -> Table | None:
    """A line for each optimizer, over all environments in which it and the baseline have enough seeds; None for none.

    Args:
        runs: Finished ones, sorted by environment.
        baseline: Whom the others are compared with.
    """
    places = [list(own) for _, own in groupby(runs, key=lambda run: run.environment)]
    rungs = {place[0].environment: ladder(place) for place in places if len(place) > 1}
    rows = []
    for name in dict.fromkeys(name for name, _ in by_optimizer(runs)):
        pairs = []
        for place in places:
            groups = dict(by_optimizer(place))
            ours, theirs = groups.get(name, []), groups.get(baseline, [])
            if min(len(ours), len(theirs)) >= FEWEST:
                pairs.append((ours, theirs))
        if not pairs:
            continue
        cells = [name, str(len(pairs))]
        for data in DATA:
            cells += _against(pairs, data, name == baseline)
        times = [times_to(run, rungs[run.environment]) for ours, _ in pairs for run in ours]
        share = np.mean([np.isfinite(t).mean() for t in times])
        middle = [
            expected_running_time(np.array([times_to(run, rungs[run.environment])[TARGETS // 2 - 1] for run in ours]))
            for ours, _ in pairs
        ]
        cells += [f"{share:.0%}", _share(float(np.mean(middle)))]
        rows.append(cells)
    if len(rows) < 2:
        return None
    header = ["optimizer", "environments"]
    for data in DATA:
        header += [f"{data}, of {baseline}'s (IQM)", f"{data}, better with probability"]
    return Table([*header, "targets reached", "budget to the middle target"], rows)


def _against(pairs: Sequence[tuple[list[Run], list[Run]]], data: str, itself: bool) -> list[str]:
    """The interquartile mean of ends beside the baseline's mean, and the probability of improvement."""
    direction = pairs[0][0][0].primary.direction
    ours = [late(own, data, own[0].primary.name) for own, _ in pairs]
    theirs = [late(other, data, other[0].primary.name) for _, other in pairs]
    ratios = [x / y.mean() for x, y in zip(ours, theirs, strict=True)]
    low, high = bootstrapped(lambda strata: interquartile_mean(np.concatenate(strata, -1)), ratios, 0)
    cell = f"{float(interquartile_mean(np.concatenate(ratios))):.3f} [{low:.3f}, {high:.3f}]"
    if itself:
        return [cell, "-"]
    count = len(pairs)
    low, high = bootstrapped(
        lambda strata: probability_of_improvement(strata[:count], strata[count:], direction), [*ours, *theirs], 1
    )
    return [cell, f"{float(probability_of_improvement(ours, theirs, direction)):.2f} [{low:.2f}, {high:.2f}]"]


def _smooth(run: Run) -> tuple[Floats, Floats]:
    """Shares of the budget, and validation figures as means over the twentieth before; from where there is one."""
    rows = run.counted[~np.isnan(run.metrics["validation"][run.primary.name][run.counted])]
    share, values = run.used[rows] / run.budget.amount, run.metrics["validation"][run.primary.name][rows]
    first = np.searchsorted(share, share - 0.05, side="right")
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    means = (total[index + 1] - total[first]) / (index + 1 - first)
    late_enough = share >= min(0.05, share[-1])
    return share[late_enough], means[late_enough]


def _sign(run: Run) -> int:
    return -1 if run.primary.direction == "max" else 1


def _share(value: float) -> str:
    return f"{value:.2f}" if value < math.inf else "never"
