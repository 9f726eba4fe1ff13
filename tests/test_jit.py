"""Compiled code where nothing can be written."""

import os
import subprocess
import sys

CODE = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []  # no folder that can be written is found
import hgenv, torch
from hgenv.generators.random import uniforms
print(float(uniforms(torch.tensor([3]), 1)))
"""


def test_without_a_place_to_keep_it_code_is_compiled_anew_and_the_cure_is_named() -> None:
    def call(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)

    usual, without = call("\n".join(CODE.strip().splitlines()[2:])), call(CODE)
    assert without.returncode == 0, without.stderr
    assert without.stdout == usual.stdout != ""
    assert without.stderr.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1
    assert "NUMBA_CACHE_DIR" not in usual.stderr
