"""Light from all around: an environment map, and what matt matter receives from it.

A map has `ROWS` x `COLUMNS` directions, row by row from straight above to straight below, each row from the back round
the left, the front (toward the camera, in the middle) and the right to the back. A direction t has an intensity
I_t and a solid angle O_t. Matter with normal n receives

    E(n) = sum_t O_t / pi * I_t * max(0, n . w_t).

max(0, x) hardly passes anything beyond spherical harmonics of order 4 (Ramamoorthi and Hanrahan, "An efficient
representation for irradiance environment maps", SIGGRAPH 2001), so that

    max(0, x) ~ 1/4 + x/2 + 5/16 P_2(x) - 3/32 P_4(x) = (15 + 128 x + 210 x**2 - 105 x**4) / 256

stands in its place, and E is a polynomial of the normal with 24 coefficients. Of a single bright direction that is 6 %
off; of maps as random numbers make them, less than 2 % of the brightest irradiance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ...device import own_modes
from . import forward_alone

ROWS = 16
COLUMNS = 2 * ROWS
AMBIENT = 0.2  # share of the initial map's irradiance that comes from everywhere; the rest is from the front
FRONT = 8.0  # concentration of the light from the front: 20 degrees
BUMP = 8.0  # concentration of what one number of a map brightens: 20 degrees
SHADOW = 4.0  # concentration of the light that one shadow is of: 29 degrees
_PAIRS = [(i, j) for i in range(6) for j in range(i, 6)]


@dataclass(frozen=True)
class Basis:
    """What all maps have in common, float32.

    Attributes:
        direction: (T, 3) unit vectors in view coordinates, T = ROWS * COLUMNS.
        initial: (T,) logarithm of the intensities of a map that looks like one lamp at the camera and some light from
            everywhere.
        bumps: (N, T) what each number of a map adds to the logarithm of each intensity: a bump around its direction.
            The squares that add up in a direction sum to one, so that a map varies as much as independent numbers do.
        toward: (T, 3) what a unit of intensity adds to the vector irradiance, O_t / pi * w_t.
        moments: (T, 28) what it adds to the coefficients of E, see `irradiance`, and to what the camera meters: to
            the irradiance of a ball, and to the vector irradiance, of light before the object alone.
    """

    direction: Tensor
    initial: Tensor
    bumps: Tensor
    toward: Tensor
    moments: Tensor


@cache
@own_modes()  # it is kept, whatever surrounds the first call
def basis(device: torch.device, rows: int = ROWS) -> Basis:
    """The basis of maps of N = 2 * rows**2 numbers, on a device; where numbers are few their bumps are wide."""
    direction, weight = _cells(ROWS)
    front = torch.exp(FRONT * (direction[:, 2] - 1))
    front = (1 - AMBIENT) * front / (weight * front * direction[:, 2]).sum()
    # White noise on the sphere: its variance in a cell is proportional to the solid angle.
    middle, own = _cells(rows)
    wide = min(BUMP, (rows / (0.6 * math.pi)) ** 2)  # 0.6 of the distance between rows
    bumps = own.sqrt()[:, None] * torch.exp(wide * (middle @ direction.T - 1))
    bumps = bumps / bumps.square().sum(0).sqrt()
    toward = weight[:, None] * direction
    coefficients = weight[:, None] * torch.cat([128 * direction, _quartic(direction)], 1) / 256
    meter = torch.cat([weight[:, None] / 4, toward], 1) * (direction[:, 2:] > 0)
    made = (direction, torch.log(AMBIENT + front), bumps, toward, torch.cat([coefficients, meter], 1))
    return Basis(*(x.to(device, torch.float32).contiguous() for x in made))


def _cells(rows: int) -> tuple[Tensor, Tensor]:
    """Middles of the cells of a map of rows x 2 rows, (T, 3), and their solid angles by pi, (T,)."""
    columns = 2 * rows
    edge = torch.linspace(0, math.pi, rows + 1, dtype=torch.float64)
    polar = ((edge[1:] + edge[:-1]) / 2).repeat_interleave(columns)
    around = ((torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 * math.pi - math.pi).repeat(rows)
    direction = torch.stack([polar.sin() * around.sin(), polar.cos(), polar.sin() * around.cos()], 1)
    return direction, ((edge[:-1].cos() - edge[1:].cos()) * 2 / columns).repeat_interleave(columns)


def _quartic(direction: Tensor) -> Tensor:
    """15 (n . n)**2 + 210 (n . n) (n . w)**2 - 105 (n . w)**4 of directions w (T, 3), by products of n, (T, 21)."""
    # (n . w)**2 = squared . products(n), and n . n = one . products(n).
    squared = torch.stack(_products(*direction.unbind(1)), 1) * direction.new_tensor([1, 1, 1, 2, 2, 2])
    one = direction.new_tensor([1, 1, 1, 0, 0, 0]).expand_as(squared)
    form = 15 * _outer(one, one) + 105 * (_outer(one, squared) + _outer(squared, one)) - 105 * _outer(squared, squared)
    return torch.stack([form[:, i, j] * (1 if i == j else 2) for i, j in _PAIRS], 1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, :, None] * b[:, None, :]


def _products(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    return [x * x, y * y, z * z, x * y, y * z, z * x]


def metered(moments: Tensor) -> tuple[Tensor, Tensor]:
    """How the camera meters maps: what the brightest plane receives of the light before the object.

    It is that exactly of light from one direction.

    Args:
        moments: (B, 28) intensity @ `Basis.moments`.

    Returns:
        (B, 24) coefficients of E as a share of that, and that, (B, 1).
    """
    coefficients, ball, x, y, z = moments.split([24, 1, 1, 1, 1], 1)
    brightest = ball + 0.75 * (x * x + y * y + z * z).sqrt()
    return coefficients / brightest, brightest


def irradiance(coefficients: Tensor, normal: Tensor) -> Tensor:
    """E of maps, by their coefficients (B, 24), the first of `Basis.moments`; of normals (B, 3, P), (B, P)."""
    products = _products(*normal.unbind(1))
    terms = [*normal.unbind(1), *(products[i] * products[j] for i, j in _PAIRS)]
    found = torch.zeros_like(terms[0])
    for i, term in enumerate(terms):
        found = torch.addcmul(found, coefficients[:, i, None], term)
    return found


def received(
    coefficients: Tensor, axes: Tensor, normal: Tensor, direction: Tensor, share: Tensor, direct: Tensor
) -> Tensor:
    """What surfaces receive of turned maps where the light around one direction may be gone, (B, P).

    Args:
        coefficients: See `irradiance`.
        axes: (B, 3, 3) what each map's x, y and z turn to, row by row.
        normal: (B, 3, P).
        direction: (B, 3) from where light may be gone.
        share: (B,) how much a plane toward there receives from around there, see `around`.
        direct: (B, P) what would be received from that direction alone, of 1.
    """
    if forward_alone(coefficients, axes, normal, direction, share, direct):
        from . import compiled  # late: loading or compiling the kernels takes a moment

        return compiled.received(coefficients, axes, normal, direction, share, direct)
    turned = torch.stack([dot(axis, normal) for axis in axes.unbind(1)], 1)
    missing = (dot(direction, normal).clamp(min=0) - direct).clamp(min=0)
    return irradiance(coefficients, turned) - share[:, None] * missing


def dot(a: Tensor, v: Tensor) -> Tensor:
    """(B, 3) and (B, 3, P) to (B, P)."""
    return a[:, :1] * v[:, 0] + a[:, 1:2] * v[:, 1] + a[:, 2:] * v[:, 2]


def around(direction: Tensor) -> Tensor:
    """The light around directions (B, 3), as shares (B, T) of maps: exp(SHADOW * (cos - 1)).

    It is gone where a shadow of that direction falls, as if all of it came from the direction itself.
    """
    own = basis(direction.device)
    cosine = sum(direction[:, i, None] * own.direction[:, i] for i in range(3))
    return torch.exp(SHADOW * (torch.as_tensor(cosine) - 1))
