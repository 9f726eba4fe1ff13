"""Tuning: which trials are made, and what is read of them; the runs themselves are written by hand."""

import pytest

from hgenv.benchmarks import trials
from hgenv.benchmarks.compare import expand
from hgenv.benchmarks.config import RunError, compose
from hgenv.optimizers import REGISTRY

from .raw import make_run


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Runs that end the lower the smaller their learning rate; gives the settings that were asked for."""
    found = []

    def make(arguments, workers, config_dir, each=((),)):
        folders = []
        for further in each:
            for overrides in expand([*arguments, *further]):
                identity = compose(overrides).identity
                found.append(identity)
                optimizer, seed = identity["optimizer"], identity["seed"]
                end = 20 + 100 * optimizer["rule"]["learning_rate"] + seed
                folder = make_run(tmp_path, optimizer["label"], seed, [60.0, 50.0, end, end, end, end])
                folders.append(tmp_path / "study" / "quadratic" / optimizer["label"] / f"seed={seed}")
                assert folder is None or folder == folders[-1]
        return folders, {}

    monkeypatch.setattr(trials, "compare", make)
    return found


def test_trials_are_made_and_ranked_by_validation(asked, capsys, tmp_path):
    words = ["optimizer=combined,basic_random_search", "env=quadratic", "seed=0,1", "trials=5"]
    assert trials.main(words) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "study" / "trials.md").read_text() in text
    assert "test" not in (tmp_path / "study" / "trials.md").read_text()
    combined, search = text.split("## ")[1:]
    for part, name in ((combined, "combined"), (search, "basic_random_search")):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
        ratios = [float(row[1]) for row in rows[2:]]
        assert ratios == sorted(ratios)
        rates = {
            int(i["optimizer"]["label"][-2:]): i["optimizer"]["rule"]["learning_rate"]
            for i in asked
            if i["optimizer"]["label"].startswith(f"{name}-trial")
        }
        assert len(rates) == 5
        assert [int(row[0]) for row in rows[2:]] == sorted(rates, key=rates.__getitem__)
        assert next(row for row in rows[2:] if row[0] == "0")[-1] == "as configured"
    assert {i["seed"] for i in asked} == {0, 1}


@pytest.mark.parametrize("name", sorted(trials.SPACES))
def test_spaces_name_settings_that_optimizers_have(name):
    assert name in REGISTRY
    found = trials.settings_of(name, 16)
    assert found[0] == []
    assert len({tuple(own) for own in found}) == 16
    composed = compose([f"optimizer={name}", *found[7]]).identity["optimizer"]
    configured = compose([f"optimizer={name}"]).identity["optimizer"]
    assert composed != configured
    assert trials.settings_of(name, 16) == found  # the same for everybody
    assert trials.settings_of(name, 4) == found[:4]


def test_what_makes_no_sense_is_said(asked, capsys):
    for words, message in (
        (["env=quadratic"], "name the optimizers"),
        (["optimizer=fixed", "env=quadratic"], "has nothing to be tuned"),
        (["optimizer=combined", "trials=1"], "trials must be a whole number of at least 2, not '1'"),
    ):
        assert trials.main(words) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(RunError, match=r"no setting optimizer\.rule\.speed"):
        trials._value({"label": "it", "rule": {"rate": 1}}, "rule.speed")
