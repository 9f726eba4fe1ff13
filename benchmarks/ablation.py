"""How good one estimate of dL/dbeta is: `python -m benchmarks.ablation --out FOLDER env=shapes_lit env.data=mbii ...`.

At the initial beta and after some updates of training, every estimate is compared with a reference: central differences
of L itself, coordinate by coordinate, with common random numbers, averaged over several sets of sample seeds. Its own
noise shows in the cosine between its two halves. Figures are given for all components and by group: those that pick
(probabilities), other shape blocks, and the blocks that the generator is smooth in (the light). Takes the overrides of
`benchmarks.run` for the environment; writes `rows.jsonl` (every gradient, per fraction of range) and `report.md`
(cosines, cost of an estimate).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from hgenv import DataGenEnv
from hgenv.env import Outcome
from optimizers import BasicRandomSearch, CreditGradient, HybridGradient

from . import records
from .run import compose, make_environment, settings

# Name, optimizer, and what differs from the class's defaults.
ESTIMATORS: list[tuple[str, Any, dict[str, Any]]] = [
    ("basic random search, 2 pairs, sigma 0.1", BasicRandomSearch, {"pairs": 2, "sigma": 0.1}),
    ("basic random search, 8 pairs, sigma 0.1", BasicRandomSearch, {"pairs": 8, "sigma": 0.1}),
    ("hybrid, Gaussian, 4 shared (the paper's)", HybridGradient,
     {"directions": "gaussian", "shared": True, "count": 4, "exact": False, "clip_samples": None}),
    ("hybrid, Gaussian, 4 per sample", HybridGradient,
     {"directions": "gaussian", "count": 4, "exact": False, "clip_samples": None}),
    ("hybrid, coordinates, 8 per sample", HybridGradient, {"count": 8, "exact": False, "clip_samples": None}),
    ("the same, exact light", HybridGradient, {"count": 8, "clip_samples": None}),
    ("the same, exact light, median clipping", HybridGradient, {"count": 8}),
    ("the same, sigma 0.1", HybridGradient, {"count": 8, "sigma": 0.1}),
    ("the same, sigma 0.02", HybridGradient, {"count": 8, "sigma": 0.02}),
    ("all coordinates, exact light, clipping", HybridGradient, {"count": 37}),
    ("credit, Gaussian, sigma 0.05", CreditGradient, {"sigma": 0.05}),
    ("credit, Gaussian, sigma 0.1", CreditGradient, {"sigma": 0.1}),
    ("credit, Gaussian, sigma 0.2", CreditGradient, {"sigma": 0.2}),
    ("the same, sigma 0.1, clipped pairs", CreditGradient, {"sigma": 0.1, "clip_pairs": "median"}),
    ("credit, coordinates, sigma 0.1", CreditGradient, {"sigma": 0.1, "directions": "coordinate"}),
    ("credit by the full adjoint, Gaussian, sigma 0.1", CreditGradient, {"sigma": 0.1, "exact": True}),
]  # fmt: skip


class Bench:
    """An environment at one set of weights, asked again and again with other sample seeds."""

    def __init__(self, env: DataGenEnv, warm: int) -> None:
        self.env = env
        env.reset(seed=0)
        env.warm_up()
        for _ in range(warm):
            env.step(env.space.project(env.space.initial))
        self.state = env.state_dict()

    def at(self, draw: int) -> DataGenEnv:
        """The environment with the same weights and the sample seeds of draw `draw`."""
        self.env.load_state_dict(self.state | {"update": 1000 + draw})
        return self.env

    def reference(self, draw: int, sigma: float) -> Tensor:
        """Central differences of L along every coordinate, (d,)."""
        env, space = self.at(draw), self.env.space
        centre = space.scale(space.project(space.initial))
        steps = sigma * torch.eye(space.dimension, dtype=torch.float64)
        ahead, behind = (centre + steps).clamp(0, 1), (centre - steps).clamp(0, 1)
        outcomes = env.probe(space.clip(space.unscale(torch.cat([ahead, behind]))))
        losses = torch.tensor([_loss(o) for o in outcomes], dtype=torch.float64).reshape(2, -1)
        return (losses[0] - losses[1]) / (ahead - behind).sum(-1)

    def estimate(self, cls: Any, options: dict[str, Any], draw: int) -> tuple[Tensor, float]:
        """One estimate and its cost in CPU seconds beyond the step that is taken anyway."""
        env = self.at(draw)
        optimizer = cls(env.space, seed=draw, **options)
        if cls is not BasicRandomSearch:  # looks back on a step
            optimizer.update(env)
        before = env.ledger.spent("total_seconds")
        gradient = optimizer.gradient(env)
        return gradient, env.ledger.spent("total_seconds") - before


def _loss(outcome: Outcome) -> float:
    if outcome.loss is None:
        raise SystemExit(f"a probe failed, so there is no reference: {outcome.message or outcome.status.value}")
    return outcome.loss


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors."""
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300))


def main(arguments: list[str]) -> None:
    """Measure, write the rows and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for rows.jsonl and report.md")
    parser.add_argument("--warm", type=int, default=60, help="updates at the initial beta before measuring (60)")
    parser.add_argument("--draws", type=int, default=8, help="sets of sample seeds, for estimates and reference (8)")
    parser.add_argument("--sigma", type=float, default=0.05, help="of the reference's differences (0.05 of the range)")
    options, overrides = parser.parse_known_args(arguments)
    torch.set_num_threads(1)
    config = settings(compose(overrides))
    bench = Bench(make_environment(config), options.warm)
    space = bench.env.space
    groups = {"all": torch.ones(space.dimension, dtype=torch.bool)}
    smooth = torch.zeros(space.dimension, dtype=torch.bool)
    for name in bench.env.generator.smooth:
        smooth[space.slice(name)] = True
    picks = torch.zeros_like(smooth)
    for block in space.blocks:
        picks[space.slice(block.name)] = block.floor > 0
    kinds = {"probabilities": picks, "other shape": ~picks & ~smooth, "smooth": smooth}
    groups |= {name: kind for name, kind in kinds.items() if kind.any() and not kind.all()}

    options.out.mkdir(parents=True, exist_ok=True)
    rows = []

    def add(name: str, draw: int, gradient: Tensor, cost: float) -> None:
        rows.append({"estimator": name, "draw": draw, "gradient": [float(f"{g:.6g}") for g in gradient.tolist()]})
        rows[-1]["total_seconds"] = round(cost, 4)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        records.write(options.out / "rows.jsonl", text)

    references = []
    for draw in track(range(options.draws), "reference", disable=not sys.stdout.isatty()):
        references.append(bench.reference(100 + draw, options.sigma))
        add("reference", 100 + draw, references[-1], 0.0)
    half = options.draws // 2
    reference = torch.stack(references).mean(0)
    halves = torch.stack(references[:half]).mean(0), torch.stack(references[half:]).mean(0)

    lines = [
        f"# Estimates of dL/dbeta: {records.environment_label(config)}",
        "",
        f"After {options.warm} updates at the initial beta, {options.draws} draws of sample seeds; `reference` is "
        f"central differences of L, sigma {options.sigma}. A row: mean cosine of one estimate to it, over all "
        "components and by group; cosine of the mean of all draws to it; mean cosine between two draws; CPU + GPU "
        "seconds of one.",
        "",
        f"Command: `python -m benchmarks.ablation {' '.join(arguments)}`",
        "",
        "| estimator | " + " | ".join(groups) + " | mean of draws | between draws | seconds |",
        "| --- |" + " ---: |" * (len(groups) + 3),
        "| reference, half against half | "
        + " | ".join(f"{cosine(halves[0][g], halves[1][g]):.2f}" for g in groups.values())
        + " | | | |",
    ]
    for name, cls, changes in track(ESTIMATORS, "estimators", disable=not sys.stdout.isatty()):
        estimates, costs = zip(*(bench.estimate(cls, changes, draw) for draw in range(options.draws)), strict=True)
        for draw, (gradient, cost) in enumerate(zip(estimates, costs, strict=True)):
            add(name, draw, gradient, cost)
        single = [sum(cosine(e[g], reference[g]) for e in estimates) / len(estimates) for g in groups.values()]
        mean = cosine(torch.stack(estimates).mean(0), reference)
        pairs = [cosine(a, b) for i, a in enumerate(estimates) for b in estimates[:i]]
        cells = [*single, mean, sum(pairs) / len(pairs), sum(costs) / len(costs)]
        lines.append(f"| {name} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    records.write(options.out / "report.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
