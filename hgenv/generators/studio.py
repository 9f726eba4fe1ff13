"""The grammar's shapes, lit from all around and photographed with a camera of many settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..decision import Block, block
from ..rendering.csg.scene import Frame, Renderer
from ..rendering.framing import pixel_centres
from ..rendering.shading import environment_map
from ..rendering.shading.camera import KNOTS, SCALES, VIGNETTING, Camera
from ..rendering.shading.environment_map import ROWS, dot
from ..rendering.shading.texture import solid_texture
from ..rendering.surfaces.fragments import light_axes
from ..rendering.surfaces.placing import product
from .deform import deform
from .random import directions, normals, uniforms
from .shapes import LIGHT_NUMBERS, GrammarGenerator

BANDS = 5  # of the texture: the first from 0.75 to 1.5 waves a frame, then octave by octave
LOWEST = 0.75
WAVES = 2  # plane waves of each band
WAVE_NUMBERS = 4 * BANDS * WAVES
STEEPER, WEAKER = 2.5, 1.5  # the logarithm of an amplitude is STEEPER * beta - WEAKER
BRIGHTER = 2.0  # spread of the logarithm of light for numbers of the map that spread by 1


def studio_blocks(map_rows: int = ROWS) -> list[Block]:
    """Everything but the shapes: 25 components, and 2 * map_rows**2 of the light's map."""
    around = "from straight above to below, each row from the back round the left, the front and the right"
    log_spread = "standard deviation of the logarithm of that"
    return [
        block(
            "light_map", 2 * map_rows**2, -1, 1, 0, "log",
            f"logarithm of the light's intensity beside the initial one, {BRIGHTER:g} * value in bumps of 20 degrees; "
            f"{map_rows} rows of {2 * map_rows} {around}",
        ),
        block("light_spread", 2, 0, 1, 0.3, "1", "the map's front turns to (x, y, 1/2): standard deviations of both"),
        block("texture", 1, 0, 1, 0.2, "1", "largest contrast of the albedo; a sample's own is uniform below it"),
        block(
            "texture_band", BANDS, -1, 1, (-0.2, 0.6, 0.6, -0.2, -0.6), "log",
            f"the texture's octaves, the first from {LOWEST:g} waves a frame on, have the amplitudes "
            f"exp({STEEPER:g} * value - {WEAKER:g})",
        ),
        block("exposure", 1, -1, 1, 0, "stop", "median factor on the image, 2**exposure"),
        block("exposure_spread", 1, 0, 0.3, 0.1, "log", log_spread),
        block("vignetting", VIGNETTING, -0.5, 0.5, 0, "log", "how fast the image darkens by r**2, r**4 off its middle"),
        block("contrast", 1, -0.5, 0.5, 0, "octave", "median exponent on the image, 2**contrast"),
        block("contrast_spread", 1, 0, 0.3, 0.1, "log", log_spread),
        block("tone", KNOTS, -0.75, 0.75, 0, "log", "logarithms of the tone curve's slope from dark to bright"),
        block("blur", SCALES, -0.75, 0.75, 0, "1", "share of a pixel from its neighbours, and from those two apart"),
        block("noise", 1, 0, 0.05, 0, "1", "standard deviation of the noise"),
    ]  # fmt: skip


class OwnShadow:
    """White matter in light from each sample's own direction: the image is what arrives of it; see `Look`."""

    def __init__(self, map_rows: int) -> None:
        self.blocks: Sequence[Block] = studio_blocks(map_rows)
        self.pathwise = tuple(b.name for b in self.blocks)

    def fields(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """See `Look`."""
        zero, one = torch.zeros_like(u[:, 0], dtype=torch.float32), torch.ones_like(u[:, 0], dtype=torch.float32)
        none = torch.zeros_like(u[:, :3], dtype=torch.float32)
        plain = {"ambient": zero, "texture": zero, "exposure": one, "contrast": one}
        return {"light": _own_direction(u), "wave": none[:, None], "phase": none[:, :1]} | plain

    def scores(self, blocks: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        """None: what beta moves is a formula, or a spread of what it moves."""
        return {}


class StudioGenerator(GrammarGenerator):
    """f(beta, r): an image of a random CSG object in an environment map, its normals and its mask.

    The same seed has the same object as in `ShapeGenerator`. What autograd goes through is exact: silhouettes and
    shadows do not depend on it. For that each sample has a shadow of a direction of its own, uniform over the
    hemisphere before the object, whatever the map is. The map's light around this direction, about 30 degrees wide, is
    missing where the object stands before it. All other light casts no shadow.

    There is no geometric camera (distance, field of view): moving silhouettes have no derivative.

    Args:
        renderer: See `CSGGenerator`.
        depth: See `GrammarGenerator`.
        map_rows: Rows of the light's map, 2 to 16, each with twice as many numbers: 16 make d = 566, 8 make 182, 4
            make 86. The fewer, the wider the bumps that a number makes.

    Raises:
        ValueError: A depth or a number of rows that is out of range.
    """

    def __init__(self, renderer: Renderer | None = None, *, depth: int = 3, map_rows: int = ROWS) -> None:
        if not 2 <= map_rows <= ROWS:
            raise ValueError(f"map_rows must be between 2 and {ROWS}, not {map_rows}")
        super().__init__(renderer, depth, OwnShadow(map_rows))

    def frame(self, betas: Tensor, seeds: Tensor) -> Frame:
        """See `CSGGenerator`."""
        plain = super().frame(betas, seeds)
        size, first = self.renderer.size, self.numbers
        blocks = self.space.split(betas.to(seeds.device, torch.float64))
        noisy = blocks["noise"].requires_grad or bool(blocks["noise"].any())  # the numbers for it are many
        numbers = uniforms(seeds, first + WAVE_NUMBERS + noisy * size**2)
        u = torch.cat([numbers[:, :LIGHT_NUMBERS], numbers[:, first : first + WAVE_NUMBERS]], 1)
        grain = numbers[:, first + WAVE_NUMBERS :].float().contiguous().unflatten(1, (size, size)) if noisy else None
        return replace(plain, image=_photographs(blocks, u, grain, plain))


def _photographs(b: dict[str, Tensor], u: Tensor, grain: Tensor | None, seen: Frame) -> Tensor:
    """Images (B, 1, S, S) of what is seen in light from the samples' own directions.

    Args:
        b: Blocks of beta, (B, .) each.
        u: (B, LIGHT_NUMBERS + WAVE_NUMBERS) in (0, 1).
        grain: (B, S, S) in (0, 1), for the noise; None if there is none.
        seen: White matter in that light.
    """
    z = normals(u[:, :4])
    light = _light(b, z, _own_direction(u), seen.normal.flatten(2), seen.image.flatten(1))
    radiance = light * _albedo(b, u, seen.depth)
    camera = Camera(
        exposure=(2 ** b["exposure"][:, 0] * torch.exp(b["exposure_spread"][:, 0] * z[:, 2])).float(),
        vignetting=b["vignetting"].float(),
        contrast=(2 ** b["contrast"][:, 0] * torch.exp(b["contrast_spread"][:, 0] * z[:, 3])).float(),
        tone=b["tone"].float(),
        blur=b["blur"].float(),
        noise=b["noise"][:, 0].float(),
    )
    return camera.photograph(radiance.unflatten(1, seen.mask.shape[2:]), grain, seen.mask[:, 0])[:, None]


def _own_direction(u: Tensor) -> Tensor:
    """The directions whose shadows samples have, (B, 3), from fixed numbers (B, `LIGHT_NUMBERS`) in (0, 1)."""
    return directions(u[:, 5], u[:, 6]).float()


def _light(b: dict[str, Tensor], z: Tensor, own: Tensor, normal: Tensor, direct: Tensor) -> Tensor:
    """What surfaces receive of their maps, (B, P).

    Args:
        b: Blocks of beta, (B, .) each.
        z: (B, 2 or more) the sample's normal numbers, for how its map is turned.
        own: (B, 3) the direction whose shadow it has.
        normal: (B, 3, P).
        direct: (B, P) what white matter receives from that direction alone.
    """
    basis = environment_map.basis(normal.device, math.isqrt(b["light_map"].shape[1] // 2))
    intensity = torch.exp(deform(basis.initial, basis.bumps, BRIGHTER * b["light_map"]))
    moments = deform(basis.moments.new_zeros(basis.moments.shape[1]), basis.moments, intensity)
    coefficients, brightest = environment_map.metered(moments)
    x, y = (b["light_spread"] * z[:, :2]).unbind(1)
    length = (x * x + y * y + 0.25).sqrt()
    front = torch.stack([x / length, y / length, 0.5 / length], 1).float()
    axes = torch.stack(light_axes(front), 1)
    there = product(axes, own)  # the same direction on the map
    near = deform(basis.toward.new_zeros(3), basis.toward, intensity * environment_map.around(there))
    share = dot(near / brightest, there[..., None]).clamp(min=0)[:, 0]
    return environment_map.received(coefficients, axes, normal, own, share, direct)


def _albedo(b: dict[str, Tensor], u: Tensor, depth: Tensor) -> Tensor:
    """Albedo (B, P) where depths (B, 1, S, S) are seen."""
    rise, turn, octave, phase = u[:, LIGHT_NUMBERS:].split(BANDS * WAVES, 1)
    band = torch.arange(BANDS, device=u.device).repeat_interleave(WAVES)
    frequency = LOWEST * 2 ** (band + octave)
    wave = math.pi * frequency[..., None] * directions(2 * rise - 1, turn)  # a frame is two view units wide
    contrast = b["texture"][:, 0] * u[:, 4]
    amplitude = torch.exp(STEEPER * b["texture_band"] - WEAKER)[:, band]
    point = (*pixel_centres(depth.shape[-1], depth.device), depth.flatten(1))
    return solid_texture(wave.float(), (2 * math.pi * phase).float(), contrast.float(), point, amplitude.float())
