"""The generator of the paper's third experiment: faces of a morphable model under one light, with their depth (5.3)."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from ..datasets.morphable import DARKEST, LEAST, MorphableModel, tensors
from ..decision import Block, DecisionSpace, block
from ..rendering.shading.skin import shade_skin
from ..rendering.surfaces import Fragments, SurfaceRenderer, ZBuffer, depth_samples, fit, product, rotation, turn
from ..samples import DenseSamples
from . import scores
from .deform import deform
from .distributions import gaussian_mixture, von_mises_mixture
from .host import few_on_the_cpu
from .random import directions, uniforms

if TYPE_CHECKING:
    import trimesh

KINDS = ("identity", "expression", "texture")
COMPONENTS = 3
MODES = LEAST  # of identity, expression and texture each
FLOOR = 0.05
LIMIT = 3.0  # standard deviations that no coefficient of shape goes beyond
REST = math.sqrt(3)  # coefficients outside beta are uniform within so many: variance one
CONCENTRATION = 30.0  # of a von Mises distribution, in the middle of its block: 10.5 degrees


def face_blocks() -> list[Block]:
    """The 204 components: 183 of a mixture of Gaussians over 30 coefficients, 21 of a mixture of von Mises."""
    m = COMPONENTS
    each = f"of each of {m} components and each of the first {MODES} modes"
    return [
        block("face_weight", m, 0, 1, 1 / m, "1", "weights of the mixture over faces", simplex=True, floor=FLOOR),
        block("identity_mean", m * MODES, -1, 1, 0, "sd", f"mean coefficient of identity, {each}"),
        block("identity_spread", m * MODES, 0, 1, 0.5, "sd", "standard deviations of the same"),
        block("expression_mean", m * MODES, -1, 1, 0, "sd", f"mean coefficient of expression, {each}"),
        block("expression_spread", m * MODES, 0, 1, 0.5, "sd", "standard deviations of the same"),
        block("texture_mean", m * MODES, -1, 1, 0, "sd", f"mean coefficient of texture, {each}"),
        block("texture_spread", m * MODES, 0, 1, 0.5, "sd", "standard deviations of the same"),
        block("pose_weight", m, 0, 1, 1 / m, "1", "weights of the mixture over poses", simplex=True, floor=FLOOR),
        block("pose_mean", m * 3, -1, 1, 0, "rad", f"mean yaw, pitch, roll of each of {m} components"),
        block(
            "pose_concentration", m * 3, -1, 1, 0, "decade",
            f"their concentration is {CONCENTRATION:g} * 10**value: 34 to 3.3 degrees",
        ),
    ]  # fmt: skip


class FaceGenerator:
    """f(beta, r): an image of a face, its depth and its mask.

    A sample's first 10 coefficients of identity, expression and texture are drawn from one mixture of Gaussians, its
    pose from one of von Mises; its other coefficients are uniform within `REST` standard deviations. Shape coefficients
    end at `LIMIT`, those of texture where the model says. The light comes from a direction uniform over the hemisphere
    before the face. The turned face is scaled and centred so that the longer side of its bounding rectangle takes `FIT`
    of the frame; the background is black. Depth is measured along the view from a plane `CAMERA` halves of the frame's
    edge before the middle of the face's bounding box, in such halves.

    Attributes:
        space: 204 components.
        pathwise: Means and spreads of texture: given what a pixel sees, its colour is a formula.
        model: The morphable model.
        renderer: Any `SurfaceRenderer` of the model's triangles.

    Args:
        model: The attribute.
        size: Pixels along an edge, for the default renderer.
        shadows: Whether faces shade themselves, for the default renderer.
        renderer: The attribute; by default a `ZBuffer`.
    """

    pathwise: tuple[str, ...] = ("texture_mean", "texture_spread")

    def __init__(
        self,
        model: MorphableModel,
        *,
        size: int = 64,
        shadows: bool = True,
        renderer: SurfaceRenderer | None = None,
    ) -> None:
        self.model = model
        parts = tensors(model)
        self.space = DecisionSpace(self.blocks())
        self.renderer = ZBuffer(parts["triangles"], size, shadows) if renderer is None else renderer
        self._counts = tuple(len(parts[name]) for name in ("identity", "expression", "texture"))
        modes = torch.cat([parts["identity"], parts["expression"]])
        flat = {"mean": parts["mean"].flatten(), "modes": modes.flatten(1).contiguous()}
        flat |= {"albedo": parts["albedo"].flatten(), "texture": parts["texture"].flatten(1).contiguous()}
        flat |= {name: parts[name] for name in ("triangles", "texture_limit")}
        self._tensors = {torch.device("cpu"): flat}
        self.numbers = 2 + (1 + 3 * MODES) + (1 + 3) + sum(self._counts) - 3 * MODES

    @few_on_the_cpu
    def __call__(self, betas: Tensor, seeds: Tensor) -> DenseSamples:
        """Samples for (B, d) betas and (B,) int64 seeds, on the seeds' device: image (B, 3, S, S), depth, mask."""
        self.space.check_rows(betas, seeds)
        drawn = self.draw(betas, seeds)
        with torch.no_grad():
            seen = self.renderer(self.place(drawn), drawn["light"])
        return depth_samples(self.shade(drawn, seen), seen, self.renderer.size)

    @staticmethod
    def blocks() -> list[Block]:
        """The blocks of beta."""
        return face_blocks()

    def place(self, drawn: dict[str, Tensor]) -> Tensor:
        """Faces that have been drawn as they stand before the camera, (B, V, 3) view coordinates."""
        return fit(turn(self.vertices(drawn["shape"].detach()), drawn["rotation"]))

    def shade(self, drawn: dict[str, Tensor], seen: Fragments) -> Tensor:
        """The image (B, 3, P) of what is seen of them."""
        colour = self._colours(drawn["texture"], seen)
        return shade_skin(colour, seen.normal, drawn["light"].to(colour.dtype), seen.lit, seen.mask)

    def resized(self, size: int) -> Self:
        """The same generator with images of another size in pixels, of the same faces."""
        other = copy.copy(self)
        other.renderer = self.renderer.resized(size)
        return other

    def mesh(self, beta: Tensor, seed: int) -> trimesh.Trimesh:
        """The face of one sample, turned as it is seen, which writes itself to a file: `mesh.export("face.glb")`.

        Args:
            beta: (d,).
            seed: The sample's.

        Returns:
            The mesh in view coordinates.
        """
        import trimesh  # late: it takes a moment

        vertices = self.place(self.draw(beta[None], torch.tensor([seed])))
        return trimesh.Trimesh(vertices[0].numpy(), self.model.triangles, process=False)

    def draw(self, betas: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """What is random about B faces: coefficients of `shape` and `texture`, `rotation` (B, 3, 3), `light` (B, 3)."""
        betas = betas.to(seeds.device, torch.float64)
        # Autograd sees texture alone: what moves silhouettes has no derivative here.
        fixed, free = self.space.split(betas.detach()), self.space.split(betas)
        light, face, pose, rest = self._numbers(seeds)

        def mixture(name: str, blocks: dict[str, Tensor], numbers: Tensor) -> Tensor:
            parts = (blocks[f"{name}_{what}"].unflatten(1, (COMPONENTS, MODES)) for what in ("mean", "spread"))
            return gaussian_mixture(numbers, proportions(fixed["face_weight"]), *parts)

        picks, numbers = face[:, :1], face[:, 1:].unflatten(1, (len(KINDS), MODES))
        rests = (REST * (2 * rest - 1)).split([count - MODES for count in self._counts], 1)
        coefficients = [
            torch.cat([mixture(name, blocks, torch.cat([picks, numbers[:, i]], 1)), rests[i]], 1)
            for i, (name, blocks) in enumerate(zip(KINDS, (fixed, fixed, free), strict=True))
        ]
        limit = self._on(seeds.device)["texture_limit"]
        angles = von_mises_mixture(
            pose,
            proportions(fixed["pose_weight"]),
            fixed["pose_mean"].unflatten(1, (COMPONENTS, 3)),
            CONCENTRATION * 10 ** fixed["pose_concentration"].unflatten(1, (COMPONENTS, 3)),
        )
        turned = rotation(angles)
        return {
            "shape": torch.cat(coefficients[:2], 1).clamp(-LIMIT, LIMIT),
            "texture": torch.minimum(torch.maximum(coefficients[2], -limit), limit),
            "rotation": turned,
            "light": product(turned, self.light(fixed, light)),
        }

    def light(self, blocks: dict[str, Tensor], u: Tensor) -> Tensor:
        """Unit vectors (B, 3) toward the light as the face sees it, from two numbers (B, 2) in (0, 1)."""
        return directions(u[:, 0], u[:, 1])

    def log_prob_score(self, betas: Tensor, seeds: Tensor) -> Tensor:
        """See `hgenv.Generator`. The densities are those of the mixtures, whichever component a face came from."""
        self.space.check_rows(betas, seeds)
        b = self.space.split(betas.detach().to(seeds.device, torch.float64))
        light, face, pose, _ = self._numbers(seeds)

        def together(what: str) -> Tensor:
            return torch.cat([b[f"{name}_{what}"].unflatten(1, (COMPONENTS, MODES)) for name in KINDS], 2)

        weights, *faces = scores.of_gaussian_mixture(
            face, proportions(b["face_weight"]), together("mean"), together("spread")
        )
        score = {"face_weight": weights}
        for what, found in zip(("mean", "spread"), faces, strict=True):
            for name, part in zip(KINDS, found.split(MODES, 2), strict=True):
                score[f"{name}_{what}"] = part.flatten(1)
        concentration = CONCENTRATION * 10 ** b["pose_concentration"].unflatten(1, (COMPONENTS, 3))
        weights, mean, by_concentration = scores.of_von_mises_mixture(
            pose, proportions(b["pose_weight"]), b["pose_mean"].unflatten(1, (COMPONENTS, 3)), concentration
        )
        score |= {"pose_weight": weights, "pose_mean": mean.flatten(1)}
        score["pose_concentration"] = (by_concentration * concentration * math.log(10)).flatten(1)
        score |= self.look_score(b, light, seeds)
        return torch.cat([score[block.name] for block in self.space.blocks], 1)

    def look_score(self, blocks: dict[str, Tensor], light: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """The same of blocks beyond those of faces and poses, by block; `light` as for the method of this name."""
        return {}

    def _numbers(self, seeds: Tensor) -> tuple[Tensor, ...]:
        """Each sample's random numbers: of light, face, pose, and of coefficients outside beta."""
        own = [2, 1 + len(KINDS) * MODES, 1 + 3]
        return uniforms(seeds, self.numbers).split([*own, self.numbers - sum(own)], 1)

    def vertices(self, shape: Tensor) -> Tensor:
        """(B, I + E) coefficients to (B, V, 3) millimetres."""
        own = self._on(shape.device)
        return deform(own["mean"], own["modes"], shape).unflatten(1, (-1, 3))

    def colours(self, texture: Tensor) -> Tensor:
        """(B, T) coefficients to (B, V, 3) sRGB."""
        own = self._on(texture.device)
        return deform(own["albedo"], own["texture"], texture).unflatten(1, (-1, 3))

    def _colours(self, texture: Tensor, seen: Fragments) -> Tensor:
        """(B, 3, P) what the pixels see of the colours."""
        corners = self._on(texture.device)["triangles"][seen.triangle]  # (B, P, 3)
        vertex = self.colours(texture)
        row = torch.arange(len(vertex), device=vertex.device)[:, None]
        parts = [seen.weight[:, i, :, None] * vertex[row, corners[..., i]] for i in range(3)]
        return (parts[0] + parts[1] + parts[2]).transpose(1, 2).clamp(DARKEST, 1)

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        """The model on a device, where it is moved once."""
        if device not in self._tensors:
            own = self._tensors[torch.device("cpu")]
            self._tensors[device] = {name: tensor.to(device) for name, tensor in own.items()}
        return self._tensors[device]


def proportions(weights: Tensor) -> Tensor:
    """Weights (B, M) of a mixture that sum to one, each at least `FLOOR`; a beta of a sample's own need not."""
    weights = weights.clamp(min=FLOOR)
    return weights / weights.sum(-1, keepdim=True)
