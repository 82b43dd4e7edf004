"""Which temperature, member transforms, ensemble size and share of the score stack predict best, on development sets.

    python benchmarks/tune_ensemble.py --openml-cache DIR --out tune/ [--suite dev32] [--model FILE] [--members 8]

The network runs once per (data set, split, transform), with as many members as the largest ensemble asked for; its
logits are kept in the output folder, so a killed run goes on where it was. Every setting is then a different way to
combine the same logits, which gives what `PFNClassifier` with that setting gives. Data sets with more columns than one
member sees are left out (small ensembles are enlarged for them). Settings are compared with
today's defaults, paired by data set: mean difference over data sets with a 95 % bootstrap interval, wins and losses.

Use it on sets that are not reported: a default chosen on the sets of a leaderboard makes that leaderboard too good.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from priorax.configs.errors import DataError, PrioraxError
from priorax.configs.eval import PROTOCOLS
from priorax.configs.files import replacing, write_text
from priorax.eval.identity import data_digest, digest_of, split_digest
from priorax.eval.metrics import HIGHER_IS_BETTER, score
from priorax.eval.splits import apply_protocol
from priorax.eval.statistics import bootstrap_mean
from priorax.eval.suites import load_suite, rows_of
from priorax.models import PFNClassifier
from priorax.models.ensemble import TRANSFORMS, Member, combine
from priorax.models.inference import get_engine
from priorax.models.score_stack import pool

METRICS = ("log_loss", "roc_auc", "accuracy", "ece")


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """One way to combine members.

    Attributes:
      transforms: of the members, cyclically, as ``PFNClassifier(numeric_transforms=...)``.
      n_estimators: members.
      temperature: of the softmax.
      stack_weight: of the logistic regression on ridge scores.
    """

    transforms: tuple[str, ...]
    n_estimators: int
    temperature: float
    stack_weight: float

    def __str__(self) -> str:
        return f"{'+'.join(self.transforms)} x{self.n_estimators} T={self.temperature:g} w={self.stack_weight:g}"


@dataclasses.dataclass(frozen=True)
class Logits:
    """What all members said about the test rows of a split.

    Attributes:
      y: i64[q], position of each test row's class among the classes of the training rows, -1 for a class not there.
      members: of one transform; those of the others differ in the transform alone.
      logits: transform -> member -> f64[q, n_symbols].
      per_estimator: members that one of ``n_estimators`` stands for (more than 1 beyond the limits of the weights).
      stack: f64[q, K], what the regression on ridge scores says; no rows where there are no scores.
    """

    y: np.ndarray
    members: list[Member]
    logits: dict[str, list[np.ndarray]]
    per_estimator: int
    stack: np.ndarray

    def probabilities(self, setting: Setting) -> np.ndarray:
        """f64[q, K], what the estimator with this setting predicts."""
        count = min(setting.n_estimators * self.per_estimator, len(self.members))
        said = []
        for m in range(count):
            z = self.logits[setting.transforms[m % len(setting.transforms)]][m] / setting.temperature
            p = np.exp(z - z.max(1, keepdims=True))
            said.append(p / p.sum(1, keepdims=True))
        p = combine(self.members[:count], said)
        return pool(p, self.stack, setting.stack_weight) if len(self.stack) and setting.stack_weight else p


def run_members(X: Any, y: np.ndarray, X_test: Any, categorical: Any, options: dict[str, Any], kinds: Sequence[str]):
    """(members, transform -> logits of every member, what the stack says) of one split; y i64[n] in 0 .. K-1 without gaps.

    Raises:
      DataError: more columns than one member sees.
    """
    logits, members, stack = {}, [], np.zeros((0, 0))
    for kind in kinds:
        model = PFNClassifier(categorical_features=categorical, numeric_transforms=(kind,), **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y)
            if len(model.members_[0].columns) < model._x.shape[1]:
                raise DataError(f"{model._x.shape[1]} columns, one member sees {len(model.members_[0].columns)}")
            x = model._encode(X_test)
            scores = model._ridge.apply(x)
            logits[kind] = model._logits(x, scores)
        members = model.members_
        if model._stack is not None:
            stack = model._stack.probabilities(scores)
    return members, logits, stack


def gather(args: argparse.Namespace, tell: Any) -> Iterator[tuple[str, Logits]]:
    """(name of the data set, logits) of every split, read back where an earlier run left them."""
    suite = load_suite(args.suite, args.openml_cache)
    folder = args.out / "logits" / get_engine(args.model).sha256[:12]
    folder.mkdir(parents=True, exist_ok=True)
    encodings = "-".join(PFNClassifier().category_encodings + PFNClassifier().ridge_scores)
    options = {"n_estimators": args.members, "weights": args.model, "random_state": args.seed, "cache_context": False}
    for task in args.tasks or suite.ids:
        try:
            data, splits, note = apply_protocol(suite.load(task), PROTOCOLS[args.protocol], args.seed)
        except PrioraxError as error:
            tell(f"{task}: left out: {error}")
            continue
        if note:
            tell(f"{data.name}: {note}")
        whole = data_digest(data)
        for split in splits[: args.folds]:
            rows = split_digest(whole, split)
            stem = digest_of([rows, split.repeat, split.fold, args.protocol, args.seed, args.members, encodings])
            kept, y = np.unique(data.y[split.train], return_inverse=True)
            place = np.full(len(data.classes), -1)
            place[kept] = np.arange(len(kept))
            start = time.perf_counter()
            parts = rows_of(data.X, split.train), y, rows_of(data.X, split.test)
            make = functools.partial(run_members, *parts, data.categorical, options, args.kinds)
            try:
                members, logits, stack = _stored(folder / f"{stem}.npz", args.kinds, make)
            except DataError as error:
                tell(f"{data.name}: left out: {error}")
                break
            tell(f"{data.name} {split.repeat}.{split.fold}: {len(members)} members, {time.perf_counter() - start:.1f} s")
            yield data.name, Logits(place[data.y[split.test]], members, logits, max(1, len(members) // args.members), stack)


def _stored(path: Path, kinds: Sequence[str], make: Any) -> tuple[list[Member], dict[str, list[np.ndarray]], np.ndarray]:
    if path.is_file():
        with np.load(path) as file:
            if "stack" in file and set(file["kinds"].tolist()) >= set(kinds):
                return _unpack(file, kinds)
    members, logits, stack = make()
    arrays = {"kinds": np.array(kinds), "count": np.array(len(members)), "stack": stack}
    for m, member in enumerate(members):
        arrays |= {f"symbol{m}": member.symbol, f"own{m}": member.own}
        arrays |= {f"{kind}{m}": logits[kind][m].astype(np.float32) for kind in kinds}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    return members, logits, stack


def _unpack(file: Any, kinds: Sequence[str]) -> tuple[list[Member], dict[str, list[np.ndarray]], np.ndarray]:
    none = np.zeros(0, np.int64)
    count = range(int(file["count"]))
    members = [
        Member(none, none, file[f"symbol{m}"], file[f"own{m}"], int(file[f"symbol{m}"].max()) + 1, "none") for m in count
    ]
    return members, {kind: [file[f"{kind}{m}"].astype(np.float64) for m in count] for kind in kinds}, file["stack"]


def scores_of(found: Logits, setting: Setting) -> dict[str, float]:
    """The metrics of one split; test rows of classes the training rows lack count as wrong with probability 0."""
    p = found.probabilities(setting)
    if (found.y < 0).any():  # one more class that nobody predicts
        p = np.c_[p, np.zeros(len(p))]
    values, _ = score(np.where(found.y < 0, p.shape[1] - 1, found.y), p)
    return {metric: values[metric] for metric in METRICS}


def compare(table: dict[Setting, np.ndarray], base: Setting, metric: str, seed: int) -> list[dict[str, Any]]:
    """One row per setting, best first: mean over data sets, difference to ``base`` (positive: better), its interval.

    Args:
      table: setting -> f64[data sets].
    """
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    rows = []
    for setting, values in table.items():
        gain = sign * (values - table[base])
        gain = gain[np.isfinite(gain)]
        low, high = bootstrap_mean(gain, seed)
        rows.append({
            "setting": str(setting), "metric": metric, "mean": float(np.nanmean(values)), "gain": float(gain.mean()),
            "ci_low": low, "ci_high": high, "wins": int((gain > 1e-9).sum()), "losses": int((gain < -1e-9).sum()),
            "data_sets": len(gain),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["gain"])


def defaults() -> Setting:
    """What `PFNClassifier()` does today."""
    model = PFNClassifier()
    return Setting(tuple(model.numeric_transforms), model.n_estimators, model.softmax_temperature, model.stack_weight)


def settings(args: argparse.Namespace, base: Setting) -> list[Setting]:
    """All combinations asked for, and the defaults."""
    asked = itertools.product(args.transforms, args.n_estimators, args.temperatures, args.stack_weights)
    return sorted({Setting(*each) for each in asked} | {base})


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    base = defaults()
    chosen = settings(args, base)
    per_split: dict[str, list[dict[Setting, dict[str, float]]]] = {}
    for name, found in gather(args, lambda text: print(text, file=sys.stderr, flush=True)):
        per_split.setdefault(name, []).append({setting: scores_of(found, setting) for setting in chosen})
    if not per_split:
        print("no data set could be used", file=sys.stderr)
        return 3
    report: dict[str, Any] = {
        "weights": get_engine(args.model).sha256, "suite": str(args.suite), "protocol": args.protocol, "seed": args.seed,
        "data_sets": list(per_split), "splits": sum(map(len, per_split.values())), "base": str(base), "tables": {},
        "values": {},
    }  # fmt: skip
    for metric in METRICS:
        table = {
            s: np.array([np.nanmean([split[s][metric] for split in splits]) for splits in per_split.values()])
            for s in chosen
        }
        rows = compare(table, base, metric, args.seed)
        report["tables"][metric] = rows
        report["values"][metric] = {str(s): values.tolist() for s, values in table.items()}
        print(f"\n{metric}: gain over {base} on {len(per_split)} data sets (positive is better)")
        for row in rows[: args.show]:
            print(f"  {row['setting']:34} mean {row['mean']:.4f}  gain {row['gain']:+.4f} "
                  f"[{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]  {row['wins']}:{row['losses']}")  # fmt: skip
    write_text(args.out / "tune.json", json.dumps(report, indent=1) + "\n")
    print(f"\nall settings and data sets: {args.out / 'tune.json'}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for logits and tune.json; kept between runs")
    parser.add_argument("--suite", default="dev32", help="as for priorax evaluate")
    parser.add_argument("--tasks", nargs="*", help="only these ids of the suite")
    parser.add_argument("--openml-cache", type=Path, help="offline OpenML cache")
    parser.add_argument("--protocol", default="small", choices=sorted(PROTOCOLS))
    parser.add_argument("--folds", type=int, default=5, help="splits used per data set")
    parser.add_argument("--model", type=Path, help="weights file; the shipped ones when left out")
    parser.add_argument("--members", type=int, default=8, help="members to run, the most of --n-estimators")
    parser.add_argument("--n-estimators", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 0.8, 0.9, 1.0, 1.1])
    parser.add_argument("--stack-weights", type=float, nargs="+", default=[defaults().stack_weight])
    parser.add_argument("--transforms", nargs="+", default=["none", "quantile", "power", "none+quantile", "none+power"],
                        help="each a list of transforms joined by +")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=8, help="rows printed per metric")
    args = parser.parse_args(argv)
    args.transforms = [tuple(text.split("+")) for text in args.transforms]
    args.kinds = sorted({kind for each in args.transforms for kind in each} | set(defaults().transforms))
    if wrong := [kind for kind in args.kinds if kind not in TRANSFORMS]:
        parser.error(f"unknown transform {wrong[0]}; known: {', '.join(TRANSFORMS)}")
    if max([*args.n_estimators, defaults().n_estimators]) > args.members:
        parser.error(f"--members is {args.members}, fewer than the largest of --n-estimators or the default")
    if min(args.n_estimators) < 1 or min(args.temperatures) <= 0 or args.folds < 1:
        parser.error("--n-estimators and --folds must be at least 1, --temperatures above 0")
    if not all(0 <= weight <= 1 for weight in args.stack_weights):
        parser.error("--stack-weights are from 0 to 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
