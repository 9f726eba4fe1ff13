"""Clocks for the scripts beside this: processor time of work on a CPU, time on the device of work on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Clock = Callable[[Callable[[], object]], float]


def gpu() -> torch.device | None:
    """The GPU, where there is one."""
    return torch.device("cuda") if torch.cuda.is_available() else None


def cpu_seconds(work: Callable[[], object]) -> float:
    """What all threads of this process take; waiting for a busy core does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def gpu_seconds(work: Callable[[], object]) -> float:
    """From when the GPU could begin until it is done, waits for the host included."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def wall_seconds(work: Callable[[], object]) -> float:
    """What somebody who waits for the result sees."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(
    work: Mapping[str, Callable[[], object]], repetitions: int, clock: Clock = cpu_seconds
) -> dict[str, float]:
    """Median seconds of each side, a warm-up left out; the sides take turns within a repetition."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repetition in range(repetitions + 1):
        for name, function in work.items():
            taken = clock(function)
            if repetition > 0:
                seconds[name].append(taken)
    return {name: statistics.median(times) for name, times in seconds.items()}


def name_of(device: torch.device | None) -> str:
    """What a table calls it."""
    return "no GPU" if device is None else torch.cuda.get_device_name(device)
