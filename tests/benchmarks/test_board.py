import re
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hgenv import DecisionSpace, block
from hgenv.benchmarks import pictures, records
from hgenv.benchmarks.board import CURVES, Board
from hgenv.benchmarks.config import compose
from hgenv.benchmarks.run import run
from hgenv.benchmarks.screenshot import RUNS
from hgenv.generators import QuadraticGenerator

from .tools import quadratic


def test_curves_in_tensorboard_stand_at_the_accounted_time(tmp_path):
    folder = run(quadratic(tmp_path, "optimizer=hybrid_gradient"))
    rows = records.read(folder).rows
    # TensorBoard names an entry by the folder that its logs are in: one a run, as the run's folder is called.
    assert {path.parent for path in tmp_path.rglob("events.out.tfevents.*")} == {folder}
    events = EventAccumulator(str(folder)).Reload()
    betas = [f"vector beta/{name}" for name in ("position/0", "position/1", "position/2", "spread")]
    # What TensorBoard shows first: it sorts by name.
    assert sorted(events.Tags()["scalars"]) == ["loss", "test/distance", "validation/distance", *betas]
    for tag, values in (
        ("loss", [row["loss"] for row in rows]),
        ("test/distance", [row["test"]["distance"] for row in rows]),
        *((tag, [row["beta"][i] for row in rows]) for i, tag in enumerate(betas)),
    ):
        scalars = events.Scalars(tag)
        assert [s.step for s in scalars] == [row["update"] for row in rows]
        assert [s.wall_time for s in scalars] == pytest.approx([row["spent"]["total_seconds"] for row in rows])
        assert [s.value for s in scalars] == pytest.approx(values, rel=1e-6)


def test_a_gpu_has_curves_of_its_own_besides(tmp_path):
    row = records.read(run(quadratic(tmp_path, updates=1))).rows[1]
    spent = {"total_seconds": 5.0, "cpu_seconds": 2.0, "gpu_seconds": 3.0}
    env = SimpleNamespace(device=SimpleNamespace(type="cuda"), space=QuadraticGenerator().space)
    board = Board(tmp_path / "gpu", env, 50, 1)
    board.row(row | {"spent": spent})
    board.close()
    for folder, seconds in ((".", 5.0), ("cpu", 2.0), ("gpu", 3.0)):
        events = EventAccumulator(str(tmp_path / "gpu" / folder)).Reload()
        assert events.Scalars("loss")[0].wall_time == seconds
        assert (len(events.Tags()["scalars"]) == 3) == (folder != ".")  # beta is there once


def test_a_beta_of_too_many_components_has_no_curves(tmp_path):
    row = records.read(run(quadratic(tmp_path, updates=1))).rows[1]
    spaces = [DecisionSpace([block("many", size, 0, 1, 0.5, "1", "")]) for size in (CURVES, CURVES + 1)]
    for space, curves in zip(spaces, (CURVES, 0), strict=True):
        folder = tmp_path / str(space.dimension)
        board = Board(folder, SimpleNamespace(device=SimpleNamespace(type="cpu"), space=space), 50, 1)
        board.row(row | {"beta": space.initial.tolist()})
        board.close()
        tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
        assert len(tags) == 3 + curves


def test_shapes_have_pictures_and_a_mesh_in_tensorboard(tmp_path):
    settings = compose([
        f"root={tmp_path}", "optimizer=fixed", "network.size=32", "env.batch_size=2", "env.unroll_steps=1",
        "budget={amount: 1, unit: updates}",
    ])  # fmt: skip
    folder = run(settings)
    assert folder.parent.parent.name == "shapes-standin"
    record = records.read(folder)
    assert record.rows[0]["data"] == {"validation": "stand-in validation", "test": "stand-in test"}
    assert "mean_degrees" in record.rows[-1]["test"]
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert set(tags["images"]) == {"view/samples", "view/validation"}
    assert any(tag.startswith("view/sample_VERTEX") for tag in tags["tensors"])
    # Image and truth, prediction and error of ten photos.
    for name in (records.VALIDATION, records.ERRORS):
        picture = pictures.load(folder / name)
        assert len(picture.rows) == 2
        assert all(row.shape == (10, 32, 32, 3) for row in picture.rows)


def test_faces_run_like_shapes_and_show_their_depth(tmp_path):
    overrides = [f"root={tmp_path}", "env=faces", "optimizer=credit_gradient", "optimizer.period=1", "network.size=32"]
    folder = run(compose([*overrides, "env.batch_size=4", "budget={amount: 3, unit: updates}"]))
    assert folder.parent.parent.name == "faces-standin"
    record = records.read(folder)
    assert record.rows[-1]["beta"] != record.rows[0]["beta"]
    assert record.metrics[0]["name"] == "abs_rel"
    assert (folder / records.ERRORS).is_file()


def test_a_screenshot_shows_each_run_once():
    names = ["quadratic/fixed/seed=0", "quadratic/fixed/seed=0/gpu", "quadratic/fixed/seed=12", "."]
    assert [name for name in names if re.search(RUNS, name)] == [names[0], names[2], "."]
