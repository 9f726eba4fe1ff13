"""`import hgenv` stays light, and what is missing is missed only when it is used."""

import subprocess
import sys


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
    )
    code = f"import sys, hgenv; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_face_is_what_it_says() -> None:
    import hgenv

    assert all(hasattr(hgenv, name) for name in hgenv.__all__)
    assert sorted(hgenv.__all__) == sorted(set(hgenv.__all__))
