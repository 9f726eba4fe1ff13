"""The `hgenv` command, as a shell calls it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hgenv
from hgenv.benchmarks.command import COMMANDS, choices, main

from .. import zygote

CONFIGS = Path(__file__).parents[2] / "configs"


def call(*words, cwd):
    return zygote.call("hgenv", *words, cwd=cwd)


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
    assert "no env=shape; there are faces, faces_lit, quadratic, shape_population, shapes" in capsys.readouterr().err
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


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-m", "hgenv", "optimizers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "run optimiser=fixed",
            r"no setting 'optimiser'; there are env, optimizer, .*checkpoint_seconds; did you mean opt",
        ),
        ("run optimiser.period=2", r"no setting 'optimiser'; there are .*; did you mean optimizer\?"),
        ("run workers=2", "workers is no setting of a run; hgenv compare takes it"),
        ("run budget.amnt=3", r"budget has no setting 'amnt'; it has amount, unit; did you mean amount\?"),
        ("run seed.x=3", "no setting 'seed.x': seed is a value"),
        ("run optimizer=hybrid", r"no optimizer=hybrid; there are .*, tbpsa; did you mean hybrid_gradient\?"),
        ("run env=quadratc", r"no env=quadratc; there are faces, .*, shapes_studio; did you mean quadratic\?"),
        ("run seed=0,1", r"seed=0,1 has several values: hgenv compare takes them \(or hgenv run --multirun\)"),
        ("run env.batch_size=1,2", r"env.batch_size=1,2 has several values"),
        ("run seed", "'seed' is no setting; settings are written seed=<value>"),
        ("run seed=[", r"'seed=\[' cannot be read"),
        ("run --seed 0", "--seed is a setting, and settings have no dashes: write seed=0"),
        ("run --env.batch_size=8", "settings have no dashes: write env.batch_size=8"),
        ("compare --workers 2", "settings have no dashes: write workers=2"),
        ("compare worker=2", r"no setting 'worker'; .*; did you mean workers\?"),
        ("compare env=quadratc seed=0,1", r"no env=quadratc; there are .*; did you mean quadratic\?"),
        ("run --config-dir nowhere seed=1", "nowhere is no folder"),
    ],
)
def test_what_is_typed_wrong_is_answered_in_a_sentence_with_what_to_type(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hgenv"])
    assert main(words.split()) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(f"error: .*{message}.*\n", said), said
    assert not list(tmp_path.iterdir())


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
