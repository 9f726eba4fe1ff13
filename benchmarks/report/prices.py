"""Runs read under another price list: rows hold counts, so no run has to be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

import hgenv.configs
from hgenv.accounting import PRICED, BudgetError, Prices

from ..records import RecordError
from ..studies import Run

LISTS = Path(hgenv.configs.__path__[0]) / "prices"
STEP = "training_step"  # a price by which all work of the network is scaled


def named(name: str) -> Prices:
    """One of the price lists in configs/prices.

    Raises:
        RecordError: There is none of this name.
    """
    known = sorted(path.stem for path in LISTS.glob("*.yaml"))
    if name not in known:
        raise RecordError(f"there is no price list {name!r}; there are {', '.join(known)}")
    with hydra.initialize_config_module("hgenv.configs", version_base="1.3"):
        found: Any = OmegaConf.to_container(hydra.compose(f"prices/{name}").prices)
    return Prices(**found)


def changed(prices: Prices, changes: Mapping[str, float], step_flops: int | None) -> Prices:
    """A price list with other prices.

    Args:
        prices: The list.
        changes: Seconds, by name in `Prices`; or of a `training_step`, by which all work of the network is scaled.
        step_flops: Floating-point operations of a training step.

    Raises:
        RecordError: There is no such price, it is none, or it is not known how much work a training step is.
    """
    changes = dict(changes)
    step = changes.pop(STEP, None)
    known = list(asdict(prices))
    if unknown := sorted(set(changes) - set(known)):
        raise RecordError(f"there is no price of a {unknown[0]!r}; there are {', '.join([*known, STEP])}")
    try:
        if step is not None:
            if step_flops is None:
                raise RecordError(
                    f"these rows do not say how much work a {STEP} is; give the price of a flop instead, that of a "
                    f"{STEP} divided by its floating-point operations"
                )
            scale = step / (prices.flop * step_flops)
            prices = replace(prices, flop=prices.flop * scale, gradient_flop=prices.gradient_flop * scale)
        return replace(prices, **changes)
    except BudgetError as error:
        raise RecordError(str(error)) from None


def priced(runs: Sequence[Run], prices: Prices, changes: Mapping[str, float]) -> list[Run]:
    """The same runs, as if each had had a budget by a price list: in each environment, what the cheapest has cost.

    Args:
        runs: Sorted by environment.
        prices: The list.
        changes: What is to be different in it, see `changed`.

    Raises:
        RecordError: As `changed`; or a run has no update within such a budget.
    """
    found = []
    for _, group in groupby(runs, key=lambda run: run.environment):
        own = list(group)
        list_ = changed(prices, changes, own[0].facts.training_step_flops)
        costs = [list_.cost(run.spent) for run in own]
        amount = float(min(cost[run.last] for run, cost in zip(own, costs, strict=True)))
        if not amount > 0:
            raise RecordError(f"{own[0].environment}: a run cost nothing at these prices; there is nothing to compare")
        budget = {"amount": amount, "unit": PRICED, "prices": asdict(list_)}
        found += [
            replace(run, config=run.config | {"budget": budget}, within_budget=cost <= amount)
            for run, cost in zip(own, costs, strict=True)
        ]
    return found
