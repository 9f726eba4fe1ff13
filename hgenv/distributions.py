"""Distributions of a generator's parameters, whose own parameters may be components of beta.

A renderer takes numbers: a radius, an angle, a kind. What is tuned is how these are distributed: the mean of the
radius, say, and its spread. Each number of a distribution is either fixed, or `Tuned`: then it is a block of beta.

    parameters = {
        "radius": Normal(mean=Tuned(0.1, 0.9, 0.3), spread=Tuned(0.01, 0.3, 0.1)),  # drawn for each sample
        "kind": Categorical(("disc", "square"), Probabilities((0.5, 0.5))),  # drawn for each sample
        "brightness": Tuned(0, 1, 0.9),  # no draw: every sample gets what beta says
    }

Draws are made from uniform numbers that are fixed per sample, so that beta never shifts a draw. The density of the
draws is known, and so is its score, the derivative of its logarithm by beta: an estimator that is made of scores needs
no extra sample. `Uniform` alone has no score by its bounds: they move where draws can be at all.

Values have one row a sample. Whatever is a single number per sample is (B, 1). The quantile functions behind some of
the draws are in `hgenv.generators.distributions`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .decision import Block, block
from .generators import scores
from .generators.distributions import component, von_mises
from .generators.random import normals

__all__ = [
    "Bernoulli",
    "Categorical",
    "CorrelatedNormal",
    "Distribution",
    "LogNormal",
    "Mixture",
    "Normal",
    "Probabilities",
    "Tuned",
    "Uniform",
    "VonMises",
    "load_parameters",
    "read_parameters",
    "settled",
]

Numbers = float | Sequence[float]
Value = float | bool | str | NDArray[Any]  # what a renderer is given

MOST_CONCENTRATED = 300.0  # up to which von Mises quantiles are exact
FLOOR = 0.01  # of probabilities: what is never drawn cannot be found to be useful


@dataclass(frozen=True)
class Tuned:
    """A number, or a vector of them, that is a block of beta.

    Attributes:
        low: Lower bound, in the parameter's own unit.
        high: Upper bound.
        initial: Starting value.
        unit: Unit; "1" for pure numbers.
        meaning: One line for tables; may be empty.

    Raises:
        ValueError: Bounds or starting values that are out of order, or of different lengths.
    """

    low: Numbers
    high: Numbers
    initial: Numbers
    unit: str = "1"
    meaning: str = ""

    def __post_init__(self) -> None:
        """Check it, as `Block` does."""
        given = [(_size(x), _numbers(x)) for x in (self.low, self.high, self.initial)]
        lengths = {len(x) for size, x in given if size is not None}
        if len(lengths) > 1:
            raise ValueError(f"low, high and initial have different lengths: {sorted(lengths)}")
        self.blocks("a tuned number")

    @property
    def size(self) -> int | None:
        """Length of the vector; None for a single number."""
        return next((size for x in (self.low, self.high, self.initial) if (size := _size(x)) is not None), None)

    def blocks(self, name: str) -> list[Block]:
        """The block of beta."""
        low, high, initial = (
            x if _size(x) is None else tuple(_numbers(x)) for x in (self.low, self.high, self.initial)
        )
        return [block(name, self.size or 1, low, high, initial, self.unit, self.meaning or name)]

    def value(self, row: Tensor) -> Value:
        """What a renderer is given: a number, or a vector.

        Args:
            row: (size,) of one sample.
        """
        return float(row[0]) if self.size is None else row.numpy().copy()


@dataclass(frozen=True)
class Probabilities:
    """Probabilities that sum to one and are a block of beta.

    Attributes:
        initial: Starting values.
        floor: Each is kept at least this large.

    Raises:
        ValueError: They do not sum to one, or the floor leaves no room.
    """

    initial: Sequence[float]
    floor: float = FLOOR

    def __post_init__(self) -> None:
        """Check them, as `Block` does."""
        self.blocks("probabilities")

    def blocks(self, name: str) -> list[Block]:
        """The block of beta."""
        return [block(name, len(self.initial), 0, 1, self.initial, "1", name, simplex=True, floor=self.floor)]


class Distribution(ABC):
    """A distribution of one parameter of a renderer; subclasses are frozen dataclasses.

    In what follows `beta` has the tuned numbers by name, (B, size) each: "mean" for a block that is called
    "<parameter>.mean". A mixture's components are numbered: "0.mean".
    """

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Length of a draw; None if it is a single number."""

    @property
    def numbers(self) -> int:
        """How many uniform numbers a sample's draw takes."""
        return self.size or 1

    @property
    def unscored(self) -> tuple[str, ...]:
        """The tuned numbers by which there is no score."""
        return ()

    def tuned(self) -> dict[str, Tuned | Probabilities]:
        """What of it is tuned, by name."""
        own: Any = self  # a dataclass, which this base is not
        given = {f.name: getattr(self, f.name) for f in fields(own)}
        return {name: x for name, x in given.items() if isinstance(x, Tuned | Probabilities)}

    def blocks(self, name: str) -> list[Block]:
        """Its blocks of beta, for a parameter of this name; none if nothing is tuned."""
        return [b for own, x in self.tuned().items() for b in x.blocks(f"{name}.{own}")]

    @abstractmethod
    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """Draws (B, size) from (B, numbers) uniform numbers in (0, 1), by inverse transform; float64."""

    @abstractmethod
    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """Logarithm of the density, or of the probability, of (B, size) draws; (B,)."""

    @abstractmethod
    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """Derivative of `log_density` by each tuned number, (B, its size); NaN where there is none."""

    def value(self, row: Tensor) -> Value:
        """What a renderer is given: a number, or a vector.

        Args:
            row: (size,) of one sample.
        """
        return float(row[0]) if self.size is None else row.numpy().copy()

    def _given(self, name: str, beta: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """A number of the distribution, (B, size) or (B, 1), whether it is tuned or fixed."""
        given = getattr(self, name)
        if isinstance(given, Tuned | Probabilities):
            return beta[name]
        return torch.tensor(_numbers(given), dtype=torch.float64, device=like.device).expand(len(like), -1)

    def _kept(self, by: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Derivatives by what is tuned; a number that all components of the draws share gets the sum."""
        tuned = self.tuned()
        shared = {name for name, x in tuned.items() if isinstance(x, Tuned) and (x.size or 1) == 1}
        return {n: x.sum(1, keepdim=True) if n in shared else x for n, x in by.items() if n in tuned}


@dataclass(frozen=True)
class Normal(Distribution):
    """Normal distributions, independent of each other.

    Attributes:
        mean: The mean.
        spread: The standard deviation; above 0.
        length: Of a vector of draws that share mean and spread; None: as long as the longest of these.

    Raises:
        ValueError: The spread may be 0, or lengths differ.
    """

    mean: Numbers | Tuned
    spread: Numbers | Tuned
    length: int | None = None

    def __post_init__(self) -> None:
        """Check it."""
        _positive("spread", self.spread)
        _common_size(self)

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return _common_size(self)

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """See `Distribution`."""
        return self._given("mean", beta, uniform) + self._given("spread", beta, uniform) * normals(uniform)

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        z, spread = self._standard(beta, draws)
        return (-0.5 * z * z - spread.log() - 0.5 * math.log(2 * math.pi)).sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        z, spread = self._standard(beta, draws)
        return self._kept({"mean": z / spread, "spread": (z * z - 1) / spread})

    def _standard(self, beta: Mapping[str, Tensor], draws: Tensor) -> tuple[Tensor, Tensor]:
        spread = self._given("spread", beta, draws)
        return (draws - self._given("mean", beta, draws)) / spread, spread


@dataclass(frozen=True)
class LogNormal(Distribution):
    """Numbers above 0 whose logarithms are normal, independent of each other.

    Attributes:
        median: Half of all draws are below it; above 0.
        spread: The standard deviation of the natural logarithm; above 0. At 0.1, two thirds of all draws are within
            10 % of the median.
        length: See `Normal`.

    Raises:
        ValueError: Median or spread may be 0, or lengths differ.
    """

    median: Numbers | Tuned
    spread: Numbers | Tuned
    length: int | None = None

    def __post_init__(self) -> None:
        """Check it."""
        _positive("median", self.median)
        _positive("spread", self.spread)
        _common_size(self)

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return _common_size(self)

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """See `Distribution`."""
        return self._given("median", beta, uniform) * (self._given("spread", beta, uniform) * normals(uniform)).exp()

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        z, spread, _ = self._standard(beta, draws)
        each = -0.5 * z * z - (spread * draws).log() - 0.5 * math.log(2 * math.pi)
        return each.where(draws > 0, -math.inf).sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        z, spread, median = self._standard(beta, draws)
        return self._kept({"median": z / (spread * median), "spread": (z * z - 1) / spread})

    def _standard(self, beta: Mapping[str, Tensor], draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spread, median = self._given("spread", beta, draws), self._given("median", beta, draws)
        # Other components of a mixture may be at 0 or below.
        return (draws.clamp(min=1e-300).log() - median.log()) / spread, spread, median


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform distributions between two bounds, independent of each other.

    There is **no score by the bounds**: they move where draws can be at all. Tuned bounds are seen by differences
    alone. Fixed bounds are what a prior without parameters is.

    Attributes:
        low: The lower bound.
        high: The upper bound; where bounds are tuned, the least of it is at least the most of `low`.
        length: See `Normal`.

    Raises:
        ValueError: The bounds may be in the wrong order, or lengths differ.
    """

    low: Numbers | Tuned
    high: Numbers | Tuned
    length: int | None = None

    def __post_init__(self) -> None:
        """Check it."""
        _common_size(self)
        lowest, highest = _ends(self.high)[0], _ends(self.low)[1]
        below = np.less_equal if isinstance(self.low, Tuned) or isinstance(self.high, Tuned) else np.less
        if not np.all(below(highest, lowest)):
            raise ValueError("low must stay below high, whatever beta says: narrow their ranges")

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return _common_size(self)

    @property
    def unscored(self) -> tuple[str, ...]:
        """Both bounds."""
        return tuple(self.tuned())

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """See `Distribution`."""
        low = self._given("low", beta, uniform)
        return low + (self._given("high", beta, uniform) - low) * uniform

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        low, high = self._given("low", beta, draws), self._given("high", beta, draws)
        return torch.where((draws >= low) & (draws <= high), -(high - low).log(), -math.inf).sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """NaN: there is none."""
        return self._kept(dict.fromkeys(("low", "high"), torch.full_like(draws, math.nan)))


@dataclass(frozen=True)
class VonMises(Distribution):
    """Angles, distributed as the normal distribution's relative on the circle, independent of each other.

    Attributes:
        mean: Radians.
        concentration: Above 0, at most 300; about 1 / variance where it is large, nearly uniform near 0.
        length: See `Normal`.

    Raises:
        ValueError: The concentration may be out of range, or lengths differ.
    """

    mean: Numbers | Tuned
    concentration: Numbers | Tuned
    length: int | None = None

    def __post_init__(self) -> None:
        """Check it."""
        _positive("concentration", self.concentration, MOST_CONCENTRATED)
        _common_size(self)

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return _common_size(self)

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """Draws within pi of the mean."""
        concentration = self._given("concentration", beta, uniform).expand_as(uniform)
        return self._given("mean", beta, uniform) + von_mises(uniform, concentration)

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        k, angle = self._given("concentration", beta, draws), draws - self._given("mean", beta, draws)
        return (k * (angle.cos() - 1) - torch.special.i0e(k).log() - math.log(2 * math.pi)).sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        angle = draws - self._given("mean", beta, draws)
        by_mean, by_concentration = scores.von_mises(angle, self._given("concentration", beta, draws))
        return self._kept({"mean": by_mean, "concentration": by_concentration})


@dataclass(frozen=True)
class CorrelatedNormal(Distribution):
    """A vector x = mean + spread * C z of n numbers, z being standard normal.

    C has ones on its diagonal and `coupling` below it, row by row: C10, C20, C21, C30 and so on. A coupling of 0 leaves
    two numbers independent. Number i has the standard deviation spread_i |C_i|.

    Attributes:
        mean: (n,).
        spread: (n,) above 0.
        coupling: (n (n - 1) / 2,).

    Raises:
        ValueError: Lengths do not fit together, or a spread may be 0.
    """

    mean: Sequence[float] | Tuned
    spread: Sequence[float] | Tuned
    coupling: Sequence[float] | Tuned

    def __post_init__(self) -> None:
        """Check it."""
        n = _length(self.mean)
        lengths = (n, _length(self.spread), _length(self.coupling))
        if n < 2 or lengths != (n, n, n * (n - 1) // 2):
            raise ValueError(
                f"mean, spread and coupling need n, n and n (n - 1) / 2 numbers, n being 2 or more, not {lengths}"
            )
        _positive("spread", self.spread)

    @property
    def size(self) -> int:
        """See `Distribution`."""
        return _length(self.mean)

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """See `Distribution`."""
        # Not a product of matrices, which rounds differently in a batch of another size.
        mixed = (self._factor(beta, uniform) * normals(uniform)[:, None, :]).sum(-1)
        return self._given("mean", beta, uniform) + self._given("spread", beta, uniform) * mixed

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        z, _, _, spread = self._standard(beta, draws)
        return (-0.5 * z * z - spread.log() - 0.5 * math.log(2 * math.pi)).sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        z, mixed, factor, spread = self._standard(beta, draws)
        pull = torch.linalg.solve_triangular(factor.mT, z[..., None], upper=True)[..., 0]
        rows, columns = self._below()
        return self._kept({
            "mean": pull / spread,
            "spread": (pull * mixed - 1) / spread,
            "coupling": pull[:, rows] * z[:, columns],
        })  # fmt: skip

    def _standard(self, beta: Mapping[str, Tensor], draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, C z, C and the spread."""
        spread, factor = self._given("spread", beta, draws), self._factor(beta, draws)
        mixed = (draws - self._given("mean", beta, draws)) / spread
        return torch.linalg.solve_triangular(factor, mixed[..., None], upper=False)[..., 0], mixed, factor, spread

    def _factor(self, beta: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """C, (B, n, n)."""
        factor = torch.eye(self.size, dtype=torch.float64, device=like.device).repeat(len(like), 1, 1)
        rows, columns = self._below()
        factor[:, rows, columns] = self._given("coupling", beta, like)
        return factor

    def _below(self) -> tuple[Tensor, Tensor]:
        rows, columns = torch.tril_indices(self.size, self.size, -1)
        return rows, columns


@dataclass(frozen=True)
class Categorical(Distribution):
    """One of several choices.

    Attributes:
        choices: What the renderer is given: all texts, or all numbers.
        probabilities: Of each choice: tuned (`Probabilities`) or fixed; None: all are as likely.
        length: Of a vector of independent draws; None for a single one.

    Raises:
        ValueError: There are fewer than two choices, or as many probabilities as choices are missing.
    """

    choices: Sequence[str] | Sequence[float]
    probabilities: Probabilities | Sequence[float] | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        """Check it."""
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"needs two choices or more, all of them different, not {list(self.choices)}")
        if len({isinstance(choice, str) for choice in self.choices}) > 1:
            raise ValueError(f"the choices must be all texts or all numbers, not {list(self.choices)}")
        object.__setattr__(self, "probabilities", _probabilities(self.probabilities, len(self.choices)))

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return self.length

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """Numbers of choices, counted from 0."""
        weights = self._given("probabilities", beta, uniform)
        return torch.stack([component(column, weights) for column in uniform.unbind(1)], 1).to(torch.float64)

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        return self._given("probabilities", beta, draws).gather(1, draws.long()).log().sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        weights = self._given("probabilities", beta, draws)[:, None].expand(-1, draws.shape[1], -1)
        return self._kept({"probabilities": scores.categorical(draws.long(), weights).sum(1)})

    def value(self, row: Tensor) -> Value:
        """The choice, or a vector of choices."""
        found = [self.choices[i] for i in row.long().tolist()]
        return found[0] if self.length is None else np.array(found)


@dataclass(frozen=True)
class Bernoulli(Distribution):
    """True or false.

    Attributes:
        probability: Of true, 0 to 1.
        length: Of a vector of draws; None: as long as `probability`.

    Raises:
        ValueError: The probability may be out of range, or lengths differ.
    """

    probability: Numbers | Tuned
    length: int | None = None

    def __post_init__(self) -> None:
        """Check it."""
        low, high = _ends(self.probability)
        if not (np.all(low >= 0) and np.all(high <= 1)):
            raise ValueError("probability must stay between 0 and 1: narrow its range")
        _common_size(self)

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return _common_size(self)

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """1 for true, 0 for false."""
        return (uniform < self._given("probability", beta, uniform)).to(torch.float64)

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        p = self._given("probability", beta, draws)
        return torch.where(draws > 0.5, p, 1 - p).log().sum(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        p = self._given("probability", beta, draws).expand_as(draws)
        return self._kept({"probability": scores.bernoulli(draws > 0.5, p)})

    def value(self, row: Tensor) -> Value:
        """True or false, or a vector of these."""
        return bool(row[0] > 0.5) if self.size is None else (row > 0.5).numpy()


@dataclass(frozen=True)
class Mixture(Distribution):
    """One of several continuous distributions, picked for each sample by a uniform number of its own.

    A vector is picked as a whole. The density is that of the mixture, whichever component a draw came from.

    Attributes:
        components: Continuous distributions of one size; if one is `VonMises`, all are.
        weights: Of each component: tuned (`Probabilities`) or fixed; None: all are as likely.

    Raises:
        ValueError: Components that cannot be mixed, or as many weights as components are missing.
    """

    components: Sequence[Distribution]
    weights: Probabilities | Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check it."""
        kinds = [type(c) for c in self.components]
        if len(kinds) < 2 or not all(issubclass(k, Distribution) for k in kinds):
            raise ValueError("needs two components or more, all of them distributions")
        if {Categorical, Bernoulli, Mixture} & set(kinds):
            raise ValueError("the components must be continuous; nest no mixtures: list all components in one")
        if VonMises in kinds and set(kinds) != {VonMises}:
            raise ValueError("angles and other numbers cannot be mixed: either all components are VonMises, or none")
        if len({c.size for c in self.components}) > 1:
            raise ValueError(f"the components have different sizes: {[c.size for c in self.components]}")
        object.__setattr__(self, "weights", _probabilities(self.weights, len(kinds)))

    @property
    def size(self) -> int | None:
        """See `Distribution`."""
        return self.components[0].size

    @property
    def numbers(self) -> int:
        """One that picks, and those of a component."""
        return 1 + (self.size or 1)

    @property
    def unscored(self) -> tuple[str, ...]:
        """The bounds of uniform components."""
        return tuple(f"{i}.{name}" for i, c in enumerate(self.components) for name in c.unscored)

    def tuned(self) -> dict[str, Tuned | Probabilities]:
        """See `Distribution`."""
        found = super().tuned()
        return found | {f"{i}.{name}": x for i, c in enumerate(self.components) for name, x in c.tuned().items()}

    def draw(self, beta: Mapping[str, Tensor], uniform: Tensor) -> Tensor:
        """See `Distribution`."""
        which = component(uniform[:, 0], self._given("weights", beta, uniform))
        every = torch.stack([c.draw(own, uniform[:, 1:]) for c, own in self._each(beta)], 1)
        return every[torch.arange(len(uniform), device=uniform.device), which]

    def log_density(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """See `Distribution`."""
        return self._joint(beta, draws).logsumexp(1)

    def score(self, beta: Mapping[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
        """See `Distribution`."""
        share = self._joint(beta, draws).softmax(1)  # how likely a draw came from each component
        found = self._kept({"weights": share / self._given("weights", beta, draws) - 1})
        for i, (c, own) in enumerate(self._each(beta)):
            found |= {f"{i}.{name}": share[:, i, None] * x for name, x in c.score(own, draws).items()}
        return found

    def _joint(self, beta: Mapping[str, Tensor], draws: Tensor) -> Tensor:
        """Logarithms of weight times density, (B, components)."""
        each = torch.stack([c.log_density(own, draws) for c, own in self._each(beta)], 1)
        return self._given("weights", beta, draws).log() + each

    def _each(self, beta: Mapping[str, Tensor]) -> list[tuple[Distribution, dict[str, Tensor]]]:
        """The components, each with its own part of beta."""
        return [(c, {name: beta[f"{i}.{name}"] for name in c.tuned()}) for i, c in enumerate(self.components)]


Parameters = Mapping[str, Distribution | Tuned]

KINDS: dict[str, type[Distribution]] = {
    "normal": Normal,
    "log_normal": LogNormal,
    "uniform": Uniform,
    "von_mises": VonMises,
    "correlated_normal": CorrelatedNormal,
    "categorical": Categorical,
    "bernoulli": Bernoulli,
    "mixture": Mixture,
}


def load_parameters(path: str | Path) -> dict[str, Distribution | Tuned]:
    """Parameters from a YAML file.

        radius:
          distribution: normal
          mean: {low: 0.1, high: 0.9, initial: 0.3, unit: half frame}
          spread: {low: 0.01, high: 0.3, initial: 0.1}
        kind: {distribution: categorical, choices: [disc, square], probabilities: {initial: [0.5, 0.5]}}
        brightness: {low: 0, high: 1, initial: 0.9}

    Distributions have the names in `KINDS`, and the arguments of their classes. What has `low`, `high` and `initial` is
    tuned. Probabilities with `initial` are. Other numbers are fixed.

    Raises:
        ValueError: The file cannot be read, or says something that makes no sense. The message names file and
            parameter.
    """
    import yaml  # late: few need it

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: cannot be read, there is no such file in {Path.cwd()}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    try:
        return read_parameters(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_parameters(found: Any) -> dict[str, Distribution | Tuned]:
    """Parameters from what `load_parameters` finds in a file: plain mappings, lists and numbers.

    Raises:
        ValueError: They make no sense. The message names the parameter.
    """
    if not isinstance(found, Mapping) or not found:
        raise ValueError("must say what each parameter is, a name and its distribution or range, line by line")
    parameters = {}
    for name, said in found.items():
        try:
            parameters[str(name)] = said if isinstance(said, Distribution | Tuned) else _parameter(said)
        except (TypeError, ValueError) as error:
            raise ValueError(f"parameter {name!r}: {error}") from None
    return parameters


def settled(parameters: Parameters, values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Parameters with numbers in place of all that was tuned, as plain values: to be pasted into a renderer.

    Args:
        parameters: Distributions and ranges by name.
        values: The blocks of beta, by name.

    Returns:
        By name, a number or a list for what was handed over as it is; else the distribution as in a file of parameters.
    """

    def settle(name: str, what: Any) -> Any:
        if isinstance(what, Tuned):
            return _plain_numbers(values[name], what.size)
        if isinstance(what, Probabilities):
            return _plain_numbers(values[name], len(what.initial))
        if isinstance(what, Distribution):
            kind = next((word for word, known in KINDS.items() if known is type(what)), type(what).__name__)
            own: Any = what  # a dataclass, which `Distribution` is not
            given = {f.name: getattr(what, f.name) for f in fields(own)}
            parts = {n: settle(f"{name}.{n}", x) for n, x in given.items() if x is not None and n != "components"}
            if "components" in given:
                parts["components"] = [settle(f"{name}.{i}", c) for i, c in enumerate(given["components"])]
            return {"distribution": kind} | parts
        return np.asarray(what).tolist() if isinstance(what, list | tuple | np.generic | np.ndarray) else what

    return {name: settle(name, what) for name, what in parameters.items()}


def _plain_numbers(values: Sequence[float], size: int | None) -> float | list[float]:
    found = [float(f"{x:.6g}") for x in values]
    return found[0] if size is None else found


def _parameter(said: Any) -> Distribution | Tuned:
    if not isinstance(said, Mapping):
        raise ValueError(f"needs a distribution, or low, high and initial, not {said!r}")
    if "distribution" not in said:
        return _tuned(said)
    kind = KINDS.get(said["distribution"])
    if kind is None:
        raise ValueError(f"there is no distribution {said['distribution']!r}; the names are {', '.join(KINDS)}")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type] # all of them are dataclasses
    arguments: dict[str, Any] = {}
    for name, x in said.items():
        if name == "distribution":
            continue
        if name not in known:
            raise ValueError(f"{said['distribution']} has no {name!r}; it has {', '.join(known)}")
        if name == "components" and isinstance(x, list):
            arguments[name] = [_parameter(part) for part in x]
        elif name in ("probabilities", "weights") and isinstance(x, dict):
            arguments[name] = _from(Probabilities, x)
        else:
            arguments[name] = _tuned(x) if isinstance(x, dict) else x
    return kind(**arguments)


def _tuned(said: Mapping[str, Any]) -> Tuned:
    return _from(Tuned, said)


def _from(kind: Any, said: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(kind)]
    if unknown := [name for name in said if name not in known]:
        raise ValueError(f"{unknown[0]!r} is unknown there; what is tuned has {', '.join(known)}")
    try:
        return kind(**said)
    except TypeError as error:
        raise ValueError(f"needs {', '.join(known)}: {str(error).partition('__init__() ')[2]}") from None


def _probabilities(given: Any, count: int) -> Probabilities | tuple[float, ...]:
    """Probabilities for so many choices.

    Raises:
        ValueError: They are none.
    """
    if given is None:
        return (1 / count,) * count
    values = given.initial if isinstance(given, Probabilities) else given
    if len(values) != count:
        raise ValueError(f"{count} probabilities are needed, not {len(values)}")
    if isinstance(given, Probabilities):
        return given
    if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise ValueError(f"probabilities must be 0 or more and sum to 1, not {list(values)}")
    return tuple(float(x) / sum(values) for x in values)


def _size(given: Any) -> int | None:
    """Length of what is a vector; None for a single number."""
    if isinstance(given, Tuned):
        return given.size
    return len(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else None


def _length(given: Any) -> int:
    return _size(given) or 1


def _numbers(given: Any) -> list[float]:
    """Fixed numbers as a list.

    Raises:
        ValueError: They are no finite numbers.
    """
    values = list(given) if _size(given) is not None else [given]
    for x in values:
        if isinstance(x, bool | str) or not isinstance(x, int | float | np.number) or not math.isfinite(x):
            hint = " (in YAML, 1e-3 is a text: write 0.001 or 1.0e-3)" if isinstance(x, str) else ""
            raise ValueError(f"needs finite numbers, not {x!r}{hint}")
    if not values:
        raise ValueError("needs one number at least")
    return [float(x) for x in values]


def _ends(given: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the most that something can be."""
    if isinstance(given, Tuned):
        return np.array(_numbers(given.low)), np.array(_numbers(given.high))
    values = np.array(_numbers(given))
    return values, values


def _positive(name: str, given: Any, most: float = math.inf) -> None:
    low, high = _ends(given)
    if not (np.all(low > 0) and np.all(high <= most)):
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{name} must stay above 0{limit}, whatever beta says: there is no density at 0")


def _common_size(distribution: Any) -> int | None:
    """Length of the draws that go with all numbers of a distribution.

    Raises:
        ValueError: There is none.
    """
    given = [getattr(distribution, f.name) for f in fields(distribution) if f.name != "length"]
    for x in given:
        if not isinstance(x, Tuned):
            _numbers(x)
    sizes = {size for x in given if (size := _size(x)) is not None}
    if distribution.length is not None:
        if isinstance(distribution.length, bool) or not isinstance(distribution.length, int) or distribution.length < 1:
            raise ValueError(f"length must be a positive whole number, not {distribution.length!r}")
        sizes.add(distribution.length)
    if len(sizes - {1}) > 1:
        raise ValueError(f"its numbers have different lengths: {sorted(sizes)}")
    return max(sizes, default=None)
