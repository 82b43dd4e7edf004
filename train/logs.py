"""What a run says: ``metrics.jsonl`` always, a progress bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..configs.files import write_text


class MetricsFile:
    """Appends one JSON object a line; NaN and infinity are written as null."""

    def __init__(self, path: Path, resume_step: int | None = None):
        """Starts an empty file, or keeps the lines up to ``resume_step`` of an existing one."""
        kept = []
        if resume_step is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    break  # a torn last line
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", encoding="utf-8")  # lives as long as the run

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps({k: _plain(v) for k, v in values.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class Progress:
    """Progress of a run on stderr: a bar on a terminal, else a line every ``interval`` seconds."""

    def __init__(self, quiet: bool = False, interval: float = 10.0):
        self._bar: Any = None
        self._quiet, self._interval, self._last = quiet, interval, -math.inf
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("pretrain"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
                TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task("", total=1, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, total: int, note: str) -> None:
        """Shows where the run is."""
        if self._bar:
            self._bar.update(self._task, completed=step, total=total, note=note)
        elif not self._quiet and time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            print(f"pretrain: step {step}/{total}  {note}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar:
            self._bar.console.print(text, highlight=False)
        elif not self._quiet:
            print(f"pretrain: {text}", file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
