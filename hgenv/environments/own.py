"""An environment of parts of one's own, each said in a few plain words: what `hgenv tune` reads from a file.

Importing this module registers `hgenv/Own-v0`. It is not registered otherwise, and so no folder of runs, which may be a
stranger's, can have it name code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import gymnasium
from torch import nn

from ..datasets import Folder
from ..device import own_modes
from ..distributions import read_parameters
from ..env import DataGenEnv, Options
from ..generators import BlackBox
from ..learning import Learner, ModuleLearner
from ..learning.rules import SGD, Rule
from ..named import NamedError, look_up, said
from ..problem import Data, Generator, PartError
from ..samples import Samples
from ..tasks import (
    ClassificationTask,
    DepthTask,
    KeypointTask,
    NormalsTask,
    RegressionTask,
    SegmentationTask,
    Task,
)

NAME = "hgenv/Own-v0"
ID = f"{__name__}:{NAME}"  # importing this module registers it

LAYOUTS: dict[str, Callable[..., Folder]] = {
    "classes": Folder.of_classes,
    "pairs": Folder.of_pairs,
    "keypoints": Folder.of_keypoints,
}
TASKS: dict[str, Callable[..., Task]] = {
    "classification": ClassificationTask,
    "segmentation": SegmentationTask,
    "keypoints": KeypointTask,
    "regression": RegressionTask,
    "normals": NormalsTask,
    "depth": DepthTask,
}
NAMED = ("classification", "segmentation", "keypoints")  # tasks of names, which the data have

Said = str | Mapping[str, Any]


class OwnEnv(DataGenEnv):
    """A generator, a network and photos of one's own.

    Each part is the thing itself; or a name, "my_module:thing", of it or of a class or function that makes it without
    arguments; or a few words:

    | part | words | what they make |
    | --- | --- | --- |
    | generator | `function` ("my_module:render") or `command` (a list), `parameters` (a file, or what would stand in it), and other arguments of `BlackBox` | a `BlackBox` of the data's kind of samples |
    | learner | `network` ("my_module:network": a module, a class, or a function of the seed), `task`, and other arguments of `ModuleLearner` | a `ModuleLearner` |
    | task | "classification", "segmentation", "keypoints", "regression", "normals" or "depth"; with arguments, `{kind: regression, low: 0, high: 10}`; by default what the data's layout is for | a task of the data's names |
    | data | `layout` ("classes", "pairs" or "keypoints"), and arguments of that layout in `hgenv.datasets.Folder` | a `Folder` |

    A name of data leads to a `Folder`, or to a pair of data: to validate on, and to test on.

    Args:
        generator: See above.
        learner: See above.
        data: See above.
        rule: How the network is trained.
        options: See `DataGenEnv`.

    Raises:
        NamedError: A name leads nowhere, or to something else; or the words make no sense.
    """  # noqa: E501 # a table's rows have no line breaks

    def __init__(
        self,
        *,
        generator: Said | Generator,
        learner: Said | Learner,
        data: Any,
        rule: Rule = SGD(0.05, momentum=0.9),
        **options: Unpack[Options],
    ) -> None:
        held = make_data(data)
        kind = type(held.validation.samples)
        super().__init__(
            make_generator(generator, kind),
            make_learner(learner, held),
            held.validation,
            held.test,
            rule=rule,
            **options,
        )


@dataclass(frozen=True)
class HeldOut:
    """Data to validate and to test on, and the names that they have for classes or points; none if they have none."""

    validation: Data
    test: Data
    names: tuple[str, ...] = ()


def make_data(given: Any) -> HeldOut:
    """Held-out data, of what `OwnEnv` is given.

    Raises:
        NamedError: See `OwnEnv`.
    """
    found: Any = given
    if isinstance(given, Mapping):
        layout, rest = _kind(given, "data", "layout", LAYOUTS)
        found = _called(LAYOUTS[layout], rest, f"data of the layout {layout}", "layout")
    elif isinstance(given, str):
        found = _made(given, "data", lambda x: isinstance(x, Folder | tuple | list))
    if isinstance(found, Folder):
        return HeldOut(found.validation, found.test, found.names)
    if isinstance(found, tuple | list) and len(found) == 2 and all(hasattr(x, "samples") for x in found):
        return HeldOut(found[0], found[1])
    raise NamedError(
        f"data: {given!r} must lead to a hgenv.datasets.Folder, or to two hgenv.SampleData, to validate and to test "
        f"on, not to {type(found).__name__}"
    )


def make_generator(given: Any, kind: type[Samples]) -> Generator:
    """A generator, of what `OwnEnv` is given.

    Args:
        given: See there.
        kind: Of the samples that a renderer makes.

    Raises:
        NamedError: See `OwnEnv`.
    """
    found: Any = given
    if isinstance(given, Mapping):
        rest = dict(given)
        function, command = rest.pop("function", None), rest.pop("command", None)
        if (function is None) == (command is None):
            raise NamedError("generator: write either function: my_module:render, or command: [program, arguments]")
        render = command if function is None else look_up(function)
        if isinstance(rest.get("samples"), str):
            rest["samples"] = look_up(rest["samples"])
        if isinstance(rest.get("parameters"), Mapping):
            try:
                rest["parameters"] = read_parameters(rest["parameters"])
            except ValueError as error:
                raise NamedError(f"generator: parameters: {error}") from None
        found = _called(BlackBox, {"samples": kind} | rest, "generator", "function or command", render)
    elif isinstance(given, str):
        found = _made(given, "generator", lambda x: not isinstance(x, type) and hasattr(x, "space") and callable(x))
    if not hasattr(found, "space") or not callable(found):
        raise NamedError(f"generator: {given!r} is no generator (space, and a call), but {type(found).__name__}")
    return found


def make_learner(given: Any, held: HeldOut) -> Learner:
    """A learner, of what `OwnEnv` is given.

    Raises:
        NamedError: See `OwnEnv`.
    """
    found: Any = given
    if isinstance(given, Mapping):
        rest = dict(given)
        if "network" not in rest:
            raise NamedError(f"learner: needs network: my_module:network; it has {', '.join(map(str, rest)) or 'none'}")
        module = look_up(rest.pop("network"))
        if isinstance(module, type) and issubclass(module, nn.Module):
            module = _Seedless(module)
        task, samples = make_task(rest.pop("task", None), held), held.validation.samples
        try:
            found = _called(ModuleLearner, rest, "learner", "network", module, task, samples)
        except NamedError:
            raise
        except PartError as error:
            grey = "; data of a layout are grey with channels: 1" if isinstance(error.__cause__, RuntimeError) else ""
            raise PartError(f"{error} (it was tried on photos, {samples}{grey})") from error
    elif isinstance(given, str):
        found = _made(given, "learner", lambda x: not isinstance(x, type) and hasattr(x, "initial_weights"))
    if not hasattr(found, "initial_weights"):
        raise NamedError(
            f"learner: {given!r} is no learner, but {type(found).__name__}; of a torch module make one: "
            "{network: my_module:network}"
        )
    return found


def make_task(given: Any, held: HeldOut) -> Task:
    """A task, of what `OwnEnv` is given; None for what the data are for.

    Raises:
        NamedError: See `OwnEnv`.
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, str) and ":" in given:
        found = _made(given, "task", lambda x: isinstance(x, Task))
        if not isinstance(found, Task):
            raise NamedError(f"learner: task: {given!r} is no hgenv.Task, but {type(found).__name__}")
        return found
    if given is None:
        given = _usual_task(held)
    kind, rest = _kind({"kind": given} if isinstance(given, str) else given, "learner: task", "kind", TASKS)
    first = (held.names,) if kind in NAMED and held.names and not {"classes", "points"} & set(rest) else ()
    return _called(TASKS[kind], rest, f"learner: task {kind}", "kind", *first)


def _usual_task(held: HeldOut) -> str:
    """What a layout's samples are for.

    Raises:
        NamedError: Nobody can tell.
    """
    samples: Any = held.validation.samples
    if held.names and hasattr(samples, "label"):
        return "classification" if samples.label.dim() == 1 else "segmentation"
    if held.names and hasattr(samples, "point"):
        return "keypoints"
    raise NamedError(f"learner: needs task: one of {', '.join(TASKS)}, or my_module:task")


class _Seedless:
    """A network's class as a function of the seed."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind

    def __call__(self, seed: int) -> nn.Module:
        return self.kind()


def _kind(given: Any, where: str, key: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Which of the known kinds it is, and the arguments besides.

    Raises:
        NamedError: None of these.
    """
    rest = dict(given) if isinstance(given, Mapping) else {}
    kind = rest.pop(key, None)
    if kind not in known:
        raise NamedError(
            f"{where}: needs {key}: one of {', '.join(known)}, not {(kind if isinstance(given, Mapping) else given)!r}"
        )
    return str(kind), rest


def _made(name: str, where: str, is_one: Callable[[Any], bool]) -> Any:
    """What a name leads to, or what the class or function of that name makes.

    Raises:
        NamedError: It cannot be called, or fails.
    """
    found = look_up(name)
    if is_one(found) or not callable(found):
        return found
    try:
        with own_modes():
            return found()
    except (Exception, SystemExit) as error:  # whatever somebody's code does
        raise NamedError(f"{where}: calling {name} without arguments failed: {said(error)}") from error


def _called(make: Callable[..., Any], arguments: Mapping[str, Any], where: str, own: str, *first: Any) -> Any:
    """What is made with arguments by name.

    Raises:
        NamedError: There is no such argument, one is missing, or one makes no sense.
    """
    signature = inspect.signature(make)
    known = list(signature.parameters)[len(first) :]
    unknown = [str(name) for name in arguments if name not in known]
    if unknown:
        raise NamedError(f"{where}: there is no {unknown[0]!r}; it has {', '.join([own, *known])}")
    try:
        signature.bind(*first, **arguments)
    except TypeError as error:
        raise NamedError(f"{where}: {error}; it has {', '.join([own, *known])}") from None
    try:
        return make(*first, **arguments)
    except (TypeError, ValueError) as error:
        raise NamedError(f"{where}: {error}") from error


if NAME not in gymnasium.registry:
    gymnasium.register(id=NAME, entry_point=OwnEnv)
