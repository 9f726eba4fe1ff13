"""Write a data set with a tuned generator.

    hgenv sample runs/mine/best.yaml -n 10000 --out data

Options:
    -n COUNT     how many samples
    --out DIR    a folder, which is made if it is not there
    --seed SEED  another seed gives other samples; 0 by default
    --initial    at the initial parameters, in place of the tuned ones: to compare

The layout is one that others read: a folder for each class; `image/` and `label/`; COCO's keypoints; or a folder for
each field (`hgenv.datasets.Writer` has the table). `dataset.json` says what was made of what. More samples go on where
fewer ended, and the same command goes on with what was interrupted.

The file names code of yours, which is run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import hydra.utils
import torch
import yaml
from torch import Tensor

from hgenv.datasets import Writer
from hgenv.decision import DecisionSpace
from hgenv.device import own_modes
from hgenv.distributions import settled
from hgenv.environments.own import make_generator
from hgenv.generators import BlackBox
from hgenv.generators.random import hash_integers
from hgenv.problem import RenderError
from hgenv.samples import DenseSamples

from . import files
from .config import Interrupted, RunError, plainly
from .display import Bars

AT_ONCE = 64  # samples that are asked for at a time
RECORD = "dataset.json"
QUIET_SECONDS = 10  # between two lines where the output is no terminal


def read(path: Path) -> dict[str, Any]:
    """What `best.yaml` says.

    Raises:
        RunError: It is no such file.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = ("beta", "generator", "folder", "names")
        if not isinstance(found, dict) or any(name not in found for name in names):
            raise ValueError(
                f"it has no {', '.join(n for n in names if not isinstance(found, dict) or n not in found)}"
            )
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise RunError(f"{path}: is no best.yaml that hgenv tune wrote: {words}") from None
    return found


def sample(path: Path, count: int, out: Path, seed: int = 0, *, initial: bool = False) -> None:
    """Write samples, or those that are missing.

    Args:
        path: `best.yaml`.
        count: How many there are to be.
        out: Their folder.
        seed: Decides them.
        initial: Whether at the initial parameters.

    Raises:
        RunError: The folder holds something else, or the generator is not found.
        WorkerError: Its processes cannot go on; what was made is kept.
    """
    said, out = read(path), out.absolute()
    home = (path.absolute().parent / str(said["folder"])).resolve()
    if not home.is_dir():
        raise RunError(f"{path}: folder: there is no {home}; write the way to the folder of your generator there")
    with chdir(home):
        if str(home) not in sys.path:
            sys.path.insert(0, str(home))
        generator = make_generator(parts(said["generator"]), DenseSamples)
        try:
            _write(generator, said, count, out, seed, initial=initial)
        finally:
            if hasattr(generator, "close"):
                generator.close()


def parts(said: Any) -> Any:
    """What is said of a part, with what has a `_target_` in it made."""
    return hydra.utils.instantiate(said, _convert_="all") if isinstance(said, dict) else said


def _write(generator: Any, said: dict[str, Any], count: int, out: Path, seed: int, *, initial: bool) -> None:
    space = generator.space
    beta = space.project(space.initial if initial else _beta(space, said["beta"]))
    told = json.dumps(said["generator"], sort_keys=True)
    made_of = {"seed": seed, "beta": beta.tolist(), "generator": json.loads(told), "names": said["names"]}
    if isinstance(generator, BlackBox):  # its parameters may be in a file, which may have changed
        made_of["parameters"] = settled(generator.parameters, {n: x.tolist() for n, x in space.split(beta).items()})
    made, failed = _made(out, made_of)
    if made >= count:
        print(f"{out}: nothing to do, there are {made} samples")
        return
    out.mkdir(parents=True, exist_ok=True)
    writer, last = Writer(out, said["names"]), time.monotonic()
    quiet = not sys.stdout.isatty()
    bars = Bars(disable=quiet)
    bar = bars.add(str(out.name), count, made)
    with bars, own_modes():
        try:
            while made < count:
                rows = min(AT_ONCE, count - made)
                seeds = hash_integers(torch.arange(made, made + rows) + (seed << 32), 1)[:, 0]
                try:
                    writer.write(generator(beta.expand(rows, -1), seeds), made)
                except RenderError as error:
                    failed += _one_by_one(generator, beta, seeds, writer, made)
                    if len(failed) == made + rows:
                        raise RunError(f"not one of {len(failed)} samples can be made: {error}") from error
                made += rows
                record = {"samples": made, "failed": failed, **made_of}
                files.write(out / RECORD, json.dumps(record, indent=1) + "\n")
                bars.update(bar, completed=made, figures=f"{made} samples")
                if quiet and time.monotonic() - last > QUIET_SECONDS:
                    last = time.monotonic()
                    print(f"{bars.line(bar)}", flush=True)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted after {made} samples; the same command goes on from there") from None
    without = f", but for {len(failed)} that cannot be made" if failed else ""
    print(f"{out}: {made} samples{without}, and {RECORD}, which says what they are of")


def _beta(space: DecisionSpace, said: Any) -> Tensor:
    """The beta of blocks by name.

    Raises:
        RunError: The generator has other ones by now.
    """
    expected = {b.name: b.size for b in space.blocks}
    there = {name: len(x) for name, x in said.items()} if isinstance(said, dict) else said
    if there != expected:
        raise RunError(f"beta: the generator has the numbers {expected} by now, not {there}; tune it again")
    return space.check([x for name in expected for x in said[name]])


def _one_by_one(generator: Any, beta: Tensor, seeds: Tensor, writer: Writer, first: int) -> list[int]:
    """Write those samples of a batch that can be made; the numbers of the others."""
    failed = []
    for number, seed in enumerate(seeds, first):
        try:
            writer.write(generator(beta[None], seed[None]), number)
        except RenderError as error:
            print(f"sample {number} is left out: {error}", file=sys.stderr, flush=True)
            failed.append(number)
    return failed


def _made(out: Path, made_of: dict[str, Any]) -> tuple[int, list[int]]:
    """How many samples there are, and the numbers of those that could not be made.

    Raises:
        RunError: They are others, or something else is there.
    """
    path = out / RECORD
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out}: is there, and no data set that hgenv sample wrote; choose another folder (--out)")
        return 0, []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        made, failed, there = int(found.pop("samples")), list(found.pop("failed")), found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged ({error!r}); choose another folder (--out)") from None
    for name, now in made_of.items():
        if there.get(name) != now:
            raise RunError(f"{out}: holds samples of another {name}; choose another folder (--out)")
    return made, failed


@plainly
def main(arguments: Sequence[str] | None = None) -> int:
    """Write samples from the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    parser = argparse.ArgumentParser(prog="hgenv sample", add_help=False)
    parser.add_argument("best", type=Path)
    parser.add_argument("-n", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--initial", action="store_true")
    given = parser.parse_args(words)
    if given.n < 1 or not 0 <= given.seed < 2**31:
        raise RunError(f"-n must be at least 1, and --seed from 0 to {2**31 - 1}")
    sample(given.best, given.n, given.out, given.seed, initial=given.initial)
    return 0


if __name__ == "__main__":
    sys.exit(main())
