"""How much memory a piece of work needs at its peak."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures how far the resident memory of this process grows inside a ``with`` block.

    The kernel keeps the highest resident size of a process and forgets it on request (``man 5 proc``: VmHWM,
    clear_refs), so nothing is sampled and no peak is missed. Memory that earlier work freed but the process kept is
    used again without growing (a full garbage collection before every block would cost more than many a fit), so small
    figures are rounded towards nothing; threads count, child processes and the
    memory of a GPU do not.

    Attributes:
      megabytes: after the block, at least 0; NaN where the system cannot tell (anything but Linux).
    """

    megabytes: float = math.nan

    def __enter__(self) -> Self:
        try:
            _CLEAR.write_text("5")
            self._before = _kilobytes("VmRSS")
        except (OSError, ValueError):
            self._before = math.nan
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if math.isfinite(self._before):
            try:
                self.megabytes = max(0.0, _kilobytes("VmHWM") - self._before) / 1024
            except (OSError, ValueError):
                self.megabytes = math.nan


def _kilobytes(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1])
    raise ValueError(f"{_STATUS} has no {name}")
