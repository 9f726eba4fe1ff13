"""The page that one plays with, in a real browser; its figures against those of the tables."""

import math
import re
import shutil
import time

import pytest
from PIL import Image

from hgenv.benchmarks.report import collect, prices, tables
from hgenv.benchmarks.report import map as who_wins
from hgenv.benchmarks.report.__main__ import main
from hgenv.benchmarks.screenshot import browser

from .raw import change_rows, make_run

TABLE = "return [...document.querySelectorAll('#play-table tr')].map(r => [...r.children].map(c => c.textContent))"
SAMPLES = {"basic_random_search": 700, "frugal": 70}


@pytest.fixture
def folder(tmp_path):
    """Two methods: one falls faster by update, but renders ten times as much."""
    for name, samples in SAMPLES.items():
        for seed in range(3):

            def counts(rows, samples=samples):
                rows[0]["training_step_flops"] = 10**11
                for row in rows:
                    row["spent"]["samples"] = samples * row["update"]

            pace = 1.5 if name == "basic_random_search" else 1.0
            errors = [60.0 + 0.1 * seed + 0.01 * seed * k - pace * k for k in range(33)]
            change_rows(make_run(tmp_path, name, seed, errors, amount=64), counts)
    return tmp_path


def best(folder, **changes):
    """Who ends lowest on validation, and where, by the tables; and when the frugal one is at the other's end."""
    runs = collect([folder]).runs
    read = prices.priced(runs, prices.named("core"), changes)
    first = tables.main(read).rows[0]
    share = {row[0]: row[1] for row in tables.against_baseline(read).rows}["frugal"]
    return first[0], float(first[2].split(" ±")[0]), share


@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs the programs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
def test_a_moved_price_changes_who_wins(folder):
    assert main([str(folder)]) == 0
    assert "## Over all environments" in (folder / "report.md").read_text()
    with browser((1200, 1000)) as page:

        def ask(script):
            return page.ask(script)

        def said():
            return ask("return document.getElementById('play-verdict').textContent")

        def move(slider, seconds):
            ask(
                f"const s = document.getElementById('{slider}'); s.value = Math.log10({seconds});"
                "s.dispatchEvent(new Event('input'));"
            )

        page.open(folder / "report.html")
        for _ in range(50):
            if "ends lowest" in said():
                break
            time.sleep(0.2)
        assert said().startswith("With 64 CPU + GPU time (s) for each run: On validation, basic_random_search ends lo")
        for sample, step in ((1e-5, 1.0), (10.0, 0.5), (0.1, 20.0)):
            move("play-sample", sample)
            move("play-step", step)
            winner, figure, share = best(folder, sample=sample, training_step=step)
            words = re.search(r"On validation, (\w+) ends lowest, with mean \(°\) ([0-9.]+):", said())
            assert words is not None, said()
            assert words[1] == winner
            assert float(words[2]) == pytest.approx(figure, abs=0.4)  # moments of another grid
            row = next(cells for cells in ask(TABLE) if cells[0] == "frugal")
            if share == "never":
                assert row[4] == "never"
            else:
                assert float(row[4]) == pytest.approx(float(share), abs=0.05)
        assert {best(folder, sample=s, training_step=t)[0] for s, t in ((1e-5, 1.0), (10.0, 0.5))} == set(SAMPLES)
        ask("document.getElementById('play-seeds').click()")
        lines = ask("return document.getElementById('play-figure').data.length")
        assert lines == 2 * 2 * (1 + 3)  # optimizers, panels; the mean and the seeds
        assert ask("return performance.getEntriesByType('resource').length") == 0  # it asks for nothing else


def test_the_map_says_what_the_tables_say(folder, tmp_path):
    runs = collect([folder]).runs
    for ratio in (1e-5, 20.0):
        read = prices.priced(runs, prices.named("core"), {"sample": ratio, "training_step": 1.0, "update": 0.0})
        shares = {row[0]: row[1] for row in tables.against_baseline(read).rows}
        name, share = who_wins.first(runs, ratio)
        assert shares[name] == (f"{share:.2f}" if share < math.inf else "-")
        assert all(float(other) >= share for other in shares.values() if other not in ("-", "never"))
    assert main([str(folder), "--map", str(tmp_path / "map.png")]) == 0
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 20


def test_a_map_needs_the_baseline(tmp_path, capsys):
    make_run(tmp_path, "fixed", 0, [40.0, 20.0])
    assert main([str(tmp_path), "--map", str(tmp_path / "map.png")]) == 1
    assert "quadratic: no run of basic_random_search has ended" in capsys.readouterr().err


def test_no_label_gets_out_of_the_data(folder, tmp_path):
    name = "</script><b>&"
    for seed in range(3):
        make_run(tmp_path / "odd", "odd", seed, [40.0, 20.0 + seed])
    for path in (tmp_path / "odd").rglob("config.yaml"):
        path.write_text(path.read_text().replace('"label": "odd"', f'"label": "{name}"'))
    assert main([str(tmp_path / "odd")]) == 0
    text = (tmp_path / "odd" / "report.html").read_text()
    data = text[text.index('id="play-data">') :]
    assert data.index("\\u003c/script\\u003e\\u003cb\\u003e\\u0026") < data.index("</script>")
