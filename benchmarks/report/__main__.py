"""Report from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import files, records
from ..records import RecordError
from . import collect, keep, prices, write
from . import map as who_wins


def main(arguments: Sequence[str] | None = None) -> int:
    """Report from the command line."""
    parser = argparse.ArgumentParser(prog="hgenv report", description="Tables and figures from what runs left behind.")
    parser.add_argument(
        "folders", nargs="*", type=Path, help="studies, or any folders that contain runs; default: the study in runs"
    )
    parser.add_argument("--out", type=Path, help="where the report goes; default: the first folder")
    parser.add_argument("--results", type=Path, help="where studies worth committing go")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import and run what the runs name that is not hgenv's own, for its samples",
    )
    parser.add_argument(
        "--price",
        action="append",
        metavar="NAME=SECONDS",
        help="read the runs as if each had had a budget by price list, with this price in it: sample=0.19 for a render "
        "that takes 0.19 s, training_step=2 for a network whose training step takes 2 s; may be repeated",
    )
    parser.add_argument(
        "--prices", metavar="LIST", help="the price list, one of those in configs/prices; default: core"
    )
    parser.add_argument(
        "--map", type=Path, metavar="FILE", help="draw who wins at which prices of a render and a training step (PNG)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        folders = options.folders or [_only_study(Path("runs"))]
        found = collect(folders)
        out = options.out or folders[0]
        if options.map is not None:
            who_wins.draw([run for run in found.runs if run.end is not None], options.map)
            print(f"map: {options.map}")
            return 0
        if options.price or options.prices:
            if options.results is not None:
                raise RecordError("--results keeps runs as they were made; leave --price and --prices out")
            changes = dict(map(_price, options.price or []))
            found.runs[:] = prices.priced(found.runs, prices.named(options.prices or "core"), changes)
            out = options.out or folders[0] / "priced"  # the other report stays
        trusted = {run.source for run in found.runs} if options.trust else set()
        print(write(found, out, trusted=trusted))
        print(f"report: {out / 'report.md'}, {out / 'report.html'}")
        if options.results is not None:
            print(f"results: {', '.join(map(str, keep(found, options.results, trusted=trusted)))}")
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {files.said(error)}", file=sys.stderr)
        return 1
    return 1 if found.excluded else 0


def _price(text: str) -> tuple[str, float]:
    """Name and seconds of a price on the command line.

    Raises:
        RecordError: It is none.
    """
    name, _, seconds = text.partition("=")
    try:
        price = float(seconds)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise RecordError(f"--price {text}: is no price; write a name and seconds, such as --price sample=0.19")
    return name, price


def _only_study(root: Path) -> Path:
    """The study in a folder of studies.

    Raises:
        RecordError: There is none, or there are several.
    """
    studies = sorted({run.parents[2] for run in records.find(root)})
    if not studies:
        raise RecordError(f"there are no runs in {root.absolute()}; name the folder of a study: hgenv report <folder>")
    if len(studies) > 1:
        raise RecordError(f"there are several studies; name one: {', '.join(f'hgenv report {s}' for s in studies)}")
    return studies[0]


if __name__ == "__main__":
    sys.exit(main())
