"""Processes that do tasks: one that dies or hangs is replaced, and its task is done again.

Tasks are pure: done again, they give the same. They are waited for (`Pool.map`), or begun ahead of need
(`Pool.begin`) and waited for later (`Pool.collect`): the same loop either way, which a thread keeps going while
nobody waits. Processes are spawned, not forked, since neither threads nor GL contexts survive a fork. A process ends
with its parent, however that ends. This module is light, so that a process knows of that, and of signals, before it
imports what its work needs.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any, Protocol

from .clocks import free_children

logger = logging.getLogger(__name__)

TRIES = 3  # of a task, and of a start
START = 300.0  # seconds that a process has to start, at least
LOOK = 1.0  # seconds from one look after the processes to the next, at most
GRACE = 2.0  # seconds that a process has to end by itself
# The parent decides what these mean: a run that is asked to stop first ends its update. Terminals and service managers
# send them to all processes of a group.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPLACED = "workers replaced"  # in `Ledger.incidents`
LAST = 4096  # bytes of what a process wrote that are remembered
LINES = 12  # of these, that a message has

Work = Callable[[Any], Any]


class WorkerError(RuntimeError):
    """The worker processes cannot go on. The message says why, and the cure.

    Attributes:
        task: Number of the task at which processes died or hung; None if they could not start.
    """

    task: int | None = None


class LastAnswer(Exception):
    """Raised by what does the tasks: its answer, after which its process is to be replaced by a fresh one."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


@dataclass(frozen=True)
class Cures:
    """What may be done about a pool's troubles, for its messages.

    Attributes:
        pickle: What can be sent to a process, and what to do about it.
        set_up: A process cannot be set up.
        slow: The work takes longer than it may.
        dies: A process dies.
    """

    pickle: str
    set_up: str
    slow: str
    dies: str


PROBING = Cures(
    pickle="worker processes need a generator and a learner that pickle can send to them: {error}; define their "
    "classes and functions at the top of a module, or use hgenv.probing.Serial()",
    set_up="hgenv.probing.Serial() works without them",
    slow="give it more: hgenv.probing.Workers(count, timeout=...), or prober.timeout=...",
    dies="use fewer workers, or hgenv.probing.Serial()",
)


class Job:
    """A task, and what became of it.

    Attributes:
        task: Anything that pickle takes.
        done: Whether there is an answer.
        answer: What the task gave, once it is done.
        error: Why there will be none: processes died or hung at it three times.
    """

    def __init__(self, task: Any) -> None:
        self.task = task
        self.done, self.answer = False, None
        self.error: WorkerError | None = None
        self._losses, self._wanted = 0, True


class Pool:
    """Some processes, each with one task at a time. They start when there are tasks for them.

    Args:
        set_up: Called once in each process; gives what does the tasks. A function at the top of a module.
        arguments: Of `set_up`. Tensors among them are shared, not copied.
        count: How many processes.
        timeout: Seconds that a process has for a task before it is taken for dead.
        start: Seconds that it has to start, task included; None for as many, but five minutes at least.
        cures: What messages say may be done.
        alone: Whether each process is on its own with the programs that it starts: what they write to standard output
            and standard error is kept from the terminal, its end stands in messages, and they end with the process.
        main: Whether each process imports the main module of this one: needed for what is defined there. It may take
            seconds, and memory.
    """

    def __init__(
        self,
        set_up: Callable[..., Work],
        arguments: Sequence[Any],
        count: int,
        timeout: float,
        *,
        start: float | None = None,
        cures: Cures = PROBING,
        alone: bool = False,
        main: bool = True,
    ) -> None:
        self._set_up, self._arguments, self._count, self._timeout = set_up, arguments, count, timeout
        self._start = max(timeout, START) if start is None else start
        self._cures, self._alone, self._main = cures, alone, main
        self._workers: list[Worker] = []
        self._waiting = deque[Job]()
        self._failed_starts, self._worked = 0, False
        self._meanwhile = _Meanwhile()
        # At exit before multiprocessing waits for its children, which it would do for ever.
        self._at_exit = Finalize(self, _end, (self._workers, self._meanwhile), exitpriority=10)
        self._owner = os.getpid()

    @property
    def mine(self) -> bool:
        """Whether this process made the pool: not if it is a fork of that which did."""
        return self._owner == os.getpid()

    def map(
        self, tasks: Sequence[Any], note: Callable[[str], None], each: Callable[[int, Any], None] | None = None
    ) -> tuple[list[Any], float]:
        """Have all tasks done.

        Args:
            tasks: Anything that pickle takes.
            note: Told of each process that had to be replaced.
            each: Told of each answer as soon as it is there, with the number of its task.

        Returns:
            The answers, in the order of the tasks; and the seconds in which nobody was at work on any of them, as all
            processes were starting or had failed.

        Raises:
            WorkerError: A task, or the start, failed three times. All processes have ended then.
        """
        jobs = [Job(task) for task in tasks]
        idle = self.collect(jobs, note, each)
        return [job.answer for job in jobs], idle

    def begin(self, jobs: Sequence[Job]) -> None:
        """Have jobs done while this process does something else.

        They take the place of those that were begun before: of these, who has not been started is not.
        """
        self._meanwhile.stop()
        self._waiting.clear()
        self._want(jobs, only=True)
        self._go_on()

    def collect(
        self, jobs: Sequence[Job], note: Callable[[str], None], each: Callable[[int, Any], None] | None = None
    ) -> float:
        """Have jobs done that were begun, or that are new; all others wait meanwhile.

        Args:
            jobs: Different ones.
            note: As for `map`.
            each: As for `map`.

        Returns:
            The seconds in which nobody was at work on any of them, see `map`.

        Raises:
            WorkerError: As for `map`.
        """
        begun = time.monotonic()
        work: list[tuple[float, float]] = []
        try:
            self._meanwhile.stop()
            left = {job: number for number, job in enumerate(jobs)}
            self._want(jobs)
            ended: list[tuple[Job, float]] = [(job, begun) for job in jobs if job.done or job.error]
            while left:
                for job, since in ended:
                    if (number := left.pop(job, None)) is None:
                        continue
                    if job.error is not None:
                        job.error.task = number
                        raise job.error
                    work.append((max(begun, since), time.monotonic()))
                    if each is not None:
                        each(number, job.answer)
                ended = self._attend(note) if left else []
            self._go_on()
        except BaseException:
            self.close()
            raise
        return time.monotonic() - begun - _covered(work)

    def close(self) -> None:
        """End the processes: ask, wait a little, kill. What was begun is given up."""
        _end(self._workers, self._meanwhile)  # what is called at exit is called once, and there may be new ones by then
        self._waiting.clear()

    def _want(self, jobs: Sequence[Job], *, only: bool = False) -> None:
        """Have jobs wait before others, or have the others given up."""
        wanted, at_work = set(jobs), [worker.job for worker in self._workers if worker.job is not None]
        for job in at_work:
            job._wanted = job in wanted or (job._wanted and not only)
        others = [job for job in self._waiting if job not in wanted]
        self._waiting = deque(job for job in jobs if not (job.done or job.error or job in at_work))
        self._waiting += others

    def _go_on(self) -> None:
        """Have a thread attend to the processes while there is something to attend to."""
        if self._waiting or any(worker.job is not None for worker in self._workers):
            self._meanwhile.start(self._attend_alone)

    def _attend_alone(self) -> None:
        try:
            while not self._meanwhile.stopped and (self._waiting or any(w.job is not None for w in self._workers)):
                self._attend(lambda what: None)
        except WorkerError as error:  # no process can start; whoever waits for one will be told
            logger.debug("nothing is done ahead of need: %s", error)
            self._waiting.clear()
        if self._meanwhile.given_up:
            _end_all(self._workers)

    def _attend(self, note: Callable[[str], None]) -> list[tuple[Job, float]]:
        """Give tasks, and wait a moment; jobs that have ended, and since when somebody was at work on them.

        Raises:
            WorkerError: The start failed.
        """
        self._give(note)
        ended = []
        for worker, said in self._heard():
            job = worker.job
            assert job is not None
            if isinstance(said, Loss):
                job._losses += worker.ready
                ready = worker.ready
                try:
                    self._replace(worker, said, job._losses, note)
                except WorkerError as error:
                    if not ready:
                        raise
                    job.error = error
                    ended.append((job, worker.since))
                else:
                    self._waiting.extendleft([job] if job._wanted else [])
            elif isinstance(said, WorkerError):
                job.error, worker.job = said, None
                ended.append((job, worker.since))
            else:
                job.answer, job.done, worker.job = said, True, None
                ended.append((job, worker.since))
                if worker.leaves:
                    self._workers.remove(worker)
                    worker.exit(GRACE)
        return ended

    def _give(self, note: Callable[[str], None]) -> None:
        """Give each process that has nothing to do a task."""
        for worker in list(self._workers):
            if worker.job is None and worker.dead():
                self._replace(worker, Loss("ended"), 0, note)
        idle = [worker for worker in self._workers if worker.job is None]
        hired = [self._hire() for _ in range(min(self._count - len(self._workers), len(self._waiting) - len(idle)))]
        for worker, needs in hired:  # all are on their way by now
            worker.tell(needs)
        for worker in [*idle, *(worker for worker, _ in hired)][: len(self._waiting)]:
            job = worker.job = self._waiting.popleft()
            worker.left = self._timeout if worker.ready else self._start
            worker.since = time.monotonic()
            worker.tell(pickle.dumps(job.task))

    def _hire(self) -> tuple[Worker, Any]:
        """Start a process; and what it is to be sent."""
        try:
            needs = ForkingPickler.dumps((self._set_up, self._arguments))
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            raise WorkerError(self._cures.pickle.format(error=error)) from None
        try:
            self._workers.append(_Process(self._timeout, self._alone, self._main))
        except OSError as error:
            raise WorkerError(f"no worker process can be started: {error}; use fewer workers") from error
        return self._workers[-1], needs

    def _heard(self) -> Iterator[tuple[Worker, Any]]:
        """Wait a moment; then who has answered, and who is lost."""
        busy = [worker for worker in self._workers if worker.job is not None]
        handles = [handle for worker in busy for handle in worker.handles]
        before = time.monotonic()
        wait([*handles, self._meanwhile.bell], max(0, min([LOOK, *(worker.left for worker in busy)])))
        # If more time has passed, this process was stopped itself, and probably all of them were.
        passed = min(time.monotonic() - before, 2 * LOOK)
        for worker in busy:
            worker.left -= passed
            try:
                said = worker.hear()
            except Loss as loss:
                if loss.kind == "failed":
                    worker.exit(GRACE)
                    raise WorkerError(
                        f"a worker process cannot be set up: {loss}{worker.last_words()}; {self._cures.set_up}"
                    ) from None
                yield worker, loss
                continue
            if said is READY:
                worker.ready = self._worked = True
                self._failed_starts = 0
                worker.left = self._timeout
            elif said is not NOTHING:
                yield worker, said

    def _replace(self, worker: Worker, loss: Loss, times: int, note: Callable[[str], None]) -> None:
        """Let a lost process go; another will be started in its place.

        Raises:
            WorkerError: That would be of no use.
        """
        self._workers.remove(worker)
        code = worker.exit(0 if worker.left <= 0 else GRACE)
        ready = worker.job is not None and worker.ready
        words = worker.last_words()
        how = "it is lost" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        if worker.job is not None and not worker.ready:
            self._failed_starts += 1
            hopeless = not self._worked and loss.kind == "ended" and (code is None or code >= 0)
            times = TRIES if hopeless else self._failed_starts
        if times >= TRIES:
            if loss.kind == "hung":
                error = WorkerError(
                    f"a worker process gave no answer within {self._timeout:g} seconds, {times} times{words}; if the "
                    f"work takes that long, {self._cures.slow}"
                )
            elif ready and self._alone:
                error = WorkerError(
                    f"a worker process died ({how}) {times} times at one task{words}; if that was for memory, "
                    f"{self._cures.dies}"
                )
            else:
                when = f"{times} times at one task" if worker.ready else "before it could work"
                error = WorkerError(
                    f"a worker process died ({how}) {when}{words}: killed for memory ({self._cures.dies}), or never "
                    "started (what a script does with workers must stand below `if __name__ == '__main__':`)"
                )
            raise error
        what = f"died ({how})" if loss.kind == "ended" else f"gave no answer within {self._timeout:g} seconds"
        logger.warning("a worker process %s%s; another takes its place and does its task again", what, words)
        note(REPLACED)


class Loss(Exception):
    """A process that will not answer: it "ended", it "hung", or it "failed" to be set up."""

    def __init__(self, kind: str, why: str = "") -> None:
        super().__init__(why)
        self.kind = kind


NOTHING, READY = object(), object()
_main = threading.RLock()  # who has it may put another main module in the place of the program's


class Worker(Protocol):
    """What does a pool's tasks, as the pool sees it.

    Attributes:
        ready: Whether it has begun to work.
        job: What it is at; None if it has nothing to do.
        since: When it began with it.
        left: Seconds that it has for it.
        leaves: Whether it ends with the answer that it has given.
    """

    ready: bool
    job: Job | None
    since: float
    left: float
    leaves: bool

    @property
    def handles(self) -> list[Any]:
        """What there is to wait for: something that it says, or its end."""
        ...

    def tell(self, message: Any) -> None:
        """Send something; if it cannot be sent, that is found out by `hear`."""
        ...

    def hear(self) -> Any:
        """What it has to say: an answer, a `WorkerError` if its task is hopeless, `READY` or `NOTHING`.

        Raises:
            Loss: It will not say anything any more.
            WorkerError: Nor would another one in its place.
        """
        ...

    def dead(self) -> bool:
        """Whether it has ended."""
        ...

    def dismiss(self) -> None:
        """Ask it to end; what is at work is not asked."""
        ...

    def exit(self, grace: float) -> int | None:
        """Make sure that it has ended, within so many seconds by itself; its exit code, if there is one."""
        ...

    def last_words(self) -> str:
        """The end of what it wrote, for a message, once it has ended; empty if there is nothing."""
        ...


class _Process:
    """A process of this machine, see `Worker`.

    Args:
        timeout: See `Pool`; it may keep this process waiting for as long.
        alone: See `Pool`.
        main: See `Pool`.
    """

    def __init__(self, timeout: float, alone: bool, main: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        _limit_waiting(self.connection, timeout)
        self.ready, self.since, self.left, self.leaves = False, 0.0, 0.0, False
        self.job: Job | None = None
        self._words = _Words() if alone else None
        output = None if self._words is None else self._words.theirs
        self.process = context.Process(target=_serve, args=(theirs, output))
        # It inherits what is blocked, and so hears none of these before it says what they mean to it.
        resource_tracker.ensure_running()  # would unblock them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with free_children(), nullcontext() if main else _no_main():  # multiprocessing waits for whoever has ended
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            if self._words is not None:
                self._words.listen()

    @property
    def handles(self) -> list[Any]:
        """See `Worker`."""
        return [self.connection, self.process.sentinel]

    def tell(self, message: Any) -> None:
        """See `Worker`."""
        try:
            self.connection.send_bytes(message)
        except BlockingIOError:  # it keeps this process waiting
            self.left = 0
            self.kill()
        except OSError:
            pass

    def hear(self) -> Any:
        """See `Worker`.

        Raises:
            Loss: It will not say anything any more.
        """
        try:
            if self.connection.poll():
                kind, value = pickle.loads(self.connection.recv_bytes())
                if kind == "failed":
                    raise Loss("failed", value)
                if kind == "ready":
                    self.since = value
                    return READY
                self.leaves = kind == "last answer"
                return value
        except BlockingIOError:  # it stopped within a word
            self.left = 0
            raise Loss("hung") from None
        except (EOFError, OSError):
            raise Loss("ended" if self.left > 0 else "hung") from None
        if self.dead():
            raise Loss("ended")
        if self.left <= 0:
            raise Loss("hung")
        return NOTHING

    def dead(self) -> bool:
        """See `Worker`."""
        with free_children():
            return self.process.exitcode is not None

    def dismiss(self) -> None:
        """See `Worker`."""
        self.connection.close()
        if self.job is not None:
            self.kill()

    def exit(self, grace: float) -> int | None:
        """See `Worker`."""
        self.connection.close()
        wait([self.process.sentinel], grace)
        self.kill()
        with free_children():
            self.process.join(GRACE)
            return self.process.exitcode

    def kill(self) -> None:
        """End it; and the programs that it has started, if it is alone with them."""
        if self._words is not None and self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # it leads no group yet, or nobody is left
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def last_words(self) -> str:
        """See `Worker`."""
        return "" if self._words is None else self._words.said()


@contextmanager
def _no_main() -> Iterator[None]:
    """Have processes that are started inside import no main module: multiprocessing finds an empty one."""
    with _main:  # two pools may start processes at once, in two threads
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _limit_waiting(connection: Connection, seconds: float) -> None:
    """Have whoever waits in the middle of a message get a BlockingIOError after so many seconds."""
    time_value = struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setblocking(True)  # where somebody has set a default timeout
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, time_value)


class _Words:
    """The end of what a process and its programs write to standard output and standard error.

    Attributes:
        theirs: Where the process writes.
    """

    def __init__(self) -> None:
        self._own, self.theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._last = b""
        self._reader = threading.Thread(target=self._read, daemon=True)

    def listen(self) -> None:
        """Begin, once the process has its end of the pipe."""
        self.theirs.close()
        self._reader.start()

    def said(self) -> str:
        """See `Worker.last_words`."""
        self._reader.join(GRACE)
        lines = [line.strip() for line in self._last.decode(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {' / '.join(lines[-LINES:])}" if lines else ""

    def _read(self) -> None:
        with self._own, suppress(OSError):
            while some := os.read(self._own.fileno(), 2**16):
                self._last = (self._last + some)[-LAST:]


class _Meanwhile:
    """A thread that goes on with something while its process does something else, until it is told to stop.

    Attributes:
        bell: Can be read from when it is to stop: whoever waits, waits for that, too.
        stopped: Whether it is to stop.
        given_up: Whether the thread came upon the end of what it works for itself: a garbage collector may run in it.
    """

    def __init__(self) -> None:
        self.bell, self._rope = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self.stopped = self.given_up = False
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, if nothing goes on."""
        self.stopped = False
        self._thread = threading.Thread(target=work, daemon=True, name="hgenv pool")  # ends with its process
        self._thread.start()

    def stop(self) -> None:
        """Have it stop, and wait until it has; it cannot wait for itself."""
        self.stopped = True
        self.given_up = self._thread is threading.current_thread()
        if self._thread is None or self.given_up:
            return
        self._rope.send_bytes(b"stop")
        self._thread.join()
        self._thread = None
        while self.bell.poll():
            self.bell.recv_bytes()


def _end(workers: list[Worker], meanwhile: _Meanwhile) -> None:
    meanwhile.stop()
    if not meanwhile.given_up:
        _end_all(workers)


def _end_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.dismiss()
    end = time.monotonic() + GRACE
    for worker in workers:
        worker.exit(max(0, end - time.monotonic()))
    workers.clear()


def _covered(spans: list[tuple[float, float]]) -> float:
    """How long at least one of some spans of time lasted."""
    total, last = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


# --- In the process -------------------------------------------------------------------------------------------------


def _serve(connection: Connection, output: Connection | None) -> None:
    if output is not None:
        os.setpgid(0, 0)
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        output.close()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a death would take what is held back
    threading.Thread(target=_end_with_parent, args=(output is not None,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with suppress(EOFError, OSError):  # the parent has no more use for this process
        needs = connection.recv_bytes()
        try:
            set_up, arguments = pickle.loads(needs)
            work = set_up(*arguments)
        except Exception as error:
            connection.send_bytes(pickle.dumps(("failed", f"{type(error).__name__}: {error}")))
            return
        # The clock is the machine's: work that is done before the parent hears of it is no idle time.
        connection.send_bytes(pickle.dumps(("ready", time.monotonic())))
        while True:
            task = connection.recv_bytes()
            try:
                answer = _done(work, task)
            except LastAnswer as last:
                connection.send_bytes(pickle.dumps(("last answer", last.answer)))
                return
            connection.send_bytes(answer)


def _done(work: Work, task: bytes) -> bytes:
    return pickle.dumps(("answer", work(pickle.loads(task))))


def _end_with_parent(alone: bool) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A fork of the parent would keep the sentinel quiet.
    while not wait([parent.sentinel], LOOK) and os.getppid() == parent.pid:
        pass
    if alone:
        os.killpg(0, signal.SIGKILL)  # the programs that this process has started, too
    os._exit(1)
