"""`gpu.md`: what came of a sitting, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CURVES = "figures/curves.png"
MOMENTS = (0.1, 0.25, 0.5, 1.0)  # shares of a run's budget


def text(everything: Mapping[str, Any]) -> str:
    """The tables of gpu.json."""
    machine, parts = everything["machine"], everything["parts"]
    versions = machine["versions"]
    lines = [
        f"# A sitting at {machine['gpu'] or 'a machine without a GPU'}",
        "",
        f"Driver {machine['driver'] or 'unknown'}, CUDA {machine['cuda'] or 'none'}, torch {versions['torch']}, Python "
        f"{versions['python']}; {machine['cpu']}, {machine['cores']} cores; {machine['date']}; commit "
        f"{machine['commit'] or 'unknown'}. One torch thread.",
        "",
    ]
    if machine["dry_run"]:
        lines += ["**A dry run: tiny sizes; these figures say nothing but that the script works.**", ""]
    lines += _state(parts)
    results = {name: known["result"] for name, known in parts.items() if known["result"] is not None}
    if "tests" in results:
        lines += _tests(results["tests"])
    if "generate" in results:
        lines += _generate(results["generate"]["rows"])
    measured = [results[name] for name in results if name.startswith(("small", "large"))]
    for network in dict.fromkeys(result["network"] for result in measured):
        lines += _speed(network, [result for result in measured if result["network"] == network])
    lines += _runs([result for result in results.values() if "optimizer" in result], results.get("random_betas"))
    if any("optimizer" in result for result in results.values()):
        lines += [f"![Curves of the runs]({CURVES})", ""]
    return "\n".join(lines)


def _state(parts: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, known in parts.items():
        last = (known["error"] or "").splitlines()
        why = "; ".join(dict.fromkeys([*last[:1], *last[-1:]]))
        rows.append((name, known["status"], f"{known['seconds']:.0f}", why.replace("|", "\\|")))
    return _table(("part", "", "s", "why"), rows, left=(0, 1, 3))


def _tests(found: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{found[word]} {word}" for word in ("passed", "failed", "error", "skipped"))
    failed = [f"- `{name}` {reason}" for name, reason in found["names"].items()]
    return ["## Tests", "", f"`tests/test_gpu.py`: {counts}.", "", *failed, *([""] if failed else [])]


def _generate(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [
        (row["name"], str(row["samples"]), f"{row['per_second']:,.0f}", _share(row["waits"]))
        if "seconds" in row
        else (row["name"], str(row["samples"]), _why(row), "")
        for row in rows
    ]
    return ["## Generating", "", *_table(("size", "samples at once", "samples/s", "GPU waits"), cells)]


def _speed(network: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {(row["name"], result["batch"], row["recorded"]): row for result in results for row in result["rows"]}
    batches = sorted({batch for _, batch, _ in found})
    rows = []
    for what in dict.fromkeys(name for name, *_ in found):
        cells = [what]
        for batch in batches:
            for recorded in (False, True):
                row = found.get((what, batch, recorded), {})
                measured = "seconds" in row
                cells.append(f"{1000 * row['seconds']:.1f} ({_share(row['waits'])})" if measured else _why(row))
        rows.append(cells)
    titles = [""]
    for batch in batches:
        titles += [f"B = {batch}, ms (GPU waits)", "played back"]
    about = f"{results[0]['pixels']} px, K = 2, {results[0]['data']}."
    return [f"## The {network} network", "", about, "", *_table(titles, rows)]


def _runs(found: Sequence[Mapping[str, Any]], betas: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    first = found[0]
    budget, metric = first["budget"], first["metric"]["name"]
    rows = []
    for result in found:
        cells = [result["optimizer"], str(result["rows"][-1]["update"])]
        for moment in MOMENTS:
            row = [r for r in result["rows"] if _spent(r, budget["unit"]) <= moment * budget["amount"]][-1]
            cells.append(f"{row['validation'][metric]:.4g} / {row['test'][metric]:.4g}")
        spent = result["rows"][-1]["spent"]
        cells += [f"{spent[unit]:.1f}" for unit in ("cpu_seconds", "gpu_seconds", "wall_seconds")]
        rows.append(cells)
    moments = [f"{moment:.0%} of it" for moment in MOMENTS]
    start = first["initial"] or "the initial beta"
    about = (
        f"{first['data'][0]}; {first['data'][1]}. Network: {first['network']}. From {start}{_ranked(betas)}. "
        f"Budget {budget['amount']:g} {budget['unit'].replace('_', ' ')}. "
        f"{first['metric']['title']}: validation / test of the last row so far."
    )
    return ["## Runs", "", about, "", *_table(("optimizer", "updates", *moments, "CPU s", "GPU s", "wall s"), rows)]


def _ranked(betas: Mapping[str, Any] | None) -> str:
    """The random betas, in words."""
    if betas is None:
        return ""
    told = ", ".join(f"{name.removeprefix('random:')}: {value:.4g}" for name, value in betas["validation"].items())
    return f", the median of random betas by a short training ({told})"


def draw(everything: Mapping[str, Any], path: Path) -> None:
    """The runs' curves, validation and test, against the budget; nothing if there are none."""
    found = [known["result"] for known in everything["parts"].values() if "optimizer" in (known["result"] or {})]
    if not found:
        return
    unit, title = found[0]["budget"]["unit"], found[0]["metric"]["title"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, split in zip(figure.subplots(1, 2, sharey=True), ("validation", "test"), strict=True):
        for result in found:
            rows, name = result["rows"], result["metric"]["name"]
            axes.plot([_spent(r, unit) for r in rows], [r[split][name] for r in rows], label=result["optimizer"])
        axes.set_title(f"{split} photos")
        axes.set_xlabel(unit.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(title)
    figure.axes[1].legend()
    figure.suptitle(f"{everything['machine']['gpu'] or 'no GPU'}; network: {found[0]['network']}; one seed")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _spent(row: Mapping[str, Any], unit: str) -> float:
    if unit == "updates":
        return float(row["update"])
    spent = row["spent"]
    return float(spent["cpu_seconds"] + spent["gpu_seconds"] if unit == "total_seconds" else spent[unit])


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _why(row: Mapping[str, Any]) -> str:
    """Why there is no figure."""
    why = f"left out: {row['skipped']}" if "skipped" in row else row.get("error", "not reached")
    return " ".join(why.split())[:120].replace("|", "\\|")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    rule = ["---" if i in left else "---:" for i in range(len(titles))]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows)] + [""]
