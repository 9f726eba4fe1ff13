"""Where an update's time goes, for each optimizer: `python -m hgenv.benchmarks.speed.update [--seconds 20]`.

Each optimizer, as configured, runs on the stand-in for as much CPU time, on a GPU where there is one. Shares are of the
CPU and GPU time charged to it, phase by phase; `ledger` is what the ledger's own clock readings take (measured on empty
phases, times their number), and `unaccounted` what the process used during the updates that no phase holds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import torch

from hgenv.accounting import OFF_CLOCK, PHASES, Ledger
from hgenv.env import DataGenEnv
from hgenv.memory import keep_memory
from hgenv.optimizers import REGISTRY

from .clocks import gpu, name_of


class _CountingLedger(Ledger):
    """Knows how often its clocks were read."""

    readings = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See `Ledger`."""
        self.readings += 2  # where it begins and where it ends
        with super().phase(name):
            yield


def measure(name: str, seconds: float) -> dict[str, float]:
    """Shares of one optimizer's updates by phase, with `ledger` and `unaccounted`."""
    env: DataGenEnv = gymnasium.make("hgenv/ShapeNormalsLit-v0", disable_env_checker=True).unwrapped
    optimizer = REGISTRY[name](env.space, seed=0)
    env.reset(seed=0)
    env.warm_up()
    env.ledger = ledger = _CountingLedger(env.device)
    start, before = time.process_time(), ledger.by_phase()
    while time.process_time() - start < seconds:
        optimizer.update(env)
    used, after = time.process_time() - start, ledger.by_phase()
    cpu, gpu = (
        {phase: after[phase][unit] - before[phase][unit] for phase in PHASES + OFF_CLOCK}
        for unit in ("cpu_seconds", "gpu_seconds")
    )
    charged = sum(cpu[phase] + gpu[phase] for phase in PHASES)
    shares = {phase: (cpu[phase] + gpu[phase]) / charged for phase in PHASES}
    readings_take = ledger.readings * reading_seconds(env.device)
    return shares | {"ledger": readings_take / charged, "unaccounted": 1 - sum(cpu.values()) / used}


def reading_seconds(device: torch.device, times: int = 20000) -> float:
    """CPU seconds that one reading of the clocks takes."""
    ledger = Ledger(device)
    start = time.process_time()
    for _ in range(times // 2):
        with ledger.phase("train"):  # two readings
            pass
    return (time.process_time() - start) / times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds for each optimizer (default: 20)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as in a run
    print(
        f"hgenv/ShapeNormalsLit-v0, stand-in, {arguments.seconds:g} CPU seconds each; "
        f"{os.cpu_count()} cores, 1 thread, {name_of(gpu())}"
    )
    names = (*PHASES, "ledger", "unaccounted")
    print(f"{'optimizer':<27}" + "".join(f"{name:>12}" for name in names) + f"{'overhead':>12}")
    result: dict[str, float] = {}
    for optimizer in REGISTRY:
        shares = measure(optimizer, arguments.seconds)
        print(
            f"{optimizer:<27}" + "".join(f"{shares[name]:>12.2%}" for name in names) + f"{shares['optimizer']:>12.2%}"
        )
        result |= {f"{optimizer}_{phase}_share": round(shares[phase], 5) for phase in PHASES}
        result["ledger_share"] = max(result.get("ledger_share", 0.0), round(shares["ledger"], 6))
        worst = max(result.get("unaccounted_share", 0.0), abs(round(shares["unaccounted"], 6)))
        result["unaccounted_share"] = worst
    print("\noverhead: everything outside generate, train, gradient and validate; ledger is part of all phases\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
