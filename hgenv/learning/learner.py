"""What is trained: a network as a function of its weights, with a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hgenv.problem import PartError, part
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
        PartError: The learner or its task failed.
    """
    with part(_who(learner)):
        output = learner.output(weights, samples)
        losses, sizes = learner.task.training_loss(output, samples), learner.task.sizes(samples)
    for name, values in (("training_loss", losses), ("sizes", sizes)):
        _check_tensor(learner, name, values)
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
        PartError: The learner or its task failed.
    """
    with part(_who(learner)):
        loss = learner.task.validation_loss(learner.output(weights, data.samples), data)
    _check_tensor(learner, "validation_loss", loss)
    if loss.dim():
        raise ValueError(f"{type(learner.task).__name__}.validation_loss must be a scalar, not {tuple(loss.shape)}")
    return loss


def initial_weights(learner: Learner, seed: int, device: torch.device) -> Weights:
    """The weights that training starts from, on a device.

    Raises:
        PartError: The learner failed, or these are no weights.
    """
    who = _who(learner)
    with part(who):
        weights = dict(learner.initial_weights(seed))
    for name, w in weights.items():
        if not isinstance(w, Tensor) or w.layout != torch.strided or w.is_meta or not w.is_floating_point():
            found = repr(w)[:80] if isinstance(w, Tensor) else type(w).__name__
            raise PartError(f"{who}: the initial weight {name!r} must be a tensor of real numbers, not {found}")
        if not w.isfinite().all():
            raise PartError(f"{who}: the initial weight {name!r} has values that are infinite or NaN")
    if not weights:
        raise PartError(f"{who} has no weights, so there is nothing to train")
    return {name: w.detach().to(device) for name, w in weights.items()}


def gradient(learner: Learner, loss: Tensor, by: Sequence[Tensor], *, graph: bool = False) -> tuple[Tensor, ...]:
    """The gradient of one of the learner's losses by its weights.

    Raises:
        PartError: The loss does not depend on all of them, or the task's functions cannot be differentiated.
    """
    try:
        return torch.autograd.grad(loss, by, create_graph=graph)
    except RuntimeError as error:
        words = str(error).partition("\n")[0]
        raise PartError(f"{_who(learner)}: its loss cannot be differentiated by all of its weights: {words}") from error


def _who(learner: Learner) -> str:
    return f"the learner {type(learner).__name__} with {type(learner.task).__name__}"


def _check_tensor(learner: Learner, name: str, value: Any) -> None:
    if not isinstance(value, Tensor) or value.dtype.is_complex:
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise PartError(f"{type(learner.task).__name__}.{name} must be a tensor of real numbers, not {found}")
