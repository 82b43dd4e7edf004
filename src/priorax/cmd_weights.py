"""`priorax weights`: which weights are here, where, and whether they are intact."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from priorax import options, output


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsList(options.Common):
    """Lists the weights that ship with the package, with licence, size and hash."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.models import default_weights_path

        folder = default_weights_path().parent
        rows = [describe(path) for path in sorted(folder.glob("*.safetensors"))]
        if self.json:
            output.emit_json(rows)
            return
        cells = [
            (r["name"], r["licence"], f"{r['parameters']:,}", f"{r['bytes'] / 1e6:.2f} MB", r["sha256"][:12])
            for r in rows
        ]
        print(output.table(cells, ("name", "licence", "parameters", "size", "sha256")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsPath(options.Common):
    """Prints the path of the weights that ship with the package."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.models import default_weights_path

        path = default_weights_path()
        if self.json:
            output.emit_json({"path": path})
        else:
            print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsVerify(options.Common):
    """Checks a weights file: checksums, shapes, and a forward pass whose result is stored in the file.

    Exit code 3 when the file is damaged, 6 when this machine computes something else.
    """

    path: options.Positional[Path | None] = None
    """Weights file; the shipped ones when left out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.models import default_weights_path, load_weights

        path = self.path or default_weights_path()
        weights = load_weights(path, verify=True)
        result = {"path": path, "sha256": weights.sha256, "ok": True}
        if self.json:
            output.emit_json(result)
        else:
            print(f"{path}: intact, self-test passed (sha256 {weights.sha256[:16]})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsPack(options.Common):
    """Splits the training state of a run into parts of at most 16 MB with checksums, to move it to another machine."""

    run_dir: options.Positional[Path]
    """Run directory of priorax pretrain."""
    out: Path
    """Directory for the parts; empty or absent."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.train.pack import pack

        files = pack(self.run_dir, self.out)
        result = {"files": [str(f) for f in files], "bytes": sum(f.stat().st_size for f in files)}
        if self.json:
            output.emit_json(result)
        else:
            print(
                f"{len(files)} files, {result['bytes'] / 1e6:.2f} MB in {self.out}; priorax weights unpack joins them"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsUnpack(options.Common):
    """Joins the parts that `weights pack` made into a run directory that `pretrain --resume` takes up."""

    parts: options.Positional[Path]
    """Directory of the parts."""
    out: Path
    """Run directory to make; empty or absent."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.train.pack import unpack

        made = unpack(self.parts, self.out)
        if self.json:
            output.emit_json({"run": str(made)})
        else:
            recipe, run = shlex.quote(str(made / "config.yaml")), shlex.quote(str(made))
            print(f"{made}: go on with priorax pretrain --recipe {recipe} --out {run} --resume")


def describe(path: Path, verify: bool = False) -> dict[str, Any]:
    """Facts about a weights file."""
    from priorax.configs.load import to_dict
    from priorax.models import count_params, load_weights

    weights = load_weights(path, verify=verify)
    meta = dict(weights.meta)
    return {
        "name": path.stem,
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": weights.sha256,
        "parameters": int(count_params(weights.params)),
        "licence": meta.pop("licence", None),
        "limits": meta.pop("limits", None),
        "self_test": "passed" if verify else "not run",
        "config": to_dict(weights.cfg),
        "meta": meta,
    }


def tasks_over_runs(meta: dict[str, Any]) -> tuple[int, int, bool]:
    """Tasks seen by a network over the runs its header names, how many those are, and whether they are all there were.

    A header says what its own run saw and which weights that run started from. Those of earlier versions name
    the run before alone, not where that one came from, so that their total is a lower bound.
    """
    tasks, runs, here = 0, 0, meta
    while isinstance(here.get("tasks_seen"), int):
        tasks, runs = tasks + here["tasks_seen"], runs + 1
        before = here.get("started_from")
        if not isinstance(before, dict):
            return tasks, runs, here is meta or "started_from" in here
        here = before
    return tasks, runs, False
