"""Worker processes on many machines, over Ray: `BlackBox(..., workers=RayActors(8))`.

Each actor has a process on its own machine (see `hgenv.pool`), which does what it does without Ray: it is timed,
replaced, quoted and measured there. What is left for here is to give actors their tasks, and to replace those that are
lost.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import pickle
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..pool import NOTHING, READY, START, Job, Loss, Pool, WorkerError
from .black_box_worker import CURES, processes


@dataclass(frozen=True)
class RayActors:
    """Actors of Ray, each with a process that makes samples; `pip install 'hgenv[ray]'` brings Ray.

    They start at the first sample, and end with `BlackBox.close` or with this process. Ray itself goes on. All machines
    need hgenv, and what the renderer needs.

    Attributes:
        count: How many.
        address: Of the cluster, as for `ray.init`. None for the one that RAY_ADDRESS names or this machine belongs to;
            if there is none, Ray starts on this machine. Without effect where `ray.init` was called before.
        options: What Ray sets aside for each, and whatever else actors have as options: `{"num_gpus": 0.5}`.

    Raises:
        ValueError: The count is not positive.
    """

    count: int
    address: str | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: {"num_cpus": 1})

    def __post_init__(self) -> None:
        """Check the count."""
        if self.count < 1:
            raise ValueError(f"there must be at least 1 actor, not {self.count}")

    def pool(self, render: bytes | list[str], names: list[str], memory_bytes: int, timeout: float) -> Pool:
        """The actors, as a pool of processes; see `black_box_worker.processes`."""
        return _ActorPool(self, (render, names, memory_bytes, 1, timeout))


class _ActorPool(Pool):
    def __init__(self, actors: RayActors, arguments: tuple[Any, ...]) -> None:
        # Each process has its time where it is. What takes long to start waits for its cluster's other work.
        super().__init__(_Serving, (arguments,), actors.count, math.inf, start=START, cures=CURES, alone=True)
        self._actors = actors

    def _hire(self) -> tuple[_Actor, None]:
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise WorkerError(f"RayActors need Ray: pip install 'hgenv[ray]' ({error})") from None
        try:
            if not ray.is_initialized():
                ray.init(address=self._actors.address)
            worker = _Actor(ray, self._actors.options, ray.remote(self._set_up), self._arguments)
        except Exception as error:  # Ray's own, which are many
            raise WorkerError(f"no actor of Ray can be started: {type(error).__name__}: {error}") from error
        self._workers.append(worker)
        return worker, None


class _Actor:
    """An actor, as its pool sees it; see `hgenv.pool.Worker`."""

    def __init__(self, ray: Any, options: Mapping[str, Any], serving: Any, arguments: Sequence[Any]) -> None:
        self.ready, self.since, self.left, self.leaves = False, 0.0, 0.0, False
        self.job: Job | None = None
        self._ray, self._words = ray, ""
        self._bell, self._rope = multiprocessing.Pipe(duplex=False)
        self._asked = deque[Any]()
        self._closing: Any = None
        self._actor = serving.options(**options).remote(*arguments)
        self._ask(self._actor.__ray_ready__.remote())

    @property
    def handles(self) -> list[Any]:
        """See `Worker`."""
        return [self._bell]

    def tell(self, message: Any) -> None:
        """See `Worker`."""
        if message is not None:
            self._ask(self._actor.__call__.remote(message))

    def hear(self) -> Any:
        """See `Worker`.

        Raises:
            Loss: The actor is lost.
            WorkerError: It cannot be had, or its process cannot be set up.
        """
        if not self._bell.poll():
            if self.left <= 0:
                raise WorkerError(
                    f"Ray has found no room for an actor within {START:g} seconds; see what the cluster has with "
                    "`ray status`, and ask for fewer, or for less: RayActors(count, options={'num_cpus': 1})"
                )
            return NOTHING
        self._bell.recv_bytes()
        try:
            said = self._asked.popleft().result()
        except self._ray.exceptions.RayActorError as error:
            self._words = "; Ray says: " + " ".join(str(error).split())[:1000]
            if getattr(error, "actor_init_failed", False):
                raise WorkerError(
                    f"an actor cannot be set up{self._words}; all machines of the cluster need this version of hgenv"
                ) from None
            raise Loss("ended") from None
        if not self.ready:
            self.since = time.monotonic()
            return READY
        if isinstance(said, WorkerError) and said.task is None:
            raise said
        return said

    def dead(self) -> bool:
        """Nobody knows before it is asked for something."""
        return False

    def dismiss(self) -> None:
        """See `Worker`."""
        if self.job is None and self.ready:
            with suppress(Exception):  # Ray may be gone by now, and its actors with it
                self._closing = self._actor.close.remote()

    def exit(self, grace: float) -> None:
        """See `Worker`; an actor has no exit code."""
        with suppress(Exception):
            if self._closing is not None:
                self._ray.wait([self._closing], timeout=grace)
            self._ray.kill(self._actor)
        self._bell.close()
        self._rope.close()

    def last_words(self) -> str:
        """See `Worker`."""
        return self._words

    def _ask(self, answer: Any) -> None:
        future = answer.future()
        self._asked.append(future)
        future.add_done_callback(self._ring)

    def _ring(self, future: Any) -> None:
        """Wake who waits: it waits for connections, and a future is none."""
        with suppress(OSError):  # nobody waits any more
            self._rope.send_bytes(b"!")


class _Serving:
    """What an actor is: its task is a pickled one, for a process of its own."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._pool = processes(*arguments)

    def __call__(self, task: bytes) -> Any:
        """What a task gives, or a WorkerError."""
        try:
            (answer,), _ = self._pool.map([pickle.loads(task)], lambda what: None)
        except WorkerError as error:
            return error
        return answer

    def close(self) -> None:
        """End the process, and remove its files."""
        self._pool.close()
        del self._pool
