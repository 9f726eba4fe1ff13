"""Work of a GPU that is recorded once and played back: CUDA graphs.

A small network's training step is some thousand kernels. A GPU does one in microseconds, and a CPU takes longer to
launch it. A recording launches all of them at once.

Functions that are marked `recorded` are functions of tensors alone: what else they are given, they must not change, and
its tensors must stay the same. Random numbers are drawn elsewhere. Update rules stay outside, since their learning rate
falls from step to step.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from hgenv.samples import Samples

logger = logging.getLogger(__name__)

MOST = 64  # recordings that one object holds

P = ParamSpec("P")
R = TypeVar("R")


class Recordings:
    """What has been recorded, by function and by the forms of its tensors.

    The first call of a form is made as usual, since libraries load then; the second is recorded. What cannot be
    recorded, because it waits for the GPU or branches on values, is always made as usual.
    """

    def __init__(self) -> None:
        self._known: dict[Any, _Recording | None] = {}
        self._pool: Any = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Play back, and record, what is marked `recorded` inside."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def play(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What the function makes of its arguments."""
        tensors: list[Tensor] = []
        form = function, _flatten(arguments, tensors)
        if form not in self._known:
            if len(self._known) < MOST:
                self._known[form] = None
            return function(*arguments)
        recording = self._known[form]
        if recording is None:
            try:
                recording = self._record(function, arguments, tensors)
            except RuntimeError as error:
                logger.info("%s cannot be recorded: %s", function.__name__, str(error).partition("\n")[0])
                recording = _Recording(function, None, [], [], None)
            self._known[form] = recording
        return recording(arguments, tensors)

    def __getstate__(self) -> dict[str, Any]:
        """A copy records anew."""
        return {"_known": {}, "_pool": None}

    def _record(self, function: Callable[..., Any], arguments: tuple[Any, ...], tensors: list[Tensor]) -> _Recording:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        inputs = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
        given = _rebuilt(arguments, iter(inputs))
        stream, outside = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(outside)
        with torch.cuda.stream(stream):
            function(*given)
        outside.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may do what they like meanwhile; so may autograd's, which is one of them.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            result = function(*given)
        outputs: list[Tensor] = []
        _flatten(result, outputs)
        return _Recording(function, graph, inputs, outputs, result)


@dataclass(frozen=True, eq=False)
class _Recording:
    """A graph between tensors that stay where they are; without a graph, the function itself."""

    function: Callable[..., Any]
    graph: torch.cuda.CUDAGraph | None
    inputs: list[Tensor]
    outputs: list[Tensor]
    result: Any

    def __call__(self, arguments: tuple[Any, ...], tensors: list[Tensor]) -> Any:
        if self.graph is None:
            return self.function(*arguments)
        with torch.no_grad():
            torch._foreach_copy_(self.inputs, tensors)
            self.graph.replay()
            # Copies: the next playback writes into the same memory.
            found = [torch.empty_like(t) for t in self.outputs]
            torch._foreach_copy_(found, self.outputs)
        return _rebuilt(self.result, iter(found))


_current: ContextVar[Recordings | None] = ContextVar("recordings", default=None)


def recorded(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function whose work may be recorded, see the module. It takes no keyword arguments."""

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        recordings = _current.get()
        if recordings is None or keywords or torch._C._are_functorch_transforms_active():
            return function(*arguments, **keywords)
        return cast(R, recordings.play(function, arguments))

    return call


def _flatten(value: Any, tensors: list[Tensor]) -> Any:
    """The form of nested containers; their tensors are appended to a list, in order."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    if isinstance(value, dict):
        return dict, *((name, _flatten(part, tensors)) for name, part in value.items())
    if isinstance(value, tuple | list):
        return type(value), *(_flatten(part, tensors) for part in value)
    if isinstance(value, Samples):
        return type(value), *(_flatten(part, tensors) for part in value.tensors)
    return _Same(value)


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same containers around other tensors."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return {name: _rebuilt(part, tensors) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_rebuilt(part, tensors) for part in value)
    if isinstance(value, Samples):
        return value.with_tensors(_rebuilt(part, tensors) for part in value.tensors)
    return value


class _Same:
    """Anything else, as a part of a form: equal to itself alone, and kept alive by it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value
