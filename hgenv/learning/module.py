"""Any `torch.nn.Module` as a learner."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy

from hgenv.datasets.folder import DataError
from hgenv.device import own_modes
from hgenv.problem import PartError, part
from hgenv.samples import Samples
from hgenv.tasks.task import Task

from .flops import flops_of
from .learner import Work, training_loss
from .rules import SGD, Weights
from .unroll import adjoint_step, train

ALONE = 1e-2  # how far a sample's loss alone may be from that in a batch, as a fraction: rounding is far below
KEYS = ("state_dict", "model")  # what training scripts keep the weights under, in a checkpoint with other things
SHOWN = 3  # names in a message


class ModuleLearner:
    """A `torch.nn.Module` with a task; implements `hgenv.learning.learner.Learner`.

    The module is a structure here, and never changed: a copy of it is called with weights that live elsewhere, by
    `torch.func.functional_call`. Training steps are computed again when they are differentiated, with the samples moved
    and one by one. So the module must be a function of its weights and of each sample alone:

    - **BatchNorm** in training mode ties the samples of a batch together, so that no sample has an influence of its
      own, and it would count each step again that is computed again. It is refused. `module.eval()` keeps the
      statistics of a pre-trained network fixed. For training from scratch, `with_group_norm` puts GroupNorm in its
      place.
    - **Dropout** is refused too. `module.eval()` turns it off.
    - **Frozen** parameters (`requires_grad` is False) stay fixed and are no weights, and so do buffers, whole numbers,
      and parameters that the loss does not depend on. A tied weight is one weight.

    Influence and scores need first derivatives, and so work for any network. `sample_gradient(curvature=True)` needs
    second ones, and says so where a layer has none.

    Args:
        module: The network, in the modes in which it is to work. Its parameters are the initial weights, whatever the
            seed. Or a function that makes it from a seed: it may draw from torch's global generator, which is seeded
            for it and put back; what is fixed is then that of seed 0.
        task: Losses and metrics of what the module puts out.
        example: Some samples as it will see them, such as the validation data's. At least two, so that the learner can
            find out whether they are independent. One of them is what operations are counted on.
        inputs: The fields of the samples that the module is called with.
        checkpoint: A file that `torch.save` made of the module's `state_dict`, for fine-tuning; the seed then has no
            effect.

    Raises:
        PartError: The module cannot be a learner; the message says why, and what to replace by what.
        DataError: The checkpoint is missing, damaged or of another network.
        SamplesError: The example is none of this task.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[int], nn.Module],
        task: Task,
        example: Samples,
        *,
        inputs: Sequence[str] = ("image",),
        checkpoint: Path | str | None = None,
    ) -> None:
        self.task, self.inputs = task, tuple(inputs)
        task.check(example, "the example")
        if missing := [name for name in self.inputs if name not in example.names]:
            raise PartError(f"inputs: the example has no field {missing[0]!r}; it has {', '.join(example.names)}")
        self._example = example[:2].map(lambda x: x.detach().to("cpu", copy=True))
        self._make = module if not isinstance(module, nn.Module) and checkpoint is None else None
        if isinstance(module, nn.Module):
            with part(f"a copy of the module {type(module).__name__}"):
                self.module = copy.deepcopy(module)
        else:
            self.module = _made(module, 0)
        self._who = f"the module {type(self.module).__name__}"
        _check_parts(self._who, self.module)
        if checkpoint is not None:
            _load(self.module, Path(checkpoint))
        self.module.to("cpu")
        _check_norms(self._who, self.module)
        self._copies = False  # of what goes in, for a module that writes into it
        self._names = tuple(name for name, p in self.module.named_parameters() if p.requires_grad)
        self._elsewhere: dict[tuple[torch.device, torch.dtype], Weights] = {}
        self._flops: dict[str, int] = {}
        with own_modes(), part(self._who):
            self._examine()

    def initial_weights(self, seed: int) -> Weights:
        """The module's own parameters, or those that the function makes of the seed.

        Raises:
            PartError: The function makes another network of this seed.
        """
        module = self.module if self._make is None else _made(self._make, seed)
        own = dict(module.named_parameters())
        shapes = {name: p.shape for name, p in self.module.named_parameters()}
        if shapes != {name: p.shape for name, p in own.items()}:
            raise PartError(
                f"{self._who}: seed {seed} makes other parameters than seed 0; only their values may differ"
            )
        return {name: own[name].detach().to("cpu", copy=True) for name in self._names}

    def output(self, weights: Weights, samples: Any) -> Any:
        """What the module says about the samples' inputs."""
        like = next(iter(weights.values()))
        given = [self._input(getattr(samples, name), like.dtype) for name in self.inputs]
        return self._call({**self._fixed(like.device, like.dtype), **weights}, given)

    def flops(self, kind: Work, samples: int) -> int:
        """Floating-point operations of one training step, adjoint step or validation pass, see `flops_of`.

        Counted on one sample, when they are first asked for.

        Raises:
            PartError: Those of an adjoint step, for a module that cannot be differentiated twice.
        """
        if kind not in self._flops:
            with own_modes():
                self._flops[kind] = self._count(kind)
        return samples * self._flops[kind]

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which may have no GPU."""
        return self.__dict__ | {"_elsewhere": {}}

    def _count(self, kind: Work) -> int:
        weights, sample = self.initial_weights(0), self._example[:1]
        rule = SGD(learning_rate=1.0)
        state = rule.start(weights)
        work: dict[str, Callable[[], object]] = {
            "train": lambda: train(self, rule, state, [sample]),
            "gradient": lambda: adjoint_step(self, rule, state, sample, state),
            # With a graph: without one, transformers take a kernel that PyTorch has no formula for.
            "validate": lambda: self.output(_leaves(weights), sample),
        }
        # A network without convolutions and products is not free.
        return max(1, flops_of(work[kind]))

    def _call(self, tensors: Weights, given: list[Tensor]) -> Any:
        # Attention's own kernels have no second derivatives, and on a CPU no formula to be counted by.
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return functional_call(self.module, tensors, tuple(given))
        except RuntimeError as error:
            shapes = {name: tuple(x.shape[1:]) for name, x in zip(self.inputs, given, strict=True)}
            usual = {name: tuple(getattr(self._example, name).shape[1:]) for name in self.inputs}
            if shapes == usual:
                raise
            words = str(error).partition("\n")[0]
            raise PartError(f"{self._who} was given {shapes}, and its example is {usual}: {words}") from error

    def _input(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = x.to(dtype) if x.is_floating_point() else x
        return x.clone() if self._copies else x

    def _fixed(self, device: torch.device, dtype: torch.dtype) -> Weights:
        """What of the module is no weight, where the weights are; nothing if that is the module's own."""
        if device.type == "cpu" and dtype == self.dtype:
            return {}
        if (device, dtype) not in self._elsewhere:
            self._elsewhere[device, dtype] = {
                name: x.to(device, dtype if x.is_floating_point() else x.dtype) for name, x in self._own_fixed().items()
            }
        return self._elsewhere[device, dtype]

    def _own_fixed(self) -> Weights:
        parameters = {name: p.detach() for name, p in self.module.named_parameters() if name not in self._names}
        return parameters | dict(self.module.named_buffers())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.module.get_parameter(self._names[0]).dtype

    def _examine(self) -> None:
        """See how the module behaves on the example.

        Raises:
            PartError: Not as a learner must.
        """
        if not self._names:
            raise PartError(f"{self._who}: all of its parameters are frozen; set requires_grad of those to be trained")
        weights, samples = self.initial_weights(0), self._example
        fixed = {name: x.clone() for name, x in self._own_fixed().items()}
        given = [self._input(getattr(samples, name), self.dtype).clone() for name in self.inputs]
        before = [x.clone() for x in given]
        random = torch.get_rng_state()
        try:
            self._call(fixed | weights, given)
            drew = not torch.equal(random, torch.get_rng_state())
        finally:
            torch.set_rng_state(random)
        if drew:
            raise PartError(
                f"{self._who} draws random numbers while it works, so that no training step can be computed again"
                f"{_training(self.module)}: call module.eval(), which turns dropout off, and train the rest as before"
            )
        own = self._own_fixed()
        if wrote := [name for name, x in fixed.items() if not torch.equal(x, own[name])]:
            raise PartError(
                f"{self._who} changes {_some(wrote)} while it works, which would count a step again when it is "
                "computed again: call module.eval(), or have it keep nothing"
            )
        self._copies = any(not torch.equal(x, y) for x, y in zip(given, before, strict=True))

        leaves = _leaves(weights)
        loss = training_loss(self, leaves, samples)
        if not loss.requires_grad:
            raise PartError(f"{self._who}: the output does not depend on the weights; look for detach() or no_grad()")
        # As PyTorch's optimizers, which leave alone what has no gradient.
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        self._names = tuple(name for name, g in zip(leaves, found, strict=True) if g is not None)
        weights = self.initial_weights(0)
        with torch.no_grad():
            together, again = (self.task.training_loss(self.output(weights, samples), samples) for _ in range(2))
            alone = torch.cat([self.task.training_loss(self.output(weights, s), s) for s in samples.split(1)])
        if not together.isfinite().all():
            raise PartError(f"{self._who}: the losses of the example are {_words(together)}; look at its input")
        if not torch.equal(together, again):
            raise PartError(f"{self._who}: two passes differ, so it draws random numbers or remembers something")
        if ((together - alone).abs() > ALONE * together.abs().max()).any():
            raise PartError(
                f"{self._who}: the loss of a sample depends on what else is in its batch ({_words(together)}, alone "
                f"{_words(alone)}): replace normalization over the batch by GroupNorm or LayerNorm"
            )


def with_group_norm(module: nn.Module, groups: int = 8) -> nn.Module:
    """A copy of a network with GroupNorm for each BatchNorm (Wu and He, "Group normalization", ECCV 2018).

    It is another function: for training from scratch, not for pre-trained weights.

    Args:
        module: The network.
        groups: Of channels that are normalized together; fewer where they do not divide the channels.

    Raises:
        ValueError: There is not at least one group.
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, not {groups}")

    def norm(old: nn.Module) -> nn.Module:
        if not isinstance(old, nn.modules.batchnorm._BatchNorm):
            return old
        new = nn.GroupNorm(math.gcd(groups, old.num_features), old.num_features, old.eps, old.affine)
        return new.to(old.weight) if old.affine else new

    changed = norm(copy.deepcopy(module))
    for parent in list(changed.modules()):
        for name, child in parent.named_children():
            setattr(parent, name, norm(child))
    return changed


def _made(make: Callable[[int], nn.Module], seed: int) -> nn.Module:
    """What a function makes of a seed, the global random state of torch being the seed's meanwhile."""
    if not callable(make):
        raise PartError(f"module must be a torch.nn.Module, or a function that makes one of a seed, not {make!r}")
    who = f"the function {getattr(make, '__name__', make)} that makes the module"
    with own_modes(), torch.random.fork_rng(devices=[]), part(who):
        torch.default_generator.manual_seed(seed)
        module = make(seed)
    if not isinstance(module, nn.Module):
        raise PartError(f"{who} gave {type(module).__name__}, not a torch.nn.Module")
    return module


def _load(module: nn.Module, path: Path) -> None:
    """Put a checkpoint's weights into a module.

    Raises:
        DataError: It has others, or none.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; name one that torch.save(module.state_dict(), file) wrote")
    try:
        # Nothing in the file is run.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises anything
        words = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: truncated or damaged, or no checkpoint of tensors ({words}); save module.state_dict()"
        ) from error
    for key in KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(x, Tensor) for x in found.values()):
        raise DataError(f"{path}: holds no dictionary of tensors; save module.state_dict()")
    own = module.state_dict()
    faults = [f"it lacks {_some(names)}"] if (names := [n for n in own if n not in found]) else []
    faults += [f"it has {_some(names)} besides"] if (names := [n for n in found if n not in own]) else []
    faults += [
        f"{name} is {tuple(found[name].shape)} there and {tuple(x.shape)} here"
        for name, x in own.items()
        if name in found and found[name].shape != x.shape
    ]
    if faults:
        raise DataError(
            f"{path}: of another network than {type(module).__name__}: {'; '.join(faults[:SHOWN])}; load what fits by "
            "module.load_state_dict(..., strict=False), and give the module without a checkpoint"
        )
    module.load_state_dict(found)


def _check_parts(who: str, module: nn.Module) -> None:
    """Make sure that the tensors of a module have values, and its weights a type that can be trained.

    Raises:
        PartError: They do not.
    """
    for name, x in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(x):
            raise PartError(f"{who}: {name!r} has no shape yet; call the module once on a batch")
        if x.is_meta:
            raise PartError(f"{who}: {name!r} is on the device 'meta' and has no values; make the module on the CPU")
        if x.requires_grad and x.dtype not in (torch.float32, torch.float64):
            raise PartError(
                f"{who}: {name!r} is {x.dtype}, which is too coarse for differences of losses, or is not real; call "
                "module.float()"
            )


def _check_norms(who: str, module: nn.Module) -> None:
    """Make sure that no layer normalizes over the batch.

    Raises:
        PartError: One does.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        what = f"{who}: {name or 'it'} is {type(layer).__name__}"
        cure = "hgenv.learning.with_group_norm(module) puts GroupNorm in its place, to train from scratch"
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            raise PartError(f"{what} without running statistics, which ties the samples of a batch together; {cure}")
        if layer.training:
            raise PartError(
                f"{what} in training mode, which ties the samples of a batch together and changes with each call. Call "
                f"module.eval() to keep the statistics of a pre-trained network; {cure}"
            )
        if not mean.any() and (variance == 1).all():
            raise PartError(f"{what} and has seen no data, so that it normalizes nothing; {cure}")


def _leaves(weights: Weights) -> Weights:
    return {name: w.detach().requires_grad_() for name, w in weights.items()}


def _training(module: nn.Module) -> str:
    """Which layers that draw random numbers do so, in brackets."""
    kinds = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)
    names = [name or type(x).__name__ for name, x in module.named_modules() if isinstance(x, kinds) and x.training]
    return f" ({_some(names)})" if names else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _words(losses: Tensor) -> str:
    return ", ".join(f"{x:.4g}" for x in losses.tolist())
