"""`hgenv/FaceDepth-v0`: what its documentation says, its arguments, and that every optimizer can drive it."""

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hgenv import DataError, DataGenEnv, Network
from hgenv.datasets import standin_faces
from hgenv.environments.face_depth import FaceDepthEnv
from hgenv.generators.faces import FaceGenerator
from hgenv.optimizers import REGISTRY

from .optimizers.tools import ALIKE

DATA = Path(os.environ.get("HGENV_DATA", Path(__file__).parents[2] / "shared" / "data"))


def make(**kwargs: Any) -> DataGenEnv:
    small = {"network": Network(size=32), "unroll_steps": 2, "batch_size": 8}
    return gymnasium.make("hgenv/FaceDepth-v0", disable_env_checker=True, **(small | kwargs)).unwrapped


def test_the_table_names_every_block() -> None:
    env = make()
    assert env.space.dimension == 204
    for block in env.space.blocks:
        assert block.name in str(FaceDepthEnv.__doc__)
        assert block.meaning in str(FaceDepthEnv.__doc__)


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - set(ALIKE)))
def test_every_optimizer_drives_it(name: str) -> None:
    env = make(batch_size=4)
    optimizer = REGISTRY[name](env.space, seed=0)
    env.reset(seed=0)
    for _ in range(2 * optimizer.period + 1):
        optimizer.update(env)
        assert env.outcome is not None
        assert env.outcome.ok
    moved = not torch.equal(optimizer.recommendation, env.space.project(env.space.initial))
    assert moved == (name != "fixed")


def test_training_on_faces_helps_with_other_faces() -> None:
    env = make(batch_size=16)
    env.reset(seed=0)
    before = env.test_metrics()["abs_rel"]
    for _ in range(10):
        env.step(env.space.project(env.space.initial))
    after = env.test_metrics()
    assert after["abs_rel"] < 0.7 * before
    heads = {name.partition("/")[2] for name in after if "/" in name}
    assert heads == set(env.test.names)


def test_render_shows_faces_in_colour() -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.space.project(env.space.initial))
    picture = env.render()
    assert picture is not None
    assert picture.shape == (4 * 32, 4 * 32, 3)
    # Row by row: the last image of the second batch stands at the bottom right.
    last = env.last.samples.image[15]
    shown = torch.from_numpy(picture[-32:, -32:].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(shown, last, rtol=0, atol=0.5 / 255 + 1e-6)


def test_metrics_of_heads_make_up_the_whole() -> None:
    env = make()
    env.reset(seed=0)
    found, mask = env.test_metrics(), env.test.samples.mask
    pixels = [float(mask[env.test.head == i].sum()) for i in range(len(env.test.names))]
    each = [found[f"abs_rel/{name}"] for name in env.test.names]
    assert np.average(each, weights=pixels) == pytest.approx(found["abs_rel"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": "flame"}, "unknown model 'flame'"),
        ({"data": "photos"}, "unknown data 'photos'"),
    ],
)
def test_unknown_names(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_a_generator_of_ones_own_takes_the_models_place() -> None:
    generator = FaceGenerator(standin_faces.model(), size=32, shadows=False)
    env = make(generator=generator, model="a model that nobody asks for", shadows=True)
    env.reset(seed=0)
    beta, seeds = env.space.initial.expand(16, -1), env.sample_seeds(16)
    assert torch.equal(env.rollout(env.space.initial).samples.image, generator(env.space.project(beta), seeds).image)
    shadowed = make(shadows=True)
    shadowed.reset(seed=0)
    assert not torch.equal(shadowed.generator(beta, seeds).image, generator(beta, seeds).image)


def test_missing_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HGENV_DATA", raising=False)
    for kwargs in ({"model": "ict"}, {"model": "bfm"}, {"data": "scans"}, {"data": "basel"}):
        with pytest.raises(DataError, match=r"HGENV_DATA"):
            make(**kwargs)
        with pytest.raises(DataError, match=str(tmp_path)):
            make(data_folder=tmp_path, **kwargs)
    monkeypatch.setenv("HGENV_DATA", str(tmp_path))
    with pytest.raises(DataError, match="ict_facekit"):
        make(model="ict")
    with pytest.raises(DataError, match=r"BFM.mat"):
        make(model="bfm", model_path=tmp_path / "BFM.mat")


@pytest.mark.skipif(not (DATA / "faces").is_dir(), reason="needs the shared data: faces")
def test_real_model_and_scans() -> None:
    env = make(model="ict", data="scans", data_folder=DATA)
    env.reset(seed=0)
    before = env.test_metrics()["abs_rel"]
    for _ in range(8):
        env.step(env.space.project(env.space.initial))
    assert env.test_metrics()["abs_rel"] < before
    assert "scans" in env.test.label
