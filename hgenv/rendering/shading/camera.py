"""What a camera makes of radiance: exposure, vignetting, a tone curve, blur and noise; smooth in all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..framing import pixel_centres
from . import forward_alone

KNOTS = 8  # of the tone curve
SCALES = 2  # of blur: between next pixels, and between those two apart
VIGNETTING = 2  # terms: r**2 and r**4
NOISE_RANGE = 3**0.5  # uniform noise of standard deviation 1 stays within


@dataclass(frozen=True)
class Camera:
    """Settings of B photographs.

    Attributes:
        exposure: (B,) factor on radiance.
        vignetting: (B, VIGNETTING) radiance r halves of the frame's edge from the middle is exp(-(v_1 r^2 + v_2 r^4))
            of what it is in the middle.
        contrast: (B,) exponent on what has been exposed.
        tone: (B, KNOTS) logarithms of the tone curve's slope from dark to bright, up to a factor: it rises from 0 to 1
            whatever they are. Between them the slope is a straight line.
        blur: (B, SCALES) share of each pixel that comes from its neighbours; negative: sharpened.
        noise: (B,) standard deviation of the noise.
    """

    exposure: Tensor
    vignetting: Tensor
    contrast: Tensor
    tone: Tensor
    blur: Tensor
    noise: Tensor

    def photograph(self, radiance: Tensor, grain: Tensor | None, mask: Tensor) -> Tensor:
        """Images of objects.

        Args:
            radiance: (B, S, S).
            grain: (B, S, S) uniform random numbers in (0, 1), for the noise; None if there is none.
            mask: (B, S, S) 1 where the object is; what is around does not mix with it.

        Returns:
            (B, S, S), 0..1, zero outside the mask.
        """
        size = mask.shape[-1]
        x, y = pixel_centres(size, mask.device)
        r2 = (x * x + y * y).reshape(size, size)
        settings = (self.exposure, self.vignetting, self.contrast, self.tone)
        image = blurred(expose(radiance, r2, *settings), mask, self.blur)
        if grain is not None:
            image = image + _each(self.noise) * (NOISE_RANGE * (2 * grain - 1))
        return image.clamp(0, 1) * mask


def expose(
    radiance: Tensor, r2: Tensor, exposure: Tensor, vignetting: Tensor, contrast: Tensor, tone: Tensor
) -> Tensor:
    """Radiance (B, S, S) to an image: exposure, vignetting, contrast and the tone curve.

    Args:
        radiance: (B, S, S).
        r2: (S, S) squared distances to the middle, in halves of the frame's edge.
        exposure: See `Camera`.
        vignetting: See `Camera`.
        contrast: See `Camera`.
        tone: See `Camera`.
    """
    if forward_alone(radiance, exposure, vignetting, contrast, tone):
        from . import compiled  # late: loading or compiling the kernels takes a moment

        return compiled.expose(radiance, r2, exposure, vignetting, contrast, tone)
    v = vignetting[..., None, None]
    seen = _each(exposure) * radiance * torch.exp(-(v[:, 0] * r2 + v[:, 1] * r2 * r2))
    x = (KNOTS - 1) * seen.clamp(1e-4, 1) ** _each(contrast)
    slope = tone_slopes(tone)
    image = _each(slope[:, 1:].sum(1) / 2).expand_as(x)
    for k in range(KNOTS):
        t = (x - k).clamp(-1, 1)
        image = torch.addcmul(image, _each(slope[:, k]), t - t * t.abs() / 2)
    return image


def tone_slopes(tone: Tensor) -> Tensor:
    """Slopes at the tone curve's knots, (B, KNOTS), in units of 1 / (KNOTS - 1)."""
    slope = torch.exp(tone)
    return slope / (slope.sum(1) - (slope[:, 0] + slope[:, -1]) / 2)[:, None]


def blurred(image: Tensor, mask: Tensor, blur: Tensor) -> Tensor:
    """Images (B, S, S) mixed with their neighbourhoods within the mask; see `Camera.blur`."""
    if forward_alone(image, blur):
        from . import compiled  # late, as above

        return compiled.blurred(image, mask, blur)
    for i in range(blur.shape[1]):
        around = _spread(image * mask, 2**i) / _spread(mask, 2**i).clamp(min=1e-6)
        image = image + _each(blur[:, i]) * (around - image)
    return image


def _each(value: Tensor) -> Tensor:
    return value[:, None, None]


def _spread(image: Tensor, step: int) -> Tensor:
    """Images (B, S, S) smoothed by (1, 2, 1) / 4 in both directions, over `step` pixels; zero is around them."""
    padded = torch.nn.functional.pad(image, (step, step, step, step))
    size = image.shape[-1]
    rows = padded[:, :size] + 2 * padded[:, step : step + size] + padded[:, 2 * step :]
    return (rows[..., :size] + 2 * rows[..., step : step + size] + rows[..., 2 * step :]) / 16
