import itertools
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from hgenv.datasets import mbii
from hgenv.datasets.folder import VARIABLE, DataError

FOLDER = Path(os.environ.get(VARIABLE) or Path(__file__).parents[3] / "shared" / "data")
HAS_DATA = (FOLDER / "mbii" / mbii.RELEASE).is_dir()
needs_data = pytest.mark.skipif(not HAS_DATA, reason=f"the MBII photos are not here; set {VARIABLE}")


# --- A small release of our own ---------------------------------------------------------------------------------------


def write_object(folder, seed):
    """A tilted plane, 20 x 30 pixels, its mask and its three photos."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:20, :30].astype(float)
    mask = np.zeros((20, 30), dtype=np.uint16)
    mask[3:18, 4:25] = 65025
    depth = np.where(mask > 0, 0.5 * column - 0.25 * row, np.nan)
    for name, shape in (("original", (20, 30, 3)), ("diffuse", (20, 30, 3)), ("shading", (20, 30))):
        assert cv2.imwrite(str(folder / f"{name}.png"), rng.integers(200, 60000, shape).astype(np.uint16))
    assert cv2.imwrite(str(folder / "mask.png"), mask)
    scipy.io.savemat(folder / "Z.mat", {"depth": depth})


@pytest.fixture
def release(tmp_path):
    for number, name in enumerate(mbii.SPLITS["train"]):
        write_object(tmp_path / "data" / "mbii" / mbii.RELEASE / name, number)
    return tmp_path / "data" / "mbii" / mbii.RELEASE


def test_the_release_is_found_from_every_folder_a_user_may_name(release, tmp_path):
    images = [mbii.load(folder, "train", size=16).samples.image for folder in (release.parent.parent, release.parent)]
    shutil.copytree(release.parent, tmp_path / "sirfs" / "data")  # the release's own layout
    images.append(mbii.load(tmp_path / "sirfs", "train", size=16).samples.image)
    images.append(mbii.load(str(tmp_path / "sirfs" / "data"), "train", size=16).samples.image)
    assert all(torch.equal(images[0], image) for image in images)


def test_a_plane_has_the_normals_of_its_slopes(release):
    photos = mbii.load(release.parent, "train", size=16)
    expected = torch.tensor([-0.5, -0.25, 1]) / torch.tensor([-0.5, -0.25, 1]).norm()
    for truth in photos.native:
        assert truth.mask.sum() == 13 * 19  # the filter needs all neighbours, so that the 15 x 21 pixels lose their rim
        assert (truth.normal[:, truth.mask].T - expected).abs().max() < 1e-6
    inside = photos.samples.mask.expand_as(photos.samples.target) > 0
    target = photos.samples.target.movedim(1, -1)[inside[:, 0]]
    assert (target - expected).abs().max() < 1e-6
    assert photos.names == mbii.SPLITS["train"]


def test_all_sixteen_bits_and_all_channels_count(release):
    path = release / "apple" / "original.png"
    pixels = np.full((20, 30, 3), 40000, dtype=np.uint16)
    pixels[:, :15] = (40000 - 3 * 90, 40000, 40000)  # a step of 90 / 40000 in grey: gone in 8 bits
    cv2.imwrite(str(path), pixels)
    image = mbii.load(release.parent, "train", input="original", size=16).samples.image[0, 0]
    assert image[8, 3].item() == pytest.approx(1 - 90 / 40000, abs=1e-6)
    assert image[8, 12].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", mbii.INPUTS)
def test_inputs_differ_and_are_labelled(release, kind):
    photos = mbii.load(release.parent, "train", input=kind, size=16)
    assert photos.label == f"MBII train ({kind})"
    others = [mbii.load(release.parent, "train", input=k, size=16) for k in mbii.INPUTS if k != kind]
    assert all(not torch.equal(photos.samples.image, other.samples.image) for other in others)
    assert all(torch.equal(photos.samples.target, other.samples.target) for other in others)


def test_unknown_names_are_refused(release):
    with pytest.raises(ValueError, match=r"'validation'.*train, test"):
        mbii.load(release.parent, "validation")
    with pytest.raises(ValueError, match=r"'albedo'.*diffuse, shading, original"):
        mbii.load(release.parent, "train", input="albedo")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def to_eight_bits(path):
    cv2.imwrite(str(path), (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 256).astype(np.uint8))


def png(shape, value=1000):
    return lambda path: cv2.imwrite(str(path), np.full(shape, value, dtype=np.uint16))


def mat(**content):
    return lambda path: scipy.io.savemat(path, content)


def text(path):
    path.write_text("Not Found\n" * 40)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("", shutil.rmtree, "no such folder"),
        ("diffuse.png", Path.unlink, "no such file"),
        ("mask.png", Path.unlink, "no such file"),
        ("Z.mat", Path.unlink, "no such file"),
        ("diffuse.png", half, "truncated or damaged"),
        ("diffuse.png", flip, "truncated or damaged"),
        ("diffuse.png", text, "truncated or damaged"),
        ("diffuse.png", empty, "truncated or damaged"),
        ("mask.png", half, "truncated or damaged"),
        ("diffuse.png", to_eight_bits, "uint8 where 16 bits are needed"),
        ("diffuse.png", png((20, 30, 4)), "4 channels"),
        ("mask.png", png((20, 30, 3)), "3 channels"),
        ("Z.mat", half, "truncated or damaged"),
        ("Z.mat", text, "truncated or damaged"),
        ("Z.mat", empty, "truncated or damaged"),
        ("Z.mat", mat(height=np.ones((20, 30))), "holds height, but no variable 'depth'"),
        ("Z.mat", mat(depth="deep"), "not a matrix of numbers"),
        ("Z.mat", mat(depth=np.ones((20, 31))), r"\(20, 31\) pixels, but diffuse.png beside it has \(20, 30\)"),
        ("Z.mat", mat(depth=np.full((20, 30), np.nan)), "no depth is known"),
        ("Z.mat", mat(depth=np.full((20, 30), np.inf)), "a depth of inf pixels"),
        ("Z.mat", mat(depth=np.full((20, 30), 1e9)), "a depth of 1e\\+09 pixels, where 3000 are the most"),
        ("Z.mat", mat(depth=np.ones((20, 30)) * 1j), "not a matrix of numbers"),
        ("mask.png", png((10, 15)), r"\(10, 15\) pixels"),
        ("mask.png", png((20, 30), 0), "mask is empty"),
    ],
)
def test_damage_is_named_with_its_file_and_a_cure(release, file, damage, message):
    path = release / "panther" / file
    damage(path)
    with pytest.raises(DataError, match=message) as caught:
        mbii.load(release.parent, "train", size=16)
    assert str(path) in str(caught.value)
    assert "SIRFS 1.5" in str(caught.value)


def test_a_folder_without_the_release_is_refused_with_what_was_tried(tmp_path):
    with pytest.raises(DataError) as caught:
        mbii.load(tmp_path, "train")
    for path in (tmp_path / "mbii", tmp_path, tmp_path / "data"):
        assert str(path / mbii.RELEASE) in str(caught.value)
    assert "get the data" in str(caught.value)


# --- The real photos --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return {split: mbii.load(FOLDER, split, input="shading") for split in mbii.SPLITS}


@needs_data
def test_the_real_photos_have_the_documented_sizes_and_valid_shares(real):
    shares = {}
    for photos in real.values():
        assert photos.samples.image.shape == (10, 1, 64, 64)
        for name, truth in zip(photos.names, photos.native, strict=True):
            mask = cv2.imread(str(FOLDER / "mbii" / mbii.RELEASE / name / "mask.png"), cv2.IMREAD_UNCHANGED) > 0
            assert truth.mask.shape == mask.shape
            assert not (truth.mask.numpy() & ~mask).any()
            shares[name] = truth.mask.sum().item() / mask.sum()
            assert (truth.normal[:, truth.mask].norm(dim=0) - 1).abs().max() < 1e-6
    assert len(shares) == 20
    assert shares.pop("frog1") == pytest.approx(0.80, abs=0.005)
    assert shares.pop("panther") == pytest.approx(0.78, abs=0.005)
    assert 0.92 < min(shares.values()) < max(shares.values()) < 0.99


def release_shading(normal, light):
    """Log-shading of (3, M) normals by SIRFS's renderSH, in the axes of SIRFS: down, right, to the camera.

    The quadratic form of Ramamoorthi and Hanrahan, SIGGRAPH 2001, equation 12.
    """
    c1, c2, c3, c4, c5 = 0.429043, 0.511664, 0.743125, 0.886227, 0.247708
    x, y, z = normal
    return (
        c1 * light[8] * (x * x - y * y) + c3 * light[6] * z * z + c4 * light[0] - c5 * light[6]
        + 2 * c1 * (light[4] * x * y + light[7] * x * z + light[5] * y * z)
        + 2 * c2 * (light[3] * x + light[1] * y + light[2] * z)
    )  # fmt: skip


@needs_data
def test_the_normals_in_the_releases_own_light_give_the_shading_photo(real):
    """Each object's fitted light (L.mat) predicts its shading photo from our normals: no other choice of axes does."""
    best = 0
    for photos in real.values():
        for name, truth in zip(photos.names, photos.native, strict=True):
            folder = FOLDER / "mbii" / mbii.RELEASE / name
            light = scipy.io.loadmat(folder / "L.mat", simplify_cells=True)["gray_lights"]["shading"]
            shading = cv2.imread(str(folder / "shading.png"), cv2.IMREAD_UNCHANGED).astype(float)
            seen = truth.mask.numpy() & (shading > 0)
            x, y, z = truth.normal.numpy()[:, seen].astype(float)
            correlations = {
                (swapped, right, up): np.corrcoef(
                    release_shading((-up * y, right * x, z) if not swapped else (right * x, up * y, z), light),
                    np.log(shading[seen]),
                )[0, 1]
                for swapped, right, up in itertools.product((False, True), (1, -1), (1, -1))
            }
            assert correlations[False, 1, 1] > 0.75, name
            best += correlations[False, 1, 1] == max(correlations.values())
    assert best >= 19  # cup2, a cylinder, cannot tell


@needs_data
def test_the_photos_are_lit_from_the_left_at_network_resolution_too(real):
    """Least squares of intensity by normals: image and normals belong together, and the light is where it was."""
    for photos in real.values():
        for name, image, normal, mask in zip(photos.names, *photos.samples.tensors, strict=True):
            inside = mask[0] > 0
            design = np.column_stack([normal[:, inside].T.numpy(), np.ones(int(inside.sum()))])
            seen = image[0, inside].numpy()
            solution, *_ = np.linalg.lstsq(design, seen, rcond=None)
            assert np.corrcoef(design @ solution, seen)[0, 1] > 0.8, name
            assert solution[0] / np.linalg.norm(solution[:3]) < -0.5, name
