"""The generator of the paper's first experiment: CSG shapes from the grammar, lit, with their normals (section 5.1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Self, TypeVar

import torch
from torch import Tensor

from ..decision import Block, DecisionSpace, block
from ..problem import RenderError
from ..rendering.csg.analytic import AnalyticRenderer
from ..rendering.csg.scene import Frame, Renderer, Scene
from ..samples import DenseSamples
from . import grammar
from .random import directions, normals, uniforms
from .scores import normal

if TYPE_CHECKING:
    import trimesh

T = TypeVar("T", Scene, Frame)

# A frame in which fewer pixels than this share show the object teaches nothing: see `Solids`.
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


class Solids:
    """What all generators of the grammar's shapes have in common; how the shapes look is a subclass's matter.

    A sample that shows less than `SMALLEST_SHARE` of its frame (about 0.3 % of them: differences that leave nothing, or
    needles) is rendered again with all its differences made unions; what still shows less cannot be rendered.

    Attributes:
        space: The 29 components of the grammar, then those of the look.
        pathwise: The blocks that autograd goes through.
        renderer: Any `Renderer`.
        depth: Levels of the grammar's tree; 2**depth primitives at most.

    Args:
        renderer: The attribute; by default an `AnalyticRenderer` of 64 pixels.
        depth: The attribute.
        blocks: The blocks of beta after the grammar's.
        pathwise: The attribute.

    Raises:
        ValueError: A depth that is out of range.
    """

    def __init__(
        self, renderer: Renderer | None, depth: int, blocks: Sequence[Block], pathwise: tuple[str, ...]
    ) -> None:
        if not 0 <= depth <= 5:
            raise ValueError(f"depth must be between 0 and 5 (at most 32 primitives), not {depth}")
        self.renderer = renderer if renderer is not None else AnalyticRenderer()
        self.depth = depth
        self.pathwise = pathwise
        self.space = DecisionSpace([*grammar.shape_blocks(), *blocks])

    def look(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """The fields of a `Look`, from the blocks of beta and a sample's numbers (B, `LIGHT_NUMBERS`) in (0, 1)."""
        raise NotImplementedError

    def look_score(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """d log p / d beta of what the look draws, by block; a block that is not there has none."""
        return {}

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

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        """See `hgenv.Generator`: NaN where a component is no draw's parameter, or moves where draws can be at all."""
        self.space.check_rows(betas, seeds)
        blocks, numbers = self._drawn_from(betas.detach(), seeds)
        score = {name: torch.full_like(values, torch.nan) for name, values in blocks.items()}
        score |= grammar.log_prob_score(blocks, numbers[:, LIGHT_NUMBERS:], self.depth)
        score |= self.look_score(blocks, numbers[:, :LIGHT_NUMBERS])
        return torch.cat([score[b.name] for b in self.space.blocks], 1)

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
            shape = grammar.shapes(blocks, numbers[:, LIGHT_NUMBERS:], self.depth)
        return Scene(**_geometry(shape), **self.look(blocks, numbers[:, :LIGHT_NUMBERS])), shape

    def _drawn_from(self, betas: Tensor, seeds: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The blocks of beta, and each sample's random numbers: those of its light, then those of its shape."""
        blocks = self.space.split(betas.to(seeds.device, torch.float64))
        return blocks, uniforms(seeds, LIGHT_NUMBERS + grammar.numbers_needed(self.depth))


class ShapeGenerator(Solids):
    """f(beta, r): an image of a random CSG object in one light, its normals and its mask; see `Solids`.

    Attributes:
        space: 29 components, or 37 with the render block.
        pathwise: The render block's names where beta holds it: given normals and shadows, shading is a formula.
        lit: Whether beta holds the render block. Otherwise light, texture and exposure follow that block's initial
            values.

    Args:
        renderer: See `Solids`.
        depth: See `Solids`.
        lit: The attribute.
        light: Initial values of the render block, by name, in place of its own: one number, or one a component.

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
        blocks = _with_initial(render_blocks(), light or {})
        super().__init__(renderer, depth, blocks if lit else (), tuple(b.name for b in blocks) if lit else ())
        self.lit = lit
        self._light = DecisionSpace(blocks)

    def look(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """See `Solids`."""
        return _light(blocks if self.lit else self._light.split(self._light.initial.to(u.device)[None]), u)

    def look_score(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """See `Solids`."""
        return _light_score(blocks, u) if self.lit else {}


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
    direction = directions(2 * u[:, 7 : 7 + WAVES] - 1, u[:, 7 + WAVES : 7 + 2 * WAVES])
    # Frequencies an octave around the median; a frame is two view units wide.
    frequency = 3 * 2 ** (look["texture_scale"] + 2 * u[:, 7 + 2 * WAVES : 7 + 3 * WAVES] - 1)
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
