"""Ridge scores of a task inside the training step, what `priorax.models.ridge_scores` makes of a table.

The same four regressions, written for rows and columns of fixed number: what a task lacks is masked, left-out rows are those
with a weight of 0, and the linear one is solved for rows instead of effects, which need not be turned back into weights here.
`priorax.models.linear_ridge`, `kernel_ridge` and `pair_ridge` say where the methods come from, and tests compare both implementations. What
differs: `LEVELS` levels of a category have an indicator instead of 100, all rows are slope and width rows, and numbers are f32.

All functions take one task. Sizes: R rows, of which the first N are context; F columns; P effects; K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..models import kernel_ridge, linear_ridge, pair_ridge
from ..models.effects import WINSORISED
from ..models.ridge_scores import FOLDS, KINDS

LEVELS = 12
"""Levels of a categorical column that have an indicator, the most frequent. Time grows with their number."""
_MOST_CODES = 256
_MIDDLE_STEPS = 24


def ridge_scores(
    x: jax.Array, y: jax.Array, categorical: jax.Array, n_classes: jax.Array, context: int, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Scores of all rows: of context rows from the folds they are not in, of query rows from all context rows.

    Args:
      x: f32[R, F]; NaN = missing, unused columns 0.
      y: i32[R]; labels of query rows are not read.
      categorical: bool[F].
      n_classes: i32[].
      context: N.
      classes: K, at least ``n_classes``.

    Returns:
      f32[4, R, K] in the order of `priorax.models.ridge_scores.KINDS`, classes of a single context row 0, and bool[4], whether
      a kind says something.
    """
    # Other platforms multiply f32 in 16 bits or little more, of which eigenvalues and factors come out wrong or not at all.
    with jax.default_matmul_precision("highest"):
        return _scores(x, y, categorical, n_classes, context, classes)


def _scores(
    x: jax.Array, y: jax.Array, categorical: jax.Array, n_classes: jax.Array, context: int, classes: int
) -> tuple[jax.Array, jax.Array]:
    shown = y[:context]
    d = effects(x, categorical, context)
    label = jax.nn.one_hot(shown, classes)
    # A class with one row is unknown to the folds without it and known to the others, which gives the row away.
    known = label.sum(0) > 1
    target = label * known
    kept = folds(shown)
    kernel, blocks = _kernels(d, target, kept, n_classes)
    found = {"linear": _linear(d, target, kept), "kernel": kernel, "pairs": _pairs(d, target, kept), "blocks": blocks}
    scores = jnp.stack([found[kind] for kind in KINDS])
    possible = (d[:context] != 0).any() & (known.sum() > 1)
    told = jnp.stack([says_something(s[:context], target, kept) for s in scores])
    return scores, told & possible & jnp.isfinite(scores).all((1, 2))


def folds(y: jax.Array) -> jax.Array:
    """f32[FOLDS, N]: 1 for the rows a fold is fitted to, 0 for those it leaves out; the rows of every class dealt out evenly."""
    place = jnp.argsort(jnp.argsort(y, stable=True), stable=True)
    return (place % FOLDS != jnp.arange(FOLDS)[:, None]).astype(jnp.float32)


def effects(x: jax.Array, categorical: jax.Array, context: int) -> jax.Array:
    """Rows as f32[R, F * LEVELS], as `priorax.models.effects.Effects` has them; effects that are not there are 0.

    Of a number the first is its standardised value and the second whether it is missing.
    """
    missing = jnp.isnan(x)
    shown = missing[:context]
    filled = jnp.where(shown.all(0), 0.0, x[:context])
    least, low, high, most = jnp.nanquantile(filled, jnp.array([0.0, WINSORISED, 1 - WINSORISED, 1.0]), axis=0)
    rare = low == high
    low, high = jnp.where(rare, least, low), jnp.where(rare, most, high)
    clipped = jnp.clip(filled, low, high)
    center, spread = jnp.nanmean(clipped, axis=0), jnp.nanstd(clipped, axis=0)
    varies = (spread > 1e-6 * jnp.abs(center)) & (spread > 0)
    z = jnp.where(missing, 0.0, (jnp.clip(x, low, high) - center) / jnp.where(varies, spread, 1.0)) * varies
    gap = missing & ~shown.all(0)
    numeric = jnp.stack([z, gap.astype(jnp.float32)], axis=-1)
    numeric = jnp.pad(numeric, ((0, 0), (0, 0), (0, LEVELS - 2)))
    rows = (x[:context, :, None] == jnp.arange(_MOST_CODES)).sum(0)
    rows, codes = jax.lax.top_k(rows, LEVELS)
    levels = (x[..., None] == codes) & (rows > 1)
    found = jnp.where(categorical[:, None], levels.astype(jnp.float32), numeric).reshape(len(x), -1)
    return found - found[:context].mean(0)


def says_something(scores: jax.Array, target: jax.Array, kept: jax.Array) -> jax.Array:
    """bool[]: whether left-out scores f32[N, K] bring errors below those of class shares, by a standard error."""
    share = (kept @ target) / kept.sum(1, keepdims=True)
    surprise = target - jnp.einsum("kn,kc->nc", 1 - kept, share)
    gain = (surprise**2 - (surprise - scores) ** 2).sum(1)
    return gain.mean() > gain.std() / jnp.sqrt(len(gain))


def _linear(d: jax.Array, target: jax.Array, kept: jax.Array) -> jax.Array:
    """Scores f32[R, K] as of `LinearRidge`, in the coordinates of the N context rows.

    Args:
      d: f32[R, P], of mean 0 over context rows.
      target: f32[N, K].
      kept: f32[FOLDS, N].
    """
    n = len(target)
    gram = d @ d[:n].T
    centred = target - target.mean(0)
    values, vectors = jnp.linalg.eigh(gram[:n])
    values = jnp.where(values > values[-1] * 1e-6, values, 0.0)
    along, squares = vectors.T @ centred, vectors**2

    def left_out(penalty: jax.Array) -> jax.Array:
        shrinkage = penalty / (values + penalty)
        outside = jnp.maximum(squares @ shrinkage - 1 / n, 1e-6)  # the mean's leverage is not shrunk
        return ((vectors @ (along * shrinkage[:, None]) / outside[:, None]) ** 2).sum()

    penalties = jnp.asarray(linear_ridge.PENALTIES, jnp.float32) * n
    penalty = penalties[jnp.argmin(jax.vmap(left_out)(penalties))]

    def fold(weight: jax.Array) -> jax.Array:
        # Centring by the mean of the rows kept: inner products of rows minus those with the mean.
        inner = gram[:n]
        to_mean = inner @ weight / weight.sum()
        middle = inner - to_mean[:, None] - to_mean + to_mean @ weight / weight.sum()
        return gram[:n] @ _masked_solve(middle, penalty, weight, target)

    own = jnp.einsum("kn,knc->nc", 1 - kept, jax.lax.map(fold, kept))
    asked = gram[n:] @ _masked_solve(gram[:n], penalty, jnp.ones(n), target)
    return jnp.concatenate([own, asked])


def _kernels(
    d: jax.Array, target: jax.Array, kept: jax.Array, n_classes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scores f32[R, K] as of `KernelRidge` with straight distances and with those of city blocks, for tasks of ``n_classes``
    i32[] classes; other arguments as of `_linear`. What the columns matter is found once for both."""
    n = len(target)
    centred = target - target.mean(0)
    distances = _distances(d[:n], d[:n])
    everyone = jnp.ones(n)
    unit = middle_distance(distances, everyone)
    width, penalty = _best_width(distances, unit, centred)
    scale = width * unit
    first = jnp.exp(-distances / scale)

    def stretch(weight: jax.Array) -> jax.Array:
        """f32[P], by a fit to the rows of weight 1."""
        coefficients = _masked_solve(first, penalty, weight, target)
        return _stretch(d[:n], distances, coefficients, scale, weight, n_classes)

    def kernels(rows: jax.Array, stretch: jax.Array, weight: jax.Array, widths: jax.Array) -> jax.Array:
        """f32[2, S, N] between rows f32[S, P], of which the first are the context, and the context, effects stretched."""
        a, b = rows * stretch, d[:n] * stretch
        apart = jnp.stack([_distances(a, b), _city_distances(a, b)])
        units = jax.vmap(middle_distance, (0, None))(apart[:, :n], weight)
        return jnp.exp(-apart / (widths * units)[:, None, None])

    own_stretch = stretch(everyone)
    blocks = _city_distances(d[:n] * own_stretch, d[:n] * own_stretch)
    city_width, _ = _best_width(blocks, middle_distance(blocks, everyone), centred)
    widths = jnp.stack([width, city_width])
    last = kernels(d, own_stretch, everyone, widths)
    _, penalties = jax.lax.map(lambda k: _least_left_out(k, centred, kernel_ridge.PENALTIES), last[:, :n])
    asked = last[:, n:] @ _solve_each(last[:, :n], penalties, everyone, target)

    def fold(weight: jax.Array) -> jax.Array:
        known = kernels(d[:n], stretch(weight), weight, widths)
        return known @ _solve_each(known, penalties, weight, target)

    own = jnp.einsum("kn,kanc->anc", 1 - kept, jax.lax.map(fold, kept))
    straight, city = jnp.concatenate([own, asked], axis=1)
    return straight, city


def _best_width(distances: jax.Array, unit: jax.Array, centred: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The width of the kernel in ``unit``s, and the penalty, under which rows are predicted best without themselves."""
    widths = jnp.asarray(kernel_ridge.WIDTHS, jnp.float32)
    errors, penalties = jax.lax.map(
        lambda w: _least_left_out(jnp.exp(-distances / (w * unit)), centred, kernel_ridge.PENALTIES), widths
    )
    best = jnp.argmin(errors)
    return widths[best], penalties[best]


def _pairs(d: jax.Array, target: jax.Array, kept: jax.Array) -> jax.Array:
    """Scores f32[R, K] as of `PairRidge`; arguments as of `_linear`."""
    n = len(target)
    inner = d @ d[:n].T
    apart = jnp.square(inner[:n]).sum() - jnp.square(jnp.diag(inner)).sum()
    unit = jnp.sqrt(jnp.maximum(apart, 0.0) / (n * (n - 1)))
    kernel = jnp.square(1 + pair_ridge.PAIR_SCALE * inner / jnp.where(unit > 0, unit, 1.0)) - 1
    length = jnp.trace(kernel[:n]) / n
    kernel = kernel / jnp.where(length > 0, length, 1.0)
    _, penalty = _least_left_out(kernel[:n], target - target.mean(0), pair_ridge.PENALTIES)

    def fold(weight: jax.Array) -> jax.Array:
        return kernel[:n] @ _masked_solve(kernel[:n], penalty, weight, target)

    own = jnp.einsum("kn,knc->nc", 1 - kept, jax.lax.map(fold, kept))
    asked = kernel[n:] @ _masked_solve(kernel[:n], penalty, jnp.ones(n), target)
    return jnp.concatenate([own, asked])


def _stretch(
    d: jax.Array, distances: jax.Array, coefficients: jax.Array, scale: jax.Array, weight: jax.Array, n_classes: jax.Array
) -> jax.Array:
    """f32[P], what to multiply effects with, given a first fit f32[N, K] to the rows of weight 1."""
    r = jnp.maximum(distances / scale, 1e-3)
    steep = jnp.exp(-r) / (r * scale**2)

    def add(c: jax.Array, squares: jax.Array) -> jax.Array:
        pull = steep * jnp.take(coefficients, c, axis=1)
        return squares + weight @ jnp.square(pull @ d - pull.sum(1, keepdims=True) * d)

    # Of two classes the second says all; only classes in use are looped over, since this is most of the work.
    squares = jax.lax.fori_loop(jnp.where(n_classes == 2, 1, 0), n_classes, add, jnp.zeros(d.shape[1]))
    there = (d != 0).any(0).sum()
    mean = squares.sum() / jnp.maximum(there, 1)
    relative = squares / jnp.where(mean > 0, mean, 1.0)
    return jnp.where(mean > 0, jnp.sqrt(relative + kernel_ridge.LEAST_WEIGHT), 1.0)


def _masked_solve(kernel: jax.Array, penalty: jax.Array, weight: jax.Array, target: jax.Array) -> jax.Array:
    """``(kernel + penalty)^-1 (target - mean)`` f32[N, K] among the rows of weight 1; 0 at the others."""
    mean = weight @ target / weight.sum()
    inside = kernel * weight[:, None] * weight
    diagonal = weight * penalty + (1 - weight)  # rows left out are equations of their own, 1 * 0 = 0
    factor = jax.scipy.linalg.cho_factor(inside + jnp.diag(diagonal), lower=True)
    return jax.scipy.linalg.cho_solve(factor, (target - mean) * weight[:, None])


def _solve_each(kernels: jax.Array, penalties: jax.Array, weight: jax.Array, target: jax.Array) -> jax.Array:
    """`_masked_solve` of several kernels f32[A, N, N], one after the other.

    Not as a batch: jaxlib up to 0.11.0 shares batches of LAPACK out among the threads that also run the program and waits for them,
    and two devices that wait at once wait for ever (``ParallelBatchMap`` in its ``cpu/_lapack.so``, gone from the wheel of 0.11.1).
    """
    return jax.lax.map(lambda one: _masked_solve(*one, weight, target), (kernels, penalties))


def _least_left_out(kernel: jax.Array, centred: jax.Array, penalties: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The least squared error of rows predicted without themselves, over ``penalties`` f64[.], and its penalty."""
    values, vectors = jnp.linalg.eigh(kernel)
    values = jnp.maximum(values, 0.0)
    along, squares = vectors.T @ centred, vectors**2

    def error(penalty: jax.Array) -> jax.Array:
        inverse = 1 / (values + penalty)
        return ((vectors @ (along * inverse[:, None]) / (squares @ inverse)[:, None]) ** 2).sum()

    tried = jnp.asarray(penalties, jnp.float32)
    errors = jax.vmap(error)(tried)
    return errors.min(), tried[jnp.argmin(errors)]


def _distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """f32[A, B] between rows. Differences are squared, not products of rows subtracted from squared lengths: in f32 that gives
    near rows among distant ones distances that no rows have, and the kernel of those has no Cholesky factor."""
    return jnp.sqrt(jnp.square(a[:, None] - b).sum(-1))


def _city_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """f32[A, B] between rows, along the effects."""
    return jnp.abs(a[:, None] - b).sum(-1)


def middle_distance(distances: jax.Array, weight: jax.Array) -> jax.Array:
    """Median of distances f32[N, N] between two rows of weight 1 that are not the same, by bisection: sorting all pairs would
    take longer than all the algebra. 1 where there are none."""
    between = distances * weight[:, None] * weight
    most = between.max()
    counts = between > 1e-3 * most  # the same row is no more than rounding apart
    half = 0.5 * counts.sum()

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        point = 0.5 * (low + high)
        above = (counts & (between <= point)).sum() >= half
        return jnp.where(above, low, point), jnp.where(above, point, high)

    _, found = jax.lax.fori_loop(0, _MIDDLE_STEPS, halve, (jnp.float32(0.0), most))
    return jnp.where(most > 0, found, 1.0)
