import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hgenv import BudgetError
from hgenv.benchmarks import checkpoint, lease, records
from hgenv.benchmarks.config import Interrupted, RunError, compose
from hgenv.benchmarks.defaults import SettingError
from hgenv.benchmarks.records import RecordError
from hgenv.benchmarks.run import run
from hgenv.optimizers import Evolution, Fixed
from hgenv.optimizers.evolution import EvolutionError

from .tools import REPOSITORY, quadratic

CLOCKS = ("cpu_seconds", "gpu_seconds", "total_seconds", "wall_seconds")


def without_clocks(folder: Path):
    rows = records.read(folder).rows
    for row in rows:
        for clock in CLOCKS:
            del row["spent"][clock]
    return rows


def tree(folder: Path):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_leaves_its_rows_and_ends_with_done(tmp_path):
    folder = run(quadratic(tmp_path))
    assert folder == tmp_path / "default" / "quadratic" / "fixed" / "seed=0"
    record = records.read(folder)
    assert [row["update"] for row in record.rows] == list(range(13))
    assert all(row["within_budget"] and row["status"] == "OK" for row in record.rows)
    assert [row["spent"]["updates"] for row in record.rows] == list(range(13))
    # 4 steps of 8 samples an update; scoring, logging and the warm-up are free.
    assert [row["spent"]["samples"] for row in record.rows] == [32 * n for n in range(13)]
    assert record.rows[0]["beta"] == [0, 0, 0, 0.5]
    done = record.done
    assert done["status"] == "finished"
    assert done["final"] == record.rows[-1]
    assert {"score", "log", "checkpoint", "warm_up"} < {p for p, s in done["phases"].items() if s["wall_seconds"] > 0}
    assert done["versions"]["torch"] == torch.__version__
    # L is half the squared distance, which is the metric.
    for row in record.rows:
        assert row["loss"] == pytest.approx(row["validation"]["distance"] ** 2 / 2, rel=1e-4)


def test_on_clock_phases_are_what_the_last_row_has_spent(tmp_path):
    record = records.read(run(quadratic(tmp_path)))
    phases = [record.done["phases"][name] for name in ("generate", "train", "gradient", "validate", "optimizer")]
    spent = record.rows[-1]["spent"]["cpu_seconds"]
    # What comes after the last row, the end of the run, is off the clock but for the switches themselves.
    assert spent <= sum(p["cpu_seconds"] for p in phases) + 1e-6
    assert sum(p["cpu_seconds"] for p in phases) < spent + record.done["phases"]["log"]["cpu_seconds"]


def test_a_finished_run_is_skipped(tmp_path, capsys):
    folder = run(quadratic(tmp_path))
    before = tree(tmp_path)
    assert run(quadratic(tmp_path)) == folder
    assert tree(tmp_path) == before
    assert "nothing to do" in capsys.readouterr().out


def test_the_update_that_crosses_the_budget_does_not_count(tmp_path):
    folder = run(quadratic(tmp_path, "budget={amount: 100, unit: samples}"))  # three updates take 96
    record = records.read(folder)
    assert [row["within_budget"] for row in record.rows] == [True, True, True, True, False]
    assert record.rows[-1]["spent"]["samples"] == 128
    assert record.done["final"] == record.rows[3]


def test_a_budget_that_is_met_exactly_counts_to_the_last_update(tmp_path):
    record = records.read(run(quadratic(tmp_path, "budget={amount: 96, unit: samples}")))
    assert [row["within_budget"] for row in record.rows] == [True] * 4


def test_a_run_with_a_budget_by_price_list_is_the_same_in_one_go_or_two(tmp_path):
    """Its end is where counts times prices say, whatever the clocks do, and `prices` is a part of what it is."""
    priced = ["budget.unit=priced_seconds", "prices={sample: 0.5, flop: 0.0, gradient_flop: 0.0, update: 2.0}"]
    whole = records.read(run(quadratic(tmp_path / "whole", *priced, "budget.amount=100")))
    # An update of 32 samples costs 18: five of them 90, the sixth crosses.
    assert [row["within_budget"] for row in whole.rows] == [True] * 6 + [False]
    run(quadratic(tmp_path / "parts", *priced, "budget.amount=40"))
    parts = records.read(run(quadratic(tmp_path / "parts", *priced, "budget.amount=100")))
    assert [row["loss"] for row in parts.rows] == [row["loss"] for row in whole.rows]
    assert [row["within_budget"] for row in parts.rows] == [True] * 6 + [False]
    with pytest.raises(RecordError, match=r"budget\.prices\.sample: 0\.5, 0\.25"):
        run(quadratic(tmp_path / "parts", *priced, "prices.sample=0.25", "budget.amount=200"))
    with pytest.raises(SettingError, match=r"prices\.sample=1 would change nothing: the budget is in updates"):
        quadratic(tmp_path, "prices.sample=1")


@pytest.mark.parametrize("optimizer", ["hybrid_gradient", "evolution"])
def test_a_killed_run_resumes_and_ends_with_the_same_rows(tmp_path, optimizer):
    overrides = [
        f"root={tmp_path / 'killed'}", "env=quadratic", f"optimizer={optimizer}", "checkpoint_seconds=0.1",
        "budget={amount: 120, unit: updates}",
    ]  # fmt: skip
    folder = compose(overrides).folder
    process = subprocess.Popen([sys.executable, "-m", "hgenv.benchmarks.run", *overrides], stdout=subprocess.DEVNULL)
    try:
        rows = folder / "rows.jsonl"
        while not (rows.is_file() and rows.read_bytes().count(b"\n") > 40):
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert not (folder / "DONE.json").exists()
    with rows.open("ab") as file:
        file.write(b'{"update": 41, "half')  # a row that the kill cut in two
    run(compose(overrides))
    unbroken = run(compose([*overrides, f"root={tmp_path / 'unbroken'}"]))
    assert len(records.read(folder).rows) == 121
    assert without_clocks(folder) == without_clocks(unbroken)

    events = EventAccumulator(str(folder), {"scalars": 0}).Reload().Scalars("loss")
    assert [event.step for event in events] == list(range(121))
    # Time spent before the kill is not forgotten.
    spent = [row["spent"]["total_seconds"] for row in records.read(folder).rows]
    assert spent == sorted(spent)


def test_an_interrupted_run_makes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    settings = quadratic(tmp_path / "broken", "optimizer=basic_random_search", updates=150)
    rows = settings.folder / "rows.jsonl"

    def interrupt():
        while not (rows.is_file() and rows.read_bytes().count(b"\n") > 5):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted) as caught:
        run(settings)
    thread.join()
    written = len(records.read(rows.parent).rows)
    assert written < 151
    saved = f"interrupted after update {written - 1} (checkpoint-{written}.ckpt: {written} rows, update 0 is the first)"
    assert f"{saved}; the same command goes on from there" in str(caught.value)
    assert caught.value.status == 130
    assert checkpoint.read(checkpoint.find(rows.parent)[0])["rows"] == written
    folder = run(settings)
    unbroken = run(quadratic(tmp_path / "unbroken", "optimizer=basic_random_search", updates=150))
    assert without_clocks(folder) == without_clocks(unbroken)


def test_a_folder_of_another_configuration_is_left_alone(tmp_path):
    run(quadratic(tmp_path))
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=r"(?s)env.rule.learning_rate: 0.1, 0.2.*study=<name>"):
        run(quadratic(tmp_path, "env.rule.learning_rate=0.2"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("name", "damage"), [
    ("checkpoint-*.ckpt", lambda data: data[: len(data) // 2]),
    ("checkpoint-*.ckpt", lambda data: data[:-9] + b"?" + data[-8:]),
    ("checkpoint-*.ckpt", lambda data: b""),
    ("checkpoint-*.ckpt", None),
    ("rows.jsonl", lambda data: b""),
    ("rows.jsonl", lambda data: data.replace(b'"loss"', b'"lost"', 3)),
    ("rows.jsonl", None),
    ("config.yaml", lambda data: b"[" + data),
    ("config.yaml", None),
])  # fmt: skip
def test_damage_is_named_and_nothing_is_overwritten(tmp_path, name, damage):
    folder = run(quadratic(tmp_path))
    (folder / "DONE.json").unlink()
    for path in folder.glob(name):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=rf"{name.partition('-')[0]}[\s\S]*(delete|restore)"):
        run(quadratic(tmp_path))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["newest checkpoint", "rows"])
def test_what_is_damaged_since_the_checkpoint_before_is_made_again(tmp_path, name, caplog):
    first = run(quadratic(tmp_path / "damaged", "optimizer=evolution", updates=5))
    run(quadratic(tmp_path / "damaged", "optimizer=evolution", updates=9))
    (first / "DONE.json").unlink()
    newest, before = checkpoint.find(first)
    path = newest if name == "newest checkpoint" else first / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    run(quadratic(tmp_path / "damaged", "optimizer=evolution", updates=9))
    assert f"goes on from {before.name}" in caplog.text
    assert path.name in caplog.text
    assert "delete" not in caplog.text, "there is nothing to do"
    whole = run(quadratic(tmp_path / "whole", "optimizer=evolution", updates=9))
    assert without_clocks(first) == without_clocks(whole)


def test_a_damaged_end_is_named(tmp_path):
    folder = run(quadratic(tmp_path))
    (folder / "DONE.json").write_text('{"status": ')
    with pytest.raises(RecordError, match=r"DONE.json: damaged.*delete it"):
        run(quadratic(tmp_path))


def test_only_one_process_works_on_a_run(tmp_path):
    folder = run(quadratic(tmp_path))
    before = tree(tmp_path)
    with lease.owned(folder), pytest.raises(RecordError, match=rf"process {os.getpid()} on .* is at work"):
        run(quadratic(tmp_path, updates=20))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("optimizer", "first", "then"),
    [
        ("hybrid_gradient", "{amount: 7, unit: updates}", "{amount: 20, unit: updates}"),
        ("evolution", "{amount: 9, unit: updates}", "{amount: 20, unit: updates}"),
        ("fixed", "{amount: 100, unit: samples}", "{amount: 128, unit: samples}"),  # the row that overshot fits now
        ("fixed", "{amount: 100, unit: samples}", "{amount: 110, unit: samples}"),  # and here it still does not
    ],
)
def test_a_larger_budget_goes_on_and_ends_like_a_run_that_had_it_from_the_start(tmp_path, optimizer, first, then):
    asked = [f"optimizer={optimizer}"]
    folder = run(quadratic(tmp_path / "extended", *asked, f"budget={first}"))
    written = len(records.read(folder).rows)
    with (folder / "rows.jsonl").open() as file:
        opening = file.readline()
    assert run(quadratic(tmp_path / "extended", *asked, f"budget={then}")) == folder
    whole = run(quadratic(tmp_path / "whole", *asked, f"budget={then}"))
    assert without_clocks(folder) == without_clocks(whole)
    assert len(records.read(folder).rows) >= written
    assert (folder / "rows.jsonl").read_text().startswith(opening)  # it went on: the clocks of row 0 are the old ones
    one, other = records.read(folder), records.read(whole)
    assert one.config == other.config
    assert one.done["status"] == other.done["status"] == "finished"
    assert one.done["final"]["update"] == other.done["final"]["update"]
    assert one.done["message"] == other.done["message"]
    before = tree(tmp_path)
    run(quadratic(tmp_path / "extended", *asked, f"budget={then}"))
    assert tree(tmp_path) == before  # now it is finished


@pytest.mark.parametrize("other", ["{amount: 11, unit: updates}", "{amount: 1000, unit: samples}"])
def test_less_or_another_unit_is_refused(tmp_path, other):
    run(quadratic(tmp_path))
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=r"(?s)budget.*more of the same unit, but neither less nor another unit"):
        run(quadratic(tmp_path, f"budget={other}"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("moment", ["write_config", "load", "update"])
def test_a_run_that_is_killed_while_it_is_extended_can_be_extended_again(tmp_path, monkeypatch, moment):
    def kill(*_, **__):
        raise KeyboardInterrupt

    folder = run(quadratic(tmp_path / "killed"))
    with monkeypatch.context() as patch:
        owner = {"write_config": records, "load": checkpoint, "update": Fixed}[moment]
        patch.setattr(owner, moment, kill)
        with pytest.raises(KeyboardInterrupt):
            run(quadratic(tmp_path / "killed", updates=20))
    assert (records.read(folder).done is None) == (moment != "load")
    run(quadratic(tmp_path / "killed", updates=20))
    assert without_clocks(folder) == without_clocks(run(quadratic(tmp_path / "whole", updates=20)))
    assert records.read(folder).config["budget"]["amount"] == 20


def test_a_run_that_was_interrupted_can_be_given_more_as_well(tmp_path):
    folder = run(quadratic(tmp_path / "open"))
    (folder / "DONE.json").unlink()
    run(quadratic(tmp_path / "open", updates=15))
    assert without_clocks(folder) == without_clocks(run(quadratic(tmp_path / "whole", updates=15)))


def test_a_run_that_lost_its_checkpoint_is_not_extended_and_stays_finished(tmp_path):
    folder = run(quadratic(tmp_path))
    for path in checkpoint.find(folder):
        path.unlink()
    before = tree(tmp_path)
    with pytest.raises(RecordError, match="no checkpoint to go on from"):
        run(quadratic(tmp_path, updates=20))
    assert tree(tmp_path) == before


def test_more_budget_does_not_help_a_run_that_was_truncated_or_failed(tmp_path):
    folder = run(quadratic(tmp_path, "env.max_updates=5"))
    run(quadratic(tmp_path, "env.max_updates=5", updates=20))
    record = records.read(folder)
    assert (record.done["status"], len(record.rows)) == ("truncated", 6)
    assert "25% of the budget spent; raise env.max_updates" in record.done["message"]
    for updates in (50, 60):
        with pytest.raises(RunError, match=r"the last 3 steps failed"):
            run(quadratic(tmp_path, "study=failed", "env.rule.learning_rate=1e80", updates=updates))


@pytest.mark.parametrize(("override", "error", "message"), [
    ("budget.amount=0", BudgetError, "positive"),
    ("budget.amount=much", BudgetError, "must be a number"),
    ("env.rule.learning_rate=.inf", SettingError,
     r"env.rule.learning_rate must be a number \(infinity is written inf\), not '.inf'"),
    ("optimizer.initial=perhaps", SettingError, "initial must be null, a list of numbers, random:<n>, or the folder"),
    ("optimizer.initial=[0, 0]", RunError, "initial has 2 numbers, but beta has 4"),
    ("budget.unit=days", BudgetError, "choose one of cpu_seconds"),
    ("seed=-1", SettingError, "seed must be a whole number of at least 0, not -1"),
    ("threads=0", SettingError, "threads"),
    ("cuda_graphs=2", SettingError, "cuda_graphs must be true or false"),
    ("study=a/b", SettingError, "study"),
    ("env.id=hgenv/Cubic-v0", SettingError, "Cubic"),
    ("env.id=nowhere:Cubic-v0", SettingError, "No module named 'nowhere'"),
    ("env.batch_size=0", RunError, "batch_size"),
    ("env.colour=red", SettingError, "env hgenv/Quadratic-v0 has no setting 'colour'; it has rule, unroll_steps"),
    ("optimizer._target_=hgenv.optimizers.luck", SettingError, "cannot find .*luck.*it has.* basic_random_search"),
    ("optimizer._target_=hgenv.optimizers.SGD", RunError, "the optimizer fixed cannot be made"),
    ("optimizer.pairs=3", SettingError, "optimizer Fixed has no setting 'pairs'; it has initial"),
    ("prober.size=3", SettingError, "prober needs _target_"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, override, error, message):
    with pytest.raises(error, match=message):
        run(quadratic(tmp_path, override))
    assert not list(tmp_path.iterdir())


def test_missing_photos_are_named(tmp_path):
    with pytest.raises(RunError, match=str(tmp_path / "nowhere")):
        run(compose([f"root={tmp_path}", "env.data=mbii", f"env.data_folder={tmp_path / 'nowhere'}"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="no CUDA GPU"):
        run(compose([f"root={tmp_path}", "device=cuda"]))
    assert not list(tmp_path.iterdir())


def test_three_failed_steps_end_a_run(tmp_path):
    # A learning rate beyond stability: the weights grow by (1 - eta)^4 an update until they are infinite.
    settings = quadratic(tmp_path, "env.rule.learning_rate=1e80", updates=50)
    with pytest.raises(RunError, match=r"the last 3 steps failed.*DIVERGED"):
        run(settings)
    record = records.read(settings.folder)
    assert record.done["status"] == "failed"
    assert [row["status"] for row in record.rows[-3:]] == ["DIVERGED"] * 3
    assert record.rows[-1]["loss"] is None
    with pytest.raises(RunError, match="the last 3 steps failed"):
        run(settings)


def test_the_end_of_the_episode_ends_a_run(tmp_path):
    record = records.read(run(quadratic(tmp_path, "env.max_updates=5")))
    assert record.done["status"] == "truncated"
    assert "raise env.max_updates" in record.done["message"]
    assert len(record.rows) == 6


def test_a_method_that_fails_at_work_ends_the_run_in_words(tmp_path, monkeypatch):
    def fail(*_):
        raise EvolutionError("nevergrad's CMA failed at update 1 (TypeError); choose a plain method")

    monkeypatch.setattr(Evolution, "improve", fail)
    with pytest.raises(RunError, match=r"update 1: nevergrad's CMA failed .*; what was done until the last checkpoint"):
        run(quadratic(tmp_path, "optimizer=evolution"))


def test_the_command_line_answers_plainly(tmp_path):
    def ask(*overrides):
        command = [sys.executable, "-m", "hgenv.benchmarks.run", f"root={tmp_path / 'runs'}", *overrides]
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip

    questions = {
        "a budget must be a positive, finite amount": ask("env=quadratic", "budget.amount=0"),
        "hybrid_gradient": ask("optimizer=hybrid"),
    }
    for answer, process in questions.items():
        _, errors = process.communicate()
        assert process.returncode != 0
        assert answer in errors
        assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())
