"""The environment against closed forms, central differences and Gymnasium's own checker."""

import inspect
import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import hgenv
from hgenv import (
    Batched,
    DataGenEnv,
    DecisionError,
    DenseSamples,
    Generator,
    Network,
    RenderError,
    Serial,
    Status,
    Workers,
)
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.environments.shape_normals import ShapeNormalsEnv, ShapeNormalsLitEnv
from hgenv.environments.shape_population import ShapePopulationEnv
from hgenv.generators.population import PopulationGenerator
from hgenv.generators.shapes import ShapeGenerator
from hgenv.learning import SGD, Adam
from hgenv.rendering.csg import AnalyticRenderer

from .toys import labels_env

SMALL = {"network": Network(size=32), "unroll_steps": 2, "batch_size": 4}


def make(name: str, **kwargs: Any) -> DataGenEnv:
    return gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, **kwargs).unwrapped


@pytest.mark.parametrize(("name", "kwargs"), [("Quadratic", {}), ("ShapeNormals", SMALL), ("ShapeNormalsLit", SMALL)])
def test_gymnasiums_checker_has_nothing_to_say(name: str, kwargs: dict[str, Any]) -> None:
    env = gymnasium.make(f"hgenv/{name}-v0", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_an_agent_that_knows_only_gymnasium_can_drive_it() -> None:
    env = gymnasium.make("hgenv/ShapeNormals-v0", max_updates=3, **SMALL)
    observation, _ = env.reset(seed=5)
    env.action_space.seed(0)
    done = False
    steps = 0
    while not done:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert reward == -info["loss"] < 0
        done = terminated or truncated
        steps += 1
    assert steps == 3
    assert observation[-1] == 1


def test_render_shows_the_training_images() -> None:
    env = make("ShapeNormals", render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    assert env.render().shape == (4 * 32, 4 * 32, 3)
    assert env.render().max() == 0
    env.step(env.space.initial)
    gallery = env.render()
    assert gallery.dtype == np.uint8
    assert gallery.shape == (4 * 32, 4 * 32, 3)
    assert gallery[:32].max() > 100
    images = env.last.samples.image
    for i in range(16):  # row by row; there are only eight samples
        row, column = divmod(i, 4)
        shown = gallery[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        expected = np.round(255 * images[i, 0].numpy())[..., None] if i < 8 else np.zeros((32, 32, 1))
        np.testing.assert_array_equal(shown, np.broadcast_to(expected, shown.shape))
    with pytest.raises(ValueError, match="unknown render_mode 'ansi'"):
        ShapeNormalsEnv(render_mode="ansi")


def test_render_of_samples_that_could_not_be_made_is_black() -> None:
    env = make("ShapeNormals", render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    env.step(env.space.initial)
    env.problem = replace(env.problem, generator=broken(env))
    env.step(env.space.initial)
    assert env.render().max() == 0


def test_where_there_is_nothing_to_see_nothing_is_rendered() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    assert env.render() is None
    with pytest.raises(ValueError, match="unknown render_mode 'rgb_array'"):
        QuadraticEnv(render_mode="rgb_array")
    env = labels_env()
    env.render_mode = "rgb_array"
    env.reset(seed=0)
    with pytest.raises(ValueError, match="ClassificationTask draws no pictures"):
        env.render()


@pytest.mark.parametrize(
    ("cls", "generator"),
    [
        (ShapeNormalsEnv, ShapeGenerator()),
        (ShapeNormalsLitEnv, ShapeGenerator(lit=True)),
        (ShapePopulationEnv, PopulationGenerator()),
    ],
)
def test_the_docstring_holds_the_table_of_beta(cls: type, generator: Generator) -> None:
    text = inspect.getdoc(cls) or ""
    for row in generator.space.table().splitlines():
        assert row in text
    assert f"(d = {generator.space.dimension})" in text
    assert f"`{type(generator).__name__}` at that size" in text


def test_the_quadratics_docstring_too() -> None:
    env = make("Quadratic")
    for row in env.space.table().splitlines():
        assert row in (inspect.getdoc(type(env)) or "")


def test_sample_gradient_of_the_quadratic_is_its_closed_form() -> None:
    env = make("Quadratic", rule=SGD(0.2), unroll_steps=3, batch_size=5)
    env.reset(seed=1)
    env.step([0.3, -0.2, 0.1, 0.4])
    error = env.state.weights["w"] - env.validation.samples.image[0]
    gradient = env.last.sample_gradient()
    for k in range(3):
        expected = 0.2 * 0.8 ** (2 - k) / 5 * error
        torch.testing.assert_close(gradient.samples.image[5 * k : 5 * k + 5], expected.expand(5, -1))
    total = gradient.pathwise().sum(0) / (env.space.high - env.space.low)
    torch.testing.assert_close(total[:3], (1 - 0.8**3) * error)


def test_of_the_last_training_steps_alone_everything_is_the_same() -> None:
    env = make("Quadratic", unroll_steps=3, batch_size=5)
    env.reset(seed=1)
    env.step([0.3, -0.2, 0.1, 0.4])
    directions = 0.05 * torch.randn(2, 15, 4, generator=torch.Generator().manual_seed(0))
    last = env.last.sample_gradient(last_steps=2)
    slopes, pathwise = last.slopes(directions[:, 5:]), last.pathwise()
    whole = env.last.sample_gradient()
    for part, all_of_it in zip(last.samples.tensors, whole.samples.tensors, strict=True):
        assert torch.equal(part, all_of_it[5:])
    assert torch.equal(last.influence, whole.influence[5:])
    assert torch.equal(slopes.value, whole.slopes(directions).value[:, 5:])
    assert torch.equal(slopes.displacement, whole.slopes(directions).displacement[:, 5:])
    assert torch.equal(pathwise, whole.pathwise()[5:])
    for steps in (0, 4):
        with pytest.raises(ValueError, match="last_steps must be None, or 1 to 3"):
            env.last.sample_gradient(last_steps=steps)


def test_slopes_of_the_quadratic_are_exact_in_any_direction() -> None:
    env = make("Quadratic")
    env.reset(seed=2)
    env.step([0.3, -0.2, 0.1, 0.4])
    directions = 0.05 * torch.randn(5, env.problem.num_samples, 4, generator=torch.Generator().manual_seed(0))
    gradient = env.last.sample_gradient()
    exact = (gradient.pathwise() * directions).sum(-1) / directions.norm(dim=-1)
    torch.testing.assert_close(gradient.slopes(directions).value, exact)


def test_slopes_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("ShapeNormalsLit", device="cpu", **SMALL)
    env.reset(seed=0)
    env.step(env.space.initial)
    directions = 0.05 * torch.randn(5, 8, 37, generator=torch.Generator().manual_seed(0))
    gradient, found = env.last.sample_gradient(), []
    for at_once in (16, 48, 1024):
        monkeypatch.setattr("hgenv.rollout.SAMPLES_AT_ONCE", at_once)
        found.append(gradient.slopes(directions).value)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_slope_cut_by_a_bound_uses_the_actual_step() -> None:
    env = make("Quadratic")
    env.reset(seed=2)
    env.step([1.0, -0.2, 0.1, 0.4])  # the first component is at its upper bound
    directions = torch.zeros(1, env.problem.num_samples, 4)
    directions[..., 0] = 0.1
    gradient = env.last.sample_gradient()
    slopes = gradient.slopes(directions)
    torch.testing.assert_close(slopes.value[0], gradient.pathwise()[:, 0])
    assert slopes.displacement[0, :, 0].tolist() == pytest.approx([0.1] * env.problem.num_samples)


def test_before_the_first_step_there_is_nothing_to_ask() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    assert env.last is None
    assert env.outcome is None
    env.step(env.space.initial)
    assert env.outcome is env.last.outcome
    env.reset(seed=0)
    assert env.last is None


def test_bad_directions_are_refused() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    env.step(env.space.initial)
    gradient = env.last.sample_gradient()
    with pytest.raises(ValueError, match=r"\(J, 32, 4\), not \(32, 4\)"):
        gradient.slopes(torch.ones(32, 4))
    with pytest.raises(ValueError, match="none of them zero"):
        gradient.slopes(torch.zeros(1, 32, 4))


def test_the_whole_line_from_beta_to_loss_against_central_differences_of_the_loss() -> None:
    """On one fixed batch: dL/dX from the adjoint times dX/dbeta of the light, against small differences of L itself."""
    generator = ShapeGenerator(AnalyticRenderer(32, shadows=False), lit=True)
    env = make("ShapeNormalsLit", generator=generator, unroll_steps=3, batch_size=4, network=Network(size=32))
    env.reset(seed=3)
    for _ in range(4):
        env.step(env.space.initial)
    beta = env.space.project(env.space.initial)
    state = env.state_dict()
    rng = torch.Generator().manual_seed(0)
    predicted, measured = [], []
    for _ in range(6):
        direction = torch.zeros(37, dtype=torch.float64)
        for name in env.generator.pathwise:
            where = env.space.slice(name)
            direction[where] = torch.randn(where.stop - where.start, generator=rng, dtype=torch.float64)
        step = 2e-3 * direction / direction.norm() * (env.space.high - env.space.low)
        ahead, behind = env.probe(torch.stack([beta + step, beta - step]))
        assert ahead.loss is not None
        assert behind.loss is not None
        measured.append((ahead.loss - behind.loss) / 4e-3)
        env.step(beta)  # the same weights and seeds as the probes
        predicted.append(float((env.last.sample_gradient().pathwise().sum(0) * direction / direction.norm()).sum()))
        env.load_state_dict(state)
    np.testing.assert_allclose(predicted, measured, rtol=0.05, atol=0.02 * np.abs(measured).max())


def test_a_probe_is_the_step_that_it_foretells() -> None:
    env = make("ShapeNormals", **SMALL)
    env.reset(seed=0)
    env.step(env.space.initial)
    beta = env.space.initial.clone()
    beta[env.space.slice("expand")] = 0.9
    weights = {name: w.clone() for name, w in env.state.weights.items()}
    first, second = env.probe(torch.stack([beta, env.space.initial]))
    assert all(torch.equal(w, weights[name]) for name, w in env.state.weights.items())
    assert first.loss != second.loss
    env.step(beta)
    assert env.outcome is not None
    assert env.outcome.loss == first.loss


def test_seeds_decide_everything() -> None:
    losses = []
    for seed in (7, 7, 8):
        env = make("ShapeNormals", **SMALL)
        env.reset(seed=seed)
        losses.append([env.step(env.space.initial)[1] for _ in range(3)])
    assert losses[0] == losses[1] != losses[2]


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state().clone()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    env = make("ShapeNormals", **SMALL)
    env.reset(seed=0)
    env.warm_up()
    env.step(env.space.initial)
    env.last.sample_gradient()
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "rule"),
    [("Quadratic", SGD(0.1, 0.9)), ("Quadratic", Adam(0.1)), ("ShapeNormals", SGD(0.05, 0.9, decay_steps=100))],
)
def test_a_saved_environment_goes_on_with_the_same_bits(name: str, rule: Any, tmp_path: Any) -> None:
    kwargs = {"rule": rule, **(SMALL if name == "ShapeNormals" else {})}
    env = make(name, **kwargs)
    env.reset(seed=4)
    env.step(env.space.initial)
    torch.save(env.state_dict(), tmp_path / "state.pt")
    other = make(name, **kwargs)
    other.reset(seed=99)
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(env.last.sample_gradient().samples.image, other.last.sample_gradient().samples.image)
    assert torch.equal(env.last.influence(), other.last.influence())
    assert other.outcome.loss == env.outcome.loss
    assert env.observation_space.contains(other.step(other.space.initial)[0])
    env.step(env.space.initial)
    for _ in range(2):
        assert env.step(env.space.initial)[1] == other.step(env.space.initial)[1]
    assert env.ledger.counts == other.ledger.counts
    assert env.reset()[1] == other.reset()[1]


def test_a_warm_up_changes_and_costs_nothing() -> None:
    cold, warm = make("ShapeNormalsLit", **SMALL), make("ShapeNormalsLit", **SMALL)
    cold.reset(seed=0)
    warm.reset(seed=0)
    warm.warm_up()
    assert set(warm.ledger.counts.values()) == {0}
    assert warm.ledger.by_phase()["train"]["cpu_seconds"] == 0
    assert cold.step(cold.space.initial)[1] == warm.step(warm.space.initial)[1]


def test_everything_costs_what_it_costs_whoever_asks() -> None:
    env = make("ShapeNormals", **SMALL)
    flops = env.learner.flops
    photos = len(env.validation.samples)
    training, validating = 2 * flops("train", 4), flops("validate", photos)

    def cost(action: Any) -> dict[str, int]:
        before = dict(env.ledger.counts)
        action()
        return {name: n - before[name] for name, n in env.ledger.counts.items() if n != before[name]}

    def both(count: int) -> dict[str, int]:
        return {"flops": count, "gradient_flops": count}

    env.reset(seed=0)
    beta = env.space.initial
    evaluation = {"samples": 8, "training_steps": 2, "validation_passes": 1, "flops": training + validating}
    assert cost(lambda: env.step(beta)) == {**evaluation, "updates": 1}
    assert cost(lambda: env.probe(beta.expand(3, -1))) == {name: 3 * n for name, n in evaluation.items()}
    assert cost(lambda: env.rollout(beta)) == evaluation
    last, directions = env.last, torch.full((5, 8, 29), 0.01)
    gradient = {"gradient_steps": 2, "validation_passes": 1, **both(2 * flops("gradient", 4) + 3 * validating)}
    assert cost(last.sample_gradient) == gradient
    assert cost(last.sample_gradient) == {}  # already paid for
    assert cost(lambda: last.sample_gradient(curvature=False, last_steps=1)) == {}  # a part of it
    assert cost(lambda: last.sample_gradient().slopes(directions)) == {"samples": 5 * 8 * 2}
    assert cost(last.sample_gradient().pathwise) == {}  # no block of beta is
    assert cost(env.test_metrics) == {}
    assert cost(env.validation_metrics) == {}
    assert env.ledger.by_phase()["score"]["cpu_seconds"] > 0
    env.step(beta)
    last = env.last
    cheap = {"validation_passes": 1, **both(4 * flops("validate", 4) + 3 * validating)}
    assert cost(lambda: last.sample_gradient(curvature=False, last_steps=1)) == cheap
    assert cost(lambda: last.sample_gradient(curvature=False, last_steps=1)) == {}
    # What all start from is paid for already.
    one = {"gradient_steps": 1, **both(flops("gradient", 4))}
    whole = {"gradient_steps": 2, **both(2 * flops("gradient", 4))}
    assert cost(lambda: last.sample_gradient(last_steps=1)) == one
    assert cost(lambda: last.sample_gradient().slopes(directions[:1])) == {**whole, "samples": 16}
    assert cost(last.influence) == both(4 * flops("validate", 4))


def test_phases_add_up_to_what_the_process_used() -> None:
    import time

    env = make("ShapeNormals", **SMALL)
    env.reset(seed=0)
    ledger_before = sum(p["cpu_seconds"] for p in env.ledger.by_phase().values())
    before = time.process_time()
    for _ in range(3):
        env.step(env.space.initial)
        env.last.sample_gradient().slopes(torch.full((2, 8, 29), 0.01))
        env.test_metrics()
    used = time.process_time() - before
    counted = sum(p["cpu_seconds"] for p in env.ledger.by_phase().values()) - ledger_before
    assert counted == pytest.approx(used, rel=0.02)


@pytest.mark.parametrize("beta", [[0.0] * 4 + [0.0], [float("nan")] * 4, [9.0, 0, 0, 0.5], "beta"])
def test_a_bad_beta_changes_nothing(beta: Any) -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    state = env.state
    with pytest.raises(DecisionError):
        env.step(beta)
    assert env.state is state
    assert env.update == 0
    assert set(env.ledger.counts.values()) == {0}


def test_a_diverging_loss_is_a_status_and_the_weights_are_put_back() -> None:
    env = make("ShapeNormals", rule=SGD(1e30), **SMALL)
    env.reset(seed=0)
    state = env.state
    (outcome,) = env.probe(env.space.initial[None])
    assert outcome.status is Status.DIVERGED
    assert outcome.loss is None
    observation, reward, terminated, _, info = env.step(env.space.initial)
    assert reward == -env.task.max_loss  # a number: agents' arithmetic goes on
    assert terminated
    assert info["status"] == "DIVERGED"
    assert "loss" not in info
    assert "lower the learning rate" in Status[info["status"]].value
    assert env.state is state
    assert env.observation_space.contains(observation)
    with pytest.raises(RuntimeError, match="a rollout that failed has no gradient: DIVERGED"):
        env.last.sample_gradient()


def broken(env: DataGenEnv) -> Any:
    """A generator that makes nothing."""

    class Broken:
        space, pathwise = env.space, env.generator.pathwise

        def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
            raise RenderError(f"sample seed {int(seeds[0])}: nothing to see")

    return Broken()


def test_a_shape_that_cannot_be_rendered_is_a_status() -> None:
    env = make("ShapeNormals", **SMALL)
    env.reset(seed=0)
    env.step(env.space.initial)
    state = env.state
    env.problem = replace(env.problem, generator=broken(env))
    _, _, terminated, _, info = env.step(env.space.initial)
    assert terminated
    assert info["status"] == "UNRENDERABLE"
    assert info["message"].startswith("sample seed")
    assert env.state is state


def test_a_failed_step_is_saved_and_loaded() -> None:
    env, other = make("Quadratic"), make("Quadratic")
    env.reset(seed=0)
    env.problem = replace(env.problem, generator=broken(env))
    env.step(env.space.initial)
    other.reset(seed=5)
    other.load_state_dict(env.state_dict())
    assert other.outcome.status is Status.UNRENDERABLE
    assert other.last.samples is None
    assert other.update == 1


def test_bad_arguments_name_the_cure() -> None:
    with pytest.raises(ValueError, match="unknown data 'nyu'; choose one of standin, mbii"):
        make("ShapeNormals", data="nyu")
    with pytest.raises(ValueError, match="unknown device 'tpu9'; choose 'auto', 'cpu' or 'cuda'"):
        make("ShapeNormals", device="tpu9")
    with pytest.raises(ValueError, match="light has no lamp; it knows light"):
        make("ShapeNormals", generator=ShapeGenerator(light={"lamp": (0.0,)}))
    with pytest.raises(ValueError, match="depth must be between 0 and 5"):
        make("ShapeNormals", generator=ShapeGenerator(depth=9))
    with pytest.raises(ValueError, match="no network preset 'paper'; the presets are small, large"):
        make("ShapeNormals", network=Network("paper"))
    for name in ("unroll_steps", "batch_size", "max_updates"):
        with pytest.raises(ValueError, match="must each be at least 1"):
            make("Quadratic", **{name: 0})
        with pytest.raises(ValueError, match="must each be at least 1"):
            make("ShapeNormals", **{name: 0})
    with pytest.raises(ValueError, match="unknown render_mode 'human'; choose None or one of"):
        ShapeNormalsEnv(render_mode="human", **SMALL)
    env = make("Quadratic")
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(options={"beta": 1})


@pytest.mark.parametrize("name", ["ShapeNormals", "FaceDepth", "Quadratic"])
@pytest.mark.parametrize("argument", ["learning_rate", "size", "renderer", "views", "workers", "probe_batch", "preset"])
def test_arguments_that_are_not_there_are_refused(name: str, argument: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
        make(name, **{argument: 1})


@pytest.mark.parametrize("cls", [ShapeNormalsEnv, ShapeNormalsLitEnv])
def test_arguments_have_names(cls: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        cls("standin")


def test_what_an_environment_is_made_of_is_in_one_place() -> None:
    rule, prober = Adam(0.01), Workers(3)
    env = make("ShapeNormals", rule=rule, prober=prober, max_updates=7, device="cpu", **SMALL)
    problem = env.problem
    assert (problem.unroll_steps, problem.batch_size, problem.num_samples) == (2, 4, 8)
    assert problem.rule is rule or problem.rule == rule
    assert env.max_updates == 7
    assert isinstance(env.prober, Workers)
    assert env.prober.count == 3
    assert env.generator is problem.generator
    assert env.space is problem.space is problem.generator.space
    assert env.learner is problem.learner
    assert env.task is problem.learner.task
    assert env.validation is problem.validation
    assert env.device == problem.device == torch.device("cpu")
    assert env.test.label != ""
    assert isinstance(make("Quadratic").prober, Serial)
    assert isinstance(make("Quadratic", prober=Batched(2)).prober, Batched)


def test_a_generator_of_ones_own() -> None:
    generator = ShapeGenerator(AnalyticRenderer(32), depth=0, light={"ambient": (0.9,)})
    env = make("ShapeNormals", generator=generator, **SMALL)
    env.reset(seed=0)
    env.step(env.space.initial)
    beta = env.space.project(env.space.initial)
    assert torch.equal(env.last.samples.image, generator(beta.expand(8, -1), env.last.seeds).image)
    plain = make("ShapeNormals", **SMALL)
    plain.reset(seed=0)
    plain.step(plain.space.initial)
    assert not torch.equal(plain.last.samples.image, env.last.samples.image)


def test_the_network_decides_the_size_of_everything() -> None:
    env = make("ShapeNormals", network=Network(units="relu", size=48), batch_size=2)
    env.reset(seed=0)
    assert env.validation.samples.image.shape[-2:] == (48, 48)
    env.step(env.space.initial)
    assert env.last.samples.image.shape == (4, 1, 48, 48)
    maps = env.learner.output(env.state.weights, env.last.samples)
    assert maps[-1].shape == (4, 3, 48, 48)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="finds no CUDA GPU here; use device='cpu'"):
        make("ShapeNormals", device="cuda")


def test_photos_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("HGENV_DATA", raising=False)
    with pytest.raises(hgenv.DataError, match="set the environment variable HGENV_DATA, or data_folder"):
        make("ShapeNormals", data="mbii")
    with pytest.raises(hgenv.DataError, match=str(tmp_path)):
        make("ShapeNormals", data="mbii", data_folder=tmp_path)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_influence_of_the_quadratic_is_its_closed_form(momentum: float) -> None:
    """With curvature, which is the identity here, and without."""
    env = make("Quadratic", rule=SGD(0.2, momentum), unroll_steps=3, batch_size=5)
    env.reset(seed=1)
    env.step([0.3, -0.2, 0.1, 0.4])
    pull = env.state.weights["w"] - env.validation.samples.image[0]
    batches, factors = env.last.samples.split(5), [sum(momentum**j for j in range(3 - k)) for k in range(3)]
    states = env.last.states[:-1]
    parts = zip(states, batches, factors, strict=True)
    own = torch.cat([-0.2 / 5 * f * ((s.weights["w"] - b.image) @ pull) for s, b, f in parts])
    # A sample's weight moves the mean that the weights follow: what counts is how it differs from the others.
    expected = own - own.reshape(3, 5).mean(1).repeat_interleave(5)
    assert ((env.last.influence() - expected).abs() <= 1e-9 + 1e-5 * own.abs()).all()
    if momentum == 0:
        curved = expected * torch.tensor([0.64, 0.8, 1.0], dtype=torch.float64).repeat_interleave(5)
        torch.testing.assert_close(env.last.influence(curvature=True), curved)


def test_closing_gives_back_what_the_prober_holds() -> None:
    closed = []

    class Watched(Serial):
        def close(self) -> None:
            closed.append(True)

    env = make("Quadratic", prober=Watched())
    env.reset(seed=0)
    env.close()
    assert closed == [True]
