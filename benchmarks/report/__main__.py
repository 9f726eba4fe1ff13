"""Report from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import files, records
from ..records import RecordError
from . import collect, keep, write


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
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        folders = options.folders or [_only_study(Path("runs"))]
        found = collect(folders)
        out = options.out or folders[0]
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
