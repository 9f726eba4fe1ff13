"""Runs at work wherever one of Hydra's launchers puts them: on the cores of this machine, under SLURM, on Ray.

    hgenv compare hydra/launcher=cores optimizer=fixed,evolution seed=0,1,2

A run is the same process with the same folder as without a launcher, and what its folder says is what became of it:
whatever an engine loses, the same command makes again what is not there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from . import config, lease
from .config import Interrupted, RunError
from .launch import LOG, LOOK, Job, Taken
from .records import DONE, plural

_TAKEN = "another process is at work on this run"


def is_of_launcher(override: str) -> bool:
    """Whether an override chooses or sets up a launcher, and is no setting of a run."""
    return override.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))


def work(jobs: Sequence[Job], overrides: Sequence[str]) -> dict[Path, str]:
    """Make all runs with a launcher of Hydra's. Those that other processes have at work are waited for at the end.

    Args:
        jobs: The runs.
        overrides: What chooses the launcher and sets it up.

    Returns:
        What is known of those that did not come to their end, by their folders.

    Raises:
        RunError: The launcher cannot be had.
        Interrupted: It was stopped from outside.
    """
    left, taken, said = list(jobs), Taken(partial(print, flush=True)), dict[Path, str]()
    try:
        while left or taken.jobs:
            left = [job for job in left if job.ending() is None and not taken.has(job)]
            with _endings(left):
                for job, words in _said(left, overrides):
                    said[job.folder] = words
                    if words == _TAKEN:  # since we looked
                        taken.add(job)
            left = []
            while taken.jobs and not left:
                time.sleep(LOOK)
                left = taken.free()
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; the same command goes on where it was", *error.args) from None
    failed = dict[Path, str]()
    for job in jobs:
        ending = job.ending()
        if ending is None:
            failed[job.folder] = said.get(job.folder) or "the launcher did not make it; the same command tries again"
        elif ending.fault is not None:
            failed[job.folder] = ending.fault
    return failed


def _said(jobs: Sequence[Job], overrides: Sequence[str]) -> list[tuple[Job, str]]:
    """Have the launcher make some runs; what each said that failed, and nothing of those that did not.

    Raises:
        RunError: The launcher cannot be had.
    """
    if not jobs:
        return []
    try:
        return list(zip(jobs, _launch(jobs, overrides), strict=True))
    except HydraException as error:
        cure = "\nfor joblib and SLURM, pip install 'hgenv[cluster]'; for Ray, 'hgenv[ray]'"
        raise RunError(f"{error}{cure if 'hydra/launcher/' in str(error) else ''}") from None
    except Exception as error:  # an engine can raise anything
        return [(job, f"{type(error).__name__}: {error}") for job in jobs]


@contextmanager
def _endings(jobs: Sequence[Job]) -> Iterator[None]:
    """Says which runs end while an engine has them; an engine itself is silent, or tells of what is not ours."""
    over = threading.Event()

    def tell() -> None:
        left, last = list(jobs), False
        while left and not last:
            last = over.wait(LOOK)
            for job in list(left):
                # Only what has ended is read, now and then, on storage that many machines share.
                if (job.folder / DONE).is_file() and (ending := job.ending()) is not None:
                    left.remove(job)
                    print(f"[{len(jobs) - len(left)}/{len(jobs)}] {job.folder}: {ending.status}", flush=True)

    thread = threading.Thread(target=tell, daemon=True, name="endings")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _launch(jobs: Sequence[Job], overrides: Sequence[str]) -> list[str]:
    """What each run says that failed, as the launcher brings it back; nothing of those that did not.

    This is what Hydra 1.3 does in a multirun, but for exactly these runs instead of all that lists of values stand for.
    """
    name = next((word.partition("=")[2] for word in overrides if word.startswith("hydra/launcher=")), "basic")
    below = os.path.commonpath([job.folder for job in jobs])
    print(
        f"handed to the launcher {name}: {plural(len(jobs), 'run')}; what each does is in its {LOG}, below {below}",
        flush=True,
    )
    tasks = [[word for word in job.arguments if not word.startswith("hydra.")] for job in jobs]
    search = [word for word in jobs[0].arguments if word.startswith("hydra.")]
    with hydra.initialize_config_module("hgenv.configs", job_name="hgenv", version_base="1.3"):
        core = GlobalHydra.instance().hydra
        assert core is not None
        whole = core.compose_config("config", [*tasks[0], *search, *overrides], run_mode=RunMode.MULTIRUN)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=core.config_loader, callbacks=Callbacks(whole)),
            task_function=partial(_make, os.getcwd()),
            config=whole,
        )
        return [_words(made) for made in launcher.launch(tasks, initial_job_idx=0)]


def _make(folder: str, composed: DictConfig) -> str:
    """Make one run where the launcher has put us, as a process of its own: no run ends another, or leaves it anything.

    Args:
        folder: Where the command was typed.
        composed: The run's config.

    Returns:
        What it said, if it failed.
    """
    os.chdir(folder)
    asked = HydraConfig.get().overrides
    search = [word for word in asked.hydra if word.startswith("hydra.searchpath=")]
    job = Job([*asked.task, *search], config.settings(composed))
    job.start()
    assert job.process is not None
    try:
        code = job.process.wait()
    finally:  # the engine ends us: the run makes a checkpoint and ends, too
        job.process.terminate()
        job.process.wait()
        job.process.let_go()
    words = job.last_words()
    if code == lease.TAKEN:
        return _TAKEN
    ended = f"\nended by signal {-code}; the same command goes on from the last checkpoint" if code < 0 else ""
    return words + ended if code else ""


def _words(made: JobReturn) -> str:
    try:
        return str(made.return_value)
    except Exception as error:  # whatever kept the run from being begun
        return f"{type(error).__name__}: {error}"
