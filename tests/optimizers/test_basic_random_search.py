"""The estimate against central differences of L itself."""

import gymnasium
import pytest
import torch
from torch import Tensor

import hgenv  # noqa: F401 - registers the environments
from hgenv.env import DataGenEnv, Outcome, Status
from optimizers import BasicRandomSearch


def quadratic() -> DataGenEnv:
    env = gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped
    env.reset(seed=3)
    return env


def losses(env: DataGenEnv, scaled: Tensor) -> Tensor:
    return torch.tensor([o.loss for o in env.probe(env.space.unscale(scaled))], dtype=torch.float64)


def central_differences(env: DataGenEnv, scaled: Tensor, h: float = 1e-5) -> Tensor:
    steps = h * torch.eye(len(scaled), dtype=torch.float64)
    return (losses(env, scaled + steps) - losses(env, scaled - steps)) / (2 * h)


def test_unbiased() -> None:
    """For an L that is quadratic in beta, antithetic differences have no bias at any sigma."""
    env = quadratic()
    # sigma so small that no bound is met
    optimizer = BasicRandomSearch(env.space, seed=0, pairs=1000, sigma=0.02)
    expected = central_differences(env, optimizer.scaled.detach())
    # The covariance of delta delta^T g is |g|^2 I + g g^T.
    error = ((expected.square().sum() + expected.square()) / 1000).sqrt()
    assert ((optimizer.gradient(env) - expected).abs() <= 4 * error).all()
    assert (4 * error < 0.3 * expected.norm()).all()


def test_definition() -> None:
    """Two pairs, by hand: (L+ - L-) / (2 sigma) delta, or divided by the losses' standard deviation."""
    env = quadratic()
    random = torch.Generator().manual_seed(5)
    delta = torch.randn((2, 4), generator=random, dtype=torch.float64)
    centre = env.space.scale(env.space.initial)
    plus, minus = losses(env, centre + 0.05 * delta), losses(env, centre - 0.05 * delta)
    rise = plus - minus
    plain = BasicRandomSearch(env.space, seed=5, pairs=2, sigma=0.05)
    torch.testing.assert_close(plain.gradient(env), (rise / 0.1) @ delta / 2)
    normalized = BasicRandomSearch(env.space, seed=5, pairs=2, sigma=0.05, normalize=True)
    spread = torch.cat([plus, minus]).std(unbiased=False)
    torch.testing.assert_close(normalized.gradient(env), (rise / spread) @ delta / 2)


def test_a_bound_that_cuts_a_probe() -> None:
    """At a bound, the displacement that took place is what the difference is attributed to."""
    env = quadratic()
    optimizer = BasicRandomSearch(env.space, seed=2, pairs=1, sigma=0.1)
    optimizer.scaled.data[0] = 1.0
    centre = optimizer.scaled.detach().clone()
    asked: list[Tensor] = []
    probe = env.probe

    def recording(betas: Tensor) -> list[Outcome]:
        asked.append(betas)
        return probe(betas)

    env.probe = recording  # type: ignore[method-assign]
    gradient = optimizer.gradient(env)
    ahead, behind = env.space.scale(asked[0])
    assert 1.0 in (ahead[0], behind[0])
    assert not torch.allclose(ahead + behind, 2 * centre)
    plus, minus = probe(asked[0])
    torch.testing.assert_close(gradient, (plus.loss - minus.loss) / 0.2 * (ahead - behind) / 0.2)


def test_step_of_plain_sgd() -> None:
    env = quadratic()
    optimizer = BasicRandomSearch(env.space, seed=2, rule="sgd", learning_rate=0.01, decay_updates=1.0)
    twin = BasicRandomSearch(env.space, seed=2)
    start = env.state_dict()
    expected = twin.scaled.detach() - 0.01 * twin.gradient(env)
    env.load_state_dict(start)
    optimizer.update(env)
    torch.testing.assert_close(env.space.scale(env.outcome.beta), expected)
    assert env.update == 1


def test_failed_pairs_are_left_out() -> None:
    env = quadratic()
    whole = BasicRandomSearch(env.space, seed=4, pairs=1).gradient(env)
    probe = env.probe

    def failing(which: tuple[int, ...]) -> None:
        def some(betas: Tensor) -> list[Outcome]:
            failed = Outcome(env.space.initial, None, Status.DIVERGED, "on purpose")
            return [failed if i in which else o for i, o in enumerate(probe(betas))]

        env.probe = some  # type: ignore[method-assign]

    # Of two pairs (ahead 0, 1; behind 2, 3) the first direction is that of `whole`.
    failing((3,))
    torch.testing.assert_close(BasicRandomSearch(env.space, seed=4, pairs=2).gradient(env), whole)
    failing((0, 3))
    optimizer = BasicRandomSearch(env.space, seed=4, pairs=2)
    assert optimizer.gradient(env) is None
    optimizer.update(env)
    assert env.update == 1
    torch.testing.assert_close(env.outcome.beta, env.space.initial)


def test_what_an_update_costs() -> None:
    env = quadratic()
    BasicRandomSearch(env.space, seed=0, pairs=3).update(env)
    assert env.ledger.counts["samples"] == 7 * env.samples_per_update
    assert env.ledger.counts["validation_passes"] == 7


@pytest.mark.parametrize("rule", ["sgd", "rmsprop"])
def test_equal_losses_move_nothing(rule: str) -> None:
    env = quadratic()
    optimizer = BasicRandomSearch(env.space, seed=0, rule=rule, normalize=True)
    env.probe = lambda betas: [Outcome(b, 1.0) for b in betas]  # type: ignore[method-assign]
    optimizer.update(env)
    torch.testing.assert_close(env.outcome.beta, env.space.initial)
