"""The decision space: what the numbers of a decision vector beta mean, and which of them are valid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

LONG = 64  # components; of a longer block, tables show the range


class DecisionError(ValueError):
    """A decision vector that the environment cannot take. The message names the block, the value and the cure."""


@dataclass(frozen=True)
class Block:
    """A named run of components of beta.

    Attributes:
        name: Unique within its space.
        low: Lower bound of each component, in `unit`.
        high: Upper bound of each component, in `unit`.
        initial: Ordinary starting value of each component, in `unit`.
        unit: Unit of the components; "1" for pure numbers.
        meaning: One line for tables.
        simplex: Whether the components are probabilities that sum to one.
        floor: Probabilities, including what is left of a single one to 1, are kept at least this large by
            `DecisionSpace.project`, so that nothing that a generator can do dies out.
    """

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    initial: tuple[float, ...]
    unit: str
    meaning: str
    simplex: bool = False
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check that the bounds are ordered, hold the initial value and leave room for a distribution."""
        if not len(self.low) == len(self.high) == len(self.initial) > 0:
            raise ValueError(f"block {self.name!r}: low, high and initial must have one length of at least 1")
        for low, high, initial in zip(self.low, self.high, self.initial, strict=True):
            if not -math.inf < low < high < math.inf or not low <= initial <= high:
                raise ValueError(f"block {self.name!r}: needs finite low < high and low <= initial <= high")
        if self.simplex and (abs(sum(self.initial) - 1) > 1e-6 or any(self.low) or self.floor * self.size >= 1):
            raise ValueError(
                f"block {self.name!r}: probabilities need low = 0, initial values that sum to 1, floors to less"
            )

        if self.simplex and min(self.high) < 1:
            raise ValueError(f"block {self.name!r}: probabilities need high = 1; project keeps them above their floor")
        if self.floor and not self.simplex and not max(self.low) <= self.floor < min(0.5, *self.high):
            raise ValueError(f"block {self.name!r}: a floor of single probabilities must be in range, and below 0.5")

    @property
    def size(self) -> int:
        """Number of components."""
        return len(self.low)


def block(
    name: str,
    size: int,
    low: float | Sequence[float],
    high: float | Sequence[float],
    initial: float | Sequence[float],
    unit: str,
    meaning: str,
    *,
    simplex: bool = False,
    floor: float = 0.0,
) -> Block:
    """A `Block` whose bounds and initial value may each be one number for all of its `size` components."""

    def spread(value: float | Sequence[float]) -> tuple[float, ...]:
        return tuple(float(v) for v in np.broadcast_to(np.asarray(value, dtype=float), (size,)))

    return Block(name, spread(low), spread(high), spread(initial), unit, meaning, simplex, floor)


class DecisionSpace:
    """The blocks of a decision vector, in order.

    Vectors are float64 tensors of shape `(..., d)`, where `d` is `dimension`. Besides its own units a vector has a
    *normalized* form, in which every component runs from 0 at its lower to 1 at its upper bound; optimizers work there.

    Attributes:
        blocks: The blocks.
        dimension: d, the number of components.
        low: Lower bounds, (d,).
        high: Upper bounds, (d,).
        initial: The common starting point, (d,).
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        names = [b.name for b in blocks]
        if not blocks or len(set(names)) != len(names):
            raise ValueError(f"a decision space needs blocks with unique names, not {names}")
        self.blocks = tuple(blocks)
        self.low = torch.tensor([v for b in blocks for v in b.low], dtype=torch.float64)
        self.high = torch.tensor([v for b in blocks for v in b.high], dtype=torch.float64)
        self.initial = torch.tensor([v for b in blocks for v in b.initial], dtype=torch.float64)
        self.dimension = len(self.initial)
        stops = np.cumsum([b.size for b in blocks])
        self._slices = {b.name: slice(int(s) - b.size, int(s)) for b, s in zip(blocks, stops, strict=True)}

    def __repr__(self) -> str:
        return f"DecisionSpace({self.dimension}: {', '.join(f'{b.name} {b.size}' for b in self.blocks)})"

    def slice(self, name: str) -> slice:
        """Where the block `name` stands in a vector.

        Raises:
            KeyError: There is no such block.
        """
        if name not in self._slices:
            raise KeyError(f"no block {name!r}; the blocks are {', '.join(self._slices)}")
        return self._slices[name]

    def split(self, betas: Tensor) -> dict[str, Tensor]:
        """The blocks of (..., d) by name, each (..., size); simplex blocks are raised to their floor and sum to one."""
        parts = {name: betas[..., where] for name, where in self._slices.items()}
        for b in self.blocks:
            if b.simplex:
                kept = parts[b.name].clamp(min=b.floor)
                parts[b.name] = kept / kept.sum(-1, keepdim=True)
        return parts

    def normalize(self, betas: Tensor) -> Tensor:
        """From own units to fractions of each component's range, (..., d) to (..., d)."""
        return (betas - self.low) / (self.high - self.low)

    def denormalize(self, normalized: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return self.low + normalized * (self.high - self.low)

    def random(self, number: int) -> Tensor:
        """The `number`-th of a fixed sequence of random valid vectors, (d,): the same for everybody, in any order.

        It is uniform in the box of the bounds (from `torch.rand` with a generator of seed `number`, in float64), then
        projected.

        Raises:
            ValueError: `number` is negative.
        """
        if number < 0:
            raise ValueError(f"random vectors are numbered from 0, so there is no number {number}")
        draw = torch.Generator().manual_seed(number)
        return self.project(self.denormalize(torch.rand(self.dimension, generator=draw, dtype=torch.float64)))

    def clip(self, betas: Tensor) -> Tensor:
        """The nearest vectors within the bounds, (..., d)."""
        return torch.minimum(torch.maximum(betas, self.low), self.high)

    def project(self, betas: Tensor) -> Tensor:
        """The nearest valid vectors, (..., d): within the bounds, simplex blocks summing to one above their floors."""
        projected = self.clip(betas)
        for b in self.blocks:
            where = self._slices[b.name]
            if b.simplex:
                projected[..., where] = b.floor + _project_to_simplex(betas[..., where] - b.floor, 1 - b.size * b.floor)
            elif b.floor:
                projected[..., where] = projected[..., where].clamp(b.floor, 1 - b.floor)
        return projected

    def check(self, beta: ArrayLike | Tensor) -> Tensor:
        """`beta` as a float64 tensor of shape (d,), or an error that says what is wrong with it.

        Raises:
            DecisionError: Wrong shape, not real numbers, not finite, out of bounds, or part of a graph.
        """
        if isinstance(beta, Tensor) and beta.requires_grad:
            raise DecisionError(
                "beta requires a gradient, but the environment is no function to differentiate; "
                "give it beta.detach(), and see Rollout.sample_gradient for dL/dX"
            )
        try:
            if isinstance(beta, Tensor):
                beta = beta.cpu() if beta.is_complex() else beta.to("cpu", torch.float64)
            numbers = np.asarray(beta)
            if numbers.dtype.kind == "c":
                raise TypeError("complex numbers have no place in a decision vector")
            if numbers.dtype.kind not in "biufO":
                raise TypeError(f"{numbers.dtype} are no numbers")
            # Nobody needs memory for what has the wrong shape.
            vector = torch.tensor(numbers.astype(np.float64)) if numbers.size <= self.dimension else None
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # torch knows only the last
            raise DecisionError(f"beta must be {self.dimension} numbers, not {type(beta).__name__}: {error}") from None
        if vector is None or vector.shape != (self.dimension,):
            raise DecisionError(
                f"beta has shape {numbers.shape}, but this space has {self.dimension} components: shape "
                f"({self.dimension},) is needed"
            )
        # An agent's float32 rounding of a bound is not an error.
        slack = 1e-6 * (self.high - self.low)
        wrong = ~(vector.isfinite() & (vector >= self.low - slack) & (vector <= self.high + slack))
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise DecisionError(
                f"beta[{i}] = {float(vector[i])} (block {self._block_of(i)!r}) is outside "
                f"[{float(self.low[i])}, {float(self.high[i])}]; clip it, or use DecisionSpace.project"
            )
        return self.clip(vector)

    def check_rows(self, betas: Tensor, seeds: Tensor) -> None:
        """Make sure that a generator can make samples of these betas and seeds, see `Generator`.

        Raises:
            DecisionError: They are not (B, d) finite numbers within the bounds, and (B,) whole numbers.
        """
        if betas.dim() != 2 or betas.shape[1] != self.dimension or not betas.is_floating_point():
            raise DecisionError(
                f"betas must be (B, {self.dimension}) floating-point, a row a sample, not {tuple(betas.shape)} "
                f"{betas.dtype}"
            )
        if seeds.shape != betas.shape[:1] or seeds.is_floating_point() or seeds.is_complex():
            raise DecisionError(
                f"seeds must be ({len(betas)},) whole numbers, one beside each beta, not {tuple(seeds.shape)} "
                f"{seeds.dtype}"
            )
        rows = betas.detach().to("cpu", torch.float64)
        slack = 1e-6 * (self.high - self.low)
        wrong = ~((rows >= self.low - slack) & (rows <= self.high + slack))  # so is NaN
        if wrong.any():
            row, i = wrong.nonzero()[0].tolist()
            raise DecisionError(
                f"betas[{row}, {i}] = {float(rows[row, i])} (block {self._block_of(i)!r}) is outside "
                f"[{float(self.low[i])}, {float(self.high[i])}]; clip them, or use DecisionSpace.project"
            )

    def _block_of(self, component: int) -> str:
        return next(name for name, where in self._slices.items() if where.start <= component < where.stop)

    def table(self) -> str:
        """The space as a Markdown table: index, block, meaning, range, unit, initial value."""

        def span(values: tuple[float, ...]) -> str:
            if len(values) > LONG and min(values) < max(values):
                return f"{min(values):g} to {max(values):g}"
            distinct = dict.fromkeys(f"{v:g}" for v in values)
            return next(iter(distinct)) if len(distinct) == 1 else "(" + ", ".join(f"{v:g}" for v in values) + ")"

        rows = [
            "| index | block | meaning | low | high | unit | initial |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for b in self.blocks:
            where = self._slices[b.name]
            index = str(where.start) if b.size == 1 else f"{where.start}-{where.stop - 1}"
            rows.append(
                f"| {index} | {b.name} | {b.meaning} | {span(b.low)} | {span(b.high)} | {b.unit} | {span(b.initial)} |"
            )
        return "\n".join(rows)


def _project_to_simplex(vectors: Tensor, total: float) -> Tensor:
    """Euclidean projection of (..., n) on {x >= 0, sum x = total} (Duchi et al., ICML 2008, figure 1)."""
    ordered = vectors.sort(-1, descending=True).values
    counts = torch.arange(1, vectors.shape[-1] + 1, dtype=vectors.dtype, device=vectors.device)
    thresholds = (ordered.cumsum(-1) - total) / counts
    support = (ordered > thresholds).sum(-1, keepdim=True)
    return (vectors - thresholds.gather(-1, support - 1)).clamp(min=0)
