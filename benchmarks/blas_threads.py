"""What keeping BLAS on one thread is worth to `PFNClassifier.fit`: ridge scores with and without `one_blas_thread`.

    python benchmarks/blas_threads.py [--sizes 500x30 1000x20] [--repeats 5] [--busy 0 1]

``--busy`` is how many other processes multiply matrices meanwhile. With and without alternate in one process, so that both meet
the same machine. Seconds of `RidgeScores.fit_transform`, all kinds, two classes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from priorax.models.ridge_scores import KINDS, RidgeScores
from sklearn.datasets import make_classification

from priorax import runtime

BUSY = "import numpy\na = numpy.ones((500, 500))\nwhile True: a @ a"


def measure(rows: int, columns: int, repeats: int) -> dict[str, list[float]]:
    x, y = make_classification(rows, columns, n_informative=columns // 2, flip_y=0.1, random_state=0)
    x, cardinality = x.astype(np.float32), np.zeros(columns, np.int32)
    ways = {"one_thread": RidgeScores.fit_transform, "default": RidgeScores.fit_transform.__wrapped__}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, fit in ways.items():
            start = time.perf_counter()
            fit(RidgeScores(KINDS, 0), x, y, cardinality)
            seconds[way].append(round(time.perf_counter() - start, 3))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["500x30", "1000x20"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, help="a JSON file for all seconds and the machine")
    args = parser.parse_args()
    found = []
    for busy in args.busy:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for size in args.sizes:
                rows, columns = map(int, size.split("x"))
                seconds = measure(rows, columns, args.repeats)
                middle = {way: float(np.median(times)) for way, times in seconds.items()}
                found.append({"rows": rows, "columns": columns, "busy": busy, "median": middle, "seconds": seconds})
                ratio = middle["default"] / middle["one_thread"]
                print(
                    f"{size:8} {busy} busy: "
                    + ", ".join(f"{w} {m:.2f} s" for w, m in middle.items())
                    + f", {ratio:.1f} times",
                    flush=True,
                )
        finally:
            for other in others:
                other.kill()
                other.wait()
    if args.out:
        args.out.write_text(json.dumps({"environment": runtime.environment(), "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
