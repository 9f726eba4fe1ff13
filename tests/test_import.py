"""`import hgenv` stays light, and what is missing is missed only when it is used."""

import importlib
import subprocess
import sys

import pytest

# Each in a process of its own, which has torch already: that takes the time.
FIRST = """
import os, sys, traceback, torch

for name in ("learning", "tasks", "generators", "rendering", "datasets", "probing", "optimizers", "benchmarks.report"):
    child = os.fork()
    if not child:
        try:
            exec(f"from hgenv.{name} import *")  # loads what is lazy, too
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"hgenv.{name} cannot be imported first")
"""


def test_importing_hgenv_needs_no_gl_no_nevergrad_no_hydra() -> None:
    heavy = (
        "OpenGL",
        "pyrender",
        "pyglet",
        "nevergrad",
        "hydra",
        "tensorboard",
        "matplotlib",
        "numba",
        "cv2",
        "embreex",
        "trimesh",
        "manifold3d",
        "scipy.spatial",
    )
    code = f"import sys, hgenv; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["learning", "tasks", "generators", "rendering", "datasets", "testing", "optimizers"])
def test_packages_offer_what_they_name(name: str) -> None:
    package = importlib.import_module(f"hgenv.{name}")
    assert package.__all__
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(getattr(package, part) is not None for part in package.__all__)


def test_what_learning_offers() -> None:
    from hgenv.learning import (  # noqa: F401 - that they are there is what is tested
        SGD,
        Adam,
        DenseLearner,
        Learner,
        Network,
        Rule,
        StepGradient,
        TrainingState,
        influence,
        sample_gradient,
        sample_gradient_without_curvature,
        train,
        training_loss,
        validation_loss,
    )


def test_modules_can_be_imported_first() -> None:
    """There are no circles that only one order of imports hides."""
    subprocess.run([sys.executable, "-W", "error", "-c", FIRST], check=True)


def test_the_public_face_is_what_it_says() -> None:
    import hgenv

    assert all(hasattr(hgenv, name) for name in hgenv.__all__)
    assert sorted(hgenv.__all__) == sorted(set(hgenv.__all__))
