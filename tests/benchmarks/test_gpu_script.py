"""The sitting at a GPU, tried without one: that it goes on after what fails, resumes, and measures what it says."""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hgenv import DataError, Network
from hgenv.accounting import Budget
from hgenv.benchmarks.gpu import __main__ as script
from hgenv.benchmarks.gpu import clock, photos, problem, runs, sitting, speed, tables
from hgenv.datasets.photos import NativePhoto, Photos, prepare
from hgenv.optimizers import REGISTRY

SIZE = 16


def hemispheres(names: tuple[str, ...], label: str, size: int = SIZE) -> Photos:
    """Photos that take no time to make."""
    y, x = np.mgrid[-1.2:1.2:40j, -1.2:1.2:40j]
    inside = x**2 + y**2 < 0.98
    normal = np.stack([x, -y, np.sqrt(np.where(inside, 1 - x**2 - y**2, 1))])
    valid = inside & (x < 0.7)
    made = [NativePhoto(name, inside * (0.2 + normal[2]), inside, normal, valid) for name in names]
    return prepare(made, size, label)


@pytest.fixture(scope="module")
def pair() -> photos.Pair:
    return hemispheres(("ball", "bead"), "made validation"), hemispheres(("globe",), "made test")


def python(name: str, code: str, folder: Path, seconds: float = 30) -> sitting.Part:
    return sitting.Part(
        name, seconds, (sys.executable, "-c", f"import pathlib, sys, time; p = {str(folder)!r}; {code}")
    )


def saves(name: str, text: str) -> str:
    return f"pathlib.Path(p, '{name}.partial.json').write_text('{text}');"


def test_a_sitting_goes_on_and_is_resumed(tmp_path: Path) -> None:
    ended: list[str] = []

    def after() -> None:
        ended.append("part")

    parts = [
        python("good", saves("good", "[1]") + "open(p + '/times', 'a').write('x')", tmp_path),
        python("bad", saves("bad", "[2]") + "print('a word of why'); sys.exit(3)", tmp_path),
        python("slow", saves("slow", "[3]") + "time.sleep(60)", tmp_path, seconds=5),
        python("empty", "pass", tmp_path),
    ]
    sitting.hold(parts, tmp_path, 200, after)
    found = {part.name: sitting.read_result(tmp_path, part.name) or {} for part in parts}
    assert [found[part.name]["status"] for part in parts] == ["done", "failed", "out of time", "failed"]
    assert [found[part.name]["result"] for part in parts] == [[1], [2], [3], None]
    assert found["good"]["error"] is None
    assert found["bad"]["error"] == "exit status 3\na word of why"
    assert found["slow"]["error"] == "stopped after 5 s"
    assert found["slow"]["seconds"] < 30
    assert "no result" in found["empty"]["error"]
    assert len(ended) == 4
    assert not list(tmp_path.glob("*.partial.json"))

    # What ended well stays, the rest is done again; nothing is kept of the time before.
    mended = [parts[0], python("bad", saves("bad", "[4]"), tmp_path), python("slow", "sys.exit(1)", tmp_path)]
    sitting.hold(mended, tmp_path, 200, after)
    assert (tmp_path / "times").read_text() == "x"
    assert sitting.read_result(tmp_path, "bad") == {"status": "done", "error": None, "result": [4]} | {
        "seconds": (sitting.read_result(tmp_path, "bad") or {})["seconds"]
    }
    assert (sitting.read_result(tmp_path, "slow") or {})["result"] is None

    # Without time, a part is not begun, and the result says so.
    sitting.hold([python("late", "pass", tmp_path)], tmp_path, 3, after)
    late = sitting.read_result(tmp_path, "late") or {}
    assert late["status"] == "left out"
    assert "call again" in late["error"]


def test_the_script_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--out", str(tmp_path), "--dry-run", "--parts", "generate"]
    assert script.main(command) == 0
    assert "at most" in capsys.readouterr().out
    everything = json.loads((tmp_path / "gpu.json").read_text())
    assert everything["machine"]["dry_run"] is True
    (row,) = everything["parts"]["generate"]["result"]["rows"]
    assert row["samples"] == 4
    assert row["per_second"] > 0
    assert row["waits"] is None
    text = (tmp_path / "gpu.md").read_text()
    assert "| 16 px | 4 |" in text
    assert "dry run" in text
    assert script.main(command) == 0
    assert "there is a result" in capsys.readouterr().out


def test_what_it_needs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main(["--out", str(tmp_path)]) == 1
    assert "no CUDA GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path), "--parts", "tests,nonsense"])
    assert "nonsense" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([])
    assert "--out" in capsys.readouterr().err
    monkeypatch.delenv("HGENV_DATA", raising=False)
    assert script.main(["--pack", str(tmp_path / "photos.npz")]) == 1
    assert "HGENV_DATA" in capsys.readouterr().err
    # A real sitting does not go on in a dry run's folder.
    sitting.write_json(tmp_path / "gpu.json", {"machine": {"dry_run": False, "gpu": None}, "parts": {}})
    assert script.main(["--out", str(tmp_path), "--dry-run"]) == 1
    assert "another folder" in capsys.readouterr().err


def test_the_shares_fit_into_the_time() -> None:
    assert sum(script.SHARES.values()) <= 60 * script.MINUTES - script.APART
    assert script.MINUTES <= 8


def test_what_pytest_says_is_read(tmp_path: Path) -> None:
    (tmp_path / "tests.log").write_text(
        "tests/test_gpu.py::test_a PASSED   [ 20%]\n"
        "tests/test_gpu.py::test_b[x y] FAILED [ 40%]\n"
        "tests/test_gpu.py::test_c SKIPPED (needs a CUDA GPU) [ 60%]\n"
        "tests/test_gpu.py::test_d ERROR [ 80%]\n"
        "FAILED ../somewhere/tests/test_gpu.py::test_b[x y] - assert 1 == 2\n"
        "ERROR tests/test_gpu.py::test_d - OSError: no\n"
        "tests/test_gpu.py::test_e "
    )
    found = script.read_tests(tmp_path)
    assert found == {"passed": 1, "failed": 1, "error": 1, "skipped": 1} | {
        "names": {"tests/test_gpu.py::test_b[x y]": "assert 1 == 2", "tests/test_gpu.py::test_d": "OSError: no"}
    }
    (tmp_path / "tests.log").write_text("no module named pytest\n")
    assert script.read_tests(tmp_path) is None


def test_packed_photos_are_the_photos(tmp_path: Path, pair: photos.Pair) -> None:
    path = tmp_path / "photos.npz"
    larger = hemispheres(("ball", "bead"), "made validation", 32), hemispheres(("globe",), "made test", 32)
    photos.pack(path, {SIZE: pair, 32: larger})
    for whole, read in zip(pair, photos.unpack(path, SIZE), strict=True):
        assert (read.names, read.label) == (whole.names, whole.label)
        torch.testing.assert_close(read.samples.image, whole.samples.image, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(read.samples.target, whole.samples.target, rtol=0, atol=1e-3)
        assert torch.equal(read.samples.mask, whole.samples.mask)
        for there, here in zip(read.native, whole.native, strict=True):
            assert there.window == here.window
            assert torch.equal(there.mask, here.mask)
            inside = here.mask
            cosine = (there.normal * here.normal).sum(0)[inside].double().clamp(max=1)
            assert float(cosine.acos().rad2deg().max()) < 0.05
            assert (there.normal[:, ~inside] == 0).all()
    assert photos.unpack(path, 32)[0].samples.image.shape[-1] == 32
    with pytest.raises(DataError, match="64"):
        photos.unpack(path, 64)
    (tmp_path / "broken.npz").write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        photos.unpack(tmp_path / "broken.npz", SIZE)
    with np.load(path) as content:
        arrays = dict(content)
    one, other = (f"{split}/{SIZE}/image" for split in photos.SPLITS)
    for change in ({one: arrays[other]}, {one: np.roll(arrays[one], 1)}, {one: arrays[one].astype(np.float32)}):
        np.savez(tmp_path / "broken.npz", **(arrays | change))
        with pytest.raises(DataError, match=r"broken.npz: damaged .*not those that were packed.*--pack"):
            photos.unpack(tmp_path / "broken.npz", SIZE)


def test_the_environment_is_the_registered_one(pair: photos.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgenv.environments.shape_normals.load_photos", lambda *arguments: pair)
    theirs = gymnasium.make(
        "hgenv/ShapeNormalsLit-v0", disable_env_checker=True, device="cpu", network=Network(size=SIZE), batch_size=4
    ).unwrapped
    ours = problem.make(pair, Network(size=SIZE), batch_size=4, device="cpu")
    assert theirs.problem.rule == ours.problem.rule
    assert theirs.problem.num_samples == ours.problem.num_samples
    theirs.reset(seed=0)
    beta = ours.space.initial
    assert ours.step(beta)[1] == theirs.step(beta)[1]


def test_speed_has_a_row_of_everything(pair: photos.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **settings: Any) -> Any:
        raise ModuleNotFoundError("No module named 'nevergrad'")

    def broken(*arguments: Any, **settings: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(REGISTRY, "evolution", missing)
    monkeypatch.setitem(REGISTRY, "random_search", broken)
    saved: list[dict[str, Any]] = []
    sizes = speed.Sizes(network_pixels=SIZE, optimizers=("hybrid_gradient", "evolution", "random_search"), seconds=0.0)
    speed.training("small", 2, pair, sizes, "cpu", lambda result: saved.append(json.loads(json.dumps(result))))
    rows = {row["name"]: row for row in saved[-1]["rows"]}
    assert len(saved) == len(rows) == 11
    assert not any(row["recorded"] for row in saved[-1]["rows"])
    evolution = {"name": "update: evolution", "recorded": False, "skipped": "No module named 'nevergrad'"}
    assert rows["update: evolution"] == evolution
    assert rows["update: random_search"]["error"] == "RuntimeError: out of memory"
    assert all(row["seconds"] > 0 for name, row in rows.items() if name[8:] not in ("evolution", "random_search"))
    known = {"status": "done", "seconds": 1.0, "error": None}
    text = tables.text({"machine": script.machine(True), "parts": {"small_32": known | {"result": saved[-1]}}})
    assert "| update: evolution | left out: No module named 'nevergrad' |" in text


def test_a_run_is_written_against_time(pair: photos.Pair, tmp_path: Path) -> None:
    saved: list[dict[str, Any]] = []
    sizes = runs.Sizes(Budget(4, "updates"), Network(size=SIZE), batch_size=2, row_seconds=1.0, tried_updates=1)
    ranked: list[dict[str, Any]] = []
    runs.rank(pair, sizes, "cpu", ranked.append)
    median = ranked[-1]["median"]
    values = ranked[-1]["validation"]
    assert sum(value < values[median] for value in values.values()) == 2
    save = lambda result: saved.append(json.loads(json.dumps(result)))  # noqa: E731
    runs.run("basic_random_search", pair, sizes, "cpu", save, median)
    result = saved[-1]
    assert [row["update"] for row in result["rows"]] == [0, 1, 2, 3, 4]
    assert result["rows"][0]["loss"] is None
    assert set(result["rows"][-1]["validation"]) == set(result["rows"][-1]["test"])
    assert result["metric"]["name"] in result["rows"][-1]["test"]
    assert result["data"] == ["made validation", "made test"]
    known = {"status": "failed", "seconds": 1.0, "error": "exit status 1\nwhy | not", "result": result}
    parts = {"random_betas": known | {"result": ranked[-1]}, "basic_random_search": known}
    text = tables.text({"machine": script.machine(True), "parts": parts})
    tables.draw({"machine": script.machine(True), "parts": parts}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert f"From {median}, the median of random betas" in text
    assert "| basic_random_search | 4 |" in text
    assert "exit status 1; why \\| not" in text


def test_waiting_is_what_no_kernel_covers() -> None:
    assert clock.union([(0, 2), (1, 3), (1.5, 1.7), (5, 6)]) == 4
    events = [
        {"ph": "X", "cat": "kernel", "ts": 0, "dur": 10},
        {"ph": "X", "cat": "gpu_memcpy", "ts": 5, "dur": 10},
        {"ph": "X", "cat": "gpu_user_annotation", "ts": 0, "dur": 1000},
        {"ph": "M", "name": "process_name"},
    ]
    assert clock.busy_seconds({"traceEvents": events}) == pytest.approx(15e-6)
    found = clock.measure(lambda: None, torch.device("cpu"), 0.0)
    assert found["passes"] == 2
    assert found["waits"] is None
