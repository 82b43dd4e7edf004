"""Fixtures for the estimator: a small network that has learned a little, and one whose weights are random."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

TINY = Path(__file__).parent / "tiny.safetensors"


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    """Weights of 31,000 parameters pretrained for 90 seconds by ``make_tiny.py``: fast, and better than guessing."""
    return TINY


@pytest.fixture(scope="module")
def few_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """One size for all small tables, and members one after the other: tests of what the estimator answers then share
    one program that reads contexts and one that answers rows, whatever the table and the number of members. What this
    takes away has tests of its own: the sizes of buckets (``test_buckets``), chunks of other sizes and members side by
    side (``test_estimator.py``).

    A module may say ``LEAST_ROWS = ...``; smaller contexts are padded to it."""
    from priorax.models import inference

    rows, columns = inference.context_bucket, inference.column_bucket
    least = getattr(request.module, "LEAST_ROWS", 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "CPU_BUDGET", 1)
        patch.setattr(inference, "QUERY_BUCKETS", (32,))
        patch.setattr(inference, "context_bucket", lambda n: max(least, rows(n)))
        patch.setattr(inference, "column_bucket", lambda d: max(16, columns(d)))
        yield


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of another shape that has learned nothing."""
    from priorax.models import ModelConfig, init_params, save_weights

    cfg = ModelConfig(width=16, heads=1, layers=2, hidden=16, decoder_hidden=16, thinking_rows=2, max_classes=5)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(path, cfg, init_params(cfg, seed=1), {})
    return path


@pytest.fixture(scope="module")
def quick_programs() -> Iterator[None]:
    """Programs that are compiled sooner and run slower, for files that compile many and run each once.

    What such files say holds for any correct compiler. All others have programs as users have them.
    """
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
