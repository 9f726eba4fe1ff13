"""Mixtures by inverse transform against scipy, numerical integration and their own definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from hgenv.generators.distributions import component, gaussian_mixture, von_mises, von_mises_mixture


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_von_mises_quantiles_invert_scipy() -> None:
    u = uniform(2000).clamp(1e-3, 1 - 1e-3)
    # Above 50, scipy's distribution function is only an approximation.
    k = 10 ** (4 * uniform(2000, seed=1) - 2.3)
    x = von_mises(u, k).numpy()
    assert np.abs(x).max() <= math.pi
    np.testing.assert_allclose(stats.vonmises.cdf(x, k.numpy()), u.numpy(), atol=1e-11)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.01, 300))
def test_von_mises_quantiles_invert_the_integral_of_the_density(u: float, k: float) -> None:
    x = float(von_mises(torch.tensor([u], dtype=torch.float64), torch.tensor([k], dtype=torch.float64)))
    density = lambda t: math.exp(k * (math.cos(t) - 1)) / (2 * math.pi * special.ive(0, k))  # noqa: E731
    assert integrate.quad(density, 0, x, epsabs=1e-12)[0] == pytest.approx(u - 0.5, abs=1e-6)


def test_von_mises_is_symmetric_and_grows() -> None:
    u, k = torch.linspace(0.001, 0.999, 99, dtype=torch.float64), torch.full((99,), 30.0, dtype=torch.float64)
    x = von_mises(u, k)
    assert (x.diff() > 0).all()
    torch.testing.assert_close(x, -x.flip(0), rtol=0, atol=1e-12)


def test_components_come_as_often_as_their_weights_say() -> None:
    weights = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).expand(20000, -1)
    counts = torch.bincount(component(uniform(20000), weights), minlength=3) / 20000
    torch.testing.assert_close(counts.double(), weights[0], rtol=0, atol=0.015)


def test_a_weight_moves_samples_to_the_next_component_and_no_other_number() -> None:
    u, before = uniform(500, 3), torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).expand(500, -1)
    after = torch.tensor([[0.55, 0.25, 0.2]], dtype=torch.float64).expand(500, -1)
    mean = torch.tensor([[[0.0, 0.0], [10.0, 10.0], [20.0, 20.0]]], dtype=torch.float64).expand(500, -1, -1)
    spread = torch.ones_like(mean)
    first, second = gaussian_mixture(u, before, mean, spread), gaussian_mixture(u, after, mean, spread)
    moved = (first != second).any(1)
    assert 0 < int(moved.sum()) < 60
    # The draw itself stays: the difference is that of the means.
    torch.testing.assert_close(first[moved] - second[moved], torch.full((int(moved.sum()), 2), 10.0).double())


def test_gaussian_mixture_has_the_moments_of_its_definition() -> None:
    count = 40000
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mean = torch.tensor([[-1.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    spread = torch.tensor([[0.3, 1.0], [0.1, 0.2]], dtype=torch.float64)
    x = gaussian_mixture(uniform(count, 3), *(t.expand(count, *t.shape) for t in (weights, mean, spread)))
    expected = weights @ mean
    variance = weights @ (spread**2 + mean**2) - expected**2
    torch.testing.assert_close(x.mean(0), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(x.var(0), variance, rtol=0.03, atol=0)


def test_gaussian_mixture_is_differentiable_in_means_and_spreads() -> None:
    u, weights = uniform(5, 3), torch.full((5, 2), 0.5, dtype=torch.float64)
    mean, spread = uniform(5, 2, 2, seed=2).requires_grad_(), uniform(5, 2, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: gaussian_mixture(u, weights, m, s), (mean, spread))


def test_von_mises_mixture_turns_by_the_mean_of_the_component() -> None:
    u, weights = uniform(300, 4), torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(300, -1)
    k = torch.full((300, 2, 3), 50.0, dtype=torch.float64)
    zero, mean = torch.zeros_like(k), torch.tensor([[-1.0], [1.0]], dtype=torch.float64).expand(300, 2, 3)
    turned = von_mises_mixture(u, weights, mean, k) - von_mises_mixture(u, weights, zero, k)
    expected = torch.where(u[:, :1] > 0.5, 1.0, -1.0).double().expand(-1, 3)
    torch.testing.assert_close(turned, expected)
