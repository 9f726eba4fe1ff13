"""Records of samples: any fields, with or without gradients, against plain loops."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hgenv import DenseSamples, Samples


@dataclass(frozen=True)
class LabelledPairs(Samples):
    left: Tensor  # (B, ...)
    right: Tensor
    score: Tensor  # (B,)
    label: Tensor  # (B,) int64
    boxes: Tensor  # (B, n, 4) int32
    used: Tensor  # (B,) bool


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
records = st.builds(
    lambda count, left, right, seed: make(count, left, right, seed),
    st.integers(1, 7),
    shapes,
    shapes,
    st.integers(0, 99),
)


def make(count: int, left: tuple[int, ...], right: tuple[int, ...], seed: int = 0) -> LabelledPairs:
    draw = torch.Generator().manual_seed(seed)
    return LabelledPairs(
        torch.randn(count, *left, generator=draw, dtype=torch.float64),
        torch.randn(count, *right, generator=draw, dtype=torch.float64),
        torch.randn(count, generator=draw, dtype=torch.float64),
        torch.randint(0, 10, (count,), generator=draw),
        torch.randint(0, 10, (count, 2, 4), generator=draw, dtype=torch.int32),
        torch.rand(count, generator=draw) > 0.5,
    )


def same(first: Samples, second: Samples) -> bool:
    pairs = list(zip(first.tensors, second.tensors, strict=True))
    return type(first) is type(second) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_fields_come_in_order() -> None:
    samples = make(3, (2, 2), (5,))
    assert samples.names == ("left", "right", "score", "label", "boxes", "used")
    assert all(a is getattr(samples, name) for name, a in zip(samples.names, samples.tensors, strict=True))
    assert len(samples) == 3


@given(records)
def test_with_tensors_puts_together_what_tensors_takes_apart(samples: LabelledPairs) -> None:
    again = samples.with_tensors(samples.tensors)
    assert again == replace(again)
    assert all(a is b for a, b in zip(again.tensors, samples.tensors, strict=True))
    assert same(samples.with_tensors(iter(samples.tensors)), samples)


@given(records, st.integers(1, 9))
def test_split_and_cat_are_inverse(samples: LabelledPairs, size: int) -> None:
    parts = samples.split(size)
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= size
    assert same(LabelledPairs.cat(parts), samples)
    assert same(Samples.cat(parts), samples)  # the kind is that of the parts


@given(records, st.data())
def test_rows_are_those_of_each_field(samples: LabelledPairs, data: st.DataObject) -> None:
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(samples) - 1), min_size=1, max_size=5)))
    chosen = samples[rows]
    assert len(chosen) == len(rows)
    for i, row in enumerate(rows.tolist()):
        assert same(chosen[i : i + 1], samples[row : row + 1])


@given(records, st.integers(1, 3))
def test_stack_gives_a_dimension_of_its_own(samples: LabelledPairs, count: int) -> None:
    stacked = LabelledPairs.stack([samples] * count)
    for before, after in zip(samples.tensors, stacked.tensors, strict=True):
        assert after.shape == (count, *before.shape)
        assert all(torch.equal(part, before) for part in after)


@given(records, st.integers(0, 99))
def test_dot_is_the_sum_over_floating_point_fields(samples: LabelledPairs, seed: int) -> None:
    other = make(len(samples), samples.left.shape[1:], samples.right.shape[1:], seed)
    found = samples.dot(other)
    assert found.shape == (len(samples),)
    for i in range(len(samples)):
        expected = sum(
            float((getattr(samples, name)[i] * getattr(other, name)[i]).sum()) for name in ("left", "right", "score")
        )
        assert float(found[i]) == pytest.approx(expected, abs=1e-9)


def test_dot_with_a_gradient_that_has_nothing_where_there_is_none() -> None:
    samples = make(2, (3,), ())
    gradient = samples.map(lambda x: torch.ones_like(x) if x.is_floating_point() else torch.zeros_like(x))
    torch.testing.assert_close(samples.dot(gradient), samples.left.sum(1) + samples.right + samples.score)


@given(records)
def test_map_goes_over_every_field(samples: LabelledPairs) -> None:
    doubled = samples.map(lambda x: x + x if x.is_floating_point() else x)
    assert torch.equal(doubled.left, 2 * samples.left)
    assert torch.equal(doubled.label, samples.label)
    assert same(samples.map(lambda x: x), samples)


def test_a_gradient_flows_through_map_cat_and_rows() -> None:
    samples = make(4, (2,), (2,))
    left = samples.left.clone().requires_grad_()
    parts = replace(samples, left=left).split(3)
    total = LabelledPairs.cat(parts)[torch.tensor([3, 3, 0])].dot(samples[torch.tensor([3, 3, 0])]).sum()
    (gradient,) = torch.autograd.grad(total, left)
    expected = samples.left * torch.tensor([1.0, 0.0, 0.0, 2.0])[:, None]
    torch.testing.assert_close(gradient, expected)


def test_samples_move_to_another_device() -> None:
    moved = make(2, (3,), (1, 2)).to("meta")
    assert isinstance(moved, LabelledPairs)
    assert all(x.device.type == "meta" for x in moved.tensors)
    assert moved.label.dtype == torch.int64


def test_parts_of_different_kinds_are_refused() -> None:
    dense = DenseSamples(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="argument"):
        Samples.cat([make(1, (), ()), dense])
