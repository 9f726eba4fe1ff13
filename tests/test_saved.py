"""Saved states: what is damaged, or somebody else's, is refused in words, and nothing has changed."""

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hgenv import SGD, DataGenEnv, Ledger
from hgenv.learning import Adam
from hgenv.optimizers import REGISTRY, Fixed, GradientOptimizer, Optimizer
from hgenv.saved import AnyOf, Each, copy_like

from .optimizers.tools import Breaking, quadratic
from .toys import labels_env

PLAIN = [name for name in REGISTRY if name != "evolution"]


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def bits(state: Any) -> Any:
    """A state in full, for comparison; clocks go on."""
    if isinstance(state, torch.Tensor):
        return str(state.dtype), state.tolist()
    if isinstance(state, dict):
        return {name: bits(part) for name, part in state.items() if name != "ledger"}
    return [bits(part) for part in state] if isinstance(state, list) else state


def used(optimizer: str, **options: Any) -> tuple[DataGenEnv, Optimizer]:
    env = quadratic()
    made = REGISTRY[optimizer](env.space, seed=0, **options)
    for _ in range(3):
        made.update(env)
    return env, made


def paths(state: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a state."""
    if at:
        yield at
    if isinstance(state, dict | list):
        for name, part in state.items() if isinstance(state, dict) else enumerate(state):
            yield from paths(part, (*at, name))


def put(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a state with another value at a place; with none if it is `GONE`."""
    state, (name, *rest) = copy.copy(state), path
    if rest:
        state[name] = put(state[name], tuple(rest), value)
    elif value is GONE:
        del state[name]
    else:
        state[name] = value
    return state


GONE = object()


def damages(part: Any) -> list[Any]:
    """What may not stand where `part` stands."""
    found: list[Any] = [object(), (1, 2), b"bytes", {"other": 1}, GONE]
    match part:
        case torch.Tensor():
            other = torch.float32 if part.dtype != torch.float32 else torch.float16
            found += [None, 3, "text", part.tolist(), part.numpy(), part.to(other), part[None], torch.zeros(2, 9)]
        case bool() | int() | float():
            found += [
                None,
                "text",
                str(part),
                torch.tensor(1),
                float("nan"),
                -float("inf"),
                [1],
                np.float64(1),
                10**400,
            ]
            found += [-1, 1.5, True] if isinstance(part, int) else []
        case str():
            found += [None, 3, "no such word"]
        case dict():
            found += [None, 3, "text", [], part | {"extra": 1}]
        case list():
            found += [None, 3, "text", {}, [*part, *part, 1]]
    return found


def refuses(thing: Any, state: Any, what: object = "it") -> None:
    before = bits(thing.state_dict())
    try:
        thing.load_state_dict(state)
    except ValueError as error:
        said = str(error)
    else:
        raise AssertionError(f"{what} was accepted")
    assert len(said) > 30
    assert bits(thing.state_dict()) == before


# What nothing is taken from, and texts for people.
FREE = ("param_groups", "message", "incidents")


def check_all_damages(thing: Any) -> int:
    state, count = thing.state_dict(), 0
    for path in paths(state):
        if path[-1] in FREE or any(name in path[:-1] for name in FREE):
            continue
        node: Any = state
        for name in path:
            node = node[name]
        # Some of it need not be there, which an earlier state shows; and numpy has its own words and numbers.
        for value in damages(node):
            if value is GONE and path[-1] == "gradient_flops":
                continue  # older versions did not count them
            if "np_random" in path and len(path) > 1 and isinstance(value, int | float):
                continue  # numpy has its own way with these
            if value is None and (path[-1] in ("last", "worked") or "particles" in path[-2:-1]):
                continue
            refuses(thing, put(state, path, value), (path, value))
            count += 1
    for state in (None, [], "text", {}, 3):
        refuses(thing, state)
    return count


@pytest.mark.parametrize(
    "make", [lambda: quadratic(unroll_steps=2), lambda: labels_env(rule=Adam(0.01), unroll_steps=1)]
)
def test_a_damaged_environment_is_refused(make: Callable[[], DataGenEnv]) -> None:
    env = make()
    env.reset(seed=1)
    env.step(env.space.initial)
    assert check_all_damages(env) > 300


@pytest.mark.parametrize("name", PLAIN)
def test_a_damaged_optimizer_is_refused(name: str) -> None:
    _, optimizer = used(name, **({} if name == "fixed" else {"period": 1}))
    assert check_all_damages(optimizer) > 20


def test_a_last_step_that_contradicts_itself_is_refused() -> None:
    env = quadratic()
    env.step(env.space.initial)
    state = env.state_dict()
    refuses(env, put(state, ("last", "outcome", "loss"), None))
    refuses(env, put(state, ("last", "outcome", "status"), "DIVERGED"))
    refuses(env, put(state, ("last", "states"), state["last"]["states"][:1]))
    refuses(env, put(state, ("last", "betas"), 9 + state["last"]["betas"]))
    breaking = Breaking(env)
    breaking.failing = True
    refuses(env, state)


def test_somebody_elses_state_is_refused() -> None:
    env, other = quadratic(), labels_env()
    other.reset(seed=0)
    refuses(env, other.state_dict())
    refuses(env, quadratic(rule=SGD(0.1, momentum=0.9)).state_dict())
    longer = quadratic(unroll_steps=5)
    longer.step(longer.space.initial)
    refuses(env, longer.state_dict())
    made = {name: used(name)[1] for name in ("hybrid_gradient", "basic_random_search", "random_search")}
    for name, optimizer in made.items():
        for another, state in made.items():
            if name != another:
                refuses(optimizer, state.state_dict())
    two = REGISTRY["fixed"](other.space, seed=0)
    with pytest.raises(ValueError, match="of an optimizer of 2 components, but the space has 4"):
        made["random_search"].load_state_dict(two.state_dict())


@pytest.mark.parametrize("name", PLAIN)
def test_states_are_plain_and_go_on_with_the_same_bits(name: str) -> None:
    env, optimizer = used(name)
    kept = through_file({"env": env.state_dict(), "optimizer": optimizer.state_dict()})
    fresh = quadratic()
    again = REGISTRY[name](fresh.space, seed=9)
    fresh.load_state_dict(kept["env"])
    again.load_state_dict(kept["optimizer"])
    assert bits(again.state_dict()) == bits(optimizer.state_dict())
    for _ in range(3):
        optimizer.update(env)
        again.update(fresh)
    assert bits(fresh.state_dict()) == bits(env.state_dict())
    assert bits(again.state_dict()) == bits(optimizer.state_dict())
    env.load_state_dict(kept["env"])  # what was loaded has not changed with whoever loaded it
    assert bits(env.state_dict()) == bits(kept["env"])


def test_it_can_be_loaded_before_any_reset() -> None:
    env, fresh = quadratic(), type(quadratic())()
    env.step(env.space.initial)
    fresh.load_state_dict(env.state_dict())
    assert bits(fresh.state_dict()) == bits(env.state_dict())


class Adds(Fixed):
    """As others write it: a part of its own."""

    steps = 0

    def improve(self, env: DataGenEnv) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps = state["steps"]


class Wraps(Adds):
    """Or with the state of the base class as a part of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {"base": super().state_dict(), "anything": object}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["base"])


class AddsToAll(DataGenEnv):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"own": 7}


@pytest.mark.parametrize("cls", [Adds, Wraps])
def test_classes_that_add_to_the_state_keep_working(cls: type[Adds]) -> None:
    env = quadratic()
    optimizer, other = cls(env.space, seed=0), cls(env.space, seed=1)
    optimizer.update(env)
    other.load_state_dict(optimizer.state_dict())
    assert other.steps == 1
    env.__class__ = AddsToAll
    env.load_state_dict(env.state_dict())


def test_settings_of_the_rule_are_those_of_the_optimizer() -> None:
    """A state does not bring its own; as little does another version of torch."""
    env = quadratic()
    optimizer = REGISTRY["hybrid_gradient"](env.space, seed=0)
    assert isinstance(optimizer, GradientOptimizer)
    state = optimizer.state_dict()
    groups = [group | {"alpha": 0.1, "from_a_later_version": True} for group in state["rule"]["param_groups"]]
    optimizer.load_state_dict(put(state, ("rule", "param_groups"), groups))
    assert optimizer.state_dict()["rule"] == state["rule"]


def test_a_ledgers_incidents_are_kept() -> None:
    ledger, other = Ledger(), Ledger()
    with ledger.phase("score"):
        ledger.note("workers replaced")
    ledger.note("workers replaced")
    other.load_state_dict(through_file(ledger.state_dict()))
    assert other.incidents == {"workers replaced": 2}
    other.note("else")
    assert ledger.incidents == {"workers replaced": 2}
    old = ledger.state_dict()
    del old["incidents"]
    other.load_state_dict(old)
    assert other.incidents == {}
    for incidents in ({"a": -1}, {1: 1}, {"a": 1.0}, [], None):
        with pytest.raises(ValueError, match="the ledger: incidents"):
            other.load_state_dict(old | {"incidents": incidents})


def test_messages_say_where_what_and_the_cure() -> None:
    like = {"weights": {"a": torch.zeros(2, 3)}, "step": 0, "loss": AnyOf((None, 0.0)), "notes": Each("")}
    good = {"weights": {"a": torch.ones(2, 3)}, "step": 3, "loss": None, "notes": {"x": "y"}}
    assert repr(copy_like(good, like, "it")) == repr(good)
    for change, message in [
        ({"weights": {"a": torch.ones(3, 2)}}, r"it: weights: a: must be a tensor float32\(2, 3\), but .*\(3, 2\)"),
        ({"weights": {"a": [1]}}, "it: weights: a: .* has a list of 1; load it where classes and arguments"),
        ({"weights": {"b": 1}}, "it: weights: the saved state has no 'a'; load it where"),
        ({"step": -1}, "it: step: must be a whole number from 0 on, but the saved state has the int '-1'"),
        ({"loss": "low"}, "it: loss: must be a finite number, but the saved state has the str 'low'"),
        ({"more": 1}, "it: the saved state has 'more', which is unknown here"),
        ({"notes": {"x": 1}}, "it: notes: x: must be a text"),
    ]:
        with pytest.raises(ValueError, match=message):
            copy_like(good | change, like, "it")


def test_a_copy_is_ordinary_and_its_own() -> None:
    with torch.inference_mode():
        found = {"a": torch.ones(2)}
    copied = copy_like(found, {"a": torch.zeros(2)}, "it")["a"]
    assert not copied.is_inference()
    copied += 1
    assert found["a"].tolist() == [1, 1]
