"""Which rows, columns, class labels and value transforms each member of the ensemble sees.

Members average out what the network is not exactly invariant to (order of columns and of class labels; Hollmann et
al. 2023, arXiv 2207.01848, section 4), and spread a table that exceeds the network's limits over several passes:

- more columns than the limit: members see different columns; together they see all of them;
- more context rows than the limit: every member sees its own stratified subset;
- more classes than the limit: error-correcting output codes (Dietterich and Bakiri 1995) over the network's alphabet
  with one symbol for "any other class", as in TabPFN's extensions: every class has its own symbol in at least one
  member of each group.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.stats import norm
from sklearn.preprocessing import PowerTransformer, QuantileTransformer

TRANSFORMS = ("none", "quantile", "power")


@dataclasses.dataclass(frozen=True)
class Member:
    """One pass through the network. K classes of the user.

    Attributes:
      columns: i64[f], encoded columns in the order the member sees them.
      rows: i64[n], context rows the member sees.
      symbol: i64[K], the network's class id for each class; classes without an id of their own share the last one.
      own: bool[K], classes whose id is theirs alone.
      n_symbols: class ids in use.
      transform: one of `TRANSFORMS`, applied to numeric columns.
    """

    columns: np.ndarray
    rows: np.ndarray
    symbol: np.ndarray
    own: np.ndarray
    n_symbols: int
    transform: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one pass may hold: context rows, columns, classes."""

    rows: int
    columns: int
    classes: int


def plan_members(
    n_estimators: int,
    y: np.ndarray,
    n_columns: int,
    limits: Limits,
    rng: np.random.RandomState,
    transforms: tuple[str, ...] = ("none",),
) -> tuple[list[Member], list[str]]:
    """Draws the members for a context of n rows with class codes y i64[n] in 0 .. K-1.

    The first member sees columns and classes in their own order, so one estimator without limits exceeded is the plain
    network.

    Returns:
      The members (at least ``n_estimators``), and a sentence for every limit that was exceeded.
    """
    n_classes = int(y.max()) + 1
    notes = []
    members = n_estimators
    if n_columns > limits.columns:
        need = math.ceil(n_columns / limits.columns)
        members = max(members, need)
        notes.append(
            f"{n_columns} columns, these weights handle {limits.columns} at a time: each of {members} ensemble members "
            f"sees a random {limits.columns} of them, together they see all. Fewer, selected columns are faster; "
            "max_columns changes the limit."
        )
    if len(y) > limits.rows:
        notes.append(
            f"{len(y)} training rows, these weights take {limits.rows} as context: every ensemble member sees its own "
            "stratified subset. A larger n_estimators covers more rows; max_context changes the limit."
        )
    codebook = [_permuted_classes(n_classes, m, rng) for m in range(members)]
    if n_classes > limits.classes:
        groups = math.ceil(n_classes / (limits.classes - 1))
        rounds = max(n_estimators, math.ceil(members / groups))
        codebook = [code for _ in range(rounds) for code in _rest_codes(n_classes, limits.classes, groups, rng)]
        notes.append(
            f"{n_classes} classes, these weights handle {limits.classes} at a time: {len(codebook)} passes of "
            f"error-correcting output codes are used (about {len(codebook) // max(n_estimators, 1)} times slower)."
        )
    columns = _column_orders(n_columns, limits.columns, len(codebook), rng)
    return [
        Member(
            columns=columns[m],
            rows=np.arange(len(y)) if len(y) <= limits.rows else stratified_rows(y, limits.rows, rng),
            symbol=symbol,
            own=own,
            n_symbols=int(symbol.max()) + 1,
            transform=transforms[m % len(transforms)],
        )
        for m, (symbol, own) in enumerate(codebook)
    ], notes


def combine(members: list[Member], probabilities: list[np.ndarray]) -> np.ndarray:
    """Averages member probabilities f64[q, n_symbols] into class probabilities f64[q, K] that sum to 1.

    A class's probability is the mean over the members in which it has an id of its own.
    """
    total = np.zeros((len(probabilities[0]), len(members[0].symbol)))
    count = np.zeros(len(members[0].symbol))
    for member, p in zip(members, probabilities, strict=True):
        total[:, member.own] += p[:, member.symbol[member.own]]
        count += member.own
    total /= count
    sums = total.sum(1, keepdims=True)
    return np.where(sums > 0, total / np.where(sums > 0, sums, 1), 1 / total.shape[1])


def stratified_rows(y: np.ndarray, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Sorted row numbers i64[size], classes in their proportions, at least one row of every class if there is room."""
    classes, counts = np.unique(y, return_counts=True)
    share = counts * (size / counts.sum())
    take = np.minimum(np.maximum(np.floor(share).astype(int), 1 if size >= len(classes) else 0), counts)
    while take.sum() > size:  # rounding rare classes up to 1 went over: take from the largest
        take[np.argmax(take)] -= 1
    order = np.argsort(take - share, kind="stable")
    while take.sum() < size:
        for k in order:
            if take.sum() < size and take[k] < counts[k]:
                take[k] += 1
    rows = [rng.permutation(np.flatnonzero(y == c))[:t] for c, t in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(rows))


class ValueTransform:
    """A monotone map of every numeric column, fitted on context rows; NaN stays NaN, categories stay codes.

    Args:
      kind: ``none``, ``quantile`` (to a normal distribution by ranks) or ``power`` (Yeo-Johnson).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def fit(self, x: np.ndarray, categorical: np.ndarray) -> ValueTransform:
        """x f32[n, F], categorical bool[F]."""
        self._columns = np.flatnonzero(~categorical)
        if self.kind == "none" or not len(self._columns):
            self._inner = None
            return self
        if self.kind == "quantile":
            n = max(2, min(len(x), 1000))
            self._inner = QuantileTransformer(n_quantiles=n, output_distribution="normal", random_state=0)
        else:
            self._inner = PowerTransformer()
        with np.errstate(all="ignore"):
            self._inner.fit(x[:, self._columns].astype(np.float64))
        # The quantile map sends the extremes to about 5.2 whatever the number of rows; where they are expected is here.
        self._bound = norm.ppf(1 - 0.5 / max(len(x), 2)) if self.kind == "quantile" else np.inf
        return self

    def apply(self, x: np.ndarray) -> np.ndarray:
        """f32[n, F] -> f32[n, F]."""
        if self._inner is None:
            return x
        with np.errstate(all="ignore"):
            mapped = self._inner.transform(x[:, self._columns].astype(np.float64))
        mapped = np.clip(mapped, -self._bound, self._bound)
        out = x.copy()
        # A column too extreme for the map (overflow) keeps its values.
        kept = np.isfinite(mapped) | np.isnan(x[:, self._columns])
        out[:, self._columns] = np.where(kept.all(0), mapped, x[:, self._columns])
        return out


def _permuted_classes(n_classes: int, m: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    symbol = np.arange(n_classes) if m == 0 else rng.permutation(n_classes)
    return symbol, np.ones(n_classes, dtype=bool)


def _rest_codes(n_classes: int, alphabet: int, groups: int, rng: np.random.RandomState):
    """``groups`` codes; each gives up to alphabet-1 classes their own symbol and the others a common one, so that
    every class has its own symbol at least once."""
    order = rng.permutation(n_classes)
    for g in range(groups):
        chosen = order[np.arange(g * (alphabet - 1), (g + 1) * (alphabet - 1)) % n_classes]
        chosen = np.unique(chosen)
        symbol = np.full(n_classes, len(chosen))
        symbol[rng.permutation(chosen)] = np.arange(len(chosen))
        own = np.zeros(n_classes, dtype=bool)
        own[chosen] = True
        yield symbol, own


def _column_orders(n_columns: int, limit: int, members: int, rng: np.random.RandomState) -> list[np.ndarray]:
    if n_columns <= limit:
        return [np.arange(n_columns) if m == 0 else rng.permutation(n_columns) for m in range(members)]
    need = math.ceil(n_columns / limit)
    orders: list[np.ndarray] = []
    while len(orders) < members:  # a permutation cut into pieces covers every column before any is seen twice
        order = rng.permutation(n_columns)
        padded = np.concatenate([order, rng.permutation(order[: (need - 1) * limit])])
        orders += [padded[k * limit : (k + 1) * limit] for k in range(need)]
    return orders[:members]
