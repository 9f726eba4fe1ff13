"""Report from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..records import RecordError
from . import collect, keep, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Report from the command line."""
    parser = argparse.ArgumentParser(prog="hgenv report", description="Tables and figures from what runs left behind.")
    parser.add_argument("folders", nargs="+", type=Path, help="studies, or any folders that contain runs")
    parser.add_argument("--out", type=Path, help="where the report goes; default: the first folder")
    parser.add_argument("--results", type=Path, help="where studies worth committing go")
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
