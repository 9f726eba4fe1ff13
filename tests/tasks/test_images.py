"""Classification, segmentation, regression and keypoints: the kit, and figures from elsewhere."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hgenv import DenseSamples, KeypointSamples, LabelledImages, ModuleLearner, PartError, SampleData, SamplesError
from hgenv.tasks import ClassificationTask, KeypointTask, RegressionTask, SegmentationTask
from hgenv.testing import LearnerConformance

SIZE = 8
CLASSES = ("cat", "dog", "owl")


def draw(seed):
    return torch.Generator().manual_seed(seed)


def images(count, seed=0, channels=3):
    return torch.rand(count, channels, SIZE, SIZE, generator=draw(seed), dtype=torch.float64)


def labelled(count=5, seed=0):
    label = torch.randint(3, (count,), generator=draw(seed + 1))
    return LabelledImages(images(count, seed), label)


def segmented(count=4, seed=0):
    label = torch.randint(4, (count, SIZE, SIZE), generator=draw(seed + 1))
    return LabelledImages(images(count, seed), torch.where(label == 3, 255, label))


def dense(count=4, seed=0):
    mask = (torch.rand(count, 1, SIZE, SIZE, generator=draw(seed + 1)) > 0.3).double()
    return DenseSamples(images(count, seed), 10 * images(count, seed + 2, channels=2), mask)


def pointed(count=4, seed=0):
    point = 1.6 * torch.rand(count, 3, 2, generator=draw(seed + 1), dtype=torch.float64) - 0.8
    visible = (torch.rand(count, 3, generator=draw(seed + 2)) > 0.3).double()
    return KeypointSamples(images(count, seed), point, visible)


def maps(channels):
    return lambda seed: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, channels, 3, padding=1)
    ).double()


def numbers(count):
    return lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4), nn.Tanh(), nn.Linear(4, count)).double()


CASES = {
    "classification": (ClassificationTask(CLASSES), labelled, numbers(3)),
    "segmentation": (SegmentationTask(CLASSES), segmented, maps(3)),
    "l1": (RegressionTask(3, 2, low=0, high=10, unit="m"), dense, maps(2)),
    "l2": (RegressionTask(3, 2, low=0, high=10, loss="l2"), dense, maps(2)),
    "heatmaps": (KeypointTask(("nose", "left", "right")), pointed, maps(3)),
    "coordinates": (KeypointTask(3), pointed, numbers(6)),
}


@pytest.mark.parametrize("case", CASES, scope="class")
class TestTasks(LearnerConformance):
    @pytest.fixture(autouse=True)
    def choose(self, case):
        self.task, self.some, self.network = CASES[case]

    def make(self):
        return ModuleLearner(self.network, self.task, self.some())

    def samples(self):
        return self.some(seed=10)

    def data(self):
        return SampleData(self.some(seed=20), "random")


# --- Classification ---------------------------------------------------------------------------------------------------


def logits(count, *shape):
    return 3 * torch.randn(count, 3, *shape, generator=draw(7), dtype=torch.float64)


def test_the_training_loss_of_classes_is_torchs_cross_entropy():
    samples, output = labelled(), logits(5)
    task = ClassificationTask(CLASSES)
    expected = functional.cross_entropy(output, samples.label, reduction="none")
    torch.testing.assert_close(task.training_loss(output, samples), expected)
    assert task.sizes(samples).tolist() == [1.0] * 5


def test_the_training_loss_of_pixels_is_torchs_cross_entropy_over_those_that_are_known():
    samples, output = segmented(), logits(4, SIZE, SIZE)
    task = SegmentationTask(CLASSES)
    expected = functional.cross_entropy(output, samples.label, ignore_index=255, reduction="none").sum((1, 2))
    torch.testing.assert_close(task.training_loss(output, samples), expected)
    assert task.sizes(samples).tolist() == (samples.label != 255).sum((1, 2)).tolist()
    # Several maps count alike.
    both = task.training_loss([output, 2 * output], samples)
    torch.testing.assert_close(both, (expected + task.training_loss(2 * output, samples)) / 2)


def test_l_is_nearly_the_cross_entropy_and_bounded():
    task, samples = ClassificationTask(CLASSES), labelled()
    data = SampleData(samples, "random")
    sure = 100 * functional.one_hot(samples.label, 3).double()
    assert float(task.validation_loss(sure, data)) == pytest.approx(0, abs=1e-3)
    assert float(task.validation_loss(-sure, data)) == pytest.approx(task.max_loss, rel=1e-6)
    uniform = torch.zeros(5, 3, dtype=torch.float64)
    assert float(task.validation_loss(uniform, data)) == pytest.approx(math.log(3))
    nearly = float(functional.cross_entropy(logits(5) / 3, samples.label))
    assert float(task.validation_loss(logits(5) / 3, data)) == pytest.approx(nearly, abs=0.02)


def test_accuracy_by_hand():
    task = ClassificationTask(CLASSES)
    label = torch.tensor([0, 0, 1, -1])
    output = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [9, 0, 0]], dtype=torch.float64)
    score = task.score(output, SampleData(LabelledImages(images(4), label), "by hand"))
    assert score["accuracy"] == pytest.approx(200 / 3)
    assert {name: value for name, value in score.items() if "/" in name} == {"accuracy/cat": 50, "accuracy/dog": 100}
    expected = functional.cross_entropy(output, label, ignore_index=-1)
    assert score["cross_entropy"] == pytest.approx(float(expected))


def test_mean_iou_by_hand():
    """Of four known pixels three are right: class 0 has 1 of 2, class 1 has 2 of 3; class 2 occurs nowhere."""
    label = torch.full((1, SIZE, SIZE), 255)
    label[0, 0, :4] = torch.tensor([0, 1, 1, 0])
    said = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    said[0, 0, :4] = torch.tensor([0, 1, 1, 1])
    output = functional.one_hot(said, 3).permute(0, 3, 1, 2).double()
    score = SegmentationTask(CLASSES).score(output, SampleData(LabelledImages(images(1), label), "by hand"))
    assert score["mean_iou/cat"] == pytest.approx(50)
    assert score["mean_iou/dog"] == pytest.approx(200 / 3)
    assert score["mean_iou"] == pytest.approx((50 + 200 / 3) / 2)
    assert score["pixel_accuracy"] == pytest.approx(75)
    assert "mean_iou/owl" not in score


@pytest.mark.parametrize("kind", [ClassificationTask, SegmentationTask])
def test_labels_that_make_no_sense_are_named(kind):
    task, good = kind(CLASSES), labelled() if kind is ClassificationTask else segmented()
    task.check(good, "mine")
    wrong = good.label.clone()
    wrong[2] = 3
    with pytest.raises(SamplesError, match=r"mine: label\[2\] has 3, but there are 3 classes, 0 to 2, and (-1|255)"):
        task.check(LabelledImages(good.image, wrong), "mine")
    with pytest.raises(SamplesError, match=r"the field 'label' must be .* int64.*use long\(\)"):
        task.check(LabelledImages(good.image, good.label.float()), "mine")
    with pytest.raises(SamplesError, match="divide bytes by 255"):
        task.check(LabelledImages((255 * good.image).byte(), good.label), "mine")
    with pytest.raises(SamplesError, match="needs LabelledImages, not DenseSamples"):
        task.check(dense(), "mine")


def test_outputs_that_do_not_fit_are_told_what_to_replace():
    task, samples = ClassificationTask(CLASSES), labelled()
    with pytest.raises(PartError, match=r"gives \(5, 1000\), and ClassificationTask with 3 classes needs \(5, 3\)"):
        task.training_loss(torch.zeros(5, 1000), samples)
    with pytest.raises(PartError, match=r"gives dict of out, aux, and .* wrap the network"):
        task.training_loss({"out": logits(5), "aux": logits(5)}, samples)
    with pytest.raises(PartError, match="its maps the labels' size"):
        SegmentationTask(CLASSES).training_loss(logits(4, 2, 2), segmented())
    with pytest.raises(PartError, match=r"needs coordinates \(4, 3, 2\) or \(4, 6\), or heatmaps \(4, 3, h, w\)"):
        KeypointTask(3).training_loss(torch.zeros(4, 5), pointed())


def test_classes_that_make_no_sense_are_refused():
    assert ClassificationTask(3).names == ("0", "1", "2")
    assert ClassificationTask(["a", "b"]) == ClassificationTask(("a", "b"))
    for bad in (1, ["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="at least two names, each once"):
            ClassificationTask(bad)
    with pytest.raises(ValueError, match="ignore=1 is the number of the class 'dog'; choose -1"):
        SegmentationTask(CLASSES, ignore=1)
    with pytest.raises(ValueError, match="low must be below high"):
        RegressionTask(low=1, high=1)
    with pytest.raises(ValueError, match="loss must be 'l1' or 'l2'"):
        RegressionTask(loss="huber")
    with pytest.raises(ValueError, match="points must be names"):
        KeypointTask(0)


# --- Regression and keypoints -----------------------------------------------------------------------------------------


def test_regression_by_numpy():
    samples = dense()
    output = samples.target + torch.randn(samples.target.shape, generator=draw(3), dtype=torch.float64)
    data, inside = SampleData(samples, "random"), samples.mask.expand(-1, 2, -1, -1).numpy() > 0
    error = (output - samples.target).numpy()[inside]
    for loss, expected in (("l1", np.abs(error / 10).mean()), ("l2", np.square(error / 10).mean())):
        task = RegressionTask(3, 2, low=0, high=10, loss=loss)
        assert float(task.validation_loss(output, data)) == pytest.approx(expected)
        score = task.score(output, data)
        assert score["mean_absolute_error"] == pytest.approx(np.abs(error).mean())
        assert score["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()))
        wild = float(task.validation_loss(1e9 + output, data))
        assert wild <= task.max_loss


def test_a_heatmap_says_where_its_peak_is():
    """The centre of pixel 6 of 8 is at 5 / 8, that of pixel 1 at -5 / 8."""
    heat = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64)
    heat[0, :, 1, 6] = 100
    found = KeypointTask(3).predict(heat, pointed(1))
    torch.testing.assert_close(found[0, 0], torch.tensor([0.625, -0.625], dtype=torch.float64))
    spread = torch.zeros(1, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(KeypointTask(3).predict(spread, pointed(1)), torch.zeros(1, 3, 2, dtype=torch.float64))


def test_pck_by_hand():
    point = torch.zeros(1, 4, 2, dtype=torch.float64)
    visible = torch.tensor([[1.0, 1, 1, 0]], dtype=torch.float64)
    data = SampleData(KeypointSamples(images(1), point, visible), "by hand")
    output = torch.zeros(1, 4, 2, dtype=torch.float64)
    output[0, :, 0] = torch.tensor([0.08, 0.15, 0.5, 9])  # half frames: 4 %, 7.5 % and 25 % of the frame, unseen
    score = KeypointTask(4).score(output, data)
    assert score["pck_5"] == pytest.approx(100 / 3)
    assert score["pck_10"] == pytest.approx(200 / 3)
    assert score["distance"] == pytest.approx(100 * (0.04 + 0.075 + 0.25) / 3)
    assert score["pck_10/2"] == 0
    assert "pck_10/3" not in score
    loss = KeypointTask(4).validation_loss(output, data)
    assert float(loss) == pytest.approx((0.08 + 0.15 + 0.5) / 3, abs=1e-3)


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_classes_are_written_on_green_or_red():
    task, samples = ClassificationTask(("cat", "a class with a name that is far too long")), labelled(2)
    samples = LabelledImages(samples.image, torch.tensor([0, 1]))
    image, words = task.picture(samples).rows
    assert image.shape == words.shape == (2, 96, 96, 3)
    assert (words == 255).any()
    (said,) = task.picture(samples, torch.tensor([[2.0, 0], [2.0, 0]])).rows
    assert said[0, 0, 0].argmax() == 1
    assert said[1, 0, 0].argmax() == 0


def test_errors_of_segmentation_are_white_where_wrong_and_grey_where_nothing_is_known():
    samples = segmented()
    right = functional.one_hot(torch.where(samples.label == 255, 0, samples.label), 3).permute(0, 3, 1, 2).double()
    task = SegmentationTask(CLASSES)
    _, label = task.picture(samples).rows
    prediction, error = task.picture(samples, right).rows
    known = (samples.label != 255).numpy()
    assert (prediction[known] == label[known]).all()
    assert not error[known].any()
    assert (error[~known] == 127).all()
    assert (task.picture(samples, -right).rows[1][known] == 255).all()


def test_points_are_drawn_where_they_are():
    point = torch.tensor([[[-0.5, 0.5]]], dtype=torch.float64)
    samples = KeypointSamples(0 * images(1), point, torch.ones(1, 1, dtype=torch.float64))
    _, drawn = KeypointTask(1).picture(samples).rows
    row, column = np.argwhere(drawn[0].any(-1)).mean(0)
    edge = drawn.shape[1]
    assert (column, row) == pytest.approx((edge / 4, 3 * edge / 4), abs=1)
    (joined,) = KeypointTask(1).picture(samples, torch.zeros(1, 1, 2)).rows
    assert (joined[0] == 255).all(-1).any()
