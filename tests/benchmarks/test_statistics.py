"""The statistics over environments, against scipy and by hand."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from hgenv.benchmarks.report import collect, statistics

from .raw import make_run


def test_the_interquartile_mean_leaves_out_the_ends():
    assert statistics.interquartile_mean(np.array([100.0, 3, 4, 5, 6, 7, 8, -50])) == 5.5


def test_probability_of_improvement_is_mann_and_whitneys_u():
    random = np.random.default_rng(0)
    ours = [random.integers(0, 6, n).astype(float) for n in (5, 7)]  # with ties
    theirs = [random.integers(1, 7, n).astype(float) for n in (4, 7)]
    expected = np.mean([
        stats.mannwhitneyu(y, x, method="asymptotic").statistic / (len(x) * len(y))
        for x, y in zip(ours, theirs, strict=True)
    ])  # fmt: skip
    assert statistics.probability_of_improvement(ours, theirs, "min") == pytest.approx(expected)
    assert statistics.probability_of_improvement(ours, theirs, "max") == pytest.approx(1 - expected)
    assert statistics.probability_of_improvement(ours, ours, "min") == 0.5


def test_the_bootstrap_is_scipys_within_each_stratum():
    random = np.random.default_rng(1)
    one, other = random.normal(size=12), random.normal(loc=100.0, size=9)
    low, high = statistics.bootstrapped(lambda strata: strata[0].mean(-1), [one], 0)
    theirs = stats.bootstrap((one,), np.mean, method="percentile", n_resamples=5000, rng=2).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06)
    # Were the strata mixed, the mean of all would move by their distance.
    low, high = statistics.bootstrapped(lambda strata: np.concatenate(strata, -1).mean(-1), [one, other], 0)
    assert high - low < 2


def test_targets_and_how_soon_they_are_reached(tmp_path):
    """From 60 to 20 in a straight line, and to 40; validation is one larger."""
    make_run(tmp_path, "good", 0, [60.0 - 0.4 * k for k in range(101)], amount=200)
    make_run(tmp_path, "bad", 0, [60.0 - 0.2 * k for k in range(101)], amount=200)
    runs = {run.optimizer: run for run in collect([tmp_path]).runs}
    targets = statistics.ladder(list(runs.values()))
    # Early: after a twentieth, 5 updates, of a window of 5 before: 61 - 1.2 and 61 - 0.6. Best: 61 - 39.
    assert targets[-1] == pytest.approx(21 + 0.4 * 2.5, abs=0.5)
    assert targets[0] < 60.1
    assert len(targets) == statistics.TARGETS
    good, bad = (statistics.times_to(runs[name], targets) for name in ("good", "bad"))
    assert np.isfinite(good).all()
    assert (np.diff(good) >= 0).all()
    assert good[-1] == pytest.approx(1.0)
    assert np.isfinite(bad).sum() == pytest.approx(statistics.TARGETS / 2, abs=1)
    # What falls half as fast takes twice as long.
    there = np.isfinite(bad) & (good > 0.1)
    assert bad[there] == pytest.approx(2 * good[there], abs=0.06)


def test_misses_are_paid_for():
    assert statistics.expected_running_time(np.array([0.2, math.inf, 0.4])) == pytest.approx((0.2 + 1 + 0.4) / 2)
    assert statistics.expected_running_time(np.array([math.inf])) == math.inf


def test_the_table_over_all_environments(tmp_path):
    for place, shift in (("one", 0.0), ("two", 10.0)):
        for name, gain in (("basic_random_search", 0.3), ("quick", 0.5)):
            for seed in range(4):
                errors = [60.0 + shift + seed - gain * k for k in range(61)]
                make_run(tmp_path, name, seed, errors, amount=120, env={"id": "x", "label": place})
    lines = {row[0]: row[1:] for row in statistics.together(collect([tmp_path]).runs).rows}
    places, ratio, better, *_, reached, middle = lines["quick"]
    assert (places, better) == ("2", "1.00 [1.00, 1.00]")
    found = re.fullmatch(r"([0-9.]+) \[([0-9.]+), ([0-9.]+)\]", ratio)
    # On validation over the last tenth, updates 54 to 60, it ends at 61 - 0.5 * 57 + seed, the other at 61 - 0.3 * 57.
    ends = [(61 + s - 28.5 + shift) / (61 + 1.5 - 17.1 + shift) for shift in (0, 10) for s in range(4)]
    assert float(found[1]) == pytest.approx(stats.trim_mean(ends, 0.25), abs=2e-3)
    assert float(found[2]) < float(found[1]) < float(found[3])
    assert reached.endswith("%")
    assert 0 < float(middle) < 1
