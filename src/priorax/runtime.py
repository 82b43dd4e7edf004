"""Settings of the process: devices, compile cache, versions. The one place that touches JAX's environment.

`prepare` must run before jax is imported, since XLA reads its flags once; the command line calls it first of all.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from priorax.allocator import keep_memory
from priorax.configs.errors import ConfigError, MissingError

DEVICES = ("auto", "cpu", "gpu", "tpu")


def cpu_count() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(device: str = "auto", host_devices: int = 1, keeps_memory: bool = False) -> None:
    """Chooses the platform, the compile cache and how memory is freed. No effect on settings the user's environment already makes.

    Args:
      device: ``auto`` takes what JAX finds; ``cpu``, ``gpu`` or ``tpu`` insist.
      host_devices: devices to split the CPU into. One device per core keeps the cores busier than one device
        with several threads when the work is many small tables.
      keeps_memory: call `priorax.keep_memory`.

    Raises:
      ConfigError: jax is already imported and its settings can no longer be changed; or the device is unknown.
    """
    if device not in DEVICES:
        raise ConfigError(f"device is {device!r}; allowed: {', '.join(DEVICES)}")
    if "jax" in sys.modules and (device != "auto" or host_devices > 1):
        import jax

        if device == "auto" or jax.default_backend() == device:
            return
        raise ConfigError(f"device {device} was asked for after JAX had started on {jax.default_backend()}")
    if device != "auto":
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda", "cpu": "cpu", "tpu": "tpu"}[device]
    flags = os.environ.get("XLA_FLAGS", "")
    if host_devices > 1 and "xla_force_host_platform_device_count" not in flags:
        flags = f"{flags} --xla_force_host_platform_device_count={host_devices}".strip()
        if host_devices >= cpu_count() and "xla_cpu_multi_thread_eigen" not in flags:
            # A device per core keeps every core busy; products shared out among threads would fight over them.
            flags += " --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = flags
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter on stderr
    if keeps_memory:
        keep_memory()  # before JAX starts threads, which would bring heaps of their own
    from priorax.models.compile_cache import enable_compile_cache

    enable_compile_cache()


def devices(asked: str = "auto") -> list[Any]:
    """JAX's devices.

    Raises:
      MissingError: the device asked for is not there.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of CUDA where it is not there, without a word
        extra = {"gpu": ' Installed jaxlib has no CUDA plugin? pip install "priorax[cuda]".',
                 "tpu": ' For a TPU: pip install "priorax[tpu]".'}.get(asked, "")  # fmt: skip
        first = (str(error).splitlines() or ["JAX does not find one"])[0]
        raise MissingError(f"device {asked} is not available: {first}.{extra}") from None


def versions() -> dict[str, str]:
    """Versions of Python, this package and what its numbers depend on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in ("priorax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "safetensors",
                 "pyarrow", "h5py", "pandas", "openml", "torch", "tabicl"):  # fmt: skip
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the checkout this code runs from, with ``-dirty`` when changed; None in an installed wheel."""
    import priorax.configs

    folder = Path(priorax.configs.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        run = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
                             capture_output=True, text=True, timeout=10)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


def environment() -> dict[str, Any]:
    """Versions, devices and machine of this run, for `env.json` (starts JAX)."""
    import jax

    found = jax.devices()
    return {
        "versions": versions(),
        "commit": commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_cores": cpu_count(),
        "memory_gb": memory_gb(),
        "device_kind": found[0].device_kind,
        "device_platform": found[0].platform,
        "device_count": len(found),
    }


def memory_gb() -> float | None:
    """Main memory of the machine in GB, None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    import resource

    try:  # getrusage starts from the size of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
