import numpy as np
import pytest
import torch

from hgenv.datasets import standin


@pytest.fixture(scope="module")
def halves():
    return {split: standin.load(split) for split in standin.SPLITS}


def test_there_are_ten_and_ten_different_objects(halves):
    assert [len(photos) for photos in halves.values()] == [10, 10]
    assert len({name for photos in halves.values() for name in photos.names}) == 20
    images = torch.cat([photos.samples.image for photos in halves.values()]).flatten(1)
    distances = (images[:, None] - images[None]).abs().mean(-1) + torch.eye(20)
    assert distances.min() > 0.02
    for split, photos in halves.items():
        assert photos.label == f"stand-in {split}"


def test_the_photos_look_like_photos(halves):
    for photos in halves.values():
        image, normal, mask = photos.samples.tensors
        assert image.shape == (10, 1, 64, 64)
        assert image.dtype == normal.dtype == mask.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert image[mask == 0].abs().max() == 0
        assert (normal.norm(dim=1, keepdim=True) - mask).abs().max() < 1e-5
        assert (mask.sum((1, 2, 3)) > 400).all()
        # The whole object is seen, in a frame of which it spans 0.9.
        assert mask[..., [0, -1], :].sum() == mask[..., [0, -1]].sum() == 0
        assert ((image * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)) > 0.15).all()
        # Facing the camera, and not flat.
        assert (normal[:, 2] * mask[:, 0]).min() >= 0
        assert (normal.movedim(1, -1)[mask[:, 0] > 0].std(0) > 0.2).all()


def test_the_same_bits_every_time_and_no_global_random_state(halves):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = standin.load("test")
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    for one, other in zip(again.samples.tensors, halves["test"].samples.tensors, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(again.native, halves["test"].native, strict=True):
        assert torch.equal(one.normal, other.normal)
        assert one.window == other.window


def grid(size):
    line = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    return line.repeat(size), -line.repeat_interleave(size)


def test_an_ellipsoid_is_traced_as_its_closed_form_says():
    x, y = grid(60)
    a, b, c = 0.8, 0.5, 0.6
    depth, normal = standin.trace(lambda p: (p[0] / a) ** 2 + (p[1] / b) ** 2 + (p[2] / c) ** 2 - 1, x, y)
    square = 1 - (x / a) ** 2 - (y / b) ** 2
    # A grazing ray may pass between two samples.
    assert ((square > 0) != depth.isfinite()).sum() <= 4
    hit = depth.isfinite()
    z = c * square[hit].sqrt()
    assert (depth[hit] - z).abs().max() < 1e-12
    expected = torch.nn.functional.normalize(torch.stack([x[hit] / a**2, y[hit] / b**2, z / c**2]), dim=0)
    assert (normal[:, hit] - expected).abs().max() < 1e-12
    assert normal[:, ~hit].abs().max() == 0


@pytest.mark.parametrize("split", standin.SPLITS)
def test_normals_agree_with_differences_of_the_depth(split):
    """Central differences of the traced depth are another route to the normals, where the surface is smooth."""
    step = 1e-5
    x, y = (v[::3] for v in grid(96))
    for name, body, _ in standin.objects(split):
        depth, normal = standin.trace(body, x, y)
        right, left = standin.trace(body, x + step, y)[0], standin.trace(body, x - step, y)[0]
        above, below = standin.trace(body, x, y + step)[0], standin.trace(body, x, y - step)[0]
        slope_x, slope_y = (right - left) / (2 * step), (above - below) / (2 * step)
        differences = torch.nn.functional.normalize(torch.stack([-slope_x, -slope_y, torch.ones_like(x)]), dim=0)
        # Not across an edge behind which the next surface starts, where depth jumps.
        smooth = (normal[2] > 0.2) & ((right - 2 * depth + left).abs() + (above - 2 * depth + below).abs() < 1e-7)
        assert smooth.sum() > 0.8 * depth.isfinite().sum(), name
        error = (differences - normal).norm(dim=0)[smooth]
        assert error.max() < 1e-3, name
        assert error.median() < 1e-7, name


def test_the_light_comes_from_the_upper_left(halves):
    """The brightness of all objects together grows with the normal's turn to the left and up."""
    normals, seen = [], []
    for photos in halves.values():
        inside = photos.samples.mask[:, 0] > 0
        normals.append(photos.samples.target.movedim(1, -1)[inside])
        seen.append(photos.samples.image[:, 0][inside])
    design = torch.cat([torch.cat(normals), torch.ones(sum(map(len, seen)), 1)], 1)
    x, y, z, _ = torch.linalg.lstsq(design.double(), torch.cat(seen).double()[:, None]).solution[:, 0]
    assert x < -0.1
    assert y > 0.1
    assert z > 0.1


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match=r"'train'.*validation, test"):
        standin.load("train")
