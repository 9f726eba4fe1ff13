"""How good one estimate of dL/dbeta is: `python -m hgenv.benchmarks.ablation --out FOLDER env=shapes_lit ...`.

At the initial beta and after some updates of training, every estimate is compared with a reference: central differences
of L itself, coordinate by coordinate, with common random numbers, averaged over several sets of sample seeds. Its own
noise shows in the cosine between its two halves. Figures are given for all components and by group: the blocks that the
generator has derivatives of (pathwise), those that pick (probabilities), and others.

Takes the overrides of `hgenv run` for the environment. Writes `rows.parquet` (every gradient, per fraction of
range) and `report.md` (cosines, cost of an estimate); what the folder holds of other environments stays. With
`--only PATTERN`, estimators whose names match it (a regular expression) are measured, and what the folder holds of the
others and of the reference stays as well. With `--report`, nothing is measured, and `report.md` is made again from the
rows.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from hgenv import DataGenEnv, Generator, Outcome
from hgenv.optimizers import (
    Antithetic,
    AutoSimulate,
    Combined,
    Credit,
    Estimator,
    Hybrid,
    Pathwise,
    ScoreInfluence,
    UnsuitableError,
)
from hgenv.optimizers.directions import KINDS

from . import files, records
from .config import compose, make_environment
from .studies import ROWS, read_estimates, write_estimates


def _estimators() -> dict[str, Estimator]:
    found: dict[str, Estimator] = {}
    for pairs, sigma in ((2, 0.05), (2, 0.1), (2, 0.2), (8, 0.1)):
        found[f"basic random search, {pairs} pairs, sigma {sigma}"] = Antithetic(num_directions=pairs, sigma=sigma)

    def paper(directions: Any, shared: bool, count: int, sigma: float) -> None:
        name = f"hybrid, {count} {directions} {'shared' if shared else 'per sample'}, sigma {sigma}"
        found[name] = Hybrid(
            directions, count, shared, sigma, last_steps=None, curvature=True, pathwise=False, clip_samples=False
        )

    for directions in ("gaussian", "coordinate"):
        for shared in (True, False):
            for count in (4, 16):
                paper(directions, shared, count, 0.05)
    for sigma in (0.02, 0.1, 0.2):
        paper("coordinate", False, 16, sigma)
    for count, number in ((8, "8"), (10**6, "all")):
        for clip in (False, True):
            name = f"hybrid, {number} coordinates, pathwise" + (", samples clipped" if clip else "")
            found[name] = Hybrid(num_directions=count, last_steps=None, curvature=True, clip_samples=clip)
    for last_steps, which in ((None, "all steps"), (1, "last step")):
        name = f"hybrid, {which} without curvature, 8 coordinates, pathwise, samples clipped"
        found[name] = Hybrid(last_steps=last_steps)
    for directions in KINDS:
        for sigma in (0.05, 0.1, 0.2):
            found[f"credit, {directions}, sigma {sigma}"] = Credit(directions, sigma)
    found["credit, gaussian, sigma 0.1, pairs clipped"] = Credit(sigma=0.1, clip_pairs=True)
    found["credit with curvature, gaussian, sigma 0.1"] = Credit(sigma=0.1, curvature=True)
    for virtual in (0, 48, 192, 768):
        for medians, clipped in ((math.inf, "unclipped"), (1.0, "clipped at the median")):
            found[f"score influence, {virtual} virtual, {clipped}"] = ScoreInfluence(virtual, medians)
    found["pathwise"] = Pathwise(clip_samples=False)
    found["pathwise, samples clipped"] = Pathwise()
    found["combined"] = Combined()
    for products in (1, 4, 16):
        found[f"autosimulate, {products} products"] = AutoSimulate(products)
    return found


ESTIMATORS = _estimators()
SMOOTH = 8  # components of a group that metasmoothness is measured along, about


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
        center = space.normalize(self.beta)
        steps = sigma * torch.eye(space.dimension, dtype=torch.float64)
        ahead, behind = (center + steps).clamp(0, 1), (center - steps).clamp(0, 1)
        outcomes = env.probe(space.clip(space.denormalize(torch.cat([ahead, behind]))))
        losses = torch.tensor([_loss(o) for o in outcomes], dtype=torch.float64).reshape(2, -1)
        return (losses[0] - losses[1]) / (ahead - behind).sum(-1)

    def metasmoothness(self, component: int, reach: float, draw: int) -> float:
        """Whether gradients through the training can say anything along a component: 1 if so, 0 if not.

        Three trainings, one number (Engstrom et al., "Optimizing ML training with metagradient descent", 2025): with w
        the weights after the K training steps, and Delta(z) = w(z + h v) - w(z), the agreement of the signs of
        Delta(z) and Delta(z + h v), weighted by |Delta(z)|.

        Args:
            component: v is its unit vector.
            reach: h, a fraction of its range.
            draw: Which sample seeds.
        """
        space = self.env.space
        center, step = space.normalize(self.beta), torch.zeros(space.dimension, dtype=torch.float64)
        step[component] = reach if center[component] + 2 * reach <= 1 else -reach
        ends = []
        for k in range(3):
            rolled = self.at(draw).rollout(space.clip(space.denormalize(center + k * step)).expand(self._samples, -1))
            ends.append(torch.cat([w.flatten() for w in rolled.end.weights.values()]).double())
        first, second = ends[1] - ends[0], ends[2] - ends[1]
        total = first.abs().sum()
        return float((first * second.sign()).sum() / total) if total > 0 else math.nan

    @property
    def _samples(self) -> int:
        return self.env.problem.num_samples

    def estimates(self, draw: int, only: str = "") -> Iterator[tuple[str, Tensor, float]]:
        """One estimate of every kind whose name matches: name, gradient (d,), seconds (CPU + GPU) beyond the step."""
        # All that take dL/dX with curvature look back on the same step, and one dL/dX serves them; each is charged for
        # it.
        env, center = self.at(draw), self.env.space.normalize(self.beta)
        env.step(self.beta)
        assert env.last is not None
        before = env.ledger.spent("total_seconds")
        env.last.sample_gradient()
        served_at = env.ledger.spent("total_seconds") - before
        wanted = {name: estimator for name, estimator in ESTIMATORS.items() if re.search(only, name)}
        for name, estimator in sorted(wanted.items(), key=lambda pair: not _served(pair[1])):
            random = torch.Generator().manual_seed(draw)
            if not _served(estimator):
                env = self.at(draw)
                self._step(estimator, center, random)
            before = env.ledger.spent("total_seconds")
            try:
                rows = estimator.estimate(env, center, random)
            except UnsuitableError:
                continue
            if rows is None:
                raise SystemExit(f"{name}: no estimate at draw {draw}; the log above says why")
            cost = env.ledger.spent("total_seconds") - before
            yield name, rows.nanmean(0).nan_to_num(0), cost + (served_at if _served(estimator) else 0)

    def _step(self, estimator: Estimator, center: Tensor, random: torch.Generator) -> None:
        """The step that an estimator looks back on, if it does."""
        if isinstance(estimator, Antithetic):
            return
        env, proposal = self.env, estimator.propose(self.env, center, random)
        if proposal is None:
            env.step(self.beta)
            return
        seeds = env.sample_seeds(len(proposal.betas) // proposal.share).repeat_interleave(proposal.share)
        env.rollout(env.space.denormalize(proposal.betas), seeds=seeds, keep=True)


def _served(estimator: Estimator) -> bool:
    return isinstance(estimator, Hybrid) and estimator.curvature


def _loss(outcome: Outcome) -> float:
    if outcome.loss is None:
        raise SystemExit(f"a probe failed, so there is no reference: {outcome.message or outcome.status.value}")
    return outcome.loss


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors."""
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300))


def component_groups(generator: Generator) -> dict[str, list[int]]:
    """The components of each kind, where there is more than one kind, and all of them."""
    space = generator.space
    kinds: dict[str, list[int]] = {"probabilities": [], "others": [], "pathwise": []}
    for block in space.blocks:
        kind = "probabilities" if block.floor > 0 else "others"
        own = range(space.dimension)[space.slice(block.name)]
        kinds["pathwise" if block.name in generator.pathwise else kind].extend(own)
    mixed = {kind: own for kind, own in kinds.items() if 0 < len(own) < space.dimension}
    return {"all": list(range(space.dimension))} | mixed


def head(environment: str, facts: Mapping[str, Any]) -> list[str]:
    """What a table is about, line by line."""
    return [
        f"## {environment}",
        "",
        f"After {facts['warm']} updates at the initial beta. The reference is central differences of L, sigma "
        f"{facts['sigma']}, coordinate by coordinate, mean of {facts['references']} draws of sample seeds. A row: mean "
        f"cosine to it of one estimate and, after the slash, cosine of the mean of {facts['draws']} draws; in brackets "
        "the noise of one (root of its mean square over draws) in lengths of the reference; over all components and "
        "by group; mean cosine between two draws; CPU + GPU seconds of one beyond the step behind it. The "
        "reference has noise too: its halves agree only so far, and an exact estimate would have the cosine in the "
        "line after that.",
        "",
        *_smoothness_line(facts.get("metasmoothness")),
        f"Command: `{facts['command']}`",
        "",
    ]


def _smoothness_line(found: Mapping[str, float] | None) -> list[str]:
    """What metasmoothness is, by group."""
    if found is None:
        return []
    words = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return [
        f"Metasmoothness, mean over components (1: gradients through the training can say all; 0: nothing): {words}.",
        "",
    ]


def table(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, list[int]]) -> list[str]:
    """The table of what `rows` of one environment say, line by line."""
    found: dict[str, list[Tensor]] = {}
    costs: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["estimator"], []).append(torch.tensor(row["gradient"], dtype=torch.float64))
        costs.setdefault(row["estimator"], []).append(row["seconds"])
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


def write_report(folder: Path) -> str:
    """Make report.md of a folder from its rows, and give its text.

    Raises:
        RecordError: There are no rows, or they are damaged.
    """
    rows, facts = read_estimates(folder)
    lines = ["# Estimates of dL/dbeta", ""]
    for environment, known in facts.items():
        own = [row for row in rows if row["environment"] == environment]
        lines += [*head(environment, known), *table(own, known["groups"]), ""]
    text = "\n".join(lines[:-1]) + "\n"
    files.write(folder / "report.md", text)
    return text


def main(arguments: list[str]) -> None:
    """Measure; write the rows, and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {ROWS} and report.md")
    parser.add_argument("--report", action="store_true", help="make report.md of what the folder holds, no more")
    parser.add_argument("--only", default="", metavar="PATTERN", help="estimators whose names match")
    parser.add_argument("--warm", type=int, default=60, help="updates at the initial beta before measuring (60)")
    parser.add_argument("--draws", type=int, default=16, help="sets of sample seeds for the estimates, 2 at least (16)")
    parser.add_argument("--references", type=int, default=24, help="and for the reference (24)")
    parser.add_argument("--sigma", type=float, default=0.1, help="of the reference's differences (0.1 of the range)")
    options, overrides = parser.parse_known_args(arguments)
    if min(options.draws, options.references) < 2:
        parser.error("--draws and --references must be at least 2: their scatter is what this is about")
    if not options.report:
        measure(options, overrides, " ".join(["python -m hgenv.benchmarks.ablation", *arguments]))
    print(write_report(options.out))


def measure(options: argparse.Namespace, overrides: list[str], command: str) -> None:
    """Measure, and write the rows."""
    torch.set_num_threads(1)
    settings = compose(overrides)
    env = make_environment(settings.record)
    k, b = env.problem.unroll_steps, env.problem.batch_size
    environment = f"{records.environment_label(settings.identity)}, K x B = {k} x {b}"
    bench = Bench(env, options.warm)
    rows, facts = read_estimates(options.out) if (options.out / ROWS).exists() else ([], {})
    known = {name: getattr(options, name) for name in ("warm", "draws", "references", "sigma")}
    known |= {"groups": component_groups(env.generator)}
    # What the folder holds of other environments stays; of this one, what was measured alike and is not meant now.
    before = facts.get(environment, {})
    alike = bool(options.only) and all(before.get(name) == value for name, value in known.items())

    def stays(row: Mapping[str, Any]) -> bool:
        return row["environment"] != environment or (alike and not re.search(options.only, row["estimator"]))

    rows = [row for row in rows if stays(row)]

    def add(name: str, draw: int, gradient: Tensor, cost: float) -> None:
        found = {"environment": environment, "estimator": name, "draw": draw}
        rows.append(found | {"gradient": gradient.tolist(), "seconds": cost})

    for draw in track(range(options.draws), "estimates", disable=not sys.stdout.isatty()):
        for name, gradient, cost in bench.estimates(draw, options.only):
            add(name, draw, gradient, cost)
    if not any(row["environment"] == environment and row["estimator"] == "reference" for row in rows):
        for draw in track(range(options.references), "reference", disable=not sys.stdout.isatty()):
            add("reference", 1000 + draw, bench.reference(1000 + draw, options.sigma), 0.0)
    smooth = {
        name: [bench.metasmoothness(c, options.sigma / 2, 2000 + draw) for c in own[:: max(1, len(own) // SMOOTH)]]
        for draw, (name, own) in enumerate(known["groups"].items())
    }
    known["metasmoothness"] = {
        name: sum(v for v in values if not math.isnan(v)) / max(1, sum(not math.isnan(v) for v in values))
        for name, values in smooth.items()
    }
    commands = [*([before["command"]] if alike else []), command]
    facts[environment] = known | {"command": "; ".join(dict.fromkeys(commands))}
    write_estimates(options.out, rows, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
