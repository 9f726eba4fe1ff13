"""Folders of labelled images: what is read, how it is split, and what is said of what cannot be."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hgenv import DataError, KeypointSamples
from hgenv.datasets import Folder
from hgenv.tasks import ClassificationTask, KeypointTask, SegmentationTask

SIZE = 8


def noise(height, width, channels=3, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def classes(folder, counts=(("cat", 4), ("dog", 6)), height=SIZE, width=SIZE):
    """PNG files whose brightness tells which is which; the folder."""
    for i, (name, count) in enumerate(counts):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(np.full((height, width, 3), 100 * i + n, np.uint8)).save(folder / name / f"{n}.png")
    return folder


def pairs(folder, count=4, height=SIZE, width=SIZE, values=(0, 1, 2, 255)):
    for part in ("image", "label"):
        (folder / part).mkdir(parents=True)
    for n in range(count):
        Image.fromarray(noise(height, width, seed=n)).save(folder / "image" / f"{n}.jpg")
        label = np.random.default_rng(n).choice(values, (height, width)).astype(np.uint8)
        Image.fromarray(label).save(folder / "label" / f"{n}.png")
    return folder


def one_image(folder, save, size=SIZE, **options):
    """What becomes of a file, (C, S, S), in a folder with another one."""
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "b").mkdir(exist_ok=True)
    save(folder / "a" / "0")
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "b" / "0.png")
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "b" / "1.png")
    found = Folder.of_classes(folder, size, **options)
    return found.validation.samples.image[found.validation.samples.label == 0][0]


# --- Classes ----------------------------------------------------------------------------------------------------------


def test_a_folder_for_each_class(tmp_path):
    found = Folder.of_classes(classes(tmp_path / "photos"), SIZE)
    assert found.names == ("cat", "dog")
    assert found.validation.samples.image.shape == (5, 3, SIZE, SIZE)
    assert found.validation.samples.label.tolist() == [0, 0, 1, 1, 1]
    assert found.test.samples.label.tolist() == [0, 0, 1, 1, 1]
    assert (found.validation.label, found.test.label) == ("photos, 5 of 10 images", "photos, 5 of 10 images")
    both = [round(255 * float(x)) for part in (found.validation, found.test) for x in part.samples.image[:, 0, 0, 0]]
    assert sorted(both) == [0, 1, 2, 3, 100, 101, 102, 103, 104, 105]  # each once
    ClassificationTask(found.names).check(found.validation.samples, "these")


def test_the_seed_makes_the_split(tmp_path):
    folder = classes(tmp_path, (("a", 20), ("b", 20)))
    first, again, other = (Folder.of_classes(folder, SIZE, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.validation.samples.image, again.validation.samples.image)
    assert not torch.equal(first.validation.samples.image, other.validation.samples.image)
    assert len(Folder.of_classes(folder, SIZE, share=0.8).validation.samples) == 32


def test_what_is_no_image_is_left_alone(tmp_path):
    folder = classes(tmp_path)
    (folder / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "cat" / "._0.png").write_bytes(b"x")
    (folder / ".cache").mkdir()
    (folder / "readme.txt").write_text("x")
    assert len(Folder.of_classes(folder, SIZE).validation.samples) == 5


def test_a_small_validation_set_is_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        Folder.of_classes(classes(tmp_path / "few"), SIZE)
    assert "only 5 images to validate on" in caplog.text
    caplog.clear()
    Folder.of_classes(classes(tmp_path / "many", (("a", 30), ("b", 30))), SIZE)
    assert not caplog.text


# --- Pixels -----------------------------------------------------------------------------------------------------------


def test_sizes_may_be_mixed(tmp_path):
    """The middle of a wide image and of a tall one, averaged."""
    for height, width in ((16, 40), (40, 16), (3, 3)):
        pixels = noise(height, width)
        seen = one_image(
            tmp_path / f"{height}-{width}", lambda p, x=pixels: Image.fromarray(x).save(p.with_suffix(".png"))
        )
        assert seen.shape == (3, SIZE, SIZE)
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pixels[top : top + side, left : left + side] / 255
        if side == 16:
            expected = square.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)).transpose(2, 0, 1)
            np.testing.assert_allclose(seen.numpy(), expected, atol=1e-6)
        assert float(seen.mean()) == pytest.approx(square.mean(), abs=1e-6)


def test_height_and_width_may_differ(tmp_path):
    found = Folder.of_classes(classes(tmp_path, height=10, width=30), (4, 6))
    assert found.validation.samples.image.shape == (5, 3, 4, 6)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_noted_by_a_camera_is_applied(tmp_path, orientation, ending):
    image = Image.fromarray(np.kron(noise(2, 2), np.ones((4, 4, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = one_image(tmp_path, lambda p: image.save(p.with_suffix(ending), exif=exif))
    with Image.open(tmp_path / "a" / f"0{ending}") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_allclose(seen.numpy(), upright.transpose(2, 0, 1) / 255, atol=1e-6)


def test_transparent_pixels_are_blended_with_black(tmp_path):
    pixels = noise(SIZE, SIZE, 4)
    expected = (pixels[..., :3] / 255 * (pixels[..., 3:] / 255)).transpose(2, 0, 1)
    for n, ending in enumerate((".png", ".tif")):
        seen = one_image(tmp_path / str(n), lambda p, e=ending: Image.fromarray(pixels).save(p.with_suffix(e)))
        np.testing.assert_allclose(seen.numpy(), expected, atol=1e-6)
    grey = Image.fromarray(pixels[..., 0]).convert("LA")
    grey.putalpha(Image.fromarray(pixels[..., 3]))
    seen = one_image(tmp_path / "grey", lambda p: grey.save(p.with_suffix(".png")), channels=1)
    np.testing.assert_allclose(seen[0].numpy(), pixels[..., 0] / 255 * (pixels[..., 3] / 255), atol=1e-6)


def test_all_16_bits_count(tmp_path):
    pixels = noise(SIZE, SIZE, dtype=np.uint16)
    seen = one_image(tmp_path / "rgb", lambda p: cv2.imwrite(str(p.with_suffix(".png")), pixels[..., ::-1]))
    np.testing.assert_allclose(seen.numpy(), pixels.transpose(2, 0, 1) / 65535, atol=1e-6)
    for ending in (".png", ".tif"):
        seen = one_image(
            tmp_path / ending[1:],
            lambda p, e=ending: Image.fromarray(pixels[..., 0]).save(p.with_suffix(e)),
            channels=1,
        )
        np.testing.assert_allclose(seen[0].numpy(), pixels[..., 0] / 65535, atol=1e-6)


def test_grey_and_colours_become_each_other(tmp_path):
    pixels = noise(SIZE, SIZE)
    seen = one_image(tmp_path / "c", lambda p: Image.fromarray(pixels).save(p.with_suffix(".png")), channels=1)
    np.testing.assert_allclose(seen[0].numpy(), pixels.mean(2) / 255, atol=1e-6)
    seen = one_image(tmp_path / "g", lambda p: Image.fromarray(pixels[..., 0]).save(p.with_suffix(".png")))
    np.testing.assert_allclose(seen.numpy(), np.stack([pixels[..., 0] / 255] * 3), atol=1e-6)
    indexed = Image.fromarray(pixels).quantize(16)
    seen = one_image(tmp_path / "p", lambda p: indexed.save(p.with_suffix(".png")))
    expected = np.asarray(indexed.convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-6)


# --- Pairs ------------------------------------------------------------------------------------------------------------


def test_images_and_labels_of_one_name_belong_together(tmp_path):
    found = Folder.of_pairs(pairs(tmp_path), SIZE, ("sky", "sea", "land"), seed=1)
    assert found.names == ("sky", "sea", "land")
    SegmentationTask(found.names).check(found.validation.samples, "these")
    whole = {}
    for n in range(4):
        with Image.open(tmp_path / "image" / f"{n}.jpg") as image, Image.open(tmp_path / "label" / f"{n}.png") as label:
            whole[np.asarray(image).tobytes()] = np.asarray(label)
    for part in (found.validation, found.test):
        assert len(part.samples) == 2
        for image, label in zip(part.samples.image, part.samples.label, strict=True):
            key = np.round(255 * image.numpy().transpose(1, 2, 0)).astype(np.uint8).tobytes()
            assert np.array_equal(label.numpy(), whole.pop(key))
    assert not whole


def test_labels_are_never_mixed(tmp_path):
    folder = pairs(tmp_path, height=30, width=46)
    label = np.full((30, 46), 2, np.uint8)
    label[:, 23:] = 0
    for n in range(4):
        Image.fromarray(label).save(folder / "label" / f"{n}.png")
    found = Folder.of_pairs(folder, 10, 3).validation.samples.label[0]
    assert found.unique().tolist() == [0, 2]
    assert (found[:, :5] == 2).all()
    assert (found[:, 5:] == 0).all()


@pytest.mark.parametrize("mode", ["palette", "one bit", "four bits", "16 bits"])
def test_labels_in_whatever_form_of_png(tmp_path, mode):
    folder = pairs(tmp_path)
    label = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE)).astype(np.uint8)
    for n in range(4):
        path = folder / "label" / f"{n}.png"
        if mode == "palette":
            image = Image.fromarray(label).convert("P")
            image.putpalette([200, 10, 10, 5, 5, 250])
            image.putdata(label.ravel().tolist())
            image.save(path)
        elif mode == "one bit":
            Image.fromarray(label.astype(bool)).save(path)
        elif mode == "16 bits":
            Image.fromarray(label.astype(np.uint16)).save(path)
        else:
            write_four_bits(path, label)
    found = Folder.of_pairs(folder, SIZE, 2)
    for part in (found.validation, found.test):
        assert all(np.array_equal(x, label) for x in part.samples.label.numpy())


def write_four_bits(path, label):
    """A grey PNG file with two pixels a byte."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(int(a) << 4 | int(b) for a, b in row.reshape(-1, 2)) for row in label)
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 4, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


# --- Keypoints --------------------------------------------------------------------------------------------------------


def coco(folder, **changed):
    """Two images of 40 x 60 pixels with a white pixel each at the point "nose"; two objects in the first."""
    (folder / "images").mkdir(parents=True)
    objects = []
    for image, x, y in ((1, 10, 20), (1, 40, 30), (2, 30, 9)):
        path = folder / "images" / f"{image}.png"
        pixels = np.asarray(Image.open(path)).copy() if path.exists() else np.zeros((40, 60), np.uint8)
        pixels[y, x] = 255
        Image.fromarray(pixels).save(path)
        points = [x, y, 2, 0, 0, 0]
        objects.append({"id": len(objects), "image_id": image, "bbox": [x - 3, y - 3, 8, 8], "keypoints": points})
    said = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in (1, 2)],
        "annotations": objects,
        "categories": [{"id": 1, "keypoints": ["nose", "tail"]}],
    }
    (folder / "points.json").write_text(json.dumps(said | changed))
    return folder / "points.json", folder / "images"


def test_points_are_where_the_image_shows_them(tmp_path):
    found = Folder.of_keypoints(*coco(tmp_path), size=10)
    assert found.names == ("nose", "tail")
    samples = KeypointSamples.cat([found.validation.samples, found.test.samples])
    assert len(samples) == 3
    assert {len(found.validation.samples), len(found.test.samples)} == {1, 2}  # those of an image stay together
    KeypointTask(found.names).check(samples, "these")
    assert samples.visible.tolist() == 3 * [[1, 0]]
    share = samples.image.mean(1) / samples.image.mean(1).sum((1, 2), keepdim=True)
    centres = (2 * torch.arange(10) + 1) / 10 - 1
    seen = torch.stack([(share.sum(1) * centres).sum(1), (share.sum(2) * centres).sum(1)], 1)
    assert (seen - samples.point[:, 0]).abs().max() < 0.1  # half a new pixel


def test_keypoints_that_make_no_sense_are_named(tmp_path):
    path, images = coco(tmp_path / "a")
    said = json.loads(path.read_text())
    del said["images"]
    path.write_text(json.dumps(said))
    with pytest.raises(DataError, match=r"points\.json: no COCO file with keypoints \(KeyError: 'images'\)"):
        Folder.of_keypoints(path, images, 10)
    good = {"id": 7, "image_id": 1, "bbox": [0, 0, 5, 5], "keypoints": [1, 1, 2, 0, 0, 0]}
    for n, (change, words) in enumerate([
        ({"image_id": 9}, "annotation 7 is of image 9, which is not in the list"),
        ({"bbox": [0, 0, 0, 5]}, "annotation 7 has the box .*positive width"),
        ({"keypoints": [1, 1, 2]}, "annotation 7 has 3 numbers of keypoints, and 2 names need three each"),
    ]):  # fmt: skip
        with pytest.raises(DataError, match=words):
            Folder.of_keypoints(*coco(tmp_path / str(n), annotations=[good, good | change]), 10)
    with pytest.raises(DataError, match="0 categories with different keypoints"):
        Folder.of_keypoints(*coco(tmp_path / "none", categories=[]), 10)
    path, images = coco(tmp_path / "gone")
    (images / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: there is no such file"):
        Folder.of_keypoints(path, images, 10)


# --- What is wrong ----------------------------------------------------------------------------------------------------


def test_folders_that_cannot_serve_are_named(tmp_path):
    with pytest.raises(DataError, match="photos: there is no such folder"):
        Folder.of_classes(tmp_path / "photos", SIZE)
    with pytest.raises(DataError, match="1 folders, and at least two are needed, one for each class"):
        Folder.of_classes(classes(tmp_path / "one", (("a", 3),)), SIZE)
    with pytest.raises(DataError, match=r"b: no images \(\.png, .*\); add some, or remove the folder"):
        Folder.of_classes(classes(tmp_path / "empty", (("a", 3), ("b", 0))), SIZE)
    with pytest.raises(DataError, match="no class has two images"):
        Folder.of_classes(classes(tmp_path / "single", (("a", 1), ("b", 1))), SIZE)
    with pytest.raises(DataError, match="one image; at least two are needed, one to validate on and one to test on"):
        Folder.of_pairs(pairs(tmp_path / "pair", 1), SIZE, 3)
    with pytest.raises(DataError, match=r"bytes, where .* lower the size, or take fewer"):
        Folder.of_classes(classes(tmp_path / "large", (("a", 8), ("b", 8))), 4096)


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        (".jpg", lambda x: x[: len(x) // 2]),
        (".png", lambda x: x[: len(x) // 2]),
        (".png", lambda x: x[:60] + bytes([x[60] ^ 1]) + x[61:]),
        (".webp", lambda x: x[: len(x) // 2]),
        (".tif", lambda x: x[:100]),
        (".jpg", lambda x: b""),
        (".png", lambda x: b"<html>not found</html>"),
    ],
)
def test_broken_images_are_named(tmp_path, ending, damage):
    folder = classes(tmp_path)
    path = folder / "cat" / f"broken{ending}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"broken\{ending}: truncated or damaged, or not an? .*replace the file by an"):
        Folder.of_classes(folder, SIZE)


def test_numbers_without_a_range_are_refused(tmp_path):
    folder = classes(tmp_path)
    Image.fromarray(np.ones((SIZE, SIZE), np.float32)).save(folder / "cat" / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: numbers of type float32, whose range is not known"):
        Folder.of_classes(folder, SIZE)


def test_labels_that_do_not_fit_are_named(tmp_path):
    def spoilt(name, change):
        folder = pairs(tmp_path / name)
        change(folder)
        return folder

    def save(pixels, name="2.png"):
        return lambda folder: Image.fromarray(pixels).save(folder / "label" / name)

    seven = np.zeros((SIZE, SIZE), np.uint8)
    seven[3, 5] = 7
    for name, change, words in [
        ("7", save(seven), r"2\.png: the pixel at row 3, column 5 is 7, but there are 3 classes, 0 to 2, and 255"),
        ("rgb", save(noise(SIZE, SIZE)), r"2\.png: 3 channels, and a label has one"),
        ("size", save(0 * seven[:5]), r"2\.png: 5 x 8 pixels, but 2\.jpg has 8 x 8; they must be of one size"),
        (
            "jpg",
            lambda f: (f / "label/2.png").rename(f / "label/2.jpg"),
            r"2\.jpg: numbers of classes must be in a PNG",
        ),
        ("gone", lambda f: (f / "label/2.png").unlink(), r"image/2\.jpg: there is no label/2\.png to it"),
        ("more", save(seven, "9.png"), r"label/9\.png: there is no image/9\.png to it"),
        (
            "twice",
            lambda f: Image.fromarray(seven).save(f / "image/2.png"),
            r"2\.png: 2\.jpg has the same name|2\.jpg: 2",
        ),
        (
            "no label",
            lambda f: (f / "label").rename(f / "masks"),
            "label: there is no such folder; .* needs image/ and",
        ),
    ]:
        with pytest.raises(DataError, match=words):
            Folder.of_pairs(spoilt(name, change), SIZE, 3)
    with pytest.raises(DataError, match="no pixel of any file has a class; all are 255"):
        Folder.of_pairs(pairs(tmp_path / "nothing", values=(255,)), SIZE, 3)


def test_arguments_that_make_no_sense(tmp_path):
    folder = classes(tmp_path)
    for options, words in [
        ({"size": 0}, "positive number of pixels"),
        ({"size": (4, 4, 3)}, "height and width"),
        ({"channels": 4}, "channels must be 3 for colours or 1 for grey"),
        ({"share": 1.0}, "share must be between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            Folder.of_classes(folder, **({"size": SIZE} | options))
    with pytest.raises(ValueError, match="margin must be a positive number"):
        Folder.of_keypoints(*coco(tmp_path / "coco"), size=4, margin=0)
