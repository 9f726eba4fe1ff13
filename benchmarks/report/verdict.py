"""What a report says first: which optimizer ends best, by how much, and whether the seeds allow to say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hgenv.tasks import Metric

from ..records import plural
from ..studies import DATA, Run
from .tables import CONFIDENCE, FEWEST, by_optimizer, digits, interval, late

REFERENCE = "fixed"  # whom the best is compared with besides the next: not to search at all

Ends = Mapping[int, float]  # by seed


def verdict(runs: Sequence[Run]) -> str:
    """A sentence on validation and one on test, from the finished runs of one environment under one budget.

    An optimizer's end is its mean over the last tenth of the budget. Two are compared seed by seed, since runs of one
    seed begin with the same weights.
    """
    groups = by_optimizer(runs)
    if len(groups) == 1:
        return f"There is one optimizer, {groups[0][0]}, and nothing to compare it with."
    found = " ".join(_sentence(data, runs[0].primary, groups) for data in DATA)
    if "[" not in found:
        return found
    return f"{found} In brackets: {CONFIDENCE:.0%} intervals of the differences seed by seed; a tie's includes zero."


def _sentence(data: str, metric: Metric, groups: Sequence[tuple[str, Sequence[Run]]]) -> str:
    ends = {
        name: dict(zip([run.seed for run in group], late(group, data, metric.name).tolist(), strict=True))
        for name, group in groups
    }
    sign, end, more = (-1, "highest", "higher") if metric.direction == "max" else (1, "lowest", "lower")
    means = {name: float(np.mean(list(own.values()))) for name, own in ends.items()}
    best, following, *rest = sorted(means, key=lambda name: sign * means[name])
    others = [following, *(name for name in rest if name == REFERENCE)]
    places = digits(means[best])
    found = ", and ".join(
        _against(f"the next, {name}" if name == following else name, ends[best], ends[name], sign, places, more)
        for name in others
    )
    return (
        f"On {data}, {best} ends {end}, with {metric.title} {means[best]:.{places}f} "
        f"({plural(len(ends[best]), 'seed')}): {found}."
    )


def _against(name: str, best: Ends, other: Ends, sign: int, places: int, more: str) -> str:
    """How much better the best is than another, and whether that is more than chance."""
    common = sorted(set(best) & set(other))
    if len(common) < FEWEST:
        gap = sign * float(np.mean(list(other.values())) - np.mean(list(best.values())))
        return f"{gap:.{places}f} {more} than {name} (too few seeds to say whether by more than chance)"
    gap, half = interval([sign * (other[seed] - best[seed]) for seed in common])
    assert half is not None
    ends = f"[{gap - half:+.{places}f}, {gap + half:+.{places}f}]"
    if gap - half <= 0:
        return f"a tie with {name} ({gap:.{places}f} {more} {ends})"
    return f"{gap:.{places}f} {more} than {name} {ends}"
