"""What the package promises to those who install it."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import gymnasium
import pytest

import hgenv

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_of_the_repository_is_in_the_wheel():
    found = set()
    for name, folder in SETUP["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(SETUP["packages"])


def test_the_version_is_said_once():
    assert version("hgenv") == hgenv.__version__


def test_the_face_is_complete():
    for name in hgenv.__all__:
        assert getattr(hgenv, name) is not None
    assert set(hgenv.__all__) <= set(dir(hgenv))
    with pytest.raises(AttributeError, match="attribute gradient"):
        hgenv.gradient  # noqa: B018


def test_importing_it_is_light_and_registers():
    code = (
        "import hgenv, sys; assert 'torch' not in sys.modules; import gymnasium; gymnasium.spec('hgenv/Quadratic-v0')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_id_can_name_the_package_itself():
    env = gymnasium.make("hgenv:hgenv/Quadratic-v0")
    assert env.unwrapped.space.dimension == 4
