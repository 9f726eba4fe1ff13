"""What takes long is announced, and what is kept is the same bits, or made again."""

import logging
import time

import numpy as np
import pytest

from hgenv import patience
from hgenv.datasets import standin
from hgenv.patience import kept


def made(calls):
    def make():
        calls.append(1)
        return {"a/b": np.linspace(0, 1, 7), "c": np.array([True, False])}

    return make


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv(patience.FOLDER, str(tmp_path / "cache"))
    path = tmp_path / "code.py"
    path.write_text("1")
    return path


def test_what_was_made_is_made_once(source):
    calls = []
    for _ in range(3):
        found = kept("thing", [str(source)], made(calls))
        assert np.array_equal(found["a/b"], np.linspace(0, 1, 7))
        assert found["c"].dtype == bool
    assert len(calls) == 1


def test_other_code_makes_it_again(source):
    calls = []
    kept("thing", [str(source)], made(calls))
    source.write_text("2")
    kept("thing", [str(source)], made(calls))
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip file", b"text"])
def test_a_damaged_file_is_made_again(source, tmp_path, damage):
    calls = []
    kept("thing", [str(source)], made(calls))
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage)
    for _ in range(2):
        assert set(kept("thing", [str(source)], made(calls))) == {"a/b", "c"}
    assert len(calls) == 2


def test_without_a_folder_to_write_it_goes_on(source, tmp_path, monkeypatch):
    calls = []
    (tmp_path / "file").write_text("")
    for folder in ("", str(tmp_path / "file" / "below")):
        monkeypatch.setenv(patience.FOLDER, folder)
        assert set(kept("thing", [str(source)], made(calls))) == {"a/b", "c"}
    assert len(calls) == 2


def test_the_stand_in_from_disk_is_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv(patience.FOLDER, str(tmp_path))
    monkeypatch.setattr(standin, "FAMILIES", (standin.star,))
    standin._photographs.cache_clear()
    first = standin._photographs("test")
    standin._photographs.cache_clear()
    again = standin._photographs("test")
    standin._photographs.cache_clear()
    assert list(tmp_path.iterdir())
    for a, b in zip(first, again, strict=True):
        for part in ("intensity", "object", "normal", "valid"):
            assert np.array_equal(getattr(a, part), getattr(b, part))


def test_what_takes_long_is_announced_and_what_does_not_is_not(caplog, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    with caplog.at_level(logging.WARNING, "hgenv"):
        with patience.patience("a short thing"):
            pass
        with patience.patience("a long thing"):
            time.sleep(0.3)
    assert [record.message for record in caplog.records] == ["a long thing"]
