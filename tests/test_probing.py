"""Probes one by one, as one batch, in processes, and in a way of one's own: the same answers at the same price."""

import copy
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from hgenv import (
    Batched,
    DataGenEnv,
    DenseSamples,
    Ledger,
    Network,
    Outcome,
    Prober,
    Problem,
    RenderError,
    SamplesError,
    Serial,
    Status,
    TrainingState,
    WorkerError,
    Workers,
)
from hgenv.generators.quadratic import QuadraticGenerator
from hgenv.learning import Adam
from hgenv.learning.quadratic import QuadraticLearner
from hgenv.tasks.quadratic import QuadraticTask

from .toys import labels_env


def make(name: str, **kwargs: Any) -> DataGenEnv:
    env = gymnasium.make(f"hgenv/{name}-v0", disable_env_checker=True, **kwargs).unwrapped
    env.reset(seed=4)
    return env


def small(name: str = "ShapeNormalsLit", **kwargs: Any) -> DataGenEnv:
    env = make(name, device="cpu", network=Network(size=32), batch_size=4, **kwargs)
    env.step(env.space.project(env.space.initial))
    return env


def some_betas(env: DataGenEnv, count: int = 5) -> Tensor:
    draw = torch.rand(count, env.space.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return env.space.project(env.space.denormalize(draw))


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_workers_give_the_same_bits_and_counts() -> None:
    found = []
    for prober in (Serial(), Workers(2)):
        env = small(prober=prober)
        betas = some_betas(env)
        first = [(o.loss, o.status) for o in env.probe(betas)]
        env.step(betas[0])  # the workers see the new weights
        second = [(o.loss, o.status) for o in env.probe(betas)]
        assert first != second
        cpu = env.ledger.spent("cpu_seconds")
        env.probe(betas)
        phases = env.ledger.by_phase()
        assert env.ledger.spent("cpu_seconds") - cpu > 0
        assert phases["train"]["cpu_seconds"] > phases["validate"]["cpu_seconds"] > 0
        found.append((first, second, env.ledger.counts))
        env.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [None, 1, 2, 5, 9])
def test_a_batch_gives_the_same_but_for_rounding_at_the_same_price(size: int | None) -> None:
    found = []
    for prober in (Serial(), Batched(size)):
        env = small(prober=prober)
        outcomes = env.probe(some_betas(env))
        found.append(([o.loss for o in outcomes], env.ledger.counts, torch.stack([o.beta for o in outcomes])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][2], found[1][2])


class Threaded:
    """A fourth way, as a user would write it: each probe in a thread, with a ledger of its own that is charged for."""

    def __init__(self) -> None:
        self.calls, self.closed = 0, False

    def probe(
        self, problem: Problem, start: TrainingState, betas: Sequence[Tensor], seeds: Tensor, ledger: Ledger
    ) -> list[Outcome]:
        self.calls += 1

        def one(beta: Tensor) -> tuple[Outcome, Ledger]:
            own = Ledger()
            return Serial().probe(problem, start, [beta], seeds, own)[0], own

        with ThreadPoolExecutor(1) as pool:
            found = list(pool.map(one, betas))
        for _, own in found:
            ledger.charge(own.state_dict())
        return [outcome for outcome, _ in found]

    def warm_up(self, problem: Problem, start: TrainingState, beta: Tensor, seeds: Tensor, ledger: Ledger) -> None:
        self.probe(problem, start, [beta], seeds, ledger)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("prober", [Serial(), Batched(), Workers(1), Threaded()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("rule", [None, Adam(0.01)], ids=["sgd", "adam"])
def test_every_way_takes_samples_with_labels_and_any_rule(prober: Prober, rule: Any) -> None:
    expected, env = (labels_env(**({} if rule is None else {"rule": rule}), prober=p) for p in (Serial(), prober))
    for e in (expected, env):
        e.reset(seed=1)
        e.step(e.space.initial)
    betas = some_betas(env, 3)
    losses = [[o.loss for o in e.probe(betas)] for e in (expected, env)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9) if isinstance(prober, Batched) else losses[1] == losses[0]
    assert expected.ledger.counts == env.ledger.counts
    state = env.state
    assert env.rollout(betas[1]).outcome.loss == losses[0][1]
    assert env.state is state
    assert env.update == 1
    env.close()


def test_a_prober_of_ones_own_is_asked_warmed_and_closed() -> None:
    prober = Threaded()
    env = labels_env(prober=prober)
    env.reset(seed=0)
    assert env.prober is prober
    env.warm_up()
    assert prober.calls == 1
    assert not any(env.ledger.counts.values())
    env.probe(some_betas(env, 2))
    assert prober.calls == 2
    assert env.ledger.counts["samples"] == 36
    env.close()
    assert prober.closed


def test_the_default_is_one_by_one_on_a_cpu() -> None:
    assert isinstance(make("Quadratic").prober, Serial)


def test_probes_of_nothing_are_nothing() -> None:
    for prober in (Serial(), Batched(), Batched(3), Workers(1)):
        env = make("Quadratic", prober=prober)
        assert env.probe(torch.zeros(0, 4)) == []
        env.close()


def test_a_warm_up_in_workers_is_free() -> None:
    env = make("ShapeNormals", device="cpu", network=Network(size=32), batch_size=4, prober=Workers(1))
    before = env.ledger.spent("cpu_seconds")
    env.warm_up()
    phases = env.ledger.by_phase()
    assert env.ledger.spent("cpu_seconds") - before < 0.1 * phases["warm_up"]["cpu_seconds"]
    assert not any(env.ledger.counts.values())
    env.close()


def test_workers_serve_a_new_problem_with_new_processes_and_end_when_closed() -> None:
    others, env = children(), make("Quadratic", prober=Workers(1))
    beta = env.space.initial[None]
    assert children() == others  # they start at the first probe
    (first,) = env.probe(beta)
    served = children() - others
    assert len(served) == 1
    env.step(env.space.initial)
    env.reset(seed=4)
    assert env.probe(beta)[0].loss == first.loss
    assert children() - others == served  # the weights are new, the problem is not
    env.problem = replace(env.problem, rule=replace(env.problem.rule, learning_rate=0.2))
    (other,) = env.probe(beta)
    assert other.loss == env.rollout(beta[0]).outcome.loss != first.loss
    assert len(children() - others) == 1
    assert children() - others != served
    env.close()
    assert children() == others
    env.close()  # twice is harmless


def test_what_cannot_be_sent_is_an_error_that_says_so() -> None:
    env = make("Quadratic", prober=Workers(1))
    env.generator.extra = lambda x: x
    with pytest.raises(WorkerError, match=r"pickle.*define their classes and functions at the top of a module"):
        env.probe(env.space.initial[None])
    env.close()


class Moody(QuadraticGenerator):
    """Has no samples for a large spread."""

    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        if betas[0, 3] > 0.9:
            raise SamplesError(f"nothing is spread by {float(betas[0, 3]):g}")
        return super().__call__(betas, seeds)


def test_whatever_becomes_of_a_worker_probes_are_the_same() -> None:
    others, found = children(), []
    for prober in (Serial(), Workers(1)):
        env = make("Quadratic", prober=prober)
        env.problem = replace(env.problem, generator=Moody())
        betas = some_betas(env)
        betas[:, 3] = betas[:, 3].clamp(max=0.8)
        first = [outcome.loss for outcome in env.probe(betas)]
        for process in children() - others:
            os.kill(process, signal.SIGKILL)
        second = [outcome.loss for outcome in env.probe(betas)]
        counts = dict(env.ledger.counts)
        betas[2, 3], betas[3, 3] = 0.95, 0.96
        with pytest.raises(SamplesError, match=r"^nothing is spread by 0.95$"):
            env.probe(betas)
        betas[2:4, 3] = 0.1
        third = [outcome.loss for outcome in env.probe(betas)]
        assert env.ledger.incidents == ({} if isinstance(prober, Serial) else {"workers replaced": 1})
        found.append((first, second, third, counts))
        env.close()
        assert children() == others
    assert found[0] == found[1]


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_a_timeout_is_positive_and_finite(timeout: float) -> None:
    with pytest.raises(ValueError, match=f"timeout of a worker process must be positive and finite seconds.*{timeout}"):
        Workers(1, timeout)
    assert copy.deepcopy(Workers(2, 7.5)).timeout == 7.5


@pytest.mark.parametrize("count", [0, -1])
def test_numbers_that_mean_nothing_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"there must be at least 1 worker process, not {count}"):
        Workers(count)
    with pytest.raises(ValueError, match=f"a batch of probes needs a size of at least 1, or None for all, not {count}"):
        Batched(count)


def test_workers_work_on_the_cpu() -> None:
    env = make("Quadratic")
    elsewhere = replace(env.problem, device=torch.device("cuda"))
    with pytest.raises(ValueError, match="worker processes probe on the CPU, but this problem is on cuda"):
        Workers(1).probe(elsewhere, env.state, [env.space.initial], env.sample_seeds(32), env.ledger)


def test_a_probe_that_fails_does_not_spoil_those_made_together_with_it() -> None:
    env = small("ShapeNormals")
    whole, betas = env.generator, some_betas(env)
    alone = env.probe(betas)
    assert all(outcome.ok for outcome in alone)

    class Partly:
        """Cannot render the third beta, and makes the fourth a loss of NaN."""

        space, pathwise = whole.space, whole.pathwise

        def __call__(self, given: Tensor, seeds: Tensor) -> DenseSamples:
            if (given == alone[2].beta).all(1).any():
                raise RenderError("nothing to see")
            made = whole(given, seeds)
            bad = (given == alone[3].beta).all(1)
            return replace(made, image=made.image.masked_fill(bad[:, None, None, None], float("nan")))

    env.problem = replace(env.problem, generator=Partly())
    for env.prober in (Serial(), Batched(2), Batched()):
        before = dict(env.ledger.counts)
        found = env.probe(betas)
        assert [o.status for o in found] == [Status.OK, Status.OK, Status.UNRENDERABLE, Status.DIVERGED, Status.OK]
        assert found[2].message == "nothing to see"
        for i in (0, 1, 4):
            assert found[i].loss == pytest.approx(alone[i].loss, rel=1e-4)
            assert torch.equal(found[i].beta, alone[i].beta)
        assert env.ledger.counts["validation_passes"] - before["validation_passes"] == 4


class Branching(QuadraticTask):
    """Looks at a value, which torch.func.vmap cannot."""

    def training_loss(self, output: Tensor, samples: DenseSamples) -> Tensor:
        return super().training_loss(output, samples) if output.sum() < 9 else output.sum() * torch.zeros(len(samples))


def test_a_learner_that_cannot_be_trained_as_one_batch_names_the_cure() -> None:
    env, learner = make("Quadratic"), QuadraticLearner()
    learner.task = Branching()
    env.problem = replace(env.problem, learner=learner)
    betas = env.space.initial.expand(2, -1)
    assert all(outcome.ok for outcome in env.probe(betas))
    env.prober = Batched()
    with pytest.raises(RuntimeError, match=r"2 probes cannot be made as one batch: .*; hgenv.probing.Serial\(\) needs"):
        env.probe(betas)
