"""The fuzz tool, on some dozens of cases of each kind, and that it finds what is wrong."""

import json
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

from hgenv.benchmarks.fuzz import driver, loaders
from hgenv.benchmarks.fuzz.__main__ import main
from hgenv.benchmarks.fuzz.case import BAD, Finding, Verdict, attempt, same
from hgenv.datasets import DataError, photos


@pytest.mark.parametrize(("target", "count"), [("loaders", 16), ("betas", 6), ("strangers", 6)])
def test_nothing_lies_hangs_or_falls_over(target: str, count: int) -> None:
    numbers = [n for n in range(10**4) if driver.TARGETS[n % len(driver.TARGETS)] == target][:count]
    found = {n: driver.try_case(7, n) for n in numbers}
    bad = {n: finding for n, finding in found.items() if finding.verdict in BAD}
    assert not bad
    assert len({finding.verdict for finding in found.values()}) > 1


def test_a_case_is_the_same_each_time() -> None:
    for number in (0, 1, 2, 3, 5):
        first, second = (driver.try_case(3, number) for _ in range(2))
        assert first.verdict is second.verdict
        # Temporary folders have names of their own.
        assert first.what.split(": ")[:2] == second.what.split(": ")[:2]


def test_the_tool_from_the_command_line() -> None:
    command = [sys.executable, "-m", "hgenv.benchmarks.fuzz", "--cases", "1", "--only", "loaders", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last.pop("cases") == sum(last.values()) == 1
    assert list(last) == [verdict.value for verdict in Verdict]
    assert done.returncode == 0
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])


def test_what_is_silently_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of masks, some photo of one's own is read otherwise."""

    def found() -> list[Finding]:
        return [loaders._own_photo(np.random.default_rng(n)) for n in range(60)]

    assert not [finding for finding in found() if finding.verdict in BAD]
    monkeypatch.setattr(photos, "as_mask", lambda numbers: numbers.astype(bool))
    assert any(finding.verdict is Verdict.WRONG and "object as" in finding.what for finding in found())


def test_verdicts() -> None:
    def fail(error: Exception) -> Finding:
        def act() -> None:
            raise error

        return attempt("case", act, ("some.npz",), lambda _: (Verdict.UNHARMED, ""))

    assert fail(DataError("some.npz: damaged")).verdict is Verdict.CLEAR
    assert fail(DataError("damaged")).verdict is Verdict.TRACEBACK  # which file?
    assert fail(KeyError("some.npz")).verdict is Verdict.TRACEBACK
    assert "KeyError" in fail(KeyError("some.npz")).what
    numpys = attempt("case", lambda: np.zeros(3).reshape(2, 2), ("size",), lambda _: (Verdict.UNHARMED, ""))
    assert numpys.verdict is Verdict.TRACEBACK  # of numpy's own words
    ours = attempt("case", lambda: photos.check_size(0), ("size",), lambda _: (Verdict.UNHARMED, ""))
    assert ours.verdict is Verdict.CLEAR
    one = {"a": np.arange(3.0)}
    assert same(one, {"a": np.arange(3.0)}) is None
    assert same(one, {"a": np.arange(3.0) + 1e-3}) == "a is off by 0.001"
    assert same(one, {"a": np.arange(4.0)}) == "a has shape (4,), not (3,)"
    assert same(one, {"b": np.arange(3.0)}) == "['a'] became ['b']"


# Forked, since a spawned process would spend its second on imports; later Pythons warn of forks beside threads.
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_processes_that_die_or_hang_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    context = driver.multiprocessing.get_context("fork")
    monkeypatch.setattr(driver.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(driver, "work", _work)
    monkeypatch.setattr(driver, "SECONDS", 1.0)
    monkeypatch.setattr(driver, "FIRST_SECONDS", 1.0)
    found = driver.run([0, 1, 2], 0, 1)
    assert [found[n].verdict for n in range(3)] == [Verdict.UNHARMED, Verdict.TRACEBACK, Verdict.HANG]
    assert "exit code 7" in found[1].what


def _work(pipe: Connection, seed: int) -> None:
    while (number := pipe.recv()) is not None:
        if number == 1:
            os._exit(7)
        if number == 2:
            time.sleep(60)
        pipe.send(Finding(Verdict.UNHARMED, ""))
