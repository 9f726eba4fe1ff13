"""What more machines would do for a run and for a sweep: `python -m hgenv.benchmarks.scaling [--out FOLDER]`.

A small discrete-event simulation. What an update consists of, and how long each part takes, is read from the committed
runs on photos; what one would only know on a cluster is assumed, and stands in `Cluster`. Writes `scaling.csv` and
`figures/scaling.png`. docs/scaling.md says what follows.

An update, on M machines: the coordinator sends beta and weights to whoever probes; a probe renders, trains and
validates on one machine. Then the samples of the step are rendered, by as many machines as there are samples, and come
back; the coordinator trains on them, takes the gradient and validates. Nobody goes on before all have answered.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .report.style import STYLES

STUDY = Path(__file__).parent / "results" / "mbii" / "runs.csv"
OUT = Path(__file__).parent / "results" / "scaling"
ENVIRONMENT = "shapes_lit-mbii-shading"
STEPS, SAMPLES = 2, 64  # K training steps of a rollout, and the samples that they take
PRICES = {"as measured": 5e-5, "as Blender's Cycles": 0.19}  # seconds a render
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CYCLES = 12  # simulated; each is a period of the optimizer
WIDE = 1000  # probes an update, of a search that is as wide as the largest cluster
RUNS, RUN_SECONDS, START_SECONDS = 100, 180.0, 9.0  # of a sweep; what a process takes to begin was measured

Event = Generator[Any, Any, None]


@dataclass(frozen=True)
class Cluster:
    """What is assumed of machines and of what lies between them.

    Attributes:
        spread: Standard deviation of the logarithm of a task's time; measured, between updates of the same work.
        machine_spread: That of a machine's speed; measured, between runs of the same work.
        latency: Seconds before the first byte.
        throughput: Bytes a second of the one link and store that all share.
        lifetime: Mean seconds until a machine is lost.
        patience: Seconds until a loss is noticed; the task is then done again.
    """

    spread: float = 0.08
    machine_spread: float = 0.07
    latency: float = 1e-3
    throughput: float = 1.25e9
    lifetime: float = 3.6e6
    patience: float = 60.0


IDEAL = Cluster(spread=0, machine_spread=0, latency=0, throughput=math.inf, lifetime=math.inf)


@dataclass(frozen=True)
class Sizes:
    """Bytes of what is sent or kept, as measured (small network, 64 px)."""

    weights: int = 1_132_056  # with the slots of their rule
    sample: int = 81_920  # image, target, mask
    row: int = 2_110
    checkpoint: int = 3_671_867
    between_checkpoints: float = 30.0  # seconds


@dataclass(frozen=True)
class Method:
    """What an optimizer does in one period.

    Attributes:
        period: Updates in it.
        probes: Made at its beginning, all at once.
        displaced: Samples that are rendered besides those of the first step.
        training: Seconds of one training step.
        validating: Seconds of one validation pass.
        own: Seconds that only the coordinator works, in each update: the gradient, and the optimizer.
    """

    name: str
    period: int
    probes: int
    displaced: int
    training: float
    validating: float
    own: float

    def probe(self, render: float) -> float:
        """Seconds of one probe, where a render takes `render` seconds."""
        return SAMPLES * render + STEPS * self.training + self.validating

    @property
    def serial(self) -> float:
        """Seconds of an update that no machine but the coordinator can take."""
        return STEPS * self.training + self.validating + self.own

    def renders(self, update: int) -> int:
        """Samples to be rendered for the update of that number in the period."""
        return SAMPLES + (self.displaced if update == 0 else 0)


def methods(path: Path = STUDY) -> dict[str, Method]:
    """The optimizers as they were run on the photos, and a random search with `WIDE` probes an update."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["environment"] == ENVIRONMENT]

    def per(name: str, amount: str, unit: str) -> float:
        chosen = [row for row in rows if row["optimizer"] == name]
        return sum(float(row[amount]) for row in chosen) / sum(float(row[unit]) for row in chosen)

    found = {}
    for name in ("hybrid_gradient", "credit_gradient", "basic_random_search", "evolution"):
        settings = next(json.loads(row["settings"]) for row in rows if row["optimizer"] == name)
        period = settings["optimizer"]["period"]
        rollouts = per(name, "training_steps", "updates") / STEPS
        found[name] = Method(
            name=name,
            period=period,
            probes=round((rollouts - 1) * period),
            displaced=round((per(name, "samples", "updates") - SAMPLES * rollouts) * period),
            training=per(name, "train_seconds", "training_steps"),
            validating=per("fixed", "validate_seconds", "validation_passes"),
            own=per(name, "gradient_seconds", "updates") + per(name, "optimizer_seconds", "updates"),
        )
    wide = f"basic_random_search, {WIDE:,} probes"
    return found | {wide: replace(found["basic_random_search"], name=wide, period=1, probes=WIDE)}


# --- Closed forms ----------------------------------------------------------------------------------------------------


def ideal(method: Method, machines: int, render: float) -> float:
    """Seconds an update takes where nothing waits, costs or breaks."""
    total = math.ceil(method.probes / machines) * method.probe(render)
    for update in range(method.period):
        total += math.ceil(method.renders(update) / machines) * render + method.serial
    return total / method.period


def amdahl(method: Method, machines: int, render: float) -> float:
    """The speed-up that no division of the work exceeds: the serial part stays."""
    shared = method.probes * method.probe(render) + sum(map(method.renders, range(method.period))) * render
    serial = method.period * method.serial
    return (serial + shared) / (serial + shared / machines)


# --- Simulation ------------------------------------------------------------------------------------------------------


class Machines:
    """Machines, the link and store that they share, and a clock.

    Args:
        count: How many; the coordinator is one of them.
        cluster: What is assumed of them.
        seed: Of what is random about them.
    """

    def __init__(self, count: int, cluster: Cluster, seed: int = 0) -> None:
        import simpy

        self.count, self.cluster = count, cluster
        self.draw = np.random.default_rng(seed)
        self.clock = simpy.Environment()
        self.link = simpy.Resource(self.clock, 1)
        self.free = simpy.Store(self.clock)
        for _ in range(count):
            self.free.put(self._lognormal(cluster.machine_spread))
        self.lost = 0

    def _lognormal(self, spread: float) -> float:
        return float(np.exp(spread * self.draw.standard_normal() - spread**2 / 2))  # of mean 1

    def send(self, size: float) -> Event:
        """Move bytes over what all share, one after the other. A machine alone moves nothing."""
        if self.count == 1:
            return
        yield self.clock.timeout(self.cluster.latency)
        with self.link.request() as turn:
            yield turn
            yield self.clock.timeout(size / self.cluster.throughput)

    def task(self, seconds: float, there: float, back: float, parts: int = 1) -> Event:
        """Work for one machine, as soon as one is free, in equal parts; a part whose machine is lost is done again."""
        done = 0
        while done < parts:
            speed = yield self.free.get()
            yield from self.send(there)
            while done < parts:
                took = seconds / parts * speed * self._lognormal(self.cluster.spread)
                survives = self.draw.exponential() * self.cluster.lifetime
                if survives < took:
                    self.lost += 1
                    yield self.clock.timeout(survives + self.cluster.patience)
                    speed = self._lognormal(self.cluster.machine_spread)  # of the one that takes its place
                    break
                yield self.clock.timeout(took)
                yield from self.send(back)
                done += 1
            self.free.put(speed)

    def share(self, count: int, seconds: float, there: float, back: float) -> Event:
        """Do `count` equal pieces of work, in as equal parts as there are machines; wait for the last."""
        parts = min(count, self.count)
        if parts:
            sizes = [len(part) for part in np.array_split(np.arange(count), parts)]
            yield self.clock.all_of(
                [self.clock.process(self.task(size * seconds, there, size * back)) for size in sizes]
            )


def update_seconds(method: Method, machines: int, render: float, cluster: Cluster, sizes: Sizes = Sizes()) -> float:
    """Seconds an update takes on so many machines, a mean over `CYCLES` periods.

    Args:
        method: Whose update.
        machines: How many.
        render: Seconds of one render.
        cluster: What is assumed of the machines.
        sizes: Of what they send.
    """
    world = Machines(machines, cluster)

    def run() -> Event:
        for _ in range(CYCLES):
            yield from world.share(method.probes, method.probe(render), sizes.weights, 8)
            for update in range(method.period):
                yield from world.share(method.renders(update), render, 8, sizes.sample)
                serial = method.serial * world._lognormal(cluster.spread)
                yield world.clock.timeout(serial)
                yield from world.send(sizes.row + sizes.checkpoint * serial / sizes.between_checkpoints)

    world.clock.run(world.clock.process(run()))
    return float(world.clock.now) / (CYCLES * method.period)


def sweep_seconds(machines: int, cluster: Cluster, sizes: Sizes = Sizes(), runs: int = RUNS) -> float:
    """Seconds until the last of `runs` runs is done. A run that loses its machine goes on from its checkpoint."""
    world = Machines(machines, cluster)
    parts = round(RUN_SECONDS / sizes.between_checkpoints)
    run = [
        world.clock.process(world.task(START_SECONDS + RUN_SECONDS, 0, sizes.checkpoint, parts)) for _ in range(runs)
    ]
    world.clock.run(world.clock.all_of(run))
    return float(world.clock.now)


def probe_seconds(count: int, seconds: float, processes: int, spread: float = Cluster.spread) -> float:
    """Seconds until the last of `count` probes is back, on processes of one machine: nothing is sent or lost."""
    world = Machines(processes, replace(IDEAL, spread=spread))
    world.clock.run(world.clock.process(world.share(count, seconds, 0, 0)))
    return float(world.clock.now)


# --- Table and figure ------------------------------------------------------------------------------------------------

SWEEP = f"sweep of {RUNS} runs"
# Changed one at a time, to see what holds a run back.
CHANGES = {
    "without waiting for the link": {"latency": 0.0, "throughput": math.inf},
    "without stragglers": {"spread": 0.0, "machine_spread": 0.0},
    "machines lost after 10 hours": {"lifetime": 36e3},
}
Row = dict[str, str | float]


def table() -> list[Row]:
    """Speed-ups over one machine: a row for each method, price and number of machines, and for a sweep."""
    rows = list[Row]()
    for price, render in PRICES.items():
        for method in methods().values():
            alone = ideal(method, 1, render)
            for machines in COUNTS:
                row: Row = {"what": method.name, "render": price, "machines": machines}
                row["seconds"] = update_seconds(method, machines, render, Cluster())
                row["speed-up"] = alone / float(row["seconds"])
                for name, change in CHANGES.items():
                    row[name] = alone / update_seconds(method, machines, render, replace(Cluster(), **change))
                row["evenly divided"] = alone / ideal(method, machines, render)
                row["Amdahl"] = amdahl(method, machines, render)
                rows.append(row)
    alone = RUNS * (START_SECONDS + RUN_SECONDS)
    for machines in COUNTS:
        row = {"what": SWEEP, "render": "any", "machines": machines, "seconds": sweep_seconds(machines, Cluster())}
        row["speed-up"] = alone / float(row["seconds"])
        for name, change in CHANGES.items():
            row[name] = alone / sweep_seconds(machines, replace(Cluster(), **change))
        row["evenly divided"] = RUNS / math.ceil(RUNS / machines)
        row["Amdahl"] = float(min(machines, RUNS))
        rows.append(row)
    return rows


def write_table(rows: Sequence[Row], path: Path) -> None:
    """As CSV, with four digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})


def draw(rows: Sequence[Row], path: Path) -> None:
    """Speed-up against machines, a panel for each price of a render."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    looks = {name: STYLES[name.partition(",")[0]][0] for name in methods()} | {SWEEP: "#000000"}
    figure, panels = plt.subplots(1, len(PRICES), figsize=(10, 4.6), sharey=True, layout="constrained")
    for panel, (price, render) in zip(panels, PRICES.items(), strict=True):
        panel.plot(COUNTS, COUNTS, color="#BBBBBB", linewidth=1, label="as many times as machines")
        for name, colour in looks.items():
            chosen = [row for row in rows if row["what"] == name and row["render"] in (price, "any")]
            panel.plot(
                [row["machines"] for row in chosen],
                [row["speed-up"] for row in chosen],
                color=colour,
                linestyle="--" if "," in name or name == SWEEP else "-",
                marker="o",
                markersize=3.5,
                label=name.replace("_", " "),
            )
        panel.set(xscale="log", yscale="log", xlabel="machines", title=f"a render takes {1000 * render:g} ms, {price}")
        panel.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
        panel.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
        panel.grid(color="#E5E5E5", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("times as fast as one machine")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})  # the same file from any version
    plt.close(figure)


def main() -> None:
    """Simulate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for table and figure")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows = table()
    write_table(rows, out / "scaling.csv")
    draw(rows, out / "figures" / "scaling.png")
    for row in rows:
        if row["machines"] in (10, 100, 1000):
            print("  ".join(f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in row.values()))
    print(f"{out / 'scaling.csv'}\n{out / 'figures' / 'scaling.png'}")


if __name__ == "__main__":
    main()
