"""Faces as in `faces`, in a light and before a camera that beta configures, too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..decision import Block, block
from ..rendering.shading.skin import AMBIENT, shade_skin
from ..rendering.surfaces import Fragments, project, unproject_normals
from . import scores
from .distributions import cardioid
from .faces import FaceGenerator, face_blocks
from .random import directions, normals, uniforms

MIDDLE = 20.0  # halves of the frame's edge from the camera to the face, where the block is 0
NEAREST = 3.0  # and at least; the face takes 0.9 at most
DRAWS = ("intensity", "ambient", "contrast", "zoom", "distance")  # a normal number of each sample for each of them
PATHWISE = ("intensity", "intensity_spread", "ambient", "ambient_spread", "contrast", "contrast_spread")


def setting_blocks() -> list[Block]:
    """How faces are lit and photographed, 15 components."""
    log_spread = "standard deviation of the logarithm of that"
    return [
        block("light_height", 1, -1, 1, 0, "1", "cosine of the light off the face's axis: uniform ** 4**-value"),
        block("light_side", 2, -0.65, 0.65, 0, "1", "how much more light comes from the right, and from above"),
        block("intensity", 3, -0.5, 0.5, 0, "stop", "median factor on the irradiance, 2**value: red, green, blue"),
        block("intensity_spread", 1, 0, 0.5, 0, "log", log_spread),
        block("ambient", 1, 0, 0.6, AMBIENT, "1", "median share of the light that comes from everywhere"),
        block("ambient_spread", 1, 0, 1, 0, "log", log_spread),
        block("contrast", 1, -0.5, 0.5, 0, "octave", "median exponent on the image, 2**value"),
        block("contrast_spread", 1, 0, 0.3, 0, "log", log_spread),
        block("zoom", 1, -0.25, 0.25, 0, "octave", "median factor on the face's size in the frame, 2**value"),
        block("zoom_spread", 1, 0, 0.25, 0.05, "octave", "standard deviation of the same"),
        block(
            "distance", 1, -1, 1, 0.5, "1", f"median distance of the camera, {MIDDLE:g} * 8**value halves of a frame"
        ),
        block("distance_spread", 1, 0, 0.3, 0.1, "1", "standard deviation of the same"),
    ]


class LitFaceGenerator(FaceGenerator):
    """f(beta, r) as `FaceGenerator`, with settings of light and camera in beta.

    At their initial values the light is that of `FaceGenerator`, the camera far away. Where the light comes from, and
    where the camera stands, is a black box: shadows and silhouettes move with it. Rays come from one point, `distance`
    before the face; shadows are cast within the mesh as it is projected.

    Attributes:
        space: 219 components.
        pathwise: Means and spreads of texture; intensity, ambient share and contrast, with their spreads.
    """

    pathwise: tuple[str, ...] = (*FaceGenerator.pathwise, *PATHWISE)

    @staticmethod
    def blocks() -> list[Block]:
        """See `FaceGenerator`."""
        return [*face_blocks(), *setting_blocks()]

    def draw(self, betas: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """See `FaceGenerator`; with `intensity` (B, 3), and `ambient`, `contrast`, `zoom`, `distance` (B,)."""
        b, z = self.space.split(betas.to(seeds.device, torch.float64)), self._normals(seeds)
        geometry = {name: (b[name] + b[f"{name}_spread"] * z[name]).detach()[:, 0] for name in ("zoom", "distance")}
        return super().draw(betas, seeds) | {
            "intensity": 2 ** b["intensity"] * torch.exp(b["intensity_spread"] * z["intensity"]),
            "ambient": (b["ambient"] * torch.exp(b["ambient_spread"] * z["ambient"]))[:, 0].clamp(max=1),
            "contrast": (2 ** b["contrast"] * torch.exp(b["contrast_spread"] * z["contrast"]))[:, 0],
            "zoom": 2 ** geometry["zoom"],
            "distance": (MIDDLE * 8 ** geometry["distance"]).clamp(min=NEAREST),
        }

    def light(self, blocks: dict[str, Tensor], u: Tensor) -> Tensor:
        """See `FaceGenerator`."""
        height = u[:, 0] ** (4 ** -blocks["light_height"][:, 0])
        return directions(height, cardioid(u[:, 1], *blocks["light_side"].unbind(1)))

    def place(self, drawn: dict[str, Tensor]) -> Tensor:
        """See `FaceGenerator`."""
        placed = project(super().place(drawn), drawn["distance"])
        return placed * drawn["zoom"].to(placed.dtype)[:, None, None]

    def shade(self, drawn: dict[str, Tensor], seen: Fragments) -> Tensor:
        """See `FaceGenerator`."""
        colour = self._colours(drawn["texture"], seen)
        own = {name: values.to(colour.dtype) for name, values in drawn.items()}
        normal = unproject_normals(seen.normal, seen.point / own["zoom"][:, None, None], own["distance"])
        ambient, intensity = own["ambient"][:, None, None], own["intensity"][..., None]
        image = shade_skin(colour, normal, own["light"], seen.lit, seen.mask, ambient=ambient, intensity=intensity)
        return image.clamp(min=1e-4) ** own["contrast"][:, None, None] * seen.mask[:, None]

    def look_score(self, blocks: dict[str, Tensor], light: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """See `FaceGenerator`: of the light's direction, of the median exposures, and of the camera's place."""
        z = self._normals(seeds)
        x, y = blocks["light_side"].unbind(1)
        # Of height = uniform ** (1 / a), whose density is a * height ** (a - 1), by log4 a.
        score = {
            "light_height": math.log(4) * (1 + light[:, :1].log()),
            "light_side": torch.stack(scores.cardioid(cardioid(light[:, 1], x, y), x, y), 1),
        }
        score |= {name: torch.full_like(blocks[name], torch.nan) for name in PATHWISE}
        for name in ("zoom", "distance"):
            score[name], score[f"{name}_spread"] = scores.normal(z[name], blocks[f"{name}_spread"])
        return score

    def _normals(self, seeds: Tensor) -> dict[str, Tensor]:
        """Each sample's own normal numbers, (B, 1) by name; they come after those of `FaceGenerator`."""
        z = normals(uniforms(seeds, self.numbers + len(DRAWS))[:, self.numbers :])
        return dict(zip(DRAWS, z.split(1, 1), strict=True))
