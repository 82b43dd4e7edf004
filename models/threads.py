"""Linear algebra of the estimator on one thread of BLAS.

BLAS shares a product out among all cores, however small it is, and its threads spin while they wait for one another. For the
matrices here, of a thousand rows for the most part, that gains nothing on two idle cores, and on a busy machine it costs far more than
the work itself: `python benchmarks/blas_threads.py` measures both (docs/estimator.md; machines of many cores were not at hand).
scikit-learn does the same around its KMeans.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_owner = threading.Lock()


@functools.cache
def _libraries() -> ThreadpoolController:
    """NumPy's BLAS and SciPy's; looking for them takes 20 ms, so once."""
    import scipy.linalg.blas  # noqa: F401  one that is loaded later would be missed

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, BLAS has one thread; afterwards as many as before. A context manager and a decorator; may be nested.

    The limit holds for the whole process. Of several threads of the user that are inside at once, the one that set it lifts it when
    it leaves, and the others go on with as many as there are then: were each to restore what it had found, the process could be left
    with one for ever.
    """
    if not _owner.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _owner.release()
