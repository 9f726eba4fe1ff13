"""Measures dL/dX through K training steps beside plain training, full autograd, `higher` and `torchopt`.

    python -m hgenv.benchmarks.speed.unroll [--repeats 3] [--steps 32]

Small hourglass, 64 px, batches of 4, SGD without momentum, one thread; the gradient includes a validation pass over ten
images. Every figure is from a process of its own; the methods take turns. Seconds are processor time, the best of the
repetitions; megabytes are what the process's peak grew by after everything was imported and the data were made.

The peers get the network as their users would write it, of PyTorch's own layers. Half of what makes ours fast is not
the adjoint but the network's hand-written second derivatives (`hgenv.learning.hourglass`), so rows with `_units` give
the peers these, too. Last, how far single precision is from double.

Where there is a GPU, all of it runs there (`--cpu` keeps it off): seconds of the GPU, megabytes of its memory.

The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from hgenv.learning import SGD, DenseLearner, Network, sample_gradient, train, training_loss, validation_loss
from hgenv.learning.hourglass import Unit
from hgenv.learning.precision import full_precision
from hgenv.learning.rules import Weights
from hgenv.problem import SampleData
from hgenv.samples import DenseSamples
from hgenv.tasks.normals import NormalsTask

from .clocks import cpu_seconds, gpu, gpu_seconds, name_of

SIZE, SAMPLES, RATE = 64, 4, 0.05
PEERS = ("higher", "torchopt")
WHOLE = ("autograd", *PEERS)  # those that keep the graph of all K steps
METHODS = ("plain", "ours", *WHOLE, "plain_stock", *(f"{name}_units" for name in WHOLE))


@dataclass(frozen=True)
class Problem:
    """A learner, its training batches and its validation data."""

    learner: DenseLearner
    batches: list[DenseSamples]
    data: SampleData
    device: torch.device

    def weights(self) -> Weights:
        """Where training starts."""
        return {name: w.to(self.device) for name, w in self.learner.initial_weights(0).items()}


def random_batch(samples: int, generator: torch.Generator, dtype: torch.dtype) -> DenseSamples:
    """Noise in the shape of samples: the time does not depend on what they show."""
    image, target, mask = (
        torch.rand(samples, channels, SIZE, SIZE, generator=generator, dtype=torch.float64) for channels in (1, 3, 1)
    )
    mask = (mask > 0.4).double()
    parts = image * mask, nn.functional.normalize(target - 0.5, dim=1) * mask, mask
    return DenseSamples(*(x.to(dtype) for x in parts))


def problem(steps: int, device: torch.device, samples: int = SAMPLES, dtype: torch.dtype = torch.float32) -> Problem:
    """K = `steps` batches of noise."""
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(samples, generator, dtype).to(device) for _ in range(steps)]
    data = SampleData(random_batch(10, generator, dtype).to(device), "noise")
    return Problem(DenseLearner(NormalsTask(), Network(size=SIZE), dtype), batches, data, device)


def plain(given: Problem) -> None:
    """Training as everybody writes it; no gradient."""
    weights = {name: w.requires_grad_() for name, w in given.weights().items()}
    optimizer = torch.optim.SGD(weights.values(), lr=RATE)
    for batch in given.batches:
        optimizer.zero_grad()
        training_loss(given.learner, weights, batch).backward()
        optimizer.step()


def ours(given: Problem, sgd: SGD | None = None) -> list[Tensor]:
    """Training and the adjoint."""
    sgd = sgd or SGD(RATE)
    trajectory = train(given.learner, sgd, sgd.start(given.weights()), given.batches)
    _, gradients = sample_gradient(given.learner, sgd, trajectory, given.batches, given.data)
    return [x for gradient in gradients for x in gradient.samples.tensors]


def autograd(given: Problem) -> tuple[Tensor, ...]:
    """The whole loop as one graph."""
    weights = {name: w.requires_grad_() for name, w in given.weights().items()}
    samples = _with_gradient(given.batches)
    for batch in samples:
        loss = training_loss(given.learner, weights, batch)
        gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - RATE * g for (name, w), g in zip(weights.items(), gradient, strict=True)}
    return _sample_gradients(given, weights, samples)


def higher(given: Problem) -> tuple[Tensor, ...]:
    """`higher.innerloop_ctx`."""
    import higher

    module, samples = _Module(given.weights()), _with_gradient(given.batches)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    with higher.innerloop_ctx(module, optimizer) as (functional, differentiable):
        for batch in samples:
            differentiable.step(training_loss(given.learner, module.named(functional.fast_params), batch))
        return _sample_gradients(given, module.named(functional.fast_params), samples)


def torchopt(given: Problem) -> tuple[Tensor, ...]:
    """`torchopt.MetaSGD`."""
    import torchopt

    module, samples = _Module(given.weights()), _with_gradient(given.batches)
    optimizer = torchopt.MetaSGD(module, lr=RATE)
    for batch in samples:
        optimizer.step(training_loss(given.learner, module.named(module.current()), batch))
    return _sample_gradients(given, module.named(module.current()), samples)


def use_stock_layers() -> None:
    """Make the network of PyTorch's own GroupNorm, SiLU and convolution, in this process."""

    def forward(unit: Unit, x: Tensor) -> Tensor:
        return unit.convolution(nn.functional.silu(unit.norm(x)))

    # This process measures what a user's own network would cost, so the method is replaced for all units. Type checkers
    # refuse to have methods replaced, and by a function whose first argument has another name.
    Unit.forward = forward  # type: ignore[method-assign, assignment]


class _Module(nn.Module):
    """Weights as a module, for libraries that want one."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.names = list(weights)
        for i, w in enumerate(weights.values()):
            self.register_parameter(f"w{i}", nn.Parameter(w))

    def current(self) -> list[Tensor]:
        return [getattr(self, f"w{i}") for i in range(len(self.names))]

    def named(self, values: list[Tensor]) -> Weights:
        return dict(zip(self.names, values, strict=True))


def _with_gradient(batches: list[DenseSamples]) -> list[DenseSamples]:
    return [b.map(lambda x: x.clone().requires_grad_()) for b in batches]


def _sample_gradients(given: Problem, weights: Weights, batches: list[DenseSamples]) -> tuple[Tensor, ...]:
    loss = validation_loss(given.learner, weights, given.data)
    return torch.autograd.grad(loss, [x for b in batches for x in b.tensors])


def measure(method: str, steps: int, device: torch.device) -> dict[str, float]:
    """Added megabytes of a first run in this process, and seconds of a second."""
    name, _, variant = method.partition("_")
    functions: dict[str, Callable[..., object]] = {
        "plain": plain,
        "ours": ours,
        "autograd": autograd,
        "higher": higher,
        "torchopt": torchopt,
    }
    with warnings.catch_warnings(), full_precision():
        warnings.simplefilter("ignore")  # of the peers, about PyTorch's future
        if name in PEERS:
            importlib.import_module(name)
        if variant == "stock" or (name in WHOLE and variant != "units"):
            use_stock_layers()
        torch.set_num_threads(1)
        given = problem(steps, device)
        before = peak_megabytes(device)
        functions[name](given)
        added = peak_megabytes(device) - before
        clock = cpu_seconds if device.type == "cpu" else gpu_seconds
        return {"seconds": clock(lambda: functions[name](given)), "mb": added}


def peak_megabytes(device: torch.device) -> float:
    """The most memory that this process has had so far; on a GPU, the most that its tensors have had."""
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure_apart(method: str, steps: int, device: torch.device) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "hgenv.benchmarks.speed.unroll", "--only", method, "--steps", str(steps)]
    command += ["--cpu"] if device.type == "cpu" else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def precision(steps: int, samples: int, device: torch.device) -> tuple[float, float]:
    """Cosine and relative error of the gradient in single precision to that in double, with momentum 0.9."""
    found = []
    for dtype in (torch.float32, torch.float64):
        gradients = ours(problem(steps, device, samples, dtype), SGD(RATE, momentum=0.9))
        found.append(torch.cat([x.double().flatten() for x in gradients]))
    single, double = found
    cosine = torch.dot(single, double) / (single.norm() * double.norm())
    return float(cosine), float((single - double).norm() / double.norm())


def main() -> None:
    """Measure all methods in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="processes for each method")
    parser.add_argument("--steps", type=int, default=32, help="K")
    parser.add_argument("--only", choices=METHODS, help="measure one method in this process and print its figures")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    options = parser.parse_args()
    device = (None if options.cpu else gpu()) or torch.device("cpu")
    if options.only:
        print(json.dumps(measure(options.only, options.steps, device)))
        return

    runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(options.repeats):
        for method in METHODS:
            runs[method].append(measure_apart(method, options.steps, device))
    seconds = {method: min(r["seconds"] for r in runs[method]) for method in METHODS}
    added = {method: statistics.median(r["mb"] for r in runs[method]) for method in METHODS}
    by_steps = {steps: measure_apart("ours", steps, device)["mb"] for steps in (8, 64)}

    table = Table(
        title=f"dL/dX through K = {options.steps} training steps: small hourglass, {SIZE} px, batch {SAMPLES}"
    )
    on_cpu = device.type == "cpu"
    for heading in ("method", "layers", "CPU s" if on_cpu else "GPU s", "of plain", "added MB", "of higher"):
        table.add_column(heading, justify="left" if heading in ("method", "layers") else "right")
    for method in METHODS:
        name, _, variant = method.partition("_")
        layers = "PyTorch's" if variant == "stock" or (name in WHOLE and not variant) else "ours"
        ratios = f"{seconds[method] / seconds['plain']:.2f}", f"{added[method] / added['higher']:.2f}"
        table.add_row(name, layers, f"{seconds[method]:.2f}", ratios[0], f"{added[method]:.0f}", ratios[1])
    console = Console()
    console.print(table)
    console.print(f"ours, added MB: K = 8 {by_steps[8]:.0f}, K = 64 {by_steps[64]:.0f}")
    machine = f"one thread of {os.cpu_count()} cores, {platform.machine()}" if on_cpu else name_of(device)
    console.print(
        f"{machine}, torch {torch.__version__}; best time and median memory of {options.repeats} processes each"
    )
    figures = {f"{method}_seconds": seconds[method] for method in METHODS}
    figures |= {f"{method}_added_mb": added[method] for method in METHODS}
    figures |= {f"ours_added_mb_k{steps}": mb for steps, mb in by_steps.items()}
    torch.set_num_threads(1)
    for steps, samples in ((4, 16), (options.steps, SAMPLES)):
        cosine, error = precision(steps, samples, device)
        console.print(
            f"float32 beside float64, K = {steps} x {samples}: cosine {cosine:.6f}, relative error {error:.2g}"
        )
        figures |= {f"float32_cosine_k{steps}x{samples}": cosine, f"float32_error_k{steps}x{samples}": error}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
