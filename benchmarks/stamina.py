"""Kills runs at random moments, has them go on, and compares them with runs that nobody touched.

    python -m hgenv.benchmarks.stamina --kills 50

| part | what is ended, and how |
| --- | --- |
| runs | `hgenv run`, several times, by SIGKILL or a stop (SIGTERM, SIGHUP, SIGINT), at one of the `MOMENTS` |
| comparisons | `hgenv compare` with two runs at work, likewise: they must end, too, and save what they did |
| workers | a worker process of a run with `prober=workers`: killed, or stopped so that it never answers |

The last line of the output is JSON: `kills`, and what must be 0: `differing_rows`, `lost_rows` and `duplicated_rows` of
the runs at their end, `unresumable` runs, and `orphans`, processes that outlived what started them. The exit status is
1 if one of them is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from hgenv.accounting import RESOURCES

from . import checkpoint, records
from .config import compose

ZERO = ("differing_rows", "lost_rows", "duplicated_rows", "unresumable", "orphans")
OPTIMIZERS = ("hybrid_gradient", "evolution", "credit_gradient", "basic_random_search")
STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KILLS_EACH = 4  # of one run, before it may end
UPDATES = 200
_COMPOSING = threading.Lock()  # Hydra composes one thing at a time
PATIENCE = 180.0  # seconds for what takes some on a machine with nothing else to do


@dataclass(frozen=True)
class Subject:
    """A run to be broken.

    Attributes:
        root: Of its study.
        words: Its overrides.
    """

    root: Path
    words: tuple[str, ...]

    @cached_property
    def folder(self) -> Path:
        """Where its rows are."""
        with _COMPOSING:
            return compose(self.overrides).folder

    @property
    def overrides(self) -> list[str]:
        """All of `hgenv run`."""
        return [f"root={self.root}", *self.words]

    def start(self) -> subprocess.Popen[bytes]:
        """Begin it, or go on with it."""
        return _start("run", self.overrides, self.root)


class Stamina:
    """A series of kills.

    Args:
        root: An empty folder.
        env: The environment to run, `env=...`.
        updates: Of a run.
        seed: Decides moments and signals.
    """

    def __init__(self, root: Path, env: str, updates: int, seed: int) -> None:
        self.root, self.env, self.updates, self.seed = root, env, updates, seed
        self.tally: Counter[str] = Counter(dict.fromkeys(("kills", *ZERO), 0))
        self._lock = threading.Lock()
        self._unbroken: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        self.notes: list[str] = []

    # --- What is broken --------------------------------------------------------------------------------------------

    def run(self, number: int, kills: int, stops: bool) -> None:
        """Kill, or stop, one run several times; then let it end."""
        chance = random.Random(f"{self.seed} run {number} {stops}")
        subject = Subject(self.root / f"run-{number}-{stops}", self.words(OPTIMIZERS[number % len(OPTIMIZERS)]))
        moments = [*MOMENTS, *chance.choices(MOMENTS[2:4], k=max(0, kills - len(MOMENTS)))]
        chance.shuffle(moments)
        for moment in moments[:kills]:
            process = subject.start()
            alive = moment(process, subject.folder, self.updates, chance)
            if not alive:
                self._end(process, subject)
                continue
            # Until the command has begun, Python answers an interrupt itself, and not always by ending.
            known = STOPS[:2] if moment is _first_second else STOPS
            process.send_signal(chance.choice(known) if stops else signal.SIGKILL)
            if not _ended(process):
                self.count("orphans", f"{subject.root}: a signal did not end it")
                process.kill()
            self.count("kills")
            if stops:
                self._saved(subject)
        self._end(subject.start(), subject)
        self.compare(subject)

    def comparison(self, number: int) -> None:
        """Kill, or stop, a comparison; its runs must end, too. Then let it end."""
        chance = random.Random(f"{self.seed} comparison {number}")
        root = self.root / f"comparison-{number}"
        words = self.words("fixed")[:-1]
        subjects = [Subject(root, (*words, f"optimizer={name}")) for name in ("fixed", "evolution")]
        command = [f"root={root}", *words, "optimizer=fixed,evolution", "workers=2"]
        process = _start("compare", command, root)
        target = chance.randrange(2, self.updates)
        _until(lambda: any(_rows(s.folder) >= target for s in subjects) or process.poll() is not None)
        process.send_signal(chance.choice((signal.SIGKILL, signal.SIGKILL, *STOPS)))
        if not _ended(process):
            self.count("orphans", f"{root}: a signal did not end the comparison")
            process.kill()
        self.count("kills")
        if not _until(lambda: not _processes(root)):
            self.count("orphans", f"{root}: {len(_processes(root))} processes live on")
        for subject in subjects:
            self._saved(subject)
        process = _start("compare", command, root)
        if not _ended(process) or process.returncode:
            self.count("unresumable", f"{root}: the comparison did not go on: {_said(root)}")
        for subject in subjects:
            self.compare(subject)

    def workers(self, number: int) -> None:
        """Kill or stop one of a run's worker processes; the run must end as if nothing had been."""
        chance = random.Random(f"{self.seed} workers {number}")
        words = (*self.words("basic_random_search"), "prober=workers", "prober.count=2", "prober.timeout=5")
        subject = Subject(self.root / f"workers-{number}", words)
        process = subject.start()
        target = chance.randrange(2, self.updates - 20)
        _until(lambda: _rows(subject.folder) >= target or process.poll() is not None)
        found = [p for p in _processes(subject.root) if p != process.pid and "spawn_main" in _command(p)]
        if found:
            os.kill(chance.choice(found), chance.choice((signal.SIGKILL, signal.SIGSTOP)))
            self.count("kills")
        self._end(process, subject)
        if found and not (records.read_done(subject.folder) or {}).get("incidents", {}):
            self.count("unresumable", f"{subject.root}: the run does not say that a worker was replaced")
        self.compare(subject, self.words("basic_random_search"))
        if not _until(lambda: not _processes(subject.root)):
            self.count("orphans", f"{subject.root}: {len(_processes(subject.root))} worker processes live on")

    # --- What must hold --------------------------------------------------------------------------------------------

    def words(self, optimizer: str) -> tuple[str, ...]:
        """Overrides of a short run."""
        budget = f"budget={{amount: {self.updates}, unit: updates}}"
        return f"env={self.env}", budget, "checkpoint_seconds=0.05", f"optimizer={optimizer}"

    def compare(self, subject: Subject, words: tuple[str, ...] | None = None) -> None:
        """Count what differs from the same run, unbroken."""
        expected = self._expected(words or subject.words)
        try:
            found = _without_clocks(subject.folder)
        except (records.RecordError, OSError) as error:
            self.count("unresumable", f"{subject.root}: {error}")
            return
        updates = Counter(row["update"] for row in found)
        lost = [row["update"] for row in expected if not updates[row["update"]]]
        twice = [update for update, count in updates.items() if count > 1]
        differing = [a["update"] for a, b in zip(expected, found, strict=False) if a != b]
        for what, updates_of in (("lost_rows", lost), ("duplicated_rows", twice), ("differing_rows", differing)):
            if updates_of:
                self.count(what, f"{subject.root}: {what} {updates_of[:5]}", len(updates_of))

    def count(self, what: str, note: str = "", times: int = 1) -> None:
        """Add to the tally; what should not be is said."""
        with self._lock:
            self.tally[what] += times
            if note:
                self.notes.append(note)

    def _expected(self, words: tuple[str, ...]) -> list[dict[str, Any]]:
        with self._lock:
            if words not in self._unbroken:
                whole = Subject(self.root / f"unbroken-{len(self._unbroken)}", words)
                process = whole.start()
                _ended(process)
                self._unbroken[words] = _without_clocks(whole.folder)
            return self._unbroken[words]

    def _end(self, process: subprocess.Popen[bytes], subject: Subject) -> None:
        if not _ended(process):
            process.kill()
            process.wait()
            self.count("unresumable", f"{subject.root}: hangs")
        elif process.returncode:
            self.count("unresumable", f"{subject.root}: {_said(subject.root)}")

    def _saved(self, subject: Subject) -> None:
        """A run that was stopped has lost nothing: its checkpoint stands for all of its rows."""
        if subject.folder.is_dir() and (kept := checkpoint.find(subject.folder)):
            rows = checkpoint.read(kept[0])["rows"]
            if rows < _rows(subject.folder):
                self.count("lost_rows", f"{subject.root}: {_rows(subject.folder)} rows, {rows} of them saved")


# --- Moments: each waits for one, and says whether the run is still there --------------------------------------------

Moment = Callable[["subprocess.Popen[bytes]", Path, int, random.Random], bool]


def _first_second(process: subprocess.Popen[bytes], folder: Path, updates: int, chance: random.Random) -> bool:
    time.sleep(chance.random())
    return process.poll() is None


def _before_the_first_row(process: subprocess.Popen[bytes], folder: Path, updates: int, chance: random.Random) -> bool:
    _until(lambda: folder.is_dir() or process.poll() is not None)
    time.sleep(0.2 * chance.random())
    return process.poll() is None


def _some_row(process: subprocess.Popen[bytes], folder: Path, updates: int, chance: random.Random) -> bool:
    target = _rows(folder) + 1 + chance.randrange(updates // 4)
    _until(lambda: _rows(folder) >= target or process.poll() is not None)
    return process.poll() is None


def _checkpoint(process: subprocess.Popen[bytes], folder: Path, updates: int, chance: random.Random) -> bool:
    target = _rows(folder) + chance.randrange(updates // 8)
    _until(lambda: _rows(folder) >= target or process.poll() is not None)
    _until(lambda: any(folder.glob("checkpoint-*.part")) or process.poll() is not None, every=0.0)
    return process.poll() is None


def _at_the_end(process: subprocess.Popen[bytes], folder: Path, updates: int, chance: random.Random) -> bool:
    _until(lambda: _rows(folder) >= updates - 3 or process.poll() is not None, every=0.0)
    time.sleep(0.05 * chance.random())
    return process.poll() is None


MOMENTS: tuple[Moment, ...] = (_first_second, _before_the_first_row, _some_row, _checkpoint, _at_the_end)

# --- Processes and files -------------------------------------------------------------------------------------------


def _start(command: str, overrides: Sequence[str], root: Path) -> subprocess.Popen[bytes]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "said.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hgenv", command, *overrides], cwd=root, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def _said(root: Path) -> str:
    lines = (root / "said.txt").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "nothing"


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return True


def _until(happens: Callable[[], bool], every: float = 0.002) -> bool:
    end = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def _processes(root: Path) -> list[int]:
    """Processes that work in a folder, by their working directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (
                os.readlink(path / "cwd") == str(root)
                and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ):
                found.append(int(path.name))
        except OSError:
            continue  # ended, or another user's
    return found


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _rows(folder: Path) -> int:
    try:
        return (folder / records.ROWS).read_bytes().count(b"\n")
    except OSError:
        return 0


def _without_clocks(folder: Path) -> list[dict[str, Any]]:
    rows = records.read(folder).rows
    for row in rows:
        for clock in RESOURCES:
            del row["spent"][clock]
    return rows


def plan(stamina: Stamina, kills: int) -> list[Callable[[], None]]:
    """What to do for so many kills: of ten, about six are SIGKILLs of runs, two stops, one each the rest."""
    comparisons, workers = kills // 10, kills // 10
    stops = kills // 5
    of_runs = {True: stops, False: kills - stops - comparisons - workers}
    tasks: list[Callable[[], None]] = []
    for stop, left in of_runs.items():
        for number in range(-(-left // KILLS_EACH)):
            each = min(KILLS_EACH, left - number * KILLS_EACH)
            tasks.append(partial(stamina.run, number, each, stop))
    tasks += [partial(stamina.comparison, number) for number in range(comparisons)]
    return tasks + [partial(stamina.workers, number) for number in range(workers)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hgenv.benchmarks.stamina", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=50, help="about how many")
    parser.add_argument("--updates", type=int, default=UPDATES, help="of a run; at least 40")
    parser.add_argument("--env", default="quadratic", help="an environment, as env= takes it")
    parser.add_argument("--seed", type=int, default=0, help="decides moments and signals")
    parser.add_argument("--workers", type=int, default=2, help="runs that are broken side by side")
    parser.add_argument("--root", type=Path, help="an empty folder that stays; default: one that does not")
    options = parser.parse_args(arguments)
    if options.kills < 1 or options.updates < 40 or options.workers < 1:
        parser.error("--kills and --workers must be at least 1, --updates at least 40")
    with tempfile.TemporaryDirectory(prefix="stamina-") as temporary:
        root = (options.root or Path(temporary)).resolve()
        stamina = Stamina(root, options.env, options.updates, options.seed)
        tasks = plan(stamina, options.kills)
        with Progress(disable=not sys.stdout.isatty()) as bar, ThreadPoolExecutor(options.workers) as pool:
            line = bar.add_task("kills", total=len(tasks))
            for done in [pool.submit(task) for task in tasks]:
                done.result()
                bar.advance(line)
                print(f"{stamina.tally['kills']} kills", flush=True)
    for note in stamina.notes:
        print(note)
    print(json.dumps(dict(stamina.tally)))
    return int(any(stamina.tally[name] for name in ZERO))


if __name__ == "__main__":
    sys.exit(main())
