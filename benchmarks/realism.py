"""How much synthetic tables look like real ones: meta-features of both, side by side, and a classifier that tries to tell.

    python benchmarks/realism.py --suite dev32 --openml-cache DIR [--priors default graph_scm] [--out result.json]

Every real table is cut to at most 1,000 rows (stratified) and 100 columns (at random). For every one, synthetic tables are
drawn at the same number of rows (rounded up to 128, 256, 512 or 1024), and both go through the same code. Reported for each
meta-feature: median and 5-95 % range on both sides, and the share of real tables inside the synthetic range (a prior
should cover reality, not match it); and the cross-validated ROC AUC of a random forest that tells real from synthetic
(0.5: cannot). Development sets only: never choose a prior by sets that are reported as evaluation.
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np

ROWS = (128, 256, 512, 1024)


def meta_features(x: np.ndarray, y: np.ndarray, categorical: np.ndarray, seed: int) -> dict[str, float]:
    """Numbers that describe a table. x: f64[R, F] (NaN missing, categories as codes), y: i64[R], categorical: bool[F]."""
    from scipy.stats import kurtosis, skew
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, columns = x.shape
    missing = np.isnan(x)
    middle = np.nanmedian(np.where(missing.all(0), 0.0, x), axis=0)
    filled = np.where(missing, middle, x)
    numeric = filled[:, ~categorical]
    spread = numeric[:, numeric.std(axis=0) > 0]
    ranks = np.argsort(np.argsort(filled, axis=0), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        corr = np.abs(np.nan_to_num(np.corrcoef(ranks.T))).reshape(columns, columns)
    upper = corr[np.triu_indices(columns, 1)]
    share = np.linalg.eigvalsh(corr)[::-1].clip(0)
    counts = np.bincount(y)
    counts = counts[counts > 0]
    entropy = -np.sum(counts / rows * np.log(counts / rows)) / np.log(len(counts))
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    auc = {}
    hot = np.hstack([filled[:, ~categorical]] + [
        (filled[:, [j]] == np.unique(filled[:, j])[None, :20]).astype(float) for j in np.flatnonzero(categorical)
    ])  # fmt: skip
    models = {
        "forest": (RandomForestClassifier(50, min_samples_leaf=2, random_state=seed), filled),
        "linear": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)), hot),
    }
    for name, (model, table) in models.items():
        proba = cross_val_predict(model, np.clip(table, -1e6, 1e6), y, cv=folds, method="predict_proba")
        auc[name] = roc_auc_score(y, proba[:, 1] if proba.shape[1] == 2 else proba, multi_class="ovo")
    return {
        "log2 columns": np.log2(columns),
        "classes": len(counts),
        "class entropy (1: balanced)": entropy,
        "share of categorical columns": categorical.mean(),
        "share of missing cells": missing.mean(),
        "distinct values per row, median column": np.median([len(np.unique(c)) / rows for c in filled.T]),
        "levels of categories, largest": max((len(np.unique(filled[:, j])) for j in np.flatnonzero(categorical)), default=0),
        "|skewness|, median": float(np.median(np.abs(skew(spread)))) if spread.size else 0.0,
        "log kurtosis, median": float(np.median(np.log1p(np.abs(kurtosis(spread))))) if spread.size else 0.0,
        "|rank correlation|, mean": upper.mean() if upper.size else 0.0,
        "|rank correlation|, largest": upper.max(initial=0.0),
        "effective rank / columns": float(np.exp(-np.sum(p * np.log(p + 1e-12)))) / columns if (p := share / share.sum()).size else 0.0,
        "ROC AUC, forest": auc["forest"],
        "ROC AUC, linear": auc["linear"],
        "forest less linear": auc["forest"] - auc["linear"],
    }  # fmt: skip


def real_tables(suite: str, cache: str | None, seed: int):
    """(x, y, categorical) of every data set of a suite, cut to size."""
    import pandas as pd
    from priorax.eval.suites import load_suite
    from sklearn.model_selection import train_test_split

    for data in load_suite(suite, openml_cache=cache):
        rng = np.random.default_rng(seed)
        if len(data.y) > 1000:
            keep, _ = train_test_split(np.arange(len(data.y)), train_size=1000, stratify=data.y, random_state=seed)
            data = data.take_rows(np.sort(keep))
        if data.X.shape[1] > 100:
            data = data.take_columns(np.sort(rng.choice(data.X.shape[1], 100, replace=False)))
        frame = pd.DataFrame(data.X)
        x = np.empty(frame.shape)
        for j, name in enumerate(frame.columns):
            if data.categorical[j] or not pd.api.types.is_numeric_dtype(frame[name]):
                codes, _ = pd.factorize(frame[name])
                x[:, j] = np.where(codes < 0, np.nan, codes)
            else:
                x[:, j] = frame[name].astype(float)
        yield data.name, x, data.y, np.asarray(data.categorical, bool)


def synthetic_tables(prior_name: str, sizes: list[tuple[int, int]], seed: int):
    """One synthetic table for every (rows, columns) wanted, padded shapes shared."""
    import jax
    from priorax.priors.records import records

    from priorax import load_prior, sample

    prior = load_prior(prior_name)
    for padded in ROWS:
        wanted = [(r, c) for r, c in sizes if r <= padded and (padded == ROWS[0] or r > padded // 2)]
        if not wanted:
            continue
        columns = 32 if max(c for _, c in wanted) <= 32 else 100
        ids = range(0, 8 * len(wanted), 8)  # one of each cohort
        batch = jax.device_get(sample(prior, seed, ids, rows=padded, columns=columns))
        for (rows, _), task in zip(wanted, records(batch, list(ids)), strict=True):
            x, y = task.x[:rows].astype(float), task.y[:rows]
            kept, y = np.unique(y, return_inverse=True)
            if len(kept) > 1 and np.bincount(y).min() >= 3:
                yield x, y, task.categorical


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="dev32")
    parser.add_argument("--openml-cache")
    parser.add_argument("--priors", nargs="+", default=["default"])
    parser.add_argument("--times", type=int, default=4, help="synthetic tables for each real one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    real, sizes = [], []
    for _, x, y, categorical in real_tables(args.suite, args.openml_cache, args.seed):
        keep = np.isin(y, np.flatnonzero(np.bincount(y) >= 3))
        _, y = np.unique(y[keep], return_inverse=True)
        real.append(meta_features(x[keep], y, categorical, args.seed))
        sizes.append(x.shape)
    out = {"suite": args.suite, "real_tables": len(real), "priors": {}}
    for name in args.priors:
        fake = [meta_features(*t, args.seed) for t in synthetic_tables(name, sizes * args.times, args.seed)]
        out["priors"][name] = result = compare(real, fake, args.seed)
        print(f"\n{name}: {len(fake)} synthetic tables against {len(real)} of {args.suite}")
        print(f"told apart with ROC AUC {result['told_apart']:.3f} (0.5: not at all)")
        for key, row in result["features"].items():
            print(f"{key:42} real {row['real']} synthetic {row['synthetic']} covered {row['covered']:.2f}")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(out, file, indent=1)


def compare(real: list[dict], fake: list[dict], seed: int) -> dict:
    """Ranges, coverage and how well a forest tells the two apart."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    a, b = (np.array([list(t.values()) for t in side], float) for side in (real, fake))
    quantiles = lambda v: [round(float(q), 3) for q in np.quantile(v, [0.05, 0.5, 0.95])]
    features = {}
    for j, key in enumerate(real[0]):
        low, high = np.quantile(b[:, j], [0.025, 0.975])
        inside = ((a[:, j] >= low) & (a[:, j] <= high)).mean()
        features[key] = {"real": quantiles(a[:, j]), "synthetic": quantiles(b[:, j]), "covered": float(inside)}
    x, y = np.vstack([a, b]), np.r_[np.ones(len(a)), np.zeros(len(b))]
    forest = RandomForestClassifier(300, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    proba = cross_val_predict(forest, x, y, cv=StratifiedKFold(5, shuffle=True, random_state=seed), method="predict_proba")
    return {"told_apart": float(roc_auc_score(y, proba[:, 1])), "features": features}


if __name__ == "__main__":
    main()
