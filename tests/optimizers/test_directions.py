import pytest
import torch

from hgenv.optimizers.directions import check_kind, coordinate, gaussian

from .tools import draws


def test_gaussian_is_normal_in_its_components_and_zero_elsewhere() -> None:
    components = torch.tensor([1, 2, 4])
    delta = gaussian(20000, components, 6, 0.3, draws())
    assert delta.shape == (20000, 6)
    assert delta.dtype == torch.float64
    assert (delta[:, [0, 3, 5]] == 0).all()
    drawn = delta[:, components]
    assert drawn.mean(0).abs().max() < 5 * 0.3 / 20000**0.5
    covariance = drawn.T.cov()
    torch.testing.assert_close(covariance, 0.09 * torch.eye(3, dtype=torch.float64), rtol=0, atol=0.09 * 0.05)
    kurtosis = (drawn**4).mean() / 0.09**2
    assert float(kurtosis) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("draw", [gaussian, coordinate])
def test_the_generator_decides(draw) -> None:
    first, again, other = (draw(9, torch.arange(8), 8, 0.1, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("count", "components"), [(48, 29), (14, 5), (4, 9), (40, 5), (3, 1)])
def test_coordinates_are_dealt_out_like_cards(count: int, components: int) -> None:
    which = 2 * torch.arange(components) + 1
    delta = coordinate(count, which, 2 * components + 2, 0.1, draws())
    assert delta.shape == (count, 2 * components + 2)
    assert ((delta != 0).sum(1) == 1).all()
    assert (delta.sum(1) == 0.1).all()
    dealt = delta.argmax(1)
    for start in range(count):  # any C in a row are distinct
        hand = dealt[start : start + components].tolist()
        assert len(set(hand)) == len(hand)
    times = torch.bincount(dealt, minlength=2 * components + 2)
    assert times.sum() == times[which].sum() == count  # no others
    assert times[which].max() - times[which].min() <= 1


def test_every_component_may_be_the_one_that_is_left_out() -> None:
    random = draws()
    left = {int((coordinate(4, torch.arange(5), 5, 1.0, random) == 0).all(0).nonzero()) for _ in range(100)}
    assert left == set(range(5))


def test_an_unknown_kind_is_refused() -> None:
    check_kind("gaussian")
    check_kind("coordinate")
    with pytest.raises(ValueError, match="unknown directions 'sobol'; choose 'gaussian' or 'coordinate'"):
        check_kind("sobol")
