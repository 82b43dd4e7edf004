"""Keeps compiled programs on disk, so that only the first process on a machine pays for compiling a shape."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax


def cache_dir() -> Path | None:
    """The per-user folder for things this package may keep; None when ``PRIORAX_CACHE_DIR`` is set to ``off``.

    ``PRIORAX_CACHE_DIR`` if set, else the platform's cache folder (``XDG_CACHE_HOME`` or ``~/.cache`` on Linux).
    """
    chosen = os.environ.get("PRIORAX_CACHE_DIR", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "priorax"
    try:
        home = Path.home()
    except RuntimeError:  # no home folder is known: run without a cache
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "priorax"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "priorax"


def enable_compile_cache() -> Path | None:
    """Turns JAX's persistent compilation cache on, unless the user has already decided about it.

    A folder set through ``JAX_COMPILATION_CACHE_DIR`` or ``jax.config`` is respected, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` too. Safe to call many times and in many processes; a folder that cannot be
    written is skipped without complaint, since only time is lost.

    Returns:
      The folder in use, or None when there is none.
    """
    if not jax.config.jax_enable_compilation_cache:
        return None
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    base = cache_dir()
    if base is None:
        return None
    folder = base / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    # JAX decides once, at the first compilation, whether there is a cache; something may have compiled before this.
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    return folder
