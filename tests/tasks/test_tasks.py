"""What all tasks promise: metrics that are described, sizes, and pictures."""

import gymnasium
import numpy as np
import pytest
import torch

from hgenv import DataGenEnv, DenseSamples, Network, Task
from hgenv.tasks.depth import DepthTask
from hgenv.tasks.normals import NormalsTask
from hgenv.tasks.quadratic import QuadraticTask, point, point_data

from ..toys import ClassificationTask, labels_env


def make(name: str) -> DataGenEnv:
    kwargs = {} if name == "Quadratic" else {"network": Network(size=32), "batch_size": 4, "device": "cpu"}
    return gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, **kwargs).unwrapped


@pytest.mark.parametrize("name", ["ShapeNormals", "FaceDepth", "Quadratic", "labels"])
def test_metrics_are_described_by_the_names_that_scoring_gives(name: str) -> None:
    env = labels_env() if name == "labels" else make(name)
    env.reset(seed=0)
    described = [metric.name for metric in env.task.metrics]
    assert described
    assert len(set(described)) == len(described)
    for found in (env.validation_metrics(), env.test_metrics()):
        assert {key for key in found if "/" not in key} == set(described)
        assert {key.partition("/")[0] for key in found if "/" in key} <= set(described)


def test_the_primary_metrics_are_the_papers_and_say_which_way_is_better() -> None:
    assert NormalsTask().metrics[0].name == "mean_degrees"
    assert NormalsTask().metrics[0].unit == "°"
    assert DepthTask().metrics[0].name == "abs_rel"
    assert QuadraticTask().metrics[0].name == "distance"
    more = {m.name for task in (NormalsTask(), DepthTask(), QuadraticTask()) for m in task.metrics if m.direction == "max"}
    assert more == {"within_11.25", "within_22.5", "within_30"}


def test_a_sample_counts_as_one_unless_the_task_says_otherwise() -> None:
    env = labels_env()
    env.reset(seed=0)
    env.step(env.space.initial)
    sizes = ClassificationTask().sizes(env.last.samples)
    assert sizes.tolist() == [1.0] * 18
    assert sizes.dtype == torch.float64


def test_tasks_are_values() -> None:
    assert NormalsTask() == NormalsTask()
    assert hash(DepthTask()) == hash(DepthTask())


def test_points_are_kept_as_data() -> None:
    data = point_data((0.1, 0.2, 0.3), "here")
    assert point(data).tolist() == [[0.1, 0.2, 0.3]]
    assert data.label == "here"
    task = QuadraticTask()
    output = torch.tensor([0.1, 0.2, 2.3], dtype=torch.float64)
    assert float(task.validation_loss(output, data)) == pytest.approx(2)
    assert task.score(output, data) == pytest.approx({"distance": 2.0})


# --- Pictures ---------------------------------------------------------------------------------------------------------


def normals_example() -> tuple[NormalsTask, DenseSamples]:
    """Two samples of 4 x 4 pixels, the left half of each inside; normals along x and along z."""
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    target = torch.zeros(2, 3, 4, 4)
    target[0, 0], target[1, 2] = 1, 1
    image = torch.full((2, 1, 4, 4), 0.5)
    image[1] = 7.0  # brighter than white
    return NormalsTask(), DenseSamples(image, target * mask, mask)


def test_a_picture_of_normals_shows_image_and_target() -> None:
    task, samples = normals_example()
    picture = task.picture(samples)
    image, target = picture.rows
    assert picture.titles == ("image", "target")
    assert image.dtype == target.dtype == np.uint8
    assert image.shape == target.shape == (2, 4, 4, 3)
    assert (image[0] == 128).all()
    assert (image[1] == 255).all()
    assert target[0, 0, 0].tolist() == [255, 128, 128]
    assert target[1, 0, 0].tolist() == [128, 128, 255]
    assert not target[:, :, 2:].any()  # black outside the mask


@pytest.mark.parametrize("listed", [False, True])
def test_a_picture_of_normals_shows_prediction_and_error(listed: bool) -> None:
    task, samples = normals_example()
    output = torch.zeros(2, 3, 4, 4)
    output[0, 0], output[1, 0] = 5, 5  # right in the first sample, 90 degrees off in the second
    picture = task.picture(samples, [torch.ones_like(output), output] if listed else output)
    prediction, error = picture.rows
    assert picture.titles == ("prediction", "error")
    assert "60 degrees" in picture.note
    assert prediction.dtype == error.dtype == np.uint8
    assert prediction.shape == error.shape == (2, 4, 4, 3)
    assert (prediction[:, :, :2] == [255, 128, 128]).all()
    assert error[0, :, :2].max() < 10  # no error: the first colour, nearly black
    assert error[1, :, :2].min() > 180  # beyond the worst: the last one, nearly white
    assert not prediction[:, :, 2:].any()
    assert not error[:, :, 2:].any()


def test_errors_of_normals_are_angles_in_parts_of_the_worst() -> None:
    task = NormalsTask()
    angle = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, 90.0]))
    prediction = torch.stack([angle.sin(), torch.zeros(4), angle.cos()])[None, :, None]
    target = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None].expand(1, 3, 1, 4)
    assert task.error_level(prediction, target).flatten().tolist() == pytest.approx([0, 0.5, 1, 1.5], abs=1e-6)


def test_a_picture_of_depths() -> None:
    task = DepthTask()
    mask = torch.zeros(1, 1, 2, 4)
    mask[..., :3] = 1
    target = torch.tensor([4.0, 5.0, 6.0, 0.0]).expand(1, 1, 2, 4)
    image = torch.rand(1, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    samples = DenseSamples(image, target * mask, mask)
    rows = task.picture(samples).rows
    np.testing.assert_array_equal(rows[0], np.round(255 * image.permute(0, 2, 3, 1).numpy()).astype(np.uint8))
    brightness = rows[1][0, 0].astype(int).sum(1)
    assert brightness[0] > brightness[1] > brightness[2] > brightness[3] == 0  # near is bright, outside is black
    shown, error = task.picture(samples, torch.zeros_like(target)).rows  # predicts 5 everywhere
    assert shown.shape == error.shape == (1, 2, 4, 3)
    assert (shown[0, :, :3] == rows[1][0, 0, 1]).all()
    assert error[0, 0, 1].max() < 10
    assert error[0, 0, 0].min() > 150  # a quarter too far: beyond the worst
    assert not error[0, :, 3].any()


def test_a_sample_of_nothing_can_be_drawn() -> None:
    for task in (NormalsTask(), DepthTask()):
        samples = DenseSamples(*(torch.zeros(1, c, 4, 4) for c in (task.inputs, task.outputs, 1)))
        for picture in (task.picture(samples), task.picture(samples, torch.zeros(1, task.outputs, 4, 4))):
            assert picture.rows[1].max() == 0


def test_a_picture_keeps_no_graph_and_takes_one() -> None:
    task, samples = normals_example()
    output = torch.zeros(2, 3, 4, 4, requires_grad=True)
    assert task.picture(samples, [output]).rows[0].shape == (2, 4, 4, 3)


def test_what_there_is_nothing_to_see_of_has_no_picture() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    env.step(env.space.initial)
    assert env.task.picture(env.last.samples) is None
    assert isinstance(env.task, Task)
