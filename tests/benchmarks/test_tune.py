"""`hgenv tune` and `hgenv sample`: what comes out of one file, what is said of a wrong one, and going on."""

import json
import math
import os
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hgenv import DataGenEnv, LabelledImages, SampleData
from hgenv.benchmarks import product, records
from hgenv.benchmarks.sample import main as sample
from hgenv.benchmarks.tune import choose, main, measured
from hgenv.datasets import Folder
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.learning import SGD, ModuleLearner
from hgenv.tasks import ClassificationTask

from ..learning.test_module import DATA, TASK, Stripes, conv_net

RENDER = '''
import numpy as np


def bar(light, tilted, seed):
    """A bright column, left or right, on noise."""
    random = np.random.default_rng(seed)
    image = 0.1 * random.random((1, 6, 6), np.float32)
    image[:, :, 1 if tilted else 4] += light
    return {"image": image.clip(0, 1), "label": int(tilted)}


def render(parameters, seed):
    return bar(parameters["light"], parameters["side"] == "left", seed)
'''
OWN = """
import numpy as np
import torch
from torch import nn

from hgenv import LabelledImages, SampleData
from hgenv.datasets import Folder
from pillars import bar


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 2)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.scale


def photos():
    made = [bar(0.8, n % 2, n) for n in range(40)]
    images, labels = (torch.from_numpy(np.stack([m[name] for m in made])) for name in ("image", "label"))
    parts = [SampleData(LabelledImages(images[p], labels[p]), "bars") for p in (slice(20), slice(20, None))]
    return Folder(*parts, ("right", "left"))
"""
SPEC = {
    "generator": {
        "function": "pillars:render",
        "parameters": {
            "light": {"distribution": "normal", "mean": {"low": 0.0, "high": 1.0, "initial": 0.1}, "spread": 0.1},
            "side": {"distribution": "categorical", "choices": ["left", "right"]},
        },
        "workers": 1,
    },
    "learner": {"network": "mine:Net"},
    "data": "mine:photos",
    "training": {"batch_size": 4, "rule": {"name": "adam", "learning_rate": 0.01}},
    "budget": {"amount": 6, "unit": "updates"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An experiment of one's own, in a folder that nobody has imported from."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "pillars.py").write_text(RENDER)  # workers import this alone, without torch
    write(tmp_path, SPEC)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(product, "ENOUGH", 1.0)
    yield tmp_path
    for name in ("mine", "pillars"):
        sys.modules.pop(name, None)


def write(folder, spec, name="bars.yaml"):
    (folder / name).write_text(yaml.safe_dump(spec))
    return str(folder / name)


def test_one_file_gives_parameters_a_network_a_page_and_a_data_set(folder, capsys):
    path = str(folder / "bars.yaml")
    assert main([path]) == 0
    said = capsys.readouterr().out
    assert "optimizer: score_influence: a sample takes" in said
    out = folder / "runs/bars"
    kept = yaml.safe_load((out / "best.yaml").read_text())
    run = records.read(next((out).glob("*/score_influence/seed=0")))
    assert kept["beta"]["light.mean"] in [pytest.approx(row["recommendation"], rel=1e-6) for row in run.counted]
    assert kept["parameters"]["light"]["mean"] == pytest.approx(kept["beta"]["light.mean"][0], rel=1e-5)
    assert kept["parameters"]["light"]["distribution"] == "normal"
    # The network is the one that the run ended with: it is as right as the last row says.
    sys.path.insert(0, str(folder))
    from mine import Net, photos  # type: ignore[import-not-found] # it is written above

    network, test = Net(), photos().test
    network.load_state_dict(torch.load(out / "network.pt", weights_only=True))
    right = float((network(test.samples.image).argmax(1) == test.samples.label).float().mean())
    assert 100 * right == pytest.approx(run.counted[-1]["test"]["accuracy"], abs=1e-3)
    page = (out / "index.html").read_text()
    assert "On 20 test samples, accuracy (%) is" in page
    assert page.count("data:image/png;base64,") >= 5  # curves, samples and predictions before and after
    assert "light.mean" in page
    assert "photos</b> that parameters were tuned on" in page
    # A second time there is nothing to do, and `auto` stays with what it chose.
    assert main([path]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert sample([str(out / "best.yaml"), "-n", "5", "--out", str(folder / "data")]) == 0
    few = {p.name: p.read_bytes() for p in (folder / "data").rglob("*.png")}
    assert sample([str(out / "best.yaml"), "-n", "9", "--out", str(folder / "data")]) == 0
    files = {p.name: p.read_bytes() for p in (folder / "data").rglob("*.png")}
    assert len(files) == 9
    assert few.items() <= files.items()
    assert Folder.of_classes(folder / "data", 6, channels=1).names == ("left", "right")
    assert sample([str(out / "best.yaml"), "-n", "9", "--out", str(folder / "data")]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert sample([str(out / "best.yaml"), "-n", "9", "--out", str(folder / "data"), "--seed", "1"]) == 1
    assert "holds samples of another seed" in capsys.readouterr().err
    # Brightness follows the tuned light: samples are of the tuned generator, not of the initial one.
    assert sample([str(out / "best.yaml"), "-n", "9", "--out", str(folder / "old"), "--initial"]) == 0
    old = json.loads((folder / "old/dataset.json").read_text())
    assert old["beta"] == [0.1]


def test_what_is_stopped_goes_on(folder, capsys, monkeypatch):
    spec = SPEC | {"optimizer": {"name": "fixed"}, "budget": {"amount": 50, "unit": "updates"}}
    path, real, count = write(folder, spec), DataGenEnv.rollout, [0]

    def rollout(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(DataGenEnv, "rollout", rollout)
    assert main([path]) == 128 + signal.SIGINT
    kept = (folder / "runs/bars/best.yaml").read_text()
    assert "on the way" in kept.splitlines()[0]
    assert main([path]) == 0
    assert "resumes after" in capsys.readouterr().out
    kept = (folder / "runs/bars/best.yaml").read_text()
    assert "at the end" in kept.splitlines()[0]
    # Nothing to compare with, and the page says so.
    assert "There is no run without tuning" in (folder / "runs/bars/index.html").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generator": None}, "needs generator: a name, my_module:generator, or what it is made of"),
        ({"genrator": "x"}, "there is no setting 'genrator'; there are generator, learner"),
        ({"budget": 5}, "budget must be settings, {amount: ..., unit: ...}"),
        ({"budget": {"amount": -5}}, "amount"),
        ({"budget": {"unit": "hours"}}, "hours"),
        ({"training": {"batch_sise": 4}}, "has no setting 'batch_sise'"),
        ({"optimizer": "score_influense"}, "did you mean score_influence?"),
        ({"optimizer": {"name": "fixed", "speed": 3}}, "has no setting 'speed'"),
        ({"optimizer": 3}, "optimizer must be auto, or have the name of one"),
        ({"training": {"rule": {"name": "adan"}}}, "rule: name must be one of sgd, adam, adamw"),
        ({"baseline": "no"}, "baseline must be true or false, not 'no'"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"data": "mine:nowhere"}, "there is no 'nowhere' in it"),
        ({"learner": {"network": "mine:Net", "task": "normals"}}, "target"),
    ],
)
def test_a_wrong_file_is_answered_and_nothing_is_written(folder, change, words, capsys):
    spec = SPEC | {"optimizer": "fixed"} | change
    assert main([write(folder, spec)]) == 1
    assert words in capsys.readouterr().err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["none.yaml"], "there is no such file"), (["a.yaml", "b"], "one file is needed"), (["bad.yaml"], "no YAML")],
)
def test_other_words_are_answered(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("a: [")
    assert main(words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[", "beta: [1]", "3"])
def test_what_is_no_best_is_answered(tmp_path, content, capsys):
    (tmp_path / "best.yaml").write_text(content)
    assert sample([str(tmp_path / "best.yaml"), "-n", "3", "--out", str(tmp_path / "out")]) == 1
    assert "is no best.yaml that hgenv tune wrote" in capsys.readouterr().err


def test_a_data_set_is_not_written_among_other_things(folder, capsys):
    best(folder, {"light.mean": [0.5]})
    assert sample([str(folder / "best.yaml"), "-n", "3", "--out", str(folder)]) == 1
    assert "is there, and no data set" in capsys.readouterr().err


def best(folder, beta):
    """A best.yaml beside the generator."""
    generator = SPEC["generator"] | {"samples": "hgenv:LabelledImages"}
    kept = {"beta": beta, "generator": generator, "folder": ".", "names": []}
    (folder / "best.yaml").write_text(yaml.safe_dump(kept))


def test_a_generator_that_has_changed_makes_no_samples_of_old_numbers(folder, capsys):
    best(folder, {"dark.mean": [0.5]})
    assert sample([str(folder / "best.yaml"), "-n", "3", "--out", str(folder / "out")]) == 1
    assert "tune it again" in capsys.readouterr().err


def test_a_sample_that_cannot_be_made_is_left_out(folder, capsys):
    code = "    if seed % 3 == 0:\n        raise ValueError('unlucky')\n    return bar("
    (folder / "pillars.py").write_text(RENDER.replace("    return bar(", code))
    best(folder, {"light.mean": [0.5]})
    words = [str(folder / "best.yaml"), "-n", "12", "--out", str(folder / "out")]
    assert sample(words) == 0
    said = capsys.readouterr()
    record = json.loads((folder / "out/dataset.json").read_text())
    assert 0 < len(record["failed"]) < 12
    assert f"but for {len(record['failed'])} that cannot be made" in said.out
    assert "unlucky" in said.err
    assert len(list((folder / "out").rglob("*.png"))) == 12 - len(record["failed"])
    (folder / "pillars.py").write_text(
        RENDER.replace("    return bar(", "    raise ValueError('never')\n    return bar(")
    )
    assert sample([*words[:-1], str(folder / "none")]) == 1
    assert "not one of 12 samples can be made" in capsys.readouterr().err


# --- What auto chooses, and the figures of the page ------------------------------------------------------------------


class Scored(Stripes):
    pathwise = ()

    def log_prob_score(self, betas, seeds):
        return torch.zeros_like(betas)


class Half(Scored):
    def log_prob_score(self, betas, seeds):
        return torch.tensor([0.0, math.nan], dtype=torch.float64).expand(len(betas), -1)


class Dark(Stripes):
    pathwise = ()


@pytest.mark.parametrize(
    ("generator", "sample_seconds", "name"),
    [
        (Stripes, 1.0, "combined"),
        (Scored, 1e-6, "score_influence"),
        (Scored, 1.0, "score_influence"),
        (Half, 1.0, "credit_gradient"),
        (Half, 1e-6, "hybrid_gradient"),
        (Dark, 1.0, "credit_gradient"),
    ],
)
def test_auto_chooses_by_what_is_known_and_by_price(generator, sample_seconds, name):
    learner = ModuleLearner(lambda seed: conv_net(seed=seed), TASK, DATA.samples)
    env = DataGenEnv(generator(), learner, DATA, DATA, rule=SGD(0.1), batch_size=4)
    choice = choose(env, sample_seconds, 0.01)
    assert choice.name == name
    assert (choice.settings == {"estimator": {"num_virtual": 0}}) == (generator is Scored and sample_seconds == 1)
    if generator is Half:
        assert "of noise there is no distribution" in choice.reason
    sample, step = measured(env, 0)
    assert sample > 0
    assert step > 0


def test_intervals_are_those_of_the_binomial_distribution():
    images = torch.rand(400, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = LabelledImages(images, (torch.arange(400) % 10 < 7).long())  # 70 % are of class 1
    data = SampleData(truth, "coin")
    env = DataGenEnv(Stripes(), always_one(truth), data, data, rule=SGD(0.1))
    env.reset(seed=0)
    found = product.compared(env, [env.state, env.state], data, env.task.metrics[0])
    assert found.values == pytest.approx([70, 70])
    assert found.gain == found.gain_interval[0] == found.gain_interval[1] == 0  # the same network, object by object
    half = 100 * 1.96 * math.sqrt(0.7 * 0.3 / 400)
    for low, high in found.intervals:
        assert low == pytest.approx(70 - half, abs=0.5)
        assert high == pytest.approx(70 + half, abs=0.5)


def always_one(example):
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 1.0], dtype=torch.float64))

        def forward(self, x):
            return self.bias + 0 * x.flatten(1)[:, :2]

    return ModuleLearner(One(), ClassificationTask(2), example)


@pytest.mark.parametrize(("losses", "said"), [((2.0, 2.5), True), ((2.0, 1.5), False), ((2.0, math.nan), True)])
def test_a_network_that_learned_nothing_is_told_of(losses, said):
    run = types.SimpleNamespace(optimizer="fixed", loss=np.array(losses), last_tenth=np.array([1]))
    assert ("has not learned" in product.untaught([run])) == said


def test_putting_back_what_mattered_raises_the_loss():
    env = QuadraticEnv()
    env.reset(seed=0)
    beta = env.space.initial.clone()
    beta[:3] = torch.tensor([0.6, -0.4, 0.5])  # where the hidden point is
    for _ in range(20):
        env.step(beta)
    found = {effect.name: effect for effect in product.mattered(env, beta, 60)}
    assert found.keys() == {"position", "all of them"}  # the spread did not move
    effect = found["position"]
    # Four steps of rate 0.1 pull the weights to the mean of the points, here from the hidden point to the origin.
    expected = 0.5 * (1 - 0.9**4) ** 2 * (0.6**2 + 0.4**2 + 0.5**2)
    assert abs(effect.change - expected) < 5 * effect.error + 1e-6
    assert isinstance(product.mattered(env, env.space.initial, 60), str)
    assert "it would take" in product.mattered(env, beta, 0)


@pytest.mark.parametrize(
    ("values", "direction", "row"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0] * 2, "max", 11),  # as good as row 1, and later; a tenth are two rows
        ([*range(20, 0, -1)], "min", 19),
        ([*range(10, 0, -1), *range(1, 11)], "min", 10),  # the second of the two that are best
        ([*range(10, 0, -1), *range(1, 11)], "max", 19),
        ([9, 0, 9, *[3] * 17], "min", 19),  # a lucky row is not the best moment
        ([math.nan] * 20, "min", 19),
    ],
)
def test_the_parameters_to_take_are_those_when_validation_was_best(values, direction, row):
    metric = types.SimpleNamespace(name="m", direction=direction)
    count = len(values)
    run = types.SimpleNamespace(
        counted=np.arange(count), used=np.arange(1.0, count + 1), primary=metric,
        metrics={"validation": {"m": np.array(values, float)}}, moments=np.arange(0, count, 2),
        recommendation=np.arange(0, count, 2, dtype=np.float32)[:, None],
    )  # fmt: skip
    found = product.recommended(run)
    assert found.share == pytest.approx((row + 1) / count)
    assert found.beta == [row - row % 2]


@pytest.mark.parametrize(
    ("gain", "interval", "words"),
    [
        (2.0, (1.0, 3.0), "helped"),
        (-2.0, (-3.0, -1.0), "worse"),
        (1.0, (-1.0, 3.0), "not clear"),
        (1.0, None, "it was"),
    ],
)
def test_the_verdict_says_what_the_interval_allows(gain, interval, words):
    metric = TASK.metrics[0]
    losses = product.Figures([2.0, 1.0], None, 1.0, (0.5, 1.5))
    said = product.verdict(product.Figures([50.0, 52.0], None, gain, interval), losses, metric, 20)
    assert words in said
    assert ("The loss is 1, clearly lower than the 2 without" in said) == (interval is not None)
