from hgenv.benchmarks import checkpoint, compare
from hgenv.benchmarks.run import run

from .tools import quadratic


def test_comma_lists_stand_for_every_combination():
    combinations = compare.expand(["env=quadratic", "optimizer=fixed,evolution", "seed=0,1"])
    assert combinations == [
        ["env=quadratic", f"optimizer={name}", f"seed={seed}"] for name in ("fixed", "evolution") for seed in (0, 1)
    ]


def test_arguments_that_make_no_sense_are_named(tmp_path, capsys):
    for arguments, message in (
        (["--configdir", "conf"], "unknown option --configdir"),
        (["--config-dir"], "--config-dir needs a folder"),
        (["--config-dir", str(tmp_path / "nowhere")], "nowhere is no folder"),
        (["workers=many"], "workers must be a whole number"),
        (["workers=0"], "workers must be at least 1"),
        (["workers=2", "hydra/launcher=cores"], "workers=2 is for runs without a launcher"),
        (["optimizer.rule.learning_rate=0.1,0.2"], "several runs would have the folder"),
        (["optimizer=hybrid"], "hybrid_gradient"),
        (["optimizer.stride=1"], "has no setting 'stride'"),
    ):
        assert compare.main([f"root={tmp_path}", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_compare_runs_what_is_missing_and_names_what_failed(tmp_path, capsys):
    arguments = [
        f"root={tmp_path}", "env=quadratic", "optimizer=fixed,basic_random_search", "seed=0",
        "budget={amount: 5, unit: updates}", "workers=2",
    ]  # fmt: skip
    broken = tmp_path / "default" / "quadratic" / "fixed" / "seed=0"
    run(quadratic(tmp_path, updates=5))
    (broken / "DONE.json").unlink()
    (broken / "rows.jsonl").write_bytes(b"\x80 garbage \xff\n" * 9)
    assert compare.main(arguments) == 1
    said = capsys.readouterr()
    assert f"{broken} failed" in said.err
    assert "rows.jsonl: line 1 is damaged" in said.err
    assert f"EXCLUDED {broken}" in said.out
    assert (tmp_path / "default" / "quadratic" / "basic_random_search" / "seed=0" / "DONE.json").is_file()

    for path in checkpoint.find(broken):
        path.unlink()
    (broken / "rows.jsonl").unlink()
    assert compare.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("nothing to do") == 1
