import base64
import json
import re
import shlex
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student

from hgenv.benchmarks import pictures, records
from hgenv.benchmarks.compare import expand
from hgenv.benchmarks.config import compose
from hgenv.benchmarks.records import RecordError
from hgenv.benchmarks.report import collect, figures, keep, tables
from hgenv.benchmarks.report.__main__ import main
from hgenv.benchmarks.report.commands import again, elsewhere
from hgenv.benchmarks.report.pages import section
from hgenv.benchmarks.report.style import OTHERS, STYLES, ordered, styles
from hgenv.benchmarks.run import run
from hgenv.tasks import Picture
from hgenv.tasks.depth import DepthTask
from hgenv.tasks.normals import NormalsTask

from .raw import change_rows, make_run
from .tools import quadratic

# 97.5 % points of Student's t for 2 and 3 degrees of freedom, from printed tables.
T = {3: 4.303, 4: 3.182}


@pytest.fixture(autouse=True)
def small_curves(monkeypatch):
    """Drawn in a quarter of the time."""
    monkeypatch.setattr(figures, "SMALLER", (50,))


def cells(text: str, first: str) -> list[str]:
    """The cells of the row of a Markdown table that begins with `first`."""
    line = next(line for line in text.splitlines() if re.match(rf"\| {re.escape(first)}\s*\|", line))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_says_what_the_rows_say(tmp_path):
    ends = {"hybrid": [20.0, 22.0, 27.0], "other": [30.0, 31.0, 33.0, 34.0]}
    for optimizer, finals in ends.items():
        for seed, final in enumerate(finals):
            # The last row overshoots: it must not show anywhere.
            make_run(tmp_path, optimizer, seed, [40.0, 35.0, final, 1.0], overshoot=True)
    assert main([str(tmp_path / "study")]) == 0
    text = (tmp_path / "study" / "report.md").read_text()
    for optimizer, finals in ends.items():
        n = len(finals)
        name, count, *metrics, validation, updates = cells(text[text.index("## All tables") :], optimizer)
        assert (name, count, updates) == (optimizer, str(n), "2")
        # No more than one update falls into the last tenth; two updates take 4 s.
        assert cells(text, optimizer) == [optimizer, str(n), validation, metrics[0], "2", "4"]
        half = T[n] * statistics.stdev(finals) / n**0.5
        for k, figure in enumerate(metrics[:5]):
            mean, width = map(float, figure.split(" ± "))
            assert mean == pytest.approx(statistics.mean(finals) + k, abs=0.006)
            assert width == pytest.approx(half, rel=1e-3, abs=0.006)
        mean, width = map(float, metrics[5].split(" ± "))
        assert mean == pytest.approx(statistics.mean(finals) / 100, abs=6e-5)
        assert width == pytest.approx(half / 100, abs=6e-5, rel=1e-3)
        assert float(validation.split(" ± ")[0]) == pytest.approx(statistics.mean(finals) + 1, abs=0.006)
    assert text.index("| hybrid") < text.index("| other")  # best first
    assert "mean_degrees/pear" not in text


def test_no_two_tables_have_one_name_for_two_figures(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    part = section("quadratic", collect([tmp_path]).runs)
    names = [name for table in (part.main, part.results, part.best) for name in table.header]
    assert [name for name in names if "validation" in name] == [
        "validation mean (°)", "validation mean (°) at the last update", "validation mean (°) at that update",
    ]  # fmt: skip


def test_the_last_tenth_is_a_mean_over_updates(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0] * 19 + [30.0, 20.0, 1.0], amount=40, overshoot=True)  # ends at 40 s
    main([str(tmp_path)])
    row = cells((tmp_path / "report.md").read_text(), "hybrid")
    assert row[2:4] == ["31.00 (too few seeds)", "30.00 (too few seeds)"]  # 36, 38 and 40 s


def test_the_update_with_the_best_validation_has_a_table_of_its_own(tmp_path):
    """Validation falls and rises again; the test figure is that of the same update, not the best there is."""
    for seed, shift in ((0, 0.0), (1, 0.5), (2, 1.0)):
        errors = [40.0, 30.0, 20.0 + shift, 20.0 + shift, 25.0, 10.0]
        make_run(tmp_path, "hybrid", seed, errors, tests=[50.0, 9.0, 31.0, 33.0, 8.0, 7.0], overshoot=True)
    main([str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    part = text[text.index("At the counted update with the best validation:") :]
    _, mean, median, *_, validation, update = cells(part, "hybrid")
    assert (mean, median, update) == ("31.00 ± 0.00", "32.00 ± 0.00", "2")  # the first of two that are alike
    assert validation.startswith("21.50 ± ")


def test_a_primary_metric_of_which_more_is_better(tmp_path):
    def more_is_better(rows):
        rows[0]["metrics"] = [m for m in rows[0]["metrics"] if m["name"] == "within_30"]

    for name, finals in (("basic_random_search", (50.0, 60.0)), ("good", (70.0, 80.0)), ("bad", (30.0, 40.0))):
        for seed, final in enumerate(finals):
            errors = [final * min(1, k / 30) for k in range(101)]
            change_rows(make_run(tmp_path, name, seed, errors, amount=200), more_is_better)
    runs = collect([tmp_path]).runs
    assert [row[0] for row in tables.results(runs).rows] == ["good", "basic_random_search", "bad"]
    shares = {row[0]: row[1] for row in tables.against_baseline(runs).rows}
    assert shares["bad"] == "never"
    assert 0.2 <= float(shares["good"]) <= 0.35
    assert runs[-1].best == 30  # the first at the top


def test_the_same_rows_under_other_prices(tmp_path):
    """One method renders ten times as much as the other; in seconds they tie, where renders are dear they do not."""
    falling = [50.0 - k for k in range(41)]
    for name, samples in (("basic_random_search", 700), ("frugal", 70)):
        for seed in range(3):

            def counts(rows, samples=samples):
                for row in rows:
                    row["spent"]["samples"] = samples * row["update"]

            change_rows(make_run(tmp_path, name, seed, [x + 0.1 * seed for x in falling], amount=80), counts)
    assert main([str(tmp_path), "--price", "sample=1", "--price", "update=0"]) == 0
    text = (tmp_path / "priced" / "report.md").read_text()
    # An update costs 700 + 13.6 or 70 + 13.6: the network's work is 10^12 operations. All frugal ones cost 3344.
    assert "3344 priced_seconds (1 s a sample, 1.36e-11 s a flop, 5.5e-12 s a gradient_flop)" in text
    updates = {name: cells(text, name)[4] for name in ("basic_random_search", "frugal")}
    assert updates == {"basic_random_search": "4", "frugal": "40"}
    assert not (tmp_path / "report.md").exists()
    frugal = cells(text[text.index("its final figure is") :], "frugal")
    # The other ends at 51 - 4; that is 4 updates of 83.6, seen by a window of a tenth of the budget.
    assert 4 / 40 <= float(frugal[1]) <= 4 / 40 + 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--price", "samples=1"],
            "there is no price of a 'samples'; there are sample, flop, gradient_flop, update, tr",
        ),
        (["--price", "sample=much"], "--price sample=much: is no price"),
        (["--price", "sample=-1"], "--price sample=-1: is no price"),
        (["--prices", "moon"], "there is no price list 'moon'; there are core"),
        (["--price", "training_step=1"], "these rows do not say how much work a training_step is"),
        (["--price", "sample=0", "--price", "flop=0", "--price", "update=0"], "a run cost nothing at these prices"),
        (["--price", "sample=1", "--results", "kept"], "leave --price and --prices out"),
    ],
)
def test_prices_that_are_none_are_refused(words, message, tmp_path, capsys):
    make_run(tmp_path, "fixed", 0, [40.0, 20.0])
    assert main([str(tmp_path), *words]) == 1
    assert message in capsys.readouterr().err


def test_the_price_of_a_training_step_scales_all_work_of_the_network(tmp_path):
    def of_work(rows):
        rows[0]["training_step_flops"] = 10**11

    change_rows(make_run(tmp_path, "fixed", 0, [40.0, 20.0]), of_work)
    assert main([str(tmp_path), "--price", "training_step=2", "--price", "sample=0"]) == 0
    text = (tmp_path / "priced" / "report.md").read_text()
    # 10^12 operations at 2 s for 10^11, and 3 ms for the update.
    assert "20.003 priced_seconds (2e-11 s a flop" in text


def test_against_the_baseline(tmp_path):
    """One that is three times as fast and ends 5 degrees below; Welch's interval by hand."""
    ends = {"basic_random_search": (30.0, 31.0, 32.0), "fast": (25.0, 26.0, 27.5)}
    for optimizer, finals in ends.items():
        for seed, final in enumerate(finals):
            slow = [60.0 - (60.0 - final) * min(1, k / 90) for k in range(101)]
            fast = [60.0 - (60.0 - final) * min(1, k / 30) for k in range(101)]
            make_run(tmp_path, optimizer, seed, slow if optimizer == "basic_random_search" else fast, amount=200)
    table = tables.against_baseline(collect([tmp_path]).runs)
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
    for seed, errors in ((0, [40.0, 20.0]), (1, [40.0, 22.0]), (2, [40.0, 24.0])):
        make_run(tmp_path, "hybrid", seed, errors)
    main([str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    header = next(line for line in text.splitlines() if "test: pear" in line)
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["optimizer", "validation: pear", "test: pear"]
    assert re.search(r"\| hybrid\s+\| 1\.00 ± 0\.00\s+\| 1\.00 ± 0\.00\s+\|", text)


def test_two_seeds_are_too_few_for_an_interval(tmp_path):
    for name in ("basic_random_search", "hybrid"):
        for seed in (0, 1):
            make_run(tmp_path, name, seed, [40.0, 20.0 + seed])
    main([str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert cells(text, "hybrid")[2:4] == ["21.50 (too few seeds)", "20.50 (too few seeds)"]
    assert not any("±" in line or ", +" in line for line in text.splitlines() if line.startswith("|"))


def test_the_verdict_is_what_a_paired_comparison_says(tmp_path):
    ends = {"hybrid": (20.0, 25.0, 30.0), "other": (21.0, 26.2, 31.1), "third": (21.0, 26.0, 32.0),
            "fixed": (30.0, 30.0, 50.0)}  # fmt: skip
    for name, finals in ends.items():
        for seed, final in enumerate(finals):
            make_run(tmp_path, name, seed, [60.0, final])
    main([str(tmp_path / "study")])
    text = (tmp_path / "study" / "report.md").read_text()
    words = text.split("\n\n")[2]
    assert text.index(words) < text.index("| optimizer") < text.index("](figures/curves.png)")
    assert text.index("](figures/curves.png)") < text.index("pear")
    validation, test = words.split(" On test, ")
    # The seeds differ by ten degrees, but the pairs by one: 1, 1.2 and 1.1.
    half = T[3] * 0.1 / 3**0.5
    assert validation.startswith(
        "On validation, hybrid ends lowest, with mean (°) 26.00 (3 seeds): 1.10 lower than the next, other "
        f"[{1.1 - half:+.2f}, {1.1 + half:+.2f}], and a tie with fixed (11.67 lower [-"
    )
    assert test.endswith("In brackets: 95% intervals of the differences seed by seed; a tie's includes zero.")
    assert test.startswith("hybrid ends lowest, with mean (°) 25.00 (3 seeds): 1.10 lower than the next, other")


def verdict_of(folder: Path) -> str:
    return section("quadratic", collect([folder]).runs).verdict


def test_a_verdict_says_what_keeps_it_from_being_one(tmp_path):
    make_run(tmp_path / "open", "hybrid", 0, [40.0], done=False)
    assert verdict_of(tmp_path / "open") == "No verdict: no run has ended yet."
    make_run(tmp_path / "one", "hybrid", 0, [40.0, 20.0])
    assert verdict_of(tmp_path / "one") == "There is one optimizer, hybrid, and nothing to compare it with."
    for name, final in (("hybrid", 20.0), ("fixed", 30.0)):
        for seed in (0, 1):
            make_run(tmp_path / "few", name, seed, [40.0, final])
    words = "10.00 lower than the next, fixed (too few seeds to say whether by more than chance)"
    assert verdict_of(tmp_path / "few").count(words) == 2
    for name, amount in (("hybrid", 10.0), ("fixed", 20.0)):
        make_run(tmp_path / "budgets", name, 0, [40.0, 20.0], amount=amount)
    assert verdict_of(tmp_path / "budgets").startswith("No verdict: the runs were not made alike")


def test_of_a_metric_of_which_more_is_better_the_highest_is_named(tmp_path):
    for name, final in (("good", 70.0), ("bad", 30.0)):
        for seed in range(3):
            folder = make_run(tmp_path, name, seed, [10.0, final + seed])
            change_rows(folder, lambda rows: rows[0].update(metrics=[rows[0]["metrics"][0] | {"direction": "max"}]))
    assert verdict_of(tmp_path).startswith(
        "On validation, good ends highest, with mean (°) 72.00 (3 seeds): 40.00 higher"
    )


def drawn_curves(tmp_path):
    runs = collect([tmp_path]).runs
    groups = {run.environment: [r for r in runs if r.environment == run.environment] for run in runs}
    return figures.curves(list(groups.items()), lambda runs: runs[0].environment)


def test_curves_are_the_mean_and_the_range_over_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "WINDOW", 1)
    make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 20.0])
    make_run(tmp_path, "hybrid", 1, [40.0, 20.0, 0.0, 0.0])
    figure = drawn_curves(tmp_path)
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["validation mean (°)", "test mean (°)"]  # one panel each: there was no GPU
    (line,) = figure.axes[1].get_lines()
    time, mean = line.get_data()
    assert time[-1] == 4  # where the shorter one ends
    # Updates end at 2 s and 4 s, at 30 and 20 degrees with one seed, at 20 and 0 with the other.
    expected = np.where(np.asarray(time) < 2, 40, np.where(np.asarray(time) < 4, 25, 10))
    np.testing.assert_allclose(mean, expected)
    (band,) = figure.axes[1].collections
    lowest, highest = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (lowest, highest) == (0, 40)
    low, high = figure.axes[1].get_ylim()
    assert low < 0 < 20 < high  # where both seeds end


def test_a_curve_is_a_mean_over_the_last_moments(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 30.0])
    (line,) = drawn_curves(tmp_path).axes[1].get_lines()
    time, mean = map(np.asarray, line.get_data())
    assert mean[0] == 40
    after = np.flatnonzero(time >= 2)
    expected = [40 - 10 * k / figures.WINDOW for k in range(1, figures.WINDOW)]
    np.testing.assert_allclose(mean[after][: figures.WINDOW - 1], expected)
    np.testing.assert_allclose(mean[after][figures.WINDOW - 1 :], 30)


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_method_that_is_slow_to_begin_does_not_decide_the_axis(tmp_path, direction):
    sign = 1 if direction == "min" else -1
    slow, ends = [100.0] * 8 + [25.0, 25.0], {"slow": 25.0, "quick": 21.0, "other": 23.0}
    for name, errors in (("slow", slow), ("quick", [100.0, 30.0] + [21.0] * 8), ("other", [100.0] + [23.0] * 9)):
        folder = make_run(tmp_path, name, 0, [sign * error for error in errors], amount=20)
        change_rows(folder, lambda rows: rows[0].update(metrics=[rows[0]["metrics"][0] | {"direction": direction}]))
    axis = drawn_curves(tmp_path).axes[1]
    low, high = sorted(sign * end for end in axis.get_ylim())
    assert axis.get_ylim()[0] < axis.get_ylim()[1]
    assert 20 < low < min(ends.values())
    assert max(ends.values()) < high < 27


def test_a_line_that_never_changes_has_an_axis_too(tmp_path):
    make_run(tmp_path, "hybrid", 0, [0.0, 0.0])
    low, high = drawn_curves(tmp_path).axes[1].get_ylim()
    assert low < 0 < high


def test_gpu_time_has_panels_where_a_gpu_ran(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 20.0], env={"id": "x", "label": "plain"})
    make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 20.0], gpu=0.5, env={"id": "x", "label": "quick"})
    shown = [(a.get_title(), a.get_xlabel()) for a in drawn_curves(tmp_path).axes if a.get_visible()]
    titles, labels = [t for t, _ in shown if t], [label for _, label in shown if label]
    assert titles == ["plain", "quick", "quick"]
    assert labels == ["CPU + GPU time (s)", "CPU + GPU time (s)", "GPU time (s)"]


def test_an_optimizer_looks_the_same_in_every_figure():
    """The table is part of every figure that was ever shown: a change of it is a change of all of them."""
    assert {name: look[0] for name, look in STYLES.items()} == {
        "hybrid_gradient": "#0072B2", "hybrid_gradient_paper": "#0072B2", "credit_gradient": "#D55E00",
        "score_influence": "#56B4E9", "combined": "#000000", "autosimulate": "#56B4E9",
        "basic_random_search": "#009E73", "basic_random_search_paper": "#009E73",
        "augmented_random_search": "#009E73", "reinforce": "#882255", "spsa": "#882255", "openai_es": "#332288",
        "guided_es": "#332288", "snes": "#332288", "noise_reuse_es": "#117733", "persistent_es": "#117733",
        "evolution": "#E69F00", "diagonal_cma": "#E69F00", "cmaes_lra": "#E69F00", "tbpsa": "#E69F00",
        "one_plus_one": "#AA4499", "de": "#AA4499", "pso": "#AA4499", "optuna": "#DC267F",
        "shape_evolution": "#999933", "random_search": "#CC79A7", "quasi_random_search": "#CC79A7", "fixed": "#555555",
    }  # fmt: skip
    assert len(set(STYLES.values())) == len(STYLES)
    for others in ([], ["evolution", "zebra", "apple"], ["hybrid_gradient-slow", "fixed"]):
        looks = styles(["hybrid_gradient", "credit_gradient", *others])
        assert looks["hybrid_gradient"] == ("#0072B2", "-")
        assert looks["credit_gradient"] == ("#D55E00", "-")
        assert len(set(looks.values())) == len(looks)
    looks = styles(["zebra", "apple", "hybrid_gradient-slow", "hybrid_gradient-fast", "hybrid_gradient_paper"])
    assert list(looks) == ["hybrid_gradient-fast", "hybrid_gradient-slow", "hybrid_gradient_paper", "apple", "zebra"]
    assert {looks[name][0] for name in list(looks)[:3]} == {"#0072B2"}
    assert (looks["apple"][0], looks["zebra"][0]) == OTHERS[:2]
    assert not set(OTHERS) & {colour for colour, _ in STYLES.values()}
    assert ordered(reversed(STYLES)) == list(STYLES)


def test_the_legend_covers_no_curve(tmp_path):
    for k in range(9):
        make_run(tmp_path, f"optimizer {k}", 0, [40.0 - k, 20.0])
    figure = drawn_curves(tmp_path)
    figures.line_art(figure, "curves", "")
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"optimizer {k}" for k in range(9)]
    box = legend.get_window_extent()
    assert box.y0 >= 0
    for axis in figure.axes:
        assert not box.overlaps(axis.get_tightbbox())


def test_beta_before_and_after(monkeypatch, tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "hybrid", seed, [40.0, 30.0, 20.0])
    table = tables.beta(collect([tmp_path]).runs)
    assert table.rows == [["position", "0 0 0", "0.2 0 0.5"], ["spread (m)", "0.5", "0.5"]]
    monkeypatch.setattr(tables, "LONG", 2)
    assert tables.beta(collect([tmp_path]).runs).rows[0] == ["position", "3 from 0 to 0", "3 from 0 to 0.5"]


def test_the_page_needs_no_other_file_and_says_stand_in(tmp_path):
    make_run(tmp_path, "<b>hybrid</b>", 0, [40.0, 20.0])
    main([str(tmp_path), "--out", str(tmp_path / "out")])
    whole = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"<script[^>]*\ssrc=|<link", whole)
    page = re.sub(r"<script.*?</script>", "", whole, flags=re.DOTALL)  # what those hold is test_play's business
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
    assert (tmp_path / "out" / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_unfinished_runs_are_marked_and_in_no_table(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    open_run = make_run(tmp_path, "hybrid", 1, [40.0, 39.0, 38.0], done=False)
    with (open_run / "rows.jsonl").open("a") as file:
        file.write('{"update": 3, "sta')
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    unfinished = text[text.index("Unfinished runs") :]
    assert cells(unfinished, "optimizer")[-2:] == ["validation mean (°) so far", "test mean (°) so far"]
    assert cells(unfinished, "hybrid") == ["hybrid", "1", "2", "40%", "39", "38"]
    assert cells(text, "hybrid")[1] == "1"


def test_only_unfinished_runs_make_a_report_too(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0], done=False)
    assert main([str(tmp_path)]) == 0
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
    assert main([str(tmp_path)]) == 1
    assert f"EXCLUDED {bad}" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text()
    assert str(bad) in text[text.index("## Excluded") :]
    assert cells(text, "hybrid")[1] == "1"


def test_where_no_run_can_be_read_the_report_says_that_and_why(tmp_path, capsys):
    folder = make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    (folder / "config.yaml").write_text("{")
    assert main([str(tmp_path)]) == 1
    assert f"no run could be read\nEXCLUDED {folder}: " in capsys.readouterr().out
    first, second, reason = (tmp_path / "report.md").read_text().strip().split("\n\n")
    assert (first, second) == ("# Report: no run could be read", "## Excluded: 1")
    assert f"{folder}: config.yaml: damaged" in reason
    page = (tmp_path / "report.html").read_text()
    assert "<title>Report: no run could be read</title>" in page
    assert not any(words in page for words in ("Tables above", "Figures", "How these figures"))


def test_runs_that_cannot_be_compared_are_said_to_be_so(tmp_path):
    make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    make_run(tmp_path, "other", 1, [40.0, 20.0], amount=20.0)
    (part,) = [section("quadratic", collect([tmp_path]).runs)]
    notes = "\n".join(part.notes)
    assert "not the same budget: 10 total_seconds: hybrid; 20 total_seconds: other; the command that made" in notes
    assert "not the same seeds" in notes
    assert part.baseline is None


def test_nothing_to_report_on_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no run in" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_without_a_folder_the_only_study_is_reported_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1
    assert f"there are no runs in {tmp_path / 'runs'}; name the folder of a study" in capsys.readouterr().err
    make_run(tmp_path / "runs", "hybrid", 0, [40.0, 20.0])
    assert main([]) == 0
    assert (tmp_path / "runs" / "study" / "report.html").is_file()
    (tmp_path / "runs" / "study").rename(tmp_path / "runs" / "first")
    make_run(tmp_path / "runs", "hybrid", 0, [40.0, 20.0])
    assert main([]) == 1
    assert "several studies; name one: hgenv report runs/first, hgenv report runs/study" in capsys.readouterr().err


def table_lines(folder: Path) -> list[str]:
    return [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("|")]


def test_a_study_makes_the_same_report_as_its_runs(tmp_path):
    """Real runs, of which two are other optimizers, with everything that a row can hold."""
    for overrides in (["seed=0"], ["seed=1"], ["optimizer=random_search", "seed=0"]):
        run(quadratic(tmp_path / "runs", *overrides, updates=25))
    assert main([str(tmp_path / "runs"), "--results", str(tmp_path / "kept")]) == 0
    study = tmp_path / "kept" / "default"
    assert sorted(str(path.relative_to(study)) for path in study.rglob("*") if path.is_file()) == [
        "figures/curves.png", "report.md", "rows.parquet", "runs.csv",
    ]  # fmt: skip
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert table_lines(study) == table_lines(tmp_path / "runs")
    assert len(table_lines(study)) > 15
    assert main([str(study)]) == 0
    assert table_lines(study) == table_lines(tmp_path / "runs")
    # Written once more, where it is: nothing changes.
    (study / "report.html").unlink()
    assert main([str(study), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "kept")]) == 0
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_only_finished_runs_are_kept(tmp_path):
    make_run(tmp_path / "runs", "hybrid", 0, [40.0, 20.0])
    make_run(tmp_path / "runs", "hybrid", 1, [40.0], done=False)
    assert main([str(tmp_path / "runs"), "--results", str(tmp_path / "kept")]) == 0
    assert [r.seed for r in collect([tmp_path / "kept"]).runs] == [0]


def test_a_study_does_not_lose_runs_in_silence(tmp_path, capsys):
    make_run(tmp_path / "first", "hybrid", 0, [40.0, 20.0])
    make_run(tmp_path / "second", "hybrid", 1, [40.0, 20.0])
    kept = tmp_path / "kept"
    assert main([str(tmp_path / "first"), "--results", str(kept)]) == 0
    before = (kept / "study" / "runs.csv").read_bytes()
    assert main([str(tmp_path / "second"), "--results", str(kept)]) == 1
    assert "holds 1 runs that would be lost (quadratic, hybrid, 0)" in capsys.readouterr().err
    assert (kept / "study" / "runs.csv").read_bytes() == before
    # Both named, both stay; the same run from two places is one.
    assert main([str(tmp_path / "second"), str(tmp_path / "first"), str(kept), "--results", str(kept)]) == 0
    assert [r.seed for r in collect([kept]).runs] == [0, 1]


def test_two_runs_that_claim_to_be_the_same_are_not_mixed(tmp_path):
    make_run(tmp_path / "first", "hybrid", 0, [40.0, 20.0])
    other = make_run(tmp_path / "second", "hybrid", 0, [40.0, 10.0])
    done = json.loads((other / "DONE.json").read_text())
    (other / "DONE.json").write_text(json.dumps(done | {"commit": "another"}))
    found = collect([tmp_path / "first", tmp_path / "second"])
    assert [r.metrics["test"]["mean_degrees"][-1] for r in found.runs] == [20]
    assert "differs from that in" in found.excluded[other]


def grey(level: int) -> Picture:
    rows = tuple(np.full((3, 8, 8, 3), level + row, np.uint8) for row in (0, 50))
    return Picture(rows, ("prediction", "error"), "Error: lighter is worse.")


def test_error_maps_are_shown_and_kept(tmp_path):
    """What is kept shows no data, neither as a file nor within a figure: photos may not be ours."""
    red = np.zeros((3, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    for seed in (0, 1):
        folder = make_run(tmp_path / "runs", "hybrid", seed, [40.0, 20.0])
        pictures.save(Picture((red, red), ("image", "target")), folder / records.VALIDATION)
        pictures.save(grey(100 + 60 * seed), folder / records.ERRORS)
    make_run(tmp_path / "runs", "fixed", 0, [40.0, 20.0])
    assert main([str(tmp_path / "runs"), "--results", str(tmp_path / "kept")]) == 0
    kept = tmp_path / "kept" / "study"
    found = {str(path.relative_to(kept)) for path in kept.rglob("*.*")}
    assert found == {"runs.csv", "rows.parquet", "report.md", "figures/curves.png", "figures/errors.png"}

    def pixels(folder, colour):
        image = np.asarray(Image.open(folder / "figures" / "errors.png").convert("RGB"))
        return int((image == colour).all(-1).sum())

    assert pixels(kept, (255, 0, 0)) == 0 < pixels(tmp_path / "runs", (255, 0, 0))
    assert pixels(kept, (100, 100, 100)) > 10_000  # of seed 0
    assert pixels(kept, (160, 160, 160)) < 100  # one run is enough (letters have greys too)
    assert "](figures/errors.png)" in (kept / "report.md").read_text()
    # From what was kept, the same report can be made again, with the figure as it is.
    assert main([str(kept), "--out", str(tmp_path / "again")]) == 0
    figure = Path("figures") / "errors.png"
    assert (tmp_path / "again" / figure).read_bytes() == (kept / figure).read_bytes()
    assert "](figures/errors.png)" in (tmp_path / "again" / "report.md").read_text()


def test_error_maps_have_a_colour_bar(tmp_path):
    """Of the scale that the tasks word; the maps here are grey."""
    for task, most in ((NormalsTask(), "60 degrees"), (DepthTask(), "10% of the depth")):
        assert figures.SCALE.fullmatch(task.error_note).groups() == ("Error", most)
        folder = make_run(tmp_path / most, "hybrid", 0, [40.0, 20.0])
        picture = grey(100)
        pictures.save(Picture(picture.rows, picture.titles, task.error_note), folder / records.ERRORS)
        assert main([str(tmp_path / most)]) == 0
        (path,) = (tmp_path / most / "figures").glob("errors.*")
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        coloured = (image.max(-1) - image.min(-1) > 60).any(0)
        assert coloured.sum() > figures.WIDTH / 8


def test_a_task_that_draws_nothing_is_said_to_draw_nothing(tmp_path):
    run(quadratic(tmp_path, updates=2))
    assert main([str(tmp_path)]) == 0
    assert "quadratic: no gallery: the task of this environment draws no pictures" in (
        (tmp_path / "report.md").read_text()
    )


def test_a_damaged_picture_of_errors_is_left_out_by_name(tmp_path):
    folder = make_run(tmp_path, "hybrid", 0, [40.0, 20.0])
    (folder / records.ERRORS).write_bytes(b"no picture")
    assert main([str(tmp_path)]) == 0
    assert f"no error maps: {folder / records.ERRORS}" in (tmp_path / "report.md").read_text()


def gallery_run(root: Path, *overrides: str) -> Path:
    env = compose(["env=shapes_lit", "optimizer=fixed", *overrides]).record["env"]
    folder = make_run(root, "fixed", 0, [40.0, 20.0], env=env)
    beta = [0.25] * 4 + [0.5] * 3 + [0.0] * 3 + [0.3] * 3 + [0.0] * 3 + [0.2] * 3 + [0.0, 0.2] * 5 + [0.0] * 8

    def with_beta(rows):
        for row in rows:
            row |= {"beta": beta, "recommendation": beta}
        rows[0]["blocks"] = [{"name": "all", "unit": "1", "size": len(beta)}]

    change_rows(folder, with_beta)
    return folder


def test_the_gallery_is_made_again_from_the_settings(tmp_path, monkeypatch):
    """And shows samples sharper than the network sees them: round ones are round."""
    monkeypatch.setattr(figures, "WIDTH", 600)
    gallery_run(tmp_path / "runs")
    keep(collect([tmp_path / "runs"]), tmp_path / "kept")
    (path,) = (tmp_path / "kept" / "study" / "figures").glob("gallery.*")
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert image.shape[1] == 600
    # Blocks of equal pixels are what a picture of fewer pixels has when it is blown up.
    dark = (image.max(-1) < 250) & (image.max(-1) > 5)
    alike = (image[:, 1:] == image[:, :-1]).all(-1) & dark[:, 1:]
    assert dark.sum() > 10_000
    assert alike.sum() < 0.2 * dark.sum()
    assert main([str(tmp_path / "kept" / "study"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "figures" / path.name).read_bytes() == path.read_bytes()


def test_a_gallery_that_cannot_be_made_is_a_note_and_the_old_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "WIDTH", 300)
    gallery_run(tmp_path / "runs")
    keep(collect([tmp_path / "runs"]), tmp_path / "kept")
    study = tmp_path / "kept" / "study"
    (path,) = (study / "figures").glob("gallery.*")
    before = path.read_bytes()
    broken = (study / "runs.csv").read_text().replace("hgenv.generators.ShapeGenerator", "hgenv.generators.Nobody")
    (study / "runs.csv").write_text(broken)
    assert main([str(study)]) == 0
    text = (study / "report.md").read_text()
    assert "no gallery: its generator, or a part of it, is not hgenv's own" in text
    assert "the figure is as it was" in text
    assert f"](figures/{path.name})" in text
    assert path.read_bytes() == before


def test_records_say_which_line_is_damaged(tmp_path):
    folder = make_run(tmp_path, "hybrid", 0, [40.0, 30.0, 20.0])
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(RecordError, match=r"rows.jsonl: line 2 is damaged: it is update 2, not 1"):
        records.read(folder)


def test_the_commands_of_runs_become_as_few_comparisons_as_make_the_same_runs():
    commands = [
        f"hgenv run experiment=quick optimizer={optimizer} 'optimizer.initial=[0.1, 2]' seed={seed}"
        for optimizer in ("fixed", "evolution")
        for seed in (9, 10)
    ]
    # Another order of the settings is the same command.
    commands[1] = "hgenv run seed=10 experiment=quick 'optimizer.initial=[0.1, 2]' optimizer=fixed"
    all_of_them = "hgenv compare experiment=quick optimizer=fixed,evolution 'optimizer.initial=[0.1, 2]' seed=9,10"
    assert again(commands) == [all_of_them]
    made = [{word.removeprefix("++") for word in words} for words in expand(shlex.split(all_of_them)[2:])]
    assert sorted(map(sorted, made)) == sorted(sorted(shlex.split(command)[2:]) for command in commands)
    # What was not made is in no line.
    assert again(commands[:3]) == [
        "hgenv compare experiment=quick optimizer=fixed 'optimizer.initial=[0.1, 2]' seed=9,10",
        "hgenv compare experiment=quick optimizer=evolution 'optimizer.initial=[0.1, 2]' seed=9",
    ]
    others = ["my own script", "hgenv run 'seed=", "python -m benchmarks.board seed=1"]
    assert again(["python -m benchmarks.run --config-dir conf ~env.x seed=1", *others]) == [
        "python -m benchmarks.compare --config-dir conf '~env.x' seed=1", *others,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("hgenv run study=a root=/home/me/runs seed=0", "hgenv run study=a seed=0"),
        ("hgenv run ++root='/home/m e/runs' seed=0", "hgenv run seed=0"),
        ("hgenv run --config-dir /home/me/conf env=discs", "hgenv run --config-dir conf env=discs"),
        ("hgenv run --config-dir=/home/me/conf env=discs", "hgenv run --config-dir=conf env=discs"),
        ("hgenv run --config-dir conf env=discs", "hgenv run --config-dir conf env=discs"),
        ("hgenv run 'optimizer.initial=[0.1, 0.2]'", "hgenv run 'optimizer.initial=[0.1, 0.2]'"),
        ("a command with one ' quote", "a command with one ' quote"),
    ],
)  # fmt: skip
def test_a_command_without_the_folders_of_a_machine(command, expected):
    assert elsewhere(command) == expected


def test_a_study_that_is_kept_names_no_folder_of_its_machine(tmp_path):
    folder = gallery_run(tmp_path / "runs")
    done = json.loads((folder / "DONE.json").read_text())
    (folder / "DONE.json").write_text(
        json.dumps(done | {"command": f"hgenv run env=shapes root={tmp_path}/runs seed=0"})
    )
    keep(collect([tmp_path / "runs"]), tmp_path / "kept")
    for name in ("runs.csv", "report.md"):
        text = (tmp_path / "kept/study" / name).read_text()
        assert "env=shapes seed=0" in text
        assert str(tmp_path) not in text


def test_no_committed_study_names_one():
    paths = [p for p in Path(__file__).parents[2].glob("benchmarks/results/**/*") if p.suffix in (".md", ".csv")]
    assert paths
    assert not [p for p in paths if "root=/" in p.read_text()]
