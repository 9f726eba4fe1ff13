import base64
import gzip
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from benchmarks import pictures, records, report
from benchmarks.records import RecordError

# 97.5 % points of Student's t for 1 and 2 degrees of freedom, from printed tables.
T = {2: 12.706, 3: 4.303}

METRICS = ("within_11.25", "within_22.5", "within_30", "mean_degrees", "median_degrees", "mse_radians2")


def make_run(root: Path, optimizer: str, seed: int, errors, *, done=True, amount=10.0, overshoot=False) -> Path:
    """A run that spends 2 s an update, with given mean test errors; validation is 1 degree worse."""
    folder = root / "study" / "quadratic" / optimizer / f"seed={seed}"
    folder.mkdir(parents=True)
    config = {
        "study": "study",
        "seed": seed,
        "env": {"id": "hgenv/Quadratic-v0", "label": "quadratic"},
        "optimizer": {"id": optimizer, "label": optimizer},
        "budget": {"amount": amount, "unit": "total_seconds"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    rows = []
    for update, error in enumerate(errors):
        test = {name: error + k for k, name in enumerate(METRICS)} | {"mean_degrees/pear": 1.0}
        test["mean_degrees"], test["mse_radians2"] = error, error / 100
        spent = {"cpu_seconds": 2.0 * update, "gpu_seconds": 0.0, "total_seconds": 2.0 * update}
        rows.append({
            "update": update, "status": "OK", "message": "", "loss": 0.1, "beta": [0.0, 0.0, 0.0, 0.5],
            "recommendation": [0.1 * update, 0.0, float(seed), 0.5], "spent": spent,
            "within_budget": not (overshoot and update == len(errors) - 1),
            "validation": {**test, "mean_degrees": error + 1}, "test": test,
        })  # fmt: skip
    rows[0] |= {
        "data": {"validation": "stand-in validation", "test": "stand-in test"},
        "blocks": [{"name": "position", "unit": "1", "size": 3}, {"name": "spread", "unit": "m", "size": 1}],
    }
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        phase = {"cpu_seconds": 1.0, "gpu_seconds": 0.0, "wall_seconds": 1.0}
        phases = dict.fromkeys(
            ("generate", "train", "gradient", "validate", "optimizer", "score", "log", "checkpoint", "warm_up"), phase
        )
        end = {
            "status": "finished", "message": "", "rows": len(rows), "phases": phases, "hardware": {"cpu": "abacus"},
            "versions": {"torch": "9"}, "commit": "abc", "command": f"run seed={seed}",
        }  # fmt: skip
        (folder / "DONE.json").write_text(json.dumps(end))
    return folder


def cells(text: str, first: str) -> list[str]:
    """The cells of the row of a Markdown table that begins with `first`."""
    line = next(line for line in text.splitlines() if re.match(rf"\| {re.escape(first)}\s*\|", line))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_says_what_the_rows_say(tmp_path):
    ends = {"hybrid": [20.0, 22.0, 27.0], "other": [30.0, 31.0]}
    for optimizer, finals in ends.items():
        for seed, final in enumerate(finals):
            # The last row overshoots: it must not show anywhere.
            make_run(tmp_path, optimizer, seed, [40.0, 35.0, final, 1.0], overshoot=True)
    assert report.main([str(tmp_path / "study")]) == 0
    text = (tmp_path / "study" / "report.md").read_text()
    for optimizer, finals in ends.items():
        n = len(finals)
        name, count, *figures, validation, late_validation, late_test, updates = cells(text, optimizer)
        assert late_validation == validation  # no more than one update falls into it
        assert float(late_test.split(" ± ")[0]) == pytest.approx(statistics.mean(finals), abs=0.006)
        assert (name, count, updates) == (optimizer, str(n), "2")
        half = T[n] * statistics.stdev(finals) / n**0.5
        for k, figure in enumerate(figures[:5]):
            shift = 0 if k == 3 else k
            mean, width = map(float, figure.split(" ± "))
            assert mean == pytest.approx(statistics.mean(finals) + shift, abs=0.006)
            assert width == pytest.approx(half, rel=1e-3)
        mean, width = map(float, figures[5].split(" ± "))
        assert mean == pytest.approx(statistics.mean(finals) / 100, abs=6e-5)
        assert width == pytest.approx(half / 100, abs=6e-5, rel=1e-3)
        assert float(validation.split(" ± ")[0]) == pytest.approx(statistics.mean(finals) + 1, abs=0.006)
    assert text.index("| hybrid") < text.index("| other")  # best first
    assert "mean_degrees/pear" not in text


def test_the_last_tenth_is_a_mean_over_updates(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0] * 19 + [30.0, 20.0, 1.0], amount=40, overshoot=True)  # ends at 40 s
    report.main([str(tmp_path)])
    assert cells((tmp_path / "report.md").read_text(), "hybrid")[-3:-1] == ["31.00", "30.00"]  # 36, 38 and 40 s


def test_against_a_rival(tmp_path):
    """One that is three times as fast and ends 5 degrees below; Welch's interval by hand."""
    ends = {"basic_random_search": (30.0, 31.0, 32.0), "fast": (25.0, 26.0, 27.5)}
    for optimizer, finals in ends.items():
        for seed, final in enumerate(finals):
            slow = [60.0 - (60.0 - final) * min(1, k / 90) for k in range(101)]
            fast = [60.0 - (60.0 - final) * min(1, k / 30) for k in range(101)]
            make_run(tmp_path, optimizer, seed, slow if optimizer == "basic_random_search" else fast, amount=200)
    table = report.rivals(report.collect([tmp_path]).runs)
    (_, own, *nothing), (_, share, validation, test) = table.rows
    assert nothing == ["-", "-"]
    # The mean line falls from 60 by 1.128 an update: it passes 31 + 1 within 26 updates, seen by a window of 10.
    assert 0.26 <= float(share) <= 0.33
    assert 0.9 <= float(own) <= 1
    means, variances = zip(*((statistics.mean(f), statistics.variance(f) / 3) for f in ends.values()), strict=True)
    difference = means[1] - means[0]
    freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
    half = student.ppf(0.975, freedom) * sum(variances) ** 0.5
    for cell in (validation, test):
        found = [float(v) for v in re.findall(r"[-+][0-9.]+", cell)]
        assert found == pytest.approx([difference, difference - half, difference + half], abs=0.011)


def test_single_objects(tmp_path):
    for seed, errors in ((0, [40.0, 20.0]), (1, [40.0, 24.0])):
        make_run(tmp_path, "hybrid", seed, errors)
    report.main([str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    header = next(line for line in text.splitlines() if "test: pear" in line)
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["optimizer", "validation: pear", "test: pear"]
    assert re.search(r"\| hybrid\s+\| 1\.00 ± 0\.00\s+\| 1\.00 ± 0\.00\s+\|", text)


def test_one_seed_has_no_interval(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    report.main([str(tmp_path)])
    row = cells((tmp_path / "report.md").read_text(), "hybrid")
    assert row[5] == "20.00"
    assert not any("±" in cell for cell in row)


def test_curves_are_the_mean_and_the_range_over_the_seeds(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 20.0])
    make_run(tmp_path, "hybrid", 1, [40.0, 20.0, 0.0, 0.0])
    figure = report.curves(report.collect([tmp_path]).runs, "title")
    titles = [axis.get_ylabel() for axis in figure.axes]
    assert titles == ["validation mean (°)", "", "test mean (°)", ""]  # CPU and total: there was no GPU
    (line,) = figure.axes[2].get_lines()
    time, mean = line.get_data()
    assert time[-1] == 4  # where the shorter one ends
    # Updates end at 2 s and 4 s, at 30 and 20 degrees with one seed, at 20 and 0 with the other.
    expected = np.where(np.asarray(time) < 2, 40, np.where(np.asarray(time) < 4, 25, 10))
    np.testing.assert_allclose(mean, expected)
    (band,) = figure.axes[2].collections
    lowest, highest = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (lowest, highest) == (0, 40)


def test_beta_before_and_after(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "hybrid", seed, [40.0, 30.0, 20.0])
    table = report.beta_table(report.collect([tmp_path]).runs)
    assert table.rows == [["position", "0 0 0", "0.2 0 0.5"], ["spread (m)", "0.5", "0.5"]]


def test_the_page_needs_no_other_file_and_says_stand_in(tmp_path):
    make_run(tmp_path, "<b>hybrid</b>", 0, [40.0, 20.0])
    report.main([str(tmp_path), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "Stand-in images made by the code, not real photos." in page
    assert "STAND-IN" in page[page.index("<figcaption>") : page.index("</figcaption>")]
    assert "&lt;b&gt;hybrid&lt;/b&gt;" in page
    assert "<b>hybrid" not in page
    assert all(part in page for part in ("abacus", "torch 9", "abc", "run seed=0"))
    assert (tmp_path / "out" / "figures" / "quadratic-curves.png").read_bytes().startswith(b"\x89PNG")


def test_unfinished_runs_are_marked_and_in_no_table(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    open_run = make_run(tmp_path, "hybrid", 1, [40.0, 39.0, 38.0], done=False)
    with (open_run / "rows.jsonl").open("a") as file:
        file.write('{"update": 3, "sta')
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    unfinished = text[text.index("Unfinished runs") :]
    assert cells(unfinished, "hybrid") == ["hybrid", "1", "2", "40%", "39", "38"]
    assert cells(text, "hybrid")[1] == "1"


def test_only_unfinished_runs_make_a_report_too(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0], done=False)
    assert report.main([str(tmp_path)]) == 0
    assert "Unfinished runs" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "rows.jsonl").unlink(),
    lambda folder: (folder / "rows.jsonl").write_text("rows\n"),
    lambda folder: (folder / "rows.jsonl").write_text((folder / "rows.jsonl").read_text().split("\n")[0] + "\n"),
    lambda folder: (folder / "rows.jsonl").write_text((folder / "rows.jsonl").read_text().split("\n", 1)[1]),
    lambda folder: (folder / "DONE.json").write_text("{}"),
    lambda folder: (folder / "config.yaml").write_text("{"),
])  # fmt: skip
def test_damaged_runs_are_excluded_by_name(tmp_path, damage, capsys):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    bad = make_run(tmp_path, "hybrid", 1, [40.0, 10.0])
    damage(bad)
    assert report.main([str(tmp_path)]) == 1
    assert f"EXCLUDED {bad}" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text()
    assert str(bad) in text[text.index("## Excluded") :]
    assert cells(text, "hybrid")[1] == "1"


def test_runs_that_cannot_be_compared_are_said_to_be_so(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    make_run(tmp_path, "other", 1, [40.0, 20.0], amount=20.0)
    (part,) = [report.section("quadratic", report.collect([tmp_path]).runs)]
    notes = "\n".join(part.notes)
    assert "not made under the same conditions: budget.amount: 10.0, 20.0" in notes
    assert "not the same seeds" in notes
    assert "no gallery: the samples of this environment are no images" in notes


def test_nothing_to_report_on_is_an_error(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "no run in" in capsys.readouterr().err
    assert report.main([str(tmp_path / "nowhere")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_results_worth_committing_are_copied_and_can_be_reported_on(tmp_path):
    source = make_run(tmp_path / "runs", "hybrid", 0, [40.0, 20.0])
    (source / "checkpoint.pt").write_bytes(b"large")
    make_run(tmp_path / "runs", "hybrid", 1, [40.0], done=False)
    assert report.main([str(tmp_path / "runs"), "--results", str(tmp_path / "kept")]) == 0
    kept = tmp_path / "kept" / "study"
    copied = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file())
    folder = "quadratic/hybrid/seed=0"
    names = [f"{folder}/DONE.json", f"{folder}/config.yaml", f"{folder}/rows.jsonl.gz"]
    assert copied == ["figures/quadratic-curves.png", *names, "report.md"]
    packed = kept / folder / "rows.jsonl.gz"
    assert gzip.decompress(packed.read_bytes()) == (source / "rows.jsonl").read_bytes()
    assert report.main([str(kept)]) == 0
    # Kept once more, where they are: nothing changes.
    before = packed.read_bytes()
    assert report.main([str(kept), "--results", str(tmp_path / "kept")]) == 0
    assert packed.read_bytes() == before
    packed.write_bytes(before[:-20])
    with pytest.raises(RecordError, match=r"rows.jsonl.gz: damaged"):
        records.read(kept / folder)


def test_error_maps_are_shown_and_kept_for_one_seed(tmp_path):
    """What is kept has no picture of the data, neither as a file nor within a figure: photos may not be ours."""
    red = np.zeros((8, 20, 3), np.uint8)
    red[..., 0] = 255
    for seed in (0, 1):
        folder = make_run(tmp_path / "runs", "hybrid", seed, [40.0, 20.0])
        pictures.save(red, folder / records.VALIDATION)
        pictures.save(np.full((8, 20, 3), 100 + seed, np.uint8), folder / records.ERRORS)
    make_run(tmp_path / "runs", "fixed", 0, [40.0, 20.0])
    assert report.main([str(tmp_path / "runs"), "--results", str(tmp_path / "kept")]) == 0
    kept = tmp_path / "kept" / "study"
    figure = "figures/quadratic-errors.png"
    found = {str(path.relative_to(kept)) for path in kept.rglob("*.png")}
    assert found == {"quadratic/hybrid/seed=0/errors.png", "figures/quadratic-curves.png", figure}

    def reds(folder):
        return sum((pictures.load(path) == red[0, 0]).all(-1).sum() for path in (folder / "figures").iterdir())

    assert reds(kept) == 0 < reds(tmp_path / "runs")
    assert "quadratic-errors.png" in (kept / "report.md").read_text()
    # From what was kept, the same report can be made again.
    assert report.main([str(kept), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / figure).read_bytes() == (kept / figure).read_bytes()


def test_records_say_which_line_is_damaged(tmp_path):
    folder = make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 20.0])
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(RecordError, match=r"rows.jsonl: line 2 is update 2, not 1"):
        records.read(folder)
