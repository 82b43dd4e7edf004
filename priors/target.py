"""How rows get their class: by rank, by value, by prototypes, by competing scores, by steps, by rules over columns or by sums
over them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..configs.prior import TARGETS, Sizes
from . import keys
from .additive import additive_columns, additive_scores
from .keys import Purpose, Stream
from .laws import LawArrays
from .mechanisms import MARGIN, nearest
from .noise import rows_normal, rows_uniform
from .observe import quantiles
from .plan import CohortPlan, TaskPlan


def _class_shares(u: jax.Array, concentration: jax.Array, n_classes: jax.Array) -> jax.Array:
    """Cumulative shares f32[L, K]: a Dirichlet law with its gamma draws approximated by exponentials to a power, so that
    concentration 1 is exactly Dirichlet(1), more is even and less is uneven; every class keeps at least 1 %."""
    k = u.shape[1]
    raw = (-jnp.log(u)) ** (concentration[:, None] ** -0.5)
    used = jnp.arange(k)[None, :] < n_classes[:, None]
    raw = jnp.where(used, raw, 0.0)
    share = raw / jnp.sum(raw, axis=1, keepdims=True)
    share = jnp.where(used, 0.01 + share * (1.0 - 0.01 * n_classes[:, None]), 0.0)
    return jnp.cumsum(share, axis=1)


def drivers_of(sizes: Sizes, plan: TaskPlan, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns a rule reads: i32[L, drivers] and which of them count. u: f32[L, 2]."""
    n = plan.n_features[:, None]
    count = jnp.minimum(1 + jnp.floor(u[:, :1] * sizes.drivers), n).astype(jnp.int32)
    start = jnp.floor(u[:, 1:] * n).astype(jnp.int32)
    index = (start + jnp.arange(sizes.drivers)[None, :]) % n
    return index.astype(jnp.int32), jnp.arange(sizes.drivers)[None, :] < count


def rule_columns(sizes: Sizes, plan: TaskPlan, stream: Stream) -> tuple[jax.Array, jax.Array]:
    """The driver columns of rule targets, as `assign_classes` draws them: i32[L, drivers], bool[L, drivers]."""
    own = keys.sub(stream, Purpose.TARGET)
    return drivers_of(sizes, plan, jax.vmap(lambda s: keys.uniform(keys.sub(s, 100), (10,)))(own)[:, 5:7])


def label_columns(
    sizes: Sizes, cohort: CohortPlan, plan: TaskPlan, stream: Stream, fallback: jax.Array
) -> jax.Array:
    """Columns that the class reads directly, bool[L, F]: those of a rule or a sum, none for other targets. `cohort` may
    have a task axis or none.

    fallback: i32[L], see `Settled`. A median split cuts the score: of a rule that is a projection of the target nodes, of a
    sum the sum itself. A coin reads nothing.
    """
    f = cohort.column.shape[-1]
    index, counts = rule_columns(sizes, plan, stream)
    rule = ((index[:, :, None] == jnp.arange(f)) & counts[:, :, None]).any(axis=1) & (fallback == 0)[:, None]
    kind = jnp.broadcast_to(cohort.target, plan.n_features.shape)[:, None]
    additive = additive_columns(cohort, plan, stream) & (fallback < 2)[:, None]
    return jnp.where(kind == TARGETS.index("rule"), rule, (kind == TARGETS.index("additive")) & additive)


def assign_classes(
    sizes: Sizes,
    cohort: CohortPlan,
    plan: TaskPlan,
    law: LawArrays,
    stream: Stream,
    rows: jax.Array,
    values: jax.Array,
    columns: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draws the class of every row.

    Label noise is symmetric (Angluin and Laird, Machine Learning 2, 1988): a row that it meets gets one of the classes at
    random, of those that reference rows have without noise, so that noise makes no class of its own.

    Args:
      rows: u32[m + r], addresses, those of the reference rows first; values: coordinates f32[L, N * W, m + r];
      columns: the observed table, for rules and sums, f32[L, F, m + r].

    Returns (of the r rows that are no reference rows):
      class i32[L, r] in 0 .. n_classes-1 (some may be absent), score f32[L, r] (the projection behind ordered classes, or
      the sum behind additive ones, kept for the fallback and for the numeric target), its mean and standard deviation over
      reference rows f32[L, 2], label noise rate f32[L].
    """
    w, k, m = sizes.width, sizes.classes, sizes.reference_rows
    own = keys.sub(stream, Purpose.TARGET)
    row_stream = keys.sub(stream, Purpose.TARGET_ROWS)
    draw = lambda i, *shape: jax.vmap(lambda s: keys.uniform(keys.sub(s, i), shape))(own)
    u = draw(100, 10)
    k_used = plan.n_classes
    inside = jnp.arange(k)[None, :] < k_used[:, None]

    cut = jax.vmap(lambda v, i: jax.lax.dynamic_slice_in_dim(v, i * w, w, 0))
    # A node's mechanism makes `w` coordinates, of which columns and other nodes read the first `width`. The class may
    # read the rest too, as a cause that nothing shows.
    hidden = draw(111, 1)[:, :, None] < law["hidden_target_rate"]
    shown = jnp.arange(w)[None, None, :] < jnp.take_along_axis(plan.width, plan.target_node, axis=1)[:, :, None]
    both = (plan.target_node[:, 0] != plan.target_node[:, 1])[:, None]
    second = jnp.stack([jnp.ones_like(both), both], axis=1)
    read = ((shown | hidden) & second).reshape(-1, 2 * w, 1)

    def space(v):
        return jnp.where(read, jnp.concatenate([cut(v, plan.target_node[:, 0]), cut(v, plan.target_node[:, 1])], 1), 0.0)

    z = space(values)  # [L, 2W, m + r]
    direction = keys.to_normal(draw(101, 2 * w))
    # A power law over dimensions, from one dimension deciding to all.
    direction = direction * jnp.exp(keys.between(u[:, :1], 0.0, 3.0) * jnp.log(draw(102, 2 * w)))
    direction = direction / (jnp.linalg.norm(direction, axis=1, keepdims=True) + 1e-9)
    score = jnp.einsum("lw,lwr->lr", direction, z, precision=jax.lax.Precision.HIGHEST)
    concentration = keys.log_between(u[:, 1], *law["class_concentration"])

    def by_shares(s, cumulative):
        edge = quantiles(s[:, :m], cumulative[:, :-1])
        used = jnp.arange(cumulative.shape[1] - 1)[None, :, None] < (k_used - 1)[:, None, None]
        return jnp.sum((s[:, None, :] > edge[:, :, None] + MARGIN) & used, axis=1).astype(jnp.int32)

    def ordered_bins(_):
        return by_shares(score, _class_shares(draw(103, k), concentration, k_used))

    def prototypes(_):
        scale = jnp.exp(keys.between(u[:, 2:3], 0.0, 2.0) * jnp.log(draw(104, 2 * w)))[..., None]
        centre, v = z[..., :k] * scale, z * scale
        far = jnp.sum(centre**2, axis=1)[:, :, None] - 2.0 * jnp.einsum(
            "lwk,lwr->lkr", centre, v, precision=jax.lax.Precision.HIGHEST
        )
        hot = nearest(jnp.where(inside[:, :, None], far, jnp.float32(3e38)))
        return jnp.argmax(hot, axis=1).astype(jnp.int32)

    def class_scores():
        matrix = keys.to_normal(draw(105, k, 2 * w)) * jnp.abs(direction)[:, None, :]
        bias = 0.7 * keys.to_normal(draw(106, k)) / jnp.sqrt(concentration[:, None] + 0.5)
        out = jnp.einsum("lkw,lwr->lkr", matrix, z, precision=jax.lax.Precision.HIGHEST) + bias[..., None]
        return jnp.where(inside[:, :, None], out, jnp.float32(-3e38))

    def argmax(_):
        return jnp.argmax(class_scores(), axis=1).astype(jnp.int32)

    def softmax(_):
        # Gumbel trick: the class is drawn from a softmax over the scores.
        temperature = keys.log_between(u[:, 3], *law["temperature"])[:, None, None]
        streams = jax.vmap(lambda i: keys.sub(row_stream, i), out_axes=1)(jnp.arange(k, dtype=jnp.uint32))
        gumbel = -jnp.log(-jnp.log(rows_uniform(streams, rows)))
        return jnp.argmax(class_scores() + temperature * gumbel, axis=1).astype(jnp.int32)

    def steps(_):
        # Up to three steps a class in random order, so that class is not monotone in the score.
        bins = 3 * k
        edge = quantiles(score[:, :m], draw(107, bins - 1))
        used = jnp.arange(bins - 1)[None, :, None] < (k_used * (1 + jnp.floor(2.999 * u[:, 4])) - 1)[:, None, None]
        place = jnp.sum((score[:, None, :] > edge[:, :, None] + MARGIN) & used, axis=1)
        table = jnp.floor(draw(108, bins) * k_used[:, None]).astype(jnp.int32)
        table = jnp.where(jnp.arange(bins)[None, :] < k_used[:, None], jnp.arange(bins)[None, :], table)
        return jnp.take_along_axis(table, place, axis=1)

    def rule(_):
        index, counts = drivers_of(sizes, plan, u[:, 5:7])
        v = jax.vmap(lambda v, i: v[i])(columns, index)  # [L, D, m + r]
        v_ref = v[..., :m]
        lanes, d, _ = v.shape
        share = keys.between(u[:, 7], 0.35, 0.6)
        middle = quantiles(v_ref.reshape(lanes * d, m), jnp.repeat(share, d)[:, None]).reshape(lanes, d, 1)
        bits = (v > middle + MARGIN) & counts[:, :, None]
        total = jnp.sum(bits, axis=1)
        code = jnp.sum(bits * (2 ** jnp.arange(d, dtype=jnp.int32))[None, :, None], axis=1)

        def product(_):
            centre = jnp.mean(v_ref, axis=2, keepdims=True)
            spread = jnp.std(v_ref, axis=2, keepdims=True) + 1e-6
            times = jnp.prod(jnp.where(counts[:, :, None], (v - centre) / spread, 1.0), axis=1)
            return by_shares(times, _class_shares(draw(109, k), concentration, k_used))

        def lookup(_):
            table = jnp.floor(draw(110, 2**d) * k_used[:, None]).astype(jnp.int32)
            return jnp.take_along_axis(table, code, axis=1)

        kinds = [lambda _: total % 2, lookup, lambda _: (total == jnp.sum(counts, axis=1)[:, None]).astype(jnp.int32),
                 lambda _: (total > 0).astype(jnp.int32), product]  # fmt: skip
        return jax.lax.switch(cohort.rule, kinds, None).astype(jnp.int32)

    def additive(_):
        # Half the tasks cut one sum with logistic noise into bins, the others draw from a softmax over one sum per class.
        total = additive_scores(sizes, cohort, plan, stream, columns)
        total_ref = total[:, 0, :m]
        temperature = keys.log_between(u[:, 3], *law["temperature"])[:, None]
        chance = rows_uniform(keys.sub(row_stream, 500), rows)
        noisy = total[:, 0] + temperature * (jnp.log(chance) - jnp.log1p(-chance))
        edge = quantiles(total_ref, _class_shares(draw(112, k), concentration, k_used)[:, :-1])
        # Between two values of the sum, since rows of few categories share theirs, and further out as the noise spreads
        # them (a logistic law has a variance of pi^2 / 3).
        above = total_ref[:, None, :]
        above = jnp.where(above > edge[:, :, None] + MARGIN, above, jnp.inf).min(axis=2)
        edge = jnp.where(jnp.isfinite(above), 0.5 * (edge + above), edge + 1.0) * jnp.sqrt(1.0 + 3.29 * temperature**2)
        used = jnp.arange(k - 1)[None, :, None] < (k_used - 1)[:, None, None]
        binned = jnp.sum((noisy[:, None, :] > edge[:, :, None]) & used, axis=1).astype(jnp.int32)
        streams = jax.vmap(lambda i: keys.sub(row_stream, 501 + i), out_axes=1)(jnp.arange(k, dtype=jnp.uint32))
        gumbel = -jnp.log(-jnp.log(rows_uniform(streams, rows)))
        bias = 0.7 * keys.to_normal(draw(113, k)) / jnp.sqrt(concentration[:, None] + 0.5)
        drawn = total + bias[..., None] + temperature[..., None] * gumbel
        drawn = jnp.argmax(jnp.where(inside[:, :, None], drawn, jnp.float32(-3e38)), axis=1).astype(jnp.int32)
        return jnp.where(u[:, 4:5] < 0.5, binned, drawn), total[:, 0]

    projected = [lambda _, f=f: (f(None), score) for f in (ordered_bins, prototypes, argmax, softmax, steps, rule)]
    y, score = jax.lax.switch(cohort.target, [*projected, additive], None)
    moments = jnp.stack([jnp.mean(score[:, :m], axis=1), jnp.std(score[:, :m], axis=1)], axis=1)
    known = (y[:, None, :m] == jnp.arange(k)[None, :, None]).any(axis=2)
    y, score = y[:, m:], score[:, m:]
    noise = jnp.where(u[:, 8] < law["label_noise_rate"], keys.log_between(u[:, 9], *law["label_noise"]), 0.0)
    flip = rows_uniform(keys.sub(row_stream, 200), rows[m:])
    rank = jnp.cumsum(known, axis=1)
    count = rank[:, -1:]
    place = jnp.minimum(jnp.floor(flip / jnp.maximum(noise[:, None], 1e-6) * count).astype(jnp.int32), count - 1)
    other = jnp.sum(rank[:, None, :] <= place[:, :, None], axis=2)  # the class of that place among the known ones
    y = jnp.where(flip < noise[:, None], other, y)
    return y, score, moments, noise


def numeric_target(stream: Stream, rows: jax.Array, score: jax.Array, moments: jax.Array) -> jax.Array:
    """A regression target f32[L, r]: the score, standardised, bent by a monotone curve (none, heavy tails, or log-normal)
    and with noise of its own. Classes by rank, steps or sums of columns cut the same score; other classes come from the same
    node."""
    own = keys.sub(stream, Purpose.TARGET_VALUE)
    u = jax.vmap(lambda s: keys.uniform(s, (4,)))(own)[:, :, None]
    z = (score - moments[:, :1]) / jnp.maximum(moments[:, 1:], 1e-6)
    z = jnp.clip(z, -20.0, 20.0)
    level = jnp.where(u[:, 0] < 0.7, keys.log_between(u[:, 1], jnp.float32(0.01), jnp.float32(0.7)), 0.0)
    z = z + level * rows_normal(keys.sub(stream, Purpose.TARGET_VALUE_ROWS), rows)
    bent = jnp.where(u[:, 2] < 0.75, jnp.sinh(jnp.clip(z * (0.3 + u[:, 3]), -8.0, 8.0)), jnp.exp(jnp.clip(z * u[:, 3], -8.0, 8.0)))
    return jnp.where(u[:, 2] < 0.5, z, bent)


class Settled(NamedTuple):
    """How the classes of a table were made of those that its mechanism gave; `settled_classes` does it again for other rows.

    Attributes:
      fallback: i32[L]; 0 none, 1 median split of the score, 2 a coin for every row.
      middle: f32[L], the score from which on a median split says 1.
      merged: i32[L, K], the class that each becomes: itself, unless there were more classes than context rows.
    """

    fallback: jax.Array
    middle: jax.Array
    merged: jax.Array


def _coin(stream: Stream, rows: jax.Array) -> jax.Array:
    """i32[L, r]: heads or tails for every row; the first two differ."""
    coin = (rows_uniform(keys.sub(keys.sub(stream, Purpose.TARGET_ROWS), 300), rows) < 0.5).astype(jnp.int32)
    return jnp.where(rows == 0, 0, jnp.where(rows == 1, 1, coin))


def settled_classes(settled: Settled, stream: Stream, rows: jax.Array, y: jax.Array, score: jax.Array) -> jax.Array:
    """The class i32[L, r] of rows before it is renamed, from what `assign_classes` gave for them."""
    fallback = settled.fallback[:, None]
    median = (score >= settled.middle[:, None]).astype(jnp.int32)
    y = jnp.where(fallback == 0, y, jnp.where(fallback == 1, median, _coin(stream, rows)))
    return jnp.take_along_axis(settled.merged, y, axis=1)


def _first_rows(y: jax.Array, k: int) -> jax.Array:
    """i32[L, K]: the first row of each class, the number of rows where there is none."""
    hot = y[:, None, :] == jnp.arange(k, dtype=jnp.int32)[None, :, None]
    return jnp.min(jnp.where(hot, jnp.arange(y.shape[1], dtype=jnp.int32), y.shape[1]), axis=2)


def _merging(first: jax.Array, exists: jax.Array, n_context: jax.Array) -> jax.Array:
    """i32[L, K]: itself for the classes that are met first, as many as there are context rows; one of these for the rest."""
    before = (first[:, None, :] < first[:, :, None]) & exists[:, None, :]
    rank = jnp.sum(before, axis=2)
    room = n_context[:, None]
    host = exists[:, None, :] & (rank[:, None, :] == (rank % room)[:, :, None])
    own = jnp.arange(first.shape[1], dtype=jnp.int32)[None, :]
    return jnp.where(exists & (rank >= room), jnp.argmax(host, axis=2).astype(jnp.int32), own)


def settle_classes(
    plan: TaskPlan, stream: Stream, rows: jax.Array, y: jax.Array, score: jax.Array, k: int, crowded: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array, Settled]:
    """Makes classes keep their rules: ids 0 .. C-1 without gaps, randomly named, each present in the context.

    A class that appears only in query rows has its first row moved into the context (rows are exchangeable). A task whose
    rows all fall into one class is split at the median of its score; if that fails too, at random: a bounded rule, counted in
    the returned code. With `crowded`, for shapes whose context may hold fewer rows than there are classes, classes that
    find no context row left are merged with others.

    Returns:
      order i32[L, r] (row to take at each place), y i32[L, r] in that order, n_classes i32[L], and what was done.
    """
    r = y.shape[1]
    place = jnp.arange(r, dtype=jnp.int32)

    def present(labels):
        return (labels[:, None, :] == jnp.arange(k, dtype=jnp.int32)[None, :, None]).any(axis=2)

    def single(labels):
        return jnp.sum(present(labels), axis=1) < 2

    def split(y):
        bad = single(y)
        middle = jnp.sort(score, axis=1)[:, r // 2][:, None]
        median = (score >= middle).astype(jnp.int32)
        still = bad & single(median)
        y = jnp.where(bad[:, None], jnp.where(still[:, None], _coin(stream, rows), median), y)
        # Halfway to the next lower score, so that another program's last bit puts no row of the table on the other side.
        lower = jnp.max(jnp.where(score < middle, score, -jnp.inf), axis=1, keepdims=True)
        halfway = 0.5 * (lower + middle)
        middle = jnp.where(halfway > lower, halfway, middle)
        return y, bad.astype(jnp.int32) + still.astype(jnp.int32), middle[:, 0]

    none = (jnp.zeros(y.shape[0], jnp.int32), jnp.zeros(y.shape[0], jnp.float32))
    y, fallback, middle = jax.lax.cond(single(y).any(), split, lambda y: (y, *none), y)

    first = _first_rows(y, k)  # [L, K], r where absent
    exists = first < r
    merged = jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32), (y.shape[0], k))
    if crowded:
        merged = _merging(first, exists, plan.n_context)
        y = jnp.take_along_axis(merged, y, axis=1)
        first = _first_rows(y, k)
        exists = first < r
    outside = exists & (first >= plan.n_context[:, None])

    def reorder(_):
        # First rows of all classes, in order, then the rest in order.
        head = jnp.sort(first, axis=1)
        count = jnp.sum(exists, axis=1)
        rest = place[None, :] - count[:, None]
        for i in range(k):
            rest = rest + (head[:, i : i + 1] <= rest)
        moved = jnp.where(place[None, :] < count[:, None], jnp.take_along_axis(head, jnp.minimum(place, k - 1)[None, :], 1), rest)
        return jnp.where(outside.any(axis=1)[:, None], moved, place[None, :])

    order = jax.lax.cond(outside.any(), reorder, lambda _: jnp.broadcast_to(place, y.shape), None)
    u = jax.vmap(lambda s: keys.uniform(keys.sub(keys.sub(s, Purpose.TARGET), 400), (k,)))(stream)
    # Two equal numbers (once in some hundred thousand tasks of ten classes) must not give two classes one name.
    earlier = jnp.arange(k)[None, :] < jnp.arange(k)[:, None]
    before = (u[:, None, :] < u[:, :, None]) | ((u[:, None, :] == u[:, :, None]) & earlier)
    name = jnp.sum(before & exists[:, None, :], axis=2)
    y = jnp.take_along_axis(name, jnp.take_along_axis(y, order, axis=1), axis=1).astype(jnp.int32)
    return order.astype(jnp.int32), y, jnp.sum(exists, axis=1).astype(jnp.int32), Settled(fallback, middle, merged)
