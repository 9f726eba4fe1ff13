"""What a task is. Everything that is known about one stands in a file beside this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A figure that a task reports.

    Attributes:
        name: Key in rows: letters, digits, `_` and `.`. A name with a slash, `<name>/<object>`, is that figure of a
            single object; it stands in the rows and in tables of objects, and needs no `Metric` of its own.
        title: Heading of a column or an axis, with its unit in brackets.
        unit: "1" for pure numbers.
        direction: Whether less or more of it is better.
    """

    name: str
    title: str
    unit: str = "1"
    direction: Literal["min", "max"] = "min"


@dataclass(frozen=True)
class Picture:
    """Rows of small pictures, one column a sample.

    Attributes:
        rows: (B, H, W, 3) each, of one size, in sRGB.
        titles: What each row shows.
        note: How to read it, in one sentence; may be empty.
    """

    rows: tuple[NDArray[np.uint8], ...]
    titles: tuple[str, ...]
    note: str = ""


class Task(ABC):
    """What is learned: losses per sample, metrics, pictures. Knows nothing of networks but what they put out.

    Attributes:
        metrics: What `score` gives, the primary metric first.
        max_loss: Upper bound of the validation loss.
    """

    metrics: tuple[Metric, ...]
    max_loss: float

    def check(self, samples: Any, who: str) -> None:
        """Make sure that these are samples of this task; whatever is a record of tensors will do by default.

        Args:
            samples: As many as there are.
            who: Where they are from, for the message.

        Raises:
            SamplesError: They are not; the message names the field and says what it should be.
        """
        return  # not abstract: a task need not

    @abstractmethod
    def training_loss(self, output: Any, samples: Any) -> Tensor:
        """Loss of each sample, (B,), twice differentiable almost everywhere in both arguments.

        It is a sum over whatever `sizes` counts. How much a sample weighs is the caller's business.
        """

    def sizes(self, samples: Any) -> Tensor:
        """How much each sample's loss is a sum of, (B,): pixels, boxes. One by default.

        The loss of a training step is sum_i w_i training_loss_i / sum_i w_i sizes_i, with weights w_i = 1.
        """
        return torch.ones(len(samples), dtype=samples.tensors[0].dtype, device=samples.tensors[0].device)

    @abstractmethod
    def validation_loss(self, output: Any, data: Any) -> Tensor:
        """L, a scalar that is differentiable in the output for `data.samples`."""

    @abstractmethod
    def score(self, output: Any, data: Any) -> dict[str, float]:
        """The metrics of the output for `data.samples`, by name."""

    def picture(self, samples: Any, output: Any = None) -> Picture | None:
        """Some samples and their targets; with the output for them, what it says and how wrong that is.

        None where there is nothing to look at.
        """
        return None
