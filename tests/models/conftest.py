"""Fixtures for the estimator: a small network that has learned a little, and one whose weights are random."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = Path(__file__).parent / "tiny.safetensors"


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    """Weights of 31,000 parameters pretrained for 90 seconds by ``make_tiny.py``: fast, and better than guessing."""
    return TINY


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of another shape that has learned nothing."""
    from priorax.models import ModelConfig, init_params, save_weights

    cfg = ModelConfig(width=16, heads=1, layers=2, hidden=16, decoder_hidden=16, thinking_rows=2, max_classes=5)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(path, cfg, init_params(cfg, seed=1), {})
    return path
