"""The device that arrays of this package land on unless told otherwise."""

from __future__ import annotations

import jax


def default_device() -> jax.Device:
    """The one chosen with ``jax.default_device`` or ``jax_default_device``, else the first of the default platform.

    `jax.default_backend` knows nothing of that choice: on a machine with a GPU it says so inside
    ``with jax.default_device(jax.devices("cpu")[0])`` too.
    """
    chosen = jax.config.jax_default_device
    if chosen is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def on_cpu() -> bool:
    """Whether that device is a CPU."""
    return default_device().platform == "cpu"


def has_fused_attention() -> bool:
    """Whether it is a GPU of NVIDIA that has cuDNN's fused attention in 16 bits: compute capability 8.0 (Ampere) and above, by
    NVIDIA's documentation of cuDNN."""
    device = default_device()
    if device.platform != "gpu" or "nvidia" not in device.device_kind.lower():
        return False
    return float(getattr(device, "compute_capability", None) or 0) >= 8.0
