"""The generator of the paper's first experiment: CSG shapes from the grammar, lit, with their normals (section 5.1).

What does not depend on where the shapes come from, `CSGGenerator`, serves others, too.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import torch
from torch import Tensor

from ..decision import Block, DecisionSpace, block
from ..problem import RenderError
from ..rendering.csg.analytic import AnalyticRenderer
from ..rendering.csg.scene import Frame, Renderer, Scene
from ..samples import DenseSamples
from . import grammar
from .host import few_on_the_cpu
from .random import normals, uniforms
from .scores import normal

if TYPE_CHECKING:
    import trimesh

T = TypeVar("T", Scene, Frame)

# A frame in which fewer pixels than this share show the object teaches nothing: see `ShapeGenerator`.
SMALLEST_SHARE = 0.005

LOG_SPREAD = 0.1  # of the factor and of the exponent on the image
WAVES = 4  # plane waves in a solid texture
LIGHT_NUMBERS = 7 + 4 * WAVES  # random numbers that a sample owns for its light, before those of its shape


def render_blocks() -> list[Block]:
    """beta_R of equation 4: how the shapes are lit and photographed, 8 components."""
    return [
        block("light", 2, -1, 1, 0, "1", "mean x and y of the light's direction (x, y, 1/2), before normalizing"),
        block("light_spread", 1, 0, 1, 0.3, "1", "standard deviation of that x and y"),
        block("ambient", 1, 0, 1, 0.2, "1", "share of the light that comes from everywhere"),
        block("texture", 1, 0, 1, 0.2, "1", "largest contrast of the albedo; a sample's own is uniform below it"),
        block("texture_scale", 1, -1, 1, 0, "octave", "median frequency of the texture, from 3 waves a frame on"),
        block("exposure", 1, -1, 1, 0, "stop", "median factor on the image, 2**exposure; log-spread 0.1"),
        block("contrast", 1, -1, 1, 0, "octave", "median exponent on the image, 2**contrast; log-spread 0.1"),
    ]


class Look(Protocol):
    """How objects are lit and photographed.

    Attributes:
        blocks: Those of beta.
        pathwise: Names of those that autograd goes through.
    """

    blocks: Sequence[Block]
    pathwise: tuple[str, ...]

    def fields(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """What a `Scene` has besides geometry, from blocks of betas and numbers (B, `LIGHT_NUMBERS`) in (0, 1)."""
        ...

    def scores(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """d log p / d beta of what the look draws, by block; a block that is not there has none."""
        ...


class OneLight:
    """A light from one direction, a solid texture, and a plain camera; see `Look`.

    Args:
        lit: Whether beta holds the render block. Otherwise light, texture and exposure follow its initial values.
        light: Initial values of the render block, by name, in place of its own: one number, or one a component.

    Raises:
        ValueError: A name or a value in `light` that is out of range.
    """

    def __init__(self, lit: bool, light: Mapping[str, float | Sequence[float]] | None) -> None:
        every = _with_initial(render_blocks(), light or {})
        self.lit = lit
        self.blocks: Sequence[Block] = every if lit else ()
        self.pathwise = tuple(b.name for b in self.blocks)  # given normals and shadows, shading is a formula
        self._space = DecisionSpace(every)

    def fields(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """See `Look`."""
        return _light(blocks if self.lit else self._space.split(self._space.initial.to(u.device)[None]), u)

    def scores(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """See `Look`."""
        return _light_score(blocks, u) if self.lit else {}


class CSGGenerator(ABC):
    """What all generators of CSG objects have in common: their frames, their meshes. Objects and look are composed.

    A sample that shows less than `SMALLEST_SHARE` of its frame (about 0.3 % of the grammar's: differences that leave
    nothing, or needles) is rendered again with all its differences made unions; what still shows less cannot be
    rendered.

    Attributes:
        space: The blocks of the objects, then those of the look.
        pathwise: The look's blocks that autograd goes through.
        renderer: Any `Renderer`.
        look: How the objects are lit and photographed.

    Args:
        blocks: Those of the objects.
        numbers: Random numbers that a sample needs for its object.
        renderer: The attribute; by default an `AnalyticRenderer` of 64 pixels.
        look: The attribute.
    """

    def __init__(self, blocks: Sequence[Block], numbers: int, renderer: Renderer | None, look: Look) -> None:
        self.renderer = renderer if renderer is not None else AnalyticRenderer()
        self.look = look
        self.pathwise = look.pathwise
        self.numbers = LIGHT_NUMBERS + numbers
        self.space = DecisionSpace([*blocks, *look.blocks])

    @abstractmethod
    def _shapes(self, blocks: dict[str, Tensor], uniform: Tensor) -> grammar.Shape:
        """B objects fitted into the view, from the blocks of beta (B, .) and (B, numbers) in (0, 1)."""

    @few_on_the_cpu
    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        """Samples for (B, d) betas and (B,) int64 seeds, on the seeds' device.

        Raises:
            RenderError: An object cannot be rendered; the message names its seed.
        """
        frame = self.frame(betas, seeds)
        return DenseSamples(frame.image, frame.normal, frame.mask)

    def frame(self, betas: Tensor, seeds: Tensor) -> Frame:
        """Like `__call__`, with the depth."""
        return self._render(betas, seeds)[1]

    def scene(self, betas: Tensor, seeds: Tensor) -> Scene:
        """The scenes that `frame` shows, for meshes of them."""
        return self._render(betas, seeds)[0]

    def resized(self, size: int) -> Self:
        """The same generator with images of another size in pixels, of the same objects."""
        other = copy.copy(self)
        other.renderer = self.renderer.resized(size)
        return other

    def mesh(self, beta: Tensor, seed: int, *, segments: int = 128) -> trimesh.Trimesh:
        """The object of one sample as a watertight mesh, which writes itself to a file: `mesh.export("shape.glb")`.

        Args:
            beta: (d,).
            seed: The sample's.
            segments: Edges around a circle of a tessellated sphere or cone.

        Returns:
            The mesh in view coordinates.

        Raises:
            RenderError: The object cannot be rendered, or the libraries for meshes are not installed.
        """
        try:
            from ..rendering.csg.mesh import object_mesh  # late: its libraries take a moment
        except ModuleNotFoundError as error:
            raise RenderError(f"meshes need the module {error.name}: pip install 'hgenv[mesh]'") from None
        return object_mesh(self.scene(beta[None], torch.tensor([seed])), 0, segments)

    def _render(self, betas: Tensor, seeds: Tensor) -> tuple[Scene, Frame]:
        scene, shape = self._sample(betas, seeds)
        frame = self.renderer(scene)
        small = self._small(frame)
        if len(small):
            again = replace(scene[small], **_geometry(grammar.union_of_parts(shape[small])))
            second = self.renderer(again)
            still = self._small(second)
            if len(still):
                raise RenderError(
                    f"sample seed {int(seeds[small[still[0]]])}: the object covers less than {SMALLEST_SHARE:.1%} of "
                    "its frame even as a union of its parts; keep the scale and length blocks further from their bounds"
                )
            scene, frame = _with_rows(scene, small, again), _with_rows(frame, small, second)
        return scene, frame

    def _small(self, frame: Frame) -> Tensor:
        return (frame.mask.mean((1, 2, 3)) < SMALLEST_SHARE).nonzero()[:, 0]

    def _sample(self, betas: Tensor, seeds: Tensor) -> tuple[Scene, grammar.Shape]:
        self.space.check_rows(betas, seeds)
        blocks, numbers = self._drawn_from(betas, seeds)
        with torch.no_grad():  # autograd sees the render block alone: what moves silhouettes has no derivative here
            shape = self._shapes(blocks, numbers[:, LIGHT_NUMBERS:])
        return Scene(**_geometry(shape), **self.look.fields(blocks, numbers[:, :LIGHT_NUMBERS])), shape

    def _drawn_from(self, betas: Tensor, seeds: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The blocks of beta, and each sample's random numbers: those of its light, then those of its shape."""
        blocks = self.space.split(betas.to(seeds.device, torch.float64))
        return blocks, uniforms(seeds, self.numbers)


class GrammarGenerator(CSGGenerator):
    """Generators whose objects follow the paper's grammar.

    Attributes:
        depth: Levels of the grammar's tree; 2**depth primitives at most.

    Args:
        renderer: See `CSGGenerator`.
        depth: The attribute.
        look: See `CSGGenerator`.

    Raises:
        ValueError: A depth that is out of range.
    """

    def __init__(self, renderer: Renderer | None, depth: int, look: Look) -> None:
        if not 0 <= depth <= 5:
            raise ValueError(f"depth must be between 0 and 5 (at most 32 primitives), not {depth}")
        super().__init__(grammar.shape_blocks(), grammar.numbers_needed(depth), renderer, look)
        self.depth = depth

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        """See `hgenv.Generator`: NaN where a component is no draw's parameter, or moves where draws can be at all."""
        self.space.check_rows(betas, seeds)
        blocks, numbers = self._drawn_from(betas.detach(), seeds)
        score = {name: torch.full_like(values, torch.nan) for name, values in blocks.items()}
        score |= grammar.log_prob_score(blocks, numbers[:, LIGHT_NUMBERS:], self.depth)
        score |= self.look.scores(blocks, numbers[:, :LIGHT_NUMBERS])
        return torch.cat([score[b.name] for b in self.space.blocks], 1)

    def _shapes(self, blocks: dict[str, Tensor], uniform: Tensor) -> grammar.Shape:
        return grammar.shapes(blocks, uniform, self.depth)


class ShapeGenerator(GrammarGenerator):
    """f(beta, r): an image of a random CSG object in one light, its normals and its mask.

    Attributes:
        space: 29 components, or 37 with the render block.
        look: `OneLight`.

    Args:
        renderer: See `CSGGenerator`.
        depth: See `GrammarGenerator`.
        lit: See `OneLight`.
        light: See `OneLight`.

    Raises:
        ValueError: A depth, a name or a value in `light` that is out of range.
    """

    def __init__(
        self,
        renderer: Renderer | None = None,
        *,
        depth: int = 3,
        lit: bool = False,
        light: Mapping[str, float | Sequence[float]] | None = None,
    ) -> None:
        super().__init__(renderer, depth, OneLight(lit, light))


def _with_initial(blocks: list[Block], values: Mapping[str, float | Sequence[float]]) -> list[Block]:
    """The blocks with some of their initial values replaced."""
    unknown = set(values) - {b.name for b in blocks}
    if unknown:
        raise ValueError(
            f"light has no {', '.join(sorted(map(str, unknown)))}; it knows {', '.join(b.name for b in blocks)}"
        )
    changed = []
    for b in blocks:
        value = values.get(b.name, b.initial)
        numbers = [value] * b.size if isinstance(value, int | float) else list(value)
        if len(numbers) != b.size:
            raise ValueError(f"light's {b.name} takes {b.size} numbers, not {len(numbers)}: {numbers}")
        changed.append(replace(b, initial=tuple(float(v) for v in numbers)))
    return changed


def _geometry(shape: grammar.Shape) -> dict[str, Tensor]:
    """The geometric fields of a `Scene`, in single precision."""
    single = {name: getattr(shape, name).float() for name in ("size", "linear", "offset")}
    geometry = {"kind": shape.kind, "operator": shape.operator} | single
    return {name: values.contiguous() for name, values in geometry.items()}


def _light(look: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
    """The other fields of a `Scene`, from the render block (B or 1, .) and fixed uniform numbers (B, .)."""
    z = normals(u[:, :4])
    x, y = (look["light"] + look["light_spread"] * z[:, :2]).unbind(-1)
    length = (x * x + y * y + 0.25).sqrt()
    up = 2 * u[:, 7 : 7 + WAVES] - 1
    around = 2 * math.pi * u[:, 7 + WAVES : 7 + 2 * WAVES]
    flat = (1 - up**2).sqrt()
    # Frequencies an octave around the median; a frame is two view units wide.
    frequency = 3 * 2 ** (look["texture_scale"] + 2 * u[:, 7 + 2 * WAVES : 7 + 3 * WAVES] - 1)
    direction = torch.stack([flat * around.cos(), flat * around.sin(), up], -1)
    one = torch.ones_like(length)
    fields = {
        "light": torch.stack([x / length, y / length, 0.5 / length], -1),
        "ambient": look["ambient"][:, 0] * one,
        "wave": math.pi * frequency[..., None] * direction,
        "phase": 2 * math.pi * u[:, 7 + 3 * WAVES :],
        "texture": look["texture"][:, 0] * u[:, 4],
        "exposure": 2 ** look["exposure"][:, 0] * torch.exp(LOG_SPREAD * z[:, 2]),
        "contrast": 2 ** look["contrast"][:, 0] * torch.exp(LOG_SPREAD * z[:, 3]),
    }
    return {name: value.float() for name, value in fields.items()}


def _light_score(look: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
    """d log p / d beta of what `_light` draws, by block."""
    z = normals(u[:, :4])
    mean, spread = normal(z[:, :2], look["light_spread"])
    log_median, _ = normal(z[:, 2:], torch.full_like(z[:, 2:], LOG_SPREAD / math.log(2)))
    # The others are given, or bounds of what is uniform between them.
    none = torch.full_like(look["ambient"], torch.nan)
    return {
        "light": mean,
        "light_spread": spread.sum(1, keepdim=True),
        "ambient": none,
        "texture": none,
        "texture_scale": none,
        "exposure": log_median[:, :1],
        "contrast": log_median[:, 1:],
    }


def _with_rows(whole: T, rows: Tensor, part: T) -> T:
    """`whole` with some of its rows replaced, tensor by tensor."""
    return replace(
        whole, **{f.name: getattr(whole, f.name).index_copy(0, rows, getattr(part, f.name)) for f in fields(whole)}
    )
