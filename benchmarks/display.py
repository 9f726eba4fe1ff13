"""What is shown while runs are at work: bars on a terminal, elsewhere a line now and then that says the same."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from hgenv import patience
from hgenv.accounting import Budget

from .records import Row

QUIET_SECONDS = 10  # between two lines where the output is no terminal
BAR = 14  # columns


def describe(row: Row, metric: Mapping[str, str]) -> str:
    """A row in a few words.

    Args:
        row: Which.
        metric: The one to show, as row 0 describes it.
    """
    name, title = metric["name"], metric["title"]
    loss = f"loss {row['loss']:.4g}" if row["loss"] is not None else row["status"]
    figures = f"validation {_figure(row['validation'][name])} test {_figure(row['test'][name])}"
    return f"update {row['update']}, {loss}, {title} {figures}"


def brief(row: Row, metric: Mapping[str, str]) -> str:
    """A row in fewer words, for beside a bar: how it does on validation."""
    return f"{metric['title']} {_figure(row['validation'][metric['name']])}"


def _figure(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"


def shortened(text: str, width: int) -> str:
    """A text that is cut in the middle where it is wider than that."""
    if len(text) <= width:
        return text
    end = max(width - 1, 0) // 2
    return text[: max(width - 1 - end, 0)] + "…" + text[len(text) - end :]


class Bars(Progress):
    """Bars with a name, figures, a share, the time so far and the time that is left, within any width.

    Args:
        options: Of rich's `Progress`.
    """

    def __init__(self, **options: Any) -> None:
        bar = BarColumn(BAR, table_column=Column(no_wrap=True))
        super().__init__(_Name(), bar, TextColumn("{task.percentage:3.0f} %"), _Times(), **options)

    def add(self, name: str, total: float, begun: float = 0.0) -> TaskID:
        """A bar for something of which `begun` of `total` is done already."""
        number = self.add_task(name, total=total, begun=begun, figures="")
        self.update(number, completed=begun)
        return number

    def say(self, line: str) -> None:
        """Show a line above the bars."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def line(self, number: TaskID) -> str:
        """What a bar shows, as words."""
        task = self._tasks[number]
        return f"{_words(task)}, {task.percentage:.0f} %, {_times(task)}"


@dataclass(frozen=True)
class _Cut:
    """A name that gives way to the figures behind it."""

    name: str
    figures: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, max(1, len(self.name) + len(self.figures)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - len(self.figures)
        whole = shortened(self.name, room) + self.figures if room >= 8 else self.name + self.figures
        yield Text(shortened(whole, options.max_width), no_wrap=True)


class _Name(ProgressColumn):
    def render(self, task: Task) -> _Cut:
        return _Cut(task.description, f", {task.fields['figures']}" if task.fields["figures"] else "")


class _Times(ProgressColumn):
    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text(_times(task))


def _words(task: Task) -> str:
    return f"{task.description}, {task.fields['figures']}" if task.fields["figures"] else task.description


def _times(task: Task) -> str:
    """The time so far, and what is left if it goes on as it did since it began."""
    elapsed, done = task.elapsed or 0.0, task.completed - task.fields["begun"]
    left = f"{_clock(elapsed * (task.remaining or 0.0) / done)} left" if done > 0 else " -:--:-- left"
    return f"{_clock(elapsed)} {left.strip()}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Display:
    """The newest figures of one run, and how far it is.

    Args:
        folder: The run's.
        budget: What it may spend.
        metric: The one to show, as row 0 describes it.
        begun: What is spent already.
    """

    def __init__(self, folder: Path, budget: Budget, metric: Mapping[str, str], begun: float = 0.0) -> None:
        self.folder, self.budget, self.metric = folder, budget, metric
        self.quiet = not sys.stdout.isatty()
        self.bars = Bars(disable=self.quiet)
        self.bar = self.bars.add("update 0", budget.amount, min(begun, budget.amount))
        self.last = time.monotonic()
        self._within = _Within(self._say_within)

    def __enter__(self) -> Display:
        self.bars.start()
        self._within.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._within.end()
        self.bars.stop()

    def show(self, row: Row) -> None:
        """Show the newest row."""
        spent = min(self.budget.spent(row["spent"]), self.budget.amount)
        words = describe(row, self.metric) if self.quiet else f"update {row['update']}"
        figures = "" if self.quiet else brief(row, self.metric)
        self.bars.update(self.bar, completed=spent, description=words, figures=figures)
        if self.quiet and time.monotonic() - self.last > QUIET_SECONDS:
            self.last = time.monotonic()
            print(f"{self.folder}: {self.bars.line(self.bar)}", flush=True)

    def _say_within(self, words: str) -> None:
        """Show how far an update is that takes long."""
        if self.quiet:
            self.last = time.monotonic()
            print(f"{self.folder}: {words}", flush=True)
        else:
            self.bars.update(self.bar, figures=words)

    def end(self, done: Mapping[str, Any]) -> None:
        """Say how it ended."""
        print(f"{self.folder}: {done['status']}; {describe(done['final'], self.metric)}", flush=True)


class _Within(logging.Handler):
    """Hears what `hgenv.patience.Progress` tells."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    def begin(self) -> None:
        """Listen."""
        self._level = patience.progress.level
        patience.progress.setLevel(logging.INFO)
        patience.progress.addHandler(self)

    def end(self) -> None:
        """Listen no more."""
        patience.progress.removeHandler(self)
        patience.progress.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass it on."""
        self.say(record.getMessage())
