import time
import weakref
from typing import Any

import pytest
import torch

from hgenv.accounting import Budget, BudgetError, Ledger


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_phases_add_up_to_the_process() -> None:
    before = time.process_time()
    ledger = Ledger()
    with ledger.phase("train"):
        burn(0.05)
        with ledger.phase("validate"):
            burn(0.05)
    burn(0.05)
    with ledger.phase("score"):
        burn(0.05)
    with ledger.phase("optimizer"):
        burn(0.05)
    phases = ledger.by_phase()
    used = time.process_time() - before
    assert sum(p["cpu_seconds"] for p in phases.values()) == pytest.approx(used, rel=0.02)
    for phase in ("train", "validate", "optimizer", "score", "outside"):
        assert phases[phase]["cpu_seconds"] >= 0.05
    free = phases["score"]["cpu_seconds"] + phases["outside"]["cpu_seconds"]
    assert ledger.spent("cpu_seconds") == pytest.approx(used - free, rel=0.02)
    assert ledger.spent("total_seconds") == pytest.approx(ledger.spent("cpu_seconds"), rel=0.02)


def test_off_the_clock_nothing_is_charged() -> None:
    ledger = Ledger()
    for phase in ("score", "log", "checkpoint", "warm_up"):
        with ledger.phase(phase), ledger.phase("train"):
            ledger.count("training_steps", 3)
            burn(0.01)
    assert ledger.counts["training_steps"] == 0
    assert ledger.by_phase()["train"]["cpu_seconds"] == 0
    with ledger.phase("train"):
        ledger.count("training_steps", 3)
    assert ledger.spent("training_steps") == 3


def test_a_failing_phase_still_ends() -> None:
    ledger = Ledger()
    with pytest.raises(RuntimeError), ledger.phase("score"):
        raise RuntimeError
    assert ledger.on_clock


class Device:
    """A device whose clock runs as it is told, and which is done with what it was asked only when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = self.done = 0.0
        self.waits = 0
        self.kept: weakref.WeakSet[Any] = weakref.WeakSet()  # events that somebody still holds
        device = self

        class Event:
            def __init__(self, enable_timing: bool, blocking: bool) -> None:
                assert enable_timing
                assert blocking, "who waits sleeps"
                device.kept.add(self)

            def record(self, stream: str) -> None:
                assert stream == "the stream of cuda"
                self.at = device.clock

            def query(self) -> bool:
                return device.done >= self.at

            def synchronize(self) -> None:
                device.waits += 1
                device.done = max(device.done, self.at)

            def elapsed_time(self, end: "Event") -> float:
                assert self.query()
                assert end.query(), "its time is not known before it is done"
                return 1000 * (end.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")


def test_a_device_is_charged_for_the_phases_that_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    ledger = Ledger("cuda")
    with ledger.phase("train"):
        device.clock += 3
        with ledger.phase("validate"):
            device.clock += 2
    device.clock += 7  # the optimizer's own: nothing on the device
    with ledger.phase("score"), ledger.phase("train"):
        device.clock += 11
    assert device.waits == 0, "a phase waits for nothing"
    assert ledger.spent("gpu_seconds") == 5
    assert ledger.spent("total_seconds") == pytest.approx(5 + ledger.spent("cpu_seconds"), abs=0.01)
    phases = ledger.by_phase()
    assert {name: p["gpu_seconds"] for name, p in phases.items() if p["gpu_seconds"]} == {
        "train": 3, "validate": 2, "score": 11,
    }  # fmt: skip


def test_a_device_that_keeps_up_is_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    ledger = Ledger("cuda")
    for _ in range(1000):
        with ledger.phase("train"):
            device.clock += 1
        device.done = device.clock
    assert device.waits == 0
    assert len(device.kept) < 200
    saved = ledger.state_dict()
    device.clock += 5
    restored = Ledger("cuda")
    restored.load_state_dict(saved)
    assert restored.spent("gpu_seconds") == 1000


def test_waiting_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    Ledger("cuda").wait()
    assert device.waits == 1
    Ledger("cpu").wait()  # a CPU has nothing to wait for
    assert device.waits == 1


def test_unknown_phase() -> None:
    with pytest.raises(KeyError, match="no phase 'lunch'"), Ledger().phase("lunch"):
        pass


def test_waiting_costs_wall_time_only() -> None:
    ledger = Ledger()
    with ledger.phase("generate"):
        time.sleep(0.05)
    phase = ledger.by_phase()["generate"]
    assert phase["wall_seconds"] >= 0.05
    assert phase["cpu_seconds"] < 0.04


def test_budgets_in_any_unit() -> None:
    ledger = Ledger()
    ledger.count("samples", 30)
    assert Budget(40, "samples").share(ledger) == 0.75
    assert Budget(20, "samples").share(ledger) == 1.5
    assert Budget(1e9).share(ledger) < 1e-6


@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf")])
def test_a_budget_must_be_something(amount: float) -> None:
    with pytest.raises(BudgetError, match="positive, finite"):
        Budget(amount)


def test_a_budget_needs_a_known_unit() -> None:
    with pytest.raises(BudgetError, match="unknown budget unit 'hours'; choose one of cpu_seconds"):
        Budget(1, "hours")


def test_a_saved_ledger_goes_on() -> None:
    ledger = Ledger()
    with ledger.phase("train"):
        burn(0.02)
    ledger.count("samples", 5)
    state = ledger.state_dict()
    burn(0.05)
    other = Ledger()
    other.load_state_dict(state)
    assert other.spent("samples") == 5
    assert 0.02 <= other.spent("cpu_seconds") < 0.045


PRICES = {"sample": 0.5, "flop": 2.0, "gradient_flop": 0.25, "update": 8.0}


def test_a_budget_by_price_list_is_counts_times_prices() -> None:
    ledger = Ledger()
    for name, count in (("samples", 6), ("flops", 10), ("gradient_flops", 4), ("updates", 1)):
        ledger.count(name, count)
    burn(0.02)  # costs nothing
    budget = Budget.of({"amount": 64, "unit": "priced_seconds", "prices": PRICES})
    assert budget.spent(ledger.counts) == 3 + 20 + 1 + 8
    assert budget.share(ledger) == 0.5
    old = {"samples": 6, "flops": 10, "updates": 1}
    assert budget.spent(old) == 31  # rows that do not know gradients' operations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"amount": 1, "unit": "priced_seconds"}, "needs a price list"),
        ({"amount": 1, "unit": "samples", "prices": PRICES}, "no other has one; this is in samples"),
        ({"amount": 1, "unit": "priced_seconds", "prices": PRICES | {"smaple": 1}}, "for some of sample, flop, gradie"),
        ({"amount": 1, "unit": "priced_seconds", "prices": {"sample": -1}}, r"prices\.sample must be a finite number"),
        ({"amount": 1, "unit": "priced_seconds", "prices": {"flop": True}}, r"prices\.flop must be a finite number"),
        ({"amount": 1, "unit": "priced_seconds", "prices": {}}, "nothing would cost anything"),
        ({"amount": 1}, "must have an amount and a unit"),
    ],
)
def test_a_price_list_makes_sense_or_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.of(settings)


def test_a_ledger_that_was_saved_before_gradients_operations_were_counted_goes_on() -> None:
    state = Ledger().state_dict()
    del state["counts"]["gradient_flops"]
    other = Ledger()
    other.load_state_dict(state)
    assert other.counts["gradient_flops"] == 0
