"""How long work takes as somebody sees who waits for it, and for how much of that a GPU has nothing to do.

A GPU waits for the host whenever no kernel, copy or fill runs on it. What runs is taken from torch's profiler (the
union of all intervals in the trace of one pass); how long a pass takes, from passes that nobody watches, since watching
slows down the host, but hardly the kernels.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

BUSY = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace that take the GPU
MOST = 50  # passes

Work = Callable[[], object]


def measure(work: Work, device: torch.device, seconds: float) -> dict[str, Any]:
    """Time one pass after another, the first left out.

    Args:
        work: A pass.
        device: Where it runs.
        seconds: How long to go on; there are two passes at least, three with the first.

    Returns:
        `seconds`, the median of the passes; `passes`, how many; `waits`, the share of the time in which the GPU waits
        for the host, None without one or where the profiler sees nothing.
    """
    _wall(work, device)
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < seconds and len(taken) < MOST):
        taken.append(_wall(work, device))
    median = statistics.median(taken)
    busy = _busy(work, device) if device.type == "cuda" else 0.0
    return {"seconds": median, "passes": len(taken), "waits": max(0.0, 1 - busy / median) if busy else None}


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals (start, end) cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def busy_seconds(trace: dict[str, Any]) -> float:
    """How long the GPU worked, from a trace in Chrome's format, whose times are microseconds."""
    events = [e for e in trace["traceEvents"] if e.get("ph") == "X" and e.get("cat") in BUSY]
    return union((e["ts"], e["ts"] + e["dur"]) for e in events) / 1e6


def _wall(work: Work, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _busy(work: Work, device: torch.device) -> float:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        _wait(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return busy_seconds(json.loads(path.read_text()))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
