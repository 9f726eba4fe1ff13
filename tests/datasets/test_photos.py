from dataclasses import replace

import numpy as np
import pytest
import torch

from hgenv.datasets.folder import DataError
from hgenv.datasets.photos import NativePhoto, frame, prepare
from hgenv.rendering.framing import FIT


def flat_photo(height=60, width=80, box=(10, 40, 20, 65), seed=0):
    """A photo of random intensities and random normals toward the camera, on a rectangle: top, bottom, left, right."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    normal = rng.normal(size=(3, height, width))
    normal[2] = np.abs(normal[2]) + 0.5
    normal /= np.linalg.norm(normal, axis=0)
    return NativePhoto("thing", rng.uniform(0.1, 1, (height, width)), mask, normal, mask)


def brute_force(photo, size, subdivisions):
    """What `prepare` should give, by splitting native pixels into small ones that fit the network's pixels exactly."""
    left, top, edge = (round(v * subdivisions, 6) for v in frame(photo.object))
    assert all(v.is_integer() for v in (left, top, edge / size))  # else the test is no oracle
    left, top, edge, fine = int(left), int(top), int(edge), np.ones((subdivisions, subdivisions))

    def cut(values):
        padded = np.pad(np.kron(values, fine), edge)
        return padded[top + edge : top + 2 * edge, left + edge : left + 2 * edge]

    bright = np.percentile(photo.intensity[photo.object], 99)
    inside, valid = cut(photo.object.astype(float)), cut(photo.valid.astype(float))
    intensity, normal = cut(np.clip(photo.intensity / bright, 0, 1)), np.stack([cut(n) for n in photo.normal])
    image, mean, mask = np.zeros((size, size)), np.zeros((3, size, size)), np.zeros((size, size))
    step = edge // size
    for i in range(size):
        for j in range(size):
            block = np.s_[i * step : (i + 1) * step, j * step : (j + 1) * step]
            if inside[block].mean() >= 0.5:
                image[i, j] = intensity[block][inside[block] > 0].mean()
            if valid[block].mean() >= 0.5:
                mask[i, j] = 1
                mean[:, i, j] = normal[:, *block][:, valid[block] > 0].mean(-1)
                mean[:, i, j] /= np.linalg.norm(mean[:, i, j])
    return image, mean, mask


@pytest.mark.parametrize(
    ("box", "size", "subdivisions"),
    [
        ((10, 40, 20, 65), 25, 2),  # 45 wide: a frame of 50, 2 native pixels in one
        ((10, 40, 20, 65), 20, 2),  # 2.5 native pixels in one
        ((0, 45, 0, 30), 20, 2),  # the frame reaches outside the photo
        ((3, 12, 70, 79), 20, 2),  # half a native pixel in one: the photo is smaller than the network's input
    ],
)
def test_resampling_is_the_exact_area_average(box, size, subdivisions):
    photo = flat_photo(box=box)
    valid = photo.valid & (np.random.default_rng(1).uniform(size=photo.valid.shape) < 0.7)
    photo = replace(photo, valid=valid)
    image, normal, mask = brute_force(photo, size, subdivisions)
    samples = prepare([photo], size, "test").samples
    assert samples.image.shape == (1, 1, size, size)
    assert samples.target.shape == (1, 3, size, size)
    np.testing.assert_allclose(samples.image[0, 0], image, atol=1e-6)
    np.testing.assert_array_equal(samples.mask[0, 0], mask)
    np.testing.assert_allclose(samples.target[0], normal, atol=1e-6)
    assert 0 < mask.sum() < (image > 0).sum()


@pytest.mark.parametrize("box", [(10, 40, 20, 65), (0, 60, 30, 40), (5, 6, 5, 6), (0, 60, 0, 80)])
def test_the_object_is_centred_and_spans_its_share_of_the_frame(box):
    top, bottom, left, right = box
    x, y, edge = frame(flat_photo(box=box).object)
    assert max(bottom - top, right - left) == pytest.approx(FIT * edge)
    assert x + edge / 2 == pytest.approx((left + right) / 2)
    assert y + edge / 2 == pytest.approx((top + bottom) / 2)


def test_background_does_not_bleed_into_the_image():
    photo = flat_photo(box=(11, 40, 20, 64))
    glaring = replace(photo, intensity=np.where(photo.object, photo.intensity, 1e6))
    assert torch.equal(prepare([photo], 31, "test").samples.image, prepare([glaring], 31, "test").samples.image)


def test_the_image_shows_pixels_whose_normal_is_not_known():
    photo = flat_photo()
    half = photo.valid.copy()
    half[:, :40] = False
    known, partly = prepare([photo], 20, "test").samples, prepare([replace(photo, valid=half)], 20, "test").samples
    assert torch.equal(known.image, partly.image)
    assert partly.mask.sum() < 0.7 * known.mask.sum()
    assert (partly.target.norm(dim=1, keepdim=True) - partly.mask).abs().max() < 1e-6


def test_exposure_is_free_of_the_photos_scale():
    photo = flat_photo()
    brighter = replace(photo, intensity=photo.intensity * 1234.5)
    image = prepare([photo], 100, "test").samples.image  # two pixels to a native one: nothing is averaged
    torch.testing.assert_close(prepare([brighter], 100, "test").samples.image, image)
    assert image.max() == 1
    assert float((image == 1).sum() / (image > 0).sum()) == pytest.approx(0.01, abs=0.001)


def test_a_ball_looks_as_the_renderers_would_show_it():
    """The closed form at the network's pixel centres: rows run down, y up, and the ball spans FIT of the frame."""
    native, size = 500, 64
    line = np.arange(native) + 0.5
    x, y = (line[None] - 260) / 150, (230 - line[:, None]) / 150
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    mask = z > 0
    normal = np.stack(np.broadcast_arrays(x, y, z)) * mask
    samples = prepare([NativePhoto("ball", z, mask, normal, mask)], size, "test").samples
    centres = (2 * np.arange(size) + 1) / size - 1
    a, b = np.broadcast_arrays(centres[None] / FIT, -centres[:, None] / FIT)
    inner = a**2 + b**2 < 0.9
    truth = np.stack([a, b, np.sqrt(np.clip(1 - a**2 - b**2, 0, None))])
    assert np.abs(samples.target[0].numpy() - truth)[:, inner].max() < 0.02
    assert np.abs(samples.image[0, 0].numpy() - truth[2])[inner].max() < 0.02
    assert (samples.mask[0, 0].numpy() != (a**2 + b**2 < 1)).mean() < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, object=p.object & False), "mask is empty"),
        (lambda p: replace(p, intensity=p.intensity * 0), "black"),
        (lambda p: replace(p, intensity=p.intensity * np.nan), "finite"),
        (lambda p: replace(p, intensity=-p.intensity), "not negative"),
        (lambda p: replace(p, intensity=np.stack([p.intensity] * 3)), "take the mean of the colours"),
        (lambda p: replace(p, normal=p.normal[:, 1:]), r"normal must be \(3, 60, 80\)"),
        (lambda p: replace(p, normal=2 * p.normal), "length 1 where valid; 1350 do not, such as 2"),
        (lambda p: replace(p, normal=p.normal * np.nan), "such as nan"),
        (lambda p: replace(p, object=p.object.astype(float) * p.intensity), "object must be bool, or 0 and one other"),
        (lambda p: replace(p, valid=np.where(p.valid, np.nan, 0)), "valid must be bool, or 0 and one other"),
        (lambda p: replace(p, valid=p.valid.astype(complex)), "valid must be real numbers, not complex128"),
        (lambda p: replace(p, intensity=np.broadcast_to(1.0, (10**6, 10**6))), "1000000 x 1000000 pixels"),
        (lambda p: replace(p, normal=np.ones(p.normal.shape, int)), "normals must be floating-point"),
        (lambda p: replace(p, valid=~p.valid), "outside the object"),
        (lambda p: replace(p, valid=p.valid & False), "known normal"),
    ],
)
def test_damaged_photos_are_named(change, message):
    with pytest.raises(DataError, match=rf"attic, photo 'thing'.*{message}"):
        prepare([change(flat_photo())], 20, "attic")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
@pytest.mark.parametrize("high", [1, 255])
def test_masks_saved_as_images_select_the_same_pixels(dtype, high):
    photo = flat_photo()
    valid = photo.valid & (np.random.default_rng(1).uniform(size=photo.valid.shape) < 0.7)
    photo = replace(photo, valid=valid)
    saved = replace(photo, **{part: (getattr(photo, part) * high).astype(dtype) for part in ("object", "valid")})
    (expected, found) = (prepare([one], 20, "test") for one in (photo, saved))
    for a, b in zip(expected.samples.tensors, found.samples.tensors, strict=True):
        assert torch.equal(a, b)
    assert found.native[0].mask.dtype == torch.bool
    assert torch.equal(expected.native[0].mask, found.native[0].mask)


@pytest.mark.parametrize("size", [True, 2.5, "8", None, 10**7, -1])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"size must be a positive number of pixels, 4096 at most"):
        prepare([flat_photo()], size, "test")


@pytest.mark.parametrize("name", ["", None, 3, "a\nb"])
def test_names_that_are_none(name):
    with pytest.raises(DataError, match="its name must be a text"):
        prepare([replace(flat_photo(), name=name)], 20, "attic")


def test_parts_of_photos_that_do_not_belong_together():
    photos = prepare([flat_photo()], 20, "attic")
    truth = photos.native[0]
    for change, message in (
        ({"names": ("a", "b")}, "1 samples, 2 names and 1 truths"),
        ({"native": (replace(truth, mask=truth.mask.to(torch.uint8) * 255),)}, r"a mask \(h, w\) of bool"),
        ({"native": (replace(truth, window=(0.0, 0.0, float("nan"))),)}, "there is no window"),
    ):
        with pytest.raises(DataError, match=f"attic.*{message}"):
            replace(photos, **change)


def test_nonsense_sizes_and_empty_sets_are_refused():
    with pytest.raises(ValueError, match="size"):
        prepare([flat_photo()], 0, "test")
    with pytest.raises(DataError, match="attic"):
        prepare([], 20, "attic")


def test_moving_keeps_the_photos():
    photos = prepare([flat_photo()], 20, "test")
    moved = photos.to("cpu")
    assert torch.equal(moved.samples.image, photos.samples.image)
    assert torch.equal(moved.native[0].normal, photos.native[0].normal)
    assert (moved.names, moved.label, moved.native[0].window) == (photos.names, "test", photos.native[0].window)
    elsewhere = photos.to("meta")
    tensors = (*elsewhere.samples.tensors, elsewhere.native[0].normal, elsewhere.native[0].mask)
    assert {t.device.type for t in tensors} == {"meta"}


def test_photos_of_one_name_are_refused():
    with pytest.raises(DataError, match="several photos have the name 'thing'"):
        prepare([flat_photo(), flat_photo(seed=1)], 32, "attic")


def test_photos_are_shown_in_a_line():
    photos = prepare([flat_photo()], 32, "attic")
    assert repr(photos) == "<Photos: attic, 1 of 32 px>"
    assert repr(flat_photo()) == "<NativePhoto 'thing': 60 x 80, 1350 valid pixels>"
