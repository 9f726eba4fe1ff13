import csv
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hgenv.benchmarks import config, records, studies
from hgenv.benchmarks.records import RecordError
from hgenv.benchmarks.report.pages import section
from hgenv.benchmarks.studies import Run

from .raw import change_rows, make_run
from .tools import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
COMMITTED = sorted(path.parent for path in RESULTS.glob("*/runs.csv"))


def raw_run(folder: Path) -> Run:
    return studies.from_record(records.read(folder))


def ragged_run(root: Path, name: str, seed: int, *, updates: int = 60) -> Path:
    """A run with every kind of number that rows can hold."""
    rng = np.random.default_rng(seed)
    folder = make_run(root, name, seed, [1.0] * updates, amount=2.0 * updates, overshoot=True)

    def number(scale: float, digits: int = 6) -> float:
        return float(f"{rng.standard_normal() * 10.0 ** rng.integers(-7, 7) * scale:.{digits}g}")

    def ragged(rows):
        for row in rows:
            for data in ("validation", "test"):
                row[data] = {key: abs(number(1.0)) for key in row[data]}
            row["loss"] = float(np.float32(number(1.0)))
            row["beta"] = [float(f"{rng.uniform(-8, 8):.7g}") for _ in row["beta"]]
            row["recommendation"] = row["beta"] if rng.random() < 0.5 else [0.1234567, -7.654321, 1e-7, 0.0]
            row["spent"]["wall_seconds"] = round(3.0 * row["update"] + rng.random(), 6)
        rows[7] |= {"status": "DIVERGED", "message": 'weights, "NaN";\nü', "loss": None}

    change_rows(folder, ragged)
    return folder


def flat(columns):
    """Columns in one dictionary, however deep."""
    found = {}
    for name, value in columns.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found |= {(name, key): column for key, column in inner.items()}
    return found


def assert_equal(one: Run, other: Run) -> None:
    for field in dataclasses.fields(Run):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "source":
            continue
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
            assert a.dtype.kind == b.dtype.kind
        elif field.name in ("spent", "metrics"):
            a, b = flat(a), flat(b)
            assert set(a) == set(b)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))
        else:
            assert a == b, field.name


def test_what_is_written_is_what_is_read(tmp_path):
    runs = [raw_run(ragged_run(tmp_path / "raw", name, seed)) for name in ("one", "two") for seed in (0, 1)]
    runs.append(raw_run(make_run(tmp_path / "raw", "short", 0, [40.0, 20.0])))
    studies.write(tmp_path / "study", runs)
    back = studies.read(tmp_path / "study")
    assert [run.key for run in back] == [run.key for run in runs]
    for one, other in zip(runs, back, strict=True):
        assert_equal(one, other)


def test_what_a_user_meets_says_in_a_line_what_it_is(tmp_path):
    folder = make_run(tmp_path, "one", 3, [40.0, 20.0, 10.0])
    words = f"'{folder}': quadratic, one, seed 3, 3 rows, finished)"
    assert repr(records.read(folder)) == f"Record({words}"
    assert repr(raw_run(folder)) == f"Run({words}"
    assert repr(raw_run(make_run(tmp_path, "two", 0, [40.0], done=False))).endswith("seed 0, 1 row, not ended)")
    settings = config.compose(["root=r", "env=quadratic", "optimizer=fixed", "seed=2", "budget.amount=9"])
    assert repr(settings) == "Settings('r/default/quadratic/fixed/seed=2': 9 total_seconds)"


def test_numbers_are_those_of_the_rows(tmp_path):
    """To the last of the digits that rows.jsonl has."""
    folder = ragged_run(tmp_path / "raw", "one", 3)
    rows = records.read(folder).rows
    studies.write(tmp_path / "study", [raw_run(folder)])
    (run,) = studies.read(tmp_path / "study")
    last = len(rows) - 2  # the last overshoots
    assert run.last == last
    assert list(run.metrics["test"]["mean_degrees"]) == [row["test"]["mean_degrees"] for row in rows]
    for name in rows[0]["validation"]:
        assert run.metrics["validation"][name][last] == rows[last]["validation"][name]
    assert list(run.recommended) == rows[last]["recommendation"]
    assert list(run.start) == rows[0]["beta"]
    np.testing.assert_allclose(run.beta[1], rows[10]["beta"], rtol=1e-7)
    assert list(run.spent["flops"]) == [row["spent"]["flops"] for row in rows]
    assert np.isnan(run.loss[7])
    assert run.message[7] == rows[7]["message"]
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    assert list(run.loss[~np.isnan(run.loss)]) == losses
    assert run.best == int(np.argmin([row["validation"]["mean_degrees"] for row in rows[:-1]]))


def test_what_is_thinned_is_what_no_table_needs(tmp_path):
    run = raw_run(ragged_run(tmp_path, "one", 3))
    other, single = run.metrics["test"]["median_degrees"], run.metrics["test"]["mean_degrees/pear"]
    full = {*range(0, 60, 10), run.best, *run.last_tenth.tolist()}
    assert set(np.flatnonzero(~np.isnan(other))) == full
    assert list(np.flatnonzero(~np.isnan(single))) == run.last_tenth.tolist() == [54, 55, 56, 57, 58]
    assert run.moments.tolist() == [0, 10, 20, 30, 40, 50, 58]


def test_a_moment_just_before_the_last_tenth_stays_before_it(tmp_path):
    folder = make_run(tmp_path, "one", 0, [3.0] * 11, amount=20.0)

    def early(rows):
        rows[9]["spent"] |= {"cpu_seconds": 17.999999, "total_seconds": 17.999999}  # 18 s is where it begins

    change_rows(folder, early)
    assert raw_run(folder).last_tenth.tolist() == [10]


def test_runs_csv_says_what_rows_parquet_says(tmp_path):
    folder = make_run(tmp_path / "raw", "one", 4, [40.0, 10.0, 20.0, 5.0], overshoot=True)
    studies.write(tmp_path / "study", [raw_run(folder)])
    with (tmp_path / "study" / "runs.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["environment"], line["optimizer"], line["seed"], line["schema"]) == ("quadratic", "one", "4", "3")
    assert (line["update"], line["validation/mean_degrees"], line["test/median_degrees"]) == ("2", "21", "21")
    assert (line["best update"], line["best validation/mean_degrees"], line["best test/mean_degrees"]) == (
        "1",
        "11",
        "10",
    )
    assert (line["total_seconds"], line["wall_seconds"], line["samples"]) == ("4.000", "6.000", "14")
    assert float(line["generate_seconds"]) == 1.5  # CPU and GPU
    assert json.loads(line["settings"]) == records.read_config(folder)
    assert (line["commit"], line["command"], json.loads(line["hardware"])) == ("abc", "run seed=4", {"cpu": "abacus"})


def test_other_programs_can_read_the_rows(tmp_path):
    runs = [raw_run(make_run(tmp_path / "raw", name, 0, [40.0, 10.0])) for name in ("one", "two")]
    studies.write(tmp_path / "study", runs)
    table = pq.read_table(tmp_path / "study" / "rows.parquet").to_pydict()
    assert table["optimizer"] == ["one", "one", "two", "two"]
    assert table["update"] == [0, 1, 0, 1]
    assert table["test/mean_degrees"] == [40, 10, 40, 10]
    assert table["cpu_ms"] == [0, 2000, 0, 2000]
    assert table["recommendation"][3] == pytest.approx([0.1, 0, 0, 0.5])
    assert table["beta"][:2] == [None, [0, 0, 0, 0.5]]  # where it is not what was recommended


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    runs = [raw_run(make_run(tmp_path / "raw", "one", 0, [40.0, 20.0]))]
    studies.write(tmp_path / "study", runs)
    before = {path.name: path.read_bytes() for path in (tmp_path / "study").iterdir()}
    other = [raw_run(make_run(tmp_path / "other", "one", 0, [40.0, 10.0]))]

    synced, calls = os.fsync, []

    def full(descriptor):  # at the second file
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError("no space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        studies.write(tmp_path / "study", other)
    assert {path.name: path.read_bytes() for path in (tmp_path / "study").iterdir()} == before
    (run,) = studies.read(tmp_path / "study")
    assert run.metrics["test"]["mean_degrees"][-1] == 20


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda study: (study / "rows.parquet").unlink(), r"rows.parquet: there is no such file"),
        (lambda study: cut(study / "rows.parquet"), r"rows.parquet: damaged"),
        (lambda study: cut(study / "runs.csv"), r"runs.csv: damaged"),
        (lambda study: replace(study / "runs.csv", "settings", "sittings"), r"runs.csv: damaged"),
        (
            lambda study: replace(study / "runs.csv", '""study"":""study""', '""study"":""..""'),
            r"runs.csv: damaged.*'..'",
        ),
        (lambda study: replace(study / "runs.csv", "quadratic,one,1", "quadratic,one,2"), r"rows.parquet: holds other"),
        (lambda study: replace(study / "runs.csv", '""seed"":1', '""seed"":2'), r"rows.parquet: damaged.*are of"),
    ],
)
def test_damage_is_named_with_its_cure(tmp_path, damage, message):
    study = tmp_path / "results" / "study"
    studies.write(study, [raw_run(make_run(tmp_path / "raw", "one", seed, [40.0, 20.0])) for seed in (0, 1)])
    damage(study)
    with pytest.raises(RecordError, match=message) as caught:
        studies.read(study)
    assert str(study) in str(caught.value)
    assert "git checkout" in str(caught.value)
    assert f"(hgenv report runs/study --results {study.parent})" in str(caught.value)


def test_a_later_format_is_named(tmp_path, monkeypatch):
    runs = [raw_run(make_run(tmp_path / "raw", "one", 0, [40.0, 20.0]))]
    monkeypatch.setattr(studies, "FORMAT", 99)
    studies.write(tmp_path / "study", runs)
    monkeypatch.undo()
    with pytest.raises(RecordError, match="is of format 99, this code reads 1"):
        studies.read(tmp_path / "study")


def test_rows_without_metrics_are_no_run_to_report_on(tmp_path):
    folder = make_run(tmp_path, "one", 0, [40.0, 20.0])
    change_rows(folder, lambda rows: rows[0].pop("metrics"))
    with pytest.raises(RecordError, match=r"rows.jsonl: line 1 is damaged: there is no 'metrics'"):
        raw_run(folder)


def test_estimates_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    estimates = [
        {
            "environment": f"env {k % 2}", "estimator": "credit, é", "draw": k, "seconds": round(rng.random() * 9, 4),
            "gradient": [float(f"{x:.6g}") for x in rng.standard_normal(3 + k % 2) * 10.0 ** rng.integers(-9, 9)],
        }
        for k in range(20)
    ]  # fmt: skip
    facts = {"env 0": {"groups": {"all": [0, 1, 2]}}, "env 1": {}}
    studies.write_estimates(tmp_path / "study", estimates, facts)
    assert studies.read_estimates(tmp_path / "study") == (estimates, facts)
    cut(tmp_path / "study" / "rows.parquet")
    with pytest.raises(RecordError, match=r"rows.parquet: damaged"):
        studies.read_estimates(tmp_path / "study")


# --- What is committed ------------------------------------------------------------------------------------------------


def test_all_studies_are_found():
    assert [path.name for path in COMMITTED] == ["faces", "held", "large_network", "mbii", "settle"]


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_a_committed_study_makes_its_report_again(folder):
    """Every table of it, letter by letter."""
    text = (folder / "report.md").read_text()
    runs = sorted(studies.read(folder), key=lambda run: run.key)
    tables = 0
    for label in dict.fromkeys(run.environment for run in runs):
        part = section(label, [run for run in runs if run.environment == label])
        first, own = text[text.index(f"## {label}\n") :], text[text.index(f"## All tables, {label}\n") :]
        assert first.startswith(f"## {label}\n\n{part.verdict}\n")
        assert part.main.markdown() in first[: first.index("](figures/curves.png)")]
        for table in (part.results, part.best, part.baseline, part.objects, part.phases, part.beta):
            if table is not None:
                assert table.markdown() in own
                tables += 1
        assert all(f"- {note}\n" in first for note in part.notes)
    assert text.count("|---") >= tables > 4
    assert set(re.findall(r"figures/[a-z.]+", text)) == {
        f"figures/{path.name}" for path in (folder / "figures").iterdir()
    }


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_a_committed_run_can_be_made_again(folder):
    """Its settings are complete, and known today."""
    for run in studies.read(folder):
        identity = {name: run.config[name] for name in config.IDENTITY}
        assert run.config["schema"] == records.SCHEMA
        assert config.differences(identity, config.complete(identity)) == []
        assert run.study == folder.name
        assert run.end.status == "finished"
        assert re.fullmatch("[0-9a-f]{40}", run.end.commit)


@pytest.mark.parametrize(
    "command",
    [
        "experiment=mbii env=shapes_lit env.input=shading optimizer=hybrid_gradient seed=4",
        "experiment=mbii env=shapes_lab env.input=diffuse optimizer=evolution seed=3",
        "experiment=mbii study=large_network env=shapes_lit env.input=shading network=large network.size=64 "
        "budget.amount=600 seed=2 optimizer=credit_gradient",
        "experiment=faces seed=1 optimizer=random_beta",
        "experiment=faces seed=0 optimizer=credit_gradient optimizer.period=1 optimizer.estimator.clip_pairs=true",
        "experiment=faces seed=0 optimizer=hybrid_gradient optimizer.estimator.directions=gaussian "
        "optimizer.estimator.num_directions=2 optimizer.estimator.last_steps=null optimizer.estimator.curvature=true "
        "optimizer.rule.learning_rate=0.01",
        "experiment=faces seed=0 optimizer=basic_random_search optimizer.estimator.sigma=0.1 "
        "optimizer.rule.learning_rate=0.03",
    ],
)
def test_the_commands_that_are_named_make_the_committed_runs(command):
    """Those of benchmarks/results/README.md, one of a kind."""
    wanted = config.compose(command.split()).identity
    key = (records.environment_label(wanted), wanted["optimizer"]["label"], wanted["seed"])
    (run,) = [run for run in studies.read(RESULTS / wanted["study"]) if run.key == key]
    assert config.differences({name: run.config[name] for name in config.IDENTITY}, wanted) == []


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_the_lines_of_a_committed_study_agree_with_its_rows(folder, tmp_path):
    studies.write(tmp_path, studies.read(folder))
    assert (tmp_path / "runs.csv").read_text() == (folder / "runs.csv").read_text()


def test_committed_estimates_can_be_read():
    estimates, facts = studies.read_estimates(RESULTS / "ablation")
    assert {e["environment"] for e in estimates} == set(facts)
    text = (RESULTS / "ablation" / "report.md").read_text()
    for name, fact in facts.items():
        own = [e for e in estimates if e["environment"] == name]
        assert all(len(e["gradient"]) == len(fact["groups"]["all"]) for e in own)
        kinds = {e["estimator"] for e in own} - {"reference"}
        assert {sum(e["estimator"] == kind for e in own) for kind in kinds} == {fact["draws"]}
        assert sum(e["estimator"] == "reference" for e in own) == fact["references"]
        assert all(f"| {kind} |" in text for kind in kinds)
        assert fact["command"] in text


def test_results_are_small_and_hold_no_raw_rows():
    """Whatever is committed here stays in the history of every clone."""
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert all(path.stat().st_size <= 2**20 for path in files)
    assert sum(path.stat().st_size for path in files) < 8 * 2**20
    figures = [path for path in files if path.suffix in (".png", ".webp")]
    assert all(path.parent.name == "figures" and path.stat().st_size < 300 * 1024 for path in figures)
    for folder in {path.parent for path in figures}:
        assert len(list(folder.iterdir())) <= 3
    assert {path.suffix for path in files} <= {".csv", ".md", ".parquet", ".png", ".webp", ".txt"}
