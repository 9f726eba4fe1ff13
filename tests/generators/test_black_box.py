"""Renderers that others wrote: what becomes of their samples, of their faults, and of their processes."""

import copy
import gc
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hgenv import patience
from hgenv.accounting import Ledger
from hgenv.distributions import Bernoulli, Mixture, Normal, Probabilities, Tuned, Uniform
from hgenv.generators import BlackBox
from hgenv.generators.black_box_worker import run
from hgenv.pool import LastAnswer, WorkerError
from hgenv.problem import RenderError
from hgenv.samples import SamplesError
from hgenv.testing import GeneratorConformance
from hgenv.testing.tools import same_samples

from . import black_boxes

ROOT = Path(__file__).parents[2]
LEVEL = {"level": Tuned(0, 1, 0.25)}
DRAWN = {"level": Normal(Tuned(-1, 1, 0.2), Tuned(0.05, 1, 0.2)), "on": Bernoulli(Tuned(0, 1, 0.3))}


@pytest.fixture(autouse=True, scope="module")
def nobody_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    gc.collect()
    assert set(multiprocessing.active_children()) <= before


def command(kind: str) -> list[str]:
    return [sys.executable, "-m", black_boxes.__name__, kind]


def box(render: Any, parameters: Any = None, **options: Any) -> BlackBox:
    return BlackBox(render, LEVEL if parameters is None else parameters, **{"workers": 1} | options)


def made(generator: BlackBox, *levels: float, first: int = 0) -> Any:
    betas = torch.tensor(levels, dtype=torch.float64)[:, None]
    return generator(betas, torch.arange(first, first + len(levels)))


class Kept(GeneratorConformance):
    """One generator for all checks of a class: its processes take a moment to start."""

    scored = 200
    kept: BlackBox | None = None

    def make(self) -> BlackBox:
        cls = type(self)
        if cls.kept is None:
            cls.kept = self.new()
        return cls.kept

    def new(self) -> BlackBox:
        raise NotImplementedError

    @classmethod
    def teardown_class(cls) -> None:
        assert cls.kept is not None
        cls.kept.close()
        cls.kept = None


class TestFunctionConforms(Kept):
    def new(self) -> BlackBox:
        return box(black_boxes.render, DRAWN, workers=2)


class TestCommandConforms(Kept):
    """The reference worker, as its page and the examples have it."""

    def new(self) -> BlackBox:
        radius = Mixture([Normal(Tuned(0.2, 0.6, 0.3), 0.05), Normal(0.8, 0.05)], Probabilities((0.6, 0.4)))
        worker = [sys.executable, str(ROOT / "examples/black_box/worker.py")]
        return box(worker, {"radius": radius, "brightness": Tuned(0, 1, 0.8)}, workers=2)


def test_a_sample_is_what_the_function_makes_of_its_arguments(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it prints, and whoever makes it: this object, a copy, a pickled one, a command."""
    generator = box(black_boxes.chatty, DRAWN)
    betas, seeds = generator.space.initial.expand(3, -1), torch.tensor([5, -6, 2**62])
    samples = generator(betas, seeds)
    for row, seed in enumerate(seeds.tolist()):
        parameters, own = generator.arguments(betas[row], seed)
        assert isinstance(parameters["level"], float)
        assert isinstance(parameters["on"], bool)
        expected = black_boxes.render(parameters, own)
        for name, x in expected.items():
            assert np.array_equal(getattr(samples, name)[row].numpy(), x.astype(np.float32))
    for other in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator)), box(command("good"), DRAWN)):
        assert same_samples(other(betas, seeds), samples)
        other.close()
    generator.close()
    assert same_samples(generator(betas[:1], seeds[:1]), samples[:1]), "it can be called again"
    assert not caplog.records


def test_images_of_a_command() -> None:
    samples = made(box(command("images")), 0.25)
    red, green, blue = samples.image[0]
    assert torch.allclose(red, torch.tensor(64 / 255))
    assert torch.equal(green[0], torch.ones(4))
    assert not green[1:].any()
    assert not blue.any()
    assert torch.allclose(samples.target, torch.tensor(round(65535 / 4) / 65535))


FAULTS = {
    black_boxes.raises: (RenderError, r"sample: ValueError: the sphere is inside out \(black_boxes.py, line \d+, in r"),
    black_boxes.exits: (RenderError, "at a sample: SystemExit: no display"),
    black_boxes.nan: (RenderError, r"'image' has 4 of 16 numbers that are infinite or NaN; let the renderer"),
    black_boxes.reshapes: (SamplesError, r"'image' as float32 \(1, 4, 4\) first, and now it is float32 \(1, 2, 4\)"),
    black_boxes.retypes: (SamplesError, r"'target' as float32 \(1, 4, 4\) first, and now it is int64 \(1, 4, 4\)"),
    black_boxes.uint8: (SamplesError, r"'image' is uint8: give levels as \(array / 255\)"),
    black_boxes.texts: (SamplesError, "'image' is <U1, not numbers"),
    black_boxes.too_few: (SamplesError, "made no 'target'; needed are image, target, mask; it made image"),
    black_boxes.too_many: (SamplesError, "'depth', which nobody asked for"),
    black_boxes.nothing: (SamplesError, "it made NoneType; needed is a dictionary of arrays"),
}


def test_faults_of_a_function_are_told_with_the_cure() -> None:
    generator = box(black_boxes.any_of_them)
    for fault, (kind, message) in FAULTS.items():
        level = black_boxes.BAD.index(fault) / 100
        with pytest.raises(kind, match=message) as told:
            made(generator, 0.0, level)
        assert "seed = " in str(told.value)
        assert f"parameters = {{'level': {level}}}" in str(told.value)
    assert len(made(generator, 0.0)) == 1, "nothing is lost"


def test_who_is_not_deterministic_is_told_so_at_the_first_sample() -> None:
    message = "twice, and 'image' was not the same: draw whatever is random from numpy.random.default_rng"
    with pytest.raises(SamplesError, match=message):
        made(box(black_boxes.random), 0.25)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("garbles", r"no JSON \(.*\): {this is no answer; docs/black-box.md has the protocol"),
        ("answers another", 'without the "id" that it was asked with, 1'),
        ("names no file", r'must have "npz", .* not {"id": 1, "image": "sample.png"}'),
        ("has no file", r"nowhere.npz cannot be read as .npz: .*No such file"),
        ("cuts files", r"sample.npz cannot be read as .npz"),
    ],
)
def test_faults_of_a_command_are_told_with_the_cure(kind: str, message: str, tmp_path: Path) -> None:
    """And it is started anew, since nobody knows what it would say next."""
    work = run(command(kind), str(tmp_path), ["image", "target", "mask"], 2**40)
    with pytest.raises(LastAnswer) as last:
        work(({"level": 0.25}, 0))
    failed = last.value.answer
    assert failed.hopeless
    assert re.search(message, failed.words)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_command_may_say_why_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    generator = box(command("says why"))
    for level in (0.25, 0.75):
        with pytest.raises(RenderError, match="at a sample: it says: the light is inside the wall"):
            made(generator, level)
    assert not caplog.records


def test_who_dies_or_hangs_is_replaced_and_given_up_with_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BLACK_BOX_FOLDER", str(tmp_path))
    generator = box(black_boxes.dies_once)
    assert len(made(generator, 0.25, 0.75)) == 2
    assert [r.getMessage() for r in caplog.records] == [
        "a worker process died (exit code 3); another takes its place and does its task again"
    ]
    cases: list[tuple[Any, str]] = [
        (black_boxes.dies, r"died \(killed by SIGKILL\) 3 times at one task; its last words: GPU on fire; if that"),
        (black_boxes.hangs, "no answer within 0.5 seconds, 3 times; its last words: waiting for a licence; if the"),
        (command("exits"), r"3 times at one task; its last words: .*rendering 1 / out of memory / .*exit code 7; if"),
    ]
    for render, words in cases:
        generator = box(render, timeout=0.5)
        with pytest.raises(RenderError, match=words) as told:
            made(generator, 0.75)
        assert "parameters = {'level': 0.75}" in str(told.value)
        if callable(render):
            assert len(made(generator, 0.25)) == 1, "it goes on elsewhere"


def test_who_cannot_start_says_so_at_once() -> None:
    with pytest.raises(RenderError, match="command 'blunder' is not installed"):
        box(["blunder", "-b"])
    for kind, message in [
        ("exits at once", "cannot be set up: .*with exit code 1; its last words: no scene.blend here"),
        ("is not ready", r'must say {"ready": true} when it has started, not {"ready": false}'),
    ]:
        with pytest.raises(WorkerError, match=message):
            made(box(command(kind)), 0.25)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"render": lambda parameters, seed: {}}, TypeError, "define it at the top of a module"),
        ({"render": "blender -b"}, TypeError, "a command as a list of texts"),
        ({"parameters": {"level": 0.5}}, TypeError, "parameter 'level' must be a distribution"),
        ({"parameters": {"level": Normal(0, 1)}}, ValueError, "no number of the parameters is tuned"),
        ({"parameters": {"a": Normal(Tuned(0, 1, 0), 1), "a.mean": Tuned(0, 1, 0)}}, ValueError, "unique names"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"timeout": 0.0}, ValueError, "timeout must be positive"),
        ({"seconds_per_sample": -1.0}, ValueError, "seconds_per_sample must be 0 or more"),
        ({"cache": "renders"}, ValueError, "version='1'"),
        ({"cache": "renders", "version": "1", "cache_bytes": 0}, ValueError, "cache_bytes must be positive"),
    ],
)
def test_bad_arguments(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        box(**{"render": black_boxes.render, "parameters": LEVEL} | options)


def test_what_has_a_score_and_a_density() -> None:
    generator = box(black_boxes.render, DRAWN | {"level": Normal(Tuned(-1, 1, 0.2), 0.5), "tilt": Tuned(0, 1, 0.5)})
    betas, seeds = generator.space.initial.expand(50, -1), torch.arange(50)
    score = generator.log_prob_score(betas, seeds)
    assert [b.name for b in generator.space.blocks] == ["level.mean", "on.probability", "tilt"]
    assert score.isnan().any(0).tolist() == [False, False, True]
    # Along a line the density changes as the score says.
    draws, step = generator.draws(betas, seeds), 1e-6 * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    change = generator.log_density(betas + step, draws) - generator.log_density(betas - step, draws)
    assert torch.allclose(change / 2e-6, score[:, :2].sum(1), rtol=1e-4, atol=1e-6)
    assert not hasattr(box(black_boxes.render), "log_prob_score")
    assert not hasattr(box(black_boxes.render, {"level": Uniform(Tuned(0, 1, 0.5), 2)}), "log_prob_score")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the clock of a command in /proc")
@pytest.mark.parametrize("render", [black_boxes.burns, "burns"])
def test_the_ledger_charges_the_processes(render: Any) -> None:
    generator = box(command(render) if isinstance(render, str) else render)
    made(generator, 0.25)
    ledger = Ledger()
    with ledger.phase("generate"):
        made(generator, 0.25, 0.75, first=1)
    assert 0.2 <= ledger.by_phase()["generate"]["cpu_seconds"] < 0.4
    with ledger.phase("score"):
        made(generator, 0.25, first=3)
    assert ledger.by_phase()["score"]["cpu_seconds"] >= 0.1
    assert ledger.spent("cpu_seconds") < 0.4, "off the clock it is free"


def test_the_ledger_charges_a_stated_price() -> None:
    generator, ledger = box(black_boxes.render, seconds_per_sample=100.0), Ledger()
    with ledger.phase("generate"):
        made(generator, 0.25, 0.75)
    assert 200 <= ledger.by_phase()["generate"]["cpu_seconds"] < 210


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process in /proc")
def test_who_leaks_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    generator = box(black_boxes.leaks, memory_bytes=400 * 2**20)
    generator._repeated = True  # it does differ
    kept = [float(made(generator, 0.25, first=seed).target[0, 0, 0, 0]) for seed in range(10)]
    assert kept[0] == 1
    assert max(kept) < 8
    assert kept.count(1) >= 2
    assert not caplog.records


@pytest.fixture
def interrupts() -> Iterator[None]:
    """What runs in a shell's background ignores interrupts; here they arrive."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_processes(interrupts: None) -> None:
    generator = box(command("hangs"), workers=2, timeout=60)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and len(hanging()) < 2:
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    def hanging() -> list[str]:
        """Commands of this test that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
                state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z" and words[-3:-1] == [black_boxes.__name__.encode(), b"hangs"]:
                found.append(path.parent.name)
        return found

    before = set(hanging())
    assert not before
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        made(generator, 0.25, 0.75)
    thread.join()
    end = time.monotonic() + 10
    while hanging() and time.monotonic() < end:
        time.sleep(0.05)
    assert hanging() == [], "neither processes nor the commands that they have started"


SCRIPT = """
import sys, torch
from hgenv.distributions import Tuned
from hgenv.generators import BlackBox
from tests.generators import black_boxes

print("here")

def own(parameters, seed):
    return black_boxes.render(parameters, seed)

def made(render):
    box = BlackBox(render, {"level": Tuned(0, 1, 0.5)}, workers=1)
    print(len(box(torch.tensor([[0.5]]).double(), torch.tensor([1]))))
    box.close()

if __name__ == "__main__" or "guard" not in sys.argv:
    made(own if "guard" in sys.argv else black_boxes.render)
"""


def test_a_script_needs_a_guard_for_functions_of_its_own_alone(tmp_path: Path) -> None:
    """Otherwise processes import nothing of it, and so start sooner."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for more in ([], ["guard"]):
        words = [sys.executable, str(tmp_path / "script.py"), *more]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        assert (ended.returncode, ended.stdout) == (0, (1 + len(more)) * "here\n" + "1\n"), ended.stderr


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As a script; and its parameters can be read."""
    text = (ROOT / "docs/black-box.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "black-box.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "| 0 | radius.mean |" in said
    assert "DenseSamples(image=float32(8, 1, 16, 16)" in said
    (parameters,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "parameters.yaml").write_text(parameters)
    names = [b.name for b in BlackBox(black_boxes.render, tmp_path / "parameters.yaml").space.blocks]
    assert names == ["radius.mean", "radius.spread", "kind.probabilities", "brightness"]


# --- Ahead of need -----------------------------------------------------------------------------------------------


def prepared(generator: BlackBox) -> int:
    """How many samples that were prepared are there."""
    return sum(job.done for job in generator._ahead.values())


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "that takes too long"
        time.sleep(0.02)


def test_what_is_prepared_is_there_and_the_same(calls: Any) -> None:
    generator, other = (box(black_boxes.counted, DRAWN, workers=2) for _ in range(2))
    betas, seeds = generator.space.initial.expand(6, -1), torch.arange(6)
    expected, ledger = other(betas, seeds), Ledger()
    generator(betas[:1], seeds[:1])
    before = calls()
    generator.prepare(betas[1:5], seeds[1:5])
    wait_for(lambda: calls() == before + 4 and prepared(generator) == 4)
    with ledger.phase("generate"):
        assert same_samples(generator(betas[2:], seeds[2:]), expected[2:])
    assert calls() == before + 5, "one was not prepared"
    generator.prepare(betas[5:], seeds[5:])
    assert set(generator._ahead) == {generator._key(*generator.arguments(betas[5], 5))}, (
        "what was not asked for is gone"
    )
    assert same_samples(generator(betas[1:], seeds[1:]), expected[1:])
    for some in (generator, other):
        some.close()
    assert same_samples(generator(betas[5:], seeds[5:]), expected[5:]), "it can be called again"


def test_what_is_prepared_fails_when_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    generator = box(black_boxes.any_of_them)
    made(generator, 0.0)
    levels, seeds = torch.tensor([[0.0], [0.01], [0.0]], dtype=torch.float64), torch.arange(3)
    generator.prepare(levels, seeds)
    wait_for(lambda: prepared(generator) == 3)
    assert len(made(generator, 0.0)) == 1
    with pytest.raises(RenderError, match="at a sample: ValueError: the sphere is inside out"):
        generator(levels, seeds)
    generator = box(black_boxes.dies)
    made(generator, 0.25)
    generator.prepare(levels + 0.5, seeds)
    wait_for(lambda: any(job.error for job in generator._ahead.values()))
    assert len(made(generator, 0.25)) == 1
    with pytest.raises(RenderError, match="3 times at one task; its last words: GPU on fire"):
        generator(levels + 0.5, seeds)


def test_what_is_prepared_is_charged_when_it_is_used(tmp_path: Path) -> None:
    generator, ledger = box(black_boxes.burns, cache=tmp_path, version="1"), Ledger()
    made(generator, 0.25)
    levels, seeds = torch.tensor([[0.25], [0.5], [0.75]], dtype=torch.float64), torch.arange(3)
    with ledger.phase("train"):
        generator.prepare(levels, seeds)
        assert len(generator._ahead) == 2, "one is in the cache"
        wait_for(lambda: prepared(generator) == 2)
    assert ledger.spent("cpu_seconds") < 0.2, "nobody has asked yet"
    with ledger.phase("generate"):
        generator(levels, seeds)
    assert ledger.by_phase()["generate"]["cpu_seconds"] >= 0.3
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_who_is_forgotten_ends_its_processes_in_the_middle_of_what_was_prepared() -> None:
    before = set(multiprocessing.active_children())
    generator = box(black_boxes.hangs, timeout=600)
    made(generator, 0.25)
    generator.prepare(torch.tensor([[0.75]], dtype=torch.float64), torch.tensor([7]))
    wait_for(lambda: set(multiprocessing.active_children()) - before)
    del generator
    gc.collect()
    assert set(multiprocessing.active_children()) <= before


def test_long_work_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """And work that is not long does not."""
    caplog.set_level("INFO", logger="hgenv.progress")
    generator = box(black_boxes.render)
    made(generator, *(0.1 * n for n in range(5)))
    assert not caplog.records
    monkeypatch.setattr(patience, "TOLD", 0.0)
    made(generator, *(0.1 * n for n in range(5)), first=5)
    said = [r.getMessage() for r in caplog.records]
    assert [re.sub(r", .* a second, \d:\d\d:\d\d left", "", words) for words in said] == [
        f"samples: {n} of 5" for n in range(1, 5)
    ]


# --- The cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How often the function `counted` was called."""
    folder = tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("BLACK_BOX_FOLDER", str(folder))
    return lambda: len(os.listdir(folder))


def test_nothing_is_rendered_twice(tmp_path: Path, calls: Any) -> None:
    def new(version: str = "1") -> BlackBox:
        return box(black_boxes.counted, DRAWN, cache=tmp_path / "renders", version=version, workers=2)

    generator = new()
    betas, seeds = generator.space.initial.expand(6, -1), torch.tensor([0, 1, 2, 3, 4, 4])
    first = generator(betas, seeds)
    assert calls() == 6, "five, and the first once more"
    ledger = Ledger()
    with ledger.phase("generate"):
        assert same_samples(new()(betas, seeds), first)
    assert same_samples(generator(betas, seeds), first)
    assert calls() == 6
    moved = betas + torch.tensor([1e-15, 0, 0])
    generator(moved, seeds)
    assert calls() == 11, "the exact values count"
    new("2")(betas[:1], seeds[:1])
    assert calls() == 13, "another version is another renderer"


def test_what_is_kept_is_charged_as_if_it_were_made(tmp_path: Path) -> None:
    spent = []
    for _ in range(2):
        generator, ledger = box(black_boxes.burns, cache=tmp_path, version="1"), Ledger()
        with ledger.phase("generate"):
            made(generator, 0.25, 0.75)
        spent.append(ledger.spent("cpu_seconds"))
    assert min(spent) >= 0.2
    assert generator._pool is None, "nobody was asked"


def test_damaged_entries_are_made_again(tmp_path: Path, calls: Any, caplog: pytest.LogCaptureFixture) -> None:
    generator = box(black_boxes.counted, cache=tmp_path / "renders", version="1")
    first = made(generator, 0.1, 0.2, 0.3)
    files = sorted(path for path in (tmp_path / "renders").rglob("*") if path.is_file())
    assert len(files) == 3
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    files[1].write_bytes(b"")
    before = calls()
    assert same_samples(made(generator, 0.1, 0.2, 0.3), first)
    assert calls() == before + 2
    assert [f"{path} is damaged" in caplog.text for path in files] == [True, True, False]
    assert files[0].read_bytes()[32:] != b""


def test_a_broken_folder_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = box(black_boxes.render, cache=tmp_path / "renders", version="1")
    (tmp_path / "renders").rmdir()
    (tmp_path / "renders").write_text("in the way")
    assert math.isfinite(made(generator, 0.25).image.sum())
    assert "cannot be written" in caplog.text
