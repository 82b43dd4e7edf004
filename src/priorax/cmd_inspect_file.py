"""`priorax inspect checkpoint` and `priorax inspect dump`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from priorax import options, output
from priorax.configs.errors import ThresholdError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectCheckpoint(options.Common):
    """Shows what a weights file holds: network, limits, licence, recipe, hash; runs its self-test."""

    path: options.Positional[Path | None] = None
    """Weights file; the shipped ones when left out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.cmd_weights import describe
        from priorax.models import default_weights_path

        found = describe(self.path or default_weights_path(), verify=True)
        if self.json:
            output.emit_json(found)
            return
        _show(found | {"meta": _explained(found["meta"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectDump(options.Common):
    """Recognises a dump and checks the rules its readers rely on; names the first that is broken (exit code 7).

    Of a folder all data files are read; one that is damaged or missing is a broken rule too. Knows our Parquet, npz and CSV dumps (a file or the folder of `generate`), HDF5 prior dumps of nanoTabPFN and
    TFM-Playground, TabICL's saved batches, and prompts in JSON lines.
    """

    path: options.Positional[Path]
    """File or folder."""
    batch_size: int | None = None
    """Training batch size to check an HDF5 dump for; the one stored in it when left out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.priors.readers import inspect_dump

        last = time.monotonic()

        def tell(done: int, files: int) -> None:
            nonlocal last
            if time.monotonic() - last > 10 and done < files:
                last = time.monotonic()
                output.log(f"{done} of {files} files read")

        found = inspect_dump(self.path, self.batch_size, tell)
        if self.json:
            output.emit_json(found)
        else:
            _show(found)
        if found["problems"]:
            raise ThresholdError(f"{self.path}: {found['problems'][0]}")


def _explained(meta: dict[str, Any]) -> dict[str, Any]:
    """Facts of a header with what people may mistake in them spelled out."""
    from priorax.cmd_weights import tasks_over_runs

    told = dict(meta)
    tasks, runs, complete = tasks_over_runs(meta)
    if runs:
        told["tasks_seen"] = f"{meta['tasks_seen']:,} in this run"
    if runs > 1:
        told["tasks_seen"] += f"; {'' if complete else 'at least '}{tasks:,} with the runs before that the header names"
    if "trained_rows" in meta:
        told["trained_rows"] = f"{meta['trained_rows']:,} (context and query rows together)"
    return told


def _show(found: dict[str, Any], indent: str = "") -> None:
    for key, value in found.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], str):
            print(f"{indent}{key}:")
            for line in value:
                print(f"{indent}  {line}")
        else:
            print(f"{indent}{key:16} {value}")
