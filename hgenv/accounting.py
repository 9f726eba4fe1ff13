"""What an experiment spends, on what, and how much it may: equal for every optimizer.

Every moment belongs to exactly one phase. An update is charged from its beginning to its end: what no inner phase
claims is the optimizer's own. Off the clock (test scoring, logging, checkpoints, and whatever a user does between two
updates) time is measured too, but charged to nobody. So all phases together add up to what the process used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from .clocks import cpu_and_wall
from .saved import Each, copy_like

PHASES = ("generate", "train", "gradient", "validate", "optimizer")
FREE = ("score", "log", "checkpoint", "warm_up")  # so is everything inside
OUTSIDE = "outside"  # between the calls of an environment or an optimizer: free, but what is called then is not
OFF_CLOCK = (*FREE, OUTSIDE)
CLOCKS = ("cpu_seconds", "gpu_seconds", "wall_seconds")  # of each phase
RESOURCES = ("cpu_seconds", "gpu_seconds", "total_seconds", "wall_seconds")
COUNTS = ("samples", "training_steps", "gradient_steps", "validation_passes", "flops", "gradient_flops", "updates")
PRICED = "priced_seconds"  # counts times prices
MARKS = 64  # phases on a device that wait to be booked, at most while it keeps up


class BudgetError(ValueError):
    """A budget that cannot be run under."""


@dataclass(frozen=True)
class Prices:
    """What a unit of work costs, in seconds: a price list. It makes a budget of counts that no clock disturbs.

    Attributes:
        sample: Making a sample.
        flop: A floating-point operation of the network.
        gradient_flop: What one of a gradient costs on top of that: gradients use a processor less well.
        update: What an update costs besides.

    Raises:
        BudgetError: A price is negative or not finite, or all are zero.
    """

    sample: float = 0.0
    flop: float = 0.0
    gradient_flop: float = 0.0
    update: float = 0.0

    def __post_init__(self) -> None:
        """Check them."""
        for name, price in asdict(self).items():
            if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < float("inf"):
                raise BudgetError(f"prices.{name} must be a finite number of seconds of at least 0, not {price!r}")
        if not any(asdict(self).values()):
            raise BudgetError("a price list needs a price above 0; nothing would cost anything")

    def cost(self, counts: Mapping[str, Any]) -> Any:
        """Seconds: the sum of counts times prices.

        Args:
            counts: By name in `COUNTS`, numbers or arrays of them.
        """
        return (
            self.sample * counts["samples"]
            + self.flop * counts["flops"]
            + self.gradient_flop * counts.get("gradient_flops", 0)  # rows of older versions have none
            + self.update * counts["updates"]
        )


@dataclass(frozen=True)
class Budget:
    """How much a run may spend.

    The overshoot rule: an update counts only if it ends within the budget. The one that crosses it is recorded as
    overshooting, enters no table, and is not given for free.

    Attributes:
        amount: In `unit`; positive.
        unit: One of `RESOURCES` or `COUNTS`, or `priced_seconds`: counts times prices, the same on every machine.
        prices: For `priced_seconds`, and for nothing else.
    """

    amount: float
    unit: str = "total_seconds"
    prices: Prices | None = None

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            BudgetError: The amount is not positive and finite, or the unit is unknown.
        """
        units = (*RESOURCES, PRICED, *COUNTS)
        if self.unit not in units:
            raise BudgetError(f"unknown budget unit {self.unit!r}; choose one of {', '.join(units)}")
        if not 0 < self.amount < float("inf"):
            raise BudgetError(f"a budget must be a positive, finite amount of {self.unit}, not {self.amount}")
        if (self.unit == PRICED) != (self.prices is not None):
            raise BudgetError(f"a budget in {PRICED} needs a price list, and no other has one; this is in {self.unit}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Budget:
        """The budget that settings stand for: `amount`, `unit`, and perhaps `prices`.

        Raises:
            BudgetError: They stand for none.
        """
        if not isinstance(settings, Mapping) or set(settings) | {"prices"} != {"amount", "unit", "prices"}:
            raise BudgetError(f"budget must have an amount and a unit, not {settings!r}")
        amount, prices = settings["amount"], settings.get("prices")
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise BudgetError(f"budget.amount must be a number (infinity is written inf), not {amount!r}")
        if prices is not None:
            known = [field.name for field in fields(Prices)]
            if not isinstance(prices, Mapping) or set(prices) - set(known):
                raise BudgetError(f"prices must be a price each for some of {', '.join(known)}, not {prices!r}")
            prices = Prices(**prices)
        return cls(amount, settings["unit"], prices)

    def spent(self, counts: Mapping[str, Any]) -> Any:
        """How much of its unit was spent, by resource and count: numbers, or arrays of them."""
        return counts[self.unit] if self.prices is None else self.prices.cost(counts)

    def share(self, ledger: Ledger) -> float:
        """Share of the budget that is spent; above 1 once it is overshot."""
        spent = ledger.spent(self.unit) if self.prices is None else self.prices.cost(ledger.counts)
        return float(spent / self.amount)


class Ledger:
    """Clocks per phase and counts of work.

    Attributes:
        counts: What was done on the clock, by name in `COUNTS`; free of noise. `flops` counts the convolutions and
            matrix products of the network; rendering has none. `gradient_flops` are those of them that gradients took.
        incidents: What went wrong and was mended, and how often, such as {"workers replaced": 2}. It is for the record:
            no incident is charged to anybody.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._seconds = {phase: dict.fromkeys(CLOCKS, 0.0) for phase in PHASES + OFF_CLOCK}
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self.incidents: dict[str, int] = {}
        self._phase = OUTSIDE
        self._last = cpu_and_wall()
        self._event = self._record()
        self._held: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()  # phases that are not booked yet

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to `name`; an inner phase's time is its own.

        What scoring, logging, saving or a warm-up calls is as free as they are.

        Raises:
            KeyError: There is no such phase.
        """
        if name not in self._seconds:
            raise KeyError(f"no phase {name!r}; the phases are {', '.join(PHASES + OFF_CLOCK)}")
        outer = self._phase
        self._switch(outer if outer in FREE else name)
        try:
            yield
        finally:
            self._switch(outer)

    @property
    def in_update(self) -> bool:
        """Whether an update is being charged right now: what was spent cannot be taken back then."""
        return self._phase in PHASES

    @property
    def on_clock(self) -> bool:
        """Whether work is being charged right now."""
        return self._phase not in FREE

    def count(self, name: str, amount: int) -> None:
        """Add to a count, unless off the clock."""
        if self.on_clock:
            self.counts[name] += amount

    def note(self, what: str) -> None:
        """Count an incident, on the clock or off it."""
        self.incidents[what] = self.incidents.get(what, 0) + 1

    def excuse(self, wall_seconds: float) -> None:
        """Charge nobody for so much of the wall time of the present phase: it passed because something had failed."""
        self._switch(self._phase)
        here = self._seconds[self._phase]
        given = min(max(wall_seconds, 0.0), here["wall_seconds"])
        here["wall_seconds"] -= given
        self._seconds[OUTSIDE]["wall_seconds"] += given

    def wait(self) -> None:
        """Wait, asleep, for the device to do what it was asked; on a CPU there is nothing to wait for.

        For right before a result is fetched, which would wait at full load: the CPU, too, would be charged for that.
        """
        event = self._record()
        if event is not None:
            event.synchronize()

    def charge(self, worker: dict[str, Any]) -> None:
        """Add what another process spent on behalf of this one, its `state_dict`.

        Its wall time is not added: it passes while this process waits. Off the clock, all of it is off.
        """
        for phase, seconds in worker["seconds"].items():
            own = self._seconds[phase if self.on_clock else self._phase]
            for unit in ("cpu_seconds", "gpu_seconds"):
                own[unit] += seconds[unit]
        for name, amount in worker["counts"].items():
            self.count(name, amount)

    def spent(self, unit: str) -> float:
        """What was spent so far in any resource or count."""
        if unit in self.counts:
            return self.counts[unit]
        self._settle()
        if unit == "total_seconds":
            return self.spent("cpu_seconds") + self.spent("gpu_seconds")
        return sum(self._seconds[phase][unit] for phase in PHASES)

    def by_phase(self) -> dict[str, dict[str, float]]:
        """cpu, gpu and wall seconds of every phase, those off the clock included."""
        self._settle()
        return {phase: dict(seconds) for phase, seconds in self._seconds.items()}

    def __repr__(self) -> str:
        done = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"<Ledger: {self.spent('total_seconds'):.3g} total_seconds; {done}>"

    def state_dict(self) -> dict[str, Any]:
        """All that was spent."""
        return {"seconds": self.by_phase(), "counts": dict(self.counts), "incidents": dict(self.incidents)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved ledger; the time since it was saved is not charged.

        Raises:
            ValueError: It is no ledger's state. Nothing has changed then.
        """
        state = self.checked(state)
        self._seconds, self.counts, self.incidents = state["seconds"], state["counts"], state["incidents"]
        self._held.clear()
        self._last, self._event = cpu_and_wall(), self._record()

    @staticmethod
    def checked(state: Any) -> dict[str, Any]:
        """A copy of a saved ledger.

        Raises:
            ValueError: It is no ledger's state; the message says what is wrong with it.
        """
        like = {
            "seconds": dict.fromkeys(PHASES + OFF_CLOCK, dict.fromkeys(CLOCKS, 0.0)),
            "counts": dict.fromkeys(COUNTS, 0),
        }
        if isinstance(state, dict):  # older versions saved less
            state = {"incidents": {}} | state
            if isinstance(state.get("counts"), dict):
                state["counts"] = {"gradient_flops": 0} | state["counts"]
        return copy_like(state, like | {"incidents": Each(0)}, "the ledger")

    def _switch(self, phase: str) -> None:
        seconds = self._seconds[self._phase]
        if self._event is not None:
            now = self._record()
            assert now is not None
            # The device is charged for as long as a phase that uses it holds it.
            if self._phase not in ("optimizer", OUTSIDE):
                self._held.append((self._phase, self._event, now))
            self._event = now
            if len(self._held) > MARKS:
                self._book()
        clocks = cpu_and_wall()
        seconds["cpu_seconds"] += clocks[0] - self._last[0]
        seconds["wall_seconds"] += clocks[1] - self._last[1]
        self._phase, self._last = phase, clocks

    def _settle(self) -> None:
        """Book everything until now. Only this has to wait for the device."""
        self._switch(self._phase)
        if self._held:
            self._held[-1][2].synchronize()
            self._book()

    def _book(self) -> None:
        """Charge for what the device is through with."""
        while self._held and self._held[0][2].query():
            phase, start, end = self._held.popleft()
            self._seconds[phase]["gpu_seconds"] += start.elapsed_time(end) / 1000

    def _record(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
