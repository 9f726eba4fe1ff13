"""Textured matter in one light: image = (exposure * albedo * (ambient + (1 - ambient) * direct)) ** contrast.

The one light model of every renderer of solids.

It is a formula of normals, points and the scene's light, so that the image is differentiable in the light block of beta
wherever the silhouette and the shadow edges stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import forward_alone


@dataclass(frozen=True)
class Look:
    """How B objects are lit, textured and photographed.

    Attributes:
        light: (B, 3) unit vectors toward the light.
        ambient: (B,) share of the light that comes from everywhere, 0..1.
        wave: (B, W, 3) wave vectors of the solid texture, radians per view unit.
        phase: (B, W) their phases, radians.
        texture: (B,) contrast of the albedo; 0 is plain white.
        exposure: (B,) factor on the image.
        contrast: (B,) exponent on the image.
    """

    light: Tensor
    ambient: Tensor
    wave: Tensor
    phase: Tensor
    texture: Tensor
    exposure: Tensor
    contrast: Tensor


def shade(look: Look, normal: Tensor, point: Tensor, lit: Tensor, mask: Tensor) -> Tensor:
    """The image of surfaces that have been found.

    Args:
        look: Light, texture and exposure of B objects.
        normal: (B, 3, P) unit normals in view coordinates.
        point: (B, 3, P) surface points in view coordinates.
        lit: (B, P) 1 where the light reaches the point, 0 in cast shadow.
        mask: (B, P) 1 where there is a surface.

    Returns:
        (B, P) linear intensity, 0..1, zero outside the mask.
    """
    cosine = sum(look.light[:, i, None] * normal[:, i] for i in range(3))
    ambient = look.ambient[:, None]
    irradiance = ambient + (1 - ambient) * torch.as_tensor(cosine).clamp(min=0) * lit
    albedo = solid_texture(look.wave, look.phase, look.texture, point.unbind(1))
    radiance = (look.exposure[:, None] * albedo * irradiance).clamp(1e-4, 1)
    return radiance ** look.contrast[:, None] * mask


def solid_texture(
    wave: Tensor, phase: Tensor, contrast: Tensor, point: Sequence[Tensor], amplitude: Tensor | None = None
) -> Tensor:
    """Albedo in [exp(-2 contrast), 1]: a sum of plane waves, squashed.

    Args:
        wave: (B, W, 3) wave vectors, radians per view unit.
        phase: (B, W) radians.
        contrast: (B,).
        point: x, y and z in view coordinates, each (B, P); x and y may be (P,).
        amplitude: (B, W) of the waves; by default 1.

    Returns:
        (B, P).
    """
    if amplitude is not None and forward_alone(wave, phase, contrast, *point, amplitude):
        from . import compiled  # late: loading or compiling the kernels takes a moment

        return compiled.solid_texture(wave, phase, contrast, point, amplitude)
    waves = torch.zeros_like(point[2])
    for w in range(wave.shape[1]):
        angle = phase[:, w, None] + sum(wave[:, w, i, None] * point[i] for i in range(3))
        crest = torch.cos(torch.as_tensor(angle))
        waves = waves + (crest if amplitude is None else amplitude[:, w, None] * crest)
    return torch.exp(contrast[:, None] * (torch.tanh(waves) - 1))
