"""The tutorial and the README are run as they are written; their long commands at least make sense."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare import expand
from benchmarks.run import compose

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "TUTORIAL.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_registering_an_environment_takes_less_than_60_lines() -> None:
    needed = [block for block in BLOCKS if re.search(r"class (Disc|Radius)|def make_discs", block)]
    assert len(needed) == 3
    assert sum(len(block.splitlines()) for block in needed) < 60


def test_the_tutorial_runs_and_its_environment_conforms(tmp_path: Path) -> None:
    (tmp_path / "test_discs.py").write_text("\n".join(BLOCKS))
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_discs.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) >= 12
    errors = dict(re.findall(r"(\w+) \{'error': ([0-9.]+)\}", result.stdout))
    assert float(errors["hybrid_gradient"]) < float(errors["fixed"])
    assert float(errors["credit_gradient"]) < float(errors["fixed"])
    # What the kit is said to say is what it says.
    (said,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    assert said in result.stdout


def test_the_readmes_code_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "shape.glb").stat().st_size > 1000


@pytest.mark.parametrize("path", ["README.md", "benchmarks/results/README.md"])
def test_the_settings_in_commands_exist(path: str) -> None:
    text = (ROOT / path).read_text().replace("\\\n", " ").replace("seed=$seed", "seed=0")
    commands = re.findall(r"python -m benchmarks\.(?:run|compare) ([^`\n\"#]*=[^`\n\"#]*)", text)
    assert len(commands) >= 3
    for command in commands:
        overrides = [part for part in shlex.split(command) if "=" in part and not part.startswith("workers=")]
        for combination in expand(overrides):
            compose(combination)
