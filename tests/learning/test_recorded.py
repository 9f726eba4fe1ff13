"""What is played back, tried where nothing can be recorded; `tests/test_gpu.py` compares what a GPU plays back."""

import copy
from typing import Any

import torch
from torch import Tensor

from hgenv.learning.recorded import Recordings, recorded
from hgenv.samples import DenseSamples

calls: list[Any] = []


@recorded
def scaled(who: object, weights: dict[str, Tensor], samples: DenseSamples) -> tuple[Tensor, DenseSamples]:
    calls.append(who)
    return 2 * weights["w"], samples.map(lambda x: x + 1)


def forms(recordings: Recordings) -> int:
    return len(recordings._known)


def test_without_a_gpu_a_function_is_itself() -> None:
    calls.clear()
    samples = DenseSamples(*(torch.full((2, 1, 4, 4), float(i)) for i in range(3)))
    who, weights = object(), {"w": torch.ones(3)}
    recordings = Recordings()
    for times in range(1, 5):
        with recordings.in_use():
            weight, made = scaled(who, weights, samples)
        assert torch.equal(weight, torch.full((3,), 2.0))
        assert torch.equal(made.mask, torch.full((2, 1, 4, 4), 3.0))
        assert forms(recordings) == 1
        assert len(calls) >= times
    scaled(who, weights, samples)  # outside nothing is looked up
    assert forms(recordings) == 1
    assert forms(copy.deepcopy(recordings)) == 0


def test_another_form_is_another_recording() -> None:
    samples = DenseSamples(*(torch.zeros(2, 1, 4, 4) for _ in range(3)))
    who, weights = object(), {"w": torch.ones(3)}
    recordings = Recordings()
    with recordings.in_use():
        for n, (caller, given, some) in enumerate(
            [
                (who, weights, samples),
                (object(), weights, samples),
                (who, {"w": torch.ones(4)}, samples),
                (who, {"w": torch.ones(3).double()}, samples),
                (who, {"w": torch.ones(3, requires_grad=True)}, samples),
                (who, {"w": torch.ones(6)[::2]}, samples),
                (who, weights | {"v": torch.ones(3)}, samples),
                (who, weights, samples[:1]),
            ]
        ):
            scaled(caller, given, some)
            assert forms(recordings) == n + 1
        scaled(who, {"w": torch.zeros(3)}, samples.map(torch.ones_like))
        assert forms(recordings) == 8


def test_under_vmap_a_function_is_itself() -> None:
    recordings = Recordings()
    with recordings.in_use():
        doubled = torch.func.vmap(lambda w: scaled(None, {"w": w}, DenseSamples(w, w, w))[0])(torch.ones(2, 3))
    assert torch.equal(doubled, torch.full((2, 3), 2.0))
    assert forms(recordings) == 0
