"""What grows with the number of updates: `python -m hgenv.benchmarks.endurance [--updates 5000] [--only evolution]`.

Each optimizer of the registry works on the quadratic problem, and for a tenth of the updates on shapes at 16 px, in a
process of its own. It does so twice, so that what grows can be told apart: as a run, by the command line, with rows,
curves and a checkpoint every second; and in the bare loop of updates alone.

From outside, several times a second, this looks how many updates are done, how much memory is resident, and how many
files and threads are open. The slope is that of the second half: the half is cut into windows, the least memory of each
counts, and the median of the slopes between any two of them is taken. Memory that comes and goes does not count, then.
What was open at the end is compared with what was open after the first tenth.

It needs Linux's /proc. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from hgenv.memory import keep_memory
from hgenv.optimizers import REGISTRY

from .config import compose, make_environment, make_optimizer
from .records import ROWS

WINDOWS = 10  # of the second half
WAIT = 0.02  # seconds between two looks

ENVIRONMENTS = {
    "quadratic": ["env=quadratic"],
    "shapes": ["env=shapes", "env.network.size=16", "env.unroll_steps=1", "env.batch_size=2"],
}
WAYS = ("run", "loop")


class Look(NamedTuple):
    """A process at one moment: updates done, resident bytes, open files, threads."""

    update: int
    resident: int
    files: int
    threads: int


def overrides(environment: str, optimizer: str, updates: int, root: Path) -> list[str]:
    """The settings of a run of so many updates."""
    return [
        *ENVIRONMENTS[environment],
        f"optimizer={optimizer}",
        f"env.max_updates={updates}",
        "budget.unit=updates",
        f"budget.amount={updates}",
        "study=endurance",
        f"root={root}",
        "seed=0",
        "threads=1",
        "device=cpu",
        "checkpoint_seconds=1",
    ]


def loop(environment: str, optimizer: str, updates: int, folder: Path) -> None:
    """Updates alone; each leaves a line in a file, for who looks on."""
    keep_memory()  # as in a run
    settings = compose(overrides(environment, optimizer, updates, folder))
    env = make_environment(settings.record)
    method = make_optimizer(settings.record, env.space)
    env.reset(seed=0)
    env.warm_up()
    with (folder / ROWS).open("wb", buffering=0) as file:
        for _ in range(updates):
            method.update(env)
            file.write(b"\n")


def watch(process: subprocess.Popen[bytes], folder: Path) -> list[Look]:
    """Look at a process until it ends, whenever it has made updates."""
    looks: list[Look] = []
    path: Path | None = None
    read, update = 0, 0
    while process.poll() is None:
        time.sleep(WAIT)
        if path is None:
            path = next(folder.rglob(ROWS), None)
            continue
        with path.open("rb") as file:
            file.seek(read)
            new = file.read()
        if not new:
            continue
        read, update = read + len(new), update + new.count(b"\n")
        own = Path(f"/proc/{process.pid}")
        try:
            resident = int((own / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            looks.append(Look(update, resident, len(os.listdir(own / "fd")), len(os.listdir(own / "task"))))
        except OSError:  # it has just ended
            break
    process.wait()
    return looks


def slope(looks: Sequence[Look]) -> float:
    """Resident bytes an update, over the second half.

    Raises:
        ValueError: There are too few looks.
    """
    last = looks[-1].update if looks else 0
    least: dict[int, Look] = {}
    for look in looks:
        window = int((2 * look.update / max(1, last) - 1) * WINDOWS)
        if 0 <= window < WINDOWS and (window not in least or look.resident < least[window].resident):
            least[window] = look
    pairs = list(combinations(least.values(), 2))
    if len(least) < WINDOWS / 2:
        raise ValueError(f"{len(looks)} looks at {last} updates are too few for a slope; make more updates")
    return statistics.median((b.resident - a.resident) / (b.update - a.update) for a, b in pairs)


def measure(environment: str, optimizer: str, way: str, updates: int) -> list[Look]:
    """Have a process make the updates, and look on.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="hgenv-endurance-") as name:
        folder = Path(name)
        if way == "run":
            words = ["hgenv.benchmarks.run", *overrides(environment, optimizer, updates, folder)]
        else:
            words = ["hgenv.benchmarks.endurance", "--loop", environment, optimizer, str(updates), str(folder)]
        with (folder / "log.txt").open("w+b") as log:
            process = subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log, cwd=folder)
            try:
                looks = watch(process, folder)
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                log.seek(0)
                said = log.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"{optimizer} on {environment}, as {way}, ended with {process.returncode}:\n{said}")
    return looks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=5000, help="on the quadratic problem (default: 5000)")
    parser.add_argument("--only", default=",".join(REGISTRY), help="optimizers (default: all)")
    parser.add_argument("--environments", default=",".join(ENVIRONMENTS), help="quadratic, shapes (default: both)")
    parser.add_argument("--ways", default=",".join(WAYS), help="run, loop (default: both)")
    parser.add_argument("--loop", nargs=4, metavar=("ENV", "OPTIMIZER", "UPDATES", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        environment, optimizer, updates, folder = arguments.loop
        loop(environment, optimizer, int(updates), Path(folder))
        return
    print(
        f"{'':<10}{'optimizer':<27}{'as':<5}{'updates':>8}{'at half':>10}{'at end':>10}{'bytes an update':>17}"
        f"{'files':>7}{'threads':>9}{'seconds':>9}"
    )
    result: dict[str, float] = {}
    for environment in arguments.environments.split(","):
        updates = arguments.updates if environment == "quadratic" else max(1, arguments.updates // 10)
        for optimizer in arguments.only.split(","):
            for way in arguments.ways.split(","):
                start = time.perf_counter()
                looks = measure(environment, optimizer, way, updates)
                seconds = time.perf_counter() - start
                grown = slope(looks)
                early = next(look for look in looks if look.update >= updates / 10)
                half = next(look for look in looks if look.update >= updates / 2)
                end = looks[-1]
                files, threads = end.files - early.files, end.threads - early.threads
                print(
                    f"{environment:<10}{optimizer:<27}{way:<5}{end.update:>8}{half.resident / 2**20:>7.1f} MB"
                    f"{end.resident / 2**20:>7.1f} MB{grown:>17.0f}{files:>+7d}{threads:>+9d}{seconds:>9.0f}",
                    flush=True,
                )
                name = f"{environment}_{optimizer}_{way}"
                result |= {f"{name}_slope": round(grown, 1), f"{name}_files": files, f"{name}_threads": threads}
    worst = {
        f"worst_{way}_{what}": max(value for name, value in result.items() if name.endswith(f"_{way}_{what}"))
        for way in arguments.ways.split(",")
        for what in ("slope", "files", "threads")
    }
    print("\nslope: resident bytes an update; files and threads: open at the end more than after the first tenth\n")
    print(json.dumps(worst | result))


if __name__ == "__main__":
    main()
