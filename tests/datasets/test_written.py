"""Samples as files: what is read again is what was written, up to 8 bits."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from hgenv import DenseSamples, KeypointSamples, LabelledImages, Samples, SamplesError
from hgenv.datasets import Folder, Writer

COUNT, SIZE = 12, 8


def images(channels=3):
    """Bytes, so that PNG files lose nothing."""
    return torch.from_numpy(
        np.random.default_rng(channels).integers(0, 256, (COUNT, channels, SIZE, SIZE)) / 255
    ).float()


def together(folder):
    """Validation and test samples in the order of their brightness, since the split shuffles them."""
    samples = type(folder.validation.samples).cat([folder.validation.samples, folder.test.samples])
    return samples[samples.image.flatten(1).sum(1).argsort()]


def in_order(samples):
    return samples[samples.image.flatten(1).sum(1).argsort()]


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_are_read_again(tmp_path, channels):
    written = LabelledImages(images(channels), torch.arange(COUNT) % 3)
    Writer(tmp_path / "out", ("ant", "bee", "cat")).write(written, 0)
    found = Folder.of_classes(tmp_path / "out", SIZE, channels=channels)
    assert found.names == ("ant", "bee", "cat")
    read, expected = together(found), in_order(written)
    torch.testing.assert_close(read.image, expected.image, atol=1e-6, rtol=0)
    assert read.label.tolist() == expected.label.tolist()


def test_class_numbers_of_pixels_are_read_again(tmp_path):
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, 255], (COUNT, SIZE, SIZE)))
    written = LabelledImages(images(), labels)
    Writer(tmp_path, ("sky", "sea", "sand")).write(written, 5)
    assert sorted(p.name for p in (tmp_path / "label").iterdir())[0] == "000005.png"
    read, expected = together(Folder.of_pairs(tmp_path, SIZE, ("sky", "sea", "sand"))), in_order(written)
    assert read.label.equal(expected.label)


def test_keypoints_are_read_again(tmp_path):
    random = np.random.default_rng(0)
    visible = torch.from_numpy(random.integers(0, 2, (COUNT, 4))).float()
    visible[:, 0] = 1  # an object without points is none to COCO's readers
    points = torch.from_numpy(random.uniform(-0.9, 0.9, (COUNT, 4, 2))).float() * visible[..., None]
    written = KeypointSamples(images(), points, visible)
    writer = Writer(tmp_path, ("a", "b", "c", "d"))
    writer.write(written[:7], 0)
    Writer(tmp_path, ("a", "b", "c", "d")).write(written[5:], 5)  # another process, that goes on two samples earlier
    found = Folder.of_keypoints(tmp_path / "annotations.json", tmp_path / "images", SIZE, margin=1.0)
    assert found.names == ("a", "b", "c", "d")
    read, expected = together(found), in_order(written)
    assert len(read) == COUNT
    torch.testing.assert_close(read.point, expected.point, atol=1e-5, rtol=0)
    assert read.visible.equal(expected.visible)


@dataclass(frozen=True, repr=False)
class Weighed(Samples):
    image: torch.Tensor
    weight: torch.Tensor


def test_other_records_have_a_folder_for_each_field(tmp_path):
    dense = DenseSamples(images(), torch.randn(COUNT, 2, SIZE, SIZE), (images(1) > 0.5).float())
    Writer(tmp_path / "dense").write(dense, 0)
    with Image.open(tmp_path / "dense/mask/000003.png") as mask:
        assert np.array_equal(np.asarray(mask) / 255, dense.mask[3, 0].numpy())
    assert np.array_equal(np.load(tmp_path / "dense/target/000003.npy"), dense.target[3].numpy())
    Writer(tmp_path / "other").write(Weighed(torch.rand(COUNT, 5), torch.arange(COUNT)), 0)
    assert np.load(tmp_path / "other/weight/000004.npy") == 4


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(SamplesError, match="from 0 to 1, for ant, bee"):
        Writer(tmp_path, ("ant", "bee")).write(LabelledImages(images(), torch.arange(COUNT)), 0)
    with pytest.raises(SamplesError, match="images must be"):
        Writer(tmp_path).write(LabelledImages(torch.zeros(2, 5, 4, 4), torch.zeros(2).long()), 0)
    with pytest.raises(SamplesError, match="cannot be the name of a folder"):
        Writer(tmp_path, ("a", "../b"))
    with pytest.raises(SamplesError, match="from 0 to 255"):
        Writer(tmp_path).write(LabelledImages(images(), torch.full((COUNT, SIZE, SIZE), 300)), 0)


def test_without_names_classes_have_numbers(tmp_path):
    Writer(tmp_path).write(LabelledImages(images(), torch.arange(COUNT) % 2), 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000", "001"]


def test_coco_of_the_file_is_what_others_expect(tmp_path):
    written = KeypointSamples(images(), torch.zeros(COUNT, 1, 2), torch.ones(COUNT, 1))
    Writer(tmp_path).write(written, 0)
    coco = json.loads((tmp_path / "annotations.json").read_text())
    assert coco["annotations"][0]["keypoints"] == [SIZE / 2 - 0.5, SIZE / 2 - 0.5, 2]  # the middle of the frame
    assert len(coco["annotations"]) == len(coco["images"]) == COUNT
