"""Which names of classes a stranger's folder may have looked up, and which may be made."""

import copy
import sys
from typing import Any

import pytest

from hgenv.benchmarks import compare, defaults
from hgenv.benchmarks.config import compose, differences, is_ours
from hgenv.benchmarks.defaults import SettingError
from hgenv.benchmarks.run import run


@pytest.mark.parametrize(
    "env",
    ["shapes", "shapes_lit", "shapes_lab", "shapes_studio", "shape_population", "faces", "faces_lit", "quadratic"],
)
def test_what_comes_with_hgenv_is_made_without_asking(env: str) -> None:
    assert is_ours(compose([f"env={env}"]).record)


@pytest.mark.parametrize(
    "name",
    [
        "hgenv.benchmarks.parent.Child",  # a process, by a class of ours
        "hgenv.benchmarks.files.Appended",
        "hgenv.pool.Pool",
        "hgenv.__main__.main",
        "hgenv.learning.rules.torch.nn.Linear",
        "hgenv.probing.Pool",
        "subprocess.Popen",
        "os.system",
        "unittest.__main__.main",
    ],
)
def test_other_classes_are_made_for_those_who_trust_a_folder_alone(name: str) -> None:
    record: dict[str, Any] = copy.deepcopy(compose(["env=quadratic"]).record)
    record["env"]["unroll_steps"] = {"_target_": name, "command": ["/bin/sh", "-c", "exit"], "log": None, "env": {}}
    assert not is_ours(record)
    record = copy.deepcopy(compose(["env=quadratic"]).record) | {"where": {"prober": {"_target_": name}}}
    assert not is_ours(record)


@pytest.mark.parametrize(
    "name", ["unittest.__main__.x", "numpy.f2py.__main__.x", "hgenv.__main__.x", "this.x", "antigravity.x"]
)
def test_a_recorded_name_makes_nothing_be_imported(name: str) -> None:
    """Modules that are packages' main programs, or do something when they are imported."""
    current = compose(["env=quadratic"]).identity
    recorded = copy.deepcopy(current)
    recorded["env"]["rule"] = {"_target_": name}
    before = set(sys.modules)
    assert any(name in text for text in differences(recorded, current))
    assert not {module for module in set(sys.modules) - before if not module.startswith("hgenv.")}


def test_a_module_that_ends_the_process_is_an_error_in_words(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match=r"cannot find 'leaves_at_once\.Thing'"):
        defaults.find("leaves_at_once.Thing", "env")


def test_a_comparisons_own_report_trusts_no_run_that_it_did_not_ask_for(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"root={tmp_path}", "env=quadratic", "optimizer=fixed", "budget={amount: 3, unit: updates}"]
    settings = compose(words)
    run(settings)
    config = settings.folder / "config.yaml"
    config.write_text(config.read_text().replace("hgenv.SGD", "unittest.__main__.x"))
    before = set(sys.modules)
    assert compare.main(words) == 1
    assert "was made by another configuration" in capsys.readouterr().err
    assert "unittest.__main__" not in set(sys.modules) - before
    assert "hgenv report --trust runs it" in (tmp_path / "default/report.md").read_text()
