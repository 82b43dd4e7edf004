"""Gives memory that was freed back to the system, now and then in a long run."""

from __future__ import annotations

import ctypes
import sys


def release_free_memory() -> bool:
    """Returns free pages of glibc's heaps to the system (``malloc_trim(3)``). True when there were any.

    Training programs of several shapes take turns, and each asks for its working memory at every call. Pieces of one size
    stay behind between those of another and the heap of a long run grows, most where the process keeps what it frees
    (`priorax.keep_memory`). Once a checkpoint is often enough to bound it and costs a page fault for each page used again.
    Nothing happens outside Linux with glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  another libc may have no malloc_trim
        return bool(libc.malloc_trim(0))
    except (OSError, AttributeError):
        return False
