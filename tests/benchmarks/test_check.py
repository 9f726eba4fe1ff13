"""`hgenv check`: what it says of parts that work, that cannot do everything, and that are broken."""

import re
import sys
import types

import pytest
import torch
from torch import nn

from hgenv import ModuleLearner, SampleData
from hgenv.benchmarks.check import main
from hgenv.benchmarks.command import main as command
from hgenv.datasets import Folder
from hgenv.learning import DenseLearner, Network
from hgenv.tasks import NormalsTask

from ..learning.test_module import DATA, TASK, Once, Stripes, conv_net
from ..toys import StripesGenerator, TwoLayers


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return 1.1 * g * ctx.saved_tensors[0].cos()


class SilentSecond(torch.autograd.Function):
    """Its derivative is right, and its second derivative is silently zero."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def of(layer=None):
    return lambda: ModuleLearner(lambda seed: conv_net(last=layer, seed=seed), TASK, DATA.samples)


class Forgetful(Stripes):
    calls = 0

    def __call__(self, betas, seeds):
        Forgetful.calls += 1
        return super().__call__(betas, seeds + Forgetful.calls)


class Scored(Stripes):
    """Says something of scores that is not so."""

    def log_prob_score(self, betas, seeds):
        return torch.ones_like(betas)


def failing():
    raise OSError("no display")


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.generator, module.forgetful, module.scored = Stripes, Forgetful, Scored()
    module.learner, module.data, module.number, module.failing = of(), DATA, 7, failing
    module.once, module.wrong, module.silent = of(Once()), of(Layer(WrongBackward)), of(Layer(SilentSecond))
    module.fixed = ModuleLearner(conv_net(), TASK, DATA.samples)
    module.few = SampleData(DATA.samples[:2], "few")
    module.folder = Folder(DATA, DATA, ("0", "1", "2"))
    module.toys, module.two_layers = StripesGenerator, TwoLayers
    module.kinks = of(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    module.dense = lambda: DenseLearner(NormalsTask(), Network(size=16))
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setenv("HGENV_DATA", "")


def verdicts(capsys, *names):
    """Exit status, and the verdict and the words on each line by what was looked at."""
    status = main([f"mine:{name}" for name in names])
    lines = re.findall(r"^  (\w+) +([^:\n]+)(?:: (.*))?$", capsys.readouterr().out, re.MULTILINE)
    return status, {what: (verdict, words) for verdict, what, words in lines}


def test_parts_that_can_do_all(capsys):
    status, found = verdicts(capsys, "generator", "learner")
    assert status == 0
    assert {verdict for verdict, _ in found.values()} == {"ok", "yes", "no"}
    assert found["pathwise blocks"] == ("yes", "contrast, noise; derivatives agree with differences")
    assert found["scores"][0] == "no"
    assert found["deterministic"][0] == found["losses are deterministic"][0] == "ok"
    for what in ("initial weights by seed", "first derivatives", "second derivatives"):
        assert found[what][0] == "yes"
    assert found["probes as one batch (torch.func.vmap)"][0] == "yes"
    assert "a training step" in found["floating-point operations"][1]


@pytest.mark.parametrize("data", ["data", "folder"])
def test_a_learner_with_data_alone(capsys, data):
    status, found = verdicts(capsys, data, "fixed")
    assert status == 0
    assert found["initial weights by seed"] == ("no", "the same for all seeds, as those of a checkpoint")


def test_a_learner_of_another_kind(capsys):
    assert verdicts(capsys, "toys", "two_layers")[0] == 0


def test_kinks_are_no_fault(capsys):
    status, found = verdicts(capsys, "data", "kinks")
    assert status == 0, found
    assert found["second derivatives"][0] == "yes"


def test_what_a_learner_cannot_do_is_no_fault(capsys):
    status, found = verdicts(capsys, "data", "once")
    assert status == 0
    assert found["first derivatives"][0] == "yes"
    assert found["second derivatives"][0] == "no"
    assert "once_differentiable" in found["second derivatives"][1]
    verdict, words = found["probes as one batch (torch.func.vmap)"]
    assert verdict == "no"
    assert "hgenv.Serial()" in words
    assert "an adjoint step none" in found["floating-point operations"][1]


@pytest.mark.parametrize(
    ("names", "broken", "words"),
    [
        (["forgetful"], "deterministic", "draw from the seeds alone"),
        (["scored"], "scores", "not zero in the mean"),
        (["data", "wrong"], "first derivatives", "look at the backward"),
        (["data", "silent"], "second derivatives", "by central differences"),
    ],
)
def test_what_is_broken_is_said(capsys, names, broken, words):
    status, found = verdicts(capsys, *names)
    assert status == 1
    assert found[broken][0] == "BROKEN"
    assert words in found[broken][1]
    if broken == "second derivatives":
        assert found["first derivatives"][0] == "yes"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["mine"], "write the module and what is in it, as in my_package:generator"),
        (["nowhere:generator"], "there is no module 'nowhere' here"),
        (["mine:gen"], "there is no 'gen' in it; there are generator, forgetful"),
        (["mine:number"], "int is neither a generator, nor a learner, nor data"),
        (["mine:failing"], "calling it without arguments failed: OSError: no display"),
        (["mine:dense"], "name a generator or held-out data as well"),
        (["mine:generator", "mine:scored"], "mine:generator is a generator, too; one at a time"),
        (["mine:few", "mine:learner"], "2 samples, and at least 4 are needed"),
    ],
)
def test_names_that_lead_nowhere(capsys, names, words):
    assert main(names) == 2
    assert words in capsys.readouterr().err


def test_a_module_that_fails_is_told_apart_from_one_that_is_not_there(tmp_path, monkeypatch, capsys):
    (tmp_path / "half.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["half:generator"]) == 2
    assert "importing half failed: there is no module 'nothing_of_this_name'" in capsys.readouterr().err
    assert main(["bad:generator"]) == 2
    assert "importing bad failed: ZeroDivisionError" in capsys.readouterr().err


def test_it_is_a_command(capsys):
    assert command(["check", "--help"]) == 0
    assert "hgenv check my_package:generator my_package:learner" in capsys.readouterr().out
    assert command(["check", "mine:generator"]) == 0
    assert "nothing is broken" in capsys.readouterr().out


CLASSIFIER = """
generator:
  function: even_render:render
  parameters: {light: {distribution: normal, mean: {low: 0.0, high: 1.0, initial: 0.1}, spread: 0.1}}
  workers: 1
learner: {network: "even_net:network"}
data: even_net:photos
"""
RENDER = """
import numpy as np

def render(parameters, seed):
    image = np.random.default_rng(seed).random((1, 6, 6), np.float32) + np.float32(parameters["light"])
    return {"image": image, "label": seed % 2}
"""
NETWORK = """
import torch
from torch import nn
from hgenv import LabelledImages, SampleData
from hgenv.datasets import Folder

def network(seed):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))

def photos():
    data = SampleData(LabelledImages(torch.rand(8, 1, 6, 6), torch.arange(8) % 2), "random")
    return Folder(data, data, ("even", "odd"))
"""


def test_the_file_of_hgenv_tune_names_all_parts(tmp_path, monkeypatch, capsys):
    for name, text in (("mine.yaml", CLASSIFIER), ("even_render.py", RENDER), ("even_net.py", NETWORK)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)  # to come back
    monkeypatch.setattr(sys, "path", [*sys.path])
    status = main([str(tmp_path / "mine.yaml")])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "mine.yaml, generator: the generator BlackBox" in said
    assert "yes     scores" in said
    assert main(["mine.yaml", "mine:other"]) == 2
    assert "give it alone" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(CLASSIFIER.replace("even_net:photos", "even_net:nowhere"))
    assert main(["mine.yaml"]) == 2
    assert "there is no 'nowhere' in it" in capsys.readouterr().err
