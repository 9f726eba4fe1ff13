"""How busy worker processes are while a network trains: `python -m hgenv.benchmarks.speed.ahead [--seconds 30]`.

A renderer takes 20 ms an image, of its own time: it sleeps, so that other load on the machine changes little. Two
worker processes make images of 16 by 16 pixels for the network of `hgenv/ShapeNormals-v0`, with 64 images a step: 0.64
seconds. Busy is the time that used images took, over the wall time of both processes; waited, the share of the wall
time in which the training process waited for images. Both as it is, and if nobody says what will be asked for next
(`DataGenEnv.expect`). Where training takes longer than rendering, workers cannot be busy all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import gymnasium
import numpy as np
import torch

from hgenv.distributions import Normal, Tuned
from hgenv.env import DataGenEnv
from hgenv.generators import BlackBox
from hgenv.learning import SGD, Network
from hgenv.memory import keep_memory
from hgenv.optimizers import REGISTRY

IMAGE_SECONDS, WORKERS, SIZE = 0.02, 2, 16
OPTIMIZERS = ("fixed", "score_influence")


def render(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """A tilted plane in noise, after 20 ms."""
    begun = time.perf_counter()
    rng, tilt = np.random.default_rng(seed), parameters["tilt"]
    normal = np.array([tilt, 0.0, 1.0]) / np.hypot(tilt, 1.0)
    made = {
        "image": (normal[2] + 0.05 * rng.standard_normal((1, SIZE, SIZE))).astype(np.float32),
        "target": np.broadcast_to(normal[:, None, None], (3, SIZE, SIZE)).astype(np.float32),
        "mask": np.ones((1, SIZE, SIZE), np.float32),
    }
    time.sleep(max(0.0, IMAGE_SECONDS - (time.perf_counter() - begun)))
    return made


def measure(name: str, seconds: float, *, ahead: bool) -> tuple[float, float]:
    """Share of the workers' wall time in which they were at work on images that were used; and waited for.

    The second number is the share of the wall time in which this process waited for images.
    """
    like: DataGenEnv = gymnasium.make(
        "hgenv/ShapeNormals-v0", network=Network(size=SIZE), disable_env_checker=True
    ).unwrapped
    parameters = {"tilt": Normal(Tuned(-1, 1, 0.0), Tuned(0.05, 1, 0.3))}
    generator = BlackBox(render, parameters, workers=WORKERS)
    env = DataGenEnv(generator, like.learner, like.validation, like.test, rule=SGD(0.05), device="cpu")
    if not ahead:
        env.expect = lambda betas, seeds: None  # type: ignore[method-assign]
    optimizer = REGISTRY[name](env.space, seed=0)
    env.reset(seed=0)
    env.warm_up()
    for _ in range(optimizer.period):
        optimizer.update(env)
    waited = env.ledger.by_phase()["generate"]["wall_seconds"]
    before, begun = env.ledger.counts["samples"], time.perf_counter()
    while time.perf_counter() - begun < seconds or env.update % optimizer.period:
        optimizer.update(env)
    wall = time.perf_counter() - begun
    env.close()
    waited = env.ledger.by_phase()["generate"]["wall_seconds"] - waited
    return (env.ledger.counts["samples"] - before) * IMAGE_SECONDS / (WORKERS * wall), waited / wall


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="wall seconds for each figure (default: 30)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as in a run
    load = os.getloadavg()[0]
    print(f"{WORKERS} workers, {1000 * IMAGE_SECONDS:g} ms an image; {os.cpu_count()} cores, load {load:.1f}")
    print(f"{'optimizer':<20}{'not ahead':>30}{'ahead':>30}")
    result = dict[str, float]()
    for name in OPTIMIZERS:
        figures = [measure(name, arguments.seconds, ahead=ahead) for ahead in (False, True)]
        words = (f"{busy:.1%} busy, {waited:.1%} waited" for busy, waited in figures)
        print(f"{name:<20}" + "".join(f"{said:>30}" for said in words), flush=True)
        result |= {f"{name}_busy_without": round(figures[0][0], 3), f"{name}_busy": round(figures[1][0], 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
