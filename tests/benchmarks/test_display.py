"""What is shown at 80 columns, and what is said where there is no terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from hgenv import Budget, patience
from hgenv.benchmarks import display, launch
from hgenv.benchmarks.display import Bars, Display, shortened
from hgenv.benchmarks.launch import Job

from .tools import quadratic

METRIC = {"name": "mean_degrees", "title": "mean (°)"}


def row(update: int, spent: float):
    figures = {"mean_degrees": 26.3812}
    return {"update": update, "loss": 0.5, "spent": {"updates": spent}, "validation": figures, "test": figures}


def screen(bars: Bars, width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(bars.get_renderable())
    return file.getvalue().rstrip("\n").split("\n")


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0)


@pytest.fixture
def bars(clock):
    return Bars(console=Console(file=io.StringIO(), width=80), get_time=lambda: clock.now)


def test_names_are_cut_in_the_middle():
    assert shortened("basic_random_search/seed=12", 40) == "basic_random_search/seed=12"
    assert shortened("basic_random_search/seed=12", 13) == "basic_…eed=12"
    assert shortened("abc", 1) == "…"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_bar_share_and_times_are_there_however_long_the_name_is(bars, clock, width):
    name = "shapes_lit-mbii-shading/augmented_random_search-with-more-directions/seed=12"
    bars.add("2/10 runs done", 10.0)
    long = bars.add(name, 100.0)
    clock.now = 3600.0
    bars.update(long, completed=25.0, figures="mean (°) 26.38")
    first, second = screen(bars, width)
    assert len(second) <= width
    assert second.startswith("shapes")
    if width >= 80:
        assert "12, mean (°) 26.38 " in second
    assert "━━━" in second
    assert second.rstrip().endswith(" 25 % 1:00:00 3:00:00 left")
    assert ("…" in second) == (width < 200)
    assert first.startswith("2/10 runs done")
    assert first.rstrip().endswith("0 % 1:00:00 -:--:-- left")


def test_what_was_done_before_does_not_make_it_look_fast(bars, clock):
    task = bars.add("seed=0", 1.0, 0.5)
    clock.now = 10.0
    bars.update(task, completed=0.6)
    assert bars.line(task) == "seed=0, 60 %, 0:00:10 0:00:40 left"


def test_a_line_says_what_a_bar_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(display, "QUIET_SECONDS", -1)
    with Display(tmp_path, Budget(4, "updates"), METRIC) as shown:
        shown.show(row(1, 1))
    assert capsys.readouterr().out.strip() == (
        f"{tmp_path}: update 1, loss 0.5, mean (°) validation 26.38 test 26.38, 25 %, 0:00:00 0:00:00 left"
    )


def test_an_update_that_takes_long_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(patience, "TOLD", 0.0)
    with Display(tmp_path, Budget(4, "updates"), METRIC) as shown:
        patience.Progress("samples", 3).step()
        assert capsys.readouterr().out.startswith(f"{tmp_path}: samples: 1 of 3, ")
        shown.quiet = False
        patience.Progress("samples", 3).step()
        assert "update 0, samples: 1 of 3, " in shown.bars.line(shown.bar)
        shown.show(row(1, 1))
        assert "samples" not in shown.bars.line(shown.bar)
    patience.Progress("samples", 3).step()
    assert capsys.readouterr().out == "", "nobody listens any more"


def test_a_comparison_says_how_far_it_is_and_what_its_runs_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch, "QUIET_SECONDS", -1)
    asked = [f"root={tmp_path}", "env=quadratic", "optimizer=fixed", "budget={amount: 9, unit: updates}"]
    jobs = [Job([*asked, f"seed={seed}"], quadratic(tmp_path, f"seed={seed}", updates=9)) for seed in (0, 1)]
    assert launch.work(jobs, 1) == {}
    said = capsys.readouterr().out
    assert "  0/2 runs done, 0 %, 0:00:0" in said
    assert "  1/2 runs done, 50 %, 0:00:" in said
    assert "  fixed/seed=0, starts, 0 %, " in said
    assert "[2/2] " in said
    log = (jobs[0].folder / "log.txt").read_text()
    assert "makes the environment and its data\n" in log
    assert "warms up, off the clock\n" in log


def test_a_run_that_has_no_row_yet_says_what_it_is_doing(tmp_path, bars):
    job = Job([], quadratic(tmp_path))
    job.folder.mkdir(parents=True)
    (job.folder / "log.txt").write_text(f"{job.folder}: warms up, off the clock\n")
    job.task = bars.add(launch._name(job, [job]), 1.0)
    launch._show(job, bars)
    assert screen(bars)[0].startswith("fixed/seed=0, warms up, off the clock ")
