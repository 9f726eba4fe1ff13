"""What is trained: a network as a function of its weights, with a task."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor

from hgenv.samples import Samples
from hgenv.tasks.task import Task

from .rules import Weights

Work = Literal["train", "gradient", "validate"]


class Learner(Protocol):
    """A network as a function of its weights, with a task.

    For probes as one batch, as on a GPU, `torch.func.vmap` goes through network and losses: they must not branch on
    values.

    Attributes:
        task: Losses, metrics, pictures.
    """

    @property
    def task(self) -> Task:
        """See the class."""
        ...

    def initial_weights(self, seed: int) -> Weights:
        """The weights that training starts from, on the CPU; the same seed gives the same bits."""
        ...

    def output(self, weights: Weights, samples: Any) -> Any:
        """What the network says about B samples; the task knows what that means."""
        ...

    def flops(self, kind: Work, samples: int) -> int:
        """Floating-point operations of one training step, adjoint step or validation pass over `samples` samples."""
        ...


def training_loss(learner: Learner, weights: Weights, samples: Samples, sample_weights: Tensor | None = None) -> Tensor:
    """The loss of a training step, a scalar.

    Args:
        learner: What is trained.
        weights: The network's.
        samples: B of them.
        sample_weights: How much each counts, (B,); None for 1.

    Raises:
        ValueError: The task does not give a number for each sample.
    """
    losses, sizes = learner.task.training_loss(learner.output(weights, samples), samples), learner.task.sizes(samples)
    for name, values in (("training_loss", losses), ("sizes", sizes)):
        if values.shape != (len(samples),):
            raise ValueError(
                f"{type(learner.task).__name__}.{name} must give ({len(samples)},), a number for each sample, not "
                f"{tuple(values.shape)}"
            )
    if sample_weights is not None:
        losses, sizes = sample_weights * losses, sample_weights * sizes
    # Samples of nothing have loss zero: together they cannot hold less than one pixel otherwise.
    return losses.sum() / sizes.sum().clamp(min=1)


def validation_loss(learner: Learner, weights: Weights, data: Any) -> Tensor:
    """L, a scalar.

    Raises:
        ValueError: It is none.
    """
    loss = learner.task.validation_loss(learner.output(weights, data.samples), data)
    if loss.dim():
        raise ValueError(f"{type(learner.task).__name__}.validation_loss must be a scalar, not {tuple(loss.shape)}")
    return loss
