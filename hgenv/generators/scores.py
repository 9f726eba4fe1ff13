"""Scores: derivatives of the logarithm of a draw's density by the parameters of its distribution.

A score is all that a likelihood-ratio gradient needs (Glynn 1990; Williams 1992, as REINFORCE): for a value c of
samples that are drawn from p(x | beta),

    d/dbeta E[c] = E[c * d log p(x | beta) / dbeta],

however c jumps. A parameter that is no draw's, or that moves where draws can be at all, has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distributions import gaussian_mixture, von_mises_mixture

NARROWEST = 1e-3  # what is narrower has no score: its draws are as good as fixed


def bernoulli(hit: Tensor, probability: Tensor) -> Tensor:
    """Of (...) bool, by the probability of a hit (...)."""
    return torch.where(hit, 1 / probability, -1 / (1 - probability))


def categorical(which: Tensor, weights: Tensor) -> Tensor:
    """Of (...) int64 out of M, by weights (..., M) that sum to one and are divided by their sum before they are used.

    Returns:
        (..., M).
    """
    return torch.nn.functional.one_hot(which, weights.shape[-1]) / weights - 1


def normal(z: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Of mean + spread * z, by the mean and by the spread; NaN where the spread is below `NARROWEST`."""
    s = torch.where(spread >= NARROWEST, spread, torch.nan)
    return z / s, (z * z - 1) / s


def von_mises(angle: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    """Of mean + angle, by the mean and by the concentration."""
    k = concentration
    return k * angle.sin(), angle.cos() - torch.special.i1e(k) / torch.special.i0e(k)


def cardioid(turn: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of `distributions.cardioid`, by x and by y."""
    cosine, sine = (2 * torch.pi * turn).cos(), (2 * torch.pi * turn).sin()
    density = 1 + x * cosine + y * sine
    return cosine / density, sine / density


def of_gaussian_mixture(
    uniform: Tensor, weights: Tensor, mean: Tensor, spread: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `distributions.gaussian_mixture`, whichever component a draw came from: the density is that of the mixture.

    Arguments are as there.

    Returns:
        By the weights, (B, M); by the mean and by the spread, (B, M, D) each.
    """
    x = gaussian_mixture(uniform, weights, mean, spread)[:, None]
    s = spread.clamp(min=NARROWEST)
    z = (x - mean) / s
    share = _posterior(weights, (-0.5 * z * z - s.log()).sum(-1))
    by_mean, by_spread = normal(z, spread)
    return share / weights - 1, share[..., None] * by_mean, share[..., None] * by_spread


def of_von_mises_mixture(
    uniform: Tensor, weights: Tensor, mean: Tensor, concentration: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `distributions.von_mises_mixture`, as `of_gaussian_mixture`; by the concentration in place of the spread."""
    angle = von_mises_mixture(uniform, weights, mean, concentration)[:, None] - mean
    log_density = concentration * (angle.cos() - 1) - torch.special.i0e(concentration).log()
    share = _posterior(weights, log_density.sum(-1))
    by_mean, by_concentration = von_mises(angle, concentration)
    return share / weights - 1, share[..., None] * by_mean, share[..., None] * by_concentration


def _posterior(weights: Tensor, log_density: Tensor) -> Tensor:
    """How likely a draw came from each component, (B, M)."""
    return (weights.log() + log_density).softmax(-1)
