"""Speed of the renderers, side by side on one core: `python -m hgenv.benchmarks.speed.rendering [--images N]`.

The same random objects, with image, normals, depth and shadows, at 64 and 128 px. The routes take turns within each
repetition, so that whatever else the machine does falls on all of them alike; a figure is the median over repetitions
of the process's CPU seconds, all of its threads counted, which waiting for a busy core does not change. (Where EGL runs
on a GPU, that GPU's time is not counted.) Meshes are as fine as the mesh routes make them by default; `--segments 32`
makes them several times quicker and coarser than the pixels: 7 silhouette pixels and 7 degrees (99th percentile of the
normals) off the analytic surface at 64 px, where 128 segments are 0.4 pixels and 2 degrees off.

Where there is a GPU, the torch form runs there, too, on a larger batch: `gpu_*`, in seconds of the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial

import torch

from hgenv.generators.grammar import numbers_needed, shapes
from hgenv.generators.random import uniforms
from hgenv.generators.shapes import ShapeGenerator
from hgenv.memory import keep_memory
from hgenv.problem import RenderError
from hgenv.rendering.csg import AnalyticRenderer, Frame, MeshRenderer, PyrenderRenderer, Scene
from hgenv.rendering.csg.scene import EMPTY

from .clocks import gpu, gpu_seconds, name_of, take_turns

SIZES = (64, 128)
FEWEST = 64  # samples that are drawn at a time: larger batches take less a sample


def renderers(size: int, segments: int) -> dict[str, Callable[[Scene], Frame] | None]:
    """The routes by name; None where pyrender's libraries are missing."""
    routes: dict[str, Callable[[Scene], Frame] | None] = {
        "numba": AnalyticRenderer(size),
        "torch": AnalyticRenderer(size).render_torch,
        "mesh": MeshRenderer(size, segments=segments),
    }
    try:
        routes["pyrender"] = PyrenderRenderer(size, segments=segments)
    except RenderError as error:
        print(f"pyrender is left out: {error}")
        routes["pyrender"] = None
    return routes


def measure(scene: Scene, segments: int, repetitions: int) -> dict[str, float | None]:
    """Images per second by route and size, such as `torch_64`."""
    routes = {f"{name}_{size}": route for size in SIZES for name, route in renderers(size, segments).items()}
    here = {name: partial(route, scene) for name, route in routes.items() if route is not None}
    seconds = take_turns(here, repetitions)
    return {name: len(scene) / seconds[name] if name in seconds else None for name in routes}


def measure_generator(samples: int, repetitions: int) -> dict[str, float]:
    """Microseconds to draw a tree and its transforms, and samples per second from beta and r to a finished batch."""
    generator = ShapeGenerator(AnalyticRenderer(64), lit=True)
    space, depth = generator.space, generator.depth
    betas, seeds = space.initial.expand(samples, -1), torch.arange(samples)
    few = min(samples, FEWEST)

    def sample() -> None:
        shapes(space.split(betas[:few]), uniforms(seeds[:few], numbers_needed(depth)), depth)

    seconds = take_turns({"sampler": sample, "pipeline": lambda: generator(betas, seeds)}, 4 * repetitions)
    return {"pipeline_64": samples / seconds["pipeline"], "sampler_us": 1e6 * seconds["sampler"] / few}


def measure_leaves(images: int, repetitions: int) -> dict[str, float]:
    """How many times as long an object of 16 primitives takes as one of 4, at 64 px."""
    renderer = AnalyticRenderer(64)
    scenes = {}
    for depth in (2, 4):
        generator = ShapeGenerator(renderer, depth=depth)
        beta = generator.space.initial.clone()
        beta[generator.space.slice("expand")] = 1.0  # every E becomes C(E, T(E)), down to the deepest level
        scenes[2**depth] = generator.scene(beta.expand(images, -1), torch.arange(images))
    seconds = take_turns({str(n): partial(renderer, scene) for n, scene in scenes.items()}, 4 * repetitions)
    return {"leaves_16_over_4": seconds["16"] / seconds["4"]}


def measure_gpu(samples: int, repetitions: int) -> dict[str, float | None]:
    """Images per second of the torch form on a GPU, by size, and samples per second of the whole generator there."""
    device = gpu()
    if device is None:
        return dict.fromkeys([*(f"gpu_{size}" for size in SIZES), "gpu_pipeline_64"])
    generator = ShapeGenerator(AnalyticRenderer(64), lit=True)
    betas, seeds = generator.space.initial.expand(samples, -1), torch.arange(samples, device=device)
    scene = generator.scene(betas, seeds)
    work: dict[str, Callable[[], object]] = {
        f"gpu_{size}": partial(AnalyticRenderer(size).render_torch, scene) for size in SIZES
    }
    work["gpu_pipeline_64"] = lambda: generator(betas, seeds)
    return {name: samples / taken for name, taken in take_turns(work, repetitions, gpu_seconds).items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="random objects in a repetition (default: 64)")
    parser.add_argument("--samples", type=int, default=256, help="samples in a batch of the generator (default: 256)")
    parser.add_argument("--gpu-samples", type=int, default=4096, help="samples in a batch on a GPU (default: 4096)")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions after the warm-up (default: 5)")
    parser.add_argument("--segments", type=int, default=128, help="edges around a tessellated circle (default: 128)")
    arguments = parser.parse_args()
    batches = arguments.images, arguments.samples, arguments.gpu_samples
    if min(*batches, arguments.repetitions) < 1 or arguments.segments < 4:
        parser.error("--images, --samples, --gpu-samples and --repetitions must be at least 1, --segments at least 4")
    cores = os.cpu_count()
    # Embree, TBB and Mesa start threads of their own; they share this one core.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_memory()  # as in a run

    generator = ShapeGenerator(lit=True)
    scene = generator.scene(generator.space.initial.expand(arguments.images, -1), torch.arange(arguments.images))
    speed = measure(scene, arguments.segments, arguments.repetitions)
    PyrenderRenderer.close()

    primitives = float((scene.kind != EMPTY).double().sum(1).mean())
    print(
        f"{arguments.images} objects of {primitives:.1f} primitives on average, shadows on, median of "
        f"{arguments.repetitions} repetitions;\nCPU time on 1 of {cores} cores, {torch.get_num_threads()} torch thread;"
        f" torch {torch.__version__}, meshes of {arguments.segments} segments\n"
    )
    print(f"{'route':<10}{'px':>5}{'ms/image':>11}{'images/s':>11}{'x mesh':>9}")
    for name, value in speed.items():
        route, size = name.split("_")
        mesh = speed[f"mesh_{size}"]
        if value is None or mesh is None:
            print(f"{route:<10}{size:>5}{'-':>11}{'-':>11}{'-':>9}")
        else:
            print(f"{route:<10}{size:>5}{1000 / value:>11.2f}{value:>11.0f}{value / mesh:>9.2f}")
    made = measure_generator(arguments.samples, arguments.repetitions)
    print(
        f"\nfrom beta and r to a batch of {arguments.samples}, 64 px: {made['pipeline_64']:.0f} samples/s\n"
        f"drawing trees and transforms, {min(arguments.samples, FEWEST)} at a time: {made['sampler_us']:.1f} us each"
    )
    leaves = measure_leaves(arguments.images, arguments.repetitions)
    print(f"16 primitives against 4, numba, 64 px: {leaves['leaves_16_over_4']:.1f} times the time\n")
    on_gpu = measure_gpu(arguments.gpu_samples, arguments.repetitions)
    print(f"torch form on {name_of(gpu())}, {arguments.gpu_samples} at a time:")
    for name, value in on_gpu.items():
        print(f"{name:<20}{'-' if value is None else f'{value:.0f}':>10} /s")
    print()
    speed |= made | leaves | on_gpu
    print(json.dumps({name: None if value is None else round(value, 1) for name, value in speed.items()}))


if __name__ == "__main__":
    main()
