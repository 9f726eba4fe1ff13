"""Damage everything that comes from outside, deterministically, and see that nothing lies, hangs or falls over.

    python -m hgenv.benchmarks.fuzz --cases 1000 [--seed 0] [--only loaders,betas] [--case 17]

Cases run in worker processes with a limit on time and, where the system has one, on memory. The last line is JSON: how
many cases there were, and what became of them. `tracebacks`, `hangs` and `silent_wrong` must be 0; the exit status is 1
otherwise. Each bad case is printed with what repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter

from .case import BAD, Verdict
from .driver import NAMES, TARGETS, run


def main(words: list[str] | None = None) -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hgenv.benchmarks.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="decides what is damaged, and how (default 0)")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)} (default all)")
    parser.add_argument("--case", type=int, help="this case alone, to repeat it; says what became of it")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default 2)")
    options = parser.parse_args(words)
    only = options.only.split(",")
    if unknown := set(only) - set(NAMES):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    if min(options.cases, options.workers) < 1 or options.seed < 0 or (options.case or 0) < 0:
        parser.error("--cases and --workers must be at least 1, --seed and --case at least 0")
    if options.case is not None:
        cases = [options.case]
    else:
        endless = (n for n in range(sys.maxsize) if TARGETS[n % len(TARGETS)] in only)
        cases = [next(endless) for _ in range(options.cases)]
    found = run(cases, options.seed, options.workers)
    if options.case is not None:
        print(f"{found[options.case].verdict.value}: {found[options.case].what}")
    counts = Counter(finding.verdict for finding in found.values())
    print(json.dumps({"cases": len(found)} | {verdict.value: counts[verdict] for verdict in Verdict}))
    return int(any(counts[verdict] for verdict in BAD))


if __name__ == "__main__":
    sys.exit(main())
