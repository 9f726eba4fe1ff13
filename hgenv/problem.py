"""The parts of a problem, and what becomes of an evaluation."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from .decision import DecisionError, DecisionSpace
from .samples import Samples, SamplesError


class RenderError(RuntimeError):
    """A renderer that cannot work here, or a sample that it cannot render. The message says which, and the cure."""


class PartError(RuntimeError):
    """A generator, a learner or a task that fails, or does not keep to its contract. The message says which, and how.

    What it raised itself is the cause (`__cause__`), with its own traceback.
    """


class part:
    """What somebody else's code raises inside becomes a `PartError`, unless it is in our own words already.

    A class, because a generator's `contextmanager` lets a StopIteration through.

    Args:
        who: Whose code it is.
    """

    def __init__(self, who: str) -> None:
        self.who = who

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Put an error into words.

        Raises:
            PartError: There is one.
        """
        if isinstance(error, Exception) and not isinstance(
            error, PartError | RenderError | SamplesError | DecisionError
        ):
            words = str(error).partition("\n")[0]  # some libraries write pages
            raise PartError(f"{self.who} failed: {type(error).__name__}: {words}") from error


@contextmanager
def untouched(samples: Samples, who: str) -> Iterator[None]:
    """Make sure that nobody writes into samples that others will look at.

    Raises:
        PartError: Somebody did.
    """

    def versions() -> list[int]:
        return [0 if x.is_inference() else x._version for x in samples.tensors]  # those of inference have none

    before = versions()
    yield
    if versions() != before:
        raise PartError(
            f"{who} changes its samples in place, which others look at afterwards; let it work on copies, and make the "
            "environment anew"
        )


class Generator(Protocol):
    """f(beta, r): deterministic in both, random in r alone.

    Besides, a generator may have

    - `log_prob_score(betas, seeds)`, the derivative by beta of the logarithm of the density that a sample's draws have,
      (B, d) float64, in beta's own units; NaN in components that are no parameters of a draw. `hgenv.generators.scores`
      has it for the usual distributions, and `GeneratorConformance` checks it.
    - the density of a sample's draws, for `hgenv.Replay`: `draws(betas, seeds)`, a dictionary of tensors with B rows;
      `log_density(betas, draws)`, the logarithm of their density at any betas, (B,) float64; `score(betas, draws)`, its
      derivative by beta, as in `log_prob_score`; and `handed_over`, the names of blocks that are no numbers of a draw
      (none if it is missing). A sample must be a function of its draws, of these blocks, and of its seed.
    - `resized(size)`, itself with samples of another size in pixels, for sharp pictures,
    - `mesh(beta, seed)`, one sample as a `trimesh.Trimesh`,
    - `prepare(betas, seeds)`, which returns at once, and has samples made that will probably be asked for next, while
      the network trains. They take the place of those that were prepared before. Samples, errors and what is charged
      are the same with it and without, and it is no error if they are never asked for.
    - `close()`, which gives back what it holds, processes for instance; it may be called again afterwards.

    Attributes:
        space: What the components of beta mean.
        pathwise: Names of the blocks through which autograd gives the exact dX/dbeta; the rest is a black box.
    """

    space: DecisionSpace
    pathwise: tuple[str, ...]

    def __call__(self, betas: Tensor, seeds: Tensor) -> Samples:
        """Samples for (B, d) betas and (B,) int64 seeds, one beta per sample, on the seeds' device.

        A seed is any whole number of 64 bits, also a negative one.

        Raises:
            RenderError: A sample cannot be made; the message names its seed.
        """
        ...


class Data(Protocol):
    """Held-out data: what the task's losses and metrics need.

    Attributes:
        samples: What the network sees of them, and the truth about it.
        label: Which data these are; to be written beside every figure.
    """

    @property
    def samples(self) -> Samples:
        """See the class."""
        ...

    @property
    def label(self) -> str:
        """See the class."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same data on another device."""
        ...


@dataclass(frozen=True)
class SampleData:
    """Data that are samples and nothing else."""

    samples: Samples
    label: str

    def to(self, device: torch.device | str) -> SampleData:
        """The same data on another device."""
        return SampleData(self.samples.to(device), self.label)


class Status(enum.Enum):
    """What became of an evaluation. The value is advice for whoever reads it."""

    OK = "trained and validated"
    DIVERGED = (
        "the loss or the weights became infinite or NaN during training; lower the learning rate, or keep beta away "
        "from where the samples are degenerate"
    )
    UNRENDERABLE = "a sample could not be rendered; see the message for its seed, and keep beta further from its bounds"


@dataclass(frozen=True)
class Outcome:
    """What training at a beta gave.

    Attributes:
        beta: (d,) the valid vector that was used.
        loss: L on the validation data after the K steps; None unless the status is OK.
        status: OK, or what went wrong.
        message: Details of a failure, else empty.
    """

    beta: Tensor
    loss: float | None
    status: Status = Status.OK
    message: str = ""

    def __repr__(self) -> str:
        result = f"loss {self.loss:.6g}" if self.loss is not None else f"{self.status.name}: {self.message}"
        return f"<Outcome: {result}>"

    @property
    def ok(self) -> bool:
        """Whether there is a loss."""
        return self.status is Status.OK
