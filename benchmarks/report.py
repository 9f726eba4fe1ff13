"""Tables and figures from the raw rows of runs, without running anything.

    python -m benchmarks.report runs/<study> [more folders] [--out FOLDER] [--results FOLDER]

Writes `report.md`, `report.html` (self-contained) and `figures/` into the first folder, or into `--out`. `--results`
copies what is worth committing, config, rows and the end of each run, to `FOLDER/<study>/<environment>/<optimizer>/
seed=<n>`, with `report.md` and the figures beside it. It copies nothing that shows the data.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from hgenv.accounting import OFF_CLOCK, PHASES
from hgenv.rendering import RenderError

from . import pictures, records
from .records import Record, RecordError, headline
from .run import RunError, make_environment

CONFIDENCE = 0.95

# Table 2 of the paper; what an environment reports besides stands behind these under its own name.
COLUMNS = {
    "within_11.25": "≤ 11.25° (%)",
    "within_22.5": "≤ 22.5° (%)",
    "within_30": "≤ 30° (%)",
    "mean_degrees": "mean (°)",
    "median_degrees": "median (°)",
    "mse_radians2": "MSE (rad²)",
}
CLOCKS = {"cpu_seconds": "CPU time (s)", "gpu_seconds": "GPU time (s)", "total_seconds": "CPU + GPU time (s)"}
# Okabe and Ito's colours, told apart by everybody.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
GALLERY = 8  # samples
RIVAL = "basic_random_search"  # what the others are measured against


@dataclass(frozen=True)
class Table:
    """Cells of text, the first column being names."""

    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As Markdown, padded so that it is readable as it stands."""
        cells = [self.header, *self.rows]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.header))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True)
class Picture:
    """A figure as a PNG file."""

    name: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """For a page that needs no other file."""
        return base64.b64encode(self.png).decode()


@dataclass
class Section:
    """What there is to say about one environment."""

    label: str
    data: str
    standin: bool
    budget: str
    notes: list[str]
    results: Table | None
    rivals: Table | None
    objects: Table | None
    unfinished: Table | None
    phases: Table | None
    beta: Table
    figures: list[Picture]


@dataclass
class Collection:
    """The runs that were found.

    Attributes:
        runs: Those that can be read, finished or not.
        excluded: Folders that cannot, and why.
    """

    runs: list[Record] = field(default_factory=list)
    excluded: dict[Path, str] = field(default_factory=dict)


def collect(folders: Iterable[Path]) -> Collection:
    """Read all runs in and below some folders.

    Raises:
        RecordError: There is no such folder, or no run in any of them.
    """
    found = Collection()
    for folder in folders:
        if not folder.is_dir():
            raise RecordError(f"{folder}: there is no such folder")
        for run in records.find(folder):
            try:
                found.runs.append(records.read(run))
            except RecordError as error:
                found.excluded[run] = str(error)
    if not found.runs and not found.excluded:
        raise RecordError(f"no run in {', '.join(map(str, folders))}: no folder there holds a {records.CONFIG}")
    found.runs.sort(key=lambda run: (run.environment, run.optimizer, run.seed))
    return found


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its t-interval; None for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))


def results(runs: Sequence[Record]) -> Table:
    """Table 2: the finished runs of one environment at their last counted update, best test result first."""
    names = [name for name in runs[0].counted[-1]["test"] if "/" not in name]
    main = headline(runs[0].counted[-1]["test"])
    rows = []
    for optimizer, group in _by_optimizer(runs):
        last = [run.counted[-1] for run in group]
        failed = sum(run.done is not None and run.done["status"] == "failed" for run in group)
        tests = [interval([row["test"][name] for row in last]) for name in names]
        validation = interval([row["validation"][main] for row in last])
        late: list[tuple[float, float | None]] = [
            interval([float(np.mean([row[data][main] for row in run.last_tenth])) for run in group])
            for data in ("validation", "test")
        ]
        updates = interval([row["update"] for row in last])[0]
        count = f"{len(group)} ({failed} failed)" if failed else str(len(group))
        cells = [optimizer, count, *(_cell(*value) for value in [*tests, validation, *late]), f"{updates:.0f}"]
        rows.append((tests[names.index(main)][0], cells))
    title = COLUMNS.get(main, main)
    header = [
        "optimizer", "n", *(COLUMNS.get(name, name) for name in names), f"validation {title}",
        f"last tenth: validation {title}", f"last tenth: test {title}", "updates",
    ]  # fmt: skip
    return Table(header, [cells for _, cells in sorted(rows, key=lambda row: row[0])])


def rivals(runs: Sequence[Record], rival: str = RIVAL) -> Table | None:
    """How every optimizer stands to one rival; None where that has no finished run.

    The rival's final error is its mean validation error over the last tenth of the budget, over all seeds. An optimizer
    has reached it when its own mean over the seeds, in a window of a tenth of the budget, first falls that low.
    """
    groups = dict(_by_optimizer(runs))
    if rival not in groups:
        return None
    main, unit = headline(runs[0].counted[-1]["test"]), runs[0].config["budget"]["unit"]

    def late(group: Sequence[Record], data: str) -> NDArray[Any]:
        return np.array([np.mean([row[data][main] for row in run.last_tenth]) for run in group])

    final = late(groups[rival], "validation").mean()
    rows = []
    for optimizer, group in groups.items():
        time, values = _together(group, unit, "validation", main)
        window = len(time) // 10
        smooth = np.convolve(values.mean(0), np.ones(window) / window, "valid")
        reached = np.flatnonzero(smooth <= final + 1e-9)  # rounding aside
        share = "-" if optimizer == rival else "never"
        if len(reached):
            share = f"{time[reached[0] + window - 1] / runs[0].config['budget']['amount']:.2f}"
        differences = []
        for data in ("validation", "test"):
            ours, theirs = late(group, data), late(groups[rival], data)
            digits = _digits(theirs.mean())
            if optimizer == rival or min(len(ours), len(theirs)) < 2:
                differences.append("-" if optimizer == rival else f"{ours.mean() - theirs.mean():+.{digits}f}")
                continue
            welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
            ends = f"[{welch.low:+.{digits}f}, {welch.high:+.{digits}f}]"
            differences.append(f"{ours.mean() - theirs.mean():+.{digits}f} {ends}")
        rows.append([optimizer, share, *differences])
    title = COLUMNS.get(main, main)
    reach = f"share of the budget until {rival}'s final validation error"
    return Table(["optimizer", reach, *(f"{data} {title} against {rival}" for data in ("validation", "test"))], rows)


def objects(runs: Sequence[Record]) -> Table | None:
    """The headline metric on each held-out object, over the last tenth of the budget; None where objects have none."""
    main = headline(runs[0].counted[-1]["test"])
    names = {
        data: [n for n in runs[0].counted[-1][data] if n.startswith(f"{main}/")] for data in ("validation", "test")
    }
    if not any(names.values()):
        return None
    rows = []
    for optimizer, group in _by_optimizer(runs):
        cells = [
            _cell(*interval([float(np.mean([row[data][name] for row in run.last_tenth])) for run in group]))
            for data in names
            for name in names[data]
        ]
        rows.append([optimizer, *cells])
    header = [f"{data}: {name.partition('/')[2]}" for data in names for name in names[data]]
    return Table(["optimizer", *header], rows)


def phases(runs: Sequence[Record]) -> Table:
    """Mean CPU + GPU seconds of each phase, and its share of what is on the clock."""
    header = ["optimizer", *PHASES, *(f"{name} (off clock)" for name in OFF_CLOCK)]
    rows = []
    for optimizer, group in _by_optimizer(runs):
        spent = {
            phase: np.mean([_device_seconds(run.done["phases"][phase]) for run in group if run.done])
            for phase in (*PHASES, *OFF_CLOCK)
        }
        total = sum(spent[phase] for phase in PHASES) or 1.0
        on = [f"{spent[phase]:.1f} s, {spent[phase] / total:.0%}" for phase in PHASES]
        rows.append([optimizer, *on, *(f"{spent[phase]:.1f} s" for phase in OFF_CLOCK)])
    return Table(header, rows)


def unfinished(runs: Sequence[Record]) -> Table:
    """How far the runs are that have not ended."""
    rows = []
    for run in runs:
        last = run.counted[-1]
        main = headline(last["test"])
        values = [f"{last[data][main]:.4g}" for data in ("validation", "test")]
        rows.append([run.optimizer, str(run.seed), str(last["update"]), f"{run.share:.0%}", *values])
    return Table(["optimizer", "seed", "update", "share of the budget", "validation so far", "test so far"], rows)


def beta_table(runs: Sequence[Record]) -> Table:
    """The blocks of beta before, and what each optimizer recommends after, as means over the seeds."""
    groups = _by_optimizer(runs)
    before = np.array(runs[0].rows[0]["beta"])
    after = [np.mean([run.counted[-1]["recommendation"] for run in group], axis=0) for _, group in groups]
    rows, start = [], 0
    for block in runs[0].rows[0]["blocks"]:
        where = slice(start, start + block["size"])
        start = where.stop
        unit = "" if block["unit"] == "1" else f" ({block['unit']})"
        rows.append([block["name"] + unit, *(" ".join(f"{v:.3g}" for v in beta[where]) for beta in (before, *after))])
    return Table(["block", "before", *(name for name, _ in groups)], rows)


def curves(runs: Sequence[Record], title: str) -> Figure:
    """Figure 4: validation and test error against every clock that ran; mean and range over the seeds."""
    clocks = [clock for clock in CLOCKS if clock != "gpu_seconds" or _has_gpu(runs)]
    figure = Figure(figsize=(4.6 * len(clocks), 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, len(clocks), squeeze=False, sharey="row")
    main = headline(runs[0].rows[0]["test"])
    for row, data in enumerate(("validation", "test")):
        for column, clock in enumerate(clocks):
            axis = axes[row][column]
            for k, (optimizer, group) in enumerate(_by_optimizer(runs)):
                style = {"color": COLOURS[k % len(COLOURS)], "linestyle": LINES[k // len(COLOURS) % len(LINES)]}
                time, values = _together(group, clock, data, main)
                axis.plot(time, values.mean(0), label=f"{optimizer} (n = {len(group)})", **style)
                if len(group) > 1:
                    axis.fill_between(time, values.min(0), values.max(0), alpha=0.15, color=style["color"], lw=0)
            # The first updates come from untrained weights, far above anything that is to be compared.
            shown = [line.get_ydata()[100:] for line in axis.get_lines()]
            low, high = min(map(np.min, shown)), max(map(np.max, shown))
            axis.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9)
            axis.set_xlabel(CLOCKS[clock])
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(f"{data} {COLUMNS.get(main, main)}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")  # covers no curve
    return figure


def gallery(runs: Sequence[Record], title: str) -> Figure | str:
    """Training samples before and after, for the same sample seeds; or why there are none."""
    config = runs[0].config
    kwargs = {"device": "cpu"} if "device" in config["env"] else {}
    try:
        env = make_environment({**config, "env": {**config["env"], **kwargs}})
    except RunError as error:
        return f"no gallery: {error}"
    if not pictures.has_pictures(env.validation.batch):
        return "no gallery: the samples of this environment are no images"
    betas = {"before (all)": runs[0].rows[0]["beta"]}
    for optimizer, group in _by_optimizer(runs):
        betas[f"after: {optimizer}, seed {group[0].seed}"] = group[0].counted[-1]["recommendation"]
    figure = Figure(figsize=(1.1 * GALLERY, 2.7 * len(betas)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axis, (name, beta) in zip(figure.subplots(len(betas), squeeze=False)[:, 0], betas.items(), strict=True):
        axis.set_title(name, loc="left", fontsize="medium")
        axis.axis("off")
        try:
            axis.imshow(pictures.gallery(pictures.samples(env, env.space.check(beta), GALLERY)))
        except RenderError as error:
            axis.text(0, 0.5, f"cannot be rendered: {error}", wrap=True)
    return figure


def errors(runs: Sequence[Record], title: str) -> Figure | None:
    """Error maps of the last weights, one run of each optimizer, below the images where these are at hand.

    None where no run has any.
    """
    shown = [(name, group[0]) for name, group in _by_optimizer(runs) if (group[0].folder / records.ERRORS).is_file()]
    if not shown:
        return None
    maps = {f"{name}, seed {run.seed}": pictures.load(run.folder / records.ERRORS) for name, run in shown}
    images = shown[0][1].folder / records.VALIDATION
    if images.is_file():
        maps = {"validation images": pictures.load(images), **maps}
    height = sum(picture.shape[0] / picture.shape[1] for picture in maps.values())
    figure = Figure(figsize=(10, 10 * height + 0.4 * len(maps) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(maps), squeeze=False)[:, 0]
    for axis, (name, picture) in zip(axes, maps.items(), strict=True):
        axis.set_title(name, loc="left", fontsize="medium")
        axis.axis("off")
        axis.imshow(picture)
    return figure


def section(label: str, runs: Sequence[Record]) -> Section:
    """Everything about one environment."""
    names = list(dict.fromkeys(" / ".join(run.rows[0]["data"].values()) for run in runs))
    data, standin = "; ".join(names), any("stand-in" in name for name in names)
    budgets = list(dict.fromkeys("{amount:g} {unit}".format(**run.config["budget"]) for run in runs))
    title = f"{label}: {data}" + (" - STAND-IN, no real photos" if standin else "")
    finished, open_runs = [r for r in runs if r.done is not None], [r for r in runs if r.done is None]
    notes = _differences(runs)
    seeds = {optimizer: tuple(run.seed for run in group) for optimizer, group in _by_optimizer(finished)}
    if len(set(seeds.values())) > 1:
        notes.append("not the same seeds: " + "; ".join(f"{name} {s}" for name, s in seeds.items()))
    notes += [
        f"{run.optimizer}, seed {run.seed}: {run.done['status']}: {run.done['message']}"
        for run in finished
        if run.done and run.done["status"] != "finished"
    ]
    if not _has_gpu(runs):
        notes.append("no GPU was used: the axis of GPU time is left out, and total computation time is CPU time")
    band = (
        "Line: mean over the seeds; band: their range; to where the shortest of them ends. The vertical axis fits the "
        "last three quarters of the time. "
    )
    shown = finished or open_runs
    caption = f"Error against computation time. {band}{title}."
    figures = [Picture(f"{label}-curves", caption, _png(curves(shown, title)))]
    picture = gallery(shown, title)
    if isinstance(picture, str):
        notes.append(picture)
    else:
        caption = f"Training samples (image, target) at the first and the recommended last beta. {title}."
        figures.append(Picture(f"{label}-gallery", caption, _png(picture)))
    maps = errors(shown, title)
    if maps is not None:
        caption = (
            f"What is predicted for validation images, and its error (black none, white from "
            f"{pictures.WORST_DEGREES:g} degrees, or {pictures.WORST_RELATIVE:.0%} of the depth, on). The images and "
            f"their truth stand above in a report made from the runs' own folders. {title}."
        )
        figures.append(Picture(f"{label}-errors", caption, _png(maps)))
    return Section(
        label,
        data,
        standin,
        "; ".join(budgets),
        notes,
        results(finished) if finished else None,
        rivals(finished) if finished else None,
        objects(finished) if finished else None,
        unfinished(open_runs) if open_runs else None,
        phases(finished) if finished else None,
        beta_table(shown),
        figures,
    )


def write(found: Collection, out: Path, *, html: bool = True) -> str:
    """Write the report on some runs into a folder.

    Returns:
        The tables of results, for a console.
    """
    grouped = groupby(found.runs, key=lambda run: run.environment)
    sections = [section(label, list(group)) for label, group in grouped]
    finished = [run.done for run in found.runs if run.done is not None]
    standin = any(part.standin for part in sections)
    context = {
        "title": ", ".join(dict.fromkeys(str(run.config["study"]) for run in found.runs))
        + (" (stand-in data)" if standin and all(part.standin for part in sections) else ""),
        "sections": sections,
        "excluded": {str(folder): reason for folder, reason in found.excluded.items()},
        "confidence": f"{CONFIDENCE:.0%}",
        "hardware": _distinct(done["hardware"] for done in finished),
        "versions": _distinct(done["versions"] for done in finished),
        "commits": sorted({done["commit"] or "unknown (no checkout)" for done in finished}),
        "commands": sorted({done["command"] for done in finished if done.get("command")}),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures").mkdir(exist_ok=True)
    for part in sections:
        for picture in part.figures:
            (out / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    for name in ("report.md", "report.html") if html else ("report.md",):
        templates = jinja2.Environment(
            loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=name.endswith("html"),
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        )  # fmt: skip
        records.write(out / name, templates.get_template(name).render(context))
    lines = []
    for part in sections:
        lines.append(f"{part.label}: {part.data}" + (" (STAND-IN, no real photos)" if part.standin else ""))
        lines += [table.markdown() for table in (part.results, part.unfinished) if table is not None]
        lines.append("")
    lines += [f"EXCLUDED {folder}: {reason}" for folder, reason in found.excluded.items()]
    return "\n".join(lines)


def keep(found: Collection, out: Path) -> list[Path]:
    """Copy what is worth committing of all finished runs, and write a report on the copies beside it, study by study.

    No picture of the data is among it: it may be that others must not have them.

    Returns:
        The studies' folders.
    """
    folders = []
    for study in dict.fromkeys(str(run.config["study"]) for run in found.runs):
        runs = [run for run in found.runs if run.config["study"] == study and run.done is not None]
        copies = []
        for run in runs:
            target = out / study / run.environment / run.optimizer / f"seed={run.seed}"
            target.mkdir(parents=True, exist_ok=True)
            first = min(other.seed for other in runs if other.optimizer == run.optimizer) == run.seed
            records.pack(run.folder, target)
            for name in (records.CONFIG, records.DONE, records.ERRORS):
                # One picture is enough.
                wanted = name != records.ERRORS or (first and (run.folder / name).is_file())
                if wanted and (run.folder / name).resolve() != (target / name).resolve():
                    shutil.copyfile(run.folder / name, target / name)
            copies.append(records.read(target))
        if copies:
            write(Collection(copies), out / study, html=False)
            folders.append(out / study)
    return folders


def _by_optimizer(runs: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    return [(name, list(group)) for name, group in groupby(runs, key=lambda run: run.optimizer)]


def _together(runs: Sequence[Record], clock: str, data: str, metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Curves of several seeds on one axis of time: (T,) and (seeds, T), to where the shortest ends.

    A value holds until the next update is done: the weights of an update are not there before.
    """
    times = [np.array([row["spent"][clock] for row in run.counted]) for run in runs]
    values = [np.array([row[data][metric] for row in run.counted]) for run in runs]
    grid = np.linspace(0, min(time[-1] for time in times), 401)
    held = [np.searchsorted(time, grid, side="right") - 1 for time in times]
    return grid, np.stack([value[np.maximum(index, 0)] for value, index in zip(values, held, strict=True)])


def _has_gpu(runs: Sequence[Record]) -> bool:
    return any(run.rows[-1]["spent"]["gpu_seconds"] > 0 for run in runs)


def _device_seconds(phase: Mapping[str, float]) -> float:
    return phase["cpu_seconds"] + phase["gpu_seconds"]


def _cell(mean: float, half: float | None) -> str:
    digits = _digits(mean)
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _digits(value: float) -> int:
    """Decimals to show of figures of this size."""
    return 4 if abs(value) < 1 else 2


def _differences(runs: Sequence[Record]) -> list[str]:
    """In what, besides optimizer and seed, runs differ that stand in one table."""
    shared = [{k: v for k, v in run.config.items() if k not in ("optimizer", "seed", "study")} for run in runs]
    found = dict.fromkeys(text for config in shared[1:] for text in records.differences(shared[0], config))
    return [f"the runs were not made under the same conditions: {text}" for text in found]


def _distinct(parts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Per key, all values that occur."""
    found: dict[str, dict[str, None]] = {}
    for part in parts:
        for key, value in part.items():
            found.setdefault(key, {})[str(value)] = None
    return {key: "; ".join(values) for key, values in found.items()}


def _png(figure: Figure) -> bytes:
    drawn, file = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    # 256 colours of its own are a third of the size: reports are kept in repositories.
    Image.open(drawn).convert("RGB").quantize(256).save(file, "png", optimize=True)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Report from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="studies, or any folders that contain runs")
    parser.add_argument("--out", type=Path, help="where the report goes; default: the first folder")
    parser.add_argument("--results", type=Path, help="where copies worth committing go")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        found = collect(options.folders)
        out = options.out or options.folders[0]
        print(write(found, out))
        print(f"report: {out / 'report.md'}, {out / 'report.html'}")
        if options.results is not None:
            print(f"results: {', '.join(map(str, keep(found, options.results)))}")
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if found.excluded else 0


if __name__ == "__main__":
    sys.exit(main())
