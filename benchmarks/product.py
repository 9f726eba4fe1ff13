"""What a tuned generator is handed over as: its parameters, the network, and a page with before and after."""

from __future__ import annotations

import base64
import copy
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import torch
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hgenv.decision import Block
from hgenv.distributions import settled
from hgenv.env import DataGenEnv
from hgenv.generators import BlackBox
from hgenv.learning import ModuleLearner
from hgenv.problem import RenderError, SampleData
from hgenv.tasks import Metric, Picture

from . import checkpoint, files, pictures, records, studies
from .config import RunError
from .report import figures
from .studies import Run

BEST, NETWORK, PAGE = "best.yaml", "network.pt", "index.html"
SHOWN = 10  # samples beside each other
TILE = 96  # pixels of one, at least
RESAMPLED, LEAST = 1000, 50  # bootstrap resamples, and how many there are whatever they take
PATIENCE = 20.0  # seconds for all of them
WINDOW = 0.1  # share of what was spent, over which validation is averaged
REPEATED = (3, 16)  # how often a parameter is put back: at least, at most
SHARE, ENOUGH = 0.1, 120.0  # of the run's wall time that this may take, and seconds that it may take in any case
NEAR = 1e-3  # of its range: what is nearer to a bound is at it
MOVED = 0.005  # of its range: what moved less is not looked at


# --- Parameters ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommended:
    """The parameters to take of a run.

    Attributes:
        beta: (d,) in its own units.
        share: Of the budget, after which they were recommended.
    """

    beta: list[float]
    share: float


def recommended(run: Run) -> Recommended:
    """What a run recommended when it did best on validation; what it recommends last, if that is about as good.

    How well it does is the mean of the primary metric over the last tenth of what was spent until then. Methods drift
    when their work is done, and networks grow too sure of themselves: the last word is not always the best one.
    """
    rows = run.counted
    spent, values = run.used[rows], run.metrics["validation"][run.primary.name][rows]
    sign = 1 if run.primary.direction == "min" else -1
    window = WINDOW * spent[-1]
    first = np.searchsorted(spent, spent - window, side="right")
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, sign * values, 0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    ends = np.arange(len(rows)) + 1
    means = (sums[ends] - sums[first]) / np.maximum(counts[ends] - counts[first], 1)
    means[(spent < window) | (counts[ends] == counts[first])] = np.inf
    best_row = len(rows) - 1 - int(np.argmin(means[::-1])) if np.isfinite(means).any() else len(rows) - 1
    if spent[best_row] >= spent[-1] - window:
        best_row = len(rows) - 1
    moment = np.searchsorted(run.moments, rows[best_row], side="right") - 1
    return Recommended(
        [float(x) for x in run.recommendation[moment]], float(spent[best_row] / spent[-1] if spent[-1] else 1)
    )


def best(env: DataGenEnv, beta: Sequence[float], generator: Any, back: str) -> str:
    """The text of `best.yaml`.

    Args:
        env: The environment.
        beta: (d,) what is recommended, in its own units.
        generator: As the experiment says it.
        back: The way from the file's folder to the experiment's.
    """
    space, task = env.space, env.task
    valid = space.project(torch.as_tensor(beta, dtype=torch.float64))
    blocks = {name: part.tolist() for name, part in space.split(valid).items()}
    if isinstance(env.generator, BlackBox):
        parameters = settled(env.generator.parameters, blocks)
    else:
        rounded = {name: [float(f"{x:.6g}") for x in part] for name, part in blocks.items()}
        parameters = {name: part[0] if len(part) == 1 else part for name, part in rounded.items()}
    if isinstance(generator, Mapping) and "_target_" not in generator and "samples" not in generator:
        kind = type(env.validation.samples)
        generator = {**generator, "samples": f"{kind.__module__}:{kind.__qualname__}"}
    kept = {"beta": blocks, "generator": generator, "folder": back, "names": list(getattr(task, "names", ()))}

    def text(found: Any) -> str:
        return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)

    return (
        f"# To be pasted into your generator.\n{text({'parameters': parameters})}\n"
        f"# For `hgenv sample`; `folder` is the way from this file to your generator.\n{text(kept)}"
    )


# --- Network ---------------------------------------------------------------------------------------------------------


def state_dict(env: DataGenEnv) -> dict[str, Tensor]:
    """The present network as its module's `load_state_dict` takes it; its weights by name, if it is no module."""
    weights = {name: w.detach().cpu() for name, w in env.state.weights.items()}
    if not isinstance(env.learner, ModuleLearner):
        return weights
    module = copy.deepcopy(env.learner.module).cpu()
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, w in weights.items():
            own[name].copy_(w)
    return {name: w.detach().clone() for name, w in module.state_dict().items()}


def _save_network(env: DataGenEnv, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state_dict(env), buffer)
    files.write(path, buffer.getvalue())


# --- Before and after ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """A metric of some networks on the same data, with intervals over the data.

    Attributes:
        values: Of each network.
        intervals: 95 % intervals of each; None where there is none.
        gain: Of the last over the first, positive if it is better; None for a single network.
        gain_interval: 95 % interval of it, the same objects being drawn for both.
    """

    values: list[float]
    intervals: list[tuple[float, float]] | None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None


def compared(env: DataGenEnv, states: Sequence[Any], data: Any, metric: Metric | None) -> Figures:
    """A metric of networks on the same data.

    Args:
        env: The environment.
        states: Of training, as `env.state`.
        data: To score on.
        metric: Which; None for the loss that is minimized.
    """
    task, outputs = env.task, []

    def score(output: Any, held: Any) -> float:
        return float(task.validation_loss(output, held) if metric is None else task.score(output, held)[metric.name])

    with torch.no_grad():
        for state in states:
            outputs.append(env.learner.output({name: w.clone() for name, w in state.weights.items()}, data.samples))
    values = [score(output, data) for output in outputs]
    sign = 1 if metric is not None and metric.direction == "max" else -1
    gain = sign * (values[-1] - values[0]) if len(values) > 1 else None
    count = len(data.samples)
    if type(data) is not SampleData or count < 2 or not all(isinstance(output, Tensor) for output in outputs):
        return Figures(values, None, gain)
    random, drawn, begun = np.random.default_rng(0), list[list[float]](), time.monotonic()
    while len(drawn) < RESAMPLED and (len(drawn) < LEAST or time.monotonic() - begun < PATIENCE):
        rows = torch.from_numpy(random.integers(count, size=count)).to(env.device)
        some = SampleData(data.samples[rows], data.label)
        drawn.append([score(output[rows], some) for output in outputs])
    table = np.array(drawn)

    def interval(column: NDArray[np.float64]) -> tuple[float, float]:
        low, high = np.nanpercentile(column, (2.5, 97.5))
        return float(low), float(high)

    gains = interval(sign * (table[:, -1] - table[:, 0])) if gain is not None else None
    return Figures(values, [interval(column) for column in table.T], gain, gains)


@dataclass(frozen=True)
class Mattered:
    """What putting a block back to its initial value does to L, in the next training steps.

    Attributes:
        name: Of the block.
        change: Mean change of L; positive if the tuned value is better.
        error: Its standard error.
    """

    name: str
    change: float
    error: float


def mattered(env: DataGenEnv, beta: Tensor, seconds: float) -> list[Mattered] | str:
    """What each block that moved does, by trying: the blocks put back one by one, from the present weights.

    All are tried with the same sample seeds, so that differences are sharper than losses.

    Args:
        env: The environment, with the trained weights.
        beta: (d,) the tuned vector.
        seconds: How long this may take.

    Returns:
        The blocks, or why there are none, in words.
    """
    space, n = env.space, env.problem.num_samples
    initial, width = space.project(space.initial), space.high - space.low
    moved = [b for b in space.blocks if ((beta - initial) / width)[space.slice(b.name)].abs().max() > MOVED]
    if not moved:
        return "no parameter moved by more than half a percent of its range"
    tried: dict[str, Tensor] = {}
    for b in moved:
        tried[b.name] = beta.clone()
        tried[b.name][space.slice(b.name)] = initial[space.slice(b.name)]
    tried["all of them"] = initial
    found: dict[str, list[float]] = {name: [] for name in tried}
    begun, made = time.monotonic(), 0
    for repeat in range(REPEATED[1]):
        seeds = env.sample_seeds(n * (repeat + 1))[-n:]
        base, losses = None, dict[str, float | None]()
        for name, other in [("", beta), *tried.items()]:
            passed = time.monotonic() - begun
            needed = passed / max(made, 1) * (len(tried) + 1) * REPEATED[0]
            if made >= 2 and repeat < REPEATED[0] and needed > seconds:
                return f"it would take {needed:.0f} seconds, more than a tenth of the run and two minutes"
            if repeat >= REPEATED[0] and passed > seconds:
                break
            loss = env.rollout(other, seeds=seeds).outcome.loss
            made += 1
            if name:
                losses[name] = loss
            else:
                base = loss
        else:
            for name, loss in losses.items():
                if loss is not None and base is not None:
                    found[name].append(loss - base)
            continue
        break
    return [
        Mattered(name, float(np.mean(x)), float(np.std(x, ddof=1) / math.sqrt(len(x))))
        for name, x in found.items()
        if len(x) > 1
    ]


# --- The page --------------------------------------------------------------------------------------------------------


def write(out: Path, env: DataGenEnv, folders: Sequence[Path], command: str) -> None:
    """Write the network and the page.

    Args:
        out: Folder of both.
        env: The environment of the runs.
        folders: The tuned run, and the one at the initial beta if there is one.
        command: What to type to go on.

    Raises:
        RecordError: A run's files are damaged.
        OSError: The system refuses.
    """
    runs = [studies.from_record(records.opened(folder)) for folder in folders]
    tuned, before = runs[0], runs[1] if len(runs) > 1 else None
    states, shown = [], []
    env.reset(seed=tuned.seed)
    made_again = {name: part for name, part in env.state_dict().items() if name in ("last", "pool")}
    for folder in reversed(folders):  # the tuned run last, so that the environment is at its end
        kept = checkpoint.load(folder, env.device, lambda found, rows: None)
        if kept is None:
            raise RunError(
                f"{folder}: there is no checkpoint any more, which has the network; restore it, or delete the run"
            )
        env.load_state_dict(kept["env"] | made_again)  # the network alone: samples would be rendered again
        states.append(env.state)
        shown.append(pictures.error_maps(env))
    _save_network(env, out / NETWORK)
    taken = recommended(tuned)
    beta = env.space.project(env.space.initial.new_tensor(taken.beta))
    metric = env.task.metrics[0]
    data = {"validation": env.validation, "test": env.test}
    scores = {(name, m): compared(env, states, held, m) for m in (metric, None) for name, held in data.items()}
    print("page: finds out which parameters mattered", flush=True)
    seconds = SHARE * _wall_seconds(folders[0])
    effects = mattered(env, beta, max(ENOUGH, seconds))
    with matplotlib.rc_context({"text.parse_math": False}):
        curves = figures.line_art(figures.curves([(tuned.environment, runs)], lambda _: ""), "curves", "Curves")
        bars = None if isinstance(effects, str) else _bars(effects)
    names = ["before", "after"] if before is not None else ["after"]
    initial = env.space.project(env.space.initial)
    context = {
        "title": out.name,
        "verdict": verdict(scores["test", metric], scores["test", None], metric, len(env.test.samples)),
        "metric": metric,
        "scores": scores,
        "names": names,
        "counts": {name: len(held.samples) for name, held in data.items()},
        "labels": {name: held.label for name, held in data.items()},
        "budget": f"{tuned.budget.amount:g} {tuned.budget.unit}",
        "optimizer": tuned.optimizer,
        "share": taken.share,
        "untaught": untaught(runs),
        "curves": curves.base64,
        "photos": None if (photos := pictures.validation_images(env)) is None else _embedded(photos),
        "galleries": _galleries(env, {"before": initial, "after": beta}),
        "errors": [
            (name, _embedded(picture), picture)
            for name, picture in zip(names, shown, strict=True)
            if picture is not None
        ],
        "effects": effects if isinstance(effects, str) else None,
        "bars": bars,
        "steps": env.problem.unroll_steps,
        "rows": _rows(env.space.blocks, env.space.split(initial), env.space.split(beta)),
        "best": (out / BEST).read_text(encoding="utf-8"),
        "command": f"hgenv tune {command}",
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=True, undefined=jinja2.StrictUndefined
    )
    files.write(out / PAGE, templates.get_template("product.html").render(context))
    for words in (context["verdict"], context["untaught"]):
        if words:
            print(words, flush=True)


def verdict(scores: Figures, losses: Figures, metric: Metric, count: int) -> str:
    """What tuning did on test data, in words."""
    value = f"{scores.values[-1]:.4g}"
    if scores.gain is None:
        return f"On {count} test samples, {metric.title} is {value}. There is no run without tuning to compare with."
    words = f"On {count} test samples, {metric.title} is {value}; it was {scores.values[0]:.4g} without tuning."
    if scores.gain_interval is None:
        return words
    if losses.gain_interval is not None:
        clear = "clearly " if losses.gain_interval[0] > 0 or losses.gain_interval[1] < 0 else ""
        way = "lower" if losses.values[-1] < losses.values[0] else "higher"
        words += f" The loss is {losses.values[-1]:.3g}, {clear}{way} than the {losses.values[0]:.3g} without."
    low, high = scores.gain_interval
    span = f"{scores.gain:+.3g}, 95 % interval over the samples {low:+.3g} to {high:+.3g}"
    if low > 0:
        return f"{words} Tuning helped: {metric.title} gained {span}."
    if high < 0:
        return f"{words} Tuning made it worse: {metric.title} gained {span}."
    return f"{words} Of {metric.title} the difference is not clear: {span}."


def untaught(runs: Sequence[Run]) -> str:
    """That a network has not learned what its photos ask for, in words; empty if it has.

    A network that is no better than before any training says nothing about parameters.
    """
    for run in runs:
        late = run.loss[run.last_tenth]
        before, after = (
            float(run.loss[0]),
            float(late[np.isfinite(late)].mean()) if np.isfinite(late).any() else math.nan,
        )
        if not after < before:
            return (
                f"Beware: the network of {run.optimizer} has not learned. Its validation loss is {after:.3g}; before "
                f"any training it was {before:.3g}. Lower the learning rate, train longer, or make samples more "
                "like the photos. Until then, parameters are tuned on noise."
            )
    return ""


def _wall_seconds(folder: Path) -> float:
    done = records.read_done(folder)
    return sum(clocks["wall_seconds"] for clocks in done["phases"].values()) if done is not None else 0.0


def _galleries(env: DataGenEnv, betas: Mapping[str, Tensor]) -> list[tuple[str, str, str]]:
    """Samples of the same seeds at each beta: name, image, note."""
    found = []
    for name, beta in betas.items():
        try:
            picture = pictures.gallery(env, beta, SHOWN)
        except RenderError as error:
            found.append((name, "", f"cannot be rendered: {error}"))
            continue
        if picture is not None:
            found.append((name, _embedded(picture), f"Rows: {', '.join(picture.titles)}. {picture.note}"))
    return found


def _embedded(picture: Picture) -> str:
    """A picture for a page that needs no other file: small samples are enlarged, pixel by pixel."""
    pixels = pictures.arrange(picture)
    times = max(1, TILE // picture.rows[0].shape[1])
    pixels = pixels.repeat(times, 0).repeat(times, 1)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _bars(effects: Sequence[Mattered]) -> str:
    """What each block did, with two standard errors."""
    rows = sorted(effects, key=lambda e: (e.name == "all of them", e.change))
    figure = Canvas(figsize=(8, 0.6 + 0.3 * len(rows)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    clear = [abs(e.change) > 2 * e.error for e in rows]
    axis.barh(
        [e.name for e in rows], [e.change for e in rows], xerr=[2 * e.error for e in rows],
        color=["#0072B2" if is_clear else "#BBBBBB" for is_clear in clear], ecolor="#333333", capsize=2.5, height=0.62,
    )  # fmt: skip
    axis.axvline(0, color="#333333", lw=0.8)
    axis.set_xlabel("rise of the validation loss if put back (bars: two standard errors)", fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", alpha=0.3, lw=0.5)
    axis.set_axisbelow(True)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _rows(
    blocks: Sequence[Block], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> list[tuple[str, str, str, str, str]]:
    """Name, unit, before, after and meaning of every block."""

    def said(values: Tensor) -> str:
        numbers = [f"{x:.3g}" for x in values.tolist()]
        return ", ".join(numbers) if len(numbers) <= SHOWN else f"{', '.join(numbers[:SHOWN])}, ... ({len(numbers)})"

    def bound(b: Block) -> str:
        ends = [
            x
            for x, low, high in zip(after[b.name].tolist(), b.low, b.high, strict=True)
            if not b.simplex and min(x - low, high - x) < NEAR * (high - low)
        ]
        return " (at its bound)" if ends else ""

    return [
        (
            b.name,
            "" if b.unit == "1" else b.unit,
            said(before[b.name]),
            said(after[b.name]) + bound(b),
            "" if b.meaning == b.name else b.meaning,
        )
        for b in blocks
    ]
