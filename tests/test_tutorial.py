"""The pages are run as they are written; their long commands at least make sense, and their links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hgenv.benchmarks.compare import expand
from hgenv.benchmarks.config import compose

from . import zygote

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/bring-your-own.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])
# Pages with code, besides the tutorial.
RUN = ("quick-start", "concepts", "environments", "optimizers", "accounting", "own-photos", "your-network")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def needed() -> list[str]:
    """What registers the environment."""
    return [block for block in BLOCKS if re.search(r"class (Disc|Radius)", block)]


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run this Python elsewhere, on this repository."""
    environment = os.environ | {"PYTHONPATH": f"{cwd}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_registering_an_environment_takes_less_than_60_lines() -> None:
    assert len(needed()) == 3
    assert sum(len(block.splitlines()) for block in needed()) < 60


def test_the_tutorial_runs_and_its_parts_conform(tmp_path: Path) -> None:
    (tmp_path / "test_discs.py").write_text("\n".join(BLOCKS))
    words = ["-W", "error", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_discs.py"]
    result = call(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) >= 20
    errors = dict(re.findall(r"(\w+) \{'error': ([0-9.]+)\}", result.stdout))
    for name in ("hybrid_gradient", "credit_gradient", "careful", "spsa"):
        assert float(errors[name]) < float(errors["fixed"])
    # What the kit is said to say is what it says.
    (said,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    assert said in result.stdout


def test_the_tutorials_environment_runs_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [block for block in BLOCKS if re.search(r"^class Simultaneous|^careful =", block, re.MULTILINE)]
    code = "\n".join([*needed(), *own])
    (tmp_path / "discs.py").write_text(code[: code.index("\nfor name")])
    files = dict(
        zip(re.findall(r"`(\w+/\w+\.yaml)`", TEXT), re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL), strict=True)
    )
    assert list(files) == ["env/discs.yaml", "optimizer/spsa.yaml"]
    for name, text in files.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True)
        (tmp_path / "conf" / name).write_text(text)
    (command,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    assert command.startswith("hgenv compare ")
    words = shlex.split(command)
    replaced = {"optimizer=credit_gradient,spsa,fixed": "optimizer=spsa,fixed", "seed=0,1": "seed=0"}  # shorter
    assert replaced.keys() <= set(words)
    words = [replaced.get(word, word) for word in words]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = zygote.call(*words, "budget={amount: 3, unit: updates}", "env.batch_size=16", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("spsa", "fixed"):
        assert (tmp_path / f"runs/default/discs/{name}/seed=0/DONE.json").is_file()
    report = (tmp_path / "runs/default/report.md").read_text()
    assert "error of the radius (% of half a frame)" in report
    assert "spsa" in report


def test_photos_of_ones_own_are_tuned_on_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/own-photos.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    own = "\n\ndef photos():\n    return validation, test\n"
    (tmp_path / "mine.py").write_text(code[: code.index("\nenv = ")] + own)
    (command,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    words = ["optimizer=fixed" if word.startswith("optimizer=") else word for word in shlex.split(command)]
    small = ["seed=0", "budget={amount: 2, unit: updates}", "env.batch_size=2"]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = zygote.call(*[word for word in words if not word.startswith("seed=")], *small, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "runs/default/shapes_lit-photos/fixed/seed=0/DONE.json").is_file()
    assert "two balls" in (tmp_path / "runs/default/report.md").read_text()


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{name}.md" for name in RUN)])
def test_the_code_of_pages_runs(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, since another one would spend its time on imports."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), path, "exec"), {"__name__": path})


def test_every_page_with_code_is_run() -> None:
    with_code = {path.stem for path in PAGES if path.parent.name == "docs" and "```python" in path.read_text()}
    assert with_code == {*RUN, "bring-your-own", "black-box"}  # the last two by tests of their own


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub write them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[ ]", "-", re.sub(r"[^\w\- ]", "", heading.lower())) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in slugs(found), f"{page.name} links to {target}"


@pytest.mark.parametrize("path", ["README.md", "docs/quick-start.md", "benchmarks/results/README.md"])
def test_the_settings_in_commands_exist(path: str) -> None:
    text = (ROOT / path).read_text().replace("\\\n", " ").replace("seed=$seed", "seed=0")
    commands = re.findall(r"hgenv (?:run|compare) ([^`\n\"#]*=[^`\n\"#]*)", text)
    commands = [command for command in commands if "--config-dir" not in command]  # somebody's own settings
    assert len(commands) >= 2
    for command in commands:
        overrides = [part for part in shlex.split(command) if "=" in part and not part.startswith("workers=")]
        for combination in expand(overrides):
            compose(combination)
