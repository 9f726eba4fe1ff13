"""Settings from the command line, from folders of YAML files, and from the record of a run.

What is accepted must be what was said: a seed is that seed, a folder lies below its root, and no file of somebody else
reads the environment's variables or names what is to be executed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from hgenv.benchmarks import records
from hgenv.benchmarks.config import Settings, compose

from .case import Finding, Verdict, attempt
from .damage import BYTES, Random

SECRET = "HGENV_FUZZ_SECRET"  # an environment variable that nothing but the user may read
_WORD = "a-word-that-only-the-environment-knows"

VALUES = (
    "0", "1", "-1", "3.5", "1e3", "1e400", "nan", "inf", "-inf", "null", "true", "''", "' '", "abc", "2024", "[]",
    "[1,2]", "{}", "{a: 1}", "..", "../x", "a/b", "/absolute/x", "~", ".", "'a\nb'", "'<b>x</b>'", "'${seed}'",
    "${seed}", "${nothing}", "${oc.env:NOTHING}", "0x10", "1_000", "99999999999999999999", "é", "'\u202e'", "'|'",
    "'*'", "1,2", "a b", 'x' * 300, "",
)  # fmt: skip
KEYS = (
    "seed", "study", "root", "budget.amount", "budget.unit", "budget", "env", "optimizer", "env.label",
    "optimizer.label", "env.max_updates", "env.batch_size", "env.unroll_steps", "env.rule", "env.nothing",
    "optimizer.nothing", "threads", "device", "prober", "picture_updates", "checkpoint_seconds", "nothing",
    "optimizer.initial", "optimizer._target_", "env._target_", "env.id", "env.rule._target_",
    "env.rule.learning_rate", "network", "hydra.run.dir",
)  # fmt: skip
YAML = (
    "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n"
    "g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h]\n",
    "a: !!python/object/apply:os.mkdir [MARK]\n",
    "a: !!python/name:os.system\n",
    "study: ${oc.env:" + SECRET + "}\n",
    "optimizer:\n  label: ${oc.env:" + SECRET + "}\n",
    "optimizer:\n  _target_: os.mkdir\n  path: MARK\n",
    "env:\n  id: os:Quadratic-v0\n",
    "[" * 3000,
    "a:\n\t- b\n",
    "a: 1\na: 2\n",
    "\x00\x01\x02",
    "- a\n- b\n",
    "just a text\n",
    "",
    "---\na: 1\n---\nb: 2\n",
    "? {a: 1}\n: b\n",
    "seed: 1e400\n",
    "seed: 2001-01-01\n",
    "study: *nowhere\n",
    "study: .nan\n",
    "budget: {amount: .nan, unit: updates}\n",
)


def case(rng: Random, folder: Path) -> Finding:
    """A setting, a file of settings, or the record of a run."""
    os.environ[SECRET] = _WORD
    kind = str(rng.choice(["overrides", "overrides", "folder", "record"]))
    return {"overrides": _overrides, "folder": _folder, "record": _record}[kind](rng, folder)


def _base(folder: Path) -> list[str]:
    return [f"root={folder / 'runs'}", "env=quadratic", "optimizer=fixed", "budget={amount: 3, unit: updates}"]


def _overrides(rng: Random, folder: Path) -> Finding:
    given: list[str] = []
    for _ in range(int(rng.choice([1, 1, 1, 2]))):
        key, value = str(rng.choice(KEYS)), str(rng.choice(VALUES))
        sign = str(rng.choice(["", "", "", "+", "++", "~"]))
        given.append(str(rng.choice([f"{sign}{key}={value}"] * 8 + [f"{key}", f"={value}", f"{key}=={value}"])))
    words = [word for each in given for word in each.lstrip("+~").replace("=", " ").split(" ")[:2] if word]
    parts = [part for word in words for part in word.split(".")]
    named = [*words, *parts, "override", "setting", "config", "Config"]

    def judge(found: Settings) -> tuple[Verdict, str]:
        flaw = _flaw(found, folder, {g.partition("=")[0]: g.partition("=")[2] for g in given})
        return (Verdict.WRONG, flaw) if flaw else (Verdict.UNHARMED, str(found))

    return attempt(f"{given}", lambda: compose([*_base(folder), *given]), named, judge)


def _folder(rng: Random, folder: Path) -> Finding:
    """A YAML file of somebody else in a folder given by --config-dir."""
    more, mark = folder / "more", folder / "mark"
    group = str(rng.choice(["optimizer", "env", "budget", "experiment"]))
    (more / group).mkdir(parents=True)
    text = str(rng.choice(YAML)).replace("MARK", str(mark))
    header = str(rng.choice(["", "# @package _global_\n"]))
    (more / group / "mine.yaml").write_bytes((header + text).encode())
    given = [*_base(folder), f"{'+' if group == 'experiment' else ''}{group}=mine"]

    def judge(found: Settings) -> tuple[Verdict, str]:
        flaw = "it executed something" if mark.exists() else _flaw(found, folder, {})
        return (Verdict.WRONG, flaw) if flaw else (Verdict.UNHARMED, str(found))

    named = ("mine", "config", "Config", "setting", group, "label", "study", "seed", "yaml", "_target_")
    return attempt(f"{group}/mine.yaml: {text[:80]!r}", lambda: compose(given, more), named, judge)


def _record(rng: Random, folder: Path) -> Finding:
    """The configuration in a run's folder."""
    mark, path = folder / "mark", folder / records.CONFIG
    whole = compose(_base(folder)).record
    records.write_config(folder, whole)
    data = path.read_bytes()
    if rng.uniform() < 0.5:
        damage = BYTES[int(rng.integers(len(BYTES)))]
        path.write_bytes(damage(data, rng))
        what = damage.__name__
    else:
        text = str(rng.choice(YAML)).replace("MARK", str(mark))
        path.write_bytes(data + text.encode() if rng.uniform() < 0.5 else text.encode())
        what = repr(text[:80])

    def judge(found: dict[str, Any]) -> tuple[Verdict, str]:
        if mark.exists():
            return Verdict.WRONG, "it executed something"
        if _WORD in repr(found):
            return Verdict.WRONG, "it read a variable of the environment"
        labels = [found["optimizer"]["label"], found["study"], records.environment_label(found)]
        return Verdict.UNHARMED, f"{labels}"

    finding = attempt(f"{records.CONFIG}: {what}", lambda: records.read_config(folder), (str(path), str(folder)), judge)
    return Finding(Verdict.WRONG, f"{finding.what}\nand it executed something") if mark.exists() else finding


def _flaw(found: Settings, folder: Path, given: dict[str, str]) -> str | None:
    """What of accepted settings cannot be meant."""
    identity = found.identity
    seed, budget, root = identity["seed"], identity["budget"], found.root
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        return f"accepted the seed {seed!r}"
    if not isinstance(budget["amount"], int | float) or not budget["amount"] > 0:
        return f"accepted a budget of {budget['amount']!r}"
    if not isinstance(found.checkpoint_seconds, int | float) or not math.isfinite(found.checkpoint_seconds):
        return f"accepted checkpoint_seconds={found.checkpoint_seconds!r}"
    resolved = Path(os.path.abspath(found.folder))
    if (
        not resolved.is_relative_to(os.path.abspath(root))
        or len(resolved.relative_to(os.path.abspath(root)).parts) != 4
    ):
        return f"the run's folder {found.folder} is not one below {root}"
    if _WORD in repr(identity):
        return "it read a variable of the environment"
    if "seed" in given and given["seed"].isdecimal() and seed != int(given["seed"]):
        return f"the seed is {seed}"
    for key in ("nothing", "+nothing", "env.nothing", "optimizer.nothing"):
        if key in given:
            return f"accepted {key}, which means nothing"
    return None
