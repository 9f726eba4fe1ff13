"""One sitting at a machine with a GPU: tests, speed and runs in at most eight minutes.

    HGENV_DATA=... python -m hgenv.benchmarks.gpu --pack photos.npz     # where MBII is; the file is not to be published
    python -m hgenv.benchmarks.gpu --out runs/gpu --photos photos.npz   # where the GPU is
    python -m hgenv.benchmarks.gpu --out runs/dry --dry-run             # anywhere: that the script works

| part | seconds | what |
| --- | --- | --- |
| small_32 | 90 | training step, dL/dX, influence, probes, updates: small network, B = 32 |
| random_betas | 45 | a short training at each of five random betas, to find the median of them |
| combined, basic_random_search, hybrid_gradient_paper | 90 each | a run from it, 60 s: `shading`, 128 px, large |
| tests | 60 | `tests/test_gpu.py` |
| large_32, generate, small_256, large_256 | what is left | as small_32; samples per second at 64 and 128 px |

A part's result is written as it ends. Called again, whatever has not ended well is done again, nothing else; so a
sitting may be broken off, and goes on after something was mended. `gpu.json` has everything, `gpu.md` tables of it.
Speed is told twice, launched kernel by kernel and played back from CUDA graphs; beside it stands the share of the time
in which the GPU waits for the host (`clock` says how that is found).

It needs torch, numba, scipy, matplotlib, opencv, pytest and gymnasium; without nevergrad the row of `evolution` is left
out. It needs neither network nor Hydra.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hgenv.accounting import Budget
from hgenv.datasets import load_photos
from hgenv.datasets.folder import DataError
from hgenv.learning import Network

from .. import provenance
from . import photos, runs, sitting, speed, tables
from .problem import as_in_a_run

ROOT = Path(__file__).parents[2]
MINUTES = 8.0
APART = 15  # seconds of them for the script itself
SPEED = {"small_32": ("small", 32), "large_32": ("large", 32), "small_256": ("small", 256), "large_256": ("large", 256)}
# Most valuable first.
SHARES = {"small_32": 90, "random_betas": 45} | dict.fromkeys(runs.OPTIMIZERS, 90) | {"tests": 60}
REST = dict.fromkeys(["large_32", "generate", "small_256", "large_256"], 40)  # if the others end sooner
ALL = SHARES | REST

PATIENCE = 20  # how many times as long a dry run may take: it may be on any CPU
DRY_SPEED = speed.Sizes((4,), (16,), seconds=0.0)
DRY_BATCH = 2
DRY_RUN = runs.Sizes(Budget(3, "updates"), Network(size=64), batch_size=DRY_BATCH, row_seconds=0.0, tried_updates=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold a sitting, pack photos, or do a single part of a sitting in this process."""
    parser = argparse.ArgumentParser(
        prog="python -m hgenv.benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results are and go")
    parser.add_argument("--photos", type=Path, metavar="FILE", help="what --pack made; without it, HGENV_DATA")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="save what the network sees of MBII, and end")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, made photos, a CPU will do")
    parser.add_argument("--parts", default=",".join(ALL), help="some parts, with commas between; default: all")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together; default: 8")
    parser.add_argument("--part", choices=[name for name in ALL if name != "tests"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.pack is None and options.out is None:
        parser.error("--out FOLDER is missing; or --pack FILE")
    names = options.parts.split(",")
    if unknown := sorted(set(names) - set(ALL)):
        parser.error(f"unknown parts {', '.join(unknown)}; choose some of {','.join(ALL)}")
    try:
        if options.pack is not None:
            photos.pack(options.pack, {size: photos.released(size) for size in photos.SIZES})
            print(f"{options.pack}: {options.pack.stat().st_size / 2**20:.1f} MiB")
            return 0
        if not options.dry_run and not torch.cuda.is_available():
            print(
                f"error: torch {torch.__version__} finds no CUDA GPU here, so there is nothing to measure; to try the "
                "script, add --dry-run",
                file=sys.stderr,
            )
            return 1
        if options.part is not None:
            do(options.part, options.out, options.photos, options.dry_run)
            return 0
        return hold(options, [name for name in ALL if name in names])
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def hold(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Do the parts that are not done yet; 0 if all is done then."""
    more, patience = (["--dry-run"], PATIENCE) if options.dry_run else ([], 1)
    if options.photos is not None:
        more += ["--photos", str(options.photos.absolute())]
    out = options.out.absolute()

    def part(name: str) -> sitting.Part:
        if name == "tests":
            tests = ROOT / "tests" / "test_gpu.py"
            # Warnings of other versions than those that the suite is kept clean with are no failures here.
            settings = ["-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider"]
            command = (sys.executable, "-m", "pytest", str(tests), "-v", "--tb=short", *settings)
            return sitting.Part(name, patience * ALL[name], command, read_tests)
        command = (sys.executable, "-m", "hgenv.benchmarks.gpu", "--part", name, "--out", str(out), *more)
        return sitting.Part(name, patience * ALL[name], command)

    here = machine(options.dry_run)
    before = sitting.read_json(out / "gpu.json")
    for what in ("dry_run", "gpu"):
        if before is not None and before["machine"][what] != here[what]:
            was = before["machine"][what]
            print(f"error: {out}: {what} was {was}, and is {here[what]} now; name another folder", file=sys.stderr)
            return 1

    def write() -> None:
        found = {name: known for name in ALL if (known := sitting.read_result(out, name)) is not None}
        everything = {"machine": here, "parts": found}
        sitting.write_json(out / "gpu.json", everything)
        (out / "gpu.md").write_text(tables.text(everything))
        tables.draw(everything, out / tables.CURVES)

    sitting.hold([part(name) for name in names], out, patience * (60 * options.minutes - APART), write)
    write()
    print((out / "gpu.md").read_text())
    results = [sitting.read_result(out, name) for name in names]
    return 0 if all(known is not None and known["status"] == sitting.DONE for known in results) else 1


def do(name: str, out: Path, file: Path | None, dry: bool) -> None:
    """Do a part other than the tests, and save what there is of it as it comes.

    Raises:
        DataError: There are no photos.
    """
    as_in_a_run()
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    save = partial(sitting.write_json, sitting.partial_result(out, name))
    sizes = DRY_SPEED if dry else speed.Sizes()
    if name == "generate":
        speed.generating(sizes, device, save)
    elif name in SPEED:
        preset, batch = ("small", DRY_BATCH) if dry else SPEED[name]  # a CPU takes too long for the large one
        pair = given_photos(file, dry, sizes.network_pixels) or load_photos("standin", size=sizes.network_pixels)
        speed.training(preset, batch, pair, sizes, device, save)
    else:
        run = DRY_RUN if dry else runs.Sizes()
        given = given_photos(file, dry, run.network.size)
        if given is None:
            raise DataError("there are no photos: pack them where they are (--pack) and name the file (--photos)")
        if name == "random_betas":
            runs.rank(given, run, device, save)
            return
        ranked = sitting.read_result(out, "random_betas") or {}
        runs.run(name, given, run, device, save, (ranked.get("result") or {}).get("median"))


def given_photos(file: Path | None, dry: bool, size: int) -> photos.Pair | None:
    """MBII's photos; in a dry run without a file those that are made by code."""
    return load_photos("standin", size=size) if dry and file is None else photos.find(file, size)


def read_tests(out: Path) -> dict[str, Any] | None:
    """What pytest said so far: numbers of tests by what became of them, and those that failed, with the reason."""
    log = (out / "tests.log").read_text(errors="replace")
    log = re.sub(r"^((?:FAILED |ERROR )?)\S*?(?=tests/test_gpu\.py::)", r"\1", log, flags=re.MULTILINE)  # from here on
    ended = dict(re.findall(r"^(\S+?::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", log, re.MULTILINE))
    reasons = dict(re.findall(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - (.*))?$", log, re.MULTILINE))
    if not ended:
        return None
    counts = {word: list(ended.values()).count(word.upper()) for word in ("passed", "failed", "error", "skipped")}
    failed = {name: reasons.get(name, "") for name, word in ended.items() if word in ("FAILED", "ERROR")}
    return counts | {"names": failed}


def machine(dry: bool) -> dict[str, Any]:
    """Where this is."""
    has = torch.cuda.is_available()
    hardware = provenance.hardware(torch.device("cuda" if has else "cpu"))
    return {
        **hardware,
        "driver": driver() if has else None,
        "cuda": torch.version.cuda,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "dry_run": dry,
    }


def driver() -> str | None:
    """Version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.splitlines()[0].strip()


if __name__ == "__main__":
    sys.exit(main())
