"""What runs on a GPU gives what a CPU does; where environments choose the device, other tests run there, too."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from hgenv import Batched, DataGenEnv, Network, SampleData, Serial
from hgenv.datasets.standin_faces import model as face_model
from hgenv.generators.faces import FaceGenerator
from hgenv.generators.grammar import compiled, numbers_needed, reference
from hgenv.generators.random import uniforms
from hgenv.generators.shapes import ShapeGenerator
from hgenv.learning import SGD, Adam, DenseLearner, Rule, sample_gradient, train
from hgenv.optimizers import REGISTRY
from hgenv.rendering.csg.analytic import AnalyticRenderer
from hgenv.rendering.csg.scene import EMPTY
from hgenv.tasks.normals import NormalsTask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SMALL = {"network": Network(size=32), "unroll_steps": 2, "batch_size": 8}
NAMES = ("ShapeNormals", "ShapeNormalsLit", "FaceDepth")


def make(name: str, device: str, **kwargs: Any) -> DataGenEnv:
    env = gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, device=device, **(SMALL | kwargs)).unwrapped
    env.reset(seed=0)
    return env


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().cpu().flatten(), b.double().cpu().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def test_the_grammar_draws_the_same_trees() -> None:
    generator = ShapeGenerator(lit=True)
    seeds = torch.arange(200)
    blocks = generator.space.split(generator.space.initial.expand(200, -1))
    here = compiled.shapes(blocks, uniforms(seeds, numbers_needed(3)), 3)
    there_numbers = uniforms(seeds.cuda(), numbers_needed(3))
    assert torch.equal(there_numbers.cpu(), uniforms(seeds, numbers_needed(3)))
    there = reference.shapes({name: values.cuda() for name, values in blocks.items()}, there_numbers, 3)
    assert torch.equal(there.kind.cpu(), here.kind)
    assert torch.equal(there.operator.cpu(), here.operator)
    used = here.kind != EMPTY
    for name in ("size", "linear", "offset"):
        torch.testing.assert_close(getattr(there, name).cpu()[used], getattr(here, name)[used], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [30, 64])
def test_objects_are_rendered_alike(size: int) -> None:
    generator = ShapeGenerator(lit=True)
    scene = generator.scene(generator.space.initial.expand(300, -1), torch.arange(300))
    here = AnalyticRenderer(size)(scene)
    there = AnalyticRenderer(size)(replace(scene, **{f.name: getattr(scene, f.name).cuda() for f in fields(scene)}))
    same = (here.mask == there.mask.cpu()).all(1)
    assert float(same.double().mean()) > 1 - 1e-4
    assert float((here.normal - there.normal.cpu()).abs().amax(1)[same].quantile(0.999)) < 1e-3
    assert float(((here.image - there.image.cpu()).abs()[:, 0][same] > 1e-2).double().mean()) < 1e-3


def test_faces_are_rendered_alike() -> None:
    generator = FaceGenerator(face_model(), size=48)
    betas, seeds = generator.space.project(generator.space.initial).expand(32, -1), torch.arange(32)
    here, there = generator(betas, seeds), generator(betas, seeds.cuda())
    same = here.mask == there.mask.cpu()
    assert float(same.double().mean()) > 1 - 1e-4
    assert float((here.target - there.target.cpu()).abs()[same].max()) < 1e-3
    assert float(((here.image - there.image.cpu()).abs() > 1e-2).double().mean()) < 1e-3


@pytest.mark.parametrize("rule", [SGD(0.05, 0.9), Adam(0.01)], ids=["sgd", "adam"])
def test_the_sample_gradient_is_the_same_in_double_precision(rule: Rule) -> None:
    generator, found = ShapeGenerator(AnalyticRenderer(32), lit=True), []
    samples = generator(generator.space.initial.expand(8, -1), torch.arange(8)).map(lambda x: x.double())
    learner = DenseLearner(NormalsTask(), Network(size=32), torch.float64)
    for device in ("cpu", "cuda"):
        batches = samples.to(device).split(4)
        start = rule.start({name: w.to(device) for name, w in learner.initial_weights(0).items()})
        trajectory = train(learner, rule, start, batches)
        loss, steps = sample_gradient(learner, rule, trajectory, batches, SampleData(batches[0], "photos"))
        found.append([loss.cpu(), *(x.cpu() for s in steps for x in (*s.samples.tensors, s.influence))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_an_optimizer_asks_for_is_answered_alike(name: str) -> None:
    answers: dict[str, list[Any]] = {}
    for device in ("cpu", "cuda"):
        env = make(name, device)
        beta = env.space.project(env.space.initial)
        draw = torch.Generator().manual_seed(0)
        directions = 0.05 * torch.randn(3, env.problem.num_samples, env.space.dimension, generator=draw)
        nearby = (env.space.normalize(beta) + 0.05 * directions[0, :5]).clamp(0, 1)
        betas = env.space.project(env.space.denormalize(nearby))
        env.step(beta)
        last = env.last
        gradient = last.sample_gradient()
        answer = {
            "loss": last.outcome.loss,
            "last sample gradient": env.rollout(beta).sample_gradient(last_steps=1, curvature=False).samples.image,
            "sample gradient": gradient.samples.image,
            "influence": last.influence(),
            "influence with curvature": last.influence(curvature=True),
            "slopes": gradient.slopes(directions).value,
            "probes": [outcome.loss for outcome in env.probe(betas)],
        }
        if env.generator.pathwise:
            answer["pathwise"] = gradient.pathwise()
        for what, value in answer.items():
            answers.setdefault(what, []).append(value)
        assert env.device.type == device
        assert isinstance(env.prober, Serial if device == "cpu" else Batched)
        assert all(x.device.type == device for x in (*last.samples.tensors, last.seeds, *last.end.tensors))
        assert all(x.device.type == "cpu" for x in (last.betas, gradient.influence, answer["slopes"]))
    for what, (here, there) in answers.items():
        if what in ("loss", "probes"):
            assert there == pytest.approx(here, rel=1e-3), what
        else:
            assert cosine(here, there) > 0.99, what


@pytest.mark.parametrize("optimizer", ["hybrid_gradient_paper", "combined", "autosimulate", "basic_random_search"])
def test_what_is_played_back_is_what_is_computed(optimizer: str) -> None:
    found = []
    for graphs in (False, True):
        env = make("ShapeNormalsLit", "cuda", cuda_graphs=graphs)
        chosen = REGISTRY[optimizer](env.space, seed=0)
        for _ in range(8):
            chosen.update(env)
        found.append([env.outcome.loss, *chosen.recommendation.tolist()])
        recordings = env.problem.recordings
        assert (recordings is None) != graphs
        if recordings is not None:
            played = [known for known in recordings._known.values() if known is not None]
            assert len(played) >= 3
            assert all(known.graph is not None for known in played)
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_is_charged_for_what_it_does(name: str) -> None:
    env = make(name, "cuda")
    beta = env.space.project(env.space.initial)
    env.step(beta)
    env.last.sample_gradient()
    phases = env.ledger.by_phase()
    for phase in ("generate", "train", "gradient", "validate"):
        assert phases[phase]["gpu_seconds"] > 0, phase
    assert phases["optimizer"]["gpu_seconds"] == 0
    spent = env.ledger.spent("gpu_seconds")
    env.test_metrics()
    assert env.ledger.spent("gpu_seconds") == spent
    assert math.isclose(spent, sum(p["gpu_seconds"] for n, p in phases.items()), rel_tol=1e-6)


@pytest.mark.parametrize("optimizer", ["hybrid_gradient", "noise_reuse_es"])
def test_a_checkpoint_goes_on_with_the_same_bits(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        env = make("ShapeNormalsLit", "cuda")
        chosen = REGISTRY[optimizer](env.space, seed=0)
        chosen.update(env)
        torch.save({"env": env.state_dict(), "optimizer": chosen.state_dict()}, tmp_path / "kept")
        whole = []
        for _ in range(2):
            chosen.update(env)
            whole.append([env.outcome.loss, *chosen.recommendation.tolist()])
        kept = torch.load(tmp_path / "kept", map_location="cuda", weights_only=True)
        again = make("ShapeNormalsLit", "cuda")
        other = REGISTRY[optimizer](again.space, seed=0)
        again.load_state_dict(kept["env"])
        other.load_state_dict(kept["optimizer"])
        for expected in whole:
            other.update(again)
            assert [again.outcome.loss, *other.recommendation.tolist()] == expected
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("optimizer", ["combined", "hybrid_gradient_paper", "credit_gradient", "basic_random_search"])
def test_same_seed_same_bits(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    losses = []
    torch.use_deterministic_algorithms(True, warn_only=True)  # as in a run
    try:
        for _ in range(2):
            env = make("ShapeNormalsLit", "cuda")
            chosen = REGISTRY[optimizer](env.space, seed=0)
            for _ in range(3):
                chosen.update(env)
            losses.append([env.outcome.loss, *chosen.recommendation.tolist()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses[0] == losses[1]
