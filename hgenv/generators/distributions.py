"""Mixtures, drawn by inverse transform from random numbers that are fixed per sample.

Which component a sample belongs to is decided by a uniform number of its own, so that beta never shifts a draw: moving
a weight moves some samples from one component to the next, and those alone; moving a mean or a spread moves every
sample of its component smoothly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .random import normals

_TERMS = 128  # of the Fourier series; they fall as exp(-j^2 / 2k), so that this is exact to 1e-12 up to k = 300
_STEPS = 8  # of Newton's method: exact to 1e-12 for uniform numbers between 1e-3 and 1 - 1e-3
_TURN_STEPS = 16  # of the same: exact to 1e-12 up to x**2 + y**2 = 0.9


def component(uniform: Tensor, weights: Tensor) -> Tensor:
    """Which component each sample belongs to.

    Args:
        uniform: (B,) in (0, 1).
        weights: (B, M) that sum to one.

    Returns:
        (B,) int64.
    """
    return (uniform[:, None] > weights.cumsum(-1)[:, :-1]).sum(-1)


def gaussian_mixture(uniform: Tensor, weights: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Draws from mixtures of Gaussians with diagonal covariance; differentiable in `mean` and `spread`.

    Args:
        uniform: (B, 1 + D) in (0, 1); the first of a row picks the component.
        weights: (B, M) that sum to one.
        mean: (B, M, D).
        spread: (B, M, D) standard deviations.

    Returns:
        (B, D).
    """
    row, which = torch.arange(len(uniform), device=uniform.device), component(uniform[:, 0], weights)
    return mean[row, which] + spread[row, which] * normals(uniform[:, 1:])


def von_mises_mixture(uniform: Tensor, weights: Tensor, mean: Tensor, concentration: Tensor) -> Tensor:
    """Draws from mixtures of products of von Mises distributions.

    Args:
        uniform: (B, 1 + D) in (0, 1); the first of a row picks the component.
        weights: (B, M) that sum to one.
        mean: (B, M, D) radians.
        concentration: (B, M, D), see `von_mises`.

    Returns:
        (B, D) radians, within pi of the component's mean.
    """
    row, which = torch.arange(len(uniform), device=uniform.device), component(uniform[:, 0], weights)
    return mean[row, which] + von_mises(uniform[:, 1:], concentration[row, which])


def von_mises(uniform: Tensor, concentration: Tensor) -> Tensor:
    """Quantiles of the von Mises distribution around zero, the normal distribution's relative on the circle.

    Newton's method, kept between bounds, on the Fourier series of its distribution function (Hill, "Algorithm 518",
    ACM TOMS 1977):

        F(x) = 1/2 + (x/2 + sum_j I_j(k) / I_0(k) sin(j x) / j) / pi

    Args:
        uniform: Any shape, float64 in (0, 1).
        concentration: k of the same shape, 0 < k <= 300; about 1 / variance where it is large.

    Returns:
        Radians, -pi..pi.
    """
    k = concentration
    ratio = torch.zeros_like(k)  # I_{j+1} / I_j, by the backward recurrence
    ratios = []
    for j in range(_TERMS + 32, 0, -1):
        ratio = 1 / (2 * j / k + ratio)
        ratios.append(ratio)
    bessel = torch.stack(ratios[::-1][:_TERMS], -1).cumprod(-1)  # I_j / I_0, j = 1.._TERMS
    number = torch.arange(1, _TERMS + 1, device=k.device, dtype=k.dtype)
    low, high = torch.full_like(k, -math.pi), torch.full_like(k, math.pi)
    x = (normals(uniform) / k.sqrt()).clamp(-math.pi, math.pi)
    for _ in range(_STEPS):
        angle = x[..., None] * number
        below = 0.5 + (x / 2 + (bessel * angle.sin() / number).sum(-1)) / math.pi - uniform
        density = (0.5 + (bessel * angle.cos()).sum(-1)) / math.pi
        low, high = torch.where(below < 0, x, low), torch.where(below < 0, high, x)
        newton = x - below / density.clamp(min=1e-12)
        x = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return x


def cardioid(uniform: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Quantiles of the cardioid distribution of density 1 + x cos a + y sin a over the turn, a = 2 pi turn.

    Unlike the von Mises distribution's they are smooth in (x, y) also at (0, 0), where the distribution is uniform
    (Mardia and Jupp, "Directional statistics", 2000, section 3.5.5). By Newton's method, kept between bounds.

    Args:
        uniform: Any shape, float64 in (0, 1).
        x: Of the same shape.
        y: Of the same shape, x**2 + y**2 < 1.

    Returns:
        Turns, 0..1.
    """
    low, high, turn = torch.zeros_like(uniform), torch.ones_like(uniform), uniform
    for _ in range(_TURN_STEPS):
        angle = 2 * math.pi * turn
        below = turn + (x * angle.sin() + y * (1 - angle.cos())) / (2 * math.pi) - uniform
        low, high = torch.where(below < 0, turn, low), torch.where(below < 0, high, turn)
        newton = turn - below / (1 + x * angle.cos() + y * angle.sin())
        turn = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return turn
