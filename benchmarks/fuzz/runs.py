"""The files of a run's folder: read, reported, and gone on from.

A short run is made once in a process, and its continuation. Then a file of a copy is damaged. Whoever goes on from the
copy must say that he cannot, or end with the rows of the continuation.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hgenv.benchmarks import records
from hgenv.benchmarks.config import Settings, compose
from hgenv.benchmarks.report import pages
from hgenv.benchmarks.run import run

from .case import Finding, Verdict, attempt
from .configurations import YAML
from .damage import BYTES, Random

FIRST, LAST = 3, 6  # updates of the run, and of its continuation
CLOCKS = ("spent", "within_budget")  # what no two runs have in common
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**400, "text", "<script>", [], [[]], {}, {"a": 1}, float("nan"), float("inf"), "NaN",
    [float("nan")] * 4, [1] * 3, ["a"] * 4, "a|b\nc", "../../x",
)  # fmt: skip


class Malicious:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def case(rng: Random, folder: Path) -> Finding:
    """A file of a run's folder, a damage, and what is done with the folder."""
    whole, rows = _whole()
    root, mark = folder / "runs", folder / "mark"
    shutil.copytree(whole, root)
    settings = _settings(root, LAST)
    place = settings.folder
    ways = ["read", "read", "collect", "resume", "resume", "resume"] + ["report"] * (rng.uniform() < 0.2)
    way = str(rng.choice(ways))
    files = sorted(p for p in place.iterdir() if p.is_file() and "tfevents" not in p.name and p.suffix != ".png")
    chosen = files[int(rng.integers(len(files)))]
    what = f"{way}, {chosen.name}: {_damage(chosen, mark, rng)}"
    words = (str(place), str(root), chosen.name)

    if way in ("read", "collect", "report"):
        finding = attempt(what, lambda: _look(way, root, place, folder / "report"), words, _judge_look)
    else:
        finding = attempt(what, lambda: _rows(run(settings)), words, lambda found: _judge_rows(found, rows, chosen))
    return Finding(Verdict.WRONG, f"{finding.what}\nand it executed something") if mark.exists() else finding


def _look(way: str, root: Path, place: Path, out: Path) -> Any:
    if way == "read":
        return records.read(place)
    found = pages.collect([root])
    if way == "report" and found.runs:
        pages.write(found, out)
    return found


def _judge_look(found: Any) -> tuple[Verdict, str]:
    return Verdict.UNHARMED, repr(found)[:200]


def _judge_rows(found: list[Any], rows: list[Any], chosen: Path) -> tuple[Verdict, str]:
    if len(found) == len(rows) and found == rows:
        return Verdict.UNHARMED, "the continuation's rows"
    if chosen.name == records.ROWS and len(found) == len(rows) and found[FIRST + 1 :] == rows[FIRST + 1 :]:
        return Verdict.UNHARMED, "other rows before, as they stand in a file without a checksum"
    return Verdict.WRONG, f"{len(found)} rows, which are not those of the continuation"


def _settings(root: Path, updates: int) -> Settings:
    words = [f"root={root}", "env=quadratic", "optimizer=credit_gradient", "study=fuzz", "picture_updates=1000"]
    return compose([*words, f"budget={{amount: {updates}, unit: updates}}"])


def _rows(folder: Path) -> list[Any]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in records.read(folder).rows]


@cache
def _whole() -> tuple[Path, list[Any]]:
    """A folder of runs that holds a short one, and the rows of its continuation."""
    folder = Path(tempfile.mkdtemp(prefix="hgenv-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run(_settings(folder / "short", FIRST))
    rows = _rows(run(_settings(folder / "long", LAST)))
    return folder / "short", rows


def _damage(path: Path, mark: Path, rng: Random) -> str:
    """Damage a file in its place; what was done."""
    data = path.read_bytes()
    kind = str(rng.choice(["bytes", "bytes", "missing", "folder", "form", "form"]))
    if kind == "missing":
        path.unlink()
        return kind
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return kind
    if kind == "form" and path.name == records.ROWS:
        lines = data.splitlines(keepends=True)
        return _odd_rows(path, lines, rng)
    if kind == "form" and path.suffix == ".json":
        content = json.loads(data)
        key = str(rng.choice(sorted(content))) if isinstance(content, dict) and content else ""
        value = ODD[int(rng.integers(len(ODD)))]
        path.write_text(json.dumps({**content, key: value} if key else value))
        return f"{key} = {str(value)[:40]!r}"
    if kind == "form" and path.name == records.CONFIG:
        text = str(rng.choice(YAML)).replace("MARK", str(mark))
        path.write_bytes(data + text.encode())
        return f"with {text[:60]!r}"
    if kind == "form" and "checkpoint" in path.name:
        path.write_bytes(pickle.dumps(Malicious(mark)))
        return "malicious"
    if not data:
        path.write_bytes(b"x")
        return "a letter"
    damage = BYTES[int(rng.integers(len(BYTES)))]
    path.write_bytes(damage(data, rng))
    return damage.__name__


def _odd_rows(path: Path, lines: list[bytes], rng: Random) -> str:
    i = int(rng.integers(len(lines)))
    kind = str(rng.choice(["twice", "without", "other order", "odd value", "without a key", "half", "endless"]))
    if kind == "twice":
        lines.insert(i, lines[i])
    elif kind == "without":
        del lines[i]
    elif kind == "other order":
        lines.reverse()
    elif kind == "half":
        lines[i] = lines[i][: len(lines[i]) // 2] + b"\n"
    elif kind == "endless":
        lines[i] = b"[" * 100_000 + b"\n"
    else:
        row = json.loads(lines[i])
        key = str(rng.choice(sorted(row)))
        if kind == "odd value":
            row[key] = ODD[int(rng.integers(len(ODD)))]
        else:
            del row[key]
        lines[i] = json.dumps(row).encode() + b"\n"
        kind = f"{kind}, {key}"
    path.write_bytes(b"".join(lines))
    return kind
