"""What a command leaves behind: results on stdout, logs on stderr, files that are whole or absent."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from priorax.configs.errors import ConfigError, PrioraxError
from priorax.configs.files import replacing as replacing
from priorax.configs.files import write_text as write_text


class Interrupted(PrioraxError):
    """SIGINT or SIGTERM arrived and the work was saved; exit code 130 or 143."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


_mode = {"quiet": False, "json": False}


def set_logging(quiet: bool, json_lines: bool) -> None:
    """How `log` and `log_event` write for the rest of the process. Errors appear whatever is chosen."""
    _mode.update(quiet=quiet, json=json_lines)
    warnings.showwarning = _show_warning


def log(message: str) -> None:
    """One line on stderr."""
    if _mode["json"]:
        log_event("log", message=message)
    elif not _mode["quiet"]:
        print(message, file=sys.stderr, flush=True)


def log_event(event: str, **fields: Any) -> None:
    """One event on stderr: readable, or one JSON object a line. Field names are only ever added to."""
    if _mode["quiet"]:
        return
    if _mode["json"]:
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"ts": stamp, "event": event, **jsonable(fields)}, allow_nan=False)
    else:
        line = f"{event}: {', '.join(f'{k} {_short(v)}' for k, v in fields.items())}"
    print(line, file=sys.stderr, flush=True)


_warned: set[str] = set()


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """A warning as one line; those that differ in numbers only are shown once."""
    kind = f"{category.__name__}:{re.sub(r'[0-9]+', '#', str(message))}"
    if kind not in _warned:
        _warned.add(kind)
        log(f"warning: {message}")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


def emit_json(result: Any) -> None:
    """The result as one JSON object on stdout; NaN becomes null, since JSON has no NaN."""
    print(json.dumps(jsonable(result), indent=2, allow_nan=False))


def jsonable(value: Any) -> Any:
    """Plain Python of a nested result: paths to text, arrays to lists, NaN and infinities to None."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Plain aligned text: first column left, the others right."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: list[str]) -> str:
        return "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))

    return "\n".join([line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])])


def open_out(out: Path, command: str, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Makes the output directory of a command ready.

    Commands write `run.json` right after this, so a folder that holds something else only is somebody's own: it is neither
    deleted nor written into. Nor is what another command made.

    Raises:
      ConfigError: it is a file; or it holds something and neither ``overwrite`` nor ``resume`` was given; or both were;
        or what it holds was not made by this command of priorax; or it cannot be created.
    """
    out = Path(out).expanduser()
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a directory")
    if out.exists() and any(not _unfinished(p) for p in out.iterdir()):
        if not overwrite and not resume:
            raise ConfigError(f"{out} is not empty. Use --resume, --overwrite or another --out.")
        other = _made_by(out)
        if other not in (None, command):
            verb = "delete it" if overwrite else "write into it"
            raise ConfigError(
                f"{out} was made by priorax {other}, so priorax {command} will not {verb}; give another --out, or remove the folder yourself"
            )
        if overwrite and not (out / RUN_FILE).is_file():
            raise ConfigError(f"{out} was not made by priorax (no {RUN_FILE}), so --overwrite will not delete it")
        if resume and not any(all((out / n).exists() for n in names) for names in ((RUN_FILE,), FROM_PYTHON.get(command, (RUN_FILE,)))):
            raise ConfigError(
                f"{out} was not made by priorax (no {RUN_FILE}), so --resume will not write into it: there is nothing to go on "
                "with. Give the --out of the run to resume, or a new one without --resume"
            )
        if overwrite:
            shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create --out {out}: {error.strerror}") from None
    if not os.access(out, os.W_OK):
        raise ConfigError(f"--out {out} is not writable")
    return out


RUN_FILE = "run.json"

FROM_PYTHON = {"generate": ("dump.json",), "pretrain": ("prior.yaml", "checkpoints"), "evaluate": ("evaluation.json",)}
"""What `write_dump`, `pretrain` (or `unpack`) and `evaluate` leave in a folder when they are called without a command, which may
go on with it."""


def _made_by(out: Path) -> str | None:
    """The command that made a folder, where it says so."""
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8")).get("command")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _unfinished(path: Path) -> bool:
    """Whether a file is what a kill in the middle of `write_run` leaves."""
    return path.name.startswith(f".{RUN_FILE}.") and path.name.endswith(".tmp")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(jsonable(value), indent=2, sort_keys=True) + "\n")


def write_run(out: Path, command: str, settings: dict[str, Any]) -> None:
    """Writes `run.json`: which command made this folder and with which settings."""
    write_json(out / RUN_FILE, {"command": command, **settings})


def check_out_file(path: Path, overwrite: bool) -> Path:
    """The same rule for a command that writes one file."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise ConfigError(f"--out {path} is a directory; give a file")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists. Use --overwrite or another --out.")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: the folder {path.parent} does not exist")
    return path


class Progress:
    """A bar on a terminal, a plain line every few seconds otherwise, nothing when quiet. All on stderr."""

    def __init__(self, total: int, unit: str, done: int = 0, every_s: float = 10.0) -> None:
        self.total, self.unit, self.done, self.every_s = total, unit, done, every_s
        self.first, self.start = done, time.monotonic()
        self.last = self.start - every_s
        self.bar = None
        if sys.stderr.isatty() and not _mode["quiet"] and not _mode["json"]:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[extra]}"),
                                TimeRemainingColumn(), console=Console(stderr=True), transient=True)  # fmt: skip
            self.row = self.bar.add_task(unit, total=total, completed=done, extra="")
            self.bar.start()

    def restart(self) -> None:
        """What was done so far, and the time it took, no longer count for the rate."""
        self.first, self.start = self.done, time.monotonic()

    def rate(self) -> float:
        return (self.done - self.first) / max(time.monotonic() - self.start, 1e-9)

    def advance(self, n: int, extra: str = "") -> None:
        self.done += n
        text = (
            f"{self.done:,}/{self.total:,} {self.unit}, {self.rate():,.0f} {self.unit}/s{', ' if extra else ''}{extra}"
        )
        if self.bar is not None:
            self.bar.update(self.row, completed=self.done, extra=text)
        elif time.monotonic() - self.last >= self.every_s:
            left = (self.total - self.done) / max(self.rate(), 1e-9)
            log(f"{text}, {left:.0f} s left")
            self.last = time.monotonic()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def unfiltered(prior: Any) -> str:
    """What to tell of tasks of a prior that are drawn one by one."""
    return (
        f"note: prior {prior.name} has oversample {prior.oversample:g}, which chooses learnable tasks among candidates of a training step; "
        "tasks drawn by their numbers are all there are, learnable or not (`generate --with-info` says which)"
    )
