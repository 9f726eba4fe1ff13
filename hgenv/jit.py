"""Compiled code: numba's, kept on disk where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

logger = logging.getLogger(__name__)
_told = False


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` without the GIL, whose machine code is kept for the next process.

    Where neither the package's folder nor the user's cache folder can be written, each process compiles anew, and the
    log says so.

    Args:
        options: More of `numba.njit`'s.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError as error:  # no locator available
            _tell(error)
            return numba.njit(nogil=True, **options)(function)

    return compiled


def _tell(error: Exception) -> None:
    global _told  # once is enough
    if not _told:
        logger.warning(
            "compiled code cannot be kept here, so each process compiles anew, which takes up to a minute; set "
            "NUMBA_CACHE_DIR to a folder that can be written (%s)",
            error,
        )
    _told = True
