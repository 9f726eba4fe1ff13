"""Speed of deformed meshes, side by side on one core: `python -m hgenv.benchmarks.speed.meshes [--ict FOLDER]`.

Faces of 9,409 vertices (18,432 triangles) with fixed topology, new vertices for each image: image with interpolated
vertex colours, depth, normals, mask, light and shadows, at 64 and 128 px. By default the mesh is made by code; `--ict`
takes ICT-FaceKit's. The routes take turns within each repetition; a figure is the median over repetitions of the
process's CPU seconds, all of its threads counted. pyrender (EGL) does less: colour and depth under its own shading, no
normals, no shadows; as with all of its users, each image's vertices are a new mesh to it. `ours_generator_64` is from
beta and r to a finished batch, `gpu_generator_64` the same on a GPU, where there is one, in seconds of the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hgenv.datasets import ict_facekit, standin_faces
from hgenv.datasets.morphable import LEAST, MorphableModel, principal_textures
from hgenv.generators.faces import FaceGenerator
from hgenv.memory import keep_memory
from hgenv.problem import RenderError
from hgenv.rendering.csg import PyrenderRenderer
from hgenv.rendering.shading.skin import shade_skin
from hgenv.rendering.surfaces import SurfaceRenderer, ZBuffer, depth_samples, fit, turn
from hgenv.rendering.surfaces.embree import EmbreeSurfaces
from hgenv.rendering.surfaces.fragments import light_axes

from .clocks import gpu, gpu_seconds, name_of, take_turns

VERTICES = 97  # along an edge of the made mesh: 9,409 in all

Route = Callable[[Tensor, Tensor, Tensor], object]


def made_model() -> MorphableModel:
    """The stand-in face with as many vertices as ICT-FaceKit's, before anything is cut off."""
    grid, triangles = standin_faces.face_grid(VERTICES)
    mean = standin_faces.relief(grid)
    rng = np.random.default_rng(0)
    shape = standin_faces.bumps(rng, mean, 2 * LEAST, width=(20, 60), size=2.0)
    colour, texture, limit = principal_textures(standin_faces.made_skins(mean, 12, seed=0))
    parts = shape[:LEAST], shape[LEAST:]
    return MorphableModel("made", mean, *parts, colour, texture, limit, triangles, int(mean[:, 2].argmax()))


def surfaces(renderer: SurfaceRenderer, triangles: Tensor) -> Route:
    """What is seen, coloured and shaded."""

    def route(vertices: Tensor, colours: Tensor, light: Tensor) -> object:
        seen = renderer(vertices, light)
        corners = triangles[seen.triangle]
        row = torch.arange(len(vertices))[:, None]
        colour = sum(seen.weight[:, i, :, None] * colours[row, corners[..., i]] for i in range(3))
        image = shade_skin(torch.as_tensor(colour).transpose(1, 2), seen.normal, light.float(), seen.lit, seen.mask)
        return depth_samples(image, seen, renderer.size)

    return route


def pyrender_route(triangles: Tensor, size: int) -> Route:
    """What a user of pyrender would write.

    Raises:
        RenderError: pyrender's libraries are missing.
    """
    PyrenderRenderer(size)  # prepares what pyrender needs, and says what is missing
    PyrenderRenderer.close()
    import pyrender

    offscreen = pyrender.OffscreenRenderer(size, size)
    faces = triangles.numpy()
    pose = np.eye(4)
    pose[2, 3] = 3

    def route(vertices: Tensor, colours: Tensor, light: Tensor) -> object:
        frames = []
        lamps = torch.stack(light_axes(light), -1).numpy()  # columns: right, up, backward
        for mesh, colour, lamp in zip(vertices.numpy(), colours.numpy(), lamps, strict=True):
            area = np.cross(mesh[faces[:, 1]] - mesh[faces[:, 0]], mesh[faces[:, 2]] - mesh[faces[:, 0]])
            normals = np.zeros_like(mesh)
            for i in range(3):
                for axis in range(3):
                    normals[:, axis] += np.bincount(faces[:, i], area[:, axis], len(mesh))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            scene = pyrender.Scene(bg_color=(0, 0, 0, 0), ambient_light=(0.1, 0.1, 0.1))
            primitive = pyrender.Primitive(positions=mesh, normals=normals, indices=faces, color_0=colour)
            scene.add(pyrender.Mesh([primitive]))
            scene.add(pyrender.OrthographicCamera(1, 1, znear=0.5, zfar=6), pose=pose)
            axes = np.eye(4)
            axes[:3, :3] = lamp
            scene.add(pyrender.DirectionalLight(intensity=3), pose=axes)
            frames.append(offscreen.render(scene))
        return frames

    return route


def measure(model: MorphableModel, images: int, repetitions: int) -> dict[str, float | None]:
    """Images per second by route and size, such as `ours_64`."""
    generator = FaceGenerator(model)
    triangles = torch.from_numpy(model.triangles)
    seeds = torch.arange(images)
    betas = generator.space.project(generator.space.initial).expand(images, -1)
    drawn = generator.draw(betas, seeds)
    vertices = fit(turn(generator.vertices(drawn["shape"]), drawn["rotation"]))
    scene = vertices, generator.colours(drawn["texture"]).clamp(0, 1), drawn["light"]
    routes: dict[str, Callable[[], object] | None] = {}

    def add(name: str, route: Route) -> None:
        routes[name] = lambda: route(*scene)

    for size in (64, 128):
        add(f"ours_{size}", surfaces(ZBuffer(triangles, size), triangles))
        add(f"embree_{size}", surfaces(EmbreeSurfaces(triangles, size), triangles))
    try:
        add("pyrender_64", pyrender_route(triangles, 64))
    except RenderError as error:
        print(f"pyrender is left out: {error}")
        routes["pyrender_64"] = None
    routes["ours_generator_64"] = lambda: generator(betas, seeds)
    taken = take_turns({name: route for name, route in routes.items() if route is not None}, repetitions)
    return {name: images / taken[name] if name in taken else None for name in routes}


def measure_gpu(model: MorphableModel, images: int, repetitions: int) -> dict[str, float | None]:
    """The generator's samples per second on a GPU."""
    device = gpu()
    if device is None:
        return {"gpu_generator_64": None}
    generator = FaceGenerator(model)
    betas = generator.space.project(generator.space.initial).expand(images, -1)
    seeds = torch.arange(images, device=device)
    taken = take_turns({"all": lambda: generator(betas, seeds)}, repetitions, gpu_seconds)
    return {"gpu_generator_64": images / taken["all"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="faces in a repetition (default: 64)")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions after the warm-up (default: 5)")
    parser.add_argument("--ict", type=Path, help="folder of ICT-FaceKit (default: a mesh made by code)")
    arguments = parser.parse_args()
    if min(arguments.images, arguments.repetitions) < 1:
        parser.error("--images and --repetitions must be at least 1")
    cores = os.cpu_count()
    # Embree and Mesa start threads of their own; they share this one core.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_memory()  # as in a run
    model = made_model() if arguments.ict is None else ict_facekit.load(arguments.ict, radius=None)
    speed = measure(model, arguments.images, arguments.repetitions)
    print(
        f"{model.label}: {len(model.mean)} vertices, {len(model.triangles)} triangles, {arguments.images} images with "
        f"light and shadows, median of {arguments.repetitions} repetitions;\nCPU time on 1 of {cores} cores, "
        f"{torch.get_num_threads()} torch thread; torch {torch.__version__}\n"
    )
    print(f"{'route':<18}{'px':>5}{'ms/image':>11}{'images/s':>11}{'x pyrender':>12}")
    peer = speed["pyrender_64"]
    for name, value in speed.items():
        route, size = name.rsplit("_", 1)
        figures = ("-", "-") if value is None else (f"{1000 / value:.2f}", f"{value:.0f}")
        ratio = f"{value / peer:.2f}" if value and peer and size == "64" else "-"
        print(f"{route:<18}{size:>5}{figures[0]:>11}{figures[1]:>11}{ratio:>12}")
    on_gpu = measure_gpu(model, arguments.images, arguments.repetitions)
    made = on_gpu["gpu_generator_64"]
    print(f"\nthe generator on {name_of(gpu())}: {'-' if made is None else f'{made:.0f} images/s'}\n")
    speed |= on_gpu
    print(json.dumps({name: None if value is None else round(value, 1) for name, value in speed.items()}))


if __name__ == "__main__":
    main()
