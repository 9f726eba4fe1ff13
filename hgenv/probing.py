"""How probes are made: one after the other, as one batch, or in processes of their own.

A probe is a rollout whose result is not kept. All ways start from the same weights and sample seeds and cost the same
counts. Another one, on other machines say, is a class with the same three methods.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.multiprocessing
from torch import Tensor

from .accounting import Ledger
from .learning.learner import validation_loss
from .learning.precision import full_precision
from .learning.rules import TrainingState
from .learning.unroll import train_together
from .memory import keep_memory
from .problem import Outcome, RenderError
from .rollout import Problem, roll


class WorkerError(RuntimeError):
    """The worker processes cannot go on. The message says why, and the cure."""


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
            with problem.work(ledger, "validate"), torch.no_grad(), full_precision():
                losses = torch.func.vmap(lambda w: validation_loss(learner, w, problem.validation))(weights)
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

    Processes start at the first probe and hold the problem; weights reach them through shared memory. Spawned, not
    forked, since neither threads nor GL contexts survive a fork.

    Args:
        count: How many processes.

    Raises:
        ValueError: The count is not positive.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"there must be at least 1 worker process, not {count}")
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._served: Problem | None = None

    def probe(
        self, problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        """See `Prober`.

        Raises:
            WorkerError: A process died, or the problem cannot be sent to one.
            ValueError: The problem is not on the CPU.
        """
        with ledger.phase("train"):
            pool = self._serving(problem, start)
            torch.cat([t.flatten() for t in start.tensors], out=self._flat)
            jobs = [(start.step, beta.tolist(), seeds.tolist()) for beta in betas]
            try:
                found = list(pool.map(_probe, jobs))
            except BrokenProcessPool:
                self.close()  # the next probe starts others
                raise WorkerError(
                    "a worker process died: killed for memory (use fewer workers, or hgenv.probing.Serial()), or never "
                    "started (what a script does with workers must stand below `if __name__ == '__main__':`)"
                ) from None
        for _, spent in found:
            ledger.charge(spent)
        return [outcome for outcome, _ in found]

    def warm_up(self, problem: Problem, start: TrainingState, beta: Tensor, seeds: Tensor, ledger: Ledger) -> None:
        """Start the processes and have each make a probe or two."""
        self.probe(problem, start, [beta] * (2 * self.count), seeds, ledger)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = self._served = None

    def __getstate__(self) -> dict[str, Any]:
        """Processes belong to one object: a copy starts its own."""
        return {"count": self.count, "_pool": None, "_served": None}

    def _serving(self, problem: Problem, start: TrainingState) -> ProcessPoolExecutor:
        if self._pool is not None and self._served is problem:
            return self._pool
        self.close()
        if problem.device.type != "cpu":
            raise ValueError(f"worker processes probe on the CPU, but this problem is on {problem.device.type}")
        self._flat = torch.cat([t.detach().flatten() for t in start.tensors]).share_memory_()
        try:
            pickle.dumps((problem.generator, problem.learner, problem.rule))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise WorkerError(
                f"worker processes need a generator and a learner that pickle can send to them: {error}; define their "
                "classes and functions at the top of a module, or use hgenv.probing.Serial()"
            ) from None
        context = torch.multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self.count, context, _start, (problem, start, self._flat))
        self._served = problem
        return self._pool


# --- In the worker --------------------------------------------------------------------------------------------------

_problem: Problem
_like: TrainingState
_flat: Tensor


def _start(problem: Problem, like: TrainingState, flat: Tensor) -> None:
    global _problem, _like, _flat  # a process of its own; the pool's initializer has no other place to leave it
    torch.set_num_threads(1)
    keep_memory()
    _problem, _like, _flat = replace(problem, threads=1), like, flat


def _probe(job: tuple[int, list[float], list[int]]) -> tuple[Outcome, dict[str, Any]]:
    step, numbers, seeds = job
    parts = _flat.split([t.numel() for t in _like.tensors])
    views = [part.view(t.shape) for part, t in zip(parts, _like.tensors, strict=True)]
    start = replace(_like.with_tensors(views), step=step)
    ledger, beta = Ledger(), torch.tensor(numbers, dtype=torch.float64)
    with ledger.phase("optimizer"):  # what this process does besides
        (outcome,) = Serial().probe(_problem, start, [beta], torch.tensor(seeds), ledger)
    return outcome, ledger.state_dict()
