"""The small trained network that the estimator's tests use too."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    return Path(__file__).parents[1] / "models" / "tiny.safetensors"
