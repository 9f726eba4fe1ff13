"""The environment: an action is a decision vector, a step trains a network on what it generates.

Knows spaces, seeds, weights and the ledger; rendering is the generator's, training the learner's business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .accounting import Ledger
from .batch import Batch
from .decision import DecisionSpace
from .generators.random import hash_integers
from .learning.unroll import SGD, Learner, TrainingState, full_precision, train, train_together
from .learning.unroll import credits as unrolled_credits
from .learning.unroll import sample_gradient as unrolled_gradient
from .rendering.scene import RenderError
from .workers import Workers

SAMPLES_AT_ONCE = 1024  # displaced samples: enough for a GPU, not too much for memory


class Generator(Protocol):
    """f(beta, r): deterministic in both, random in r alone.

    Attributes:
        space: What the components of beta mean.
        smooth: Names of the blocks through which autograd gives the exact dX/dbeta; the rest is a black box.
    """

    space: DecisionSpace
    smooth: tuple[str, ...]

    def __call__(self, betas: Tensor, seeds: Tensor) -> Batch:
        """Samples for (B, d) betas and (B,) int64 seeds, one beta per sample."""
        ...


class Status(enum.Enum):
    """What became of an evaluation. The value is advice for whoever reads it."""

    OK = "trained and validated"
    DIVERGED = (
        "the loss or the weights became infinite or NaN during training; lower the learning rate, or keep beta away "
        "from where the samples are degenerate"
    )
    UNRENDERABLE = "a sample could not be rendered; see the message for its seed, and keep beta further from its bounds"


@dataclass(frozen=True)
class Outcome:
    """What training at a beta gave.

    Attributes:
        beta: (d,) the valid vector that was used.
        loss: L on the validation photos after the K steps; None unless the status is OK.
        status: OK, or what went wrong.
        message: Details of a failure, else empty.
    """

    beta: Tensor
    loss: float | None
    status: Status = Status.OK
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a loss."""
        return self.status is Status.OK


@dataclass(frozen=True)
class Unroll:
    """The K training steps that an evaluation took: betas (N, d), seeds (N,), K batches, K + 1 states."""

    betas: Tensor
    seeds: Tensor
    batches: list[Batch]
    states: list[TrainingState]


class DataGenEnv(gym.Env):
    """Tune a generator of training data so that a network does well on real data.

    One step takes the paper's whole line (section 4): generate N = K * batch_size samples with beta, train the network
    on them for K steps of SGD from the current weights, validate it, keep the weights (incremental training).

    | | |
    | --- | --- |
    | action | beta in its own units, `Box(low, high)`; simplex blocks are projected to sum to one |
    | observation | `Box(d + 2,)`: the last beta scaled to [-1, 1], last loss / its maximum, share of the episode gone |
    | reward | -L, the negative validation loss; NaN if the step failed |
    | terminated | the step failed (see `Status`); the weights are as they were before it |
    | truncated | after `max_updates` steps |
    | info | `loss`, `status`, `message`, `update`: deterministic values only; clocks are in `ledger` |

    Beyond Gymnasium it offers what optimizers for this problem need, at the price that each costs: `probe`,
    `sample_gradient`, `slopes`, `exact_slopes`, `step_each`, `credits`.

    Attributes:
        generator: f.
        learner: Network, losses, metrics.
        space: The decision space.
        samples_per_update: N.
        ledger: What was spent since `reset`.
        outcome: What the last step gave; None before the first.
        state: Weights and momentum now.
        update: Steps taken since `reset`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as in gymnasium.Env

    def __init__(
        self,
        generator: Generator,
        learner: Learner,
        validation: Any,
        test: Any,
        *,
        sgd: SGD,
        unroll_steps: int = 4,
        batch_size: int = 16,
        max_updates: int = 1000,
        device: str | torch.device = "cpu",
        workers: int = 0,
        probe_batch: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if min(unroll_steps, batch_size, max_updates) < 1:
            raise ValueError("unroll_steps, batch_size and max_updates must each be at least 1")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"unknown render_mode {render_mode!r}; choose None or one of {self.metadata['render_modes']}"
            )
        self.generator, self.learner, self.sgd = generator, learner, sgd
        self.validation, self.test = validation, test
        self.unroll_steps, self.batch_size, self.max_updates = unroll_steps, batch_size, max_updates
        self.samples_per_update = unroll_steps * batch_size
        self.device = torch.device(device)
        if workers < 0 or (workers and self.device.type != "cpu"):
            raise ValueError(f"workers must be 0, or any number on a CPU, not {workers} on {self.device.type}")
        if probe_batch is not None and (probe_batch < 1 or (workers and probe_batch > 1)):
            raise ValueError(f"probe_batch must be at least 1, and 1 with workers, not {probe_batch}")
        self.workers, self.probe_batch = workers, probe_batch
        self._workers: Workers | None = None
        self.render_mode = render_mode
        self.space = generator.space
        self.action_space = gym.spaces.Box(self.space.low.numpy(), self.space.high.numpy(), dtype=np.float64)
        bound = np.ones(self.space.dimension + 2, dtype=np.float32)
        low = np.concatenate([-bound[:-2], np.zeros(2, dtype=np.float32)])
        self.observation_space = gym.spaces.Box(low, bound, dtype=np.float32)
        self.ledger = Ledger(self.device)

    # --- Gymnasium -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start over: new weights, new sample seeds, an empty ledger.

        Args:
            seed: Decides the initial weights and all samples. None goes on with the environment's own generator.
            options: None are known.

        Raises:
            ValueError: There are options.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; there are none")
        self._seed = int(self.np_random.integers(2**62))
        self.state = self.sgd.start(self.learner.initial_weights(self._seed))
        self.update = 0
        self.outcome: Outcome | None = None
        self._last_loss = self._validate(self.state)
        self._unroll: Unroll | None = None
        self._gradients: dict[bool, Batch] = {}
        self.ledger = Ledger(self.device)
        return self._observation(self.space.initial), {"loss": self._last_loss, "update": 0}

    def step(self, beta: ArrayLike | Tensor) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Generate at `beta`, train K steps from the current weights, validate, keep the weights.

        Raises:
            DecisionError: beta has the wrong shape, is not finite or out of bounds. Nothing has changed then.
        """
        beta = self._valid(beta)
        return self._take(beta, beta.expand(self.samples_per_update, -1))

    def _take(
        self, beta: Tensor, betas: Tensor, share: int = 1
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Step with (N, d) valid betas; `beta` is what to call them together."""
        self.outcome, unroll = self._evaluate(beta, betas, share)
        if unroll is not None:
            self.state, self._unroll, self._gradients = unroll.states[-1], unroll, {}
            assert self.outcome.loss is not None
            self._last_loss = self.outcome.loss
        self.update += 1
        self.ledger.count("updates", 1)
        info = {"status": self.outcome.status.name, "message": self.outcome.message, "update": self.update}
        if self.outcome.ok:
            info["loss"] = self._last_loss
        reward = -self._last_loss if self.outcome.ok else float("nan")
        truncated = self.update >= self.max_updates
        return self._observation(beta), reward, not self.outcome.ok, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """The last step's first 16 training images as one 4 x 4 gallery, (4 S, 4 S, 3); black before the first step."""
        if self.render_mode is None:
            return None
        images = self.validation.batch.image.new_zeros(16, 3, *self.validation.batch.image.shape[2:])
        if self._unroll is not None:
            made = Batch.cat(self._unroll.batches).image[:16, :3]
            images[: len(made)] = made if made.shape[1] == 3 else made[:, :1]  # in colour, or grey
        gallery = images.unflatten(0, (4, 4)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        return (255 * gallery.clamp(0, 1)).round().to("cpu", torch.uint8).numpy()

    # --- What optimizers may ask for, each at its price --------------------------------------------------------------

    def probe(self, betas: Tensor) -> list[Outcome]:
        """What a step at each of (P, d) betas would give: same weights, same sample seeds. Nothing is kept.

        With `workers`, they run side by side in as many processes, and give the same bits as one torch thread here. On
        a GPU `probe_batch` of them (all, if that is None) are rendered, trained and validated as one batch, which
        differs from a step by rounding.

        Raises:
            DecisionError: One of them is not valid.
            WorkerError: A worker process died, or the generator or the learner cannot be sent to one.
            RuntimeError: They cannot be made as one batch.
        """
        valid = [self._valid(beta) for beta in betas]
        if self.workers:
            return self._probe_in_workers(valid)
        size = self._probes_at_a_time(len(valid))
        if size == 1:
            return [self._probe_alone(beta) for beta in valid]
        starts = range(0, len(valid), size)
        return [outcome for start in starts for outcome in self._probe_together(valid[start : start + size])]

    def step_each(self, betas: Tensor, share: int = 1) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Like `step`, every training sample having its own beta.

        Args:
            betas: (N, d) within the bounds, in the order of the K batches. They are not projected: the generator puts
                simplex blocks right by itself.
            share: As many consecutive samples have the same sample seed, so that beta alone tells them apart: 2 for
                antithetic pairs. Divides the batch size.

        Returns:
            What `step` returns; the observation, and `outcome.beta`, hold the mean of `betas`.

        Raises:
            DecisionError: One of the betas is not finite or out of bounds. Nothing has changed then.
            ValueError: They are not N, or `share` does not divide the batch size.
        """
        if betas.shape != (self.samples_per_update, self.space.dimension):
            raise ValueError(
                f"betas must be ({self.samples_per_update}, {self.space.dimension}), one for each sample of a step, "
                f"not {tuple(betas.shape)}"
            )
        if share < 1 or self.batch_size % share:
            raise ValueError(f"share must divide the batch size {self.batch_size}, so {share} is impossible")
        valid = torch.stack([self.space.check(beta) for beta in betas])
        return self._take(self.space.project(valid.mean(0)), valid, share)

    def sample_gradient(self, *, exact: bool = True, steps: int | None = None) -> Batch:
        """dL/dX of the N samples that the last step trained on, by the adjoint of its K training steps.

        Computed, and paid for, once per step.

        Args:
            exact: Otherwise how the K training steps bend each other's gradients is left out, at 0.6 of the
                price, see `hgenv.learning.unroll.sample_gradient`.
            steps: Of the samples of the last so many training steps alone, at their share of the price; None for all K.

        Raises:
            RuntimeError: No step has succeeded since `reset`.
            ValueError: `steps` is not within 1 to K.
        """
        unroll = self._last_unroll()
        count = self.unroll_steps if steps is None else steps
        for paid in (True, exact):
            if paid in self._gradients and 0 < count * self.batch_size <= len(self._gradients[paid]):
                return self._gradients[paid][-count * self.batch_size :]
        with self.ledger.phase("gradient"):
            _, parts = unrolled_gradient(
                self.learner, self.sgd, unroll.states, unroll.batches, self.validation, exact=exact, steps=steps
            )
            self._gradients[exact] = Batch.cat(parts)
        self.ledger.count("validation_passes", 1)
        flops = self.learner.flops
        # Both start from dL/dw: a validation pass and its way back, twice the work again.
        start, forward = 3 * flops("validate", len(self.validation.batch)), flops("validate", self.batch_size)
        if exact:
            self.ledger.count("gradient_steps", count)
        # A difference takes two passes forward and back to the samples.
        self.ledger.count("flops", start + count * (flops("gradient", self.batch_size) if exact else 4 * forward))
        return self._gradients[exact]

    def credits(self, exact: bool = False) -> Tensor:
        """What each of the N samples of the last step did to L, to first order in the network's weights.

        It is the derivative of L by the sample's weight in the training loss. Two samples of one training step that are
        alike but for beta differ in credit by what beta did to L.

        Args:
            exact: By the full adjoint, <dL/dmask_i, mask_i> of `sample_gradient`, at about four times the price (none
                if that is paid for). Otherwise how the K training steps bend each other's gradients is left out, see
                `hgenv.learning.unroll.credits`.

        Returns:
            (N,) float64.

        Raises:
            RuntimeError: No step has succeeded since `reset`.
        """
        unroll = self._last_unroll()
        if exact:
            gradient = self.sample_gradient()
            with self.ledger.phase("gradient"):
                masks = torch.cat([batch.mask for batch in unroll.batches])
                return (gradient.mask * masks).flatten(1).sum(1).to("cpu", torch.float64)
        with self.ledger.phase("gradient"):
            _, parts = unrolled_credits(self.learner, self.sgd, unroll.states, unroll.batches, self.validation)
            credits = torch.cat(parts).to("cpu", torch.float64)
        self.ledger.count("validation_passes", 1)
        flops = self.learner.flops
        start, forward = 3 * flops("validate", len(self.validation.batch)), flops("validate", self.batch_size)
        self.ledger.count("flops", start + 2 * self.unroll_steps * forward)
        return credits

    def slopes(self, directions: Tensor, gradient: Batch | None = None) -> Tensor:
        """Directional derivatives of L through single samples: <dL/dX_i, X_i(beta + d) - X_i(beta - d)> / (2 |d|).

        Args:
            directions: (J, N, d) displacements of the beta that sample i was made with, in fractions of each
                component's range. Where a bound cuts beta + d or beta - d, the distance between what is left replaces
                2 |d|; if nothing is left, the slope is 0.
            gradient: dL/dX of the last samples, as `sample_gradient` gave it; N is their number then. None for
                `sample_gradient()`.

        Returns:
            (J, N) float64: change of L per fraction of range, to first order in X, beta alone of sample i moving.

        Raises:
            ValueError: Wrong shape, no directions, or one is zero or not finite.
            RenderError: A displaced sample cannot be rendered.
        """
        unroll = self._last_unroll()
        dimension = self.space.dimension
        count = self.samples_per_update if gradient is None else len(gradient)
        if directions.dim() != 3 or not len(directions) or directions.shape[1:] != (count, dimension):
            raise ValueError(f"directions must be (J, {count}, {dimension}), not {tuple(directions.shape)}")
        if not directions.isfinite().all() or (directions == 0).all(-1).any():
            raise ValueError("directions must be finite and none of them zero")
        gradient = self.sample_gradient() if gradient is None else gradient
        betas, seeds = unroll.betas[-count:], unroll.seeds[-count:]
        centre = self.space.scale(betas)
        rises, distances = [], []
        for some in directions.to(torch.float64).split(max(1, SAMPLES_AT_ONCE // (2 * count))):
            ahead, behind = (centre + some).clamp(0, 1), (centre - some).clamp(0, 1)
            displaced = torch.cat([ahead, behind]).flatten(0, 1)
            with self.ledger.phase("generate"):
                made = self.generator(self.space.unscale(displaced), seeds.repeat(2 * len(some)))
            self.ledger.count("samples", len(made))
            with self.ledger.phase("gradient"):
                products = torch.stack([gradient.dot(part) for part in made.split(count)])
                rises.append(products[: len(some)] - products[len(some) :])
                distances.append((ahead - behind).norm(dim=-1))
        with self.ledger.phase("gradient"):
            distance = torch.cat(distances)
            self.ledger.wait()
            rise = torch.cat(rises).to("cpu", torch.float64)
            return torch.where(distance > 0, rise / distance.clamp(min=1e-12), 0)

    def exact_slopes(self, gradient: Batch | None = None) -> Tensor:
        """dL/dbeta through each sample of the last step, in the blocks where the generator is smooth.

        Args:
            gradient: dL/dX of the last samples, as `sample_gradient` gave it; N is their number then. None for
                `sample_gradient()`.

        Returns:
            (N, d) float64, per fraction of each component's range; zero in the other blocks.
        """
        unroll = self._last_unroll()
        gradient = self.sample_gradient() if gradient is None else gradient
        betas = unroll.betas[-len(gradient) :].clone().requires_grad_()
        with self.ledger.phase("generate"):
            batch = self.generator(betas, unroll.seeds[-len(gradient) :])
        self.ledger.count("samples", len(betas))
        with self.ledger.phase("gradient"):
            (slopes,) = torch.autograd.grad(gradient.dot(batch).sum(), betas)
            keep = torch.zeros(self.space.dimension, dtype=torch.bool)
            for name in self.generator.smooth:
                keep[self.space.slice(name)] = True
            return torch.where(keep, slopes * (self.space.high - self.space.low), 0)

    # --- Off the clock -----------------------------------------------------------------------------------------------

    def test_metrics(self) -> dict[str, float]:
        """Metrics of the current weights on held-out data. Off the clock; for reports, never for an optimizer."""
        with self.ledger.phase("score"):
            return self.learner.metrics(self.state.weights, self.test)

    def validation_metrics(self) -> dict[str, float]:
        """The same on the validation data."""
        with self.ledger.phase("score"):
            return self.learner.metrics(self.state.weights, self.validation)

    def warm_up(self) -> None:
        """Run every kernel once, off the clock, so that no optimizer pays for first calls. Changes nothing."""
        with self.ledger.phase("warm_up"):
            beta = self.space.project(self.space.initial)
            kept = self._unroll, self._gradients
            _, self._unroll = self._evaluate(beta, beta.expand(self.samples_per_update, -1))
            if self._unroll is not None:
                self._gradients = {}
                if self.workers or self._probes_at_a_time(2) > 1:
                    self.probe(beta.expand(2 * max(1, self.workers), -1))
                self.credits()
                self.sample_gradient(exact=False, steps=1)
                self.slopes(torch.full((1, self.samples_per_update, self.space.dimension), 1e-2))
                if self.generator.smooth:
                    self.exact_slopes()
            self._unroll, self._gradients = kept

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, for `torch.save`."""
        unroll = self._unroll
        return {
            "seed": self._seed,
            "update": self.update,
            "state": self.state,
            "last_loss": self._last_loss,
            "outcome": self.outcome,
            "unroll": None if unroll is None else (unroll.betas, unroll.seeds, unroll.states),
            "ledger": self.ledger.state_dict(),
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits."""
        self._seed, self.update, self.state = state["seed"], state["update"], state["state"]
        self._last_loss, self.outcome = state["last_loss"], state["outcome"]
        self.np_random.bit_generator.state = state["np_random"]
        self._gradients, self._unroll = {}, None
        if state["unroll"] is not None:
            betas, seeds, states = state["unroll"]
            self._unroll = Unroll(betas, seeds, self._batches(betas, seeds), states)
        self.ledger.load_state_dict(state["ledger"])

    # --- The line from beta to L --------------------------------------------------------------------------------------

    def _evaluate(self, beta: Tensor, betas: Tensor, share: int = 1) -> tuple[Outcome, Unroll | None]:
        """Generate with (N, d) betas, `beta` together, train from the current weights, validate."""
        seeds = self._sample_seeds(share)
        try:
            with self.ledger.phase("generate"):
                batches = self._batches(betas, seeds)
        except RenderError as error:
            return Outcome(beta, None, Status.UNRENDERABLE, str(error)), None
        finally:
            self.ledger.count("samples", len(betas))
        with self.ledger.phase("train"):
            states = train(self.learner, self.sgd, self.state, batches)
        self._count_training(1)
        outcome = self._outcome(beta, self._validate(states[-1]))
        return outcome, Unroll(betas, seeds, batches, states) if outcome.ok else None

    def _probes_at_a_time(self, count: int) -> int:
        return self.probe_batch or (1 if self.device.type == "cpu" else max(1, count))

    def _probe_alone(self, beta: Tensor) -> Outcome:
        return self._evaluate(beta, beta.expand(self.samples_per_update, -1))[0]

    def _probe_together(self, betas: list[Tensor]) -> list[Outcome]:
        """`_probe_alone` for each of them, as one batch."""
        count, seeds = len(betas), self._sample_seeds()
        try:
            with self.ledger.phase("generate"):
                samples = self.generator(torch.stack(betas).repeat_interleave(len(seeds), 0), seeds.repeat(count)).map(
                    lambda x: x.unflatten(0, (count, self.unroll_steps, self.batch_size))
                )
        except RenderError:
            return [self._probe_alone(beta) for beta in betas]  # that tells which
        finally:
            self.ledger.count("samples", count * len(seeds))
        try:
            with self.ledger.phase("train"):
                batches = [Batch(*(x[:, k] for x in samples.tensors)) for k in range(self.unroll_steps)]
                weights = train_together(self.learner, self.sgd, self.state, batches).weights
            with self.ledger.phase("validate"), torch.no_grad(), full_precision():
                losses = torch.func.vmap(lambda w: self.learner.validation_loss(w, self.validation))(weights)
                self.ledger.wait()
                values = losses.tolist()
        except RuntimeError as error:
            raise RuntimeError(
                f"{count} probes cannot be made as one batch; probe_batch=1 needs the least memory and takes any "
                f"learner, also one that torch.func.vmap cannot go through: {error}"
            ) from error
        self._count_training(count)
        self._count_validation(count)
        return [self._outcome(beta, value) for beta, value in zip(betas, values, strict=True)]

    def _outcome(self, beta: Tensor, loss: float) -> Outcome:
        if np.isfinite(loss):
            return Outcome(beta, loss)
        message = f"update {self.update}: L = {loss} after {self.unroll_steps} training steps"
        return Outcome(beta, None, Status.DIVERGED, message)

    def _sample_seeds(self, share: int = 1) -> Tensor:
        """(N,) of this update, `share` consecutive ones alike."""
        seed = hash_integers(torch.tensor([self._seed]), 1)[0] + self.update
        return hash_integers(seed, self.samples_per_update // share)[0].repeat_interleave(share).to(self.device)

    def _count_training(self, times: int) -> None:
        self.ledger.count("training_steps", times * self.unroll_steps)
        self.ledger.count("flops", times * self.unroll_steps * self.learner.flops("train", self.batch_size))

    def _count_validation(self, times: int) -> None:
        self.ledger.count("validation_passes", times)
        self.ledger.count("flops", times * self.learner.flops("validate", len(self.validation.batch)))

    def _probe_in_workers(self, betas: list[Tensor]) -> list[Outcome]:
        if self._workers is None:
            self._workers = Workers(self, self.workers)
        with self.ledger.phase("train"):
            found = self._workers.probe(self.state, self._seed, self.update, betas)
        for _, spent in found:
            self.ledger.charge(spent)
        return [outcome for outcome, _ in found]

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _batches(self, betas: Tensor, seeds: Tensor) -> list[Batch]:
        return self.generator(betas, seeds).split(self.batch_size)

    def _validate(self, state: TrainingState) -> float:
        with self.ledger.phase("validate"), torch.no_grad(), full_precision():
            loss = self.learner.validation_loss(state.weights, self.validation)
            self.ledger.wait()
            value = float(loss)
        self._count_validation(1)
        return value

    def _valid(self, beta: ArrayLike | Tensor) -> Tensor:
        return self.space.project(self.space.check(beta))

    def _last_unroll(self) -> Unroll:
        if self._unroll is None:
            raise RuntimeError("there is no training step to differentiate: call reset() and a successful step() first")
        return self._unroll

    def _observation(self, beta: Tensor) -> NDArray[np.float32]:
        scaled = 2 * self.space.scale(beta) - 1
        rest = torch.tensor([self._last_loss / self.learner.max_loss, self.update / self.max_updates])
        observation = torch.cat([scaled, rest]).numpy().astype(np.float32)
        return np.clip(observation, self.observation_space.low, self.observation_space.high)
