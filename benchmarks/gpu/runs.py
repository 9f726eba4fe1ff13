"""Runs against time, without the machinery of `hgenv run`: an environment, an optimizer, a budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hgenv.accounting import Budget
from hgenv.learning import Network
from hgenv.optimizers import REGISTRY

from .photos import Pair
from .problem import make

OPTIMIZERS = ("combined", "basic_random_search", "hybrid_gradient_paper")
BETAS = 5  # random ones, of which the runs start at the median
FAILURES = 3  # failed steps in a row that end a run


@dataclass(frozen=True)
class Sizes:
    """How large a run is.

    Attributes:
        budget: What it may spend.
        network: What is trained.
        batch_size: B.
        row_seconds: Of the budget's kind, between two rows: metrics take a moment.
        tried_updates: Updates at each of the random betas.
    """

    budget: Budget = Budget(60, "wall_seconds")
    network: Network = Network("large", size=128)
    batch_size: int = 32
    row_seconds: float = 3.0
    tried_updates: int = 25


def rank(photos: Pair, sizes: Sizes, device: str, save: Callable[[dict[str, Any]], None]) -> None:
    """Train for a moment at each of some random betas, and save the median by validation."""
    env = make(photos, sizes.network, batch_size=sizes.batch_size, device=device)
    primary = env.task.metrics[0].name
    found: dict[str, float] = {}
    for number in range(BETAS):
        env.reset(seed=0)
        name = f"random:{number}"
        fixed = REGISTRY["fixed"](env.space, seed=0, initial=name)
        for _ in range(sizes.tried_updates):
            fixed.update(env)
        found[name] = env.validation_metrics()[primary]
    save({"validation": found, "median": sorted(found, key=found.__getitem__)[BETAS // 2]})


def run(
    optimizer: str,
    photos: Pair,
    sizes: Sizes,
    device: str,
    save: Callable[[dict[str, Any]], None],
    initial: str | None = None,
) -> None:
    """Make a run, seed 0, and save what there is of it at every row.

    Args:
        optimizer: Its name.
        photos: Validation and test.
        sizes: How large it is.
        device: Where.
        save: Takes what there is.
        initial: See `Optimizer`.

    Raises:
        RuntimeError: Step after step failed.
    """
    began = time.monotonic()
    env = make(photos, sizes.network, batch_size=sizes.batch_size, device=device)
    chosen = REGISTRY[optimizer](env.space, seed=0, initial=initial)
    env.warm_up()
    primary = env.task.metrics[0]
    result: dict[str, Any] = {
        "optimizer": optimizer,
        "initial": initial,
        "network": f"{sizes.network.preset}, {sizes.network.size} px",
        "data": [data.label for data in photos],
        "budget": {"amount": sizes.budget.amount, "unit": sizes.budget.unit},
        "metric": {"name": primary.name, "title": primary.title, "direction": primary.direction},
        "rows": [],
    }

    def row() -> None:
        spent = {unit: env.ledger.spent(unit) for unit in ("cpu_seconds", "gpu_seconds", "wall_seconds")}
        figures = {"validation": env.validation_metrics(), "test": env.test_metrics()}
        whole = {name: {k: v for k, v in found.items() if "/" not in k} for name, found in figures.items()}
        loss = None if env.outcome is None else env.outcome.loss
        result["rows"].append({"update": env.update, "loss": loss, "spent": spent, **whole})
        result["counts"], result["phases"] = dict(env.ledger.counts), env.ledger.by_phase()
        result["recommendation"] = chosen.recommendation.tolist()
        result["seconds"] = time.monotonic() - began
        save(result)

    row()
    written, failures, share = 0.0, 0, 0.0
    while share < 1:
        chosen.update(env)
        assert env.outcome is not None
        failures = 0 if env.outcome.ok else failures + 1
        if failures == FAILURES:
            raise RuntimeError(f"{FAILURES} steps in a row failed: {env.outcome.status.value}; {env.outcome.message}")
        share = sizes.budget.share(env.ledger)
        spent = share * sizes.budget.amount
        # The update that crosses the budget does not count.
        if share <= 1 and spent - written >= sizes.row_seconds:
            row()
            written = spent
