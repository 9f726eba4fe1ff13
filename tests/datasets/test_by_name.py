"""Data by their names: where they are looked for, and what is said where they are not."""

from pathlib import Path

import pytest
import torch

from hgenv.datasets import VARIABLE, DataError, heads, load_heads, load_model, load_photos, some_photos
from hgenv.datasets.folder import find_folder


def test_the_folder_given_comes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert find_folder(None, "data='mbii'", "mbii/") == tmp_path
    assert find_folder(f"{tmp_path}/elsewhere", "data='mbii'", "mbii/") == tmp_path / "elsewhere"
    for forget in (lambda: monkeypatch.setenv(VARIABLE, ""), lambda: monkeypatch.delenv(VARIABLE)):
        forget()
        with pytest.raises(DataError, match=f"data='mbii' needs the folder that contains mbii/: .*{VARIABLE}"):
            find_folder(None, "data='mbii'", "mbii/")


def test_who_names_no_folder_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    cure = f"set the environment variable {VARIABLE}, or data_folder (env.data_folder=<folder> on the command line)"
    for load, what in (
        (lambda: load_photos("mbii"), "data='mbii' needs the folder that contains mbii/"),
        (lambda: load_heads("scans"), "data='scans' needs the folder that contains faces/"),
        (lambda: load_heads("basel"), "data='basel' needs the folder that contains the scans (.ply)"),
        (lambda: load_model("ict"), "model='ict' needs the folder that contains faces/"),
        (lambda: load_model("bfm"), "model='bfm' needs the folder that contains faces/"),
    ):
        with pytest.raises(DataError) as caught:
            load()
        assert str(caught.value) == f"{what}: {cure}"


def test_a_folder_that_is_not_there_is_named_by_who_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "nowhere"
    monkeypatch.setenv(VARIABLE, str(nowhere))
    message = f"{nowhere}: there is no such folder, but the environment variable {VARIABLE} names it; model='bfm' needs"
    with pytest.raises(DataError, match=message):
        load_model("bfm")
    with pytest.raises(DataError, match=f"{nowhere}: there is no such folder, but data_folder names it"):
        load_photos("mbii", nowhere)


def test_a_folder_without_the_data_is_named_with_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for load in (
        lambda: load_photos("mbii"),
        lambda: load_heads("scans"),
        lambda: load_heads("basel"),
        lambda: load_model("ict"),
        lambda: load_model("bfm"),
    ):
        with pytest.raises(DataError, match=str(tmp_path)) as caught:
            load()
        assert any(cure in str(caught.value) for cure in ("get ", "name ", "make ", "clone "))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown data 'nyu'; choose one of standin, mbii"):
        load_photos("nyu")
    with pytest.raises(ValueError, match="unknown data 'mbii'; choose one of standin, scans, relatives, basel"):
        load_heads("mbii")
    with pytest.raises(ValueError, match="unknown model 'flame'; choose one of standin, ict, bfm"):
        load_model("flame")


def test_the_stand_ins_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    photos, faces = load_photos("standin", size=16), load_heads("standin", size=16)
    assert [x.label for x in photos] == ["stand-in validation", "stand-in test"]
    assert [x.label for x in faces] == [f"stand-in {split}" for split in heads.SPLITS]
    for x in (*photos, *faces):
        assert x.samples.image.shape[-1] == 16
        assert len(x.samples) == len(x.to("cpu").samples)
    assert load_model("standin").label == "stand-in face"


def test_a_models_own_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere")
    with pytest.raises(DataError, match=str(tmp_path / "own.mat")):
        load_model("bfm", tmp_path / "own.mat")


def test_some_photos_are_left_to_validate_on() -> None:
    validation, test = load_photos("standin", size=32)
    chosen, same = some_photos([2, 0], data="standin", size=32)
    assert chosen.names == (validation.names[2], validation.names[0])
    assert torch.equal(chosen.samples.image, validation.samples.image[[2, 0]])
    assert torch.equal(chosen.native[1].normal, validation.native[0].normal)
    assert chosen.label == f"{validation.label}, 2 of {len(validation)}"
    assert same.names == test.names
    # An inner hold-out: what is not validated on, and no test photo.
    chosen, others = some_photos([2, 0], data="standin", size=32, inner=True)
    assert sorted(chosen.names + others.names) == sorted(validation.names)
    assert not set(chosen.names) & set(others.names)
    for wrong in ([], [0, 0], [len(validation)], [-1]):
        with pytest.raises(DataError, match="choose some of the photos 0 to"):
            some_photos(wrong, data="standin", size=32)
    with pytest.raises(DataError, match="choose some"):
        some_photos(range(len(validation)), data="standin", size=32, inner=True)
