"""What `keep_memory` is for: memory that is freed and taken again costs no page faults."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from hgenv.memory import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(2**23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35),
    reason="older glibc keeps smaller blocks only, other C libraries have no such switch",
)
def test_freed_memory_is_kept() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    given_back, kept = map(int, result.stdout.split())
    assert kept < 0.05 * given_back
