"""Every example runs as it is written, and shows what it says that one sees."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import zygote

ROOT = Path(__file__).parents[1]
Output = Callable[[str], str]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def output_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Output:
    """What an example prints, in an empty folder and in this process: another one would spend its time on imports."""

    def run(name: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


def test_every_example_is_tested_and_says_how_it_is_started() -> None:
    tested = Path(__file__).read_text()
    for path in EXAMPLES:
        assert f'output_of("{path.name}"' in tested
        assert f"python examples/{path.name}" in path.read_text().split('"""')[1]


def test_minimal(output_of: Output) -> None:
    text = output_of("minimal.py")
    (before,) = numbers(r"before training: ([\d.]+)", text)
    after = numbers(r"step +\d+: ([\d.]+)", text)
    assert len(after) == 10
    assert after[-1] < before
    assert "320 samples, 20 training steps" in text


def test_stable_baselines(output_of: Output) -> None:
    pytest.importorskip("stable_baselines3")
    first, last, gradient = numbers(r"mean reward (-[\d.]+)", output_of("stable_baselines.py"))
    assert first < last < gradient < 0


def test_nevergrad_loop(output_of: Output) -> None:
    text = output_of("nevergrad_loop.py")
    (before,) = numbers(r"initial decision vector: ([\d.]+)", text)
    (end,) = numbers(r"recommendation: loss ([\d.]+)", text)
    assert end < before / 10


def test_export_mesh(output_of: Output, tmp_path: Path) -> None:
    pytest.importorskip("manifold3d")
    text = output_of("export_mesh.py")
    files = sorted(tmp_path.glob("*.glb"))
    assert len(files) == 3
    assert all(path.name in text and path.stat().st_size > 1000 for path in files)


def test_digits_are_tuned_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/tune.md has it, but shorter; and the same by `hgenv compare`."""
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "examples/digits", folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = (folder / "tune.yaml").read_text()
    assert spec in (ROOT / "docs/tune.md").read_text().replace("```yaml\n", "# hgenv tune tune.yaml\n")
    short = spec.replace("amount: 60, unit: total_seconds", "amount: 2, unit: updates")
    assert short != spec
    (folder / "tune.yaml").write_text(short + "optimizer: fixed\n")
    result = zygote.call("hgenv.benchmarks.command", "tune", "tune.yaml", cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "On 1597 test samples, accuracy (%) is" in result.stdout
    assert "DejaVuSans" in (folder / "runs/tune/best.yaml").read_text()
    words = ["--config-dir", "conf", "env=digits", "optimizer=score_influence", "seed=0"]
    more = ("budget={amount: 2, unit: updates}", "env.batch_size=8")
    result = zygote.call("hgenv.benchmarks.compare", *words, *more, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (rows,) = folder.glob("runs/default/**/rows.jsonl")
    blocks = json.loads(rows.read_text().splitlines()[0])["blocks"]
    assert sum(block["size"] for block in blocks) == 21  # as the page says
