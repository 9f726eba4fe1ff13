"""Generators and learners that misbehave, in an environment.

Each wraps a good one and spoils a call of it. What comes of it must be an error in words, a status, or what the good
one gives; and whatever it was, the environment goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgenv import Batched, DataGenEnv, DenseSamples, RenderError, Samples, Serial

from .betas import ENVIRONMENTS
from .case import Finding, Verdict, attempt
from .damage import Random

NAMES = tuple(name for name in ENVIRONMENTS if name != "lit shapes")
_envs: dict[str, DataGenEnv] = {}


@dataclass(frozen=True)
class Pairs(Samples):
    """A record of another kind than any task here knows."""

    left: Tensor
    right: Tensor


class Stranger:
    """A generator whose calls from one on are spoilt."""

    def __init__(self, good: Any, spoil: Callable[[Any, Tensor, Tensor], Any], first: int) -> None:
        self.space, self.pathwise = good.space, good.pathwise
        self.good, self.spoil, self.left = good, spoil, first

    def __call__(self, betas: Tensor, seeds: Tensor) -> Any:
        """See `Generator`."""
        self.left -= 1
        samples = self.good(betas, seeds)
        return samples if self.left >= 0 else self.spoil(samples, betas, seeds)


class StrangeLearner:
    """A learner one of whose methods is spoilt."""

    def __init__(self, good: Any, method: str, spoil: Callable[..., Any]) -> None:
        self.good, self.method, self.spoil = good, method, spoil
        self.task = good.task

    def initial_weights(self, seed: int) -> Any:
        """See `Learner`."""
        weights = self.good.initial_weights(seed)
        return self.spoil(weights) if self.method == "initial_weights" else weights

    def output(self, weights: Any, samples: Any) -> Any:
        """See `Learner`."""
        if self.method == "before":
            self.spoil(weights, samples)
        output = self.good.output(weights, samples)
        return self.spoil(output) if self.method == "output" else output

    def flops(self, kind: Any, samples: int) -> Any:
        """See `Learner`."""
        return self.good.flops(kind, samples)


def case(rng: Random, folder: Path) -> Finding:
    """An environment, a part of it that is spoilt, and what is asked of it."""
    name = str(rng.choice(NAMES))
    env = _environment(name)
    env.prober = Batched() if rng.uniform() < 0.3 else Serial()
    seed = int(rng.integers(2**31))
    asked = str(rng.choice(["step", "probe", "slopes", "pathwise", "influence", "metrics", "reset"]))
    good = env.problem
    if rng.uniform() < 0.6:
        kind = str(rng.choice(sorted(SAMPLES)))
        stranger = Stranger(good.generator, SAMPLES[kind], int(rng.choice([0, 0, 1])))
        spoilt = replace(good, generator=stranger)
        legitimate = kind in OTHER_SAMPLES
    else:
        method, kind = LEARNERS[int(rng.integers(len(LEARNERS)))]
        spoilt = replace(good, learner=StrangeLearner(good.learner, method, WEIGHTS[kind]))
        legitimate = (method, kind) in OTHER_LEARNERS
        kind = f"{method}: {kind}"
        asked = "reset" if method == "initial_weights" else asked  # nobody else asks for them
    env.reset(seed=seed)
    expected = _ask(env, asked, seed)
    env.reset(seed=seed)

    def act() -> Any:
        with _with_problem(env, spoilt):
            if asked == "reset":
                env.reset(seed=seed)
            return _ask(env, asked, seed)

    def judge(found: list[float] | str) -> tuple[Verdict, str]:
        if isinstance(found, str):
            return Verdict.STATUS, found
        if legitimate or (isinstance(expected, list) and np.allclose(found, expected, rtol=1e-3, atol=1e-5)):
            return Verdict.UNHARMED, f"{found[:3]}"
        return Verdict.WRONG, f"{found[:3]} where {expected[:3]} is right"

    words = ("generator", "learner", "Learner", type(env.task).__name__)
    finding = attempt(f"{name}, {asked}, {kind}", act, words, judge)
    if "make the environment anew" in finding.what:
        del _envs[name]
    elif finding.verdict in (Verdict.CLEAR, Verdict.STATUS, Verdict.UNHARMED):
        try:  # with the good parts again, and the weights and data as they were
            env.reset(seed=seed)
            after = _ask(env, asked, seed)
        except Exception as error:
            return Finding(Verdict.WRONG, f"{finding.what}\nand the environment is harmed: {error}")
        if after != expected:
            return Finding(Verdict.WRONG, f"{finding.what}\nand afterwards {after[:3]} where {expected[:3]} is right")
    return finding


def _environment(name: str) -> DataGenEnv:
    if name not in _envs:
        _envs[name] = ENVIRONMENTS[name]()
    return _envs[name]


@contextmanager
def _with_problem(env: DataGenEnv, problem: Any) -> Iterator[None]:
    good = env.problem
    env.problem = problem
    try:
        yield
    finally:
        env.problem = good


def _ask(env: DataGenEnv, asked: str, seed: int) -> list[float] | str:
    """Numbers that an environment gives; a status where there are none."""
    beta = env.space.project(env.space.initial)
    if asked == "probe":
        outcomes = env.probe(torch.stack([beta, env.space.random(seed % 1000)]))
        bad = [o for o in outcomes if not o.ok]
        return str(bad[0]) if bad else [float(o.loss or 0) for o in outcomes]
    env.step(beta)
    rolled = env.last
    assert rolled is not None
    if not rolled.outcome.ok:
        return str(rolled.outcome)
    loss = [float(rolled.outcome.loss or 0)]
    if asked == "slopes":
        gradient = rolled.sample_gradient()
        directions = torch.zeros(1, len(gradient), env.space.dimension, dtype=torch.float64)
        directions[..., 0] = 1e-2
        return loss + gradient.slopes(directions).value.flatten().tolist()
    if asked == "pathwise":
        return loss + rolled.sample_gradient().pathwise().flatten().tolist()
    if asked == "influence":
        return loss + rolled.influence().tolist()
    if asked == "metrics":
        return loss + sorted(env.test_metrics().values())
    return loss


# --- What strangers do ------------------------------------------------------------------------------------------------


def _raise(error: BaseException) -> Callable[..., Any]:
    def spoil(*_: Any) -> Any:
        raise error

    return spoil


def _change(function: Callable[[Tensor], Tensor], field: int | None = None) -> Callable[..., Any]:
    """`function` on all fields of the samples, or one."""

    def spoil(samples: Samples, *_: Any) -> Any:
        parts = list(samples.tensors)
        return samples.with_tensors(function(x) if field in (None, i) else x for i, x in enumerate(parts))

    return spoil


def _written(samples: Samples, betas: Tensor, seeds: Tensor) -> Samples:
    with torch.no_grad():
        betas.detach().mul_(0)
    seeds.add_(1)
    return samples


def _put(value: float) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        return torch.cat([torch.full_like(x[:1], value), x[1:]])

    return change


SAMPLES: dict[str, Callable[..., Any]] = {
    "fewer": lambda s, b, r: s[:-1],
    "none": lambda s, b, r: s[:0],
    "more": lambda s, b, r: type(s).cat([s, s]),
    "nothing": lambda s, b, r: None,
    "a tuple": lambda s, b, r: s.tensors,
    "a dict": lambda s, b, r: dict(zip(s.names, s.tensors, strict=True)),
    "another record": lambda s, b, r: Pairs(s.tensors[0], s.tensors[1]),
    "a class": lambda s, b, r: type(s),
    "a field missing": lambda s, b, r: s.with_tensors([*s.tensors[:-1], None]),
    "numpy": lambda s, b, r: s.with_tensors([x.detach().numpy() for x in s.tensors]),
    "single precision": _change(lambda x: x.float()),
    "double precision": _change(lambda x: x.double()),
    "half precision": _change(lambda x: x.half()),
    "whole numbers": _change(lambda x: x.long()),
    "complex": _change(lambda x: x + 0j),
    "bool": _change(lambda x: x > 0),
    "flat": _change(lambda x: x.flatten(1)),
    "one more dimension": _change(lambda x: x[..., None]),
    "image of another size": _change(lambda x: torch.cat([x, x], -1), 0),
    "all of another size": _change(lambda x: x[..., :-1]),
    "mask of another size": _change(lambda x: x[..., :1, :1] if x.dim() > 2 else x[..., :0], 2),
    "mask from 0 to 255": _change(lambda x: 255 * x, 2),
    "no mask": _change(lambda x: 0 * x, 2),
    "negative mask": _change(lambda x: -x, 2),
    "NaN image": _change(_put(np.nan), 0),
    "infinite target": _change(_put(np.inf), 1),
    "NaN mask": _change(_put(np.nan), 2),
    "meta": _change(lambda x: x.to("meta")),
    "sparse": _change(lambda x: x.to_sparse()),
    "strided": _change(lambda x: x.transpose(0, -1).contiguous().transpose(0, -1)),
    "graph": _change(lambda x: x.detach().clone().requires_grad_()),
    "no graph": _change(lambda x: x.detach()),
    "writes into betas and seeds": _written,
    "KeyError": _raise(KeyError("texture")),
    "ZeroDivisionError": _raise(ZeroDivisionError("division by zero")),
    "StopIteration": _raise(StopIteration()),
    "AssertionError": _raise(AssertionError()),
    "RenderError": _raise(RenderError("the generator's renderer has no light; sample seed 5")),
    "RuntimeError": _raise(RuntimeError("CUDA error: device-side assert triggered")),
    "MemoryError": _raise(MemoryError()),
    "RecursionError": _raise(RecursionError("maximum recursion depth exceeded")),
    "OSError": _raise(FileNotFoundError(2, "No such file or directory", "mesh.obj")),
}
# What makes other samples, which are as good as any: the result may be another.
OTHER_SAMPLES = ("no mask", "half precision", "single precision", "graph", "no graph", "double precision")


def _rot(weights: Any, samples: Any) -> None:
    """Weights that decay whenever they are looked at."""
    for w in weights.values():
        w.mul_(0.5)


def _rot_behind(weights: Any, samples: Any) -> None:
    for w in weights.values():
        w.data.mul_(0.5)


def _centre(weights: Any, samples: Any) -> None:
    """As many do who forget that tensors are shared."""
    if isinstance(samples, DenseSamples):
        samples.image.sub_(0.5)


WEIGHTS: dict[str, Callable[..., Any]] = {
    "None": lambda x: None,
    "numbers": lambda x: 1.0,
    "text": lambda x: "weights",
    "NaN": lambda x: _each(x, lambda t: t * np.nan),
    "infinite": lambda x: _each(x, lambda t: t + np.inf),
    "detached": lambda x: _each(x, lambda t: t.detach()),
    "whole": lambda x: _each(x, lambda t: t.long()),
    "complex": lambda x: _each(x, lambda t: t * (1 + 1j)),
    "of another size": lambda x: _each(x, lambda t: t[..., :-1]),
    "of a batch too many": lambda x: _each(x, lambda t: torch.cat([t, t])),
    "empty": lambda x: type(x)() if isinstance(x, dict | list) else x[:0],
    "meta": lambda x: _each(x, lambda t: t.to("meta")),
    "graph": lambda x: _each(x, lambda t: t.detach().requires_grad_()),
    "KeyError": _raise(KeyError("w")),
    "AssertionError": _raise(AssertionError()),
    "OverflowError": _raise(OverflowError("too large")),
    "decay in place": _rot,
    "decay behind autograd": _rot_behind,
    "centre in place": _centre,
}
_VALUES = tuple(k for k in WEIGHTS if "place" not in k and "behind" not in k)
LEARNERS = (
    *(("output", kind) for kind in _VALUES),
    *(("initial_weights", kind) for kind in _VALUES),
    *(("before", kind) for kind in ("decay in place", "decay behind autograd", "centre in place", "KeyError")),
)
# What is another network, or other weights, as good as any.
OTHER_LEARNERS = (
    ("output", "infinite"),
    ("initial_weights", "of a batch too many"),
    ("initial_weights", "of another size"),
    ("before", "decay in place"),
    ("before", "decay behind autograd"),
)


def _each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, dict):
        return {name: function(t) for name, t in value.items()}
    if isinstance(value, list):
        return [function(t) for t in value]
    return function(value)
