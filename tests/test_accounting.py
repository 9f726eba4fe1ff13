import time

import pytest

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
    phases = ledger.by_phase()
    used = time.process_time() - before
    assert sum(p["cpu_seconds"] for p in phases.values()) == pytest.approx(used, rel=0.02)
    for phase in ("train", "validate", "optimizer", "score"):
        assert phases[phase]["cpu_seconds"] >= 0.05
    assert ledger.spent("cpu_seconds") == pytest.approx(used - phases["score"]["cpu_seconds"], rel=0.02)
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
