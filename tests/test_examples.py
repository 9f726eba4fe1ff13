"""Every example runs as it is written, and shows what it says that one sees."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def output_of(name: str, folder: Path) -> str:
    """What an example prints; a warning is an error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "error", str(ROOT / "examples" / name)]
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


def test_every_example_is_tested_and_says_how_it_is_started() -> None:
    tested = Path(__file__).read_text()
    for path in EXAMPLES:
        assert f'output_of("{path.name}"' in tested
        assert f"python examples/{path.name}" in path.read_text().split('"""')[1]


def test_minimal(tmp_path: Path) -> None:
    text = output_of("minimal.py", tmp_path)
    (before,) = numbers(r"before training: ([\d.]+)", text)
    after = numbers(r"step +\d+: ([\d.]+)", text)
    assert len(after) == 10
    assert after[-1] < before
    assert "320 samples, 20 training steps" in text


def test_stable_baselines(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    first, last, gradient = numbers(r"mean reward (-[\d.]+)", output_of("stable_baselines.py", tmp_path))
    assert first < last < gradient < 0


def test_nevergrad_loop(tmp_path: Path) -> None:
    text = output_of("nevergrad_loop.py", tmp_path)
    (before,) = numbers(r"initial decision vector: ([\d.]+)", text)
    (end,) = numbers(r"recommendation: loss ([\d.]+)", text)
    assert end < before / 10


def test_export_mesh(tmp_path: Path) -> None:
    pytest.importorskip("manifold3d")
    text = output_of("export_mesh.py", tmp_path)
    files = sorted(tmp_path.glob("*.glb"))
    assert len(files) == 3
    assert all(path.name in text and path.stat().st_size > 1000 for path in files)
