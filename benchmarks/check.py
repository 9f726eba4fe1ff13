"""What a generator and a learner of one's own can do, in words.

    hgenv check my_package:generator my_package:learner
    hgenv check mine.yaml

Names say where they are: a module, and what is in it. It may be the thing itself, or a class or function that makes it
without arguments. Any of these, in any order:

- a generator: determinism, one beta a sample, bounds, pathwise blocks, scores
- a learner: determinism, first and second derivatives, probes as one batch, floating-point operations
- held-out data (`hgenv.SampleData`, or `hgenv.datasets.Folder`): what the learner is tried on, where there are some;
  samples of the generator serve otherwise

Or the file of `hgenv tune`, which names all three.

A line begins with `ok` (as it must be), `yes` or `no` (something that it may or may not be able to do), or `BROKEN`
(figures would be wrong, or a run would end). The exit status is 1 if something is broken, 2 if a name leads nowhere.
"""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hgenv.datasets import Folder
from hgenv.device import own_modes
from hgenv.environments import own
from hgenv.learning import SGD, Learner, influence, train, training_loss
from hgenv.learning.rules import Weights
from hgenv.learning.unroll import adjoint_step
from hgenv.named import NamedError, look_up, said
from hgenv.problem import Generator, PartError, SampleData
from hgenv.samples import Samples
from hgenv.testing import GeneratorConformance, LearnerConformance

from . import tune
from .config import USER_ERRORS
from .sample import parts

ROWS = 4  # samples that a learner is tried on
SCORED = 100  # samples that scores are checked with; renders may be slow
TOLERANCE = 1e-3  # of derivatives, as a share of their size
OK, YES, NO, BROKEN = "ok", "yes", "no", "BROKEN"


class CheckError(RuntimeError):
    """A name that leads nowhere. The message says which, and what to write."""


@dataclass(frozen=True)
class Finding:
    """What came of a check.

    Attributes:
        verdict: One of the four words above.
        what: What was looked at.
        words: What is to be said about it; may be empty.
    """

    verdict: str
    what: str
    words: str = ""

    def __str__(self) -> str:
        return f"  {self.verdict:<6}  {self.what}" + (f": {self.words}" if self.words else "")


@dataclass(frozen=True)
class Named:
    """Something that was named, and how to make another one.

    Attributes:
        name: As it was written.
        thing: What it is.
        make: Another one; the same, if it is no class or function.
    """

    name: str
    thing: Any
    make: Callable[[], Any]


def find(name: str) -> Named:
    """What a name such as "my_package:generator" leads to.

    Raises:
        CheckError: Nowhere.
    """
    try:
        found = look_up(name)
    except NamedError as error:
        raise CheckError(str(error)) from error
    if not isinstance(found, type) and _kind(found):
        return Named(name, found, lambda: found)
    if not callable(found):
        raise CheckError(f"{name}: {type(found).__name__} is neither a generator, nor a learner, nor data")
    try:
        with own_modes():
            return Named(name, found(), found)
    except Exception as error:  # whatever somebody's code does
        raise CheckError(f"{name}: calling it without arguments failed: {said(error)}") from error


def _kind(thing: Any) -> str:
    """What something is by what it has; empty if it is none of these."""
    if hasattr(thing, "space") and callable(thing):
        return "generator"
    if hasattr(thing, "initial_weights") and hasattr(thing, "output"):
        return "learner"
    return "data" if isinstance(thing, Folder) or (hasattr(thing, "samples") and hasattr(thing, "label")) else ""


def check_generator(make: Callable[[], Generator]) -> Iterator[Finding]:
    """What is to be said about a generator."""

    class Kit(GeneratorConformance):
        scored = SCORED

        def make(self) -> Generator:
            return make()

    generator, kit = make(), Kit()
    skipped = ("test_pathwise_blocks", "test_log_prob_score", "test_log_density")
    yield from _kit(kit, skipped)
    blocks = ", ".join(generator.pathwise)
    if not blocks:
        yield Finding(NO, "pathwise blocks", "beta moves by differences, influence or scores alone")
    else:
        yield _attempt(kit.test_pathwise_blocks, "pathwise blocks", f"{blocks}; derivatives agree with differences")
    if not hasattr(generator, "log_prob_score"):
        yield Finding(NO, "scores", "score_influence and combined have nothing to work with; see log_prob_score")
    else:
        yield _attempt(kit.test_log_prob_score, "scores", "log_prob_score agrees with what the samples do")
    if not hasattr(generator, "log_density"):
        yield Finding(NO, "densities", "samples cannot be used more than once by env.replay; see hgenv.Generator")
    else:
        yield _attempt(kit.test_log_density, "densities", "log_density and score agree; env.replay has what it needs")


def check_learner(make: Callable[[], Learner], samples: Samples, data: Any) -> Iterator[Finding]:
    """What is to be said about a learner.

    Args:
        make: Gives the learner.
        samples: Some that it may train on, at least three.
        data: What it may validate on.
    """
    learner = make()
    yield _attempt(lambda: learner.task.check(samples, "its samples"), "samples are the task's", "", OK)
    precise = _takes_doubles(learner, samples)

    class Kit(LearnerConformance):
        reach = 1e-9  # in double precision: kinks are seldom near enough to matter, and rounding is far away
        tolerance = TOLERANCE if precise else 1e-2

        def make(self) -> Learner:
            return _doubled_learner(make()) if precise else make()

        def samples(self) -> Samples:
            return _doubled(samples) if precise else samples

        def data(self) -> Any:
            return SampleData(_doubled(data.samples), data.label) if precise and type(data) is SampleData else data

    kit = Kit()
    first, other = learner.initial_weights(3), learner.initial_weights(4)
    kit.seeded = not all(torch.equal(w, other[name]) for name, w in first.items())
    yield from _kit(kit, ("test_twice_differentiable", "test_trains_as_one_batch", "test_flops"))
    words = "drawn from the seed" if kit.seeded else "the same for all seeds, as those of a checkpoint"
    yield Finding(YES if kit.seeded else NO, "initial weights by seed", words)

    def first_derivatives() -> None:
        if precise:
            _compare_slopes(kit.make(), kit.samples())
        trajectory = train(learner, rule, rule.start(first), [samples])
        influence(learner, rule, trajectory, [samples], data)

    rule = SGD(1e-3)
    how = "they agree with differences" if precise else "not compared with differences, which takes double precision"
    need = f"influence, scores, hybrid_gradient, whatever asks for curvature=False; {how}"
    yield _attempt(first_derivatives, "first derivatives", need)
    try:
        with own_modes():
            adjoint_step(learner, rule, rule.start(first), samples, rule.start(first))
    except PartError as error:
        yield Finding(NO, "second derivatives", str(error))
    else:
        words = f"sample_gradient(curvature=True); {how}"
        yield _attempt(kit.test_twice_differentiable if precise else lambda: None, "second derivatives", words)
    serial = "probes are made one by one: prober=hgenv.Serial() on a GPU"
    yield _attempt(kit.test_trains_as_one_batch, "probes as one batch (torch.func.vmap)", "", YES, serial)
    yield from _flops(kit, learner)


def _compare_slopes(learner: Learner, samples: Samples) -> None:
    """Make sure that the training loss rises along each weight's gradient as the gradient says.

    Raises:
        AssertionError: It does not.
    """
    weights = learner.initial_weights(0)
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    loss = training_loss(learner, leaves, samples)
    found = torch.autograd.grad(loss, list(leaves.values()))
    for (name, w), g in zip(weights.items(), found, strict=True):
        slope, epsilon = float(g.norm()), torch.finfo(w.dtype).eps
        step = epsilon ** (1 / 2) * max(float(w.norm()), 1e-2)
        with torch.no_grad():
            ends = [
                float(training_loss(learner, weights | {name: w + times * step * g / max(slope, 1e-30)}, samples))
                for times in (1, -1, 2, -2)
            ]
        difference = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
        rounding = 4 * epsilon * abs(float(loss.detach())) / step
        assert abs(slope - difference) <= TOLERANCE * slope + rounding, (
            f"along its gradient by {name!r} the training loss should rise by {slope:.4g}, and differences say "
            f"{difference:.4g}; look at the backward() of the network's own functions"
        )


def _flops(kit: LearnerConformance, learner: Learner) -> Iterator[Finding]:
    found = []
    for kind, words in (("train", "a training step"), ("gradient", "an adjoint step"), ("validate", "validation")):
        try:
            found.append(f"{words} {learner.flops(kind, 1) / 1e6:.3g} million")  # type: ignore[arg-type] # of these
        except PartError:
            found.append(f"{words} none")
        except Exception as error:  # whatever somebody's code does
            yield Finding(BROKEN, "floating-point operations", said(error))
            return
    words = f"of a sample: {', '.join(found)}"
    if "none" in words:
        yield Finding(OK, "floating-point operations", words)
    else:
        yield _attempt(kit.test_flops, "floating-point operations", words, OK)


def _kit(kit: Any, without: Sequence[str]) -> Iterator[Finding]:
    """All checks of a kit but some."""
    for name in (n for n in dir(kit) if n.startswith("test_") and n not in without):
        yield _attempt(getattr(kit, name), name.removeprefix("test_").replace("_", " "), "", OK)


def _attempt(check: Callable[[], object], what: str, words: str, good: str = YES, unable: str | None = None) -> Finding:
    """What comes of a check: that all is well, or what it says; what fails is broken, unless it may be `unable` to."""
    state = torch.get_rng_state()
    try:
        with own_modes():
            check()
    except unittest.SkipTest as reason:
        return Finding(NO, what, str(reason))
    except AssertionError as error:
        return Finding(BROKEN, what, str(error).partition("\n")[0] or said(error))
    except Exception as error:  # whatever somebody's code does
        if unable is not None:
            return Finding(NO, what, f"{unable} ({said(error)})")
        return Finding(BROKEN, what, said(error))
    finally:
        torch.set_rng_state(state)
    return Finding(good, what, words)


class _Doubled:
    """A learner with weights in double precision."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    @property
    def task(self) -> Any:
        return self.learner.task

    def initial_weights(self, seed: int) -> Weights:
        return {name: w.double() for name, w in self.learner.initial_weights(seed).items()}

    def output(self, weights: Weights, samples: Any) -> Any:
        return self.learner.output(weights, samples)

    def flops(self, kind: Any, samples: int) -> int:
        return self.learner.flops(kind, samples)


def _doubled_learner(learner: Learner) -> _Doubled:
    """Under the learner's own name, which messages have."""
    return type(type(learner).__name__, (_Doubled,), {})(learner)


def _doubled(samples: Samples) -> Samples:
    return samples.map(lambda x: x.double() if x.is_floating_point() else x)


def _takes_doubles(learner: Learner, samples: Samples) -> bool:
    """Whether a learner can be looked at in double precision."""
    try:
        with own_modes():
            loss = training_loss(learner, _Doubled(learner).initial_weights(0), _doubled(samples))
            return loss.dtype == torch.float64
    except Exception:  # it cannot, and need not
        return False


def of_experiment(path: Path) -> list[Named]:
    """The parts in a file of `hgenv tune`, whose folder is where names and files are looked for from now on.

    Raises:
        PartError: One of them cannot be made.
        RunError: It is no such file.
    """
    said = {name: parts(part) for name, part in tune.read(path).said.items()}
    folder = path.absolute().parent
    os.chdir(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    held = own.make_data(said["data"])
    makes: dict[str, Callable[[], Any]] = {
        "generator": lambda: own.make_generator(said["generator"], type(held.validation.samples)),
        "learner": lambda: own.make_learner(said["learner"], held),
        "data": lambda: held.validation,
    }
    return [Named(f"{path.name}, {part}", make(), make) for part, make in makes.items()]


def check(names: Sequence[str]) -> Iterator[str | Finding]:
    """Headings and findings on all that is named.

    Raises:
        CheckError: A name leads nowhere, or there is nothing to try a learner on.
    """
    found: dict[str, Named] = {}
    files = [name for name in names if name.endswith((".yaml", ".yml"))]
    if files and len(names) > 1:
        raise CheckError(f"{files[0]}: a file of hgenv tune names all parts; give it alone")
    for named in of_experiment(Path(files[0])) if files else map(find, names):
        name, kind = named.name, _kind(named.thing)
        if not kind:
            raise CheckError(
                f"{name}: {type(named.thing).__name__} is neither a generator (space, and a call), nor a learner "
                "(task, initial_weights, output, flops), nor data (samples, label)"
            )
        if kind in found:
            raise CheckError(f"{name}: {found[kind].name} is a {kind}, too; one at a time")
        found[kind] = named
    if "learner" in found and len(found) == 1:
        raise CheckError("a learner is tried on samples: name a generator or held-out data as well")
    samples: Samples | None = None
    data: Any = found["data"].thing if "data" in found else None
    if isinstance(data, Folder):
        data = data.validation
    if "generator" in found:
        generator = found["generator"].thing
        space = generator.space
        blocks = f"{space.dimension} numbers in {len(space.blocks)} blocks"
        yield f"{found['generator'].name}: the generator {type(generator).__name__}, {blocks}"
        yield from check_generator(found["generator"].make)
        try:
            with own_modes():
                betas = space.project(space.initial).expand(3 * ROWS, -1)
                made = generator(betas, torch.arange(3 * ROWS))
            samples, rest = made[:ROWS], made[ROWS:]
        except Exception as error:  # the kit has said it, too
            yield Finding(BROKEN, "samples at the initial beta", said(error))
            return
        data = data if data is not None else SampleData(rest, "samples of the generator")
    if "learner" in found:
        learner = found["learner"]
        if samples is None and len(data.samples) < ROWS:
            raise CheckError(f"{found['data'].name}: {len(data.samples)} samples, and at least {ROWS} are needed")
        yield f"{learner.name}: the learner {type(learner.thing).__name__} with {type(learner.thing.task).__name__}"
        yield from check_learner(learner.make, data.samples[:ROWS] if samples is None else samples, data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    broken = 0
    try:
        for line in check(words):
            print(line, flush=True)
            broken += isinstance(line, Finding) and line.verdict == BROKEN
    except (CheckError, *USER_ERRORS) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{broken} broken: see the lines above" if broken else "nothing is broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
