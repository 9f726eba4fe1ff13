from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from hgenv.decision import Block, DecisionError, DecisionSpace, block
from hgenv.generators.quadratic import QuadraticGenerator


@pytest.fixture
def space() -> DecisionSpace:
    return DecisionSpace(
        [
            block("kind", 3, 0.0, 1.0, (0.2, 0.3, 0.5), "1", "probabilities", simplex=True, floor=0.1),
            block("length", 2, (0.0, -1.0), (2.0, 1.0), (1.0, 0.5), "m", "a length and another"),
        ]
    )


def test_normalizing_runs_from_bound_to_bound_and_back(space: DecisionSpace) -> None:
    assert torch.equal(space.normalize(space.low), torch.zeros(5, dtype=torch.float64))
    assert torch.equal(space.normalize(space.high), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(space.denormalize(space.normalize(space.initial)), space.initial)


@given(st.lists(st.floats(-3, 3), min_size=5, max_size=5))
def test_projection_is_the_nearest_valid_vector(values: list[float]) -> None:
    space = DecisionSpace(
        [
            block("kind", 3, 0.0, 1.0, (0.2, 0.3, 0.5), "1", "probabilities", simplex=True, floor=0.1),
            block("length", 2, (0.0, -1.0), (2.0, 1.0), (1.0, 0.5), "m", "a length and another"),
        ]
    )
    vector = torch.tensor(values, dtype=torch.float64)
    projected = space.project(vector)
    torch.testing.assert_close(space.check(projected), projected)
    assert abs(float(projected[:3].sum()) - 1) < 1e-9
    torch.testing.assert_close(space.project(projected), projected)
    oracle = minimize(
        lambda p: ((p - vector[:3].numpy()) ** 2).sum(),
        [1 / 3] * 3,
        jac=lambda p: 2 * (p - vector[:3].numpy()),
        bounds=[(0.1, 1)] * 3,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(projected[:3], oracle.x, atol=1e-5)
    np.testing.assert_allclose(projected[3:], np.clip(values[3:], [0, -1], [2, 1]))


@pytest.mark.parametrize(
    ("beta", "words"),
    [
        ([0.2, 0.3, 0.5, 1.0], r"shape \(4,\).*5 components"),
        ([0.2, 0.3, 0.5, 1.0, float("nan")], r"beta\[4\] = nan \(block 'length'\)"),
        ([0.2, 0.3, 0.5, 2.5, 0.0], r"beta\[3\] = 2.5 \(block 'length'\) is outside \[0.0, 2.0\]"),
        ("five", "beta must be 5 numbers"),
        (None, "shape|numbers"),
    ],
)
def test_a_bad_beta_is_named(space: DecisionSpace, beta: object, words: str) -> None:
    with pytest.raises(DecisionError, match=words):
        space.check(beta)  # type: ignore[arg-type]


def test_check_forgives_single_precision_but_stays_inside(space: DecisionSpace) -> None:
    checked = space.check(np.float32([0.1, 0.1, 0.8, 2.0, -1.0]))
    assert (checked >= space.low).all()
    assert (checked <= space.high).all()


def test_check_copies(space: DecisionSpace) -> None:
    beta = space.initial.numpy().copy()
    checked = space.check(beta)
    beta[3] = 0.25
    assert float(checked[3]) == 1.0


def test_blocks_by_name(space: DecisionSpace) -> None:
    parts = space.split(torch.tensor([[1.0, 1.0, 2.0, 3.0, 4.0]]))
    assert parts["kind"].tolist() == [[0.25, 0.25, 0.5]]
    assert parts["length"].tolist() == [[3.0, 4.0]]
    with pytest.raises(KeyError, match=r"no block 'size'; the blocks are kind, length"):
        space.slice("size")


def test_a_table_names_everything(space: DecisionSpace) -> None:
    assert space.table().splitlines()[2:] == [
        "| 0-2 | kind | probabilities | 0 | 1 | 1 | (0.2, 0.3, 0.5) |",
        "| 3-4 | length | a length and another | (0, -1) | (2, 1) | m | (1, 0.5) |",
    ]


def test_a_table_shows_the_range_of_a_long_block() -> None:
    space = DecisionSpace([block("many", 65, 0, 1, [0.5] + 64 * [0.25], "1", "")])
    assert space.table().splitlines()[2:] == ["| 0-64 | many |  | 0 | 1 | 1 | 0.25 to 0.5 |"]


def test_inconsistent_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        block("a", 1, 1.0, 0.0, 0.5, "1", "")
    with pytest.raises(ValueError, match="sum to 1"):
        block("a", 2, 0.0, 1.0, (0.5, 0.6), "1", "", simplex=True)
    with pytest.raises(ValueError, match="one length"):
        Block("a", (0.0,), (1.0, 2.0), (0.5,), "1", "")
    with pytest.raises(ValueError, match="unique names"):
        DecisionSpace([block("a", 1, 0, 1, 0, "1", ""), block("a", 1, 0, 1, 0, "1", "")])


def test_a_single_probability_keeps_its_distance_from_both_ends() -> None:
    space = DecisionSpace([block("expand", 1, 0.0, 1.0, 0.5, "1", "", floor=0.05)])
    assert space.project(torch.tensor([[0.0], [0.5], [1.0]])).flatten().tolist() == pytest.approx([0.05, 0.5, 0.95])


def test_probabilities_of_nothing_become_equal() -> None:
    space = DecisionSpace([block("kind", 4, 0.0, 1.0, 0.25, "1", "", simplex=True, floor=0.05)])
    assert space.split(torch.zeros(4))["kind"].tolist() == [0.25] * 4
    assert space.project(torch.zeros(4)).tolist() == [0.25] * 4


def test_random_vectors_are_a_sequence_that_anybody_can_repeat(space: DecisionSpace) -> None:
    numbers = list(range(20))
    state = torch.get_rng_state()
    forwards = [space.random(n) for n in numbers]
    backwards = [space.random(n) for n in reversed(numbers)][::-1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert len({tuple(v.tolist()) for v in forwards}) == 20
    for n, vector in zip(numbers, forwards, strict=True):
        assert vector.dtype == torch.float64
        torch.testing.assert_close(space.project(space.check(vector)), vector)
        # As it is documented: uniform in the box, then projected.
        uniform = torch.rand(5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        assert torch.equal(vector, space.project(space.low + uniform * (space.high - space.low)))


def test_random_vectors_spread_over_the_box(space: DecisionSpace) -> None:
    lengths = torch.stack([space.random(n) for n in range(400)])[:, 3:]
    share = (lengths - space.low[3:]) / (space.high - space.low)[3:]
    assert ((share.mean(0) - 0.5).abs() < 0.05).all()
    assert (share.amin(0) < 0.02).all()
    assert (share.amax(0) > 0.98).all()


def test_random_vectors_are_numbered_from_0(space: DecisionSpace) -> None:
    with pytest.raises(ValueError, match="numbered from 0, so there is no number -1"):
        space.random(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, r: (b[0], r), r"betas must be \(B, 4\) floating-point"),
        (lambda b, r: (b[:, :3], r), r"betas must be \(B, 4\) floating-point"),
        (lambda b, r: (b.long(), r), r"betas must be \(B, 4\) floating-point"),
        (lambda b, r: (b * torch.nan, r), r"betas\[0, 0\] = nan \(block 'position'\) is outside"),
        (lambda b, r: (b + torch.tensor([0, 0, 0, 2.0]), r), r"betas\[0, 3\] = 2.5 \(block 'spread'\) is outside"),
        (lambda b, r: (b, r[:2]), r"seeds must be \(3,\) whole numbers"),
        (lambda b, r: (b, r.double()), r"seeds must be \(3,\) whole numbers"),
    ],
)
def test_generators_refuse_rows_that_mean_nothing(change, message):
    generator = QuadraticGenerator()
    betas, seeds = generator.space.initial.repeat(3, 1), torch.arange(3)
    generator(betas, seeds)
    with pytest.raises(DecisionError, match=message):
        generator(*change(betas, seeds))


def test_numbers_of_any_kind_are_taken_as_they_are():
    space = QuadraticGenerator().space
    beta = torch.tensor([0.5, -0.25, 1.0, 0.75], dtype=torch.float64)
    for same in (
        beta.float(), beta.half(), beta.bfloat16(), beta.numpy().astype(">f8"), beta.tolist(), tuple(beta.tolist()),
        [Fraction(value) for value in beta.tolist()], torch.stack([beta, beta], 1)[:, 0],
    ):  # fmt: skip
        assert torch.equal(space.check(same), beta)
    assert torch.equal(space.check([1, 0, -1, 1]), torch.tensor([1.0, 0, -1, 1], dtype=torch.float64))
