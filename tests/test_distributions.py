"""Distributions of parameters against torch.distributions: draws, densities, and scores by autograd."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch import distributions as oracle

from hgenv.decision import DecisionSpace
from hgenv.distributions import (
    Bernoulli,
    Categorical,
    CorrelatedNormal,
    Distribution,
    LogNormal,
    Mixture,
    Normal,
    Probabilities,
    Tuned,
    Uniform,
    VonMises,
    load_parameters,
    read_parameters,
    settled,
)
from hgenv.generators.random import uniforms

B = 4000
TWO = (1.0, 2.0)

SPREAD = Tuned(0.1, 3, 0.7)


def correlated(p: Mapping[str, Tensor]) -> oracle.Distribution:
    factor = torch.eye(3, dtype=torch.float64).repeat(len(p["mean"]), 1, 1)
    factor[:, 1, 0], factor[:, 2, 0], factor[:, 2, 1] = p["coupling"].unbind(1)
    return oracle.MultivariateNormal(p["mean"], scale_tril=p["spread"][..., None] * factor)


def mixed(weights: Tensor, components: oracle.Distribution) -> oracle.Distribution:
    return oracle.MixtureSameFamily(oracle.Categorical(weights), components)


CASES: dict[str, tuple[Distribution, Callable[[Any], Any]]] = {
    "normal": (Normal(Tuned(-5, 5, 1.5), SPREAD), lambda p: oracle.Normal(p["mean"], p["spread"])),
    "vector": (
        Normal(Tuned((-5.0, -5.0), 5, (1.0, -2.0)), SPREAD),
        lambda p: oracle.Normal(p["mean"], p["spread"].expand(-1, 2)),
    ),
    "fixed spread": (Normal(Tuned(-5, 5, 1), 0.5, length=3), lambda p: oracle.Normal(p["mean"].expand(-1, 3), 0.5)),
    "log-normal": (
        LogNormal(Tuned(0.1, 9, 2), Tuned(0.05, 1, 0.3)),
        lambda p: oracle.LogNormal(p["median"].log(), p["spread"]),
    ),
    "von Mises": (
        VonMises(Tuned(-3, 3, 1), Tuned(0.1, 80, 4)),
        lambda p: oracle.VonMises(p["mean"], p["concentration"]),
    ),
    "correlated": (
        CorrelatedNormal(Tuned(-5, 5, (1, 2, -1)), Tuned(0.1, 3, (0.5, 1, 2)), Tuned(-2, 2, (0.8, -0.5, 1.2))),
        correlated,
    ),
    "categorical": (
        Categorical(("a", "b", "c"), Probabilities((0.2, 0.5, 0.3))),
        lambda p: oracle.Categorical(p["probabilities"][:, None]),
    ),
    "bernoulli": (Bernoulli(Tuned(0, 1, 0.3)), lambda p: oracle.Bernoulli(p["probability"])),
    "bernoullis": (Bernoulli(Tuned(0, 1, (0.3, 0.9))), lambda p: oracle.Bernoulli(p["probability"])),
    "mixture": (
        Mixture([Normal(Tuned(-3, 3, -1), SPREAD), Normal(Tuned(-3, 3, 2), 0.4)], Probabilities((0.4, 0.6))),
        lambda p: mixed(
            p["weights"][:, None],
            oracle.Normal(
                torch.stack([p["0.mean"], p["1.mean"]], -1),
                torch.stack([p["0.spread"], torch.full_like(p["0.spread"], 0.4)], -1),
            ),
        ),
    ),
    "mixture of vectors": (
        Mixture([Normal(Tuned(-3, 3, TWO), SPREAD), Normal((-1.0, 0.0), SPREAD)], Probabilities((0.3, 0.7))),
        lambda p: mixed(
            p["weights"],
            oracle.Independent(
                oracle.Normal(
                    torch.stack([p["0.mean"], torch.tensor([-1.0, 0.0]).expand(B, -1)], 1),
                    torch.stack([p["0.spread"].expand(-1, 2), p["1.spread"].expand(-1, 2)], 1),
                ),
                1,
            ),
        ),
    ),
    "mixture of angles": (
        Mixture([VonMises(Tuned(-3, 3, -1), 20.0), VonMises(Tuned(-3, 3, 1), Tuned(1, 80, 5))]),
        lambda p: mixed(
            torch.tensor([0.5, 0.5]).double().expand(B, 1, -1),
            oracle.VonMises(
                torch.stack([p["0.mean"], p["1.mean"]], -1),
                torch.stack([torch.full_like(p["0.mean"], 20.0), p["1.concentration"]], -1),
            ),
        ),
    ),
}


def at_beta(distribution: Distribution, *, spread: float = 0.0) -> dict[str, Tensor]:
    """The tuned numbers of B samples: the initial ones, or each sample's own around them."""
    blocks = distribution.blocks("x")
    space = DecisionSpace(blocks)
    draw = torch.Generator().manual_seed(3)
    noise = torch.rand((B, space.dimension), generator=draw, dtype=torch.float64) - 0.5
    betas = space.denormalize((space.normalize(space.initial) + spread * noise).clamp(0, 1))
    return {name.removeprefix("x."): part for name, part in space.split(betas).items()}


@pytest.mark.parametrize("name", CASES)
def test_densities_and_scores_are_those_of_torch(name: str) -> None:
    distribution, known = CASES[name]
    beta = {key: part.detach().requires_grad_() for key, part in at_beta(distribution, spread=0.2).items()}
    held = {key: part.detach() for key, part in beta.items()}
    draws = distribution.draw(held, uniforms(torch.arange(B), 4)[:, : distribution.numbers])
    assert draws.shape == (B, distribution.size or 1)
    expected = known(beta).log_prob(draws)
    expected = expected if expected.dim() == 1 else expected.sum(1)
    found = distribution.log_density(beta, draws)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    score = distribution.score(held, draws)
    assert score.keys() == beta.keys() == distribution.tuned().keys()
    slopes = torch.autograd.grad(found.sum(), list(beta.values()))
    for (key, part), slope in zip(beta.items(), slopes, strict=True):
        assert score[key].shape == part.shape
        if key in ("weights", "probabilities"):  # they are divided by their sum before they are used
            slope = slope - (slope * part.detach()).sum(1, keepdim=True)
        torch.testing.assert_close(score[key], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_density(name: str) -> None:
    """By means and standard deviations, at one beta; and each draw belongs to its own row."""
    distribution, known = CASES[name]
    beta, numbers = at_beta(distribution), uniforms(torch.arange(B), 4)[:, : distribution.numbers]
    draws = distribution.draw(beta, numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sampled = known(beta).sample().double().reshape(draws.shape)
    both = (draws, sampled)
    if "angle" in name or name == "von Mises":
        both = (torch.cat([draws.cos(), draws.sin()], 1), torch.cat([sampled.cos(), sampled.sin()], 1))
    for a, b in (both, (both[0] ** 2, both[1] ** 2)):
        error = ((a.var(0) + b.var(0)) / B).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * error + 1e-9).all()
    some = slice(5, 9)
    again = distribution.draw({key: part[some] for key, part in beta.items()}, numbers[some])
    assert torch.equal(again, draws[some])


def test_uniform_has_no_score_by_its_bounds() -> None:
    uniform = Uniform(Tuned(0, 1, 0.5), Tuned(1, 3, 2))
    assert uniform.unscored == ("low", "high")
    beta = at_beta(uniform)
    draws = uniform.draw(beta, uniforms(torch.arange(B), 1))
    assert draws.min() >= 0.5
    assert draws.max() <= 2
    assert abs(float(draws.mean()) - 1.25) < 0.03
    torch.testing.assert_close(uniform.log_density(beta, draws), torch.full((B,), -math.log(1.5)).double())
    assert torch.isinf(uniform.log_density(beta, draws + 2)).all()
    assert all(part.isnan().all() for part in uniform.score(beta, draws).values())
    assert Uniform(0, 1).blocks("x") == []
    tail = Mixture([Uniform(0, 1), LogNormal(Tuned(0.1, 9, 2), 0.3), Normal(-2, 0.1)], Probabilities((0.2, 0.5, 0.3)))
    beta = at_beta(tail)
    score = tail.score(beta, tail.draw(beta, uniforms(torch.arange(B), 2)))
    assert all(part.isfinite().all() for part in score.values()), "also of draws where a component has no density"


def test_what_a_renderer_is_given() -> None:
    one = torch.tensor([1.0], dtype=torch.float64)
    assert Categorical(("a", "b")).value(one) == "b"
    assert Categorical((5, 7)).value(one) == 7
    assert list(Categorical(("a", "b"), length=2).value(torch.tensor([1.0, 0.0]))) == ["b", "a"]  # type: ignore[arg-type]
    assert Bernoulli(0.5).value(one) is True
    assert Normal(0, 1).value(one) == 1.0
    assert Tuned(0, 1, 0.5).value(one) == 1.0
    vector = Tuned((0, 0), 1, 0.5).value(torch.zeros(2, dtype=torch.float64))
    assert isinstance(vector, np.ndarray)
    assert vector.shape == (2,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0, Tuned(0, 1, 0.5)), "spread must stay above 0"),
        (lambda: Normal(0, -1), "spread must stay above 0"),
        (lambda: Normal((0, 0), (1, 1, 1)), r"different lengths: \[2, 3\]"),
        (lambda: Normal(0, 1, length=0), "length must be a positive whole number"),
        (lambda: Normal("0", 1), "finite numbers, not '0'"),  # type: ignore[arg-type]
        (lambda: VonMises(0, 1000.0), "at most 300"),
        (lambda: Uniform(Tuned(0, 1, 0.5), Tuned(0.5, 2, 1)), "low must stay below high"),
        (lambda: Uniform(1, 1), "low must stay below high"),
        (lambda: Bernoulli(Tuned(0, 2, 1)), "between 0 and 1"),
        (lambda: Categorical(("a",)), "two choices or more"),
        (lambda: Categorical(("a", 1)), "all texts or all numbers"),  # type: ignore[arg-type]
        (lambda: Categorical(("a", "b"), (0.3, 0.3)), "sum to 1"),
        (lambda: Categorical(("a", "b"), Probabilities((1 / 3,) * 3)), "2 probabilities are needed, not 3"),
        (lambda: Mixture([Normal(0, 1), Bernoulli(0.5)]), "must be continuous"),
        (lambda: Mixture([Normal(0, 1), VonMises(0, 1)]), "cannot be mixed"),
        (lambda: Mixture([Normal(0, 1), Normal((0, 0), 1)]), "different sizes"),
        (lambda: CorrelatedNormal((0, 0), (1, 1), (0, 0)), r"not \(2, 2, 2\)"),
        (lambda: Tuned(0, 1, 2), "low <= initial <= high"),
        (lambda: Tuned((0, 0), (1, 1, 1), 0), "different lengths"),
        (lambda: Probabilities((0.5, 0.6)), "sum to 1"),
    ],
)
def test_what_makes_no_sense_is_told(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text("""
radius:
  distribution: mixture
  weights: {initial: [0.5, 0.5]}
  components:
    - {distribution: log_normal, median: {low: 0.1, high: 0.9, initial: 0.3, unit: m}, spread: 0.1}
    - {distribution: log_normal, median: 2, spread: 0.1}
kind: {distribution: categorical, choices: [disc, square]}
centre: {distribution: normal, mean: [0, 0], spread: {low: 0.01, high: 1, initial: 0.5}}
brightness: {low: 0, high: 1, initial: 0.9}
""")
    size = Tuned(0.1, 0.9, 0.3, "m")
    assert load_parameters(path) == {
        "radius": Mixture([LogNormal(size, 0.1), LogNormal(2, 0.1)], Probabilities([0.5, 0.5])),
        "kind": Categorical(["disc", "square"]),
        "centre": Normal([0, 0], Tuned(0.01, 1, 0.5)),
        "brightness": Tuned(0, 1, 0.9),
    }
    for text, message in [
        ("", "must say what each parameter is"),
        ("a: [1", "cannot be read as YAML"),
        ("a: 3", "'a': needs a distribution, or low, high and initial, not 3"),
        ("a: {distribution: gauss}", "no distribution 'gauss'; the names are normal, "),
        ("a: {distribution: normal, mean: 0, sigma: 1}", "normal has no 'sigma'; it has mean, spread"),
        ("a: {distribution: normal, mean: 0}", "'spread'"),
        ("a: {low: 0, high: 1}", "needs low, high, initial.* missing .* 'initial'"),
        ("a: {low: 0, high: 1, start: 1}", "'start' is unknown there"),
        ("a: {low: 0, high: 1, initial: 1e-1}", "write 0.001 or 1.0e-3"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=f"scene.yaml: .*{message}"):
            load_parameters(path)
    with pytest.raises(ValueError, match=r"missing.yaml: cannot be read"):
        load_parameters(tmp_path / "missing.yaml")


@pytest.mark.parametrize("name", CASES)
def test_settled_parameters_draw_what_the_tuned_ones_draw(name: str) -> None:
    distribution = CASES[name][0]
    blocks = distribution.blocks("p")
    if not blocks:
        pytest.skip("nothing of it is tuned")
    space = DecisionSpace(blocks)
    split = space.split(space.project(space.random(3)))
    found = settled({"p": distribution}, {name: part.tolist() for name, part in split.items()})
    again = read_parameters(yaml.safe_load(yaml.safe_dump(found)))["p"]
    assert isinstance(again, Distribution)
    assert not again.tuned()
    uniform = uniforms(torch.arange(50), distribution.numbers)
    beta = {own.removeprefix("p."): part.expand(50, -1) for own, part in split.items()}
    # Settled numbers have six digits.
    torch.testing.assert_close(again.draw({}, uniform), distribution.draw(beta, uniform), rtol=1e-4, atol=1e-4)


def test_what_is_handed_over_is_settled_to_its_numbers() -> None:
    parameters = {"one": Tuned(0, 1, 0.5), "some": Tuned((0.0, 0.0), 1, 0.5)}
    assert settled(parameters, {"one": [0.25], "some": [1 / 3, 1.0]}) == {"one": 0.25, "some": [0.333333, 1.0]}
