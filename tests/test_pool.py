"""Processes that die, hang or lose their parent: nothing is lost, nothing hangs, nobody is left, nobody pays."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hgenv.accounting import Ledger
from hgenv.pool import REPLACED, Job, Pool, WorkerError

from . import chores

SQUARES = [("square", n) for n in range(7)]
TIMEOUT = 3.0


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    before = children()
    yield
    gc.collect()
    assert children() == before


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def answers(pool: Pool, tasks: list[tuple[str, int]], notes: list[str] | None = None) -> list[int]:
    found, _ = pool.map(tasks, [].append if notes is None else notes.append)
    return [number for _, number in found]


def test_whoever_dies_or_stops_is_replaced_and_the_task_done_again(tmp_path: Path) -> None:
    pool, notes = Pool(chores.set_up, (str(tmp_path),), 2, TIMEOUT), list[str]()
    assert pool.map([], notes.append)[0] == []
    assert children() == set(), "processes start when there is something to do"
    first = pool.map(SQUARES, notes.append)[0]
    assert [number for _, number in first] == [n**2 for n in range(7)]
    assert {process for process, _ in first} == children()
    assert len(children()) == 2
    tasks = [*SQUARES[:3], ("die once", 3), ("stop once", 4), ("leave once", 5), *SQUARES[6:]]
    assert answers(pool, tasks, notes) == [n**2 for n in range(7)]
    assert notes == 3 * [REPLACED]
    for process in children():  # who ends while nobody asks
        os.kill(process, signal.SIGKILL)
    assert answers(pool, SQUARES[:1], notes) == [0]
    assert notes[3:] == 2 * [REPLACED] or notes[3:] == [REPLACED]
    pool.close()
    pool.close()


@pytest.mark.parametrize(
    ("chore", "message"),
    [
        ("die", r"died \(killed by SIGKILL\) 3 times at one task: killed for memory \(use fewer workers"),
        ("stop", r"no answer within 0.2 seconds, 3 times; .* hgenv.probing.Workers\(count, timeout=...\)"),
    ],
)
def test_three_times_are_enough(chore: str, message: str, tmp_path: Path) -> None:
    pool, notes = Pool(chores.set_up, (str(tmp_path),), 1, 0.2), list[str]()
    with pytest.raises(WorkerError, match=message):
        answers(pool, [(chore, 0)], notes)
    assert notes == 2 * [REPLACED], "the third is not replaced"
    assert children() == set()


def test_who_cannot_start_says_why_at_once(tmp_path: Path) -> None:
    notes: list[str] = []
    with pytest.raises(WorkerError, match="cannot be set up: ImportError: there is no such renderer here"):
        answers(Pool(chores.fails, (str(tmp_path),), 1, TIMEOUT), SQUARES, notes)
    with pytest.raises(
        WorkerError, match=r"pickle can send to them: .*; define their classes and functions at the top"
    ):
        answers(Pool(lambda: None, (), 1, TIMEOUT), SQUARES, notes)  # type: ignore[arg-type, return-value]
    assert notes == []


def test_a_script_without_a_guard_is_told_so_and_does_not_loop(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from hgenv.pool import Pool\nimport math\nPool(math.sqrt, (4,), 2, 60).map([1, 2], print)\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "a worker process died (exit code 1) before it could work" in last
    assert "must stand below `if __name__ == '__main__':`" in last
    assert ended.stderr.count("An attempt has been made to start a new process") <= 2
    assert REPLACED not in ended.stdout


def test_whoever_is_killed_is_not_paid_for_twice(tmp_path: Path) -> None:
    ledger, begun = Ledger(), time.process_time()
    with ledger.phase("train"):
        pool = Pool(chores.set_up, (str(tmp_path),), 1, 60)
        assert answers(pool, [("burn", 0)]) == [0]
        for process in children():
            os.kill(process, signal.SIGKILL)
        assert answers(pool, [("square", 3)]) == [9]
        pool.close()
    here = time.process_time() - begun
    charged = sum(phase["cpu_seconds"] for phase in ledger.by_phase().values())
    assert charged == pytest.approx(here, abs=0.1), (
        "it burnt half a second, and that is reported by whoever asked for it"
    )
    before = ledger.spent("cpu_seconds")
    with ledger.phase("train"):
        subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.3: pass"], check=True)
    assert ledger.spent("cpu_seconds") - before > 0.3, "other programs are charged for as ever"


def test_time_in_which_nobody_works_is_told(tmp_path: Path) -> None:
    pool = Pool(chores.set_up, (str(tmp_path),), 1, 2 * TIMEOUT)
    begun = time.monotonic()
    _, idle = pool.map([("burn", 0)], print)
    assert time.monotonic() - begun - idle >= 0.5, "somebody was at work then"
    ledger = Ledger()
    with ledger.phase("train"):
        _, idle = pool.map([("stop once", 0), ("square", 1)], print)
        ledger.excuse(idle)
    assert idle > 2 * TIMEOUT, "what was waited for in vain, and another start"
    assert ledger.spent("wall_seconds") < TIMEOUT
    assert ledger.by_phase()["outside"]["wall_seconds"] >= idle
    pool.close()


def test_what_is_begun_is_done_while_nobody_waits(tmp_path: Path) -> None:
    """And who dies meanwhile is replaced; what came first is waited for first; the rest goes on afterwards."""
    pool = Pool(chores.set_up, (str(tmp_path),), 2, TIMEOUT)
    begun = [Job(task) for task in [*SQUARES[:3], ("die once", 3), *SQUARES[4:]]]
    pool.begin(begun)
    wait_for(lambda: all(job.done for job in begun))
    for process in children():
        os.kill(process, signal.SIGSTOP)  # nobody can do anything any more
    found = dict[int, int]()
    wanted = [begun[3], *begun[:2]]
    idle = pool.collect(wanted, print, lambda number, answer: found.update({number: answer[1]}))
    assert found == {0: 9, 1: 0, 2: 1}
    assert idle < TIMEOUT
    for process in children():
        os.kill(process, signal.SIGCONT)

    later, now = [Job(("square", n)) for n in range(20, 24)], [Job(("square", n)) for n in range(5)]
    pool.begin(later)
    pool.collect([*now, later[0]], print)
    assert [job.answer[1] for job in now] == [0, 1, 4, 9, 16]
    wait_for(lambda: all(job.done for job in later))
    pool.close()


def test_what_is_begun_can_be_given_up(tmp_path: Path) -> None:
    pool = Pool(chores.set_up, (str(tmp_path),), 1, TIMEOUT)
    first, second = [Job(("square", n)) for n in range(3)], [Job(("square", n)) for n in range(5, 8)]
    pool.begin([Job(("sleep", 0)), *first])
    wait_for((tmp_path / "sleep 0").exists)
    pool.begin(second)
    pool.begin([])
    assert answers(pool, SQUARES[:2]) == [0, 1], "after who was at work has been taken for dead"
    assert not any(job.done for job in first + second)
    pool.begin([Job(("sleep", 1))])
    wait_for((tmp_path / "sleep 1").exists)
    pool.close()
    assert children() == set()
    pool.collect(first, print)
    assert [job.answer[1] for job in first] == [0, 1, 4], "what was given up can still be had"
    pool.close()


def test_errors_are_told_to_whoever_asks(tmp_path: Path) -> None:
    pool = Pool(chores.set_up, (str(tmp_path),), 1, TIMEOUT)
    begun = [Job(("square", 0)), Job(("die", 1)), Job(("square", 2))]
    pool.begin(begun)
    wait_for(lambda: begun[2].done)
    pool.collect([begun[0], begun[2]], print)
    with pytest.raises(WorkerError, match="3 times at one task") as told:
        pool.collect([begun[0], begun[1]], print)
    assert told.value.task == 1
    assert children() == set()
    for set_up in (chores.fails, lambda: None):
        broken, job = Pool(set_up, (str(tmp_path),), 1, TIMEOUT), Job(("square", 3))  # type: ignore[arg-type]
        broken.begin([job])
        with pytest.raises(WorkerError, match=r"cannot be set up|pickle can send"):
            broken.collect([job], print)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_processes_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    """In the middle of a task, and while they start."""
    with parent(tmp_path, "sleep", "burn once") as at_work, parent(tmp_path, "sleep") as starting:
        wait_for((tmp_path / "sleep 0").exists)
        wait_for(lambda: len(descendants(starting)) == 1)
        families = descendants(at_work) | descendants(starting)
        assert len(families) == 3
        for process in (at_work, starting):
            process.kill()
        wait_for(lambda: not any(map(alive, families)))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", ["returns", "raises", "is interrupted", "forgets"])
def test_what_is_begun_keeps_nobody(ending: str, tmp_path: Path) -> None:
    """A process that ends while others are at work for it ends, and they with it."""
    with parent(tmp_path, "ahead", ending, start_new_session=True) as process:
        wait_for((tmp_path / "sleep 0").exists)
        family = descendants(process)
        assert len(family) == 1
        if ending == "is interrupted":
            os.killpg(process.pid, signal.SIGINT)
        else:
            (tmp_path / "go on").touch()
        _, said = process.communicate(timeout=30)
        code = {"returns": 0, "raises": 1, "is interrupted": -signal.SIGINT, "forgets": 0}[ending]
        assert process.returncode == code, said
        assert said.count("Traceback") == (code != 0)
        wait_for(lambda: not any(map(alive, family)))


def test_a_terminals_interrupt_is_the_parents_business(tmp_path: Path) -> None:
    """Nobody but the parent says anything, from the start of a process on."""
    with parent(tmp_path, "sleep", start_new_session=True) as process:
        wait_for(lambda: len(descendants(process)) == 1)
        family = descendants(process)
        for child in family:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(child, number)
        wait_for((tmp_path / "sleep 0").exists)
        assert all(map(alive, family))
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1
        assert process.returncode == -signal.SIGINT
        wait_for(lambda: not any(map(alive, family)))


@contextmanager
def parent(folder: Path, *given: str, start_new_session: bool = False) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", chores.__name__, str(folder), *given]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=start_new_session)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def descendants(process: subprocess.Popen[str]) -> set[int]:
    """Worker processes of a process, not multiprocessing's own helper."""
    found = set()
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    for child in " ".join(thread.read_text() for thread in threads).split():
        with suppress(FileNotFoundError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "that takes too long"
        time.sleep(0.02)
