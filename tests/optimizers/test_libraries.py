"""CMA-ES of cmaes, and Optuna's samplers: the same candidates as when they are driven by hand."""

import logging
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hgenv.optimizers import CMAESLRA, REGISTRY, OptunaSearch
from hgenv.testing.tools import through_file

from .test_evolution import Scored, generations, unit_box

cmaes = pytest.importorskip("cmaes")
optuna = pytest.importorskip("optuna")


def sphere(betas: Tensor, update: int) -> list[float | None]:
    return (betas - 0.7).square().sum(1).tolist()


def word(seed: int) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def test_cmaes_by_hand() -> None:
    found = generations(CMAESLRA(unit_box(3), seed=4, period=1, population=6, sigma=0.2), sphere, 10)
    method = cmaes.CMA(np.full(3, 0.5), 0.2, np.array([[0.0, 1.0]] * 3), seed=word(4), population_size=6, lr_adapt=True)
    for betas in found:
        asked = [method.ask() for _ in range(6)]
        np.testing.assert_allclose(betas, asked, rtol=0, atol=1e-12)
        method.tell([(x, float(np.square(x - 0.7).sum())) for x in asked])


def test_tpe_by_hand() -> None:
    """Told what is left of L when the incumbent's is taken off: without training, that is L less the initial beta's."""
    found = generations(OptunaSearch(unit_box(2), seed=4, period=1, population=5), sphere, 5)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=word(4), multivariate=True))
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    box = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in ("0000", "0001")}
    for betas in found:
        trials = [study.ask(box) for _ in range(5)]
        asked = np.array([list(trial.params.values()) for trial in trials])
        np.testing.assert_allclose(betas, asked, rtol=0, atol=1e-12)
        for trial, x in zip(trials, asked, strict=True):
            study.tell(trial, float(np.square(x - 0.7).sum()) - 0.08)


def test_a_failed_probe_is_a_failed_trial() -> None:
    optimizer = OptunaSearch(unit_box(2), seed=0, period=1, population=4)
    generations(optimizer, lambda betas, update: [None if i == 2 else float(b[0]) for i, b in enumerate(betas)], 2)
    study: Any = optimizer._method.study  # type: ignore[attr-defined]
    failed = [trial.number for trial in study.trials if trial.state == optuna.trial.TrialState.FAIL]
    assert failed == [1, 5]  # the incumbent comes before the generation
    assert [trial.state.name for trial in study.trials].count("COMPLETE") == 6


@pytest.mark.parametrize("name", ["CmaEsSampler", "GPSampler", "QMCSampler"])
def test_other_samplers_go_on_with_the_same_bits(name: str) -> None:
    options: dict[str, Any] = {"period": 1, "population": 4, "name": name}
    unbroken, env = OptunaSearch(unit_box(2), seed=1, **options), Scored(sphere)
    for _ in range(3):
        unbroken.update(env)  # type: ignore[arg-type]
    resumed, other = OptunaSearch(unit_box(2), seed=2, **options), Scored(sphere)
    resumed.load_state_dict(through_file(unbroken.state_dict()))
    unbroken.update(env)  # type: ignore[arg-type]
    resumed.update(other)  # type: ignore[arg-type]
    assert torch.equal(other.probed[0], env.probed[-1])


def test_optuna_is_quiet_and_its_logger_as_it_was(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    before = logging.getLogger("optuna").level
    generations(OptunaSearch(unit_box(2), seed=0, period=1, population=4), sphere, 3)
    assert logging.getLogger("optuna").level == before
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(("name", "library"), [("cmaes_lra", "cmaes"), ("optuna", "optuna")])
def test_a_library_that_is_missing_is_named(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=rf'{name}.* needs the library.*pip install "hgenv\[search\]"'):
        REGISTRY[name](unit_box(2), seed=0)
