import numpy as np
import torch
from scipy import stats

from hgenv.generators.random import hash_integers, normals, uniforms


def splitmix64(state: int, count: int) -> list[int]:
    """The reference algorithm in Python's integers: Steele, Lea, Flood 2014, as in Vigna's splitmix64.c."""
    out = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        out.append(z ^ (z >> 31))
    return out


def test_numbers_are_splitmix64_of_the_seed() -> None:
    for seed in (0, 1, 12345, 2**62, -7):
        start = splitmix64(seed % 2**64, 1)[0]
        expected = [z - 2**64 if z >= 2**63 else z for z in splitmix64(start, 5)]
        assert hash_integers(torch.tensor([seed]), 5)[0].tolist() == expected


def test_uniform_numbers_are_their_upper_53_bits() -> None:
    seeds = torch.tensor([0, 1, 12345, 2**62, -7])
    upper = [[z >> 11 for z in splitmix64(splitmix64(int(seed) % 2**64, 1)[0], 7)] for seed in seeds]
    expected = (torch.tensor(upper, dtype=torch.float64) + 0.5) * 2.0**-53
    assert torch.equal(uniforms(seeds, 7), expected)
    assert torch.equal(uniforms(seeds[::2], 7), expected[::2])


def test_uniform_and_independent() -> None:
    numbers = uniforms(torch.arange(4000), 20).numpy()
    assert 0 < numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    across_slots = np.corrcoef(numbers.T)
    assert np.abs(across_slots - np.eye(20)).max() < 0.08


def test_more_slots_do_not_shift_earlier_ones() -> None:
    seeds = torch.tensor([3, 99])
    assert torch.equal(uniforms(seeds, 10)[:, :4], uniforms(seeds, 4))


def test_normals_are_normal() -> None:
    assert stats.kstest(normals(uniforms(torch.arange(2000), 5)).numpy().ravel(), "norm").pvalue > 1e-3
