"""Faces: what beta does to them, one block at a time, and how they are framed and lit."""

import math
from pathlib import Path

import pytest
import torch

from hgenv.datasets import standin_faces
from hgenv.datasets.morphable import DARKEST
from hgenv.generators import faces
from hgenv.generators.faces import COMPONENTS, FaceGenerator, face_blocks
from hgenv.rendering.framing import FIT
from hgenv.rendering.surfaces import CAMERA

SEEDS = torch.arange(40)


@pytest.fixture(scope="module")
def generator() -> FaceGenerator:
    return FaceGenerator(standin_faces.model(), size=32)


def betas(generator: FaceGenerator, **changes: float) -> torch.Tensor:
    beta = generator.space.initial.clone()
    for name, value in changes.items():
        beta[generator.space.slice(name)] = value
    return generator.space.project(beta).expand(len(SEEDS), -1)


def test_the_decision_vector_is_the_papers() -> None:
    sizes = {b.name: b.size for b in face_blocks()}
    assert sum(sizes.values()) == 204
    assert sum(size for name, size in sizes.items() if name.startswith("pose")) == 21


def test_frames(generator: FaceGenerator) -> None:
    image, target, mask = generator(betas(generator), SEEDS).tensors
    assert image.shape == (40, 3, 32, 32)
    rows, columns = mask.amax(3).sum((1, 2)), mask.amax(2).sum((1, 2))
    assert ((torch.maximum(rows, columns) / 32 - FIT).abs() < 2 / 32 + 1e-6).all()
    assert (image * (1 - mask) == 0).all()
    inside = target[mask > 0]
    assert (inside - CAMERA).abs().max() < 1
    middle = (target.amax((1, 2, 3)) + torch.where(mask > 0, target, 9.0).amin((1, 2, 3))) / 2
    assert (middle - CAMERA).abs().median() < 0.1


def test_means_move_coefficients_by_standard_deviations(generator: FaceGenerator) -> None:
    base = generator.draw(betas(generator), SEEDS)
    count = len(generator.model.identity)
    moved = generator.draw(betas(generator, expression_mean=0.5), SEEDS)
    change = moved["shape"] - base["shape"]
    inside = (base["shape"].abs() < faces.LIMIT - 0.5).all(1)
    assert inside.sum() > 20
    expected = torch.zeros_like(change)
    expected[:, count : count + faces.MODES] = 0.5
    torch.testing.assert_close(change[inside], expected[inside])
    assert torch.equal(moved["texture"], base["texture"])
    assert torch.equal(moved["light"], base["light"])
    assert torch.equal(moved["rotation"], base["rotation"])


def test_spreads_scale_what_differs_from_the_mean(generator: FaceGenerator) -> None:
    base = generator.draw(betas(generator, identity_spread=0.2), SEEDS)["shape"][:, : faces.MODES]
    wider = generator.draw(betas(generator, identity_spread=0.4), SEEDS)["shape"][:, : faces.MODES]
    torch.testing.assert_close(wider, 2 * base)
    none = generator.draw(betas(generator, identity_spread=0.0), SEEDS)["shape"][:, : faces.MODES]
    assert (none == 0).all()


def test_one_component_serves_identity_expression_and_texture(generator: FaceGenerator) -> None:
    space = generator.space
    beta = space.initial.clone()
    for name in ("identity", "expression", "texture"):
        mean = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(faces.MODES)
        beta[space.slice(f"{name}_mean")] = mean
        beta[space.slice(f"{name}_spread")] = 0
    drawn = generator.draw(space.project(beta).expand(len(SEEDS), -1), SEEDS)
    first = len(generator.model.identity)
    identity, expression = drawn["shape"][:, : faces.MODES], drawn["shape"][:, first : first + faces.MODES]
    texture = drawn["texture"][:, : faces.MODES]
    assert torch.equal(identity, expression)
    assert torch.equal(identity, texture)
    assert (identity == identity[:, :1]).all()
    assert set(identity[:, 0].tolist()) == {-1.0, 0.0, 1.0}


def test_pose_follows_its_mean_and_concentration(generator: FaceGenerator) -> None:
    beta = betas(generator, pose_concentration=1.0).clone()
    beta[:, generator.space.slice("pose_mean")] = torch.tensor([0.4, 0.0, 0.0], dtype=torch.float64).repeat(COMPONENTS)
    ahead = generator.draw(beta, SEEDS)["rotation"][:, :, 2]  # where the nose points
    yaw = torch.atan2(ahead[:, 0], ahead[:, 2])
    assert yaw.mean().item() == pytest.approx(0.4, abs=0.03)
    assert yaw.std().item() == pytest.approx(300**-0.5, rel=0.35)


def test_light_is_uniform_over_the_hemisphere_before_the_face(generator: FaceGenerator) -> None:
    seeds = torch.arange(4000)
    drawn = generator.draw(generator.space.project(generator.space.initial).expand(4000, -1), seeds)
    own = (drawn["rotation"].transpose(1, 2) @ drawn["light"][..., None])[..., 0]
    torch.testing.assert_close(own.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    # Archimedes: the height over a uniform hemisphere is uniform.
    assert own[:, 2].min() > 0
    heights = own[:, 2].sort().values
    assert (heights - (torch.arange(4000) + 0.5) / 4000).abs().max() < 0.03
    assert own[:, :2].mean(0).abs().max() < 0.03


def test_coefficients_outside_beta_have_variance_one_and_shape_has_limits(generator: FaceGenerator) -> None:
    seeds = torch.arange(2000)
    beta = generator.space.project(generator.space.initial).clone()
    beta[generator.space.slice("identity_mean")] = 1
    beta[generator.space.slice("identity_spread")] = 1
    beta[generator.space.slice("texture_spread")] = 1
    drawn = generator.draw(beta.expand(2000, -1), seeds)
    rest = drawn["shape"][:, faces.MODES : len(generator.model.identity)]
    assert rest.abs().max() <= math.sqrt(3)
    assert rest.var().item() == pytest.approx(1, abs=0.03)
    assert drawn["shape"].abs().max() <= faces.LIMIT
    limit = torch.from_numpy(generator.model.texture_limit)
    assert (drawn["texture"].abs() <= limit).all()


def test_texture_changes_colours_alone(generator: FaceGenerator) -> None:
    first, second = (generator(betas(generator, texture_mean=m), SEEDS) for m in (-0.5, 0.5))
    assert torch.equal(first.target, second.target)
    assert torch.equal(first.mask, second.mask)
    assert not torch.equal(first.image, second.image)


def test_weights_that_do_not_sum_to_one_are_put_right() -> None:
    weights = faces.proportions(torch.tensor([[0.9, 0.9, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    assert weights[0, 2] > 0.02
    torch.testing.assert_close(weights[1], torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))


def test_skin_is_never_black(generator: FaceGenerator) -> None:
    image, _, mask = generator(betas(generator, texture_mean=-1.0, texture_spread=1.0), SEEDS).tensors
    assert image[(mask > 0).expand_as(image)].min() > 0.3 * DARKEST


def test_other_sizes_show_the_same_faces(generator: FaceGenerator) -> None:
    large = generator.resized(64)
    assert (large.renderer.size, generator.renderer.size) == (64, 32)
    small, fine = (g(betas(g), SEEDS) for g in (generator, large))
    assert fine.image.shape == (40, 3, 64, 64)
    both = (small.mask > 0) & (torch.nn.functional.avg_pool2d(fine.mask, 2) == 1)
    coarse = torch.nn.functional.avg_pool2d(fine.target, 2)
    assert (coarse - small.target).abs()[both].median() < 0.01
    again = FaceGenerator(generator.model, size=64)(betas(generator), SEEDS)
    assert torch.equal(again.image, fine.image)


def test_the_mesh_is_the_face_that_is_seen(generator: FaceGenerator, tmp_path: Path) -> None:
    beta = generator.space.project(generator.space.initial)
    mesh = generator.mesh(beta, 7)
    seen = generator(beta[None], torch.tensor([7]))
    depth = seen.target[seen.mask > 0]
    assert mesh.vertices[:, 2].max() == pytest.approx(CAMERA - float(depth.min()), abs=0.02)
    assert abs(mesh.vertices[:, :2]).max() == pytest.approx(FIT, abs=1e-6)
    assert len(mesh.faces) == len(generator.model.triangles)
    mesh.export(tmp_path / "face.obj")
    assert (tmp_path / "face.obj").stat().st_size > 1000
