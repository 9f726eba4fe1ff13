import json
import os
import threading
from contextlib import ExitStack

import pytest

from hgenv.benchmarks import checkpoint, compare, engines, launch, lease
from hgenv.benchmarks.run import run

from .tools import quadratic


def test_comma_lists_stand_for_every_combination():
    combinations = compare.expand(["env=quadratic", "optimizer=fixed,evolution", "seed=0,1"])
    assert combinations == [
        ["env=quadratic", f"optimizer={name}", f"seed={seed}"] for name in ("fixed", "evolution") for seed in (0, 1)
    ]


def test_arguments_that_make_no_sense_are_named(tmp_path, capsys):
    for arguments, message in (
        (["--configdir", "conf"], "unknown option --configdir"),
        (["--config-dir"], "--config-dir needs a folder"),
        (["--config-dir", str(tmp_path / "nowhere")], "nowhere is no folder"),
        (["workers=many"], "workers must be a whole number"),
        (["workers=0"], "workers must be at least 1"),
        (["workers=2", "hydra/launcher=cores"], "workers=2 is for runs without a launcher"),
        (["optimizer.rule.learning_rate=0.1,0.2"], "several runs would have the folder"),
        (["optimizer=hybrid"], "hybrid_gradient"),
        (["optimizer.stride=1"], "has no setting 'stride'"),
    ):
        assert compare.main([f"root={tmp_path}", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def named(monkeypatch):
    """Is set when a run was found to be at work in another process."""
    event, add = threading.Event(), launch.Taken.add

    def noticed(self, job):
        add(self, job)
        event.set()

    monkeypatch.setattr(launch.Taken, "add", noticed)
    for module in (launch, engines):
        monkeypatch.setattr(module, "LOOK", 0.1)
    return event


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=cores"]])
def test_a_run_that_another_process_has_at_work_is_waited_for(tmp_path, capsys, named, launcher):
    folder = run(quadratic(tmp_path, updates=5))
    done = (folder / "DONE.json").read_bytes()
    (folder / "DONE.json").unlink()

    def owner():
        with lease.owned(folder):
            owns.set()
            named.wait(60)
            (folder / "DONE.json").write_bytes(done)

    owns, thread = threading.Event(), threading.Thread(target=owner)
    thread.start()
    owns.wait()
    arguments = [f"root={tmp_path}", "env=quadratic", "optimizer=fixed", "budget={amount: 5, unit: updates}"]
    assert compare.main([*arguments, *launcher]) == 0
    thread.join()
    said = capsys.readouterr()
    assert f"{folder}: process {os.getpid()} on " in said.out
    assert "is at work on this run; it is waited for\n" in said.out
    assert launcher or f"[1/1] {folder}: finished, by another process\n" in said.out
    assert (tmp_path / "default" / "report.html").is_file()
    assert not said.err
    assert not (folder / "log.txt").exists()


def test_compare_runs_what_is_missing_and_names_what_failed(tmp_path, capsys, named, monkeypatch):
    arguments = [
        f"root={tmp_path}", "env=quadratic", "optimizer=fixed,basic_random_search", "seed=0",
        "budget={amount: 5, unit: updates}", "workers=2",
    ]  # fmt: skip
    broken = tmp_path / "default" / "quadratic" / "fixed" / "seed=0"
    run(quadratic(tmp_path, updates=5))
    (broken / "DONE.json").unlink()
    (broken / "rows.jsonl").write_bytes(b"\x80 garbage \xff\n" * 9)
    assert compare.main(arguments) == 1
    said = capsys.readouterr()
    assert f"{broken} failed" in said.err
    assert "rows.jsonl: line 1 is damaged" in said.err
    assert f"EXCLUDED {broken}" in said.out
    assert (tmp_path / "default" / "quadratic" / "basic_random_search" / "seed=0" / "DONE.json").is_file()

    for path in checkpoint.find(broken):
        path.unlink()
    (broken / "rows.jsonl").unlink()
    # Another process has taken the run since it was looked at, and is gone before it has ended it.
    capsys.readouterr()
    (broken / "log.txt").unlink()
    taken = lease.taken
    monkeypatch.setattr(lease, "taken", lambda folder: taken(folder) if (broken / "log.txt").exists() else None)
    with ExitStack() as stack:
        stack.enter_context(lease.owned(broken))
        thread = threading.Thread(target=lambda: (named.wait(60), stack.close()))
        thread.start()
        assert compare.main(arguments) == 0
        thread.join()
    said = capsys.readouterr()
    assert said.out.count("nothing to do") == 1
    assert said.out.count(f"process {os.getpid()} on ") == 1
    assert "[1/1] " in said.out
    assert not said.err
    assert "at work" not in (broken / "log.txt").read_text()


@pytest.mark.parametrize("odd", [
    '{"update": 5}', "[]", '{"spent": 3}', '{"spent": {"updates": "x"}}', '{"spent": {"updates": NaN}}',
    '{"spent": {}}',
    '{"spent": {"updates": 5}, "validation": {"distance": "far"}}', '{"spent": {"updates": 1' + "0" * 400 + "}}",
])  # fmt: skip
def test_a_row_that_is_none_says_nothing_on_how_far_a_run_is(tmp_path, odd):
    settings = quadratic(tmp_path, updates=10)
    job = launch.Job([], settings)
    settings.folder.mkdir(parents=True)
    whole = {"update": 4, "spent": {"updates": 4}, "validation": {"distance": 0.5}}
    opening = json.dumps(whole | {"metrics": [{"name": "distance", "title": "distance"}]})
    rows = settings.folder / "rows.jsonl"
    rows.write_text(f"{opening}\n{odd}\n")
    job.look()
    assert (job.share, job.newest) == (0, None)
    rows.write_text(f"{opening}\n{json.dumps(whole)}\n")
    job.look()
    assert job.share == 0.4
    rows.write_text(f"{opening}\n{json.dumps(whole)}\n{odd}\n")
    job.look()
    assert job.share == 0.4
