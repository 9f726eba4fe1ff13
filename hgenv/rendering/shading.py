"""One light model for every renderer: image = (exposure * albedo * (ambient + (1 - ambient) * direct)) ** contrast.

It is a formula of normals, points and the scene's light, so that the image is differentiable in the light block of beta
wherever the silhouette and the shadow edges stay where they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .scene import Scene


def shade(scene: Scene, normal: Tensor, point: Tensor, lit: Tensor, mask: Tensor) -> Tensor:
    """The image of surfaces that have been found.

    Args:
        scene: B objects and their light.
        normal: (B, 3, P) unit normals in view coordinates.
        point: (B, 3, P) surface points in view coordinates.
        lit: (B, P) 1 where the light reaches the point, 0 in cast shadow.
        mask: (B, P) 1 where there is a surface.

    Returns:
        (B, P) linear intensity, 0..1, zero outside the mask.
    """
    cosine = sum(scene.light[:, i, None] * normal[:, i] for i in range(3))
    ambient = scene.ambient[:, None]
    irradiance = ambient + (1 - ambient) * torch.as_tensor(cosine).clamp(min=0) * lit
    # Solid texture: a sum of plane waves, squashed, so that albedo lies in [exp(-2 texture), 1].
    waves = torch.zeros_like(mask)
    for w in range(scene.wave.shape[1]):
        angle = scene.phase[:, w, None] + sum(scene.wave[:, w, i, None] * point[:, i] for i in range(3))
        waves = waves + torch.cos(torch.as_tensor(angle))
    albedo = torch.exp(scene.texture[:, None] * (torch.tanh(waves) - 1))
    radiance = (scene.exposure[:, None] * albedo * irradiance).clamp(1e-4, 1)
    return radiance ** scene.contrast[:, None] * mask
