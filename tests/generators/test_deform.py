"""The product whose bits do not depend on the batch, against torch's own."""

import torch

from hgenv.generators.deform import deform


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_product_of_matrices() -> None:
    mean, modes, coefficients = numbers(2500, seed=0), numbers(13, 2500, seed=1), numbers(5, 13, seed=2)
    expected = mean.double() + coefficients.double() @ modes.double()
    torch.testing.assert_close(deform(mean, modes, coefficients).double(), expected, rtol=0, atol=1e-5)


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    mean, modes, coefficients = numbers(2500, seed=0), numbers(13, 2500, seed=1), numbers(9, 13, seed=2)
    whole = deform(mean, modes, coefficients)
    parts = torch.cat([deform(mean, modes, coefficients[i : i + k]) for i, k in ((0, 1), (1, 5), (6, 3))])
    assert torch.equal(whole, parts)


def test_gradient() -> None:
    mean, modes, coefficients = numbers(40, seed=0), numbers(3, 40, seed=1), numbers(4, 3, seed=2).requires_grad_()
    along = numbers(4, 40, seed=3)
    (gradient,) = torch.autograd.grad((deform(mean, modes, coefficients) * along).sum(), coefficients)
    torch.testing.assert_close(gradient, along @ modes.T)
