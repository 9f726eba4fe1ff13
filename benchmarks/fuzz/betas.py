"""Betas at and beyond their bounds, and of other kinds, for every environment and every renderer that works here.

What is valid is worked out here once more, from the bounds alone. A valid beta must be taken as the nearest one within
the bounds, and what is made of it must be samples. Those of compiled renderers are compared with their torch forms'.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgenv import DataGenEnv, DecisionSpace, DenseSamples, Network, RenderError
from hgenv.datasets import standin_faces
from hgenv.datasets.heads import Head, render
from hgenv.datasets.morphable import MorphableModel
from hgenv.environments.face_depth import FaceDepthEnv
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.environments.shape_normals import ShapeNormalsEnv, ShapeNormalsLitEnv
from hgenv.environments.shape_population import ShapePopulationEnv
from hgenv.generators.faces import FaceGenerator
from hgenv.generators.faces_lit import LitFaceGenerator
from hgenv.generators.population import PopulationGenerator
from hgenv.generators.shapes import ShapeGenerator
from hgenv.generators.studio import StudioGenerator
from hgenv.rendering.csg import AnalyticRenderer, Frame, Scene
from hgenv.rendering.surfaces import Fragments, ZBuffer

from .case import Finding, Verdict, attempt
from .damage import Random
from .loaders import made_photos

SIZE = 16  # pixels
SAMPLES = 4  # of a step
SLACK = 1e-6  # of a range, that a rounded bound may be beyond it
UNLIKE = 0.02  # share of pixels in which two forms of a renderer may differ: silhouettes and shadows' edges


def case(rng: Random, folder: Path) -> Finding:
    """An environment or a generator, and a beta."""
    if rng.uniform() < 0.5:
        return _stepped(rng)
    return _generated(rng)


def _stepped(rng: Random) -> Finding:
    """A beta that an environment is given."""
    name = str(rng.choice(sorted(ENVIRONMENTS)))
    env = _environment(name)
    space = env.space
    given, what = _beta(space, rng)
    seed = int(rng.integers(2**31))
    expected = _valid(given, space)
    way = str(rng.choice(["step", "step", "rollout", "rows", "probe"]))
    if way != "step":  # they are typed
        given = torch.as_tensor(np.array(expected)) if not isinstance(given, Tensor) and expected is not None else given
    env.reset(seed=seed)

    def act() -> Any:
        if way == "step":
            env.step(given)
            return env.outcome
        if way == "rollout":
            return env.rollout(given).outcome
        if way == "rows":
            rows = given.expand(SAMPLES, -1) if isinstance(given, Tensor) and given.dim() == 1 else given
            return env.rollout(rows).outcome
        return env.probe(given[None] if isinstance(given, Tensor) else given)[0]

    def judge(outcome: Any) -> tuple[Verdict, str]:
        if expected is None:
            return Verdict.WRONG, f"taken, although it is not valid: {outcome}"
        if not outcome.ok:
            return Verdict.STATUS, str(outcome)
        if not np.isfinite(outcome.loss):
            return Verdict.WRONG, f"a loss of {outcome.loss}"
        env.reset(seed=seed)
        rows = expected.expand(SAMPLES, -1) if way == "rows" else expected
        again = env.rollout(rows).outcome
        if again.loss != outcome.loss or not torch.equal(again.beta, outcome.beta):
            return Verdict.WRONG, f"{outcome}, but the nearest valid beta gives {again}"
        return Verdict.UNHARMED, str(outcome)

    finding = attempt(f"{name}, {way}: {what}", act, ("beta",), judge)
    if finding.verdict is Verdict.CLEAR and expected is not None:
        return Finding(Verdict.WRONG, f"refused, although it is valid: {finding.what}")
    return finding


def _generated(rng: Random) -> Finding:
    """Rows of betas and seeds that a generator is given."""
    name = str(rng.choice(sorted(_generators())))
    generator = _generators()[name]
    space = generator.space
    betas = torch.stack([_row(space, rng) for _ in range(3)])
    high = 2**63 - 1
    seeds = torch.tensor([int(rng.integers(-high, high)), int(rng.choice([-high - 1, high, 0, -1])), 7])
    kind = str(rng.choice(["corners"] * 4 + ["beyond", "nan", "shape", "seeds", "single"]))
    valid = kind in ("corners", "single")
    if kind == "beyond":
        i = int(rng.integers(space.dimension))
        betas[1, i] = space.high[i] + float(rng.choice([1e-3, 1, 1e9])) * (space.high[i] - space.low[i])
    elif kind == "nan":
        betas[2, int(rng.integers(space.dimension))] = float(rng.choice([np.nan, np.inf, -np.inf]))
    elif kind == "shape":
        betas = [betas[0], betas[:2], betas[:, :-1], betas[:, None], betas.long(), betas * 1j][int(rng.integers(6))]
    elif kind == "seeds":
        seeds = [seeds.double(), seeds[:2], seeds[:, None], seeds[0]][int(rng.integers(4))]
    elif kind == "single":
        betas = space.clip(betas.float().double())

    def judge(samples: DenseSamples) -> tuple[Verdict, str]:
        if not valid:
            return Verdict.WRONG, "samples were made of it"
        if (flaw := _flaw(name, samples)) is not None:
            return Verdict.WRONG, flaw
        other = _generators().get(name + ", torch form")
        if other is not None and (differs := _unlike(samples, other(betas, seeds))) > UNLIKE:
            return Verdict.WRONG, f"the torch form shows something else in {differs:.1%} of the pixels"
        return Verdict.UNHARMED, "samples"

    try:
        finding = attempt(f"{name}, {kind}", lambda: generator(betas, seeds), ("beta", "seed"), judge)
    except RenderError as error:
        return Finding(Verdict.STATUS, str(error))
    if finding.verdict is Verdict.CLEAR and valid:
        return Finding(Verdict.STATUS if "sample seed" in finding.what else Verdict.WRONG, finding.what)
    return finding


# --- Betas ------------------------------------------------------------------------------------------------------------


def _row(space: DecisionSpace, rng: Random) -> Tensor:
    """A valid vector, some of whose components are at their bounds."""
    beta = space.denormalize(torch.from_numpy(rng.uniform(size=space.dimension)))
    share = float(rng.choice([0.0, 0.1, 0.5, 1.0]))
    low, high = (torch.from_numpy(rng.uniform(size=space.dimension) < share) for _ in range(2))
    beta = torch.where(high, space.high, torch.where(low, space.low, beta))
    return space.project(beta) if rng.uniform() < 0.7 else beta


def _beta(space: DecisionSpace, rng: Random) -> tuple[Any, str]:
    """Something that somebody may take for a beta, and what it is."""
    beta, d = _row(space, rng), space.dimension
    i = int(rng.integers(d))
    width = float(space.high[i] - space.low[i])
    edge, sign = (space.high[i], 1) if rng.uniform() < 0.5 else (space.low[i], -1)
    beyond = {
        "at its bound": 0.0, "an ulp beyond": 1e-16 * width, "rounded beyond": 0.4 * SLACK * width,
        "beyond": 1e-4 * width, "far beyond": 1e9, "farthest": 1.7e308,
    }  # fmt: skip
    odd: dict[str, Callable[[], Any]] = {
        "float32": lambda: beta.float(),
        "float16": lambda: beta.half(),
        "bfloat16": lambda: beta.bfloat16(),
        "numpy": beta.numpy,
        "big-endian": lambda: beta.numpy().astype(">f8"),
        "list": beta.tolist,
        "tuple": lambda: tuple(beta.tolist()),
        "fractions": lambda: [Fraction(value) for value in beta.tolist()],
        "whole": lambda: torch.where(beta > (space.low + space.high) / 2, space.high, space.low).long(),
        "strided": lambda: torch.stack([beta, beta], 1)[:, 0],
        "texts": lambda: [str(value) for value in beta.tolist()],
        "bytes": lambda: beta.numpy().tobytes(),
        "none": lambda: None,
        "number": lambda: float(beta[0]),
        "dict": lambda: {"beta": beta},
        "empty": lambda: [],
        "ragged": lambda: [[0.0], *beta.tolist()[1:]],
        "too long": lambda: torch.cat([beta, beta[:1]]),
        "too short": lambda: beta[:-1],
        "column": lambda: beta[:, None],
        "row": lambda: beta[None],
        "graph": lambda: beta.clone().requires_grad_(),
        "complex": lambda: beta * (1 + 1j),
        "complex list": lambda: [complex(value) for value in beta.tolist()],
        "meta": lambda: beta.to("meta"),
        "sparse": lambda: beta.to_sparse(),
        "dates": lambda: np.zeros(d, dtype="M8[s]"),
        "huge whole": lambda: [10**400] * d,
        "million": lambda: np.zeros(10**6),
        "stride 0": lambda: np.broadcast_to(0.0, (d, 10**9)),
    }
    kind = str(rng.choice([*beyond, *beyond, "nan", "inf", *odd]))
    if kind in odd:
        return odd[kind](), kind
    beta[i] = {"nan": np.nan, "inf": sign * np.inf}.get(kind, float(edge) + sign * beyond.get(kind, 0.0))
    return beta if rng.uniform() < 0.5 else beta.numpy(), f"component {i} {kind}: {float(beta[i])}"


def _valid(given: Any, space: DecisionSpace) -> Tensor | None:
    """The beta that is meant, within the bounds; None if none is. By the rules, not by the code that is tried."""
    if isinstance(given, Tensor):
        if given.requires_grad or given.is_complex() or given.device.type == "meta" or given.is_sparse:
            return None
        given = given.double().numpy()
    if not isinstance(given, list | tuple | np.ndarray) or len(given) != space.dimension or np.ndim(given[0]):
        return None
    if isinstance(given, np.ndarray) and (given.ndim != 1 or given.dtype.kind not in "iuf"):
        return None
    low, high = space.low.tolist(), space.high.tolist()
    found = []
    for value, least, most in zip(given, low, high, strict=True):
        if isinstance(value, str | bytes | complex | list) or value is None or abs(value) > 1e300:
            return None
        slack = SLACK * (most - least)
        if not least - slack <= float(value) <= most + slack:
            return None
        found.append(min(max(float(value), least), most))
    return torch.tensor(found, dtype=torch.float64)


# --- Environments and generators --------------------------------------------------------------------------------------


class TorchAnalytic(AnalyticRenderer):
    """The analytic renderer's reference on a CPU."""

    def __call__(self, scene: Scene) -> Frame:
        """See `Renderer`."""
        return self.render_torch(scene)

    def resized(self, size: int) -> TorchAnalytic:
        """See `Renderer`."""
        return TorchAnalytic(size, self.shadows)


class TorchZBuffer(ZBuffer):
    """The z-buffer's reference on a CPU."""

    def __call__(self, vertices: Tensor, light: Tensor) -> Fragments:
        """See `SurfaceRenderer`."""
        return self.render_torch(vertices, light)

    def resized(self, size: int) -> TorchZBuffer:
        """See `SurfaceRenderer`."""
        return TorchZBuffer(self.triangles, size, self.shadows)


@cache
def small_model() -> MorphableModel:
    """A face of few vertices."""
    return standin_faces.model(resolution=24)


@cache
def _heads() -> Any:
    grid, triangles = standin_faces.face_grid(24)
    vertices = standin_faces.relief(grid)
    head = Head("made", vertices, triangles, np.full(vertices.shape, 0.6), vertices[vertices[:, 2].argmax()])
    return render([head], SIZE, "made")


OPTIONS: dict[str, Any] = {"unroll_steps": 2, "batch_size": SAMPLES // 2, "device": "cpu"}
ENVIRONMENTS: dict[str, Callable[[], DataGenEnv]] = {
    "quadratic": lambda: QuadraticEnv(**OPTIONS),
    "shapes": lambda: ShapeNormalsEnv(data=(made_photos(SIZE),) * 2, network=Network(size=SIZE), **OPTIONS),
    "lit shapes": lambda: ShapeNormalsLitEnv(data=(made_photos(SIZE),) * 2, network=Network(size=SIZE), **OPTIONS),
    "population": lambda: ShapePopulationEnv(data=(made_photos(SIZE),) * 2, network=Network(size=SIZE), **OPTIONS),
    "faces": lambda: FaceDepthEnv(
        data=(_heads(), _heads()),
        generator=FaceGenerator(small_model(), size=SIZE),
        network=Network(size=SIZE),
        **OPTIONS,
    ),
}


@cache
def _environment(name: str) -> DataGenEnv:
    return ENVIRONMENTS[name]()


@cache
def _generators() -> dict[str, Any]:
    """Every generator with every renderer that works here."""
    triangles = torch.from_numpy(np.ascontiguousarray(small_model().triangles))
    found: dict[str, Any] = {
        "shapes, analytic": ShapeGenerator(AnalyticRenderer(SIZE), lit=True),
        "shapes, analytic, torch form": ShapeGenerator(TorchAnalytic(SIZE), lit=True),
        "shapes of a population": PopulationGenerator(AnalyticRenderer(SIZE), lit=True),
        "shapes in a studio": StudioGenerator(AnalyticRenderer(SIZE)),
        "faces, z-buffer": FaceGenerator(small_model(), size=SIZE),
        "faces, lit": LitFaceGenerator(small_model(), size=SIZE),
        "faces, z-buffer, torch form": FaceGenerator(small_model(), renderer=TorchZBuffer(triangles, SIZE)),
    }
    try:
        from hgenv.rendering.csg import MeshRenderer
        from hgenv.rendering.surfaces.embree import EmbreeSurfaces

        found["shapes, mesh"] = ShapeGenerator(MeshRenderer(SIZE, segments=16), lit=True)
        found["faces, embree"] = FaceGenerator(small_model(), renderer=EmbreeSurfaces(triangles, SIZE))
    except ModuleNotFoundError:
        pass
    try:
        from hgenv.rendering.csg import PyrenderRenderer

        found["shapes, pyrender"] = ShapeGenerator(PyrenderRenderer(SIZE, segments=16), lit=True)
    except RenderError:
        pass
    return found


def _flaw(name: str, samples: DenseSamples) -> str | None:
    image, target, mask = samples.tensors
    if (found := samples.not_finite()) is not None:
        return found
    if not ((mask == 0) | (mask == 1)).all():
        return "masks that are no masks"
    if image.min() < 0 or image.max() > 1 + 1e-6:
        return f"images from {float(image.min())} to {float(image.max())}"
    if (target * (1 - mask)).abs().max() > 0:
        return "targets outside the mask"
    if name.startswith("shapes"):
        lengths = target.norm(dim=1, keepdim=True)[mask > 0]
        if len(lengths) and (lengths - 1).abs().max() > 1e-3:
            return "normals without unit length"
    return None


def _unlike(first: DenseSamples, second: DenseSamples) -> float:
    """Share of the pixels in which two records differ."""
    gap = torch.cat([(a - b).abs() for a, b in zip(first.tensors, second.tensors, strict=True)], 1).amax(1)
    return float((gap > 0.02).double().mean())
