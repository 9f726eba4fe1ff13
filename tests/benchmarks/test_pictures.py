"""What a person looks at shows the photos once, whatever else the loss looks at."""

import gymnasium

import hgenv  # noqa: F401 - registers the environments
from benchmarks import pictures


def test_error_maps_leave_out_further_views_of_the_photos() -> None:
    shown = []
    for views in ((), ("flips",)):
        env = gymnasium.make("hgenv/ShapeNormals-v0", disable_env_checker=True, size=32, views=views).unwrapped
        env.reset(seed=0)
        shown.append(pictures.error_maps(env))
    assert shown[0].shape == (2 * 4 * 32, 2 * 10 * 32, 3)
    assert (shown[0] == shown[1]).all()
