"""Scores of predicted class probabilities. q test rows, K classes; ``y`` i64[q] in 0 .. K-1, ``p`` f64[q, K].

Test folds may lack classes (and one-vs-rest AUC is undefined for a class without positive or negative rows): averages
over classes then run over the classes that occur, and `score` says so in its notes.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

METRICS = ("roc_auc", "roc_auc_ovo", "log_loss", "accuracy", "balanced_accuracy", "brier", "ece")
HIGHER_IS_BETTER = {"roc_auc", "roc_auc_ovo", "accuracy", "balanced_accuracy"}
ECE_BINS = 15


def score(y: np.ndarray, p: np.ndarray) -> tuple[dict[str, float], str]:
    """All metrics, NaN where undefined, and a note ("" if there is nothing to say).

    - roc_auc: binary, or the unweighted mean of one-vs-rest AUCs.
    - roc_auc_ovo: unweighted mean over pairs of classes (Hand and Till 2001).
    - log_loss: probabilities clipped to the smallest positive float64 step, as scikit-learn does.
    - accuracy, balanced_accuracy (mean recall).
    - brier: mean squared distance to the one-hot label, summed over classes (0 to 2).
    - ece: expected calibration error of the most probable class, 15 equal bins (Guo et al. 2017).

    Raises:
      ValueError: shapes do not fit, or rows of ``p`` are not probability distributions.
    """
    y, p = np.asarray(y), np.asarray(p, dtype=np.float64)
    q, k = p.shape
    if y.shape != (q,) or q == 0:
        raise ValueError(f"y has shape {y.shape}, p has shape {p.shape}")
    if not np.isfinite(p).all() or (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-3):
        raise ValueError("p holds rows that are not probability distributions")
    total = p.sum(1, keepdims=True)
    # Sums that miss 1 by rounding are left alone: dividing by them would tell equal probabilities apart.
    p = np.where(np.abs(total - 1) > 1e-5, p / total, p)
    present = np.unique(y)
    note = "" if len(present) == k else f"{k - len(present)} of {k} classes have no test row"
    hard = p.argmax(1)
    chosen = p[np.arange(q), y]
    values = {
        "roc_auc": _one_vs_rest(y, p, present),
        "roc_auc_ovo": _one_vs_one(y, p, present),
        "log_loss": float(-np.log(np.clip(chosen, np.finfo(np.float64).eps, None)).mean()),
        "accuracy": float((hard == y).mean()),
        "balanced_accuracy": float(np.mean([(hard[y == c] == c).mean() for c in present])),
        "brier": float(((p - np.eye(k)[y]) ** 2).sum(1).mean()),
        "ece": calibration_error(y, p),
    }
    if len(present) < 2:
        note = "only one class has test rows: no AUC"
    return values, note


def error_of(metric: str, value: float) -> float:
    """The metric as an error: lower is better, 0 is perfect."""
    return 1 - value if metric in HIGHER_IS_BETTER else value


def reliability(y: np.ndarray, p: np.ndarray, bins: int = ECE_BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and number of rows per equal-width bin of the top probability (NaN for empty bins)."""
    confidence = p.max(1)
    right = p.argmax(1) == y
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_of, weights=confidence, minlength=bins) / rows
        accuracy = np.bincount(bin_of, weights=right, minlength=bins) / rows
    return mean, accuracy, rows


def calibration_error(y: np.ndarray, p: np.ndarray, bins: int = ECE_BINS) -> float:
    """Row-weighted mean distance between confidence and accuracy over the bins of `reliability`."""
    confidence, accuracy, rows = reliability(y, p, bins)
    used = rows > 0
    return float((np.abs(confidence - accuracy)[used] * rows[used]).sum() / rows.sum())


def _one_vs_rest(y: np.ndarray, p: np.ndarray, present: np.ndarray) -> float:
    if len(present) < 2:
        return float("nan")
    if p.shape[1] == 2:
        return float(roc_auc_score(y == 1, p[:, 1]))
    return float(np.mean([roc_auc_score(y == c, p[:, c]) for c in present]))


def _one_vs_one(y: np.ndarray, p: np.ndarray, present: np.ndarray) -> float:
    if len(present) < 2:
        return float("nan")
    aucs = []
    for i, a in enumerate(present):
        for b in present[i + 1 :]:
            pair = (y == a) | (y == b)
            aucs.append((roc_auc_score(y[pair] == a, p[pair, a]) + roc_auc_score(y[pair] == b, p[pair, b])) / 2)
    return float(np.mean(aucs))
