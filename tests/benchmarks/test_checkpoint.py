"""Checkpoints hold no code, come whole or not at all, and fall back to the one before."""

import io
import json
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgenv.benchmarks import checkpoint
from hgenv.benchmarks.records import RecordError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def whatever(kept: dict[str, Any], rows: int) -> None:
    """Fits any run."""


@settings(max_examples=20)
@given(st.dictionaries(st.text(max_size=4), PLAIN, max_size=4))
def test_plain_values_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, kept: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("kept")
    checkpoint.save(folder, kept, 3)
    assert checkpoint.load(folder, torch.device("cpu"), whatever) == kept


def test_tensors_come_back_bit_by_bit_and_numpys_numbers_as_pythons(tmp_path: Path) -> None:
    kept = {
        "x": torch.randn(3, dtype=torch.float64),
        "y": torch.arange(3).bfloat16(),
        "n": np.float64(0.1),
        "i": np.int64(3),
    }
    checkpoint.save(tmp_path, kept | {"p": torch.nn.Parameter(torch.ones(2))}, 1)
    found = checkpoint.load(tmp_path, torch.device("cpu"), whatever)
    assert found is not None
    for name in "xy":
        assert torch.equal(found[name], kept[name])
        assert found[name].dtype == kept[name].dtype
    assert (found["n"], found["i"], type(found["n"])) == (0.1, 3, float)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, np.zeros(3)]}, r"the state\['a'\]\[1\] is of numpy.ndarray"),
        ({"f": len}, r"the state\['f'\] is of builtins.builtin_function"),
        ({(1, 2): {3}}, r"the state\[\(1, 2\)\] is of builtins.set"),
    ],
)
def test_what_is_more_than_that_is_refused_when_it_is_saved(tmp_path: Path, value: Any, words: str) -> None:
    checkpoint.save(tmp_path, {"n": 1}, 1)
    with pytest.raises(RecordError, match=words):
        checkpoint.save(tmp_path, value, 2)
    assert checkpoint.load(tmp_path, torch.device("cpu"), whatever) == {"n": 1}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for rows in (1, 2, 9, 10, 11):
        checkpoint.save(tmp_path, {"rows": rows}, rows)
    assert [path.name for path in checkpoint.find(tmp_path)] == ["checkpoint-11.ckpt", "checkpoint-10.ckpt"]
    assert not list(tmp_path.glob("*.part"))


@settings(max_examples=20)
@given(st.data())
def test_whatever_happens_to_the_newest_the_one_before_serves(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    for rows in (1, 2):
        checkpoint.save(folder, {"rows": rows}, rows)
    path = folder / "checkpoint-2.ckpt"
    whole = path.read_bytes()
    if data.draw(st.booleans(), "truncated"):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        damaged = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
    path.write_bytes(damaged)
    assert checkpoint.load(folder, torch.device("cpu"), whatever) == {"rows": 1}
    (folder / "checkpoint-1.ckpt").unlink()
    with pytest.raises(RecordError, match=r"checkpoint-2.ckpt.*(damaged|format)"):
        checkpoint.load(folder, torch.device("cpu"), whatever)


def test_all_that_are_damaged_are_named_in_plain_words(tmp_path: Path) -> None:
    for rows in (1, 2):
        checkpoint.save(tmp_path, {"rows": rows}, rows)
    sizes = {}
    for path, kept in zip(checkpoint.find(tmp_path), (-9, 40), strict=True):
        sizes[path] = path.stat().st_size
        path.write_bytes(path.read_bytes()[:kept])
    newest, before = sizes
    with pytest.raises(RecordError) as caught:
        checkpoint.load(tmp_path, torch.device("cpu"), whatever)
    assert str(caught.value) == (
        f"{newest}: damaged, {sizes[newest] - 9} bytes long instead of {sizes[newest]}; "
        f"{before}: damaged, it does not begin as a checkpoint does; "
        "restore one of these files, or delete the run's folder"
    )


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_code_does_not(tmp_path: Path, form: str) -> None:
    buffer, mark = io.BytesIO(), tmp_path / "mark"
    if form == "torch":
        torch.save({"rows": 1, "env": Evil(mark)}, buffer)
    else:
        pickle.dump({"rows": 1, "env": Evil(mark)}, buffer)
    body = buffer.getvalue()
    head = {"format": checkpoint.FORMAT, "bytes": len(body), "sha256": sha256(body).hexdigest()}
    (tmp_path / "checkpoint-1.ckpt").write_bytes(json.dumps(head).encode() + b"\n" + body)
    with pytest.raises(RecordError, match="holds more than tensors and plain values"):
        checkpoint.load(tmp_path, torch.device("cpu"), whatever)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # it would have
    assert mark.exists()


def test_what_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    head = {"format": checkpoint.FORMAT, "bytes": 10**15, "sha256": ""}
    (tmp_path / "checkpoint-1.ckpt").write_bytes(json.dumps(head).encode() + b"\nx")
    with pytest.raises(RecordError, match="damaged"):
        checkpoint.load(tmp_path, torch.device("cpu"), whatever)


def test_what_the_system_refuses_is_not_called_damage(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1.ckpt").mkdir()
    with pytest.raises(IsADirectoryError):
        checkpoint.load(tmp_path, torch.device("cpu"), whatever)
