"""An environment of parts that are said in words: what they make, and what is said of words that make no sense."""

import re
import sys
import types

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hgenv import DataGenEnv, DenseSamples, KeypointSamples, LabelledImages, ModuleLearner, SampleData
from hgenv.benchmarks.config import is_ours
from hgenv.datasets import Folder
from hgenv.environments.own import ID, HeldOut, OwnEnv, make_data, make_generator, make_learner, make_task
from hgenv.generators import BlackBox
from hgenv.named import NamedError
from hgenv.tasks import ClassificationTask, KeypointTask, NormalsTask, RegressionTask, SegmentationTask

from .learning.test_module import Stripes, conv_net, stripes

PARAMETERS = {
    "radius": {"distribution": "normal", "mean": {"low": 0.1, "high": 0.9, "initial": 0.3}, "spread": 0.1},
    "light": {"low": 0, "high": 1, "initial": 0.9},
}

IMAGE = torch.zeros(2, 1, 4, 4)


def render(parameters, seed):
    return {"image": np.full((1, 4, 4), parameters["light"], np.float32), "label": int(parameters["radius"] > 0.3)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, x):
        return self.layer(x.flatten(1).float())


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    """A module of somebody's own."""
    module = types.ModuleType("mine")
    module.generator, module.Stripes, module.render, module.Net = Stripes(), Stripes, render, Net
    module.network = lambda seed: conv_net(seed=seed)
    module.data = (SampleData(stripes(0, 6), "some"), SampleData(stripes(50, 6), "others"))
    module.nothing, module.task = 3, ClassificationTask(3)
    module.broken = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


@pytest.fixture
def photos(tmp_path):
    for i in range(8):
        folder = tmp_path / "photos" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 30 * i, np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def held(samples, names=()):
    return HeldOut(SampleData(samples, "some"), SampleData(samples, "others"), names)


def test_an_environment_of_names_is_that_of_the_things(mine):
    words = {"generator": "mine:generator", "learner": {"network": "mine:network", "task": "mine:task"}}
    named = OwnEnv(**words, data="mine:data", batch_size=4)
    learner = ModuleLearner(mine.network, mine.task, mine.data[0].samples)
    things = DataGenEnv(Stripes(), learner, *mine.data, rule=named.problem.rule, batch_size=4)
    ends = []
    for env in (named, things):
        env.reset(seed=3)
        ends.append(env.step(env.space.initial)[1])
    assert ends[0] == ends[1]


def test_it_is_made_by_gymnasium_but_only_where_it_is_imported():
    env = gymnasium.make(
        ID, generator="mine:Stripes", learner={"network": "mine:Net", "task": "mine:task"}, data="mine:data"
    )
    assert env.unwrapped.space.dimension == 2
    # So no folder of runs has a report import what it names.
    assert not is_ours({"env": {"id": ID, "generator": "mine:Stripes"}})


def test_a_folder_says_names_and_task(photos):
    data = make_data({"layout": "classes", "folder": str(photos), "size": 6, "channels": 1})
    assert data.names == ("cat", "dog")
    assert make_task(None, data) == ClassificationTask(("cat", "dog"))


@pytest.mark.parametrize(
    ("given", "samples", "expected"),
    [
        (None, LabelledImages(IMAGE, torch.zeros(2).long()), ClassificationTask(("a", "b"))),
        (None, LabelledImages(IMAGE, torch.zeros(2, 4, 4).long()), SegmentationTask(("a", "b"))),
        (None, KeypointSamples(IMAGE, torch.zeros(2, 2, 2), torch.ones(2, 2)), KeypointTask(("a", "b"))),
        ("normals", DenseSamples(IMAGE, IMAGE, IMAGE), NormalsTask()),
        (
            {"kind": "regression", "low": -2, "high": 3},
            DenseSamples(IMAGE, IMAGE, IMAGE),
            RegressionTask(low=-2, high=3),
        ),
        ({"kind": "classification", "classes": 5}, stripes(), ClassificationTask(5)),
    ],
)
def test_tasks_by_word(given, samples, expected):
    assert make_task(given, held(samples, ("a", "b"))) == expected


def test_a_renderer_makes_the_datas_kind_of_samples(tmp_path):
    made = make_generator({"function": "mine:render", "parameters": PARAMETERS, "workers": 1}, LabelledImages)
    assert isinstance(made, BlackBox)
    assert made.samples is LabelledImages
    assert [b.name for b in made.space.blocks] == ["radius.mean", "light"]
    other = make_generator(
        {"command": [sys.executable, "-c", "pass"], "parameters": PARAMETERS, "samples": "hgenv:DenseSamples"},
        LabelledImages,
    )
    assert other.samples is DenseSamples


def test_a_class_of_networks_is_made_for_each_seed():
    learner = make_learner({"network": "mine:Net", "task": "mine:task"}, held(stripes()))
    assert not torch.equal(*(learner.initial_weights(seed)["layer.weight"] for seed in (0, 1)))


RENDER = {"function": "mine:render"}
NETWORK = {"network": "mine:network"}
SENSELESS = {
    "data": [
        ("mine:nothing", "must lead to a hgenv.datasets.Folder"),
        ("mine:broken", "calling mine:broken without arguments failed: ZeroDivisionError"),
        ("mine", "write the module and what is in it"),
        ("nowhere:data", "there is no module 'nowhere'"),
        ("mine:dta", "there is no 'dta' in it"),
        ({"layout": "class", "folder": "x"}, "needs layout: one of classes, pairs, keypoints, not 'class'"),
        ({"folder": "x"}, "needs layout: one of"),
        ({"layout": "classes", "folder": "x", "sise": 3}, "there is no 'sise'; it has layout, folder, size"),
        ({"layout": "classes", "folder": "x"}, "missing a required argument: 'size'"),
        ({"layout": "classes", "folder": ".", "size": 0}, "data of the layout classes: "),
    ],
    "generator": [
        ("mine:nothing", "is no generator"),
        ({"parameters": {}}, "write either function"),
        (RENDER, "missing a required argument: 'parameters'"),
        (RENDER | {"parameters": {"a": 3}}, "parameter 'a'"),
        (RENDER | {"parameters": PARAMETERS, "workers": 0}, "workers must be"),
    ],
    "learner": [
        ("mine:network", "calling mine:network without arguments failed"),
        ("mine:nothing", "is no learner"),
        ({"task": "normals"}, "needs network"),
        (NETWORK, "needs task: one of"),
        (NETWORK | {"task": "clasification"}, "needs kind: one of"),
        (NETWORK | {"task": "mine:nothing"}, "is no hgenv.Task"),
        (NETWORK | {"task": "mine:task", "checkpiont": 1}, "no 'checkpiont'"),
    ],
}


@pytest.mark.parametrize(("part", "given", "words"), [(part, *case) for part in SENSELESS for case in SENSELESS[part]])
def test_words_that_make_no_sense_are_answered(part, given, words):
    more = {"data": (), "generator": (DenseSamples,), "learner": (held(stripes()),)}[part]
    make = {"data": make_data, "generator": make_generator, "learner": make_learner}[part]
    with pytest.raises(NamedError, match=re.escape(words)):
        make(given, *more)


def test_a_folder_of_ones_own_is_taken_as_it_is(photos):
    folder = Folder.of_classes(photos, 6, channels=1)
    assert make_data(folder).names == ("cat", "dog")
