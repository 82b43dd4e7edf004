"""What the dump formats cost: size of a task on disk, and how fast files are written beside how fast tasks are drawn.

    python benchmarks/writers.py [--shapes 256x10 1024x20] [--tasks 2048] [--formats parquet hdf5] [--out result.json]

For each shape the tasks are drawn once, to compile, and once more for the rate of the sampler with records made on the
host (what every format waits for). Then each format writes tasks that are already there, which is the rate of the writer
alone, and finally a whole dump (`write_dump`: drawing, writing, hashing, manifest). Megabytes are 10^6 bytes: of the files, and
of what they hold (f32 cells and labels in use). Least, median and most of ``--repeats`` runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from priorax.configs.prior import load_prior
from priorax.priors import dump
from priorax.priors.writers import FORMATS, PartInfo


def times(run: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each run, sorted."""
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        out.append(time.perf_counter() - start)
    return sorted(out)


def rates(seconds: list[float], amount: float) -> dict[str, float]:
    """Amount per second: least, median, most."""
    low, middle, high = amount / seconds[-1], amount / statistics.median(seconds), amount / seconds[0]
    return {"min": round(low, 1), "median": round(middle, 1), "max": round(high, 1)}


def point(form: str, rows: int, columns: int, tasks: int, repeats: int, graph: bool) -> dict[str, Any]:
    """Rates and sizes of one format at one shape."""
    extras = FORMATS[form].with_extras and graph
    missing = "keep" if FORMATS[form].holds_nan else "impute"
    spec = dump.DumpSpec(
        load_prior("default"), n_tasks=tasks, rows=rows, columns=columns, format=form, missing=missing, with_graph=extras
    )
    chunks = list(dump.chunks(spec, range(tasks)))  # compiles
    drawn = times(lambda: list(dump.chunks(spec, range(tasks))), repeats)
    held = sum(t.x.size * 4 + t.y.size * 4 for chunk in chunks for t in chunk) / 1e6
    info = PartInfo("part", 0, rows, columns, spec.prior.sizes.classes, spec.group_size, extras)
    with tempfile.TemporaryDirectory() as folder:
        wrote = times(lambda: FORMATS[form].write(Path(folder), iter(chunks), info), repeats)
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e6

    def whole() -> None:
        out = Path(tempfile.mkdtemp())
        dump.write_dump(spec, out)
        shutil.rmtree(out)

    return {
        "format": form, "graphs": extras, "rows": rows, "columns": columns, "tasks": tasks, "kb_per_task": round(1e3 * size / tasks, 2),
        "file_share_of_cells": round(size / held, 2), "draw_tasks_per_s": rates(drawn, tasks),
        "write_tasks_per_s": rates(wrote, tasks), "write_file_mb_per_s": rates(wrote, size),
        "write_held_mb_per_s": rates(wrote, held), "dump_tasks_per_s": rates(times(whole, repeats), tasks),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["256x10", "1024x20"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--tasks", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--graphs", action="store_true", help="store causal graphs where the format has a place for them")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    points = []
    for shape in args.shapes:
        rows, columns = map(int, shape.split("x"))
        for form in args.formats:
            points.append(found := point(form, rows, columns, args.tasks, args.repeats, args.graphs))
            draw, write, both = (found[f"{k}_tasks_per_s"]["median"] for k in ("draw", "write", "dump"))
            print(
                f"{shape:8} {form:11} {found['kb_per_task']:8.2f} kB/task  draw {draw:8.0f}  write {write:8.0f}  dump {both:8.0f} tasks/s"
                f"  file {found['write_file_mb_per_s']['median']:7.1f} MB/s  cells {found['write_held_mb_per_s']['median']:7.1f} MB/s",
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps(points, indent=1) + "\n")


if __name__ == "__main__":
    main()
