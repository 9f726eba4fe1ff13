"""Speed of what an update is made of, and of some optimizers' updates: launched kernel by kernel, and played back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hgenv.env import DataGenEnv
from hgenv.generators import ShapeGenerator
from hgenv.learning import Network, influence, sample_gradient, sample_gradient_without_curvature, train
from hgenv.learning.first_order import virtual_influence
from hgenv.learning.rules import TrainingState
from hgenv.optimizers import REGISTRY, Optimizer
from hgenv.probing import Batched, Prober, Serial
from hgenv.rendering.csg import AnalyticRenderer

from . import clock
from .photos import Pair
from .problem import make

HOW = (False, True)  # recorded or not
PROBES = 4  # as many as a basic random search makes
VIRTUAL = 256  # samples, as one batch
PERIOD = 4  # updates in a pass: every preset's period divides it

Save = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        generated: Samples in a batch of the generator.
        pixels: Edges of what it makes.
        network_pixels: Edge of what the networks see.
        optimizers: Those that are measured.
        seconds: For each figure, about.
    """

    generated: tuple[int, ...] = (64, 512, 4096)
    pixels: tuple[int, ...] = (64, 128)
    network_pixels: int = 64
    optimizers: tuple[str, ...] = ("hybrid_gradient_paper", "credit_gradient", "combined", "basic_random_search")
    seconds: float = 0.4


def generating(sizes: Sizes, device: str, save: Save) -> None:
    """Samples per second from betas and seeds to finished samples."""
    found: list[dict[str, Any]] = []
    for pixels in sizes.pixels:
        generator = ShapeGenerator(AnalyticRenderer(pixels), lit=True)
        for count in sizes.generated:
            betas = generator.space.project(generator.space.initial).expand(count, -1)
            seeds = torch.arange(count, device=device)
            row: dict[str, Any] = {"name": f"{pixels} px", "samples": count}
            row |= _measured(partial(generator, betas, seeds), torch.device(device), sizes.seconds)
            found.append(row | ({"per_second": count / row["seconds"]} if "seconds" in row else {}))
            save({"rows": found})


def training(preset: str, batch: int, photos: Pair, sizes: Sizes, device: str, save: Save) -> None:
    """Seconds of everything that an update of a network of this preset may consist of, and of updates."""
    found: list[dict[str, Any]] = []
    network = Network(preset, size=sizes.network_pixels)
    ways = HOW if device == "cuda" else HOW[:1]
    how = {recorded: make(photos, network, batch_size=batch, device=device, cuda_graphs=recorded) for recorded in ways}
    about = {"data": photos[0].label, "network": preset, "pixels": sizes.network_pixels, "batch": batch}
    pieces = [_pieces(env, sizes.optimizers) for env in how.values()]
    for both in zip(*pieces, strict=True):
        for recorded, (name, work, times) in zip(how, both, strict=True):
            row: dict[str, Any] = {"name": name, "recorded": recorded}
            row |= _measured(work, how[recorded].device, sizes.seconds)
            if "seconds" in row:
                row["seconds"] /= times
            found.append(row)
        save(about | {"rows": found})


def _pieces(env: DataGenEnv, optimizers: Sequence[str]) -> Iterator[tuple[str, clock.Work, int]]:
    """What is measured: its name, a pass, and how many of the thing are in a pass."""
    problem, space = env.problem, env.space
    beta = space.project(space.initial)
    rolled = env.rollout(beta)
    if rolled.samples is None:
        raise RuntimeError(f"there are no samples to train on: {rolled.outcome.message}")
    batches, virtual = rolled.samples.split(problem.batch_size), env.sample_seeds(VIRTUAL)
    given = problem.learner, problem.rule, rolled.states, batches, problem.validation

    def working(work: Callable[[], object]) -> clock.Work:
        def done() -> None:
            with problem.work(env.ledger, "gradient"):
                work()

        return done

    yield "training step", working(partial(train, *given[:2], rolled.states[0], batches)), problem.unroll_steps
    yield "validation pass", partial(problem.validate, rolled.end, env.ledger), 1
    yield "dL/dX with curvature, K steps", working(partial(sample_gradient, *given)), 1
    yield (
        "dL/dX without curvature, last step",
        working(partial(sample_gradient_without_curvature, *given, last_steps=1)),
        1,
    )
    yield "influence, K steps", working(partial(influence, *given)), 1
    samples = problem.generate(beta.expand(VIRTUAL, -1), virtual)
    yield f"influence of {VIRTUAL} virtual samples", working(partial(virtual_influence, *given, samples)), 1
    betas = [space.project(space.random(i)) for i in range(PROBES)]
    probers: dict[str, Prober] = {"one by one": Serial(), "as one batch": Batched()}
    for how, prober in probers.items():
        yield f"{PROBES} probes {how}", partial(_probe, env, rolled.states[0], prober, betas), 1
    for name in optimizers:
        yield f"update: {name}", *_updates(env, name)


def _probe(env: DataGenEnv, start: TrainingState, prober: Prober, betas: list[torch.Tensor]) -> None:
    prober.probe(env.problem, start, betas, env.sample_seeds(env.problem.num_samples), env.ledger)


def _updates(env: DataGenEnv, name: str) -> tuple[clock.Work, int]:
    """Some updates, and how many."""
    made: list[Optimizer] = []

    def work() -> None:
        if not made:  # here, so that an optimizer that cannot be made is one row that fails
            env.reset(seed=0)
            made.append(REGISTRY[name](env.space, seed=0))
        for _ in range(PERIOD):
            made[0].update(env)

    return work, PERIOD


def _measured(work: clock.Work, device: torch.device, seconds: float) -> dict[str, Any]:
    """Figures of one thing, or why there are none."""
    try:
        return clock.measure(work, device, seconds)
    except ImportError as error:
        return {"skipped": str(error)}
    except Exception as error:  # whatever breaks is one row: the others are worth having
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {error}"[:400]}
