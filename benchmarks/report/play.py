"""The page that one plays with: what the runs did, as data for `play.js`, which reads them under any prices.

The page holds everything that it needs, Plotly included, and asks nothing from any server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy import stats

from hgenv.accounting import PRICED, RESOURCES

from ..studies import DATA, Run
from .prices import named
from .style import styles
from .tables import BASELINE, CONFIDENCE, FEWEST, by_optimizer

MOMENTS = 200  # of a run, at most: means over neighbouring updates
SEEDS = 40  # that intervals are known for
COUNTS = ("samples", "flops", "gradient_flops", "updates")  # what costs
DASHES = {"-": "solid", "--": "dash", ":": "dot"}


def playground(groups: Sequence[tuple[str, Sequence[Run]]]) -> dict[str, Markup]:
    """What report.html puts into itself: `plotly`, `script` and `data`.

    Args:
        groups: The finished runs of each environment.
    """
    quantiles = [0.0, 0.0, *stats.t.ppf((1 + CONFIDENCE) / 2, np.arange(1, SEEDS)).round(6)]
    found = {
        "environments": [_environment(label, runs) for label, runs in groups],
        "baseline": BASELINE,
        "fewest": FEWEST,
        "confidence": CONFIDENCE,
        "quantiles": quantiles,  # by the number of seeds
    }
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":  # a label may be anything
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return {
        "plotly": Markup((resources.files("plotly") / "package_data" / "plotly.min.js").read_text()),
        "script": Markup(Path(__file__).with_name("play.js").read_text()),
        "data": Markup(text),
    }


def _environment(label: str, runs: Sequence[Run]) -> dict[str, Any]:
    metric, looks = runs[0].primary, styles({run.optimizer for run in runs})
    budget = runs[0].budget
    prices = budget.prices if budget.prices is not None else named("core")
    return {
        "label": label,
        "metric": {"title": metric.title, "direction": metric.direction},
        "prices": asdict(prices),
        "step_flops": runs[0].facts.training_step_flops,
        "axis": PRICED if budget.unit == PRICED else budget.unit if budget.unit in RESOURCES else "total_seconds",
        "optimizers": [
            {"name": name, "colour": looks[name][0], "dash": _dash(looks[name][1]), "runs": [_run(r) for r in group]}
            for name, group in by_optimizer(runs)
        ],
    }


def _run(run: Run) -> dict[str, Any]:
    rows = run.counted[1:] if len(run.counted) > 1 else run.counted  # update 0 has cost nothing
    parts = np.array_split(rows, min(MOMENTS, len(rows)))
    ends = [int(part[-1]) for part in parts]
    spent = {name: run.spent.get(name, np.zeros(len(run))) for name in (*COUNTS, "cpu_seconds", "gpu_seconds")}
    found: dict[str, Any] = {"seed": run.seed} | {name: [_plain(x) for x in spent[name][ends]] for name in spent}
    for data in DATA:
        values = run.metrics[data][run.primary.name]
        found[data] = [_mean(values[part]) for part in parts]
    return found


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(f"{known.mean():.5g}") if len(known) else None


def _plain(value: float) -> float:
    return float(f"{value:.6g}")


def _dash(line: Any) -> str:
    if isinstance(line, str):
        return DASHES[line]
    return ",".join(f"{2 * part:g}px" for part in line[1])
