"""Lets a process keep the memory it frees, which on a CPU saves some of the time of predictions, more where tables are wide."""

from __future__ import annotations

import ctypes
import os
import sys

_SETTINGS = {  # of mallopt(3): its number, its value, and what its variable says to processes started later
    "MALLOC_TRIM_THRESHOLD_": (-1, -1, str(2**62)),  # -1: never
    "MALLOC_TOP_PAD_": (-2, 64 << 20, str(64 << 20)),
    "MALLOC_MMAP_MAX_": (-4, 0, "0"),
    "MALLOC_ARENA_MAX": (-8, 1, "1"),
}


def keep_memory() -> bool:
    """Makes glibc's allocator serve large arrays from memory that was freed before. True when it does so from now
    on.

    A program of XLA:CPU asks for its working memory at every call and gives it back at the end; by default glibc
    maps and unmaps such large pieces each time, and the kernel fills them with zeros page by page. That is a tenth of
    the time or so, more where tables are wide.

    It is for processes that predict or sample, not for those that train. A training program runs for seconds and asks for
    its working memory once, so nothing is gained; and where a process has first compiled such programs or loaded
    many tables, its one heap is in so many pieces that the search for a free one can cost more than the training
    (seen once: half of all samples of a profile in ``malloc``, a fifth of the tasks a second).

    It holds for the whole process and those it starts: memory once used is given back to the system only when the
    process ends. The command line calls it where it predicts, evaluates or generates; in a process of yours it is for you
    to decide, best before JAX starts its threads, whose heaps are otherwise their own and half of the gain is lost.
    Nothing happens, and False is returned, outside Linux with glibc, where the environment already sets one of ``MALLOC_TRIM_THRESHOLD_``,
    ``MALLOC_TOP_PAD_``, ``MALLOC_MMAP_MAX_``, ``MALLOC_ARENA_MAX``, or where ``PRIORAX_KEEP_MEMORY`` is ``off``.
    """
    if sys.platform != "linux" or os.environ.get("PRIORAX_KEEP_MEMORY", "").lower() == "off":
        return False
    wanted = {name: text for name, (_, _, text) in _SETTINGS.items()}
    present = {name: os.environ[name] for name in wanted if name in os.environ}
    if present and present != wanted:
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  another libc may have a mallopt that means something else
        done = [bool(libc.mallopt(number, value)) for number, value, _ in _SETTINGS.values()]
    except (OSError, AttributeError):
        return False
    os.environ.update(wanted)
    return all(done)
