"""Which rows, columns, class labels and value transforms each member of the ensemble sees.

Members average out what the network is not exactly invariant to (order of columns and of class labels; Hollmann et
al. 2023, arXiv 2207.01848, section 4), and spread a table that exceeds the network's limits over several passes:

- more columns than the limit: members see different columns; together they see all of them;
- more context rows than the limit: every member sees its own stratified subset;
- more classes than the limit: output codes (Dietterich and Bakiri 1995) over the network's alphabet with one symbol for
  "any other class", as in TabPFN's extensions: every class has its own symbol in at least one member of each group.
  All passes run as one batch where memory allows, and `combine` finds the classes that explain them together.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.stats import norm
from sklearn.preprocessing import PowerTransformer, QuantileTransformer

from .folds import copy_keys, drawn_again

TRANSFORMS = ("none", "quantile", "power")
_EM_STEPS, _EM_TOLERANCE = 300, 1e-6


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
      encoding: one of `ENCODINGS`, what it sees of categories of many levels.
    """

    columns: np.ndarray
    rows: np.ndarray
    symbol: np.ndarray
    own: np.ndarray
    n_symbols: int
    transform: str
    encoding: str = "codes"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one pass may hold: context rows, columns, classes."""

    rows: int
    columns: int
    classes: int


def plan_members(
    n_estimators: int,
    x: np.ndarray,
    y: np.ndarray,
    limits: Limits,
    rng: np.random.RandomState,
    transforms: tuple[str, ...] = ("none",),
    encodings: tuple[str, ...] = ("codes",),
) -> tuple[list[Member], list[str]]:
    """Draws the members for a context of n encoded rows x f32[n, F] with class codes y i64[n] in 0 .. K-1.

    The first member sees columns and classes in their own order, so one estimator without limits exceeded is the plain
    network. A larger ensemble begins with the members of a smaller one. Where members see some of the rows, which ones
    depends on what the rows hold, not on their order.

    Returns:
      The members (at least ``n_estimators``), and a sentence for every limit that was exceeded.
    """
    n_classes, n_columns = int(y.max()) + 1, x.shape[1]
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
    draw = _Draw(rng)
    groups = math.ceil(n_classes / (limits.classes - 1)) if n_classes > limits.classes else 1
    codebook = [_permuted_classes(n_classes, m, draw) for m in range(members)]
    if n_classes > limits.classes:
        rounds = max(n_estimators, math.ceil(members / groups))
        codebook = [code for r in range(rounds) for code in _rest_codes(n_classes, limits.classes, groups, draw("codes", r))]
        notes.append(
            f"{n_classes} classes, these weights handle {limits.classes} at a time: {len(codebook)} passes of "
            f"error-correcting output codes are used (about {len(codebook) // max(n_estimators, 1)} times slower)."
        )
    columns = _column_orders(n_columns, limits.columns, len(codebook), draw)
    # Members that cover columns or classes together have the same encoding, so that every column and class meets it.
    # With few such groups not every encoding has its turn.
    together = max(groups, math.ceil(n_columns / limits.columns))
    keys = copy_keys(x, y, draw("keys", 0)) if len(y) > limits.rows else None
    return [
        Member(
            columns=columns[m],
            rows=np.arange(len(y)) if keys is None else _context_rows(y, symbol, limits.rows, drawn_again(keys, draw("rows", m))),
            symbol=symbol,
            own=own,
            n_symbols=int(symbol.max()) + 1,
            transform=transforms[m % len(transforms)],
            encoding=encodings[_turn(m // together, len(encodings))],
        )
        for m, (symbol, own) in enumerate(codebook)
    ], notes


def _turn(group: int, encodings: int) -> int:
    """The encoding of a group of members: 0, 1, 1, 0 for two, so that transforms, which alternate, meet both."""
    return (group + group // encodings) % encodings


class _Draw:
    """Generators by purpose and number, so that a larger ensemble begins with the members of a smaller one."""

    _PURPOSES = ("classes", "codes", "columns", "rows", "keys")

    def __init__(self, rng: np.random.RandomState) -> None:
        self._base = int(rng.randint(2**31))

    def __call__(self, purpose: str, number: int) -> np.random.RandomState:
        return np.random.RandomState([self._base, self._PURPOSES.index(purpose), number])


def combine(members: list[Member], probabilities: list[np.ndarray]) -> np.ndarray:
    """Class probabilities f64[q, K] that sum to 1, from the members' f64[q, n_symbols].

    The answer p maximises ``sum over members of sum over symbols s of q_m(s) log (sum of p over the classes of s)``: the
    distribution over classes that explains what every member said about its symbols. Where each class has a symbol of
    its own in every member this is the mean; with shared symbols it is approached by expectation maximisation (the problem
    is concave, and every step keeps the sum at 1), for every row until a step changes no probability by `_EM_TOLERANCE`, at most
    `_EM_STEPS` steps: a row's answer does not depend on the others.
    """
    if all(member.own.all() for member in members):
        return np.mean([p[:, m.symbol] for m, p in zip(members, probabilities, strict=True)], axis=0)
    merges = np.concatenate([np.arange(m.n_symbols)[:, None] == m.symbol for m in members]).astype(np.float64)
    said = np.concatenate(probabilities, axis=1)
    p = np.full((len(said), merges.shape[1]), 1 / merges.shape[1])
    moving = np.arange(len(said))
    for _ in range(_EM_STEPS):
        # A symbol nobody believes in has 0 / 0; its classes get no weight from it either way.
        ratio = said[moving] / np.maximum(p[moving] @ merges.T, np.finfo(np.float64).tiny)
        step = p[moving] * (ratio @ merges) / len(members)
        moved = np.abs(step - p[moving]).max(1) >= _EM_TOLERANCE
        p[moving] = step
        moving = moving[moved]
        if not len(moving):
            break
    return p / p.sum(1, keepdims=True)


def _context_rows(y: np.ndarray, symbol: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Rows a member sees. With more classes than rows it is the member's symbols that must all be there."""
    return stratified_rows(y if len(symbol) <= size else symbol[y], size, keys)


def stratified_rows(y: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Sorted row numbers i64[size], classes in their proportions, at least one row of every class if there is room.

    Of every class those of the smallest keys u64[n] (`folds.copy_keys`).
    """
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
    order = np.lexsort([keys, y])
    starts = np.cumsum(counts) - counts
    return np.sort(np.concatenate([order[start : start + t] for start, t in zip(starts, take, strict=True)]))


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


def _permuted_classes(n_classes: int, m: int, draw: _Draw) -> tuple[np.ndarray, np.ndarray]:
    symbol = np.arange(n_classes) if m == 0 else draw("classes", m).permutation(n_classes)
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


def _column_orders(n_columns: int, limit: int, members: int, draw: _Draw) -> list[np.ndarray]:
    if n_columns <= limit:
        return [np.arange(n_columns) if m == 0 else draw("columns", m).permutation(n_columns) for m in range(members)]
    need = math.ceil(n_columns / limit)
    orders: list[np.ndarray] = []
    while len(orders) < members:  # a permutation cut into pieces covers every column before any is seen twice
        rng = draw("columns", len(orders))
        order = rng.permutation(n_columns)
        padded = np.concatenate([order, rng.permutation(order[: (need - 1) * limit])])
        orders += [padded[k * limit : (k + 1) * limit] for k in range(need)]
    return orders[:members]
