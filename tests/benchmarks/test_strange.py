"""Folders from strangers, and a system that refuses: nothing is executed, nothing is lost, and words say what to do."""

import io
import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgenv import SGD, DataGenEnv, DecisionError
from hgenv.benchmarks import checkpoint, lease, pictures, records
from hgenv.benchmarks.config import RunError, compose
from hgenv.benchmarks.defaults import SettingError
from hgenv.benchmarks.launch import Job
from hgenv.benchmarks.records import RecordError
from hgenv.benchmarks.report import collect, pages
from hgenv.benchmarks.report.__main__ import main as report
from hgenv.benchmarks.run import run
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.generators.quadratic import QuadraticGenerator
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.optimizers import Fixed
from hgenv.tasks import Picture
from hgenv.tasks.quadratic import QuadraticTask, point_data

from .raw import change_rows, make_run
from .test_run import tree, without_clocks
from .tools import quadratic

HERE = __name__


class Meddles(Fixed):
    """Does something to its run's folder at update 3."""

    def improve(self, env: Any) -> None:
        if env.update == 3:
            self.meddle(Path(os.environ["MEDDLED"]))

    def meddle(self, folder: Path) -> None:
        raise NotImplementedError


class DeletesRows(Meddles):
    def meddle(self, folder: Path) -> None:
        (folder / "rows.jsonl").unlink()


class ReplacesRows(Meddles):
    def meddle(self, folder: Path) -> None:
        (folder / "rows.jsonl").unlink()
        (folder / "rows.jsonl").write_text("mine\n")


class DeletesFolder(Meddles):
    def meddle(self, folder: Path) -> None:
        shutil.rmtree(folder)


class TakesOver(Meddles):
    def meddle(self, folder: Path) -> None:
        other = json.loads((folder / lease.LEASE).read_text()) | {"host": "node7", "token": "theirs"}
        (folder / lease.LEASE).write_text(json.dumps(other))


def meddled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    found = quadratic(tmp_path, f"optimizer._target_={HERE}.{name}", "checkpoint_seconds=0", updates=6)
    monkeypatch.setenv("MEDDLED", str(found.folder))
    return found


# --- While it runs ---------------------------------------------------------------------------------------------------


def test_rows_that_are_deleted_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = records.read(run(meddled(tmp_path, monkeypatch, "DeletesRows")))
    assert [row["update"] for row in record.rows] == list(range(7))
    assert record.done is not None
    assert record.done["incidents"] == {"rows written again": 1}
    assert "rows.jsonl was deleted while the run was at work, and is written again" in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ReplacesRows", r"rows.jsonl: the system says: another file was put in the place of this one"),
        ("DeletesFolder", r"the system says: No such file.*put back what has vanished.*the same command goes on"),
    ],
)
def test_what_takes_a_run_its_files_ends_it_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    with pytest.raises(RunError, match=words):
        run(meddled(tmp_path, monkeypatch, name))


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE", 0.0)  # so that the run looks at every row
    found = meddled(tmp_path, monkeypatch, "TakesOver")
    with pytest.raises(RecordError, match=r"taken over by process .* on node7; this process writes nothing more"):
        run(found)
    assert len((found.folder / "rows.jsonl").read_bytes().splitlines()) == 4


def test_a_disk_that_is_full_is_an_error_and_the_same_command_goes_on_when_it_is_not(tmp_path: Path) -> None:
    """The system itself refuses: files may not grow beyond some kilobytes."""
    words = [f"root={tmp_path / 'full'}", "env=quadratic", "optimizer=evolution", "budget={amount: 40, unit: updates}"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (18_000, -1))"
    command = [sys.executable, "-c", f"{limit}; from hgenv.benchmarks.run import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the system says: File too large; raise the limit" in done.stderr
    assert "What was written is kept, and the same command goes on with it" in done.stderr
    folder = run(compose(words))
    unbroken = run(compose([*words, f"root={tmp_path / 'whole'}"]))
    assert without_clocks(folder) == without_clocks(unbroken)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="there is no folder here that takes no files from anyone")
def test_a_folder_that_takes_no_files_is_an_error_in_words() -> None:
    with pytest.raises(RunError, match=r"/sys/kernel/.*the system says: .*another root=<folder>"):
        run(compose(["root=/sys/kernel", "env=quadratic", "optimizer=fixed"]))


def test_a_metric_that_is_no_number_once_ends_neither_run_nor_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score, calls = QuadraticTask.score, []

    def odd(self: Any, output: Any, data: Any) -> dict[str, float]:
        calls.append(1)
        return {"distance": float("nan")} if len(calls) in (7, 8) else score(self, output, data)

    with monkeypatch.context() as patch:
        patch.setattr(QuadraticTask, "score", odd)
        folder = run(quadratic(tmp_path, updates=12))
    found = records.read(folder)
    assert [row["update"] for row in found.rows if row["validation"]["distance"] is None] == [3]
    assert found.done is not None
    assert found.done["incidents"] == {"validation distance not finite": 1, "test distance not finite": 1}
    assert report([str(tmp_path)]) == 0
    assert "fixed, seed 0: test distance not finite 1 time; validation" in (tmp_path / "report.md").read_text()
    change_rows(folder, lambda rows: [row["test"].update(distance=None) for row in rows[-2:]])
    assert report([str(tmp_path)]) == 0
    assert "No verdict: distance of fixed, seed 0, is no number over the last tenth" in capsys.readouterr().out


# --- Going on --------------------------------------------------------------------------------------------------------


def open_run(tmp_path: Path, *words: str) -> Path:
    folder = run(quadratic(tmp_path, *words, updates=6))
    (folder / "DONE.json").unlink()
    return folder


def test_other_photos_under_the_same_label_are_refused(tmp_path: Path) -> None:
    folder = open_run(tmp_path)
    change_rows(folder, lambda rows: rows[0]["fingerprints"].update(test="0" * 16))
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=r"the test data 'quadratic test' are not those that this run began with"):
        run(quadratic(tmp_path, updates=6))
    assert tree(tmp_path) == before


def test_another_platform_is_said_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = open_run(tmp_path)
    mine = records.read(folder).rows[-1]["platform"]

    def elsewhere(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["platform"] = "abacus"

    change_rows(folder, elsewhere)
    run(quadratic(tmp_path, updates=8))
    assert "goes on on another platform" in caplog.text
    found = records.read(folder)
    assert [row["platform"] for row in found.rows] == ["abacus"] * 7 + [mine] * 2
    assert found.done is not None
    assert found.done["incidents"] == {"resumed": 1, "resumed on another platform": 1}
    assert found.done["platforms"][mine]["torch"] == torch.__version__


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    folder, other = open_run(tmp_path), run(quadratic(tmp_path, "seed=1", updates=6))
    for path in checkpoint.find(folder):
        shutil.copy(other / path.name, path)
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=r"checkpoint-7.ckpt: belongs to another run \(seed: 1, 0\)"):
        run(quadratic(tmp_path, updates=6))
    assert tree(tmp_path) == before


def forged(folder: Path, change: Any) -> None:
    """Checkpoints with another content, and a checksum that is right."""
    for path in checkpoint.find(folder):
        kept = checkpoint.read(path)
        change(kept)
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        body = buffer.getvalue()
        head = {"format": checkpoint.FORMAT, "bytes": len(body), "sha256": sha256(body).hexdigest()}
        path.write_bytes(json.dumps(head).encode() + b"\n" + body)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("env"),
        lambda kept: kept.update(env=[]),
        lambda kept: kept["env"].pop("state"),
        lambda kept: kept["env"].update(update="three"),
        lambda kept: kept["env"]["state"]["weights"].update(w=torch.zeros(7)),
        lambda kept: kept["env"].update(ledger=None),
        lambda kept: kept.update(optimizer={"normalized": 3}),
        lambda kept: kept["optimizer"].update(random=torch.zeros(1)),
        lambda kept: kept.update(rows=3),
        lambda kept: kept.update(run=None),
        lambda kept: kept.update(run={}),
        lambda kept: kept.update(platforms={"x": 1}),
        lambda kept: kept.update(platforms={"x": {"a": torch.zeros(2)}}),
        lambda kept: kept.update(platforms={("x", "y"): {"a": "b"}}),
        lambda kept: kept["run"].update(seed=torch.zeros(2)),
        lambda kept: kept["run"].update(env=kept["run"]),
        lambda kept: kept["run"].update({("a", "b"): 1}),
        lambda kept: kept.update(rows=float(kept["rows"])),
        lambda kept: kept.update(rows=torch.zeros(kept["rows"])),
        lambda kept: kept["env"].update(update=5),
        lambda kept: kept["env"].update(update=torch.zeros(2)),
        lambda kept: kept["env"]["ledger"]["seconds"]["train"].update(wall_seconds=-9.0),
        lambda kept: kept["env"]["ledger"]["counts"].update(samples=-1),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(tmp_path: Path, change: Any) -> None:
    folder = open_run(tmp_path)
    forged(folder, change)
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=r"checkpoint-(1|7)\.ckpt"):
        run(quadratic(tmp_path, updates=6))
    assert tree(tmp_path) == before


# --- A folder from a stranger ----------------------------------------------------------------------------------------

EVIL = "import os; os.mkdir('mark')\nclass Evil: pass\n"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


def strange(root: Path, change: Any) -> Path:
    folder = make_run(root, "hybrid", 0, [40.0, 20.0])
    config = json.loads((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["env"].update(id="evil:Evil-v0"),
        lambda config: config["env"].update(generator={"_target_": "evil.Evil"}),
        lambda config: config["optimizer"].update(_target_="evil.Evil"),
        lambda config: config["where"].update(prober={"_target_": "evil.Evil"}),
        lambda config: config["env"].update(id="hgenv/ShapeNormals-v0", generator={"_target_": "hgenv.env.suppress"}),
    ],
)
def test_a_report_on_a_strangers_runs_executes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    strange(tmp_path / "runs", change)
    report(["runs"])
    assert not (tmp_path / "mark").exists()
    assert "evil" not in sys.modules


def test_nor_does_a_run_that_finds_a_strangers_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_run(tmp_path / "runs")
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("hgenv.optimizers.Fixed", "evil.Evil"))
    with pytest.raises(RecordError, match=r"optimizer._target_: evil.Evil, hgenv.optimizers.Fixed"):
        run(quadratic(tmp_path / "runs", updates=6))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "anchors and aliases are not taken"),
        ("a: !!python/object/apply:os.mkdir ['mark']", "could not determine a constructor"),
        ("[" * 2000, "damaged"),
        ("x" * (records.LARGEST + 1), "larger than"),
        ("- 1", "damaged"),
        ("", "damaged"),
        ("\0", "damaged"),
    ],
)
def test_a_config_that_is_none_is_named_in_no_time(tmp_path: Path, text: str, words: str) -> None:
    good = make_run(tmp_path, "good", 0, [40.0, 20.0])
    folder = make_run(tmp_path, "bad", 0, [40.0, 20.0])
    (folder / "config.yaml").write_text(text)
    found = collect([tmp_path])
    assert [run.source for run in found.runs] == [good]
    assert list(found.excluded) == [folder]
    assert words in found.excluded[folder]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["env"].update(data="${oc.env:HOME}"), "interpolation"),
        (lambda config: config.update(study=".."), "cannot be the name of a study"),
        (lambda config: config.update(study="a/b"), "cannot be the name of a study"),
        (lambda config: config.update(study=3), "cannot be the name of a study"),
        (lambda config: config.update(seed="0"), "the seed is '0'"),
        (lambda config: config.update(budget={"amount": "much", "unit": "updates"}), "damaged"),
        (lambda config: config["env"].update(label=["a"]), "damaged"),
    ],
)
def test_settings_that_cannot_be_are_left_out_and_named(tmp_path: Path, change: Any, words: str) -> None:
    folder = strange(tmp_path, change)
    assert words in collect([tmp_path]).excluded[folder]


ODD = st.sampled_from([
    None, True, -1, 0, 10**400, 1e308, "", "x", "<b>", [], {}, [None], {"a": 1}, [[1]], "\x1b[31m", "](http://x)",
])  # fmt: skip


@settings(max_examples=60)
@given(st.data())
def test_no_odd_row_ends_a_report(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("odd")
    good = make_run(root, "good", 0, [40.0, 20.0, 10.0])
    folder = make_run(root, "odd", 0, [40.0, 20.0, 10.0])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    row = rows[data.draw(st.integers(0, 2))]
    key = data.draw(st.sampled_from(sorted(row)))
    inner = row[key]
    if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
        where = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        inner[where] = data.draw(ODD)
    elif data.draw(st.booleans()):
        row[key] = data.draw(ODD)
    else:
        del row[key]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect([root])
    sources = [run.source for run in found.runs]
    assert good in sources
    assert (folder in sources) != (folder in found.excluded)
    for run_of in found.runs:  # what is let in is sound
        assert np.isfinite(run_of.spent["total_seconds"]).all()
        assert len(run_of.start) == 4


def test_a_line_that_is_cut_has_one_number() -> None:
    with pytest.raises(RecordError, match=r"rows.jsonl: line 1 is damaged: it is no JSON from character 12 on \("):
        list(records.parse_rows([b'{"update": '], Path("rows.jsonl")))


def test_labels_and_messages_are_never_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|`x`](http://evil)"
    folder = strange(tmp_path, lambda config: config["optimizer"].update(label=name))
    done = json.loads((folder / "DONE.json").read_text())
    done |= {"status": "failed", "message": "![x](http://evil)\n# <img src=x onerror=alert(2)>", "command": "```\n# x"}
    (folder / "DONE.json").write_text(json.dumps(done))
    assert report([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    for form in ("md", "html"):
        text = (tmp_path / "out" / f"report.{form}").read_text()
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "](http://evil" not in text or form == "html"
        assert "\n# <" not in text
    assert (tmp_path / "out" / "report.md").read_text().count("```") == 2


def test_results_of_a_bad_run_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "good", 0, [40.0, 20.0])
    bad = make_run(tmp_path, "bad", 0, [40.0, 20.0])
    (bad / "rows.jsonl").write_bytes(b"\x80 garbage \xff\n" * 3)
    assert report([str(tmp_path)]) == 1
    assert f"EXCLUDED {bad}: rows.jsonl: line 1 is damaged" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text()
    assert "## Excluded: 1" in text
    assert "rows.jsonl: line 1 is damaged" in text


# --- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("study=..", "study must be a name for a folder, not '..'"),
        ("env.label=../..", "env.label must be a name for a folder"),
        ("optimizer.label=/absolute/x", "optimizer.label must be a name for a folder"),
        ("optimizer.label=1.5", "in YAML, a name that looks like a number needs quotes"),
        ("study=true", "study must be a name for a folder"),
        ("study='a\tb'", "study must be a name for a folder"),
        ("checkpoint_seconds=nan", "checkpoint_seconds must be a finite number of at least 0"),
        ("checkpoint_seconds=inf", "checkpoint_seconds must be a finite number of at least 0"),
        ("checkpoint_seconds=-1", "checkpoint_seconds must be a finite number of at least 0"),
        ("+foo=1", "there is no setting 'foo'; there are env, optimizer, budget"),
    ],
)
def test_settings_that_would_do_harm_are_refused(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        run(quadratic(tmp_path, word))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "part"), [("study=2024", "2024"), ("optimizer.label=3", "3"), ("env.label=7", "7")])
def test_numbers_are_names_too(tmp_path: Path, word: str, part: str) -> None:
    assert part in quadratic(tmp_path, word).folder.parts


@pytest.mark.parametrize("name", ["config.yaml", "rows.jsonl", "DONE.json", "EARLIER.json", "checkpoint-99.ckpt"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = run(quadratic(tmp_path, updates=1))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert report([str(tmp_path)]) == (1 if name in ("config.yaml", "rows.jsonl", "DONE.json") else 0)
    if name == "checkpoint-99.ckpt":
        assert run(quadratic(tmp_path, updates=2)) == folder  # from the one before
    elif name != "rows.jsonl":
        words = "there are rows, but no" if name == "config.yaml" else f"{name}: it is no regular file; delete it"
        with pytest.raises((RunError, RecordError), match=words):
            run(quadratic(tmp_path, updates=1 if name == "DONE.json" else 2))
    read = {"checkpoint-99.ckpt": lambda _: checkpoint.read(folder / name), "EARLIER.json": records.earlier_endings}
    with pytest.raises((OSError, RecordError), match=rf"{name}: it is no regular file; delete it"):
        read.get(name, records.read)(folder)


def test_a_run_writes_and_a_report_reads_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    found = quadratic(tmp_path / "runs", "checkpoint_seconds=0", updates=2)
    found.folder.mkdir(parents=True)
    for name in ("rows.jsonl.part", "DONE.json.part", "config.yaml.part", "rows.jsonl", "validation.png", "log.txt"):
        (found.folder / name).symlink_to(victim)
    picture = Picture((np.zeros((1, 4, 4, 3), np.uint8),), ("image",))
    pictures.save(picture, found.folder / "validation.png")
    assert not (found.folder / "validation.png").is_symlink()
    (found.folder / "rows.jsonl").unlink()
    (found.folder / "rows.jsonl").symlink_to(tmp_path / "gone")
    run(found)
    with pytest.raises(OSError, match=r"log.txt: it is a symbolic link; delete the link"):
        Job([], found).start()
    assert victim.read_text() == "mine"
    assert not (tmp_path / "gone").exists()


def test_a_report_deletes_no_files_but_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    make_run(runs, "fixed", 0, [9, 8])
    (runs / "figures").mkdir()
    elsewhere.mkdir()
    for folder in (runs / "figures", elsewhere):
        for name in ("curves.csv", "curves.webp"):
            (folder / name).write_text("mine")
    assert report([str(runs)]) == 0
    assert sorted(path.name for path in (runs / "figures").iterdir()) == ["curves.csv", "curves.png"]
    shutil.rmtree(runs / "figures")
    (runs / "figures").symlink_to(elsewhere)
    assert report([str(runs)]) == 1
    assert "figures: is a symbolic link" in capsys.readouterr().err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["curves.csv", "curves.webp"]


def test_a_figure_of_a_study_is_not_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    groups: Any = [("quadratic", [SimpleNamespace(source=tmp_path)])]
    (tmp_path / "figures" / "gallery.png").symlink_to("/dev/zero")
    (tmp_path / "figures" / "gallery.csv").touch()
    assert pages._kept(groups, "gallery") is None
    (tmp_path / "figures" / "gallery.webp").touch()
    assert pages._kept(groups, "gallery") == tmp_path / "figures" / "gallery.webp"


# --- What a run goes on from -----------------------------------------------------------------------------------------


class TruncatesRows(Meddles):
    def meddle(self, folder: Path) -> None:
        os.truncate(folder / "rows.jsonl", 100)


@pytest.mark.parametrize("seconds", [0, 100])
def test_rows_that_were_cut_end_a_run_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    monkeypatch.setenv("MEDDLED", str(quadratic(tmp_path).folder))
    asked = [f"optimizer._target_={HERE}.TruncatesRows", f"checkpoint_seconds={seconds}"]
    with pytest.raises(RunError, match=r"rows.jsonl: was changed while the run was at work, it is \d+ bytes long inst"):
        run(quadratic(tmp_path, *asked, updates=6))
    assert not (quadratic(tmp_path).folder / "DONE.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kept: kept["env"].update(update=5), "it is of update 5, the last row of 9"),
        (lambda kept: kept["env"]["ledger"]["seconds"]["optimizer"].update(cpu_seconds=-1.0), "it has spent -"),
        (lambda kept: kept["env"]["ledger"]["counts"].update(samples=7), "has spent 7 samples, the last row 288"),
        (lambda kept: kept["env"]["ledger"]["counts"].update(flops=-1), "a whole number from 0 on"),
    ],
)
def test_a_checkpoint_that_contradicts_the_rows_is_damaged_and_the_one_before_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any, words: str
) -> None:
    folder = run(quadratic(tmp_path / "damaged", updates=5))
    run(quadratic(tmp_path / "damaged", updates=9))
    (folder / "DONE.json").unlink()
    newest, before = checkpoint.find(folder)
    kept = before.read_bytes()
    forged(folder, change)
    before.write_bytes(kept)
    run(quadratic(tmp_path / "damaged", updates=9))
    assert f"{newest}: damaged" in caplog.text
    assert words in caplog.text
    assert f"goes on from {before.name}" in caplog.text
    assert without_clocks(folder) == without_clocks(run(quadratic(tmp_path / "whole", updates=9)))


@pytest.mark.parametrize("fingerprints", [[], "x", [["test"]]])
def test_fingerprints_that_are_none_are_damage(tmp_path: Path, fingerprints: Any) -> None:
    folder = open_run(tmp_path)
    change_rows(folder, lambda rows: rows[0].update(fingerprints=fingerprints))
    with pytest.raises(RecordError, match=r"rows.jsonl: line 1 is damaged: fingerprints is no object"):
        run(quadratic(tmp_path, updates=6))


@pytest.mark.parametrize("depth", [60, 180, 600])
def test_a_config_that_is_nested_too_deep_is_damage(tmp_path: Path, depth: int) -> None:
    folder = open_run(tmp_path)
    config = folder / "config.yaml"
    text = config.read_text()
    assert "device: auto" in text
    config.write_text(text.replace("device: auto", f"device: {'[' * depth}{']' * depth}"))
    with pytest.raises(RecordError, match=r"config.yaml: damaged"):
        run(quadratic(tmp_path, updates=9))


def test_platforms_of_an_end_that_are_none_are_damage(tmp_path: Path) -> None:
    folder = run(quadratic(tmp_path))
    done = json.loads((folder / "DONE.json").read_text())
    (folder / "DONE.json").write_text(json.dumps(done | {"platforms": {"x": 3}}))
    with pytest.raises(RecordError, match=r"DONE.json: damaged \(a platform is no object\)"):
        run(quadratic(tmp_path))


# --- What an environment is given -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_a_rollout_cannot_take_is_named() -> None:
    env = QuadraticEnv()
    env.reset(seed=0)
    beta, n = env.space.initial, env.problem.num_samples
    nested: Any = torch.nested.nested_tensor([beta, beta])
    odd: Any = [1]
    for betas in (nested, torch.tensor(0.5), odd):
        with pytest.raises(DecisionError, match="betas must be a tensor"):
            env.rollout(betas)
        with pytest.raises(DecisionError, match="betas must be a tensor"):
            env.probe(betas)
    for seeds in (odd, nested, torch.zeros(n + 1)):
        with pytest.raises(ValueError, match=rf"seeds must be \({n},\), one for each sample of a step, not "):
            env.rollout(beta, seeds=seeds)
    odd = 5
    with pytest.raises(TypeError, match="start must be a state of training, such as a rollout's `end`, not int"):
        env.rollout(beta, start=odd)
    assert env.rollout(beta, start=env.state, seeds=env.sample_seeds(n)).outcome.ok


@pytest.mark.parametrize("name", ["Quadratic", "ShapeNormals"])
def test_an_environment_made_on_no_device_is_refused_in_words(name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="where torch's default device is the CPU"):
        gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True)
    data = point_data((0.0, 0.0, 0.0), "points")
    with torch.device("meta"):
        nothing = point_data((0.0, 0.0, 0.0), "none")
    with pytest.raises(ValueError, match="on 'meta' there are no data"):
        DataGenEnv(QuadraticGenerator(), QuadraticLearner(), data, nothing, rule=SGD(0.1), device="cpu")
