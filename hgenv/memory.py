"""How the C library handles freed memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from malloc.h
_MOST, _MOST_OF_OLDER = 2**30, 2**25  # glibc before 2.35 refuses to keep single blocks above the second


def keep_memory() -> None:
    """Have glibc keep what this process frees, up to a GiB, for the next allocation; elsewhere without effect.

    By default large tensors go back to the system when they are freed, and come back page by page, at every update.
    For processes of one's own: runs, worker processes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _MOST)
        if not mallopt(_MMAP_THRESHOLD, _MOST):
            mallopt(_MMAP_THRESHOLD, _MOST_OF_OLDER)
