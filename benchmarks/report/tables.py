"""The tables of a report, each from the runs of one environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy import stats

from hgenv.accounting import FREE, PHASES, PRICED, Budget
from hgenv.decision import LONG

from .. import defaults
from ..studies import DATA, Run
from .markdown import escaped
from .style import ordered

CONFIDENCE = 0.95
BASELINE = "basic_random_search"  # what the others are measured against
FEWEST = 3  # seeds that an interval is worth anything with


@dataclass(frozen=True)
class Table:
    """Cells of text, the first column being names."""

    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> Markup:
        """As Markdown, padded so that it is readable as it stands."""
        cells = [[escaped(cell) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.header))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
        return Markup("\n".join([lines[0], rule, *lines[1:]]))


def by_optimizer(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs by the label of their optimizer, in the order in which optimizers stand everywhere."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.optimizer, []).append(run)
    return [(name, groups[name]) for name in ordered(groups)]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its t-interval; None for fewer than three values."""
    mean = float(np.mean(values))
    if len(values) < FEWEST:
        return mean, None
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))


def main(runs: Sequence[Run]) -> Table:
    """What most readers want: how each optimizer ends on the primary metric, best validation first."""
    metric, rows = runs[0].primary, []
    for optimizer, group in by_optimizer(runs):
        ends = [interval(late(group, data, metric.name).tolist()) for data in DATA]
        words = " (too few seeds)" * (len(group) < FEWEST)
        units = ["total_seconds", *([PRICED] if runs[0].budget.unit == PRICED else [])]
        costs = [f"{np.mean([run.spent_in(unit)[run.last] for run in group]):.4g}" for unit in units]
        updates = f"{np.mean([run.last for run in group]):.0f}"
        rows.append((
            _worse_last(ends[0][0], runs),
            [optimizer, _count(group), *(cell(*end) + words for end in ends), updates, *costs],
        ))  # fmt: skip
    seconds = "CPU + GPU seconds" if any(run.has_gpu for run in runs) else "CPU seconds"
    priced = ["priced seconds"] if runs[0].budget.unit == PRICED else []
    header = ["optimizer", "seeds", *(f"{data} {metric.title}" for data in DATA), "updates", seconds, *priced]
    return Table(header, [cells for _, cells in sorted(rows, key=lambda row: row[0])])


def results(runs: Sequence[Run]) -> Table:
    """The finished runs at their last counted update, best test result first."""
    metrics, main = runs[0].facts.metrics, runs[0].primary
    rows = []
    for optimizer, group in by_optimizer(runs):
        tests = [interval([_newest(run, "test", m.name) for run in group]) for m in metrics]
        validation = interval([_newest(run, "validation", main.name) for run in group])
        updates = interval([run.last for run in group])[0]
        cells = [optimizer, _count(group), *(cell(*value) for value in [*tests, validation]), f"{updates:.0f}"]
        rows.append((_worse_last(tests[0][0], runs), cells))
    header = [
        "optimizer",
        "seeds",
        *(m.title for m in metrics),
        f"validation {main.title} at the last update",
        "updates",
    ]
    return Table(header, [cells for _, cells in sorted(rows, key=lambda row: row[0])])


def best(runs: Sequence[Run]) -> Table:
    """The finished runs at the counted update with the best validation, best test result first."""
    metrics, main = runs[0].facts.metrics, runs[0].primary
    rows = []
    for optimizer, group in by_optimizer(runs):
        tests = [interval([run.metrics["test"][m.name][run.best] for run in group]) for m in metrics]
        validation = interval([run.metrics["validation"][main.name][run.best] for run in group])
        updates = interval([run.best for run in group])[0]
        cells = [optimizer, *(cell(*value) for value in [*tests, validation]), f"{updates:.0f}"]
        rows.append((_worse_last(tests[0][0], runs), cells))
    header = ["optimizer", *(m.title for m in metrics), f"validation {main.title} at that update", "its update"]
    return Table(header, [cells for _, cells in sorted(rows, key=lambda row: row[0])])


def against_baseline(runs: Sequence[Run], baseline: str = BASELINE) -> Table | None:
    """How every optimizer stands to one of them, the baseline; None where that has no finished run.

    The baseline's final figure is its mean on validation over the last tenth of the budget, over all seeds. An
    optimizer has reached it when its own mean over the seeds, in a window of a tenth of the budget, is first as good.
    """
    groups = dict(by_optimizer(runs))
    if baseline not in groups:
        return None
    main, rows = runs[0].primary, []
    for optimizer, at in reached(runs, baseline).items():
        group = groups[optimizer]
        share = f"{at:.2f}" if at < math.inf else "-" if optimizer == baseline else "never"
        differences = []
        for data in DATA:
            ours, theirs = late(group, data, main.name), late(groups[baseline], data, main.name)
            places = digits(theirs.mean())
            if optimizer == baseline or min(len(ours), len(theirs)) < FEWEST:
                differences.append("-" if optimizer == baseline else f"{ours.mean() - theirs.mean():+.{places}f}")
                continue
            welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
            ends = f"[{welch.low:+.{places}f}, {welch.high:+.{places}f}]"
            differences.append(f"{ours.mean() - theirs.mean():+.{places}f} {ends}")
        rows.append([optimizer, share, *differences])
    reach = f"share of the budget until {baseline}'s final validation figure"
    return Table(["optimizer", reach, *(f"{data} {main.title} against {baseline}" for data in DATA)], rows)


def reached(runs: Sequence[Run], baseline: str = BASELINE) -> dict[str, float]:
    """By optimizer, the share of the budget after which it is at the baseline's final figure; infinite for never.

    See `against_baseline`. The baseline itself may be never there, where it ends with a worse figure than it had.
    """
    groups = dict(by_optimizer(runs))
    main, budget, found = runs[0].primary, runs[0].budget, {}
    sign = -1 if main.direction == "max" else 1
    final = late(groups[baseline], "validation", main.name).mean()
    for optimizer, group in groups.items():
        time, values = together(group, budget.unit, "validation", main.name)
        window = len(time) // 10
        smooth = np.convolve(values.mean(0), np.ones(window) / window, "valid")
        there = np.flatnonzero(sign * smooth <= sign * final + 1e-9)  # rounding aside
        found[optimizer] = float(time[there[0] + window - 1] / budget.amount) if len(there) else math.inf
    return found


def objects(runs: Sequence[Run]) -> Table | None:
    """The primary metric on each held-out object, over the last tenth of the budget; None where objects have none."""
    main = runs[0].primary
    names = {data: [n for n in runs[0].metrics[data] if n.startswith(f"{main.name}/")] for data in DATA}
    if not any(names.values()):
        return None
    rows = []
    for optimizer, group in by_optimizer(runs):
        cells = [cell(*interval(late(group, data, name).tolist())) for data in names for name in names[data]]
        rows.append([optimizer, *cells])
    header = [f"{data}: {name.partition('/')[2]}" for data in names for name in names[data]]
    return Table(["optimizer", *header], rows)


def phases(runs: Sequence[Run]) -> Table:
    """Mean CPU + GPU seconds of each phase, and its share of what is on the clock."""
    header = ["optimizer", *PHASES, *(f"{name} (off clock)" for name in FREE)]
    rows = []
    for optimizer, group in by_optimizer(runs):
        spent = {phase: np.mean([run.end.phases[phase] for run in group if run.end]) for phase in (*PHASES, *FREE)}
        total = sum(spent[phase] for phase in PHASES) or 1.0
        on = [f"{spent[phase]:.1f} s, {spent[phase] / total:.0%}" for phase in PHASES]
        rows.append([optimizer, *on, *(f"{spent[phase]:.1f} s" for phase in FREE)])
    return Table(header, rows)


def unfinished(runs: Sequence[Run]) -> Table:
    """How far the runs are that have not ended."""
    rows = []
    for _, group in by_optimizer(runs):
        for run in group:
            values = [f"{run.metrics[data][run.primary.name][run.last]:.4g}" for data in DATA]
            rows.append([run.optimizer, str(run.seed), str(run.last), f"{run.share:.0%}", *values])
    so_far = [f"{data} {runs[0].primary.title} so far" for data in DATA]
    return Table(["optimizer", "seed", "update", "share of the budget", *so_far], rows)


def beta(runs: Sequence[Run]) -> Table:
    """The blocks of beta before, and what each optimizer recommends after, as means over the seeds."""
    groups = by_optimizer(runs)
    before = runs[0].start
    after = [np.mean([run.recommended for run in group], axis=0) for _, group in groups]
    rows, start = [], 0
    for block in runs[0].facts.blocks:
        where = slice(start, start + block["size"])
        start = where.stop
        unit = "" if block["unit"] == "1" else f" ({block['unit']})"
        rows.append([block["name"] + unit, *(_numbers(b[where]) for b in (before, *after))])
    return Table(["block", "before", *(name for name, _ in groups)], rows)


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    """The components of a block; of a long one, between which values they are."""
    if len(values) > LONG:
        return f"{len(values)} from {np.min(values):.3g} to {np.max(values):.3g}"
    return " ".join(f"{v:.3g}" for v in values)


def together(runs: Sequence[Run], clock: str, data: str, metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Curves of several seeds on one axis of time: (T,) and (seeds, T), to where the shortest ends.

    A value holds until the next update is done: the weights of an update are not there before. Where an update has no
    figure, the one before it holds on.
    """
    known = [run.counted[~np.isnan(run.metrics[data][metric][run.counted])] for run in runs]
    times = [run.spent_in(clock)[rows] for run, rows in zip(runs, known, strict=True)]
    values = [run.metrics[data][metric][rows] for run, rows in zip(runs, known, strict=True)]
    grid = np.linspace(0, min(time[-1] for time in times), 401)
    held = [np.searchsorted(time, grid, side="right") - 1 for time in times]
    return grid, np.stack([value[np.maximum(index, 0)] for value, index in zip(values, held, strict=True)])


def differences(runs: Sequence[Run]) -> list[str]:
    """In what, besides optimizer, seed and budget, runs differ that stand in one table."""
    apart = ("optimizer", "seed", "study", "budget")
    shared = [{key: value for key, value in run.config.items() if key not in apart} for run in runs]
    found = dict.fromkeys(text for config in shared[1:] for text in defaults.differences(shared[0], config))
    return list(found)


def budgets(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Which optimizers have which budget, the smallest first."""
    found: dict[tuple[str, float, str], list[str]] = {}
    for optimizer, group in by_optimizer(runs):
        for own in dict.fromkeys((b.unit, b.amount, _priced(b)) for b in (run.budget for run in group)):
            found.setdefault(own, []).append(optimizer)
    return {f"{amount:g} {unit}{prices}": names for (unit, amount, prices), names in sorted(found.items())}


def _priced(budget: Budget) -> str:
    """At what prices, in words."""
    if budget.prices is None:
        return ""
    prices = [f"{price:g} s a {name}" for name, price in asdict(budget.prices).items() if price]
    return f" ({', '.join(prices)})"


def late(runs: Sequence[Run], data: str, metric: str) -> NDArray[np.float64]:
    """A metric's mean over the last tenth of each run, over those of its updates that have a figure; NaN for none."""
    return np.array([_mean(run.metrics[data][metric][run.last_tenth]) for run in runs])


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _newest(run: Run, data: str, metric: str) -> float:
    """A metric at the last counted update, or at the one before it that has a figure: not all rows keep all metrics."""
    values = run.metrics[data][metric][: run.last + 1]
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else np.nan


def _worse_last(value: float, runs: Sequence[Run]) -> float:
    return -value if runs[0].primary.direction == "max" else value


def cell(mean: float, half: float | None) -> str:
    """What `interval` gives, in words."""
    if np.isnan(mean):
        return "no number"
    places = digits(mean)
    return f"{mean:.{places}f}" + ("" if half is None else f" ± {half:.{places}f}")


def _count(runs: Sequence[Run]) -> str:
    """How many there are, and how many of them failed."""
    failed = sum(run.end is not None and run.end.status == "failed" for run in runs)
    return f"{len(runs)} ({failed} failed)" if failed else str(len(runs))


def digits(value: float) -> int:
    """Decimals to show of figures of this size."""
    return 4 if abs(value) < 1 else 2
