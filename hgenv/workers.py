"""Probes side by side, in processes of their own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing
from torch import Tensor

from .accounting import Ledger
from .learning.unroll import TrainingState
from .memory import keep_memory

if TYPE_CHECKING:
    from .env import DataGenEnv, Outcome


class WorkerError(RuntimeError):
    """The worker processes cannot go on. The message says why, and the cure."""


class Workers:
    """Processes that hold a copy of an environment each, with one torch thread, and probe for it.

    Weights reach them through shared memory: one flat tensor that the environment writes and they read. Spawned, not
    forked, since neither threads nor GL contexts survive a fork.

    Args:
        env: Whose probes they take over. What it is made of must be picklable.
        count: How many processes.

    Raises:
        WorkerError: The environment cannot be sent to another process.
    """

    def __init__(self, env: DataGenEnv, count: int) -> None:
        alone = copy.copy(env)
        alone.__dict__ |= {"workers": 0, "_workers": None, "_unroll": None, "_gradients": {}, "_np_random": None}
        alone.ledger = Ledger()
        alone.render_mode = None
        self._flat = torch.cat([t.detach().flatten() for t in _tensors(env.state)]).share_memory_()
        try:
            pickle.dumps(alone.generator), pickle.dumps(alone.learner)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise WorkerError(
                f"workers={count} needs a generator and a learner that pickle can send to another process: {error}; "
                "define their classes and functions at the top of a module, or use workers=0"
            ) from None
        context = torch.multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, _start, (alone, self._flat))

    def probe(
        self, state: TrainingState, seed: int, update: int, betas: Sequence[Tensor]
    ) -> list[tuple[Outcome, dict[str, Any]]]:
        """What a step at each beta would give from `state`, and what that cost (`Ledger.state_dict`).

        Raises:
            WorkerError: A process died.
        """
        torch.cat([t.flatten() for t in _tensors(state)], out=self._flat)
        jobs = [(seed, update, state.step, beta.tolist()) for beta in betas]
        try:
            return list(self._pool.map(_probe, jobs))
        except BrokenProcessPool:
            raise WorkerError(
                "a worker process died: killed for memory (use fewer workers, or workers=0), or never started (what "
                "a script does with workers must stand below `if __name__ == '__main__':`)"
            ) from None

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()


def _tensors(state: TrainingState) -> list[Tensor]:
    return [*state.weights.values(), *state.momentum.values()]


# --- In the worker --------------------------------------------------------------------------------------------------

_env: DataGenEnv
_flat: Tensor


def _start(env: DataGenEnv, flat: Tensor) -> None:
    global _env, _flat  # a process of its own; the pool's initializer has no other place to leave it
    torch.set_num_threads(1)
    keep_memory()
    _env, _flat = env, flat


def _probe(job: tuple[int, int, int, list[float]]) -> tuple[Outcome, dict[str, Any]]:
    seed, update, step, beta = job
    _env._seed, _env.update, _env.state = seed, update, _state(step)
    _env.ledger = Ledger()
    outcome = _env.probe(torch.tensor([beta], dtype=torch.float64))[0]
    return outcome, _env.ledger.state_dict()


def _state(step: int) -> TrainingState:
    """What the shared memory holds, as views of it."""
    like, start = _env.state, 0
    parts: list[dict[str, Tensor]] = []
    for tensors in (like.weights, like.momentum):
        parts.append({})
        for name, tensor in tensors.items():
            parts[-1][name] = _flat[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
    return TrainingState(parts[0], parts[1], step)
