import gymnasium
import numpy as np
import pytest
from PIL import Image

import hgenv  # noqa: F401 - registers the environments
from hgenv.benchmarks import pictures
from hgenv.learning import Network
from hgenv.tasks import Picture


@pytest.fixture(scope="module")
def shapes():
    env = gymnasium.make("hgenv/ShapeNormals-v0", disable_env_checker=True, network=Network(size=32)).unwrapped
    env.reset(seed=0)
    return env


def test_validation_images_and_error_maps_are_of_the_same_samples(shapes) -> None:
    truth, errors = pictures.validation_images(shapes), pictures.error_maps(shapes)
    assert [row.shape for row in (*truth.rows, *errors.rows)] == [(10, 32, 32, 3)] * 4
    assert not set(truth.titles) & set(errors.titles)  # what is predicted shows none of the data
    inside = truth.rows[1].any(-1)
    assert (errors.rows[0].any(-1) <= inside).all()
    assert (errors.rows[0].any(-1) == inside).mean() > 0.99


def test_samples_are_the_same_whoever_asks_and_sharper_on_request(shapes) -> None:
    beta = shapes.space.project(shapes.space.initial)
    one, again = pictures.gallery(shapes, beta, 3), pictures.gallery(shapes, beta, 3)
    assert all((a == b).all() for a, b in zip(one.rows, again.rows, strict=True))
    sharp = pictures.gallery(shapes, beta, 3, size=128)
    assert sharp.rows[0].shape == (3, 128, 128, 3)
    # The same objects: at the network's size, they are what the network sees.
    for small, large in zip(one.rows, sharp.rows, strict=True):
        shrunk = np.stack([pictures.resized(image, 32) for image in large]).astype(int)
        assert np.abs(shrunk - small).mean() < 6


def test_what_has_no_pictures_gives_none() -> None:
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    beta = env.space.project(env.space.initial)
    assert pictures.gallery(env, beta, 3) is None
    assert pictures.validation_images(env) is None
    assert pictures.error_maps(env) is None


def test_faces_are_shown_in_colour_with_depth() -> None:
    env = gymnasium.make("hgenv/FaceDepth-v0", disable_env_checker=True, network=Network(size=32)).unwrapped
    env.reset(seed=0)
    beta = env.space.project(env.space.initial)
    picture = pictures.arrange(pictures.gallery(env, beta, 3))
    assert picture.shape == (2 * 32, 3 * 32, 3)
    faces, depths = picture[:32], picture[32:]
    # Skin is redder than it is blue; what is near is brighter than what is far.
    assert faces[..., 0].sum() > 1.2 * faces[..., 2].sum()
    assert depths[12:20, 12:20].mean() > depths[depths.any(-1)].mean()
    assert pictures.arrange(pictures.error_maps(env)).shape == (2 * 32, 10 * 32, 3)


def numbered(rows: int, columns: int) -> Picture:
    """Each part in a grey of its own."""
    levels = 10 * np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns, 1, 1, 1)
    grid = np.broadcast_to(levels, (rows, columns, 4, 6, 3)).copy()
    return Picture(tuple(grid), tuple(f"row {k}" for k in range(rows)), "Grey, naïvely.")


def test_rows_and_columns_are_where_they_belong() -> None:
    image = pictures.arrange(numbered(2, 3))
    assert image.shape == (8, 18, 3)
    assert image[::4, ::6, 0].tolist() == [[0, 10, 20], [30, 40, 50]]
    larger = pictures.arrange(numbered(2, 3), 8)
    assert larger.shape == (16, 36, 3)
    assert larger[::8, ::12, 0].tolist() == [[0, 10, 20], [30, 40, 50]]


def test_pictures_are_never_blown_up_into_blocks() -> None:
    slope = np.repeat(np.linspace(0, 255, 8).astype(np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    line = pictures.resized(slope, 32)[16, :, 0].astype(int)
    assert (np.diff(line[4:-4]) > 0).all()


def test_a_saved_picture_is_read_as_it_was(tmp_path) -> None:
    picture = numbered(2, 3)
    pictures.save(picture, tmp_path / "picture.png")
    again = pictures.load(tmp_path / "picture.png")
    assert (again.titles, again.note) == (picture.titles, picture.note)
    assert all((a == b).all() for a, b in zip(again.rows, picture.rows, strict=True))
    assert np.asarray(Image.open(tmp_path / "picture.png")).shape == (8, 18, 3)  # and any program shows it


def test_another_picture_is_named(tmp_path) -> None:
    path = tmp_path / "other.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ValueError, match=r"other.png: no picture that benchmarks.pictures wrote"):
        pictures.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"other.png: no picture"):
        pictures.load(path)
