"""Runs over the engines themselves: joblib, submitit and Ray are started, and each run is a process of its own."""

import sys

import pytest

from hgenv.benchmarks import compare, records

RUNS = ["env=quadratic", "optimizer=fixed", "budget.unit=updates", "budget.amount=3", "env.label=q${env.batch_size}"]


@pytest.fixture
def _engines_end():
    yield
    for name, end in (
        ("ray", lambda ray: ray.shutdown()),
        ("joblib.externals.loky", lambda loky: loky.get_reusable_executor().shutdown(kill_workers=True)),
    ):
        if name in sys.modules:
            end(sys.modules[name])


@pytest.mark.usefixtures("_engines_end")
@pytest.mark.parametrize(
    ("package", "launcher"),
    [
        ("joblib_launcher", ["hydra/launcher=cores", "hydra.launcher.n_jobs=2"]),
        ("submitit_launcher", ["hydra/launcher=slurm_trial"]),
        ("ray_launcher", ["hydra/launcher=ray_cluster", "hydra.launcher.ray.init.num_cpus=2"]),
    ],
)
def test_a_comparison_over_an_engine(package, launcher, tmp_path, monkeypatch, capfd):
    pytest.importorskip(f"hydra_plugins.hydra_{package}", reason="pip install 'hgenv[cluster,ray]' brings the engines")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # writes a token into the home folder otherwise
    monkeypatch.chdir(tmp_path)
    assert compare.main([*launcher, *RUNS, "env.batch_size=0,8"]) == 1
    said = capfd.readouterr()
    assert "runs/default/q0/fixed/seed=0 failed" in said.err
    assert "batch_size and max_updates must each be at least 1" in said.err
    name = launcher[0].partition("=")[2]
    assert f"handed to the launcher {name}: 2 runs; what each does is in its log.txt, below runs/default\n" in said.out
    assert "[1/2] runs/default/q8/fixed/seed=0: finished\n" in said.out
    assert "q8: quadratic validation" in said.out
    assert not list(tmp_path.glob("runs/default/.*")), "an engine's own files are in no study"
    made = tmp_path / "runs" / "default" / "q8" / "fixed" / "seed=0"
    assert len(records.read(made).rows) == 4
    assert "launcher" not in records.read_done(made)["command"]
    assert not (tmp_path / "runs" / "default" / "q0" / "fixed" / "seed=0" / "rows.jsonl").exists()

    # Once more, there is nothing for an engine to do.
    assert compare.main([*launcher, *RUNS, "env.batch_size=8"]) == 0
    assert capfd.readouterr().out.count("nothing to do") == 1


def test_a_launcher_that_is_not_there_is_named(tmp_path, capsys):
    own = tmp_path / "hydra" / "launcher"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults:\n  - missing\n")  # as `slurm` is where its plugin is not installed
    for name, message in (
        ("slrm", "Could not find 'hydra/launcher/slrm'"),
        ("mine", "Could not load 'hydra/launcher/missing'"),
    ):
        words = [f"root={tmp_path / 'runs'}", f"--config-dir={tmp_path}", f"hydra/launcher={name}"]
        assert compare.main([*words, *RUNS, "env.batch_size=8"]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert "pip install 'hgenv[cluster]'" in said
