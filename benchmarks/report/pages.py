"""A report: what was found, section by section, and the files that it is written to."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

from .. import files, records, studies
from ..records import RecordError
from ..studies import DATA, Run
from . import figures, statistics, tables
from .commands import again, elsewhere
from .figures import Figure, Group
from .markdown import block, escaped
from .play import playground
from .tables import BASELINE, CONFIDENCE, FEWEST, Table, by_optimizer
from .verdict import verdict

FIGURES = "figures"
SUFFIXES = (".png", ".webp", ".svg")  # that a figure of ours has, or had


@dataclass
class Section:
    """What there is to say about one environment."""

    label: str
    data: str
    standin: bool
    budget: str
    verdict: str
    notes: list[str]
    main: Table | None
    results: Table | None
    best: Table | None
    baseline: Table | None
    objects: Table | None
    unfinished: Table | None
    phases: Table | None
    beta: Table


@dataclass
class Collection:
    """The runs that were found.

    Attributes:
        runs: Those that can be read, finished or not.
        excluded: Folders that cannot, and why.
    """

    runs: list[Run] = field(default_factory=list)
    excluded: dict[Path, str] = field(default_factory=dict)


def collect(folders: Iterable[Path]) -> Collection:
    """Read all runs and studies in and below some folders. A run that is there twice counts where it is found first.

    Raises:
        RecordError: There is no such folder, or nothing in any of them.
    """
    found = Collection()
    known: dict[tuple[Any, ...], Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RecordError(f"{folder}: there is no such folder")
        for place in sorted({*records.find(folder), *studies.find(folder)}):
            try:
                is_study = (place / studies.RUNS).is_file()
                runs = studies.read(place) if is_study else [studies.from_record(records.opened(place))]
                for run in runs:
                    _check_writable(run)
            except (RecordError, OSError) as error:
                found.excluded[place] = files.within(place, str(error))
                continue
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
                found.excluded[place] = f"damaged, not the record of a run ({error!r}); make it again"
                continue
            for run in runs:
                other = known.setdefault((run.study, *run.key), run)
                if other is run:
                    found.runs.append(run)
                elif other.end != run.end:
                    found.excluded[place] = f"{', '.join(map(str, run.key))} differs from that in {other.source}"
    if not found.runs and not found.excluded:
        raise RecordError(
            f"no run in {', '.join(map(str, folders))}: no folder there holds a {records.CONFIG} or a {studies.RUNS}"
        )
    found.runs.sort(key=lambda run: run.key)
    _leave_out_strangers(found)
    return found


def _check_writable(run: Run) -> None:
    """Make sure that all texts of a run can be written: JSON may hold halves of characters.

    Raises:
        RecordError: They cannot.
    """
    rows = sorted({*run.status, *run.message})
    texts = [run.config, asdict(run.facts), None if run.end is None else asdict(run.end), rows]
    try:
        json.dumps(texts, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RecordError("a text in its record is no Unicode; make the run again") from None


def _leave_out_strangers(found: Collection) -> None:
    """Leave out runs that cannot stand in one table with the first of their environment."""
    first: dict[str, Run] = {}
    for run in list(found.runs):
        known = first.setdefault(run.environment, run)
        for what in ("metrics", "blocks"):
            if getattr(run.facts, what) != getattr(known.facts, what):
                found.runs.remove(run)
                found.excluded[run.source / "-".join(map(str, run.key))] = (
                    f"its {what} are not those of {', '.join(map(str, known.key))}, but its environment has the same "
                    "label; set env.label apart"
                )
                break


def section(label: str, runs: Sequence[Run]) -> Section:
    """Everything about one environment but its figures."""
    finished, open_runs = [run for run in runs if run.end is not None], [run for run in runs if run.end is None]
    budgets, apart = tables.budgets(runs), tables.differences(runs)
    notes = [f"the runs were not made under the same conditions: {text}" for text in apart]
    if len(budgets) > 1:
        notes.insert(0, (
            "not the same budget: " + "; ".join(f"{budget}: {', '.join(names)}" for budget, names in budgets.items())
            + "; the command that made a run goes on with it, if it asks for a larger budget of the same unit"
        ))  # fmt: skip
    # Where and how runs were at work is noted, but it does not decide what they are.
    decisive = [text for text in tables.differences(finished) if not text.startswith("where.")]
    alike = len(tables.budgets(finished)) == 1 and not decisive
    seeds = {optimizer: tuple(run.seed for run in group) for optimizer, group in by_optimizer(finished)}
    if len(set(seeds.values())) > 1:
        notes.append("not the same seeds: " + "; ".join(f"{name} {s}" for name, s in seeds.items()))
    notes += [
        f"{run.optimizer}, seed {run.seed}: {run.end.status}: {run.end.message}"
        for run in finished
        if run.end and run.end.status != "finished"
    ]
    notes += [f"{run.optimizer}, seed {run.seed}: {words}" for run in finished if (words := _happened(run))]
    if not any(run.has_gpu for run in runs):
        notes.append("no GPU was used: CPU + GPU time is CPU time")
    return Section(
        label,
        _data(runs),
        _standin(runs),
        "; ".join(budgets),
        _verdict(finished, alike),
        notes,
        tables.main(finished) if finished else None,
        tables.results(finished) if finished else None,
        tables.best(finished) if finished else None,
        tables.against_baseline(finished) if alike else None,
        tables.objects(finished) if finished else None,
        tables.unfinished(open_runs) if open_runs else None,
        tables.phases(finished) if finished else None,
        tables.beta(finished or open_runs),
    )


def _happened(run: Run) -> str:
    """What happened to a run on the way, in words; empty where nothing did."""
    assert run.end is not None
    words = [f"{what} {records.plural(count, 'time')}" for what, count in sorted(run.end.incidents.items())]
    if len(run.end.platforms) > 1:
        cpus = dict.fromkeys(
            str(dict(facts).get("gpu") or dict(facts).get("cpu")) for facts in run.end.platforms.values()
        )
        words.append(f"its rows are from {len(run.end.platforms)} platforms ({', '.join(cpus)}); last bits may differ")
    return "; ".join(words)


def _verdict(finished: Sequence[Run], alike: bool) -> str:
    if not finished:
        return "No verdict: no run has ended yet."
    lost = [r for r in finished for data in DATA if np.isnan(tables.late([r], data, r.primary.name)).any()]
    if lost:
        return (
            f"No verdict: {lost[0].primary.title} of {lost[0].optimizer}, seed {lost[0].seed}, is no number over the "
            "last tenth of the budget."
        )
    if not alike:
        return "No verdict: the runs were not made alike; the notes below the table say what differs."
    return verdict(finished)


def drawn(
    groups: Sequence[Group], *, truth: bool = True, trusted: Container[Path] = ()
) -> tuple[list[Figure], list[str]]:
    """The figures, and what kept some of them from being made; validation data are in them only with `truth`.

    A gallery or error maps that cannot be made again, without the generator's files or the runs' own pictures, stay as
    they are in the study that all the runs are from.
    """
    where = "; ".join(
        f"{name}: {_data(runs)}" + " - STAND-IN, no real photos" * _standin(runs) for name, runs in groups
    )
    curves = (
        "Validation (above) and test (below) against computation time, each moment a mean over the last "
        f"{figures.WINDOW / 4:g} % of the time. Line: mean over the seeds; band: their range. A line ends with the "
        "last update within the budget, of the seed that has it first; where updates are long, that is well before the "
        "budget's end. The vertical axes show where every seed ends, and where half of the lines are in the second "
        f"half of their time. What is worse, such as the first values, is cut off. {where}."
    )
    made = [figures.line_art(figures.curves(groups, _title), "curves", curves)]
    notes: list[str] = []
    captions = {
        "gallery": "Training samples at the first beta and at those that were recommended last, for the same seeds.",
        "errors": "What is predicted for validation data, and how wrong that is.",
    }
    for name, (canvas, reasons) in (
        ("gallery", figures.gallery(groups, _title, trusted=trusted)),
        ("errors", figures.errors(groups, _title, truth=truth)),
    ):
        caption = f"{captions[name]} {where}."
        kept = _kept(groups, name)
        if canvas is not None and not (kept and reasons):
            made.append(figures.photographic(canvas, name, caption))
        elif kept:
            made.append(Figure(kept.name, caption, kept.read_bytes()))
            reasons = [f"{reason}; the figure is as it was" for reason in reasons]
        notes += reasons
    return made, notes


def write(found: Collection, out: Path, *, html: bool = True, truth: bool = True, trusted: Container[Path] = ()) -> str:
    """Write the report on some runs into a folder.

    Args:
        found: The runs.
        out: The folder.
        html: Whether as a page, too.
        truth: Whether validation data are shown.
        trusted: Folders of runs whose own code may run, for samples of theirs. What is hgenv's own always may.

    Returns:
        The tables of results, for a console.

    Raises:
        RecordError: The folder for figures is a link; nothing has changed.
        OSError: The system refuses.
    """
    if (out / FIGURES).is_symlink():
        raise RecordError(f"{out / FIGURES}: is a symbolic link, and figures are written through none; delete the link")
    groups = [(label, list(runs)) for label, runs in groupby(found.runs, key=lambda run: run.environment)]
    sections = [section(label, runs) for label, runs in groups]
    shown = [(label, [run for run in runs if run.end is not None] or runs) for label, runs in groups]
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may have dollars
        pictures, notes = drawn(shown, truth=truth, trusted=trusted) if shown else ([], [])
    ends = [run.end for run in found.runs if run.end is not None]
    alike = not any(part.verdict.startswith("No verdict") for part in sections)
    context = {
        "play": playground(ended) if html and (ended := _ended(groups)) else None,
        "title": ", ".join(dict.fromkeys(run.study for run in found.runs))
        + (" (stand-in data)" if sections and all(part.standin for part in sections) else ""),
        "sections": sections,
        "together": statistics.together([run for run in found.runs if run.end is not None]) if alike else None,
        "figures": pictures,
        "notes": notes,
        "excluded": {str(folder): reason for folder, reason in found.excluded.items()},
        "confidence": f"{CONFIDENCE:.0%}",
        "fewest": FEWEST,
        "baseline": BASELINE,
        "hardware": _distinct(end.hardware for end in ends),
        "versions": _distinct(end.versions for end in ends),
        "commits": sorted({end.commit or "unknown (no checkout)" for end in ends}),
        "block": block,
        "commands": again(end.command for end in ends if end.command),
    }
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    for figure in pictures:
        path = out / FIGURES / figure.name
        for suffix in SUFFIXES:
            if suffix != path.suffix:
                path.with_suffix(suffix).unlink(missing_ok=True)  # of another format
        files.write(path, figure.data)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    for name in ("report.md", "report.html") if html else ("report.md",):
        is_page = name.endswith("html")
        templates = jinja2.Environment(
            loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=is_page,
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=None if is_page else escaped,
        )  # fmt: skip
        files.write(out / name, templates.get_template(name).render(context))
    lines = []
    for part in sections:
        lines.append(escaped(f"{part.label}: {part.data}") + (" (STAND-IN, no real photos)" if part.standin else ""))
        lines.append(escaped(part.verdict))
        lines += [table.markdown() for table in (part.main, part.unfinished) if table is not None]
        lines.append("")
    lines += [] if sections else ["no run could be read"]
    lines += [escaped(f"EXCLUDED {folder}: {reason}") for folder, reason in found.excluded.items()]
    return "\n".join(lines)


def _ended(groups: Sequence[Group]) -> list[Group]:
    """The finished runs of each environment that has any."""
    ended = [(label, [run for run in runs if run.end is not None]) for label, runs in groups]
    return [(label, runs) for label, runs in ended if runs]


def keep(found: Collection, out: Path, *, trusted: Container[Path] = ()) -> list[Path]:
    """Write what is worth committing of all finished runs, study by study: two files, a report and its figures.

    No picture of the data is among it: it may be that others must not have them.

    Returns:
        The studies' folders.

    Raises:
        RecordError: A study that is there has runs that are not among these; nothing of it has changed.
    """
    folders = []
    for study in dict.fromkeys(run.study for run in found.runs):
        runs = [_anywhere(run) for run in found.runs if run.study == study and run.end is not None]
        folder = out / study
        if not runs:
            continue
        if (folder / studies.RUNS).is_file():
            lost = {run.key for run in studies.read(folder)} - {run.key for run in runs}
            if lost:
                one = ", ".join(map(str, min(lost)))
                raise RecordError(
                    f"{folder}: holds {len(lost)} runs that would be lost ({one}); name that folder too, after the "
                    "others, so that they stay, or delete it"
                )
        studies.write(folder, runs)
        write(Collection([*runs]), folder, html=False, truth=False, trusted=trusted)
        folders.append(folder)
    return folders


def _anywhere(run: Run) -> Run:
    """A finished run whose command names no folder of the machine that made it."""
    if run.end is None or run.end.command is None:
        return run
    return replace(run, end=replace(run.end, command=elsewhere(run.end.command)))


def _kept(groups: Sequence[Group], name: str) -> Path | None:
    """The figure of this name in the one study that all runs are from."""
    sources = {run.source for _, runs in groups for run in runs}
    if len(sources) != 1:
        return None
    folder = sources.pop() / FIGURES
    paths = [] if folder.is_symlink() else [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file() and not path.is_symlink()), None)  # a link may lead anywhere


def _data(runs: Sequence[Run]) -> str:
    return "; ".join(dict.fromkeys(" / ".join(run.facts.data.values()) for run in runs))


def _standin(runs: Sequence[Run]) -> bool:
    return any("stand-in" in name for run in runs for name in run.facts.data.values())


def _title(runs: Sequence[Run]) -> str:
    return runs[0].environment + (" (STAND-IN)" if _standin(runs) else "")


def _distinct(parts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Per key, all values that occur."""
    found: dict[str, dict[str, None]] = {}
    for part in parts:
        for key, value in part.items():
            found.setdefault(key, {})[str(value)] = None
    return {key: "; ".join(values) for key, values in found.items()}
