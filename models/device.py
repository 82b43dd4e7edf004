"""What the device in use can do."""

from __future__ import annotations

from ..priors.device import default_device


def has_fused_attention() -> bool:
    """Whether it is a GPU of NVIDIA that has cuDNN's fused attention in 16 bits: compute capability 8.0 (Ampere) and above, by
    NVIDIA's documentation of cuDNN."""
    device = default_device()
    if device.platform != "gpu" or "nvidia" not in device.device_kind.lower():
        return False
    return float(getattr(device, "compute_capability", None) or 0) >= 8.0
