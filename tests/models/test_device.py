"""What a network runs on is where its arrays land, not what the machine has; and which GPUs have fused attention."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import pytest
from priorax.models import device
from priorax.models.attention import pick_implementation
from priorax.priors.device import default_device, on_cpu


@pytest.mark.parametrize("chosen", ["cpu", None])
def test_the_device_chosen_counts(chosen):
    with jax.default_device(chosen and jax.devices(chosen)[-1]):
        assert default_device() in jnp.zeros(1).devices()
    if chosen:
        with jax.default_device(chosen):
            assert default_device() in jnp.zeros(1).devices() and on_cpu()


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "wanted"),
    [
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", "cudnn"),
        ("gpu", "NVIDIA A100-SXM4-40GB", "8.0", "cudnn"),
        ("gpu", "NVIDIA GeForce RTX 2080 Ti", "7.5", "xla"),
        ("gpu", "NVIDIA something", None, "xla"),
        ("gpu", "AMD Instinct MI300X", "9.4", "xla"),
        ("cpu", "cpu", None, "xla"),
    ],
)
def test_fused_attention_where_it_can_run(monkeypatch, platform, kind, capability, wanted):
    """None of these GPUs is here: stand-ins say what JAX's devices say of themselves."""
    stand_in = types.SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(device, "default_device", lambda: stand_in)
    assert pick_implementation("auto", jnp.dtype("bfloat16"), 32) == wanted
    assert pick_implementation("auto", jnp.dtype("float32"), 32) == "xla"
