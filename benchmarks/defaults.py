"""Settings made complete: what a YAML file or a command line leaves out is in the signatures of the classes.

A setting is a number, a text, true or false, nothing, a list, or a mapping. A mapping with `_target_` stands for an
object: of the class, or what else can be called, of that name, with the other keys as its arguments. A default that is
a dataclass stands in settings as such a mapping too.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

TARGET = "_target_"
# Packages of hgenv whose classes settings name.
PARTS = ("datasets", "generators", "learning", "optimizers", "probing", "rendering", "tasks")
Target = Callable[..., Any]


class SettingError(RuntimeError):
    """A setting that makes no sense. The message names it, and what could stand there."""


class _Missing:
    def __repr__(self) -> str:
        return "(missing)"


MISSING = _Missing()  # no default, or none that settings can hold


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message on a name that is not known: the one that was meant, if one is near; else empty."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1) or [other for other in names if name and other.startswith(name)]
    return f"; did you mean {near[0]}?" if near else ""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What a callable lets one set.

    Attributes:
        default: As settings hold it, or MISSING.
        required: Whether it has to be given.
        hint: Its annotation, resolved; None where there is none, or where it cannot be.
    """

    default: Any
    required: bool
    hint: Any = None


def find(name: Any, where: str) -> Target:
    """The class or function of this name, `module.Class`.

    Raises:
        SettingError: There is none.
    """
    first, *rest = str(name).split(".")
    found: Any = None
    try:
        found, path = importlib.import_module(first), first
        for part in rest:
            path = f"{path}.{part}"
            if not hasattr(found, part) and isinstance(found, types.ModuleType):
                importlib.import_module(path)
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # importing a module can raise anything
        choice = f"; it has {', '.join(found.__all__)}" if hasattr(found, "__all__") else ""
        raise SettingError(f"{where}.{TARGET}: cannot find {name!r} ({error}){choice}") from error
    if not callable(found):
        raise SettingError(f"{where}.{TARGET}: {name} is no class or function")
    return typing.cast(Target, found)


def is_part(name: Any) -> bool:
    """Whether a name is of our own packages whose classes settings name: to import those does nothing else."""
    first, *rest = str(name).split(".")
    if first != "hgenv" or not rest or any(part.startswith("_") for part in rest):
        return False
    return len(rest) == 1 or rest[0] in PARTS


def familiar(name: Any) -> bool:
    """Whether looking for a name imports nothing that is not imported already, but for parts of our own."""
    if is_part(name):
        return True
    path, rest = str(name), list[str]()
    while path not in sys.modules:
        path, _, last = path.rpartition(".")
        if not path:
            return False
        rest.insert(0, last)
    return not rest or rest[0] in vars(sys.modules[path])  # a module may import what it is asked for


def name_of(target: type) -> str:
    """The name by which `find` finds a class: of the outermost package whose `__all__` has it, else of its module."""
    packages = target.__module__.split(".")
    for count in range(1, len(packages)):
        name, module = target.__qualname__, sys.modules.get(".".join(packages[:count]))
        # Two packages may have a class of one name.
        if name in getattr(module, "__all__", ()) and getattr(module, name) is target:
            return f"{'.'.join(packages[:count])}.{name}"
    return f"{target.__module__}.{target.__qualname__}"


def plain(value: Any) -> Any:
    """A default as settings hold it; MISSING if they cannot."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        values = [plain(v) for v in value]
        return MISSING if MISSING in values else values
    if isinstance(value, Mapping):
        fields = {str(k): plain(v) for k, v in value.items()}
        return MISSING if MISSING in fields.values() else fields
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return MISSING if MISSING in fields.values() else {TARGET: name_of(type(value))} | fields
    return MISSING


def parameters(target: Target, private: Collection[str] = ()) -> tuple[dict[str, Parameter], bool]:
    """What `target` lets one set, and whether it takes any other key besides.

    Where a class hands `**options` on, the parameters of the next class count too: those that the annotation
    `Unpack[...]` of `options` names, else those that can only be given by name.

    Args:
        target: A class, a function, or a `functools.partial` of one, whose arguments then are defaults.
        private: Names that are for code alone.
    """
    found, options = _own_parameters(target, private)
    kind = _unwrapped(target)
    if not options or not isinstance(kind, type):
        return found, options
    owner = next((c for c in kind.__mro__ if "__init__" in vars(c)), object)
    following = _next(kind, owner)
    named = _option_names(owner)
    if following is object:
        return found, named is None
    more, others = parameters(following, private)
    if named is None:
        kinds = {name: parameter.kind for name, parameter in inspect.signature(following).parameters.items()}
        handed = {name for name in more if kinds.get(name) in (None, inspect.Parameter.KEYWORD_ONLY)}
    else:
        handed, others = named, False
    bound = target.keywords if isinstance(target, functools.partial) else {}
    for name, setting in more.items():
        if name in handed and name not in found:
            given = {"default": plain(bound[name]), "required": False} if name in bound else {}
            found[name] = dataclasses.replace(setting, **given)
    return found, others


def _own_parameters(target: Target, private: Collection[str]) -> tuple[dict[str, Parameter], bool]:
    """The parameters in a signature, and whether it ends in `**options`."""
    hints = _hints(target)
    found, options = {}, False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            options = True
        elif parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) and name not in private:
            required = parameter.default is parameter.empty
            found[name] = Parameter(MISSING if required else plain(parameter.default), required, hints.get(name))
    return found, options


def _unwrapped(target: Target) -> Target:
    while isinstance(target, functools.partial):
        target = target.func
    return target


def _next(kind: type, owner: type) -> type:
    """The class whose `__init__` `super()` means in that of `owner`, for an instance of `kind`."""
    order = kind.__mro__
    return next((c for c in order[order.index(owner) + 1 :] if "__init__" in vars(c)), object)


def _option_names(owner: type) -> set[str] | None:
    """The keys that `**options: Unpack[...]` of a class's `__init__` names; None if it says nothing."""
    for hint in _hints(owner).values():
        if typing.get_origin(hint) is typing.Unpack:
            return set(typing.get_type_hints(typing.get_args(hint)[0]))
    return None


def _hints(target: Target) -> dict[str, Any]:
    """Annotations by parameter, resolved; none where they cannot be."""
    kind: Any = _unwrapped(target)
    try:
        return typing.get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    except Exception:  # an annotation may name what is imported for type checkers alone
        return {}


def complete(node: Mapping[str, Any], where: str, private: Collection[str] = ()) -> dict[str, Any]:
    """A mapping with `_target_`, with all that its target lets one set.

    Args:
        node: Plain settings.
        where: Its key, for messages.
        private: Parameters that are for code alone.

    Raises:
        SettingError: There is no such target, it has no such setting, it needs another one, or a text stands where a
            number belongs.
    """
    target = find(node[TARGET], where)
    known, others = parameters(target, private)
    given = {key: value for key, value in node.items() if key != TARGET}
    name = str(node[TARGET]).rpartition(".")[2]
    return {TARGET: node[TARGET]} | fill(known, given, where, name, others=others)


def fill(
    known: Mapping[str, Parameter], given: Mapping[str, Any], where: str, name: str, *, others: bool = False
) -> dict[str, Any]:
    """The settings `given`, and the defaults of those that are `known` and not given.

    Args:
        known: What can be set.
        given: Plain settings.
        where: Key of what they belong to, for messages.
        name: Its name, for messages.
        others: Whether further keys are as good.

    Raises:
        SettingError: See `complete`.
    """
    for key in given:
        if key not in known and not others:
            choice = f"{', '.join(known) or 'none'}{meant(key, known)}"
            raise SettingError(f"{where} {name} has no setting {key!r}; it has {choice}")
    filled = {}
    for key, parameter in known.items():
        if key in given:
            filled[key] = _value(given[key], parameter, f"{where}.{key}")
        elif parameter.required:
            raise SettingError(f"{where} {name} needs the setting {key!r}")
        elif parameter.default is not MISSING:
            filled[key] = parameter.default
    return filled | {key: tree(value, f"{where}.{key}") for key, value in given.items() if key not in known}


def _value(value: Any, parameter: Parameter, where: str) -> Any:
    default = parameter.default
    if isinstance(value, Mapping):
        if isinstance(default, Mapping) and TARGET in default:
            if TARGET not in value or same_target(value[TARGET], default[TARGET]):
                return _merged(default, value, where)
        elif TARGET not in value and (kind := _only_dataclass(parameter.hint)):
            return complete({TARGET: name_of(kind)} | dict(value), where)
        elif TARGET not in value and (default is MISSING or default is None) and not _takes_mapping(parameter.hint):
            raise SettingError(f"{where} needs {TARGET}=<module>.<class>: it has no default that this could change")
    if isinstance(value, Mapping | list):
        return tree(value, where)
    kind = _kind(parameter)
    if kind is bool and value is not None and not isinstance(value, bool):
        raise SettingError(f"{where} must be true or false, not {value!r}")
    if kind is int and value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise SettingError(f"{where} must be a whole number, not {value!r}")
    if kind is float and (isinstance(value, str | bool)):
        raise SettingError(f"{where} must be a number (infinity is written inf), not {value!r}")
    return value


def _merged(default: Mapping[str, Any], value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The object `default`, with the settings in `value` changed."""
    target = find(default[TARGET], where)
    known, others = parameters(target)
    known = {k: dataclasses.replace(p, default=default.get(k, p.default), required=False) for k, p in known.items()}
    given = {key: part for key, part in value.items() if key != TARGET}
    name = str(default[TARGET]).rpartition(".")[2]
    return {TARGET: default[TARGET]} | fill(known, given, where, name, others=others)


def tree(value: Any, where: str) -> Any:
    """A value with every object in it made complete.

    Raises:
        SettingError: See `complete`.
    """
    if isinstance(value, Mapping):
        if TARGET in value:
            return complete(value, where)
        return {key: tree(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list):
        return [tree(part, f"{where}[{i}]") for i, part in enumerate(value)]
    return value


def same_target(one: Any, other: Any) -> bool:
    """Whether two names mean the same class or function, by whatever package."""
    if one == other:
        return True
    if not (familiar(one) and familiar(other)):
        return False
    try:
        return find(one, "") is find(other, "")
    except SettingError:
        return False


def differing(known: Mapping[str, Parameter], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of complete `settings` that are no defaults: `fill` makes the rest of them again."""
    found = {}
    for key, value in settings.items():
        default = known[key].default if key in known else MISSING
        if isinstance(value, Mapping) and TARGET in value:
            inner, _ = parameters(find(value[TARGET], key))
            if isinstance(default, Mapping) and TARGET in default and same_target(value[TARGET], default[TARGET]):
                inner = {k: dataclasses.replace(p, default=default.get(k, p.default)) for k, p in inner.items()}
                changed = differing(inner, {k: v for k, v in value.items() if k != TARGET})
                if changed:
                    found[key] = changed
            else:
                fields = {k: v for k, v in value.items() if k != TARGET}
                found[key] = {TARGET: value[TARGET]} | differing(inner, fields)
        elif default is MISSING or differences(default, value, key):
            found[key] = value
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """What differs between two plain settings, as `key: value here, value there`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found = []
        for key in dict.fromkeys([*one, *other]):
            below = f"{where}.{key}" if where else str(key)
            found += differences(one.get(key, MISSING), other.get(key, MISSING), below)
        return found
    if where.rpartition(".")[2] == TARGET and MISSING not in (one, other) and same_target(one, other):
        return []
    return [] if one == other and isinstance(one, bool) == isinstance(other, bool) else [f"{where}: {one}, {other}"]


def _atoms(hint: Any) -> list[Any]:
    """The members of a union, or the one type, without None."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [h for h in (typing.get_args(hint) if union else (hint,)) if h not in (None, type(None))]


def _only_dataclass(hint: Any) -> type | None:
    kinds = [h for h in _atoms(hint) if isinstance(h, type) and dataclasses.is_dataclass(h)]
    return kinds[0] if len(kinds) == 1 else None


def _takes_mapping(hint: Any) -> bool:
    origins = [typing.get_origin(h) or h for h in _atoms(hint)]
    return not origins or any(o is Any or (isinstance(o, type) and issubclass(o, Mapping)) for o in origins)


def _kind(parameter: Parameter) -> type | None:
    """Bool, int or float (any number), if a setting can be nothing else; None if it can, or nothing is known."""
    if parameter.hint is not None:
        atoms = set(_atoms(parameter.hint))
        if atoms == {int}:
            return int
        if atoms and atoms <= {int, float}:
            return float
        return bool if atoms == {bool} else None
    if isinstance(parameter.default, bool):
        return bool
    return float if isinstance(parameter.default, int | float) else None
