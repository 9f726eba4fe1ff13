"""On the quadratic, where dL/dbeta is known, differences of L and the hybrid estimate both point along it."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hgenv.benchmarks import ablation
from hgenv.benchmarks.config import compose, make_environment
from hgenv.benchmarks.studies import read_estimates
from hgenv.generators import ShapeGenerator


def test_the_reference_is_the_closed_form() -> None:
    bench = ablation.Bench(make_environment(compose(["env=quadratic"]).record), warm=3)
    reference = bench.reference(0, sigma=1e-3)
    env = bench.at(0)
    env.step(env.space.initial)
    assert env.last is not None
    exact = env.last.sample_gradient().pathwise().sum(0)
    torch.testing.assert_close(reference, exact, rtol=1e-5, atol=1e-9)


def test_metasmoothness_is_one_where_training_is_linear_in_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ablation.Bench(make_environment(compose(["env=quadratic"]).record), warm=1)
    assert [bench.metasmoothness(component, 0.05, 0) for component in range(4)] == pytest.approx([1.0] * 4)
    # By hand: weights go by (1, -2), then by (1, 1); the signs agree with a weight of 1, and not with one of 2.
    ends = iter([[0.0, 0.0], [1.0, -2.0], [2.0, -1.0]])

    class Trained:
        def rollout(self, betas: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(end=SimpleNamespace(weights={"w": torch.tensor(next(ends))}))

    monkeypatch.setattr(bench, "at", lambda draw: Trained())
    assert bench.metasmoothness(0, 0.05, 0) == pytest.approx(-1 / 3)


def test_components_are_grouped_by_what_the_space_says() -> None:
    generator = ShapeGenerator(lit=True)
    groups = ablation.component_groups(generator)
    assert list(groups) == ["all", "probabilities", "others", "pathwise"]
    assert sorted(groups["probabilities"] + groups["others"] + groups["pathwise"]) == groups["all"]
    pathwise = [i for name in generator.pathwise for i in range(37)[generator.space.slice(name)]]
    assert groups["pathwise"] == sorted(pathwise)


def test_report_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--warm", "2", "--draws", "4", "--references", "6"]
    ablation.main(["--out", str(tmp_path), *sizes, "--only", "^hybrid, all coordinates", "env=quadratic"])
    first, _ = read_estimates(tmp_path)
    ablation.main(["--out", str(tmp_path), *sizes, "--only", "^basic|score influence, 0|pathwise$", "env=quadratic"])
    printed = capsys.readouterr().out.split("# Estimates of dL/dbeta")[-1]
    rows, facts = read_estimates(tmp_path)
    estimators = {row["estimator"] for row in rows} - {"reference"}
    assert {row["estimator"] for row in first} - {"reference"} < estimators < set(ablation.ESTIMATORS)
    assert len(rows) == 6 + 4 * len(estimators)
    clipped = "hybrid, all coordinates, pathwise, samples clipped"  # it stays as it was, and so does the reference
    for name in (clipped, "reference"):
        assert [r for r in rows if r["estimator"] == name] == [r for r in first if r["estimator"] == name]
    assert {row["environment"] for row in rows} == set(facts) == {"quadratic, K x B = 4 x 8"}
    report = (tmp_path / "report.md").read_text()
    assert report.strip().endswith(printed.strip())
    cell = r"([-0-9.]+) / [-0-9.]+ \(([0-9.e+]+)\)"
    exact = re.search(rf"\| hybrid, all coordinates, pathwise \| {cell} \|", report)
    noisy = re.search(rf"\| basic random search, 2 pairs, sigma 0.1 \| {cell} \|", report)
    assert exact is not None
    assert noisy is not None
    assert float(exact[1]) > max(0.9, float(noisy[1]))
    assert float(exact[2]) < min(0.5, float(noisy[2]))

    # Another environment joins it, the same one takes its own place, and the rows give the report again.
    small = ["--warm", "1", "--draws", "2", "--references", "2", "env=quadratic"]
    ablation.main(["--out", str(tmp_path), *small, "env.batch_size=2"])
    ablation.main(["--out", str(tmp_path), *small, "--only", "combined", "env.batch_size=2"])
    rows, facts = read_estimates(tmp_path)
    assert len(rows) == 6 + 4 * len(estimators) + 2 + 2 * len(ablation.ESTIMATORS)
    assert len(facts) == 2
    both = (tmp_path / "report.md").read_text()
    assert report.strip() in both
    (tmp_path / "report.md").unlink()
    ablation.main(["--out", str(tmp_path), "--report"])
    assert (tmp_path / "report.md").read_text() == both
