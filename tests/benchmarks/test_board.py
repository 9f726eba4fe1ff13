import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hgenv.benchmarks import pictures, records
from hgenv.benchmarks.config import compose
from hgenv.benchmarks.run import run

from .tools import quadratic


def test_curves_in_tensorboard_stand_at_the_accounted_time(tmp_path):
    folder = run(quadratic(tmp_path, "optimizer=hybrid_gradient"))
    rows = records.read(folder).rows
    for name, clock in (("cpu", "cpu_seconds"), ("total", "total_seconds")):
        events = EventAccumulator(str(folder / "tb" / name)).Reload()
        assert {"loss", "validation/distance", "test/distance"} == set(events.Tags()["scalars"])
        for tag, values in (
            ("loss", [row["loss"] for row in rows]),
            ("test/distance", [row["test"]["distance"] for row in rows]),
        ):
            scalars = events.Scalars(tag)
            assert [s.step for s in scalars] == [row["update"] for row in rows]
            assert [s.wall_time for s in scalars] == pytest.approx([row["spent"][clock] for row in rows])
            assert [s.value for s in scalars] == pytest.approx(values, rel=1e-6)
    assert not (folder / "tb" / "gpu").exists()
    samples = EventAccumulator(str(folder / "tb" / "samples")).Reload()
    for i, tag in enumerate(["beta/position/0", "beta/position/1", "beta/position/2", "beta/spread"]):
        assert [s.value for s in samples.Scalars(tag)] == pytest.approx([row["beta"][i] for row in rows], rel=1e-6)


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
    tags = EventAccumulator(str(folder / "tb" / "samples")).Reload().Tags()
    assert set(tags["images"]) == {"samples", "validation"}
    assert any(tag.startswith("sample_VERTEX") for tag in tags["tensors"])
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
