"""The `hgenv` command, as a shell calls it."""

import subprocess
import sys
from pathlib import Path

import pytest

import hgenv
from hgenv.benchmarks.command import COMMANDS, choices, main

CONFIGS = Path(__file__).parents[2] / "configs"


def call(*words, cwd):
    return subprocess.run([sys.executable, "-m", "hgenv", *words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_it_says_what_it_can_do(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


def test_it_knows_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hgenv {hgenv.__version__}\n"


def test_what_there_is_not_is_answered_with_what_there_is(capsys):
    assert main(["compar"]) == 2
    assert "no command 'compar'; the commands are run, compare, report" in capsys.readouterr().err
    assert main(["environments", "shape"]) == 2
    assert "no env=shape; there are faces, quadratic, shapes" in capsys.readouterr().err
    assert main(["optimizers", "cma"]) == 2
    assert "no optimizer=cma; there are " in capsys.readouterr().err


@pytest.mark.parametrize(("command", "group"), [("environments", "env"), ("optimizers", "optimizer")])
def test_all_that_can_be_chosen_is_listed_and_explained(command, group, capsys):
    assert main([command]) == 0
    said = capsys.readouterr().out
    names = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    assert names == set(choices(group))
    assert all(f"{group}={name} " in said for name in names)
    assert all(choices(group).values())


def test_every_setting_of_one_is_shown(capsys):
    assert main(["optimizers", "credit_gradient"]) == 0
    said = capsys.readouterr().out
    assert "sigma: 0.1" in said
    assert "period: 2" in said


def test_runs_and_reports_go_through_it(tmp_path):
    words = ["env=quadratic", "budget={amount: 3, unit: updates}", "study=mine"]
    run = call("run", *words, "optimizer=fixed", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    wrong = call("run", *words, "optimizer=fixd", cwd=tmp_path)
    assert wrong.returncode != 0
    assert "fixed" in wrong.stderr
    report = call("report", "runs/mine", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()


def test_a_board_without_logs_says_so(tmp_path, capsys):
    assert main(["board", str(tmp_path)]) == 1
    assert "no logs here; name the folder of a study" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path):
    code = (
        "import sys; sys.modules['rich.progress'] = None; from hgenv.benchmarks.command import main; main(['compare'])"
    )
    # A module that is None there is one that cannot be found.
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "no module 'rich.progress' here; the command needs a few packages more: pip install 'hgenv[bench]'" in (
        done.stderr
    )
