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
import math
import sys
from collections.abc import Iterator
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
Estimator = tuple[str, Any, dict[str, Any]]


def _estimators() -> list[Estimator]:
    found: list[Estimator] = []
    for pairs, sigma in ((2, 0.05), (2, 0.1), (2, 0.2), (8, 0.1)):
        name = f"basic random search, {pairs} pairs, sigma {sigma}"
        found.append((name, BasicRandomSearch, {"pairs": pairs, "sigma": sigma}))
    plain = {"exact": False, "clip_samples": None}
    for directions in ("gaussian", "coordinate"):
        for shared in (True, False):
            for count in (4, 16):
                name = f"hybrid, {count} {directions} {'shared' if shared else 'per sample'}, sigma 0.05"
                changes = {"directions": directions, "shared": shared, "count": count, "sigma": 0.05}
                found.append((name, HybridGradient, plain | changes))
    for sigma in (0.02, 0.1, 0.2):
        changes = {"directions": "coordinate", "count": 16, "sigma": sigma}
        found.append((f"hybrid, 16 coordinate per sample, sigma {sigma}", HybridGradient, plain | changes))
    for count in (8, 10**6):
        for clip in (None, "median"):
            name = f"hybrid, {count if count == 8 else 'all'} coordinates, exact light"
            clipped: dict[str, Any] = {"count": count, "clip_samples": clip}
            found.append((name + (", samples clipped" if clip else ""), HybridGradient, clipped))
    for steps, which in ((None, "all steps"), (1, "last step")):
        name = f"hybrid, {which} without curvature, 8 coordinates, exact light, samples clipped"
        found.append((name, HybridGradient, {"steps": steps, "curvature": False}))
    for directions in ("gaussian", "coordinate"):
        for sigma in (0.05, 0.1, 0.2):
            changes = {"directions": directions, "sigma": sigma}
            found.append((f"credit, {directions}, sigma {sigma}", CreditGradient, changes))
    found.append(("credit, gaussian, sigma 0.1, pairs clipped", CreditGradient, {"clip_pairs": "median"}))
    found.append(("credit by the full adjoint, gaussian, sigma 0.1", CreditGradient, {"exact": True}))
    return found


ESTIMATORS = _estimators()


class Bench:
    """An environment at one set of weights, asked again and again with other sample seeds."""

    def __init__(self, env: DataGenEnv, warm: int) -> None:
        self.env = env
        env.reset(seed=0)
        env.warm_up()
        self.beta = env.space.project(env.space.initial)
        for _ in range(warm):
            env.step(self.beta)
        self.state = env.state_dict()

    def at(self, draw: int) -> DataGenEnv:
        """The environment with the same weights and the sample seeds of draw `draw`."""
        self.env.load_state_dict(self.state | {"update": 1000 + draw})
        return self.env

    def reference(self, draw: int, sigma: float) -> Tensor:
        """Central differences of L along every coordinate, (d,)."""
        env, space = self.at(draw), self.env.space
        centre = space.scale(self.beta)
        steps = sigma * torch.eye(space.dimension, dtype=torch.float64)
        ahead, behind = (centre + steps).clamp(0, 1), (centre - steps).clamp(0, 1)
        outcomes = env.probe(space.clip(space.unscale(torch.cat([ahead, behind]))))
        losses = torch.tensor([_loss(o) for o in outcomes], dtype=torch.float64).reshape(2, -1)
        return (losses[0] - losses[1]) / (ahead - behind).sum(-1)

    def estimates(self, draw: int) -> Iterator[tuple[str, Tensor, float]]:
        """One estimate of every kind: its name, its gradient (d,), its CPU + GPU seconds beyond the step behind it."""
        # All hybrid gradients by the adjoint look back on the same step, and one dL/dX serves them; each is charged
        # for it.
        env = self.at(draw)
        env.step(self.beta)
        before = env.ledger.spent("total_seconds")
        env.sample_gradient()
        shared = env.ledger.spent("total_seconds") - before
        for name, cls, changes in sorted(ESTIMATORS, key=lambda estimator: not _by_adjoint(estimator)):
            served = _by_adjoint((name, cls, changes))
            if not served:
                env = self.at(draw)
                if cls is HybridGradient:
                    env.step(self.beta)
            optimizer = cls(env.space, seed=draw, **changes)
            if cls is CreditGradient:
                optimizer.update(env)
            before = env.ledger.spent("total_seconds")
            gradient = optimizer.gradient(env)
            cost = env.ledger.spent("total_seconds") - before
            yield name, gradient, cost + (shared if served else 0)


def _by_adjoint(estimator: Estimator) -> bool:
    return estimator[1] is HybridGradient and estimator[2].get("curvature", True)


def _loss(outcome: Outcome) -> float:
    if outcome.loss is None:
        raise SystemExit(f"a probe failed, so there is no reference: {outcome.message or outcome.status.value}")
    return outcome.loss


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors."""
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300))


def component_groups(env: DataGenEnv) -> dict[str, Tensor]:
    """(d,) bool masks: all components, and those of each kind, where there is more than one kind."""
    space = env.space
    picks, smooth = torch.zeros(space.dimension, dtype=torch.bool), torch.zeros(space.dimension, dtype=torch.bool)
    for name in env.generator.smooth:
        smooth[space.slice(name)] = True
    for block in space.blocks:
        picks[space.slice(block.name)] = block.floor > 0
    kinds = {"probabilities": picks, "other shape": ~picks & ~smooth, "smooth": smooth}
    kinds = {name: kind for name, kind in kinds.items() if kind.any() and not kind.all()}
    return {"all": torch.ones(space.dimension, dtype=torch.bool)} | kinds


def head(config: dict[str, Any], options: argparse.Namespace, arguments: list[str]) -> list[str]:
    """What the table is about, line by line."""
    env = config["env"]
    size = f"{env['unroll_steps']} x {env['batch_size']}"
    return [
        f"# Estimates of dL/dbeta: {records.environment_label(config)}, K x B = {size}",
        "",
        f"After {options.warm} updates at the initial beta. The reference is central differences of L, sigma "
        f"{options.sigma}, coordinate by coordinate, mean of {options.references} draws of sample seeds. A row: mean "
        f"cosine to it of one estimate and, after the slash, cosine of the mean of {options.draws} draws; in brackets "
        "the noise of one (root of its mean square over draws) in lengths of the reference; over all components and "
        "by group; mean cosine between two draws; CPU + GPU seconds of one beyond the step behind it. The "
        "reference has noise too: its halves agree only so far, and an exact estimate would have the cosine in the "
        "line after that.",
        "",
        f"Command: `python -m benchmarks.ablation {' '.join(arguments)}`",
        "",
    ]


def report(rows: list[dict[str, Any]], groups: dict[str, Tensor]) -> list[str]:
    """The table of what `rows` say, line by line."""
    found: dict[str, list[Tensor]] = {}
    costs: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["estimator"], []).append(torch.tensor(row["gradient"], dtype=torch.float64))
        costs.setdefault(row["estimator"], []).append(row["total_seconds"])
    references = torch.stack(found.pop("reference"))
    reference = references.mean(0)
    even, odd = references[0::2].mean(0), references[1::2].mean(0)
    halves = [cosine(even[g], odd[g]) for g in groups.values()]
    # Spearman and Brown: the reference has twice the draws of a half, and the truth no noise at all.
    ceilings = [math.sqrt(2 * h / (1 + h)) if h > 0 else math.nan for h in halves]
    lines = [
        "| estimator | " + " | ".join(groups) + " | between draws | seconds |",
        "| --- |" + " ---: |" * (len(groups) + 2),
        "| reference, half against half | " + " | ".join(f"{h:.2f}" for h in halves) + " | | |",
        "| what an exact estimate would have | " + " | ".join(f"{c:.2f}" for c in ceilings) + " | | |",
    ]
    for name, estimates in found.items():
        drawn, mean = torch.stack(estimates), torch.stack(estimates).mean(0)
        scatter = (drawn - mean).square().sum(0) / (len(drawn) - 1)
        cells = []
        for g in groups.values():
            single = sum(cosine(e[g], reference[g]) for e in estimates) / len(estimates)
            noise = float(scatter[g].sum().sqrt() / reference[g].norm())
            cells.append(f"{single:.2f} / {cosine(mean[g], reference[g]):.2f} ({noise:.2g})")
        pairs = [cosine(a, b) for i, a in enumerate(estimates) for b in estimates[:i]]
        more = (sum(pairs) / len(pairs), sum(costs[name]) / len(estimates))
        lines.append(f"| {name} | " + " | ".join([*cells, *(f"{c:.2f}" for c in more)]) + " |")
    return lines


def main(arguments: list[str]) -> None:
    """Measure; write the rows as they come, and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for rows.jsonl and report.md")
    parser.add_argument("--warm", type=int, default=60, help="updates at the initial beta before measuring (60)")
    parser.add_argument("--draws", type=int, default=16, help="sets of sample seeds for the estimates, 2 at least (16)")
    parser.add_argument("--references", type=int, default=24, help="and for the reference (24)")
    parser.add_argument("--sigma", type=float, default=0.1, help="of the reference's differences (0.1 of the range)")
    options, overrides = parser.parse_known_args(arguments)
    if min(options.draws, options.references) < 2:
        parser.error("--draws and --references must be at least 2: their scatter is what this is about")
    torch.set_num_threads(1)
    config = settings(compose(overrides))
    bench = Bench(make_environment(config), options.warm)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (options.out / "rows.jsonl").open("w") as file:

        def add(name: str, draw: int, gradient: Tensor, cost: float) -> None:
            numbers = [float(f"{g:.6g}") for g in gradient.tolist()]
            rows.append({"estimator": name, "draw": draw, "gradient": numbers, "total_seconds": round(cost, 4)})
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()

        for draw in track(range(options.draws), "estimates", disable=not sys.stdout.isatty()):
            for name, gradient, cost in bench.estimates(draw):
                add(name, draw, gradient, cost)
        for draw in track(range(options.references), "reference", disable=not sys.stdout.isatty()):
            add("reference", 1000 + draw, bench.reference(1000 + draw, options.sigma), 0.0)
    text = [*head(config, options, arguments), *report(rows, component_groups(bench.env))]
    records.write(options.out / "report.md", "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main(sys.argv[1:])
