"""The environment against closed forms, central differences and Gymnasium's own checker."""

import inspect
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import hgenv
from hgenv import Batch, DataGenEnv, DecisionError, RenderError, Status
from hgenv.environments.shape_normals import ShapeNormalsEnv, ShapeNormalsLitEnv
from hgenv.generators.shapes import ShapeGenerator

SMALL = {"size": 32, "unroll_steps": 2, "batch_size": 4}


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
    assert env.render().max() == 0
    env.step(env.space.initial)
    gallery = env.render()
    assert gallery.shape == (4 * 32, 4 * 32, 3)
    assert gallery[:32].max() > 100
    with pytest.raises(ValueError, match="unknown render_mode 'ansi'"):
        ShapeNormalsEnv(render_mode="ansi")


@pytest.mark.parametrize(("cls", "lit"), [(ShapeNormalsEnv, False), (ShapeNormalsLitEnv, True)])
def test_the_docstring_holds_the_table_of_beta(cls: type, lit: bool) -> None:
    text = inspect.getdoc(cls) or ""
    for row in ShapeGenerator(lit=lit).space.table().splitlines():
        assert row in text


def test_the_quadratics_docstring_too() -> None:
    env = make("Quadratic")
    for row in env.space.table().splitlines():
        assert row in (inspect.getdoc(type(env)) or "")


def test_sample_gradient_of_the_quadratic_is_its_closed_form() -> None:
    env = make("Quadratic", learning_rate=0.2, unroll_steps=3, batch_size=5)
    env.reset(seed=1)
    env.step([0.3, -0.2, 0.1, 0.4])
    error = env.state.weights["w"] - env.validation.batch.image[0]
    gradient = env.sample_gradient()
    for k in range(3):
        expected = 0.2 * 0.8 ** (2 - k) / 5 * error
        torch.testing.assert_close(gradient.image[5 * k : 5 * k + 5], expected.expand(5, -1))
    total = env.exact_slopes().sum(0) / (env.space.high - env.space.low)
    torch.testing.assert_close(total[:3], (1 - 0.8**3) * error)


def test_of_the_last_training_steps_alone_everything_is_the_same() -> None:
    env = make("Quadratic", unroll_steps=3, batch_size=5)
    env.reset(seed=1)
    env.step([0.3, -0.2, 0.1, 0.4])
    directions = 0.05 * torch.randn(2, 15, 4, generator=torch.Generator().manual_seed(0))
    last = env.sample_gradient(steps=2)
    slopes, exact_slopes = env.slopes(directions[:, 5:], last), env.exact_slopes(last)
    whole = env.sample_gradient()
    for part, all_of_it in zip(last.tensors, whole.tensors, strict=True):
        assert torch.equal(part, all_of_it[5:])
    assert torch.equal(slopes, env.slopes(directions)[:, 5:])
    assert torch.equal(exact_slopes, env.exact_slopes()[5:])
    for steps in (0, 4):
        with pytest.raises(ValueError, match="steps must be None, or 1 to 3"):
            env.sample_gradient(steps=steps)


def test_slopes_of_the_quadratic_are_exact_in_any_direction() -> None:
    env = make("Quadratic")
    env.reset(seed=2)
    env.step([0.3, -0.2, 0.1, 0.4])
    directions = 0.05 * torch.randn(5, env.samples_per_update, 4, generator=torch.Generator().manual_seed(0))
    exact = (env.exact_slopes() * directions).sum(-1) / directions.norm(dim=-1)
    torch.testing.assert_close(env.slopes(directions), exact)


def test_slopes_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("ShapeNormalsLit", device="cpu", **SMALL)
    env.reset(seed=0)
    env.step(env.space.initial)
    directions = 0.05 * torch.randn(5, 8, 37, generator=torch.Generator().manual_seed(0))
    found = []
    for at_once in (16, 48, 1024):
        monkeypatch.setattr("hgenv.env.SAMPLES_AT_ONCE", at_once)
        found.append(env.slopes(directions))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_slope_cut_by_a_bound_uses_the_actual_step() -> None:
    env = make("Quadratic")
    env.reset(seed=2)
    env.step([1.0, -0.2, 0.1, 0.4])  # the first component is at its upper bound
    directions = torch.zeros(1, env.samples_per_update, 4)
    directions[..., 0] = 0.1
    torch.testing.assert_close(env.slopes(directions)[0], env.exact_slopes()[:, 0])


def test_bad_directions_are_refused() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"call reset\(\) and a successful step\(\) first"):
        env.slopes(torch.ones(1, 32, 4))
    env.step(env.space.initial)
    with pytest.raises(ValueError, match=r"\(J, 32, 4\), not \(32, 4\)"):
        env.slopes(torch.ones(32, 4))
    with pytest.raises(ValueError, match="none of them zero"):
        env.slopes(torch.zeros(1, 32, 4))


def test_the_whole_line_from_beta_to_loss_against_central_differences_of_the_loss() -> None:
    """On one fixed batch: dL/dX from the adjoint times dX/dbeta of the light, against small differences of L itself."""
    env = make("ShapeNormalsLit", shadows=False, unroll_steps=3, batch_size=4, size=32, momentum=0.9)
    env.reset(seed=3)
    for _ in range(4):
        env.step(env.space.initial)
    beta = env.space.project(env.space.initial)
    state = env.state_dict()
    rng = torch.Generator().manual_seed(0)
    predicted, measured = [], []
    for _ in range(6):
        direction = torch.zeros(37, dtype=torch.float64)
        for name in env.generator.smooth:
            where = env.space.slice(name)
            direction[where] = torch.randn(where.stop - where.start, generator=rng, dtype=torch.float64)
        step = 2e-3 * direction / direction.norm() * (env.space.high - env.space.low)
        ahead, behind = env.probe(torch.stack([beta + step, beta - step]))
        assert ahead.loss is not None
        assert behind.loss is not None
        measured.append((ahead.loss - behind.loss) / 4e-3)
        env.step(beta)  # the same weights and seeds as the probes
        predicted.append(float((env.exact_slopes().sum(0) * direction / direction.norm()).sum()))
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
    env.sample_gradient()
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("name", ["Quadratic", "ShapeNormals"])
def test_a_saved_environment_goes_on_with_the_same_bits(name: str, tmp_path: Any) -> None:
    kwargs = SMALL if name == "ShapeNormals" else {"momentum": 0.9}
    env = make(name, **kwargs)
    env.reset(seed=4)
    env.step(env.space.initial)
    torch.save(env.state_dict(), tmp_path / "state.pt")
    other = make(name, **kwargs)
    other.reset(seed=99)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False))
    assert torch.equal(env.sample_gradient().image, other.sample_gradient().image)
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
    photos = len(env.validation.batch)
    training, validating = 2 * flops("train", 4), flops("validate", photos)

    def cost(action: Any) -> dict[str, int]:
        before = dict(env.ledger.counts)
        action()
        return {name: n - before[name] for name, n in env.ledger.counts.items() if n != before[name]}

    env.reset(seed=0)
    beta = env.space.initial
    evaluation = {"samples": 8, "training_steps": 2, "validation_passes": 1, "flops": training + validating}
    assert cost(lambda: env.step(beta)) == {**evaluation, "updates": 1}
    assert cost(lambda: env.probe(beta.expand(3, -1))) == {name: 3 * n for name, n in evaluation.items()}
    gradient = {"gradient_steps": 2, "validation_passes": 1, "flops": 2 * flops("gradient", 4) + 3 * validating}
    assert cost(env.sample_gradient) == gradient
    assert cost(env.sample_gradient) == {}  # already paid for
    assert cost(lambda: env.sample_gradient(exact=False, steps=1)) == {}  # a part of it
    assert cost(lambda: env.slopes(torch.full((5, 8, 29), 0.01))) == {"samples": 5 * 8 * 2}
    assert cost(env.test_metrics) == {}
    assert cost(env.validation_metrics) == {}
    assert env.ledger.by_phase()["score"]["cpu_seconds"] > 0
    env.step(beta)
    cheap = {"validation_passes": 1, "flops": 4 * flops("validate", 4) + 3 * validating}
    assert cost(lambda: env.sample_gradient(exact=False, steps=1)) == cheap
    assert cost(lambda: env.sample_gradient(exact=False, steps=1)) == {}
    last = {"gradient_steps": 1, "validation_passes": 1, "flops": flops("gradient", 4) + 3 * validating}
    assert cost(lambda: env.sample_gradient(steps=1)) == last
    assert cost(lambda: env.slopes(torch.full((1, 8, 29), 0.01))) == {**gradient, "samples": 16}


def test_phases_add_up_to_what_the_process_used() -> None:
    import time

    env = make("ShapeNormals", **SMALL)
    env.reset(seed=0)
    ledger_before = sum(p["cpu_seconds"] for p in env.ledger.by_phase().values())
    before = time.process_time()
    for _ in range(3):
        env.step(env.space.initial)
        env.slopes(torch.full((2, 8, 29), 0.01))
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
    env = make("ShapeNormals", learning_rate=1e30, momentum=0.0, **SMALL)
    env.reset(seed=0)
    state = env.state
    (outcome,) = env.probe(env.space.initial[None])
    assert outcome.status is Status.DIVERGED
    assert outcome.loss is None
    observation, reward, terminated, _, info = env.step(env.space.initial)
    assert np.isnan(reward)
    assert terminated
    assert info["status"] == "DIVERGED"
    assert "loss" not in info
    assert "lower the learning rate" in Status[info["status"]].value
    assert env.state is state
    assert env.observation_space.contains(observation)
    with pytest.raises(RuntimeError, match="successful step"):
        env.sample_gradient()


def test_a_shape_that_cannot_be_rendered_is_a_status() -> None:
    env = make("ShapeNormals", **SMALL)
    whole = env.generator

    class Broken:
        space, smooth = whole.space, whole.smooth

        def __call__(self, betas: Tensor, seeds: Tensor) -> Batch:
            raise RenderError(f"sample seed {int(seeds[0])}: nothing to see")

    env.reset(seed=0)
    env.step(env.space.initial)
    state = env.state
    env.generator = Broken()
    _, _, terminated, _, info = env.step(env.space.initial)
    assert terminated
    assert info["status"] == "UNRENDERABLE"
    assert info["message"].startswith("sample seed")
    assert env.state is state


def test_a_probe_that_fails_does_not_spoil_those_made_together_with_it() -> None:
    env = make("ShapeNormals", device="cpu", **SMALL)
    env.reset(seed=0)
    whole = env.generator
    draw = torch.rand(5, env.space.dimension, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    betas = env.space.project(env.space.unscale(draw))
    alone = env.probe(betas)
    assert all(outcome.ok for outcome in alone)

    class Partly:
        """Cannot render the third beta, and makes the fourth a loss of NaN."""

        space, smooth = whole.space, whole.smooth

        def __call__(self, given: Tensor, seeds: Tensor) -> Batch:
            if (given == alone[2].beta).all(1).any():
                raise RenderError("nothing to see")
            batch = whole(given, seeds)
            bad = (given == alone[3].beta).all(1)
            return Batch(batch.image.masked_fill(bad[:, None, None, None], float("nan")), batch.target, batch.mask)

    env.generator = Partly()
    for env.probe_batch in (2, 5):
        before = dict(env.ledger.counts)
        found = env.probe(betas)
        assert [o.status for o in found] == [Status.OK, Status.OK, Status.UNRENDERABLE, Status.DIVERGED, Status.OK]
        assert found[2].message == "nothing to see"
        for i in (0, 1, 4):
            assert found[i].loss == pytest.approx(alone[i].loss, rel=1e-4)
            assert torch.equal(found[i].beta, alone[i].beta)
        assert env.ledger.counts["validation_passes"] - before["validation_passes"] == 4
    with pytest.raises(ValueError, match="probe_batch must be at least 1, and 1 with workers, not 0"):
        make("ShapeNormals", probe_batch=0)


def test_a_learner_that_cannot_be_trained_as_one_batch_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    loss = env.learner.training_loss
    monkeypatch.setattr(env.learner, "training_loss", lambda w, batch: loss(w, batch) if w["w"].sum() < 9 else 0)
    betas = env.space.initial.expand(2, -1)
    assert all(outcome.ok for outcome in env.probe(betas))
    env.probe_batch = 2
    with pytest.raises(RuntimeError, match="2 probes cannot be made as one batch; probe_batch=1 needs the"):
        env.probe(betas)


def test_bad_arguments_name_the_cure() -> None:
    with pytest.raises(ValueError, match="unknown data 'nyu'; choose 'standin' or 'mbii'"):
        make("ShapeNormals", data="nyu")
    with pytest.raises(ValueError, match="unknown renderer 'blender'; choose one of analytic"):
        make("ShapeNormals", renderer="blender")
    with pytest.raises(ValueError, match="unknown device 'tpu9'"):
        make("ShapeNormals", device="tpu9")
    with pytest.raises(ValueError, match="light has no lamp; it knows light"):
        make("ShapeNormals", light={"lamp": (0.0,)})
    with pytest.raises(ValueError, match="depth must be between 0 and 5"):
        make("ShapeNormals", depth=9)
    with pytest.raises(ValueError, match="must each be at least 1"):
        make("Quadratic", unroll_steps=0)
    env = make("Quadratic")
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(options={"beta": 1})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="finds no CUDA GPU here; use device='cpu'"):
        make("ShapeNormals", device="cuda")


def test_photos_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("HGENV_DATA", raising=False)
    with pytest.raises(hgenv.DataError, match="set the environment variable HGENV_DATA or pass data_folder"):
        make("ShapeNormals", data="mbii")
    with pytest.raises(hgenv.DataError, match=str(tmp_path)):
        make("ShapeNormals", data="mbii", data_folder=tmp_path)


def test_step_each_is_step_where_all_betas_are_one() -> None:
    first, second = make("ShapeNormals", **SMALL), make("ShapeNormals", **SMALL)
    for env in (first, second):
        env.reset(seed=3)
    beta = first.space.project(first.space.initial)
    assert first.step(beta)[1] == second.step_each(beta.expand(first.samples_per_update, -1))[1]
    torch.testing.assert_close(second.outcome.beta, beta)


def test_step_each_gives_every_sample_its_own_beta() -> None:
    env = make("Quadratic")
    env.reset(seed=3)
    betas = env.space.unscale(torch.rand(32, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    env.step_each(betas, share=2)
    assert env._unroll is not None
    assert torch.equal(env._unroll.betas, betas)
    made = Batch.cat(env._unroll.batches).image
    torch.testing.assert_close(made, env.generator(betas, env._unroll.seeds).image)
    pairs = env._unroll.seeds.reshape(-1, 2)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    assert len(pairs[:, 0].unique()) == 16


def test_bad_betas_of_single_samples_are_refused() -> None:
    env = make("Quadratic")
    env.reset(seed=0)
    before = env.state_dict()["state"]
    betas = env.space.initial.expand(32, -1).clone()
    with pytest.raises(ValueError, match=r"\(32, 4\), one for each sample of a step, not \(31, 4\)"):
        env.step_each(betas[1:])
    with pytest.raises(ValueError, match="divide the batch size 8, so 3"):
        env.step_each(betas, share=3)
    betas[7, 0] = 2
    with pytest.raises(DecisionError, match=r"beta\[0\] = 2.0 \(block 'position'\)"):
        env.step_each(betas)
    assert env.state is before
    with pytest.raises(RuntimeError, match=r"call reset\(\) and a successful step\(\) first"):
        env.credits()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_credits_of_the_quadratic_are_their_closed_form(momentum: float) -> None:
    """Exact, and without the curvature, which is the identity here."""
    env = make("Quadratic", learning_rate=0.2, momentum=momentum, unroll_steps=3, batch_size=5)
    env.reset(seed=1)
    env.step([0.3, -0.2, 0.1, 0.4])
    assert env._unroll is not None
    pull = env.state.weights["w"] - env.validation.batch.image[0]
    gradients = torch.cat(
        [s.weights["w"] - b.image for s, b in zip(env._unroll.states[:-1], env._unroll.batches, strict=True)]
    )
    factors = torch.tensor([sum(momentum**j for j in range(3 - k)) for k in range(3)]).repeat_interleave(5)
    expected = -0.2 / 5 * factors * (gradients @ pull)
    torch.testing.assert_close(env.credits(), expected, rtol=1e-5, atol=1e-9)
    if momentum == 0:
        curved = expected * torch.tensor([0.64, 0.8, 1.0], dtype=torch.float64).repeat_interleave(5)
        torch.testing.assert_close(env.credits(exact=True), curved)


def test_views_enter_the_loss_and_its_price_but_no_metric() -> None:
    plain, more = make("ShapeNormals", **SMALL), make("ShapeNormals", views=("flips",), **SMALL)
    for env in (plain, more):
        env.reset(seed=3)
    assert plain.test_metrics() == more.test_metrics()
    assert plain.validation_metrics() == more.validation_metrics()
    beta = plain.space.project(plain.space.initial)
    assert plain.step(beta)[1] != more.step(beta)[1]
    passes = [env.learner.flops("validate", len(env.validation.batch)) for env in (plain, more)]
    assert passes[1] == 4 * passes[0]
    assert more.ledger.counts["flops"] - plain.ledger.counts["flops"] == passes[1] - passes[0]
