"""Probes of one update side by side: `python -m hgenv.benchmarks.speed.probes [--probes 8] [--workers 1,2]`.

The same betas probed from the same weights in this process and in 1, 2, ... worker processes, taking turns; a figure is
the median of the wall seconds of a round, since that is what workers save. What they cost in CPU time stands beside it:
the ledger charges it to whoever probes. All give the same losses, bit for bit, or this ends in an error.

Where there is a GPU, the same probes run there, too, one after the other and as one batch, which differ by rounding.

The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from functools import partial

import gymnasium
import torch
from torch import Tensor

from hgenv.env import DataGenEnv
from hgenv.memory import keep_memory
from hgenv.probing import Batched, Prober, Serial, Workers

from .clocks import gpu, name_of, take_turns, wall_seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probes", type=int, default=8, help="probes in a round (default: 8)")
    parser.add_argument("--workers", default="1,2", help="numbers of worker processes (default: 1,2)")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds after the warm-up (default: 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as in a run
    counts = [0, *map(int, arguments.workers.split(","))]
    envs: dict[int, DataGenEnv] = {}
    for count in counts:
        envs[count] = made("cpu", Workers(count) if count else Serial())
    space = envs[0].space
    draw = torch.Generator().manual_seed(0)
    betas = space.denormalize(torch.rand(arguments.probes, space.dimension, generator=draw, dtype=torch.float64))
    betas = space.project((betas + space.initial) / 2)

    wall: dict[int, list[float]] = {count: [] for count in counts}
    cpu: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(arguments.repetitions):
        losses = set()
        for count, env in envs.items():
            start, spent = time.perf_counter(), env.ledger.spent("cpu_seconds")
            outcomes = env.probe(betas)
            wall[count].append(time.perf_counter() - start)
            cpu[count].append(env.ledger.spent("cpu_seconds") - spent)
            losses.add(tuple(outcome.loss for outcome in outcomes))
        if len(losses) > 1:
            raise SystemExit(f"the losses depend on the number of workers: {losses}")
    for env in envs.values():
        env.close()

    print(
        f"{arguments.probes} probes of hgenv/ShapeNormalsLit-v0 (K x B = 2 x 32), median of {arguments.repetitions} "
        f"rounds; {os.cpu_count()} cores, one torch thread a process; the same losses, bit for bit\n"
    )
    print(f"{'workers':<10}{'wall s':>9}{'x one':>8}{'x none':>8}{'CPU s':>9}")
    figures: dict[str, float] = {}
    seconds = {count: statistics.median(wall[count]) for count in counts}
    for count in counts:
        one = seconds.get(1, seconds[0])
        charged = statistics.median(cpu[count])
        ratios = f"{one / seconds[count]:>8.2f}{seconds[0] / seconds[count]:>8.2f}"
        print(f"{count:<10}{seconds[count]:>9.2f}{ratios}{charged:>9.2f}")
        figures |= {f"workers_{count}_seconds": seconds[count], f"workers_{count}_cpu_seconds": charged}
    if (device := gpu()) is not None:
        figures |= measure_gpu(betas, device, arguments.repetitions)
    print("\n" + json.dumps(figures))


def made(device: str, prober: Prober) -> DataGenEnv:
    """An environment that is ready to probe."""
    env: DataGenEnv = gymnasium.make(
        "hgenv/ShapeNormalsLit-v0", disable_env_checker=True, device=device, prober=prober
    ).unwrapped
    env.reset(seed=0)
    env.warm_up()
    return env


def measure_gpu(betas: Tensor, device: torch.device, repetitions: int) -> dict[str, float]:
    """Wall seconds of a round on a GPU, one probe after the other and all as one batch."""
    work = {}
    for name, prober in (("gpu_single", Serial()), ("gpu_batch", Batched())):
        work[name] = partial(made(str(device), prober).probe, betas)
    losses = [[outcome.loss for outcome in probe()] for probe in work.values()]
    furthest = max(abs(a / b - 1) for a, b in zip(*losses, strict=True))
    seconds = take_turns(work, repetitions, wall_seconds)
    print(f"\n{name_of(device)}: one by one {seconds['gpu_single']:.3f} s, as one batch {seconds['gpu_batch']:.3f} s")
    print(f"losses differ by {furthest:.1g} at most")
    return {f"{name}_seconds": taken for name, taken in seconds.items()} | {"gpu_batch_error": furthest}


if __name__ == "__main__":
    main()
