"""The settings of a run: composed by Hydra, completed from the classes, checked, compared; and the objects they mean.

Two kinds of settings: what decides a run's numbers is its identity (`env`, `optimizer`, `budget`, `study`, `seed`);
where it ran and how often it drew pictures is noted beside it, and may be another when the run is resumed.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec

import gymnasium
import hydra
import yaml
from gymnasium.envs.registration import load_env_creator
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hgenv.accounting import PRICED, Budget, BudgetError
from hgenv.datasets.photos import DataError
from hgenv.decision import DecisionError, DecisionSpace
from hgenv.env import DataGenEnv
from hgenv.optimizers import Optimizer
from hgenv.probing import WorkerError
from hgenv.problem import PartError, RenderError
from hgenv.samples import SamplesError

from . import defaults, records
from .defaults import TARGET, Parameter, SettingError
from .mistakes import explained, no_setting
from .records import RecordError

IDENTITY = ("env", "optimizer", "budget", "study", "seed")
WHERE = ("device", "threads", "prober", "cuda_graphs", "picture_updates")
# What code passes to the objects, so that it is no setting of theirs.
PRIVATE = {"env": ("render_mode", "device", "threads", "prober", "cuda_graphs"), "optimizer": ("space", "seed")}
# Groups that YAML files put into others by interpolation.
PARTS = ("network", "renderer")
# What a setting on the command line can begin with.
NAMES = (*IDENTITY, *WHERE, *PARTS, "prices", "experiment", "root", "checkpoint_seconds")

P = ParamSpec("P")
LARGEST = 100_000  # entries of a YAML file, references counted as often as they occur
_BELOW = re.compile(r"(env|optimizer|network|renderer|prober|prices)\.[^=]+=")


class RunError(RuntimeError):
    """A run that cannot be made as asked, or not go on. The message says why, and the cure."""


class Interrupted(RunError):
    """What was stopped from outside: nothing is wrong with it, and the same command goes on.

    Args:
        words: What became of it.
        number: Of the signal.
    """

    def __init__(self, words: str, number: int = signal.SIGINT) -> None:
        super().__init__(words)
        self.status = 128 + number  # as a shell says it of a program that a signal has ended


# What a user can cause: shown without a traceback.
USER_ERRORS = (
    RunError,
    SettingError,
    RecordError,
    WorkerError,
    BudgetError,
    DataError,
    DecisionError,
    RenderError,
    PartError,
    SamplesError,
    OSError,
    OmegaConfBaseException,
)


def plainly(main: Callable[P, int]) -> Callable[P, int]:
    """Have a command tell without a traceback what a user can cause, and end with the status that says so."""

    @functools.wraps(main)
    def command(*arguments: P.args, **keywords: P.kwargs) -> int:
        try:
            return main(*arguments, **keywords)
        except Interrupted as error:
            print(error, file=sys.stderr)
            return error.status
        except (HydraException, *USER_ERRORS) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return command


@dataclass(frozen=True)
class Settings:
    """What a run is to be.

    Attributes:
        identity: Everything that decides its numbers: plain values in nested dictionaries, complete.
        where: What is noted besides: `device`, `threads`, `prober`, `cuda_graphs`, `picture_updates`.
        root: Folder of all studies.
        checkpoint_seconds: Between two checkpoints.
    """

    identity: dict[str, Any]
    where: dict[str, Any]
    root: Path
    checkpoint_seconds: float

    def __repr__(self) -> str:
        return f"Settings({str(self.folder)!r}: {self.budget.amount:g} {self.budget.unit})"

    @property
    def folder(self) -> Path:
        """The run's own folder: `<root>/<study>/<environment>/<optimizer>/seed=<n>`."""
        identity = self.identity
        environment, optimizer = records.environment_label(identity), identity["optimizer"]["label"]
        return self.root / identity["study"] / environment / optimizer / f"seed={identity['seed']}"

    @property
    def record(self) -> dict[str, Any]:
        """What the run's folder says of it: the identity, its `schema`, and `where`."""
        return {"schema": records.SCHEMA, **self.identity, "where": self.where}

    @property
    def budget(self) -> Budget:
        """What the run may spend."""
        return Budget.of(self.identity["budget"])


# --- From the command line to settings -------------------------------------------------------------------------------


def override(argument: str) -> str:
    """A command-line argument as Hydra has to see it.

    Keys below `env.` and the like need no plus sign although no YAML file names them: what can be set is in the
    classes. Nor need paths such as `optimizer.initial=runs/.../seed=0` the quotes that Hydra's grammar asks for.
    """
    if re.fullmatch(r"(env|optimizer|budget)=[\d.]+", argument):
        key = argument.partition("=")[0]
        cure = ", or budget.amount=<number> and budget.unit=<unit>" if key == "budget" else ""
        raise SettingError(f"{argument}: {key} is one of the names in configs/{key}{cure}")
    if not _BELOW.match(argument):
        return argument
    key, _, value = argument.partition("=")
    if "=" in value and not set(value) & set("'\"[]{}()"):
        value = ",".join(f"'{part}'" for part in value.split(","))
    return f"++{key}={value}"


def compose(overrides: Sequence[str], config_dir: str | Path | None = None) -> Settings:
    """The settings that a list of Hydra overrides stands for.

    Args:
        overrides: As on the command line of `hgenv run`.
        config_dir: A folder with more YAML files, as `--config-dir` gives it.

    Raises:
        SettingError: A name is unknown; the message lists the choices. And see `complete`.
        BudgetError: There is no such budget.
    """
    return settings(composed(overrides, config_dir))


def composed(overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """What Hydra makes of them: the same, not yet complete.

    Raises:
        SettingError: A name is unknown, has several values, or would change nothing.
    """
    arguments = [override(o) for o in overrides]
    if config_dir is not None:
        arguments = with_folder(arguments, config_dir)
    try:
        with hydra.initialize_config_module("hgenv.configs", version_base="1.3"):
            found = hydra.compose("config", arguments)
    except HydraException as error:
        raise SettingError(explained(error, NAMES)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingError(f"these settings are no YAML that Hydra takes: {_line(error)}") from error
    _check_parts(overrides, found)
    unit = OmegaConf.select(found, "budget.unit")
    if unit != PRICED and (priced := [word for word in overrides if re.match(r"\+*prices[=.]", word)]):
        raise SettingError(
            f"{priced[0].lstrip('+')} would change nothing: the budget is in {unit}; budget.unit={PRICED} has prices"
        )
    return found


def _check_parts(overrides: Sequence[str], config: DictConfig) -> None:
    """Make sure that what is said of a part is said of one that there is.

    Raises:
        SettingError: The environment has no such part.
    """
    asked = [(word, part) for word in overrides for part in PARTS if re.match(rf"\+*{part}[=.]", word)]
    if not asked or not isinstance(config.get("env"), DictConfig):
        return
    raw: Any = OmegaConf.to_container(_with_parts(config))

    def named(part: str, where: Any) -> bool:
        return re.search(rf"\$\{{[^}}]*\b{part}\b", str(where)) is not None

    used = {part for part in PARTS if named(part, {key: raw[key] for key in raw if key not in PARTS})}
    used |= {
        part for part in PARTS if named(part, [raw.get(other) for other in used])
    }  # renderers ask a network's size
    for word, part in asked:
        if part not in used:
            label = raw["env"].get("label")
            raise SettingError(f"{word.lstrip('+')} would change nothing: the environment {label} has no {part}")


def with_folder(arguments: Sequence[str], config_dir: str | Path) -> list[str]:
    """Overrides that also say where a folder with more YAML files is.

    Raises:
        RunError: There is no such folder.
    """
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise RunError(f"--config-dir: {folder} is no folder")
    check_files(folder)
    rest, paths = [], [f"file://{folder}"]
    for argument in arguments:
        if argument.startswith("hydra.searchpath="):
            paths = [*OmegaConf.from_dotlist([argument]).hydra.searchpath, *paths]
        else:
            rest.append(argument)
    return [*rest, "hydra.searchpath=[" + ",".join(f"'{path}'" for path in paths) + "]"]


def check_files(folder: Path) -> None:
    """Make sure that no YAML file in a folder is much larger than it looks.

    Raises:
        SettingError: One is no YAML, or its references stand for more than anybody would write.
    """
    for path in folder.rglob("*.yaml"):
        _check_size(path)


def _check_size(path: Path) -> None:
    """See `check_files`.

    Raises:
        SettingError: It is no YAML, or its references stand for more than anybody would write.
    """
    sizes: dict[int, int] = {}  # of each node, once: a reference is the node that it refers to

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = LARGEST  # a node within itself
            below = node.value if isinstance(node.value, list) else []
            parts = [part for entry in below for part in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    try:
        root = yaml.compose(path.read_text(), yaml.SafeLoader)
        count = 0 if root is None else size(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingError(f"{path}: no YAML: {_line(error)}") from error
    if count >= LARGEST:
        raise SettingError(f"{path}: its references (&, *) make it larger than {LARGEST} entries; write fewer")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def settings(config: DictConfig) -> Settings:
    """The complete settings in a config that Hydra has composed.

    Raises:
        SettingError: A value makes no sense, or there is no such setting; the message names it.
        BudgetError: There is no such budget.
    """
    there = list(config)  # also those without a value
    missing = [name for name in (*IDENTITY, *WHERE, "root", "checkpoint_seconds") if name not in there]
    if missing:
        raise SettingError(f"the setting {missing[0]!r} is missing: give it a value instead of taking it away")
    for name in ("env", "optimizer"):
        if not isinstance(config[name], DictConfig):
            raise SettingError(f"{name} must be one of the files in configs/{name}, not {config[name]!r}")
    given: Any = OmegaConf.to_container(_with_parts(config), resolve=True, throw_on_missing=True)
    if isinstance(given["budget"], dict) and given["budget"].get("unit") == PRICED and "prices" in given:
        given["budget"] = {"prices": given["prices"]} | given["budget"]
    unknown = [name for name in given if name not in NAMES or name == "experiment"]
    if unknown:
        raise SettingError(no_setting(unknown[0], NAMES))
    if not isinstance(given["root"], str) or not given["root"]:
        raise SettingError(f"root must be a folder, not {given['root']!r}")
    optimizer = {**given["optimizer"]}
    if "initial" in optimizer:
        optimizer["initial"] = _initial(optimizer["initial"])
    given["optimizer"] = optimizer
    for node, key in ((given, "study"), (given["env"], "label"), (given["optimizer"], "label")):
        if type(node.get(key)) is int:
            node[key] = str(node[key])  # study=2024: YAML makes numbers of names
    identity = complete({name: given[name] for name in IDENTITY})
    where = {name: given[name] for name in WHERE}
    if where["prober"] is not None:
        where["prober"] = _object(where["prober"], "prober")
    found = Settings(identity, where, Path(given["root"]), given["checkpoint_seconds"])
    check(found)
    return found


def _with_parts(config: DictConfig) -> DictConfig:
    """The config, where settings of a part that were changed through `env` are changed in the part itself.

    `env.network.units=relu` takes the place of the interpolation `network: ${network}`; what that stood for is lost. So
    a `network` without `_target_` in `env` stands for a change of the group's choice, wherever else that is used.
    """
    raw: Any = OmegaConf.to_container(config)

    def put_back(node: dict[str, Any]) -> None:
        for key, value in node.items():
            if not isinstance(value, dict):
                continue
            if key in PARTS and TARGET not in value:
                raw[key] = OmegaConf.to_container(OmegaConf.merge(raw[key], value))
                node[key] = f"${{{key}}}"
            else:
                put_back(value)

    put_back(raw["env"])
    return OmegaConf.create(raw)


def _initial(initial: Any) -> Any:
    """Where an optimizer starts: if that is a run's folder, the numbers of its last recommendation."""
    if not isinstance(initial, str) or initial.startswith("random:"):
        return initial
    try:
        return records.read(Path(initial)).counted[-1]["recommendation"]
    except RecordError as error:
        raise SettingError(
            f"optimizer.initial must be null, a list of numbers, random:<n>, or the folder of a run: {error}"
        ) from error


def check(found: Settings) -> None:
    """Look at the values that no one else looks at."""
    for key, value, least in (
        ("seed", found.identity["seed"], 0),
        ("threads", found.where["threads"], 1),
        ("picture_updates", found.where["picture_updates"], 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SettingError(f"{key} must be a whole number of at least {least}, not {value!r}")
    if not isinstance(found.where["cuda_graphs"], bool):
        raise SettingError(f"cuda_graphs must be true or false, not {found.where['cuda_graphs']!r}")
    seconds: Any = found.checkpoint_seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise SettingError(f"checkpoint_seconds must be a finite number of at least 0, not {seconds!r}")
    for key, name in (
        ("study", found.identity["study"]),
        ("env.label", found.identity["env"]["label"]),
        ("optimizer.label", found.identity["optimizer"]["label"]),
    ):
        if fault := records.name_fault(name):
            raise SettingError(f"{key} must be a name for a folder, not {name!r}: {fault}")
    Budget.of(found.identity["budget"])


# --- Completion and identity -----------------------------------------------------------------------------------------


def complete(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A run's identity with every setting that its environment, its optimizer and their parts have.

    Raises:
        SettingError: There is no such environment or class, it has no such setting, or a value makes no sense.
    """
    return {**identity, "env": _environment(identity["env"]), "optimizer": _optimizer(identity["optimizer"])}


def differs(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What in a complete identity is no default. `complete` makes the rest of it again."""
    env, optimizer = identity["env"], identity["optimizer"]
    known = env_parameters(env["id"])[0]
    own, _ = defaults.parameters(defaults.find(optimizer[TARGET], "optimizer"), PRIVATE["optimizer"])
    names = {TARGET: optimizer[TARGET], "label": optimizer["label"]}
    return {
        **identity,
        "env": {"id": env["id"], "label": env["label"]} | defaults.differing(known, _without(env, "id", "label")),
        "optimizer": names | defaults.differing(own, _without(optimizer, TARGET, "label")),
    }


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What keeps a recorded run from being the run that the `current`, complete identity stands for.

    Nothing does if every recorded setting has its value now, and every setting that came after the record has its
    default. Where it ran is no matter.

    Returns:
        `key: value there, value now`, one for each difference.
    """
    recorded = {name: recorded[name] for name in IDENTITY if name in recorded}
    # A setting or a class that is no longer there is one of the differences. So is one that has not been imported for
    # `current`: a record may be a stranger's, and may name any module.
    if all(defaults.familiar(name) for name in _names(recorded)):
        with suppress(SettingError, KeyError, TypeError, AttributeError, ValueError):
            recorded = complete(recorded)
    return defaults.differences(recorded, current)


def _names(node: Any) -> Iterator[str]:
    """The names of all modules and classes that settings would import."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == TARGET:
                yield str(value)
            elif key == "id" and ":" in str(value):
                yield str(value).rpartition(":")[0]
            else:
                yield from _names(value)
    elif isinstance(node, list):
        for value in node:
            yield from _names(value)


def ended(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the run of these settings ended; None if there is something to do: it has not, or has a larger budget now.

    Raises:
        RecordError: What is in the folder belongs to another run; the message says what differs.
    """
    if not (folder / records.CONFIG).is_file():
        if (folder / records.ROWS).exists():
            raise RecordError(f"{folder}: there are rows, but no {records.CONFIG}; restore it, or delete the folder")
        return None
    recorded = records.read_config(folder)
    before, now = recorded["budget"], identity["budget"]
    larger = before["amount"] < now["amount"] and {**before, "amount": 0} == {**now, "amount": 0}
    found = differences({**recorded, "budget": now} if larger else recorded, identity)
    if found:
        raise RecordError(
            f"{folder}: was made by another configuration; what differs (there, now):\n  "
            + "\n  ".join(found)
            + (
                "\na run can be given more of the same unit, but neither less nor another unit or price"
                * (before != now)
            )
            + "\nuse another study (study=<name>) or delete the folder"
        )
    return None if larger else records.read_done(folder)


def env_parameters(identifier: str) -> tuple[dict[str, Parameter], bool]:
    """What an environment lets one set, and whether it takes any other key besides.

    Raises:
        SettingError: There is no such environment.
    """
    entry, registered = _entry_point(identifier)
    known, others = defaults.parameters(entry, PRIVATE["env"])
    for name, value in registered.items():
        if name in known:
            known[name] = replace(known[name], default=defaults.plain(value), required=False)
    return known, others


def _entry_point(identifier: Any) -> tuple[defaults.Target, dict[str, Any]]:
    """What makes an environment, and the arguments that it was registered with."""
    module, colon, name = str(identifier).rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        spec = gymnasium.spec(name)
        assert spec.entry_point is not None
        entry = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    except Exception as error:  # importing a module can raise anything
        raise SettingError(f"env.id: there is no environment {identifier!r}: {error}") from error
    return entry, dict(spec.kwargs)


def _environment(node: Any) -> dict[str, Any]:
    names = _named(node, "env", "id")
    known, others = env_parameters(node["id"])
    return names | defaults.fill(known, _without(node, "id", "label"), "env", node["id"], others=others)


def _optimizer(node: Any) -> dict[str, Any]:
    names = _named(node, "optimizer", TARGET)
    return names | defaults.complete(_without(node, "label"), "optimizer", PRIVATE["optimizer"])


def _object(node: Any, where: str) -> dict[str, Any]:
    if not isinstance(node, Mapping) or TARGET not in node:
        raise SettingError(f"{where} needs {TARGET}=<module>.<class>, not {node!r}")
    return defaults.complete(node, where)


def _named(node: Any, where: str, kind: str) -> dict[str, Any]:
    for key in (kind, "label"):
        if not isinstance(node, Mapping) or key not in node:
            raise SettingError(f"{where} needs {key!r}; choose one of the files in configs/{where}, or write one")
    return {kind: node[kind], "label": node["label"]}


def _without(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}


# --- Objects ---------------------------------------------------------------------------------------------------------


def is_ours(record: Mapping[str, Any]) -> bool:
    """Whether everything that makes a run's environment is a part of hgenv: its id, and every class that it names.

    Not just anything of hgenv: a class may start processes, or write files.
    """
    env = record["env"]
    try:
        if ":" in env["id"] or not str(gymnasium.spec(env["id"]).entry_point).startswith("hgenv."):
            return False
        names = list(_names([env, record.get("where")]))
        if not all(map(defaults.is_part, names)):
            return False
        found = [defaults.find(name, "env") for name in names]
    except (gymnasium.error.Error, SettingError):
        return False
    return all(isinstance(kind, type) and defaults.is_part(f"{kind.__module__}.{kind.__name__}") for kind in found)


def make_environment(record: Mapping[str, Any]) -> DataGenEnv:
    """The environment of a run.

    Args:
        record: What the run's folder says of it; of that, `env`, and what `where` says of how it works.

    Raises:
        RunError: It cannot be made so; the message says why.
    """
    env, where = record["env"], record.get("where", {})
    taken, _ = defaults.parameters(_entry_point(env["id"])[0])
    # "auto" and None leave the choice to the environment.
    code = {
        key: where.get(key)
        for key in ("device", "threads", "prober", "cuda_graphs")
        if key in taken and where.get(key) not in (None, "auto")
    }
    kwargs = _without(env, "id", "label") | code
    try:
        arguments = instantiate(kwargs, _convert_="all")
        made = gymnasium.make(env["id"], disable_env_checker=True, **arguments).unwrapped
    except InstantiationException as error:
        raise RunError(f"the environment {env['id']} cannot be made: {error.__cause__ or error}") from error
    except (gymnasium.error.Error, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RunError(f"the environment {env['id']} cannot be made: {error}") from error
    if not isinstance(made, DataGenEnv):
        raise RunError(f"the environment {env['id']} is no {DataGenEnv.__module__}.{DataGenEnv.__name__}")
    return made


def make_optimizer(record: Mapping[str, Any], space: DecisionSpace) -> Optimizer:
    """The optimizer of a run.

    Args:
        record: What the run's folder says of it; of that, `optimizer` and `seed`.
        space: What it is to decide.

    Raises:
        RunError: It cannot be made so; the message says why.
    """
    optimizer = record["optimizer"]
    name, initial = optimizer["label"], optimizer.get("initial")
    if isinstance(initial, list) and len(initial) != space.dimension:
        raise RunError(
            f"optimizer.initial has {len(initial)} numbers, but beta has {space.dimension}; it must be of the same "
            "environment"
        )
    try:
        made = instantiate(_without(optimizer, "label"), space, seed=record["seed"], _convert_="all")
    except InstantiationException as error:
        raise RunError(f"the optimizer {name} cannot be made: {error.__cause__ or error}") from error
    if not isinstance(made, Optimizer):
        raise RunError(f"the optimizer {name} is no {Optimizer.__module__}.{Optimizer.__name__}")
    return made
