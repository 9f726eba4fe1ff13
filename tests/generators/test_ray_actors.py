"""Samples from actors of Ray, which is started on this machine: the same as from processes of our own."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hgenv.accounting import Ledger
from hgenv.distributions import Tuned
from hgenv.generators import BlackBox, RayActors
from hgenv.pool import WorkerError
from hgenv.problem import RenderError
from hgenv.testing.tools import same_samples

from . import black_boxes

LEVEL = {"level": Tuned(0, 1, 0.25)}
LEVELS = torch.tensor([[0.25], [0.3], [0.35]], dtype=torch.float64)
SEEDS = torch.arange(3)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("black boxes")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")  # writes a token into the home folder otherwise
    patch.setenv("BLACK_BOX_FOLDER", str(folder))
    patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    ray = pytest.importorskip("ray", reason="pip install 'hgenv[ray]' brings Ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield folder
    node = ray._private.worker._global_node
    started = [info.process for infos in node.all_processes.values() for info in infos]
    ray.shutdown()
    for process in started:  # Ray does not wait for them, and Python warns of that
        process.wait(60)
    patch.undo()


def box(render: Any, count: int = 1, **options: Any) -> BlackBox:
    return BlackBox(render, LEVEL, workers=RayActors(count), **options)


def asked(worker: Any, question: Callable[[Any], int]) -> int:
    """What an actor answers."""
    import ray

    return int(ray.get(worker._actor.__ray_call__.remote(question)))


def command(kind: str) -> list[str]:
    return [sys.executable, "-m", black_boxes.__name__, kind]


def test_samples_and_faults_are_those_of_processes_here() -> None:
    here = BlackBox(black_boxes.raises, LEVEL, workers=1)
    for render in (black_boxes.raises, command("good")):
        there = box(render, 2)
        there.prepare(LEVELS, SEEDS)
        assert same_samples(there(LEVELS, SEEDS), here(LEVELS, SEEDS))
        if callable(render):
            with pytest.raises(RenderError, match="at a sample: ValueError: the sphere is inside out"):
                there(LEVELS + 0.25, SEEDS)
        there.close()
    here.close()


def test_who_dies_is_replaced_wherever_it_is(cluster: Path) -> None:
    """The process of an actor, by its actor; an actor, by another."""
    generator = box(black_boxes.dies, timeout=30)
    assert len(generator(LEVELS, SEEDS)) == 3
    (actor,) = generator._serving()._workers
    os.kill(asked(actor, lambda serving: os.getpid()), signal.SIGKILL)
    assert len(generator(LEVELS, SEEDS + 3)) == 3
    with pytest.raises(RenderError, match=r"killed by SIGKILL\) 3 times at one task; its last words: GPU on fire"):
        generator(LEVELS[:1] + 0.5, SEEDS[:1])
    assert len(generator(LEVELS[:1], SEEDS[:1])) == 1, "it goes on elsewhere"
    generator.close()


def test_the_ledger_charges_them_and_they_end_with_close() -> None:
    generator, ledger = box(black_boxes.burns), Ledger()
    generator(LEVELS[:1], SEEDS[:1])
    generator.prepare(LEVELS[1:], SEEDS[1:])
    with ledger.phase("generate"):
        generator(LEVELS[1:], SEEDS[1:])
    assert 0.2 <= ledger.by_phase()["generate"]["cpu_seconds"] < 0.6
    (actor,) = generator._serving()._workers
    inner = asked(actor, lambda serving: serving._pool._workers[0].process.pid)
    assert Path(f"/proc/{inner}").exists()
    generator.close()
    end = time.monotonic() + 30
    while Path(f"/proc/{inner}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{inner}").exists()


def test_who_cannot_be_had_says_so() -> None:
    with pytest.raises(WorkerError, match=r"cannot be set up: .*with exit code 1; its last words: no scene.blend here"):
        box(command("exits at once"))(LEVELS, SEEDS)
    with pytest.raises(ValueError, match="at least 1 actor, not 0"):
        RayActors(0)
    wrong = BlackBox(black_boxes.render, LEVEL, workers=RayActors(1, options={"no_such_option": 1}))
    with pytest.raises(WorkerError, match=r"no actor of Ray can be started: .*no_such_option"):
        wrong(LEVELS, SEEDS)
