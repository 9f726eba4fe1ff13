"""What a run shows while it is at work: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hgenv.accounting import Budget

from .records import Row

QUIET_SECONDS = 10  # between two lines where the output is no terminal


def describe(row: Row, metric: Mapping[str, str]) -> str:
    """A row in a few words.

    Args:
        row: Which.
        metric: The one to show, as row 0 describes it.
    """
    name, title = metric["name"], metric["title"]
    loss = f"loss {row['loss']:.4g}" if row["loss"] is not None else row["status"]
    figures = f"validation {row['validation'][name]:.4g} test {row['test'][name]:.4g}"
    return f"update {row['update']}, {loss}, {title} {figures}"


def progress(*, disable: bool = False) -> Progress:
    """Bars with a description, a share and the time so far."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f} %")
    return Progress(*columns, TimeElapsedColumn(), disable=disable)


class Display:
    """The current loss and the share of the budget of one run.

    Args:
        folder: The run's.
        budget: What it may spend.
        metric: The one to show, as row 0 describes it.
    """

    def __init__(self, folder: Path, budget: Budget, metric: Mapping[str, str]) -> None:
        self.folder, self.budget, self.metric = folder, budget, metric
        self.bar = progress() if sys.stdout.isatty() else None
        if self.bar is not None:
            self.task = self.bar.add_task(str(folder), total=budget.amount)
        self.last = time.monotonic()

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, row: Row) -> None:
        """Show the newest row."""
        spent = min(row["spent"][self.budget.unit], self.budget.amount)
        if self.bar is not None:
            self.bar.update(self.task, completed=spent, description=describe(row, self.metric))
        elif time.monotonic() - self.last > QUIET_SECONDS:
            self.last = time.monotonic()
            words = describe(row, self.metric)
            print(f"{self.folder}: {words}, {spent / self.budget.amount:.0%} of the budget", flush=True)

    def end(self, done: Mapping[str, Any]) -> None:
        """Say how it ended."""
        print(f"{self.folder}: {done['status']}; {describe(done['final'], self.metric)}", flush=True)
