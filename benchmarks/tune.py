"""Tune a generator of one's own: one file says with what, and what comes out is to be used.

    hgenv tune mine.yaml

The file names a generator, a network and photos (`hgenv.environments.own.OwnEnv` says how), and may say more:

    generator: {function: draw:render, parameters: parameters.yaml, workers: 2}   # or my_module:generator
    learner: {network: net:network}                                               # or my_module:learner
    data: {layout: classes, folder: photos, size: 32}                             # or my_module:photos
    training: {batch_size: 32, unroll_steps: 2, rule: {name: sgd, learning_rate: 0.05, momentum: 0.9}}
    budget: {amount: 600, unit: total_seconds}                                    # of a run
    optimizer: auto                           # or a name, or {name: credit_gradient, period: 4, ...}
    baseline: true                            # whether to train at the initial beta, too, under the same budget
    seed: 0

Names and files are looked for beside the file. The first three are needed; the others have the values above. `rule` may
be sgd, adam or adamw. `training` takes what `hgenv.DataGenEnv` takes. The baseline takes as long again as tuning.

`auto` measures what a sample and a training step cost here, and says which optimizer it takes, and why.

Into `runs/<name of the file>` go `best.yaml` (the tuned parameters), `network.pt` (the network that was trained on the
way), `index.html` (before and after), and the runs themselves, for `hgenv report` and `hgenv board`. Ctrl-C stops it at
any time: `best.yaml` then has the parameters so far, and the same command goes on. A larger budget does, too.

`hgenv sample runs/<name>/best.yaml -n 10000 --out data` then writes a data set.
"""

from __future__ import annotations

import gc
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf

from hgenv.env import DataGenEnv
from hgenv.environments.own import ID
from hgenv.memory import keep_memory
from hgenv.optimizers import REGISTRY

from . import config, files, product, records, studies
from .config import Interrupted, RunError, Settings, make_environment, plainly
from .defaults import TARGET, meant
from .mistakes import no_setting
from .records import RecordError
from .run import run

PARTS = ("generator", "learner", "data")  # that an environment is made of
DEFAULTS: dict[str, Any] = {
    "training": {},
    "budget": {"amount": 600, "unit": "total_seconds"},
    "optimizer": "auto",
    "baseline": True,
    "seed": 0,
    "device": "auto",
    "threads": 1,
}
RULES = {"sgd": "hgenv.SGD", "adam": "hgenv.Adam", "adamw": "hgenv.AdamW"}
AUTO, BASELINE = "auto", "fixed"
CHOSEN = "optimizer.yaml"  # what `auto` has chosen, beside the runs: a second measurement might say otherwise
ENDLESS = 1_000_000_000  # updates: a budget ends the run
CHEAP = 0.2  # share of a step's training that further samples may cost


@dataclass(frozen=True)
class Experiment:
    """What a file of `hgenv tune` says.

    Attributes:
        path: The file.
        said: Its settings, with defaults.
    """

    path: Path
    said: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the study."""
        return self.path.stem

    @property
    def folder(self) -> Path:
        """Of everything that comes out, relative to the file's own."""
        return Path("runs") / self.name

    def settings(self, optimizer: Mapping[str, Any]) -> Settings:
        """Those of a run of it.

        Args:
            optimizer: Name, and what is to be set of that optimizer.

        Raises:
            SettingError: A setting makes no sense.
            BudgetError: The budget does not.
        """
        said, usual = self.said, config.compose([])
        rest = {key: value for key, value in optimizer.items() if key != "name"}
        node = config.compose([f"optimizer={optimizer['name']}"]).identity["optimizer"] | rest
        env = {"id": ID, "label": self.name, "max_updates": ENDLESS} | {part: said[part] for part in PARTS}
        env |= said["training"]
        if isinstance(rule := env.get("rule"), dict) and "name" in rule:
            kind = RULES.get(rule["name"])
            if kind is None:
                raise RunError(f"{self.path}: training: rule: name must be one of {', '.join(RULES)}")
            env["rule"] = {TARGET: kind} | {key: value for key, value in rule.items() if key != "name"}
        asked = {"env": env, "optimizer": node, "budget": said["budget"], "study": self.name, "seed": said["seed"]}
        where = usual.where | {name: said[name] for name in ("device", "threads")}
        found = Settings(config.complete(asked), where, Path("runs"), usual.checkpoint_seconds)
        config.check(found)
        return found


def read(path: Path) -> Experiment:
    """The experiment in a file.

    Raises:
        RunError: It is none; the message says what is wrong.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RunError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path}: must say generator, learner and data, line by line; hgenv tune --help has an example")
    known = [*PARTS, *DEFAULTS]
    for key in found:
        if key not in known:
            raise RunError(f"{path}: {no_setting(str(key), known)}")
    for part in PARTS:
        if not isinstance(found.get(part), str | dict):
            raise RunError(f"{path}: needs {part}: a name, my_module:{part}, or what it is made of; see --help")
    if (fault := records.name_fault(path.stem)) is not None:
        raise RunError(f"{path}: its name becomes that of a folder: {fault}; rename it")
    said = DEFAULTS | found
    said["budget"] = DEFAULTS["budget"] | said["budget"] if isinstance(said["budget"], dict) else said["budget"]
    for key in ("training", "budget"):
        if not isinstance(said[key], dict):
            raise RunError(f"{path}: {key} must be settings, {{{', '.join(f'{n}: ...' for n in DEFAULTS[key])}}}")
    if not isinstance(said["baseline"], bool):
        raise RunError(f"{path}: baseline must be true or false, not {said['baseline']!r}")
    optimizer = said["optimizer"]
    said["optimizer"] = {"name": optimizer} if isinstance(optimizer, str) else optimizer
    names = [AUTO, *REGISTRY]
    if not isinstance(said["optimizer"], dict) or (name := said["optimizer"].get("name")) not in names:
        wrong = "" if not isinstance(said["optimizer"], dict) else meant(str(name), names)
        raise RunError(f"{path}: optimizer must be {AUTO}, or have the name of one: {', '.join(REGISTRY)}{wrong}")
    return Experiment(path, said)


@dataclass(frozen=True)
class Choice:
    """An optimizer, and why it.

    Attributes:
        name: Its name.
        settings: What is set of it besides.
        reason: In words.
    """

    name: str
    settings: dict[str, Any]
    reason: str


def choose(env: DataGenEnv, sample: float, step: float) -> Choice:
    """Which optimizer suits a problem: what it knows of its generator decides, and what a sample costs.

    - Methods that render nothing but what is trained on come first: derivatives through the generator (pathwise), and
      scores of what it draws. They move all that they know something of.
    - Where some components have neither, samples are drawn at betas of their own (credit gradient). Only where samples
      are nearly free, two more are rendered for each (hybrid gradient).

    Args:
        env: The problem.
        sample: Seconds that a sample takes.
        step: Seconds that a training step takes.
    """
    space, generator, problem = env.space, env.generator, env.problem
    known = torch.zeros(space.dimension, dtype=torch.bool)
    for name in generator.pathwise:
        known[space.slice(name)] = True
    score = getattr(generator, "log_prob_score", None)
    if score is not None:
        betas = space.project(space.initial).expand(2, -1)
        known |= ~score(betas, torch.arange(2, device=env.device)).cpu().isnan().any(0)
    unknown = [b.name for b in space.blocks if not known[space.slice(b.name)].all()]
    share = problem.num_samples * sample / (problem.unroll_steps * step)
    prices = (
        f"a sample takes {sample * 1e3:.3g} ms, a training step of {problem.batch_size} takes {step * 1e3:.3g} ms, "
        f"{space.dimension} numbers are tuned"
    )
    if not unknown and generator.pathwise:
        how = f"derivatives are known through {', '.join(generator.pathwise)}, scores for all others"
        return Choice("combined", {}, f"{prices}: {how}, so that nothing is rendered besides what is trained on")
    if not unknown:
        how = "all of them are numbers of distributions, whose scores say how to move them"
        if share <= CHEAP:
            return Choice("score_influence", {}, f"{prices}: {how}; further samples cost little, so they are looked at")
        settings = {"estimator": {"num_virtual": 0}}
        return Choice("score_influence", settings, f"{prices}: {how}, so that nothing is rendered besides")
    some = ", ".join(unknown[:3]) + ", ..." * (len(unknown) > 3)
    how = (
        f"of {some} there is no distribution whose scores would say how to move them, so other values have to be tried"
    )
    if 2 * share <= CHEAP:
        return Choice("hybrid_gradient", {}, f"{prices}: {how}; two more samples for each cost little")
    return Choice("credit_gradient", {}, f"{prices}: {how}, which it does with the samples that are trained on")


def measured(env: DataGenEnv, seed: int) -> tuple[float, float]:
    """Seconds of computation that a sample and a training step take, in a step after the first."""
    env.reset(seed=seed)
    beta = env.space.project(env.space.initial)
    env.step(beta)
    before = env.ledger.by_phase()
    env.step(beta)
    if env.outcome is None or not env.outcome.ok:
        raise RunError(f"nothing can be measured, since a step at the initial parameters fails: {env.outcome}")
    after = env.ledger.by_phase()

    def spent(phase: str) -> float:
        return sum(after[phase][clock] - before[phase][clock] for clock in ("cpu_seconds", "gpu_seconds"))

    problem = env.problem
    return spent("generate") / problem.num_samples, max(spent("train") / problem.unroll_steps, 1e-6)


def _chosen(experiment: Experiment) -> dict[str, Any]:
    """The optimizer to take, with its settings; what `auto` chose once stays chosen."""
    asked = dict(experiment.said["optimizer"])
    if asked["name"] != AUTO:
        return asked
    path = experiment.folder / CHOSEN
    if path.is_file():
        kept = yaml.safe_load(path.read_text())
        if not isinstance(kept, dict) or kept.get("name") not in REGISTRY:
            raise RunError(f"{path}: damaged; delete it, and auto chooses again")
    else:
        print("optimizer: auto measures what a sample and a training step cost", flush=True)
        env = make_environment(experiment.settings({"name": BASELINE}).record)
        try:
            choice = choose(env, *measured(env, experiment.said["seed"]))
        finally:
            env.close()
        kept = {"name": choice.name, **choice.settings, "reason": choice.reason}
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120))
    print(f"optimizer: {kept['name']}: {kept['reason']}", flush=True)
    del kept["reason"], asked["name"]
    merged: Any = OmegaConf.to_container(OmegaConf.merge(kept, asked))
    return dict(merged)


def tune(experiment: Experiment) -> Path:
    """Do what an experiment asks for, or what is missing of it; called in the folder of its file.

    Returns:
        The folder of what came out.

    Raises:
        RunError: It cannot be done; what was done is kept.
        Interrupted: It was stopped from outside; `best.yaml` has the parameters so far.
    """
    print(f"results: {Path.cwd() / experiment.folder}", flush=True)
    tuned = experiment.settings(_chosen(experiment))
    command = shlex.join(["hgenv", "tune", str(experiment.path.name)])
    out = experiment.folder
    try:
        folders = [run(tuned, command)]
    except RecordError as error:
        raise RunError(
            str(error).replace("use another study (study=<name>)", "copy the file to another name")
        ) from error
    except Interrupted:
        if (tuned.folder / records.ROWS).is_file():
            env = make_environment(tuned.record)
            write_best(experiment, env, tuned.folder)
            env.close()
            print(f"parameters so far: {out / product.BEST}", flush=True)
        raise
    env = make_environment(tuned.record)
    try:
        write_best(experiment, env, tuned.folder)
        print(f"parameters: {out / product.BEST}", flush=True)
        if experiment.said["baseline"] and tuned.identity["optimizer"]["label"] != BASELINE:
            print("baseline: the same at the initial parameters; it takes as long again", flush=True)
            try:
                folders.append(run(experiment.settings({"name": BASELINE}), command))
            except Interrupted:
                raise
            except RunError as error:
                print(f"the page goes without the baseline, which failed: {error}", file=sys.stderr, flush=True)
        product.write(out, env, folders, experiment.path.name)
    finally:
        env.close()
    print(f"network:    {out / product.NETWORK}\npage:       {out / product.PAGE}")
    print(f"a data set: hgenv sample {out / product.BEST} -n 10000 --out data", flush=True)
    return out


def write_best(experiment: Experiment, env: DataGenEnv, folder: Path) -> None:
    """Write `best.yaml`: what to paste into one's generator, and what `hgenv sample` needs.

    Args:
        experiment: What was tuned.
        env: Its environment.
        folder: Of the run that tuned it.
    """
    tuned = studies.from_record(records.opened(folder))
    taken = product.recommended(tuned)
    back = os.path.relpath(Path.cwd(), Path.cwd() / experiment.folder)
    text = product.best(env, taken.beta, experiment.said["generator"], back)
    state = "at the end of its run" if tuned.end is not None else "on the way: the run is not at its end"
    if taken.share < 1:
        state += f"; validation was best after {taken.share:.0%} of what was spent, and these are of that moment"
    files.write(experiment.folder / product.BEST, f"# Made by: hgenv tune {experiment.path.name}, {state}.\n{text}")


@plainly
def main(arguments: Sequence[str] | None = None) -> int:
    """Tune from the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    if len(words) > 1 or words[0].startswith("-"):
        raise RunError(f"one file is needed, and nothing else: hgenv tune mine.yaml, not {' '.join(words)}")
    path = Path(words[0])
    experiment = read(path)
    keep_memory()
    gc.collect()
    gc.freeze()  # as `hgenv run` does
    folder = path.absolute().parent
    with chdir(folder):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        tune(experiment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
