"""The line from beta to L: K training steps on what the generator makes, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .accounting import Ledger
from .decision import DecisionSpace
from .device import own_modes, torch_threads
from .learning.first_order import influence, sample_gradient_without_curvature, virtual_influence
from .learning.learner import Learner
from .learning.newton import newton_influence
from .learning.recorded import Recordings
from .learning.rules import Rule, TrainingState
from .learning.unroll import LastAdjoint, last_adjoint, sample_gradient, train, validate
from .problem import Data, Generator, Outcome, PartError, RenderError, Status, part, untouched
from .replay import Drawn
from .samples import Samples, SamplesError
from .saved import AnyOf

SAMPLES_AT_ONCE = 1024  # displaced samples: enough for a GPU, not too much for memory


@dataclass(frozen=True)
class Problem:
    """Everything that a rollout needs and that no rollout changes.

    Attributes:
        generator: f.
        learner: Network and task.
        rule: How the network is trained.
        validation: The data that score beta.
        unroll_steps: K.
        batch_size: B, samples of each of the K training steps.
        device: Where samples and weights are.
        threads: Of torch, while it works on the CPU; None for as many as it has.
        recordings: What the network's work on a GPU is played back from; None where nothing is.
    """

    generator: Generator
    learner: Learner
    rule: Rule
    validation: Data
    unroll_steps: int
    batch_size: int
    device: torch.device
    threads: int | None = None
    recordings: Recordings | None = field(default=None, repr=False)

    @contextmanager
    def work(self, ledger: Ledger, phase: str) -> Iterator[None]:
        """Work inside, charged to a phase, with the threads and modes of torch that it takes."""
        playing = nullcontext() if self.recordings is None else self.recordings.in_use()
        with ledger.phase(phase), torch_threads(self.threads), own_modes(), playing:
            yield

    @property
    def num_samples(self) -> int:
        """N = K B, the samples of a rollout."""
        return self.unroll_steps * self.batch_size

    @property
    def space(self) -> DecisionSpace:
        """The generator's decision space."""
        return self.generator.space

    def charge_training(self, ledger: Ledger, times: int) -> None:
        """Count the training steps of some rollouts."""
        ledger.count("training_steps", times * self.unroll_steps)
        ledger.count("flops", times * self.unroll_steps * self.learner.flops("train", self.batch_size))

    def charge_validation(self, ledger: Ledger, times: int) -> None:
        """Count some validation passes."""
        ledger.count("validation_passes", times)
        ledger.count("flops", times * self.learner.flops("validate", len(self.validation.samples)))

    def validate(self, state: TrainingState, ledger: Ledger) -> float:
        """L at a state; it may be infinite or NaN."""
        # Copies: what a network does to its weights when it is asked is not training.
        weights = {name: w.clone() for name, w in state.weights.items()}
        who = f"the learner {type(self.learner).__name__}"
        with self.work(ledger, "validate"), untouched(self.validation.samples, who):
            loss = validate(self.learner, weights, self.validation)
            ledger.wait()
            value = float(loss)
        self.charge_validation(ledger, 1)
        return value

    def outcome(self, beta: Tensor, loss: float, samples: Samples | None = None) -> Outcome:
        """The outcome at beta, given L and, where there are some to look at, the samples that led to it."""
        if np.isfinite(loss):
            return Outcome(beta, loss)
        words = f"L = {loss} after {self.unroll_steps} training steps"
        found = None if samples is None else samples.not_finite()
        if found is not None:
            words += f"; the generator made {found}, so look there first"
        return Outcome(beta, None, Status.DIVERGED, words)

    def generate(self, betas: Tensor, seeds: Tensor, like: Samples | None = None) -> Any:
        """What the generator makes of copies of betas and seeds, so that what it does to them stays with it.

        Args:
            betas: (B, d).
            seeds: (B,).
            like: Samples that these are to be compared with.

        Raises:
            RenderError: A sample cannot be rendered.
            PartError: The generator failed.
            SamplesError: It made nothing that can be trained on, or that can be compared.
        """
        who = f"the generator {type(self.generator).__name__}"
        with part(who):
            samples = self.generator(betas.clone(), seeds.clone())
        self.check(samples, len(betas))
        if like is not None and _form(samples) != _form(like):
            raise SamplesError(f"{who} made {samples}, but of the same seeds it made {like} before")
        return samples

    def prepare(self, betas: Tensor, seeds: Tensor) -> None:
        """Tell the generator which samples will probably be asked for next, see `Generator`.

        Raises:
            PartError: It failed.
        """
        prepare = getattr(self.generator, "prepare", None)
        if prepare is not None:
            with part(f"the generator {type(self.generator).__name__}"):
                prepare(betas.clone(), seeds.clone())

    def check(self, samples: Any, count: int) -> None:
        """Make sure that what the generator made are so many samples that can be trained on.

        Raises:
            SamplesError: It cannot; the message says what is wrong.
        """
        who = f"the generator {type(self.generator).__name__}"
        if not isinstance(samples, Samples):
            raise SamplesError(f"{who} made {type(samples).__name__}, but a record is needed: see hgenv.Samples")
        samples.check(count, self.device, who)
        self.learner.task.check(samples, who)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Directional derivatives of L through single samples.

    Attributes:
        value: (J, N) float64, change of L per fraction of range, to first order in X, beta of sample i alone moving.
        displacement: (J, N, d) what lay between the two ends, in fractions of each component's range: twice the
            direction, less what a bound cut off.
    """

    value: Tensor
    displacement: Tensor


@dataclass(frozen=True, eq=False)
class SampleGradient:
    """dL/dX of a rollout's samples, or of those of its last training steps; knows whose it is.

    Attributes:
        samples: dL/dX_i, field by field.
        influence: (N,) derivative of L by each sample's weight in its training step's loss; float64.
        betas: (N, d) what each of these samples was made with.
        seeds: (N,) and from which sample seed.
    """

    samples: Samples
    influence: Tensor
    betas: Tensor
    seeds: Tensor
    _problem: Problem = field(repr=False)
    _ledger: Ledger = field(repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice | Tensor) -> SampleGradient:
        """That of some of the samples; rows are a slice, or (N,) bool."""
        there = rows if isinstance(rows, slice) else rows.to(self.seeds.device)
        return SampleGradient(
            self.samples[there],
            self.influence[rows],
            self.betas[rows],
            self.seeds[there],
            self._problem,
            self._ledger,
        )

    def __repr__(self) -> str:
        return f"<SampleGradient: dL/dX of {self.samples}>"

    @property
    def norms(self) -> Tensor:
        """|dL/dX_i| over all fields, (N,) float64."""
        return self.samples.dot(self.samples).sqrt().to("cpu", torch.float64)

    @own_modes()
    def slopes(self, directions: Tensor) -> Slopes:
        """Slopes <dL/dX_i, X_i(beta + delta) - X_i(beta - delta)> / |displacement|, by differences of the generator.

        Args:
            directions: (J, N, d) deltas around the beta that sample i was made with, in fractions of each component's
                range. Where a bound cuts beta + delta or beta - delta, the displacement is what is left; if nothing is
                left, the slope is 0.

        Raises:
            ValueError: Wrong shape, no directions, or one is zero or not finite.
            RenderError: A displaced sample cannot be rendered.
        """
        problem, ledger, count = self._problem, self._ledger, len(self)
        space = problem.space
        if directions.dim() != 3 or not len(directions) or directions.shape[1:] != (count, space.dimension):
            raise ValueError(f"directions must be (J, {count}, {space.dimension}), not {tuple(directions.shape)}")
        if not directions.isfinite().all() or (directions == 0).all(-1).any():
            raise ValueError("directions must be finite and none of them zero")
        center = space.normalize(self.betas)
        rises, displacements = [], []
        for some in directions.to(torch.float64).split(max(1, SAMPLES_AT_ONCE // (2 * count))):
            ahead, behind = (center + some).clamp(0, 1), (center - some).clamp(0, 1)
            displaced = torch.cat([ahead, behind]).flatten(0, 1)
            try:
                with problem.work(ledger, "generate"):
                    seeds = self.seeds.repeat(2 * len(some))
                    made = problem.generate(space.denormalize(displaced), seeds, self.samples)
            finally:
                ledger.count("samples", len(displaced))
            with problem.work(ledger, "gradient"):
                products = torch.stack([self.samples.dot(part) for part in made.split(count)])
                rises.append(products[: len(some)] - products[len(some) :])
                displacements.append(ahead - behind)
        with problem.work(ledger, "gradient"):
            displacement = torch.cat(displacements)
            distance = displacement.norm(dim=-1)
            ledger.wait()
            rise = torch.cat(rises).to("cpu", torch.float64)
            return Slopes(torch.where(distance > 0, rise / distance.clamp(min=1e-12), 0), displacement)

    @own_modes()
    def pathwise(self) -> Tensor:
        """dL/dbeta through each sample by autograd, in the generator's pathwise blocks.

        Returns:
            (N, d) float64, per fraction of each component's range; zero in the other blocks, at no price if there are
            no pathwise ones.

        Raises:
            RenderError: A sample cannot be rendered.
        """
        problem, space = self._problem, self._problem.space
        if not problem.generator.pathwise:
            return torch.zeros_like(self.betas)
        betas = self.betas.clone().requires_grad_()
        try:
            with problem.work(self._ledger, "generate"):
                samples = problem.generate(betas, self.seeds, self.samples)
        finally:
            self._ledger.count("samples", len(betas))
        with problem.work(self._ledger, "gradient"):
            total = self.samples.dot(samples).sum()
            if not total.requires_grad:
                raise PartError(
                    f"the generator {type(problem.generator).__name__} says that {problem.generator.pathwise} are "
                    "pathwise, but its samples have no graph back to beta"
                )
            (slopes,) = torch.autograd.grad(total, betas)
            keep = torch.zeros(space.dimension, dtype=torch.bool)
            for name in problem.generator.pathwise:
                keep[space.slice(name)] = True
            return torch.where(keep, slopes * (space.high - space.low), 0)


@dataclass(frozen=True, eq=False)
class Rollout:
    """K training steps from a state, and their outcome. What is asked of it is paid for when it is asked, once.

    Attributes:
        outcome: Where it led.
        betas: (N, d) what each sample was made with.
        seeds: (N,) and from which sample seed.
        samples: The N samples, in the order of the K batches; None if they could not be rendered.
        states: The K + 1 states on the way; the first alone if there were no samples.
        replayed: (N,) bool, which samples were not rendered for it; None in an environment without `Replay`.
    """

    outcome: Outcome
    betas: Tensor
    seeds: Tensor
    samples: Samples | None = field(repr=False)
    states: list[TrainingState] = field(repr=False)
    _problem: Problem = field(repr=False)
    _ledger: Ledger = field(repr=False)
    replayed: Tensor | None = field(repr=False, default=None)
    _paid: dict[Any, Any] = field(repr=False, default_factory=dict)

    @property
    def end(self) -> TrainingState:
        """The last state."""
        return self.states[-1]

    @property
    def drawn_at(self) -> Tensor:
        """(N, d) betas from whose distribution each sample is a draw, for scores.

        What it was made with; but for a replayed sample that of the step, since it was chosen by its density there.
        """
        if self.replayed is None:
            return self.betas
        return torch.where(self.replayed[:, None], self.outcome.beta, self.betas)

    @own_modes()
    def sample_gradient(self, *, last_steps: int | None = None, curvature: bool = True) -> SampleGradient:
        """dL/dX of the N samples, by the adjoint of the K training steps.

        Args:
            last_steps: Of the samples of the last so many training steps alone, at their share of the price; None for
                all K.
            curvature: Whether it has how a training step changes the gradients of those after it; without, it costs
                0.6 as much, and in the last step it is the same within single precision.

        Raises:
            RuntimeError: The rollout failed.
            ValueError: `last_steps` is not within 1 to K.
        """
        problem, batches = self._problem, self._batches()
        steps = len(batches) if last_steps is None else last_steps
        for paid in (True, curvature):  # with curvature serves without, more steps serve fewer
            found = self._paid.get(("gradient", paid))
            if found is not None and 0 < steps * problem.batch_size <= len(found):
                return found[slice(-steps * problem.batch_size, None)]
        differentiate = sample_gradient if curvature else sample_gradient_without_curvature
        last = self._last_adjoint()
        with problem.work(self._ledger, "gradient"):
            _, parts = differentiate(*self._trained(), last_steps=last_steps, last=last)
            rows = steps * problem.batch_size
            gradient = SampleGradient(
                type(batches[0]).cat([part.samples for part in parts]),
                torch.cat([part.influence for part in parts]).to("cpu", torch.float64),
                self.betas[-rows:],
                self.seeds[-rows:],
                problem,
                self._ledger,
            )
        self._pay(("gradient", curvature), gradient)
        if curvature:
            self._ledger.count("gradient_steps", steps)
            self._charge(steps * (problem.learner.flops("gradient", problem.batch_size) + self._rule_flops()))
        else:  # two passes forward and back to the samples
            there_and_back = 4 * problem.learner.flops("validate", problem.batch_size)
            self._charge(steps * (there_and_back + self._rule_flops()))
        return gradient

    @own_modes()
    def influence(self, *, last_steps: int | None = None, curvature: bool = False) -> Tensor:
        """What training on each of the N samples did to L, to first order in the network's weights.

        It is the derivative of L by the sample's weight in its training step's loss. Two samples of one training step
        that are alike but for beta differ in influence by what beta did to L.

        Args:
            last_steps: Of the samples of the last so many training steps alone, at their share of the price; None for
                all K. A sample gradient without curvature that is paid for has theirs.
            curvature: By the full adjoint, see `sample_gradient`, at about four times the price (none if that is paid
                for).

        Returns:
            (N,) float64, or (last_steps * B,).

        Raises:
            RuntimeError: The rollout failed.
            ValueError: `last_steps` is not within 1 to K.
        """
        if curvature:
            return self.sample_gradient(last_steps=last_steps).influence
        problem, batches = self._problem, self._batches()
        steps = len(batches) if last_steps is None else last_steps
        rows, gradient = steps * problem.batch_size, self._paid.get(("gradient", False))
        for paid in (self._paid.get("influence"), None if gradient is None else gradient.influence):
            if paid is not None and 0 < rows <= len(paid):
                found: Tensor = paid[-rows:]
                return found
        last = self._last_adjoint()
        with problem.work(self._ledger, "gradient"):
            _, parts = influence(*self._trained(), last_steps=last_steps, last=last)
            found = torch.cat(parts).to("cpu", torch.float64)
        forward = problem.learner.flops("validate", problem.batch_size)
        self._charge(steps * (2 * forward + self._rule_flops()))
        self._pay("influence", found)
        return found

    @own_modes()
    def virtual_influence(self, betas: Tensor, seeds: Tensor) -> Tensor:
        """The influence that M other samples would have had in the last training step: they are trained on never.

        A virtual sample costs its rendering and two forward passes, a third of what a training sample costs.

        Args:
            betas: (M, d) within the bounds, one for each.
            seeds: (M,), see `DataGenEnv.sample_seeds`.

        Returns:
            (M,) float64, to be compared with `influence`.

        Raises:
            RuntimeError: The rollout failed.
            RenderError: One of them cannot be rendered.
        """
        problem = self._problem
        self._batches()
        try:
            with problem.work(self._ledger, "generate"):
                samples = problem.generate(betas, seeds.to(problem.device), self.samples)
        finally:
            self._ledger.count("samples", len(betas))
        last = self._last_adjoint()
        with problem.work(self._ledger, "gradient"):
            _, found = virtual_influence(*self._trained(), samples, last=last)
            found = found.to("cpu", torch.float64)
        self._charge(2 * problem.learner.flops("validate", len(samples)) + self._rule_flops())
        return found

    @own_modes()
    def newton_influence(self, *, products: int = 4, damping: float = 0.1) -> Tensor:
        """The influence that the N samples would have if training on their like were led to its end.

        By a Newton step from the last weights, as in AutoSimulate; see `hgenv.learning.newton`.

        Args:
            products: Hessian-vector products that are paid for, two training steps each.
            damping: Of the Hessian, as a fraction of the curvature along dL/dw.

        Returns:
            (N,) float64.

        Raises:
            RuntimeError: The rollout failed.
            ValueError: `products` is not positive, or `damping` is negative.
        """
        if products < 1 or damping < 0:
            raise ValueError(f"products must be at least 1 and damping at least 0, not {products} and {damping}")
        problem, batches, last = self._problem, self._batches(), self._last_adjoint()
        with problem.work(self._ledger, "gradient"):
            _, parts = newton_influence(
                problem.learner, self.states, batches, problem.validation, products=products, damping=damping, last=last
            )
            found = torch.cat(parts).to("cpu", torch.float64)
        self._charge(2 * products * problem.learner.flops("train", problem.batch_size))
        self._charge(2 * problem.learner.flops("validate", problem.num_samples))
        return found

    def state_dict(self) -> dict[str, Any]:
        """What `restore` makes it of: tensors, numbers and texts."""
        outcome = self.outcome
        return {
            "outcome": {
                "beta": outcome.beta, "loss": outcome.loss, "status": outcome.status.name, "message": outcome.message,
            },
            "betas": self.betas,
            "seeds": self.seeds,
            "states": [state.state_dict() for state in self.states],
        } | ({} if self.replayed is None else {"replayed": self.replayed})  # fmt: skip

    def __repr__(self) -> str:
        return f"<Rollout: {len(self.states) - 1} training steps on {len(self.betas)} samples, {self.outcome}>"

    def _batches(self) -> list[Samples]:
        if self.samples is None or not self.outcome.ok:
            raise RuntimeError(f"a rollout that failed has no gradient: {self.outcome.status.name}")
        return self.samples.split(self._problem.batch_size)

    def _charge(self, flops: int) -> None:
        """Count what a gradient took of the network's work."""
        self._ledger.count("flops", flops)
        self._ledger.count("gradient_flops", flops)

    def _rule_flops(self) -> int:
        """Per training step: where the rule is not linear, its derivative needs the step's gradient again."""
        return 0 if self._problem.rule.linear else self._problem.learner.flops("train", self._problem.batch_size)

    def _last_adjoint(self) -> LastAdjoint:
        """What all gradients start from: L and dL/dw, by a validation pass and its way back, twice the work again."""
        if "adjoint" in self._paid:
            paid: LastAdjoint = self._paid["adjoint"]
            return paid
        problem = self._problem
        with problem.work(self._ledger, "gradient"):
            found = last_adjoint(problem.learner, self.end, problem.validation)
        self._ledger.count("validation_passes", 1)
        self._charge(3 * problem.learner.flops("validate", len(problem.validation.samples)))
        self._pay("adjoint", found)
        return found

    def _trained(self) -> tuple[Learner, Rule, list[TrainingState], list[Samples], Data]:
        """What the functions of `hgenv.learning` need to know."""
        problem = self._problem
        return problem.learner, problem.rule, self.states, self._batches(), problem.validation

    def _pay(self, what: Any, found: Any) -> None:
        """Remember what was asked; not what a log looked at, which was not paid for."""
        if self._ledger.on_clock:
            self._paid[what] = found


def _form(samples: Samples) -> list[Any]:
    """What samples of one seed have in common, whatever beta is."""
    return [type(samples), *((x.shape[1:], x.is_floating_point()) for x in samples.tensors)]


def roll(
    problem: Problem,
    start: TrainingState,
    beta: Tensor,
    betas: Tensor,
    seeds: Tensor,
    ledger: Ledger,
    drawn: Drawn | None = None,
    expected: tuple[Tensor, Tensor] | None = None,
) -> Rollout:
    """Generate, train K steps, validate.

    Args:
        problem: What with.
        start: Where training starts.
        beta: (d,) what to call the betas together.
        betas: (N, d) within the bounds.
        seeds: (N,) int64 on the problem's device.
        ledger: Who pays, for this and for what is asked of the rollout.
        drawn: Which samples there are already; None: none, and nothing is to be said of it.
        expected: (M, d) betas and (M,) sample seeds that will probably be asked for after this.
    """
    replayed = None if drawn is None else drawn.replayed
    try:
        with problem.work(ledger, "generate"):
            if drawn is None or drawn.samples is None:
                samples = problem.generate(betas, seeds)
            else:
                fresh = ~drawn.replayed
                made = problem.generate(betas[fresh], seeds[fresh.to(seeds.device)], drawn.samples)
                samples = drawn.merge(made)
            if expected is not None:
                problem.prepare(*expected)
    except RenderError as error:
        outcome = Outcome(beta, None, Status.UNRENDERABLE, str(error))
        return Rollout(outcome, betas, seeds, None, [start], problem, ledger, replayed)
    finally:
        ledger.count("samples", len(betas) - (0 if replayed is None else int(replayed.sum())))
    with problem.work(ledger, "train"), untouched(samples, f"the learner {type(problem.learner).__name__}"):
        states = train(problem.learner, problem.rule, start, samples.split(problem.batch_size))
    problem.charge_training(ledger, 1)
    outcome = problem.outcome(beta, problem.validate(states[-1], ledger), samples)
    return Rollout(outcome, betas, seeds, samples, states, problem, ledger, replayed)


def like_rollout(problem: Problem, state: TrainingState, replay: bool) -> dict[str, Any]:
    """What the `state_dict` of a rollout of a problem looks like, given any state of training; see `copy_like`."""
    beta, n = problem.space.initial, problem.num_samples
    at = state.state_dict()
    return {
        "outcome": {"beta": beta, "loss": AnyOf((None, 0.0)), "status": "", "message": ""},
        "betas": beta.expand(n, -1),
        "seeds": torch.zeros(n, dtype=torch.int64, device=problem.device),
        "states": AnyOf(([at], [at] * (problem.unroll_steps + 1))),
    } | ({"replayed": torch.zeros(n, dtype=torch.bool)} if replay else {})


def restore(problem: Problem, kept: dict[str, Any], ledger: Ledger) -> Rollout:
    """A rollout from its `state_dict`, which looks as it should; its samples are made again, free of charge.

    Raises:
        ValueError: It contradicts itself.
    """
    said = kept["outcome"]
    if said["status"] not in Status.__members__:
        raise ValueError(f"the last rollout: there is no status {said['status'][:40]!r}")
    outcome = Outcome(**said | {"status": Status[said["status"]]})
    if outcome.ok != (outcome.loss is not None) or outcome.ok > (len(kept["states"]) > 1):
        raise ValueError(f"the last rollout: status {said['status']} with loss {outcome.loss}: one of them is wrong")
    for beta in (outcome.beta, *kept["betas"]):
        problem.space.check(beta)
    betas, seeds = kept["betas"], kept["seeds"]
    states = [TrainingState(**state) for state in kept["states"]]
    try:
        with torch_threads(problem.threads), own_modes():
            samples = problem.generate(betas, seeds) if outcome.ok else None
    except RenderError as error:
        raise ValueError(f"the last rollout: its samples cannot be made again: {error}") from error
    return Rollout(outcome, betas, seeds, samples, states, problem, ledger, kept.get("replayed"))
