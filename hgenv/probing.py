"""How probes are made: one after the other, as one batch, or in processes of their own.

A probe is a rollout whose result is not kept. All ways start from the same weights and sample seeds and cost the same
counts. Another one, on other machines say, is a class with the same three methods.
"""

from __future__ import annotations

import math
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .accounting import Ledger
from .learning.rules import TrainingState
from .learning.unroll import train_together, validate_together
from .memory import keep_memory
from .pool import Pool, WorkerError
from .problem import Outcome, RenderError
from .rollout import Problem, roll

__all__ = ["Batched", "Prober", "Serial", "WorkerError", "Workers"]


class Prober(Protocol):
    """How probes are made."""

    def probe(
        self, problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        """What a rollout from `start` at each beta would give.

        Args:
            problem: What with.
            start: The weights of all probes.
            betas: (d,) valid vectors.
            seeds: (N,) sample seeds of all probes.
            ledger: Who pays.
        """
        ...

    def warm_up(self, problem: Problem, start: TrainingState, beta: Tensor, seeds: Tensor, ledger: Ledger) -> None:
        """Do once whatever is slow only once."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


class Serial:
    """One probe after the other: bit for bit what a step gives."""

    def probe(
        self, problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        """See `Prober`."""
        return [roll(problem, start, beta, beta.expand(len(seeds), -1), seeds, ledger).outcome for beta in betas]

    def warm_up(self, problem: Problem, start: TrainingState, beta: Tensor, seeds: Tensor, ledger: Ledger) -> None:
        """There is nothing to warm up that a step does not use."""

    def close(self) -> None:
        """There is nothing to give back."""


class Batched:
    """Probes rendered, trained and validated as one batch, as suits a GPU; they differ from a step by rounding.

    Args:
        size: Probes in a batch; None for all of a call.

    Raises:
        ValueError: The size is not positive.
    """

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"a batch of probes needs a size of at least 1, or None for all, not {size}")
        self.size = size

    def probe(
        self, problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        """See `Prober`.

        Raises:
            RuntimeError: They cannot be made as one batch.
        """
        size = self.size or max(1, len(betas))
        parts = [betas[first : first + size] for first in range(0, len(betas), size)]
        return [outcome for part in parts for outcome in self._together(problem, start, part, seeds, ledger)]

    def warm_up(self, problem: Problem, start: TrainingState, beta: Tensor, seeds: Tensor, ledger: Ledger) -> None:
        """Make two probes."""
        self.probe(problem, start, [beta, beta], seeds, ledger)

    def close(self) -> None:
        """There is nothing to give back."""

    @staticmethod
    def _together(
        problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        count, learner = len(betas), problem.learner
        try:
            with problem.work(ledger, "generate"):
                rows = torch.stack(list(betas)).repeat_interleave(len(seeds), 0)
                samples = problem.generate(rows, seeds.repeat(count))
                shape = (count, problem.unroll_steps, problem.batch_size)
                samples = samples.map(lambda x: x.unflatten(0, shape))
        except RenderError:
            return Serial().probe(problem, start, betas, seeds, ledger)  # that tells which, and counts
        ledger.count("samples", count * len(seeds))
        try:
            with problem.work(ledger, "train"):
                steps = range(problem.unroll_steps)
                batches = [samples.with_tensors(x[:, k] for x in samples.tensors) for k in steps]
                weights = train_together(learner, problem.rule, start, batches).weights
            with problem.work(ledger, "validate"):
                losses = validate_together(learner, weights, problem.validation)
                ledger.wait()
                values = losses.tolist()
        except RuntimeError as error:
            raise RuntimeError(
                f"{count} probes cannot be made as one batch: {error}; hgenv.probing.Serial() needs the least memory "
                "and takes any learner, also one that torch.func.vmap cannot go through"
            ) from error
        problem.charge_training(ledger, count)
        problem.charge_validation(ledger, count)
        return [problem.outcome(beta, value) for beta, value in zip(betas, values, strict=True)]


class Workers:
    """Probes side by side in processes with one torch thread each: the same bits as one thread here.

    Processes start at the first probe and hold the problem; weights reach them through shared memory. They end with
    `close`, or with this process, however it ends. One that dies, or says nothing for `timeout` seconds, is replaced,
    and its probe made again, with the same bits. `Ledger.incidents` counts that, and nobody is charged for what was
    lost. Interrupts are left to this process: a worker ignores SIGINT, SIGTERM and SIGHUP; to end one by hand, kill it.

    Args:
        count: How many processes.
        timeout: Seconds that a process has for a probe; to start, which may compile kernels, five minutes at least.

    Raises:
        ValueError: The count is not positive, or the timeout not positive and finite.
    """

    def __init__(self, count: int, timeout: float = 300.0) -> None:
        if count < 1:
            raise ValueError(f"there must be at least 1 worker process, not {count}")
        if not 0 < timeout < math.inf:
            raise ValueError(f"the timeout of a worker process must be positive and finite seconds, not {timeout}")
        self.count, self.timeout = count, timeout
        self._pool: Pool | None = None
        self._served: Problem | None = None

    def probe(
        self, problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        """See `Prober`.

        Raises:
            WorkerError: Processes cannot be started, or one died or hung three times at one probe; or the problem
                cannot be sent to one.
            ValueError: The problem is not on the CPU.
        """
        with ledger.phase("train"):
            pool = self._serving(problem, start)
            torch.cat([t.flatten() for t in start.tensors], out=self._flat)
            answers, idle = pool.map([(start.step, beta, seeds) for beta in betas], ledger.note)
            ledger.excuse(idle)
        for _, spent in answers:
            ledger.charge(spent)
        for found, _ in answers:
            if isinstance(found, _Raised):
                raise found.error from RuntimeError(f"in a worker process:\n{found.traceback}")
        return [found for found, _ in answers]

    def warm_up(self, problem: Problem, start: TrainingState, beta: Tensor, seeds: Tensor, ledger: Ledger) -> None:
        """Start the processes and have each make a probe or two."""
        self.probe(problem, start, [beta] * (2 * self.count), seeds, ledger)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None and self._pool.mine:
            self._pool.close()
        self._pool = self._served = None

    def __getstate__(self) -> dict[str, Any]:
        """Processes belong to one object: a copy starts its own."""
        return {"count": self.count, "timeout": self.timeout, "_pool": None, "_served": None}

    def _serving(self, problem: Problem, start: TrainingState) -> Pool:
        if self._pool is not None and self._pool.mine and self._served is problem:
            return self._pool
        self.close()
        if problem.device.type != "cpu":
            raise ValueError(f"worker processes probe on the CPU, but this problem is on {problem.device.type}")
        self._flat = torch.cat([t.detach().flatten() for t in start.tensors]).share_memory_()
        like = start.with_tensors([t.detach().to("meta") for t in start.tensors])
        self._pool = Pool(_start, (problem, like, self._flat), self.count, self.timeout)
        self._served = problem
        return self._pool


# --- In the worker --------------------------------------------------------------------------------------------------


def _start(problem: Problem, like: TrainingState, flat: Tensor) -> Callable[..., tuple[Any, dict[str, Any]]]:
    torch.set_num_threads(1)
    keep_memory()
    problem = replace(problem, threads=1)
    sizes = [t.numel() for t in like.tensors]

    def probe(task: tuple[int, Tensor, Tensor]) -> tuple[Outcome | _Raised, dict[str, Any]]:
        step, beta, seeds = task
        pairs = zip(flat.split(sizes), like.tensors, strict=True)
        start = replace(like.with_tensors([part.view(t.shape).to(t.dtype) for part, t in pairs]), step=step)
        ledger = Ledger()
        try:
            with ledger.phase("optimizer"):  # what this process does besides
                (outcome,) = Serial().probe(problem, start, [beta], seeds, ledger)
        except BaseException as error:
            return _raised(error), ledger.state_dict()
        return outcome, ledger.state_dict()

    # Nobody is to pay for first calls, least of all for those of a replacement.
    probe((0, problem.space.project(problem.space.initial), torch.arange(problem.num_samples)))
    return probe


@dataclass(frozen=True)
class _Raised:
    error: BaseException
    traceback: str


def _raised(error: BaseException) -> _Raised:
    """The error as it can be sent: as a RuntimeError if pickle cannot take it."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Raised(error.with_traceback(None), text)
