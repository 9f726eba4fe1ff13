"""On the quadratic, where dL/dbeta is known, differences of L and the hybrid estimate both point along it."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import ablation
from hgenv.env import DataGenEnv


def test_the_reference_is_the_closed_form() -> None:
    from benchmarks.run import compose, make_environment, settings

    env = make_environment(settings(compose(["env=quadratic"])))
    assert isinstance(env, DataGenEnv)
    bench = ablation.Bench(env, warm=3)
    reference = bench.reference(0, sigma=1e-3)
    env = bench.at(0)
    env.step(env.space.initial)
    torch.testing.assert_close(reference, env.exact_slopes().sum(0), rtol=1e-5, atol=1e-9)


def test_report_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablation.main(["--out", str(tmp_path), "--warm", "2", "--draws", "4", "--references", "6", "env=quadratic"])
    capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 6 + 4 * len(ablation.ESTIMATORS)
    report = (tmp_path / "report.md").read_text()
    cell = r"([-0-9.]+) / [-0-9.]+ \(([0-9.e+]+)\)"
    exact = re.search(rf"\| hybrid, all coordinates, exact light \| {cell} \|", report)
    noisy = re.search(rf"\| basic random search, 2 pairs, sigma 0.1 \| {cell} \|", report)
    assert exact is not None
    assert noisy is not None
    assert float(exact[1]) > max(0.9, float(noisy[1]))
    assert float(exact[2]) < min(0.5, float(noisy[2]))
