"""What a person looks at shows the photos once, whatever else the loss looks at."""

import gymnasium

import hgenv  # noqa: F401 - registers the environments
from benchmarks import pictures


def test_error_maps_leave_out_further_views_of_the_photos() -> None:
    shown = []
    for views in ((), ("flips",)):
        env = gymnasium.make("hgenv/ShapeNormals-v0", disable_env_checker=True, size=32, views=views).unwrapped
        env.reset(seed=0)
        shown.append((pictures.validation_images(env), pictures.error_maps(env)))
    for alone, among_views in zip(*shown, strict=True):
        assert alone.shape == (2 * 2 * 32, 2 * 10 * 32, 3)
        assert (alone == among_views).all()


def test_faces_are_shown_in_colour_with_depth() -> None:
    env = gymnasium.make("hgenv/FaceDepth-v0", disable_env_checker=True, size=32).unwrapped
    env.reset(seed=0)
    beta = env.space.project(env.space.initial)
    picture = pictures.gallery(pictures.samples(env, beta, 3))
    assert picture.shape == (2 * 2 * 32, 2 * 3 * 32, 3)
    faces, depths = picture[:64], picture[64:]
    # Skin is redder than it is blue; what is near is brighter than what is far.
    assert faces[..., 0].sum() > 1.2 * faces[..., 2].sum()
    assert depths[24:40, 24:40].mean() > depths[depths.any(-1)].mean()
    assert pictures.error_maps(env).shape == (2 * 2 * 32, 2 * 10 * 32, 3)
