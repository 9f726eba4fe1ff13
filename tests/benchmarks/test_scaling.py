"""The simulation of machines against closed forms, against what was measured, and against what is committed."""

import csv
import math
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("simpy", reason="pip install 'hgenv[test]' brings it")

from hgenv.benchmarks import scaling
from hgenv.benchmarks.scaling import COUNTS, IDEAL, PRICES, Cluster, Machines, amdahl, ideal, update_seconds

from .tools import REPOSITORY

METHODS = scaling.methods()
BLENDER = PRICES["as Blender's Cycles"]


def test_methods_are_what_the_committed_runs_did():
    # By their settings: 8 directions, two displacements, the 32 samples of the last step, every second update.
    assert METHODS["hybrid_gradient"].displaced == pytest.approx(8 * 2 * 32, rel=0.1)
    assert METHODS["credit_gradient"].displaced == 0
    assert METHODS["basic_random_search"].probes == 4
    assert METHODS["evolution"].probes == 8
    assert [method.period for method in METHODS.values()] == [2, 2, 4, 4, 1]


@pytest.mark.parametrize("machines", [1, 3, 64, 1000])
@pytest.mark.parametrize("render", PRICES.values())
def test_where_nothing_waits_or_breaks_it_takes_what_a_division_says(machines, render):
    for name in ("hybrid_gradient", "credit_gradient", "basic_random_search", "evolution"):
        simulated = update_seconds(METHODS[name], machines, render, IDEAL)
        assert simulated == pytest.approx(ideal(METHODS[name], machines, render), rel=1e-9)


def test_no_simulation_is_faster_than_amdahl_says():
    for method in METHODS.values():
        for machines in (10, 1000):
            bound = amdahl(method, machines, BLENDER)
            assert ideal(method, 1, BLENDER) / ideal(method, machines, BLENDER) <= bound
            if method.probes < scaling.WIDE:
                assert ideal(method, 1, BLENDER) / update_seconds(method, machines, BLENDER, Cluster()) < bound


def test_the_last_of_many_stragglers_is_where_its_distribution_says():
    count, spread = 50, 0.3
    # The mean of the largest of n: the integral of 1 - F(t)^n, with F of a log-normal variable of mean 1.
    times = np.linspace(1e-9, 5, 20001)
    below = np.array([0.5 * math.erfc(-(math.log(t) + spread**2 / 2) / (spread * math.sqrt(2))) for t in times])
    expected = np.trapezoid(1 - below**count, times)
    took = []
    for seed in range(200):
        world = Machines(count, replace(IDEAL, spread=spread), seed)
        world.clock.run(world.clock.process(world.share(count, 1.0, 0, 0)))
        took.append(world.clock.now)
    assert np.mean(took) == pytest.approx(expected, rel=0.03)


def test_what_is_sent_waits_in_line():
    world = Machines(4, replace(IDEAL, throughput=100.0, latency=0.5))
    world.clock.run(world.clock.process(world.share(4, 1.0, 0, 200)))
    # Each begins after one latency, works a second, and after another the four answers take two seconds each.
    assert world.clock.now == pytest.approx(0.5 + 1 + 0.5 + 4 * 2)


def test_lost_machines_cost_their_part_of_a_task_and_nothing_else():
    world = Machines(1, replace(IDEAL, lifetime=50.0, patience=10.0))
    world.clock.run(world.clock.process(world.task(1000.0, 0, 0, parts=100)))
    assert world.lost > 5
    # A part that is lost has lasted 10 s at most, and was missed for 10.
    assert 1000 + 10 * world.lost < world.clock.now < 1000 + 20 * world.lost


def test_two_processes_do_what_was_measured():
    # benchmarks/results/speed/probes.txt: eight probes in this machine's workers.
    text = (REPOSITORY / "benchmarks" / "results" / "speed" / "probes.txt").read_text()
    seconds = {int(n): float(s) for n, s in re.findall(r"^(\d)\s+([\d.]+)", text, re.MULTILINE)}
    simulated = {n: scaling.probe_seconds(8, seconds[1] / 8, n) for n in (1, 2)}
    assert simulated[1] / simulated[2] == pytest.approx(seconds[1] / seconds[2], rel=0.05)

    # Two runs at a time, and one alone, of the fixed beta on photos: wall seconds an update.
    with scaling.STUDY.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["optimizer"] == "fixed"]
    wall = {
        name: np.mean([float(r["wall_seconds"]) / float(r["updates"]) for r in rows if r["environment"] == name])
        for name in ("shapes_lab-mbii-diffuse", "shapes_lit-mbii-diffuse")  # alone; two at a time
    }
    measured = 2 * wall["shapes_lab-mbii-diffuse"] / wall["shapes_lit-mbii-diffuse"]
    assert scaling.sweep_seconds(1, IDEAL, runs=50) / scaling.sweep_seconds(2, Cluster(), runs=50) == pytest.approx(
        measured, rel=0.05
    )


def test_the_committed_table_is_what_the_code_says():
    with (scaling.OUT / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(COUNTS) * (len(PRICES) * len(METHODS) + 1)
    for row in rows:
        if row["machines"] in ("10", "1000") and row["what"] in ("credit_gradient", "evolution"):
            took = update_seconds(METHODS[row["what"]], int(row["machines"]), PRICES[row["render"]], Cluster())
            assert f"{took:.4g}" == row["seconds"]


def test_the_page_says_what_the_table_says():
    with (scaling.OUT / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    found = 0
    for row in rows:
        if row["machines"] == "10":
            figures = [
                f"{float(other['speed-up']):.3g}"
                for other in rows
                if (other["what"], other["render"]) == (row["what"], row["render"])
                and other["machines"] in ("10", "100", "1000")
            ]
            name, said = row["what"].replace("_", " "), " | ".join(figures)
            assert re.search(rf"^\| {name} \| [^|]+ \| {re.escape(said)} \|", page, re.MULTILINE), (name, said)
            found += 1
    assert found == 11
