"""Random directions of beta, in fractions of each component's range."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["gaussian", "coordinate"]
KINDS: tuple[Kind, ...] = ("gaussian", "coordinate")


def gaussian(count: int, components: Tensor, dimension: int, sigma: float, random: torch.Generator) -> Tensor:
    """Draws of N(0, sigma^2 I) in some components (equation 10 of the paper).

    Args:
        count: How many.
        components: (C,) int64, which components they have; the others are zero.
        dimension: d.
        sigma: Standard deviation.
        random: Where they are drawn from.

    Returns:
        (count, d) float64.
    """
    delta = torch.zeros(count, dimension, dtype=torch.float64)
    delta[:, components] = sigma * torch.randn(count, len(components), generator=random, dtype=torch.float64)
    return delta


def coordinate(count: int, components: Tensor, dimension: int, sigma: float, random: torch.Generator) -> Tensor:
    """sigma along single components, dealt out like cards: any C in a row are distinct, all get an equal share.

    Arguments and result are those of `gaussian`.
    """
    order = components[torch.randperm(len(components), generator=random)]
    return sigma * torch.eye(dimension, dtype=torch.float64)[order[torch.arange(count) % len(order)]]


def rademacher(count: int, dimension: int, sigma: float, random: torch.Generator) -> Tensor:
    """+sigma or -sigma in each component, with equal chances, (count, dimension) float64."""
    signs = 2.0 * torch.randint(2, (count, dimension), generator=random) - 1
    return sigma * signs.to(torch.float64)


def check_kind(kind: str) -> None:
    """Refuse an unknown kind.

    Raises:
        ValueError: It is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown directions {kind!r}; choose 'gaussian' or 'coordinate'")
