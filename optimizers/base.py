"""What every optimizer of a decision vector has in common, and the loop of those that follow a gradient."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import gymnasium
import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace, RenderError
from hgenv.device import own_modes
from hgenv.saved import AnyOf, check_names, copy_like

from .rules import Rule
from .shrinkage import Shrinkage, ShrinkageState

logger = logging.getLogger(__name__)

Initial = str | Sequence[float] | Tensor | None


class Optimizer(ABC):
    """Decides beta. An update improves beta, at the environment's expense, and ends in exactly one step.

    All start at the space's initial vector unless told otherwise, draw from a generator of their own, and work on beta
    in normalized form, fractions of each component's range.

    Args:
        space: The decision space.
        seed: Decides everything that the optimizer draws.
        initial: Where to start: None for the space's initial vector; (d,) numbers in their own units, such as what
            another run recommends; or "random:<n>", the n-th of `DecisionSpace.random`.
        period: Updates from one improvement to the next; those between only step, so that training keeps up.

    Attributes:
        normalized: (d,) float64, the current beta.
        random: The optimizer's own source of randomness.

    Raises:
        ValueError: `period` is not positive, or `initial` is another word.
        DecisionError: `initial` has the wrong length, or is out of bounds.
    """

    def __init__(self, space: DecisionSpace, *, seed: int, initial: Initial = None, period: int = 1) -> None:
        if period < 1:
            raise ValueError(f"period must be at least 1 update, not {period}")
        self.space, self.period = space, period
        self.random = torch.Generator().manual_seed(seed)
        self.normalized = self._start(initial)

    @own_modes()
    def update(self, env: DataGenEnv) -> None:
        """Improve beta if it is time, and step. What came of the step is in `env.outcome`.

        The environment may have Gymnasium's wrappers around it; they are gone round.
        """
        if isinstance(env, gymnasium.Wrapper):
            env = env.unwrapped
        with env.ledger.phase("optimizer"):
            if env.update % self.period == 0:
                self.improve(env)
            if hasattr(env.generator, "prepare") and (coming := self.foresee(env)) is not None:
                env.expect(*coming)
            self._step(env)

    @abstractmethod
    def improve(self, env: DataGenEnv) -> None:
        """Move `normalized`, asking the environment whatever that takes, short of a step."""

    def foresee(self, env: DataGenEnv) -> tuple[Tensor, Tensor] | None:
        """What the next update will ask the generator for, as far as that is known before this one's step.

        Nobody minds if it turns out to be wrong; see `DataGenEnv.expect`.

        Returns:
            (M, d) betas in their own units and (M,) sample seeds; None if nothing is known.
        """
        return None if (env.update + 1) % self.period == 0 else self._next_samples(env)

    @property
    @own_modes()
    def recommendation(self) -> Tensor:
        """The beta to report, (d,) in its own units."""
        return self._valid(self.normalized.detach())

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        return {"normalized": self.normalized.detach().clone(), "random": self.random.get_state()}

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: The state is not one of such an optimizer: a name, a type, a shape or a number is not as it
                should be. The message says which. Nothing has changed then.
        """
        like = {"normalized": self._beta, "random": self._random}
        kept = self._checked(state, like, like if type(self).state_dict is Optimizer.state_dict else state)
        self.normalized.data = kept["normalized"]
        self.random.set_state(kept["random"])

    def _checked(self, state: Any, like: dict[str, Any], known: Any) -> dict[str, Any]:
        """A copy of those parts of a saved state that are in `like`, see `hgenv.saved.copy_like`.

        Raises:
            ValueError: One has not the form that it should have, or the state has parts with other names than `known`.
        """
        who = f"the optimizer {type(self).__name__}"
        if not isinstance(state, dict):
            raise ValueError(f"{who}: the saved state must be a dictionary, not {type(state).__name__}")
        check_names(state, like, known, who)
        with own_modes():
            return {name: copy_like(state[name], part, f"{who}: {name}") for name, part in like.items()}

    def _beta(self, found: Any) -> Tensor:
        """A copy of a normalized beta.

        Raises:
            ValueError: It is none.
        """
        d = self.space.dimension
        if isinstance(found, Tensor) and found.dim() == 1 and len(found) != d:
            raise ValueError(
                f"this state is of an optimizer of {len(found)} components, but the space has {d}; load it with the "
                "environment that it was saved with"
            )
        beta: Tensor = copy_like(found, torch.zeros(d, dtype=torch.float64), "the optimizer's beta")
        if not beta.isfinite().all():
            raise ValueError("the optimizer's beta: the saved state has values that are infinite or NaN")
        return beta

    def _random(self, found: Any) -> Tensor:
        """A copy of a generator's state.

        Raises:
            ValueError: It is none.
        """
        like = self.random.get_state()
        state: Tensor = copy_like(found, like, "the optimizer's random")
        try:
            torch.Generator().set_state(state)
        except RuntimeError as error:
            raise ValueError(f"the optimizer's random: no state of torch's generator: {error}") from None
        return state

    def _step(self, env: DataGenEnv) -> None:
        env.step(self.recommendation)

    def _next_samples(self, env: DataGenEnv) -> tuple[Tensor, Tensor]:
        """The samples of the next update's step, if beta stays where it is."""
        n = env.problem.num_samples
        return self._next_beta.expand(n, -1), env.sample_seeds(n, later=1)

    @property
    def _next_beta(self) -> Tensor:
        """What a step at the recommendation makes of it."""
        return self.space.project(self.space.check(self.recommendation))

    @own_modes()
    def _start(self, initial: Initial) -> Tensor:
        """Where to start, (d,) normalized."""
        space = self.space
        if initial is None:
            return self._project(space.normalize(space.initial))
        if not isinstance(initial, str):
            return self._project(space.normalize(space.check(initial)))
        word, _, number = initial.partition(":")
        if word != "random" or not number.isdecimal():
            raise ValueError(f"initial must be None, random:<n>, or {space.dimension} numbers, not {initial!r}")
        return space.normalize(space.random(int(number)))  # valid already

    def _valid(self, normalized: Tensor) -> Tensor:
        """The nearest valid betas in their own units, (..., d)."""
        return self.space.project(self.space.denormalize(normalized))

    def _project(self, normalized: Tensor) -> Tensor:
        """The nearest valid betas in normalized form, (..., d)."""
        return self.space.normalize(self._valid(normalized))


@dataclass(frozen=True)
class Proposal:
    """What the samples of the coming step are to be made with.

    Attributes:
        betas: (N, d) normalized, within [0, 1].
        share: As many consecutive samples share a sample seed; divides N.
    """

    betas: Tensor
    share: int = 1


class UnsuitableError(TypeError):
    """An estimator or an optimizer that needs what a generator does not have. The message says what."""


class Estimator(Protocol):
    """Estimates dL/dbeta. A value: what it remembers is in the environment's last rollout.

    Besides, an estimator may have `foresee(env, beta)`: the (M, d) betas and (M,) sample seeds of what its next
    estimate will ask the generator for, if the coming step is at beta, (d,) in its own units; see `Optimizer.foresee`.
    """

    def propose(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Proposal | None:
        """The betas of the coming step, for `estimate` to look back on; None for all at `center`.

        Args:
            env: The environment.
            center: (d,) normalized.
            random: Where to draw from.
        """
        ...

    def estimate(self, env: DataGenEnv, center: Tensor, random: torch.Generator) -> Tensor | None:
        """Estimates of dL/dbeta per fraction of range.

        Args:
            env: The environment.
            center: (d,) normalized.
            random: Where to draw from.

        Returns:
            (M, d) independent estimates, whose mean is the best one; NaN for components that a row says nothing about.
            None if there is no estimate this time.

        Raises:
            RenderError: A sample cannot be rendered.
            UnsuitableError: The generator does not have what the estimator needs.
        """
        ...


class GradientOptimizer(Optimizer):
    """Follows an estimate of dL/dbeta by an update rule: the loop of all gradient methods.

    Each `period` updates: estimate, shrink, move by the rule, back into the valid set; then step. After a failed step
    beta goes back half way towards the last one that worked. An estimate that is infinite, or whose samples cannot be
    rendered, is left out, and the log says so; components that are NaN in all rows have no gradient this time.

    Args:
        space: The decision space.
        estimator: Estimates dL/dbeta.
        rule: Turns an estimate into a move.
        seed: Decides everything that the optimizer draws.
        initial: Where to start, see `Optimizer`.
        period: Updates from one estimate to the next.
        shrinkage: How far each component is believed; None for all of it.
        bounds: What keeps beta valid: "project", to the nearest valid vector; or "clip", each component to its range,
            as in the paper. Simplex blocks then sum to one only in what is stepped at.
    """

    normalized: torch.nn.Parameter

    @own_modes()
    def __init__(
        self,
        space: DecisionSpace,
        estimator: Estimator,
        rule: Rule,
        *,
        seed: int,
        initial: Initial = None,
        period: int = 1,
        shrinkage: Shrinkage | None = None,
        bounds: Literal["project", "clip"] = "project",
    ) -> None:
        super().__init__(space, seed=seed, initial=initial, period=period)
        if bounds not in ("project", "clip"):
            raise ValueError(f"bounds must be 'project' or 'clip', not {bounds!r}")
        self.estimator, self.rule, self.shrinkage, self.bounds = estimator, rule, shrinkage, bounds
        self.normalized = torch.nn.Parameter(self.normalized)
        self._torch_rule = rule.make(self.normalized)
        self._known = None if shrinkage is None else shrinkage.start(space.dimension)
        self._moves = 0
        self._worked: Tensor | None = None

    def improve(self, env: DataGenEnv) -> None:
        """Estimate dL/dbeta and move along it."""
        try:
            rows = self.estimator.estimate(env, self.normalized.detach(), self.random)
        except RenderError as error:
            logger.warning("update %d goes without a gradient: %s", env.update, error)
            return
        if rows is None:
            return
        if rows.isinf().any():
            logger.warning("update %d goes without a gradient: it is not finite", env.update)
            return
        self._move(rows.detach())  # a graph would grow from update to update through what the shrinkage remembers

    @own_modes()
    def foresee(self, env: DataGenEnv) -> tuple[Tensor, Tensor] | None:
        """See `Optimizer.foresee`: beta moves by an estimate alone, unless the step fails."""
        if (env.update + 1) % self.period == 0:
            foresee = getattr(self.estimator, "foresee", None)
            return None if foresee is None else foresee(env, self._next_beta)
        if (env.update + 2) % self.period == 0:
            random = torch.Generator().set_state(self.random.get_state())  # nothing is drawn here
            proposal = self.estimator.propose(env, self.normalized.detach(), random)
            if proposal is not None:
                return self._proposed(env, proposal, later=1)
        return self._next_samples(env)

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on besides the environment, for `torch.save`."""
        own = {"rule": self._torch_rule.state_dict(), "moves": self._moves, "worked": self._worked}
        return super().state_dict() | own | {"shrinkage": None if self._known is None else asdict(self._known)}

    @own_modes()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: As `Optimizer.load_state_dict`.
        """
        moved = isinstance(state, dict) and bool(state.get("moves"))
        zeros = torch.zeros(self.space.dimension, dtype=torch.float64)
        believed = None if self.shrinkage is None else asdict(self.shrinkage.start(len(zeros)))
        like = {
            "normalized": self._beta,  # first: what is wrong with it says most
            "rule": self._like_rule(moved),
            "moves": 0,
            "worked": AnyOf((None, self._beta)),
            "shrinkage": believed,
        }
        known = [*like, "random"]
        kept = self._checked(state, like, known if type(self).state_dict is GradientOptimizer.state_dict else state)
        super().load_state_dict(state)
        # The rule's own settings are as it was made with; the learning rate follows from the number of moves.
        rate = self.rule.rate(max(0, kept["moves"] - 1))
        own = [group | {"lr": rate} for group in self._torch_rule.state_dict()["param_groups"]]
        self._torch_rule.load_state_dict({"state": kept["rule"]["state"], "param_groups": own})
        self._moves, self._worked = kept["moves"], kept["worked"]
        self._known = None if kept["shrinkage"] is None else ShrinkageState(**kept["shrinkage"])

    def _like_rule(self, moved: bool) -> dict[str, Any]:
        """What a state of the rule looks like: before the first move, or after one, made by another one of its kind."""
        beta = torch.nn.Parameter(torch.zeros(self.space.dimension, dtype=torch.float64))
        other = self.rule.make(beta)
        if moved:
            beta.grad = torch.zeros_like(beta)
            other.step()

        def any_groups(found: Any) -> list[Any]:
            if not isinstance(found, list) or len(found) != len(other.param_groups):
                raise ValueError(f"the optimizer's rule: param_groups must be a list of {len(other.param_groups)}")
            return found

        return {"state": other.state_dict()["state"], "param_groups": any_groups}

    def _move(self, rows: Tensor) -> None:
        """beta <- valid(beta - shrinkage * rule(mean of the rows)); the paper's equation 12 and appendix A.2."""
        before = self.normalized.detach().clone()
        self.normalized.grad = rows.nanmean(0).nan_to_num(0)
        for group in self._torch_rule.param_groups:
            group["lr"] = self.rule.rate(self._moves)
        self._torch_rule.step()
        move = self.normalized.detach() - before
        if self.shrinkage is not None and self._known is not None:
            self._known, factor = self.shrinkage(self._known, rows)
            move = factor * move
        after = before + move
        self.normalized.data = self._project(after) if self.bounds == "project" else after.clamp(0, 1)
        self._moves += 1

    def _step(self, env: DataGenEnv) -> None:
        """Step, where the estimator wants to; after a failed step, go back half way."""
        self._propose_and_step(env)
        assert env.outcome is not None
        if env.outcome.ok:
            self._worked = self.normalized.detach().clone()
        elif self._worked is not None:
            self.normalized.data = (self.normalized.detach() + self._worked) / 2

    def _propose_and_step(self, env: DataGenEnv) -> None:
        proposal = None
        if (env.update + 1) % self.period == 0:  # only the step before an estimate is looked back on
            proposal = self.estimator.propose(env, self.normalized.detach(), self.random)
        if proposal is None:
            super()._step(env)
            return
        betas, seeds = self._proposed(env, proposal)
        env.rollout(betas, seeds=seeds, keep=True)

    def _proposed(self, env: DataGenEnv, proposal: Proposal, later: int = 0) -> tuple[Tensor, Tensor]:
        """The samples of a step, or of one that comes later: (N, d) betas and (N,) seeds."""
        seeds = env.sample_seeds(len(proposal.betas) // proposal.share, later=later)
        betas = self.space.clip(self.space.denormalize(proposal.betas))
        return betas, seeds.repeat_interleave(proposal.share)
