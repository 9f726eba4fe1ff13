"""Skin under one directional light: image = albedo * (irradiance) ** (1 / 2.2), colours being sRGB.

What stands in for Blender's subsurface scattering is wrapped diffuse light, one width for each colour (Green,
"Real-time approximations to subsurface scattering", GPU Gems, chapter 16): light reaches round the terminator, red
furthest,

    direct_c = max(0, (n . l + w_c) / (1 + w_c)),
    irradiance_c = intensity_c * (ambient + (1 - ambient) * direct_c * lit),

and `lit`, which surface renderers find, falls with the thickness that light has to pass. The image is a formula of
colours, so that it is differentiable in them, and in the light's intensity.
"""

from __future__ import annotations

import torch
from torch import Tensor

WRAP = (0.35, 0.18, 0.12)  # red, green, blue
AMBIENT = 0.08
GAMMA = 2.2


def shade_skin(
    colour: Tensor,
    normal: Tensor,
    light: Tensor,
    lit: Tensor,
    mask: Tensor,
    *,
    ambient: Tensor | float = AMBIENT,
    intensity: Tensor | float = 1,
) -> Tensor:
    """The image of skin.

    Args:
        colour: (B, 3, P) albedo in sRGB.
        normal: (B, 3, P) unit normals.
        light: (B, 3) unit vectors toward the light.
        lit: (B, P) share of the light that arrives.
        mask: (B, P) 1 where there is skin.
        ambient: Share of the light that comes from everywhere, (B, 1, 1).
        intensity: Factor on the irradiance, (B, 3, 1).

    Returns:
        (B, 3, P) sRGB, 0..1, zero outside the mask.
    """
    cosine = (normal[:, 0] * light[:, :1] + normal[:, 1] * light[:, 1:2] + normal[:, 2] * light[:, 2:])[:, None]
    wrap = torch.tensor(WRAP, dtype=normal.dtype, device=normal.device)[:, None]
    direct = ((cosine + wrap) / (1 + wrap)).clamp(min=0) * lit[:, None]
    irradiance = intensity * (ambient + (1 - ambient) * direct)
    return (colour * irradiance ** (1 / GAMMA)).clamp(0, 1) * mask[:, None]
