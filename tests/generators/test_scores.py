"""Scores against autograd through densities of torch.distributions."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    VonMises,
)

from hgenv.datasets import load_model
from hgenv.generators import FaceGenerator, ShapeGenerator, scores
from hgenv.generators.distributions import gaussian_mixture, von_mises_mixture
from hgenv.generators.grammar import reference
from hgenv.generators.random import uniforms
from hgenv.generators.shapes import LIGHT_NUMBERS, _light
from hgenv.rendering.csg.scene import CONE, CUBE, SPHERE, TETRAHEDRON

B = 60


def random_betas(generator, seed: int) -> Tensor:
    space = generator.space
    draw = torch.Generator().manual_seed(seed)
    return space.project(space.denormalize(0.1 + 0.8 * torch.rand(B, space.dimension, generator=draw).double()))


def derivative(log_density: Tensor, betas: Tensor) -> Tensor:
    """Row by row; None of what a component does not touch."""
    return torch.autograd.grad(log_density.sum(), betas, materialize_grads=True)[0]


def grammar_log_density(generator, betas: Tensor, seeds: Tensor) -> Tensor:
    """Of everything that the objects are made of, by the definition of the grammar; draws are held."""
    depth = generator.depth
    u = uniforms(seeds, LIGHT_NUMBERS + reference.NUMBERS_PER_NODE * (2 ** (depth + 1) - 1))[:, LIGHT_NUMBERS:]
    d = reference.draw({k: v.detach() for k, v in generator.space.split(betas).items()}, u, depth)
    blocks = generator.space.split(betas)
    edge = 4 / math.sqrt(6)
    total = torch.zeros(len(betas), dtype=torch.float64)
    for b in range(len(betas)):
        beta = {name: values[b] for name, values in blocks.items()}

        def lengths(name: str, at: int, value: Tensor, beta: dict[str, Tensor] = beta) -> Tensor:
            return LogNormal(beta[name][at], beta[name][at + 1]).log_prob(value)

        def visit(node: int, level: int, b: int = b, beta: dict[str, Tensor] = beta, lengths=lengths) -> Tensor:
            found = torch.zeros((), dtype=torch.float64)
            if level < depth:
                found = found + Bernoulli(beta["expand"][0]).log_prob(d.expand[node, b].double())
            if d.expand[node, b]:
                found = found + Categorical(beta["operator"]).log_prob(d.operator[node, b])
                right = 2 * node + 2
                move, stretch = beta["translation"], beta["scale"]
                found = found + Normal(move[:3], move[3:]).log_prob(d.translation[:, right, b]).sum()
                found = found + LogNormal(stretch[:3], stretch[3:]).log_prob(d.scale[:, right, b]).sum()
                return found + visit(2 * node + 1, level + 1) + visit(right, level + 1)
            kind, size = int(d.kind[node, b]), d.size[:, node, b]
            found = found + Categorical(beta["primitive"]).log_prob(d.kind[node, b])
            if kind == CONE:
                return found + lengths("cone", 0, size[:2]).sum() + lengths("cone", 2, size[2])
            name = {SPHERE: "sphere", CUBE: "cube", TETRAHEDRON: "tetrahedron"}[kind]
            return found + lengths(name, 0, size[0] / edge if kind == TETRAHEDRON else size[0])

        total[b] = visit(0, 0)
    return total


def test_of_the_grammar() -> None:
    generator = ShapeGenerator()
    betas, seeds = random_betas(generator, 0).requires_grad_(), torch.arange(B)
    expected = derivative(grammar_log_density(generator, betas, seeds), betas)
    found = generator.log_prob_score(betas.detach(), seeds)
    assert found.abs().amax(0).gt(0).all()
    torch.testing.assert_close(found, expected)


def test_of_the_light() -> None:
    generator = ShapeGenerator(lit=True)
    betas, seeds = random_betas(generator, 1).requires_grad_(), torch.arange(B)
    blocks = generator.space.split(betas)
    held = {name: value.detach() for name, value in blocks.items()}
    scene = _light(held, uniforms(seeds, LIGHT_NUMBERS))
    xy = scene["light"][:, :2].double() / scene["light"][:, 2:].double() * 0.5
    log_density = Normal(blocks["light"], blocks["light_spread"]).log_prob(xy).sum(1)
    for name in ("exposure", "contrast"):
        log_density = log_density + LogNormal(blocks[name][:, 0] * math.log(2), 0.1).log_prob(scene[name].double())
    found, expected = generator.log_prob_score(betas.detach(), seeds), derivative(log_density, betas)
    for name in ("light", "light_spread", "exposure", "contrast"):
        where = generator.space.slice(name)
        torch.testing.assert_close(found[:, where], expected[:, where], rtol=1e-3, atol=1e-3)  # frames are float32
    for name in ("ambient", "texture", "texture_scale"):  # no parameters of draws, or ends of uniform ones
        assert found[:, generator.space.slice(name)].isnan().all()
    assert torch.equal(found[:, :29], ShapeGenerator().log_prob_score(betas.detach()[:, :29], seeds))


@pytest.mark.parametrize("kind", ["gaussian", "von mises"])
def test_of_mixtures(kind: str) -> None:
    draw, shape = torch.Generator().manual_seed(2), (B, 3, 4)
    u = torch.rand(B, 5, generator=draw).double().clamp(1e-3, 1 - 1e-3)
    raw = torch.rand(B, 3, generator=draw).double().add(0.2).requires_grad_()
    mean = torch.randn(shape, generator=draw).double().requires_grad_()
    width = torch.rand(shape, generator=draw).double().add(0.3).requires_grad_()
    weights = raw / raw.sum(1, keepdim=True)
    gauss = kind == "gaussian"
    with torch.no_grad():
        x = (gaussian_mixture if gauss else von_mises_mixture)(u, weights, mean, width)
        found = (scores.of_gaussian_mixture if gauss else scores.of_von_mises_mixture)(u, weights, mean, width)
    parts = Independent((Normal if gauss else VonMises)(mean, width), 1)
    density = MixtureSameFamily(Categorical(weights), parts).log_prob(x)
    by_raw, by_mean, by_width = torch.autograd.grad(density.sum(), (raw, mean, width))
    torch.testing.assert_close(found[0] / raw.detach().sum(1, keepdim=True), by_raw, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], by_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], by_width, rtol=1e-5, atol=1e-6)


def test_of_faces() -> None:
    """Block by block: the mixture over faces joins identity, expression and texture; concentrations are in decades."""
    generator = FaceGenerator(load_model("standin"), size=16)
    space = generator.space
    betas, seeds = random_betas(generator, 3).requires_grad_(), torch.arange(B)
    with torch.no_grad():
        drawn = generator.draw(betas, seeds)
        found = generator.log_prob_score(betas, seeds)
    identities = len(generator.model.identity)
    shape, texture = drawn["shape"], drawn["texture"]
    x = torch.cat([shape[:, :10], shape[:, identities : identities + 10], texture[:, :10]], 1)
    inside = ((x[:, :20].abs() < 3).all(1)) & (x[:, 20:].abs() < generator.model.texture_limit[:10].min()).all(1)
    assert inside.sum() > B / 3  # what is cut off cannot be read back from the sample
    blocks = space.split(betas)
    mean, spread = (
        torch.cat([blocks[f"{kind}_{what}"].unflatten(1, (3, 10)) for kind in ("identity", "expression", "texture")], 2)
        for what in ("mean", "spread")
    )
    density = MixtureSameFamily(Categorical(blocks["face_weight"]), Independent(Normal(mean, spread), 1)).log_prob(x)
    expected = derivative(density, betas)
    for name in ("face_weight", "identity_mean", "expression_spread", "texture_mean", "texture_spread"):
        where = space.slice(name)
        torch.testing.assert_close(found[inside, where], expected[inside, where], rtol=1e-4, atol=1e-5)


def test_what_is_as_good_as_fixed_has_no_score() -> None:
    generator = ShapeGenerator()
    beta = generator.space.initial.clone()
    at = generator.space.slice("sphere").start
    beta[at + 1] = 0
    found = generator.log_prob_score(beta.expand(50, -1), torch.arange(50))
    assert found[:, at : at + 2].isnan().all()
    assert found.isnan().sum() == 2 * 50
