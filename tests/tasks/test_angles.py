"""Angles and the figures made of them: against the arc cosine, by hand, and on fields that are known everywhere."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hgenv import DenseSamples
from hgenv.datasets import VARIABLE, mbii, standin
from hgenv.datasets.photos import NativeTruth, Photos
from hgenv.tasks.normals import angles, error_map, normal_metrics, score_normals

FOLDER = Path(os.environ.get(VARIABLE) or Path(__file__).parents[3] / "shared" / "data")


# --- Angles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_are_right_down_to_tiny_ones_and_up_to_pi(dtype):
    wanted = torch.tensor([0, 1e-12, 1e-7, 1e-3, 0.5, math.pi / 2, 3, math.pi - 1e-4, math.pi], dtype=torch.float64)
    near = torch.stack([wanted.sin(), torch.zeros(9, dtype=torch.float64), wanted.cos()])
    far = torch.tensor([0, 0, 1], dtype=torch.float64)[:, None].expand(3, 9)
    found = angles(2.5 * near.to(dtype), 0.1 * far.to(dtype), dim=0)
    torch.testing.assert_close(found.double(), wanted, rtol=3 * torch.finfo(dtype).eps, atol=0)


def test_angles_agree_with_the_arc_cosine():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, 5, 6, generator=generator, dtype=torch.float64)
    cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
    assert angles(a, b).shape == (4, 5, 6)
    torch.testing.assert_close(angles(a, b), cosine.acos(), rtol=1e-9, atol=1e-9)


def test_angles_have_the_precision_of_the_prediction():
    a, b = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ours, theirs in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        found = angles(a.to(ours), b.to(theirs), dim=0)
        assert found.dtype == ours
        torch.testing.assert_close(found.double(), angles(a, b, dim=0), rtol=1e-5, atol=1e-5)


def test_gradients_of_angles_are_right_and_finite_everywhere():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 3, 20, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: angles(v, b, dim=0), a.requires_grad_())
    axis = torch.tensor([[0.0], [0.6], [0.8]])
    special = torch.cat([axis, -axis, 0 * axis, axis + 1e-7], 1).requires_grad_()
    found = angles(special, axis.expand(3, 4), dim=0)
    assert found.tolist()[:3] == pytest.approx([0, math.pi, math.pi / 2], abs=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), special)
    assert gradient.isfinite().all()


# --- Figures ----------------------------------------------------------------------------------------------------------


def test_metrics_of_errors_counted_by_hand():
    found = normal_metrics(torch.deg2rad(torch.tensor([0.0, 11.0, 12.0, 22.0, 29.0, 180.0], dtype=torch.float64)))
    assert found == {
        "within_11.25": pytest.approx(100 * 2 / 6),
        "within_22.5": pytest.approx(100 * 4 / 6),
        "within_30": pytest.approx(100 * 5 / 6),
        "mean_degrees": pytest.approx(254 / 6),
        "median_degrees": pytest.approx(17),
        "mse_radians2": pytest.approx((11**2 + 12**2 + 22**2 + 29**2 + 180**2) / 6 * (math.pi / 180) ** 2),
    }
    assert all(type(v) is float for v in found.values())
    with pytest.raises(ValueError, match="no pixels"):
        normal_metrics(torch.zeros(0))


# --- From the network's pixels to native ones -------------------------------------------------------------------------


def field(x, y):
    """Vectors that are linear in the place, in native pixels, of any length: bilinear sampling is exact."""
    return torch.stack([0.02 * x - 0.013 * y + 0.3, 0.017 * y + 0.004 * x - 0.5, torch.ones_like(x)])


def centres(start, spacing, count):
    return start + spacing * (torch.arange(count, dtype=torch.float64) + 0.5)


def linear_photos(size=16):
    """Two photos of `field`, in windows of odd places, and the network's samples of it."""
    predictions, native = [], []
    for (height, width), window in (((40, 57), (-3.3, 4.7, 51.2)), ((70, 33), (0.6, -1.9, 40.9))):
        left, top, edge = window
        y, x = torch.meshgrid(centres(0, 1, height), centres(0, 1, width), indexing="ij")
        truth = torch.nn.functional.normalize(field(x, y), dim=0).float()
        half = edge / size / 2  # beyond the outermost centres the prediction is continued as constant
        mask = (x > left + half) & (x < left + edge - half) & (y > top + half) & (y < top + edge - half)
        native.append(NativeTruth(truth, mask, window))
        y, x = torch.meshgrid(centres(top, edge / size, size), centres(left, edge / size, size), indexing="ij")
        predictions.append(field(x, y))
    blank = torch.zeros(2, 1, size, size)
    photos = Photos(DenseSamples(blank, blank.expand(2, 3, size, size), blank), ("first", "second"), tuple(native), "test")
    return torch.stack(predictions).float(), photos


def test_predictions_are_placed_exactly():
    predictions, photos = linear_photos()
    assert score_normals(predictions, photos)["mean_degrees"] < 1e-4
    # The mapping is tight: a tenth of a native pixel would show, in each direction and in the scale.
    for shift in ((0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.2)):
        moved = [replace(t, window=tuple(np.add(t.window, shift))) for t in photos.native]
        assert score_normals(predictions, replace(photos, native=tuple(moved)))["mean_degrees"] > 0.02
    flipped = score_normals(predictions.transpose(2, 3), photos)
    assert flipped["mean_degrees"] > 1


def test_length_of_the_prediction_does_not_matter():
    predictions, photos = linear_photos()
    assert score_normals(7 * predictions, photos)["mean_degrees"] < 1e-4


def test_pooled_figures_weigh_pixels_and_objects_have_their_own():
    predictions, photos = linear_photos()
    wrong = predictions.clone()
    wrong[1] = -wrong[1]
    found = score_normals(wrong, photos)
    pixels = [int(t.mask.sum()) for t in photos.native]
    assert pixels[0] != pixels[1]
    assert found["mean_degrees/first"] == pytest.approx(0, abs=1e-4)
    assert found["mean_degrees/second"] == pytest.approx(180, abs=1e-4)
    assert found["mean_degrees"] == pytest.approx(180 * pixels[1] / sum(pixels), abs=1e-3)
    assert found["within_30"] == pytest.approx(100 * pixels[0] / sum(pixels))
    assert found["mse_radians2"] == pytest.approx(math.pi**2 * pixels[1] / sum(pixels), rel=1e-5)


def test_error_maps_show_what_the_scores_sum_up():
    predictions, photos = linear_photos()
    predictions = predictions + 0.3 * torch.randn(predictions.shape, generator=torch.Generator().manual_seed(2))
    found = score_normals(predictions, photos)
    for prediction, truth, name in zip(predictions, photos.native, photos.names, strict=True):
        errors = error_map(prediction, truth)
        assert errors.shape == truth.mask.shape
        assert torch.equal(errors.isnan(), ~truth.mask)
        assert errors.nanmean().item() == pytest.approx(found[f"mean_degrees/{name}"])


def test_the_truth_at_network_resolution_scores_well_and_nothing_does_not():
    photos = standin.load("validation")
    found = score_normals(photos.samples.target, photos)
    assert found["mean_degrees"] < 2
    assert found["median_degrees"] < 1
    shifted = score_normals(photos.samples.target.roll(1, -1), photos)
    assert shifted["mean_degrees"] > 2 * found["mean_degrees"]
    nothing = score_normals(torch.zeros_like(photos.samples.target), photos)
    assert nothing["mean_degrees"] == pytest.approx(90)
    assert nothing["within_30"] == 0


@pytest.mark.skipif(not (FOLDER / "mbii").is_dir(), reason=f"the MBII photos are not here; set {VARIABLE}")
def test_the_truth_at_network_resolution_bounds_what_can_be_reached_on_real_photos():
    coarse, fine = (mbii.load(FOLDER, "train", size=size) for size in (64, 256))
    found, better = (score_normals(photos.samples.target, photos) for photos in (coarse, fine))
    assert better["mean_degrees"] < 0.5 * found["mean_degrees"] < 4


def test_predictions_that_do_not_fit_are_refused():
    predictions, photos = linear_photos()
    for wrong in (predictions[:1], predictions[:, :2], predictions[..., :8]):
        with pytest.raises(ValueError, match=r"photos of test need \(2, 3, 16, 16\)"):
            score_normals(wrong, photos)
