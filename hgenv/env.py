"""The environment: an action is a decision vector, a step trains a network on what it generates.

Knows spaces, seeds, weights and the ledger; the line from beta to L is `rollout`'s business.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypedDict, TypeVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .accounting import Ledger
from .decision import DecisionError, DecisionSpace
from .device import choose_device, own_modes, torch_threads
from .generators.random import hash_integers
from .learning.learner import Learner, initial_weights
from .learning.recorded import Recordings
from .learning.rules import Rule, TrainingState
from .patience import patience
from .probing import Batched, Prober, Serial
from .problem import Data, Generator, Outcome, part, untouched
from .replay import Drawn, Replay, ReplayPool
from .rollout import Problem, Rollout, like_rollout, restore, roll
from .samples import SamplesError
from .saved import AnyOf, copy_like
from .tasks.task import Task

GALLERY = 16  # samples that `render` shows
T = TypeVar("T")


class Options(TypedDict, total=False):
    """What every environment takes besides its own arguments, see `DataGenEnv`."""

    unroll_steps: int
    batch_size: int
    max_updates: int
    device: str
    threads: int | None
    prober: Prober | None
    cuda_graphs: bool
    replay: Replay | None
    render_mode: str | None


class DataGenEnv(gym.Env):
    """Tune a generator of training data so that a network does well on real data.

    One step takes the paper's whole line (section 4): generate N = K * batch_size samples with beta, train the network
    on them for K steps from the current weights, validate it, keep the weights (incremental training).

    | | |
    | --- | --- |
    | action | beta in its own units, `Box(low, high)`; simplex blocks are projected to sum to one |
    | observation | `Box(d + 2,)`: the last beta scaled to [-1, 1], last loss / its maximum, share of the episode gone |
    | reward | -L, the negative validation loss; -(the task's `max_loss`) if the step failed |
    | terminated | the step failed (see `Status`); the weights are as they were before it |
    | truncated | after `max_updates` steps |
    | info | `loss`, `status`, `message`, `update`: deterministic values only; clocks are in `ledger` |

    Beyond Gymnasium it offers what optimizers for this problem need, at the price that each costs: `probe`, `rollout`,
    and what a `Rollout` can be asked for, `last` being that of the last step. Wrappers do not know these:
    `gymnasium.make(...).unwrapped` has them.

    Args:
        generator: f.
        learner: Network and task.
        validation: The data that score beta.
        test: Held-out data, for reports alone.
        rule: How the network is trained.
        unroll_steps: K. Few large batches: dL/dbeta of many small ones is mostly noise.
        batch_size: Samples of each of the K training steps.
        max_updates: Length of the episode.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:<n>".
        threads: Of torch, while the environment works on a CPU; None for as many as torch has. One is fastest wherever
            other work goes on, and gives the same bits whatever the machine has. More pay for large networks.
        prober: How probes are made, see `hgenv.probing`; None for as one batch on a GPU, one by one on a CPU.
        cuda_graphs: On a GPU, record the network's work when it is first done, and play it back from then on. False
            for a learner that is no function of its weights and samples alone.
        replay: How samples are used more than once, where renders are dear; None for each once.
        render_mode: None or "rgb_array".

    Attributes:
        problem: What a rollout needs: generator, learner, rule, validation data, K, batch size, device.
        prober: How probes are made.
        ledger: What was spent since `reset`.
        last: The rollout of the last step; None before the first.
        update: Steps taken since `reset`.
    """

    # gymnasium.Env declares it as an attribute of instances, and a ClassVar may not take the place of such a one.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        generator: Generator,
        learner: Learner,
        validation: Data,
        test: Data,
        *,
        rule: Rule,
        unroll_steps: int = 2,
        batch_size: int = 32,
        max_updates: int = 1000,
        device: str = "auto",
        threads: int | None = 1,
        prober: Prober | None = None,
        cuda_graphs: bool = True,
        replay: Replay | None = None,
        render_mode: str | None = None,
    ) -> None:
        if min(unroll_steps, batch_size, max_updates) < 1:
            raise ValueError("unroll_steps, batch_size and max_updates must each be at least 1")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, or None for as many as torch has, not {threads}")
        if not callable(rule) or not hasattr(rule, "start"):
            raise TypeError(f"rule must be how the network is trained, such as hgenv.SGD(0.05), not {rule!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"unknown render_mode {render_mode!r}; choose None or one of {self.metadata['render_modes']}"
            )
        if replay is not None and not isinstance(replay, Replay):
            raise TypeError(f"replay must be None, or hgenv.Replay(capacity=1024, fresh=0.5), not {replay!r}")
        where = choose_device(device)
        if torch.is_inference_mode_enabled():
            raise ValueError("make the environment outside of torch.inference_mode(): its data are trained on")
        elsewhere = generator.space.initial.device.type != "cpu"
        for name, data in (("validation", validation), ("test", test)):
            learner.task.check(data.samples, f"the {name} data {data.label!r}")
            if elsewhere or any(x.is_meta for x in data.samples.tensors):
                raise ValueError(
                    "make the environment where torch's default device is the CPU: its decision space has to be there, "
                    "and on 'meta' there are no data; the argument `device` says where it works"
                )
            if (wrong := data.samples.not_finite()) is not None:
                raise SamplesError(f"the {name} data {data.label!r} have {wrong}; replace them by intact ones")
        recordings = Recordings() if cuda_graphs and where.type == "cuda" else None
        held = validation.to(where)
        self.problem = Problem(
            generator, learner, rule, held, unroll_steps, batch_size, where, threads, recordings=recordings
        )
        self.test = test.to(where)
        self._pool = None if replay is None else ReplayPool(replay, generator)
        self.max_updates, self.render_mode = max_updates, render_mode
        self.prober: Prober = prober or (Serial() if where.type == "cpu" else Batched())
        self.action_space = gym.spaces.Box(self.space.low.numpy(), self.space.high.numpy(), dtype=np.float64)
        bound = np.ones(self.space.dimension + 2, dtype=np.float32)
        low = np.concatenate([-bound[:-2], np.zeros(2, dtype=np.float32)])
        self.observation_space = gym.spaces.Box(low, bound, dtype=np.float32)
        self.ledger = Ledger(where)
        self.update = 0
        self.last: Rollout | None = None
        self._state: TrainingState | None = None
        self._seed: int | None = None
        self._rolled = False
        self._expected: tuple[Tensor, Tensor] | None = None

    # What the problem is made of.

    @property
    def generator(self) -> Generator:
        """f."""
        return self.problem.generator

    @property
    def space(self) -> DecisionSpace:
        """The decision space."""
        return self.problem.generator.space

    @property
    def learner(self) -> Learner:
        """Network and task."""
        return self.problem.learner

    @property
    def task(self) -> Task:
        """Losses, metrics, pictures."""
        return self.problem.learner.task

    @property
    def validation(self) -> Data:
        """The data that score beta."""
        return self.problem.validation

    @property
    def device(self) -> torch.device:
        """Where samples and weights are."""
        return self.problem.device

    @property
    def state(self) -> TrainingState:
        """Weights now, and what the rule remembers.

        Raises:
            gymnasium.error.ResetNeeded: There was no `reset` yet.
        """
        return self._after_reset(self._state)

    @property
    def outcome(self) -> Outcome | None:
        """What the last step gave; None before the first."""
        return None if self.last is None else self.last.outcome

    # --- Gymnasium -------------------------------------------------------------------------------------------------

    @own_modes()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start over: new weights, new sample seeds, an empty ledger.

        Args:
            seed: Decides the initial weights and all samples. None goes on with the environment's own generator.
            options: None are known.

        Raises:
            ValueError: There are options.
            RuntimeError: It is called within an update.
        """
        if self.ledger.in_update:
            raise RuntimeError("an optimizer may not reset the environment: its ledger would be empty then")
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; there are none")
        self._seed = int(self.np_random.integers(2**62))
        self._state = self._first_state(self._seed)
        self.update = 0
        self.last = self._expected = None
        if self._pool is not None:
            self._pool.clear()
        self._last_loss = self.problem.validate(self.state, self.ledger)
        self.ledger = Ledger(self.device)
        return self._observation(self.space.initial), {"loss": self._last_loss, "update": 0}

    @own_modes()
    def step(self, beta: ArrayLike | Tensor) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Generate at `beta`, train K steps from the current weights, validate, keep the weights.

        Raises:
            DecisionError: beta has the wrong shape, is not finite or out of bounds. Nothing has changed then.
            SamplesError: What the generator made is nothing that the task can take. Nothing has changed then, either.
            gymnasium.error.ResetNeeded: There was no `reset` yet.
        """
        outcome = self.rollout(self.space.check(beta), keep=True).outcome
        info = {"status": outcome.status.name, "message": outcome.message, "update": self.update}
        if outcome.ok:
            info["loss"] = self._last_loss
        reward = -self._last_loss if outcome.ok else -float(self.task.max_loss)
        truncated = self.update >= self.max_updates
        return self._observation(outcome.beta), reward, not outcome.ok, truncated, info

    @own_modes()
    def render(self) -> NDArray[np.uint8] | None:
        """The last step's first 16 training samples as one 4 x 4 gallery, (4 S, 4 S, 3); black if there are none."""
        if self.render_mode is None:
            return None
        made = None if self.last is None else self.last.samples
        shown = self.validation.samples[:1] if made is None else made[:GALLERY]
        picture = self.task.picture(shown)
        if picture is None:
            raise ValueError(f"{type(self.task).__name__} draws no pictures, so there is nothing to render")
        images = picture.rows[0]
        gallery = np.zeros((GALLERY, *images.shape[1:]), dtype=np.uint8)
        if made is not None:
            gallery[: len(images)] = images
        rows = [np.concatenate(list(row), axis=1) for row in gallery.reshape(4, 4, *images.shape[1:])]
        return np.concatenate(rows)

    # --- What optimizers may ask for, each at its price --------------------------------------------------------------

    @own_modes()
    def rollout(
        self, betas: Tensor, *, start: TrainingState | None = None, seeds: Tensor | None = None, keep: bool = False
    ) -> Rollout:
        """Generate, train K steps, validate.

        Args:
            betas: (d,) one beta for all samples, projected to the nearest valid vector; or (N, d) one for each, in the
                order of the K batches. These are not projected: the generator puts simplex blocks right by itself.
            start: Where training starts, such as another rollout's `end`; None for the current weights.
            seeds: (N,) sample seeds, from `sample_seeds`; None for N different ones. Samples that share one are alike
                but for beta.
            keep: Whether to keep the result: then it is a step, one of `max_updates`. If it fails, the weights are as
                they were before. With `Replay`, a step at one beta whose seeds are None takes samples from the pool,
                and puts what it renders there if it does not fail.

        Raises:
            DecisionError: One of the betas is not finite or out of bounds. Nothing has changed then.
            ValueError: There are not N betas or seeds.
            TypeError: `start` is no state of training.
        """
        n, d = self.problem.num_samples, self.space.dimension
        if not isinstance(betas, Tensor) or betas.is_nested or betas.dim() == 0:
            raise DecisionError(f"betas must be a tensor, ({d},) or ({n}, {d}), not {_said(betas)}")
        if betas.dim() == 1:
            beta = self._valid(betas)
            rows = beta.expand(n, -1)
        elif betas.shape == (n, d):
            rows = torch.stack([self.space.check(row) for row in betas])
            beta = self.space.project(rows.mean(0))
        else:
            raise ValueError(
                f"betas must be ({d},), or ({n}, {d}), one for each sample of a step, not {tuple(betas.shape)}"
            )
        drawn, pool = None, self._pool if keep else None
        pooled = pool is not None and seeds is None and betas.dim() == 1
        if seeds is None:
            seeds = self.sample_seeds(n)
        elif not isinstance(seeds, Tensor) or seeds.is_nested or seeds.shape != (n,):
            raise ValueError(f"seeds must be ({n},), one for each sample of a step, not {_said(seeds)}")
        if start is None:
            start = self.state
        elif not isinstance(start, TrainingState):
            raise TypeError(f"start must be a state of training, such as a rollout's `end`, not {_said(start)}")
        if pool is not None:
            drawn = Drawn.nothing(n, d)
            if pooled:
                with self.problem.work(self.ledger, "generate"):
                    drawn = pool.draw(beta, n, self.problem.batch_size, self._key(1))
                    rows, seeds = drawn.place(rows, seeds)
        with self._first_patience():
            # What will be replayed of the coming step is not known yet.
            expected = self._expected if keep and pool is None else None
            rolled = roll(self.problem, start, beta, rows, seeds.to(self.device), self.ledger, drawn, expected)
        if pool is not None and drawn is not None and pooled and rolled.outcome.ok and rolled.samples is not None:
            with self.problem.work(self.ledger, "generate"):
                fresh = (~drawn.replayed).to(self.device)
                pool.add(beta, rolled.seeds[fresh], rolled.samples[fresh])
        if keep:
            self._expected = None
            self.last = rolled
            self.update += 1
            self.ledger.count("updates", 1)
            if rolled.outcome.loss is not None:
                self._state, self._last_loss = rolled.end, rolled.outcome.loss
        return rolled

    @own_modes()
    def probe(self, betas: Tensor) -> list[Outcome]:
        """What a step at each of (P, d) betas would give: same weights, same sample seeds. Nothing is kept.

        Raises:
            DecisionError: One of them is not valid.
            WorkerError: See `hgenv.probing.Workers`.
            RuntimeError: See `hgenv.probing.Batched`.
        """
        if not isinstance(betas, Tensor) or betas.is_nested or betas.dim() != 2:
            raise DecisionError(
                f"betas must be a tensor (P, {self.space.dimension}), a row for each probe, not {_said(betas)}"
            )
        start, valid = self.state, [self._valid(beta) for beta in betas]
        seeds = self.sample_seeds(self.problem.num_samples)
        return self.prober.probe(self.problem, start, valid, seeds, self.ledger)

    @own_modes()
    def expect(self, betas: Tensor, seeds: Tensor) -> None:
        """Say what will probably be asked for after the coming step, by `probe`, by `rollout` or of its `Rollout`.

        A generator that can (see `Generator`) makes these samples while the network trains. Nothing else changes: who
        is wrong, or says nothing, only waits longer.

        Args:
            betas: (M, d) within the bounds, one for each.
            seeds: (M,), from `sample_seeds`.
        """
        self._expected = betas, seeds

    @own_modes()
    def sample_seeds(self, count: int, *, later: int = 0) -> Tensor:
        """The first `count` sample seeds of the coming step, (count,) int64 on the environment's device.

        Args:
            count: How many.
            later: Of the step that comes so many steps later.
        """
        return hash_integers(self._key(0) + later, count)[0].to(self.device)

    # --- Off the clock -----------------------------------------------------------------------------------------------

    def test_metrics(self) -> dict[str, float]:
        """Metrics of the current weights on held-out data. Off the clock; for reports, never for an optimizer."""
        return self._score(self.test)

    def validation_metrics(self) -> dict[str, float]:
        """The same on the validation data."""
        return self._score(self.validation)

    @own_modes()
    def warm_up(self) -> None:
        """Run every kernel once, off the clock, so that no optimizer pays for first calls. Changes nothing."""
        beta, seeds = self._valid(self.space.initial), self.sample_seeds(self.problem.num_samples)
        with self.ledger.phase("warm_up"):
            rolled = self.rollout(beta)
            self.prober.warm_up(self.problem, self.state, beta, seeds, self.ledger)
            # A method that needs no gradient must not fail for want of one; who needs it is told then.
            with suppress(RuntimeError):
                rolled.influence()
                rolled.sample_gradient(last_steps=1, curvature=False)
                gradient = rolled.sample_gradient()
                if not hasattr(self.generator, "prepare"):  # samples from other processes need no kernels here
                    gradient.slopes(torch.full((1, len(gradient), self.space.dimension), 1e-2))
                if self.generator.pathwise:
                    gradient.pathwise()

    def close(self) -> None:
        """Give back what the prober holds, and what the generator holds, if it can be closed."""
        self.prober.close()
        close = getattr(self.generator, "close", None)
        if close is not None:
            close()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: tensors, numbers and texts, which `torch.save` and `torch.load` take."""
        last = self.last
        return {
            "state": self.state.state_dict(),
            "seed": self._seed,
            "update": self.update,
            "last_loss": self._last_loss,
            "last": None if last is None else last.state_dict(),
            "ledger": self.ledger.state_dict(),
            "np_random": self.np_random.bit_generator.state,
        } | ({} if self._pool is None else {"pool": self._pool.state_dict()})

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        The ledger goes back, too, but not within an update: what an optimizer has spent stays spent.

        Raises:
            ValueError: The state is not one of this environment: a name, a type, a shape or a number is not as it
                should be. The message says which. Nothing has changed then.
        """
        like = self._like()
        if type(self).state_dict is not DataGenEnv.state_dict and isinstance(state, dict):
            state = {name: value for name, value in state.items() if name in like}  # the rest is for whoever added it
        kept = copy_like(state, like, "the environment")
        last = None if kept["last"] is None else restore(self.problem, kept["last"], self.ledger)
        pool = None if self._pool is None else self._restored(self._pool, kept["pool"])
        # From here on nothing can fail.
        self._seed, self.update, self._last_loss = kept["seed"], kept["update"], kept["last_loss"]
        self._state, self.last, self._pool = TrainingState(**kept["state"]), last, pool
        self.np_random.bit_generator.state = kept["np_random"]
        if not self.ledger.in_update:
            self.ledger.load_state_dict(kept["ledger"])

    def __repr__(self) -> str:
        problem = self.problem
        return (
            f"<{type(self).__name__}: {problem.space.dimension} numbers decide, {problem.unroll_steps} x "
            f"{problem.batch_size} samples a step, scored on {problem.validation.label!r}, {problem.device}, update "
            f"{self.update}>"
        )

    # -----------------------------------------------------------------------------------------------------------------

    def _like(self) -> dict[str, Any]:
        """What a state of this environment looks like, see `copy_like`."""
        state = self._first_state(0) if self._state is None else self._state

        def random(found: Any) -> Any:
            trial = type(self.np_random.bit_generator)()
            try:
                trial.state = found
                if str(trial.state) != str(found):
                    raise ValueError(f"it is taken for {trial.state}")
            except Exception as error:  # numpy's own, which differ from version to version
                raise ValueError(f"the environment: np_random: no state of numpy's generator: {error}") from None
            return found

        return {
            "state": state.state_dict(),
            "seed": 0,
            "update": 0,
            "last_loss": 0.0,
            "last": AnyOf((None, like_rollout(self.problem, state, self._pool is not None))),
            "ledger": Ledger.checked,
            "np_random": random,
        } | ({} if self._pool is None else {"pool": self._pool.check})

    def _restored(self, pool: ReplayPool, kept: dict[str, Any]) -> ReplayPool:
        """A pool as it was saved; its samples are made again, free of charge."""
        with torch_threads(self.problem.threads):
            return pool.restored(kept, lambda betas, seeds: self.problem.generate(betas, seeds.to(self.device)))

    def _key(self, stream: int) -> Tensor:
        """What decides one of the things that are random about the coming step, (1,) int64."""
        return hash_integers(torch.tensor([self._after_reset(self._seed)]), 1 + stream)[0, stream:] + self.update

    def _first_state(self, seed: int) -> TrainingState:
        """Before any training."""
        return self.problem.rule.start(initial_weights(self.learner, seed, self.device))

    def _score(self, data: Data) -> dict[str, float]:
        who = f"the learner {type(self.learner).__name__} with {type(self.task).__name__}"
        weights = {name: w.clone() for name, w in self.state.weights.items()}
        with self.problem.work(self.ledger, "score"), torch.no_grad(), untouched(data.samples, who), part(who):
            return self.task.score(self.learner.output(weights, data.samples), data)

    def _after_reset(self, value: T | None) -> T:
        """A value that there is once `reset` was called."""
        if value is None:
            raise gym.error.ResetNeeded(f"{type(self).__name__} has no weights yet: call reset(seed=...) first")
        return value

    def _first_patience(self) -> AbstractContextManager[None]:
        """Tells why the first rollout may take long."""
        if self._rolled:
            return nullcontext()
        self._rolled = True
        # Which of the two it is, numba does not say beforehand.
        return patience("the first step loads compiled code; the first time on a machine it compiles, up to a minute")

    def _valid(self, beta: ArrayLike | Tensor) -> Tensor:
        return self.space.project(self.space.check(beta))

    def _observation(self, beta: Tensor) -> NDArray[np.float32]:
        scaled = 2 * self.space.normalize(beta) - 1
        rest = torch.tensor([self._last_loss / self.task.max_loss, self.update / self.max_updates])
        observation = torch.cat([scaled, rest]).numpy().astype(np.float32)
        return np.clip(observation, self.observation_space.low, self.observation_space.high)


def _said(value: Any) -> str:
    """What somebody gave where something else was needed."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "a nested tensor" if value.is_nested else str(tuple(value.shape))
