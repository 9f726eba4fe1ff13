from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pytest

from hgenv.benchmarks.defaults import (
    MISSING,
    SettingError,
    complete,
    differences,
    differing,
    find,
    name_of,
    parameters,
    same_target,
)


@dataclass(frozen=True)
class Inner:
    depth: int = 3
    sharp: bool = False
    cache: dict[str, int] = field(default_factory=dict, init=False)


@dataclass(frozen=True)
class Spec:
    rate: float = 0.1
    inner: Inner = Inner(4)
    kind: str | None = None


class Options(TypedDict, total=False):
    size: int
    device: str


class Base:
    def __init__(self, body: Any, *, size: int = 8, device: str = "auto", hidden: int = 1) -> None:
        self.body, self.size, self.device, self.hidden = body, size, device, hidden


class Child(Base):
    def __init__(self, *, spec: Spec = Spec(0.2), colours: tuple[float, ...] = (1.0, 2.0), **options: Unpack[Options]):
        super().__init__(None, **options)
        self.spec, self.colours = spec, colours


class Grandchild(Child):
    """Its arguments are all its parents'."""


class Loose(Base):
    def __init__(self, **options: Any) -> None:
        super().__init__(None, **options)


class Anything:
    def __init__(
        self, speed: float = 1.0, *, light: dict[str, list[float]] | None = None, part: Any = None, **rest: Any
    ):
        self.speed, self.light, self.part, self.rest = speed, light, part, rest


class Made:
    def __init__(self, space: Any, spec: Spec, other: Spec | None = None, *, seed: int, hook: Any = print) -> None:
        self.space, self.spec, self.other, self.seed, self.hook = space, spec, other, seed, hook


preset = partial(Made, spec=Spec(inner=Inner(7)), other=Spec(kind="wide"))
HERE = __name__
SPEC = {"_target_": f"{HERE}.Spec"}


def target(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{name}", **settings}


def inner(depth: int = 3, sharp: bool = False) -> dict[str, Any]:
    return target("Inner", depth=depth, sharp=sharp)


def test_defaults_are_the_signatures_and_specs_become_mappings():
    expected = target("Spec", rate=0.2, inner=inner(4), kind=None)
    assert complete(target("Child"), "x") == target(
        "Child", spec=expected, colours=[1.0, 2.0], size=8, device="auto"
    )  # what Unpack names of the next class, and nothing else of it
    assert complete(target("Grandchild"), "x", ("device",)) == target(
        "Grandchild", spec=expected, colours=[1.0, 2.0], size=8
    )


def test_options_that_say_nothing_are_the_next_class_s_keywords():
    assert list(parameters(Loose)[0]) == ["size", "device", "hidden"]
    assert not parameters(Loose)[1]
    assert parameters(Anything)[1]
    assert complete(target("Anything", more=[inner()], speed=2), "x")["more"] == [inner()]


def test_presets_keep_what_they_bind():
    made = complete(target("preset"), "x", ("space", "seed"))
    assert made == target(
        "preset",
        spec=target("Spec", rate=0.1, inner=inner(7), kind=None),
        other=target("Spec", rate=0.1, inner=inner(4), kind="wide"),
    )  # hook has a default that no setting can hold
    assert parameters(preset)[0]["hook"].default is MISSING


def test_a_partial_of_options_is_a_default_too():
    known, _ = parameters(partial(Child, size=16))
    assert known["size"].default == 16


def test_a_part_without_target_changes_the_default_and_one_of_another_class_replaces_it():
    changed = complete(target("preset", spec={"inner": {"sharp": True}}), "x", ("space", "seed"))
    assert changed["spec"]["inner"] == inner(7, True)
    named = complete(target("preset", spec=target("Spec", rate=0.3)), "x", ("space", "seed"))
    assert named["spec"] == target("Spec", rate=0.3, inner=inner(7), kind=None)
    other = complete(target("preset", spec=target("Anything")), "x", ("space", "seed"))
    assert other["spec"] == target("Anything", speed=1.0, light=None, part=None)
    # Where the default is none, the annotation says whose part it is, if it says so.
    made = complete(target("Made", spec={"rate": 1}, other={"kind": "a"}), "x", ("space", "seed"))
    assert made["other"] == target("Spec", rate=0.1, inner=inner(4), kind="a")
    assert complete(target("Anything", light={"light": [1.0]}), "x")["light"] == {"light": [1.0]}


@pytest.mark.parametrize(("node", "message"), [
    (target("Child", specs={}), "x Child has no setting 'specs'; it has spec, colours, size, device"),
    (target("Child", spec={"ratee": 1}), r"x\.spec Spec has no setting 'ratee'; it has rate, inner, kind"),
    (target("Child", spec={"inner": {"depths": 1}}), r"x\.spec\.inner Inner has no setting 'depths'; it has depth"),
    (target("Child", size="big"), r"x\.size must be a whole number, not 'big'"),
    (target("Child", size=True), r"x\.size must be a whole number, not True"),
    (target("Child", spec={"inner": {"sharp": 1}}), r"x\.spec\.inner\.sharp must be true or false, not 1"),
    (target("Made", seed=1), "x Made needs the setting 'space'"),
    (target("Nobody"), r"x\._target_: cannot find '.*Nobody'"),
    ({"_target_": f"{HERE}.HERE"}, "is no class or function"),
    ({"_target_": "pathlib.Nothing"}, "cannot find 'pathlib.Nothing'.*it has.* PurePath"),
    ({"_target_": 3}, "cannot find 3"),
])  # fmt: skip
def test_what_makes_no_sense_is_named_with_what_could_stand_there(node, message):
    with pytest.raises(SettingError, match=message):
        complete(node, "x")


def test_a_part_of_nothing_needs_a_target():
    class Bare:
        def __init__(self, part: Path | None = None) -> None:
            self.part = part

    globals()["Bare"] = Bare
    with pytest.raises(SettingError, match=r"x\.part needs _target_"):
        complete(target("Bare", part={"size": 3}), "x")


def test_what_differs_makes_the_rest_again():
    for node in (
        target("Child", spec={"inner": {"depth": 9}}, size=3),
        target("preset", spec=target("Anything", speed=4.0), other=None),
        target("Grandchild", colours=[3.0]),
    ):
        whole = complete(node, "x", ("space", "seed"))
        known, _ = parameters(find(whole["_target_"], "x"), ("space", "seed"))
        little = differing(known, {key: value for key, value in whole.items() if key != "_target_"})
        assert little == {key: value for key, value in node.items() if key != "_target_"}
        assert complete({"_target_": whole["_target_"], **little}, "x", ("space", "seed")) == whole


def test_names_of_one_class_are_one_and_true_is_not_1():
    assert name_of(Inner) == f"{HERE}.Inner"
    assert name_of(find("hgenv.learning.SGD", "")) == "hgenv.SGD"
    assert same_target("hgenv.SGD", "hgenv.learning.rules.SGD")
    assert not same_target("hgenv.SGD", "hgenv.nothing")
    assert not differences({"a": {"_target_": "hgenv.SGD"}}, {"a": {"_target_": "hgenv.learning.SGD"}})
    assert differences({"a": 1, "b": {"c": 1}}, {"a": True, "b": {"d": 2}}) == [
        "a: 1, True", "b.c: 1, (missing)", "b.d: (missing), 2",
    ]  # fmt: skip
    assert not differences({"a": 100}, {"a": 100.0})
