"""Propagation, interventions and counterfactuals against a plain NumPy interpreter that walks the exported plan node by node."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.configs.prior import COMBINES, FAMILIES
from priorax.priors import keys, sample
from priorax.priors.activations import ACTIVATIONS
from priorax.priors.keys import Purpose
from priorax.priors.levels import level_effects, quantiser
from priorax.priors.mechanisms import MARGIN, draw_weights
from priorax.priors.noise import noise_from_uniform, rows_normal, rows_uniform
from priorax.priors.propagate import root_rows

ROWS = 64
SIZES = load_prior("default").sizes
WIDTH = SIZES.width


def softmax(v, axis):
    e = np.exp(v - v.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


class Cut:
    def __init__(self, flat):
        self.flat, self.at = flat, 0

    def __call__(self, *shape):
        size = int(np.prod(shape))
        self.at += size
        return self.flat[self.at - size : self.at].reshape(shape)


def family_row(name, sizes, wt, anchors, act, x):
    """One mechanism for one row: x f64[P], anchors f64[P, A] -> f64[W]. Written from the docstrings, with loops."""
    cut, p, h, w = Cut(wt["normal"]), sizes.inputs, sizes.hidden, sizes.width
    scale = wt["relevance"] / np.sqrt(p)
    activation = lambda v: np.clip(np.asarray(ACTIVATIONS[act](jnp.asarray(np.clip(v, -50, 50), jnp.float32)), np.float64), -1e4, 1e4)
    used = max(2, min(sizes.anchors, int(np.floor(np.exp(np.log(2.0) + wt["uniform"][0] * np.log((sizes.anchors + 1) / 2.0))))))

    def split(count, index):
        weight = np.cumsum(wt["relevance"] ** 2)
        feature = min(int((wt["uniform"][index] * weight[-1] >= weight).sum()), p - 1)
        row = int(wt["uniform"][count + index] * sizes.anchors)
        return x[feature] > anchors[feature, row] + MARGIN

    def distance():
        return (((anchors - x[:, None]) * wt["relevance"][:, None]) ** 2).sum(0)[:used]

    if name == "linear":
        return cut(w, p) @ (scale * x)
    if name == "mlp":
        hidden = cut(h, p) @ (scale * x)
        hidden = hidden + cut(h)
        return cut(w, h) @ activation(hidden * wt["gain"]) / np.sqrt(h)
    if name == "deep_mlp":
        one = cut(h, p) @ (scale * x) * 1.5
        one = np.tanh(one + cut(h))
        two = cut(h, h) @ one / np.sqrt(h / 2)
        two = (two + 0.5 * cut(h)) * wt["gain"]
        return cut(w, h) @ activation(two) / np.sqrt(h)
    if name == "oblivious_trees":
        trees, depth = sizes.trees, sizes.tree_depth
        leaves, out = cut(trees, 2**depth, w), np.zeros(w)
        for t in range(trees):
            code = sum(int(split(trees * depth, t * depth + d)) << d for d in range(depth))
            out += leaves[t, code] * (0.4 + 0.6 * wt["uniform"][-1]) ** t
        return out
    if name == "deep_tree":
        depth, node = sizes.deep_tree_depth, 0
        leaves = cut(w, 2**depth)
        for _ in range(depth):
            node = 2 * node + 1 + int(split(2**depth - 1, node))
        return leaves[:, node - (2**depth - 1)]
    if name == "prototypes":
        far = distance() + 10 * MARGIN * np.arange(used)
        return cut(w, sizes.anchors)[:, int(np.argmin(far))]
    if name == "soft_prototypes":
        share = softmax(-0.5 * wt["frequency"] ** 2 * distance(), 0)
        return cut(w, sizes.anchors)[:, :used] @ share
    if name == "fourier":
        r = sizes.frequencies
        omega = cut(r, p) * (np.minimum((1 - wt["uniform"][:r]) ** (-1 / 6), 8.0) * wt["frequency"])[:, None]
        phase = 3.0 * cut(r)
        return cut(w, r) @ np.cos(omega @ (scale * x) + phase) * np.sqrt(2.0 / r)
    if name == "quadratic":
        left, right = cut(h, p) @ (scale * x), cut(h, p) @ (scale * x)
        return cut(w, h) @ (left * (right + (np.arange(h) % 3 == 0))) / np.sqrt(h)
    if name == "experts":
        gate = softmax(cut(3, p) @ (scale * x) * 3.0 * wt["gain"], 0)
        value = cut(3, w, p) @ (scale * x)
        return gate @ (value + cut(3 * w).reshape(3, w))
    if name == "levels":
        level = int(wt["count"] * (0.5 * (1.0 + math.erf(x[0] / math.sqrt(2.0)))) ** wt["steep"])
        share = 0.3 + 0.7 * wt["uniform"][0]
        own = wt["effects"][:, min(level, wt["count"] - 1)]
        return np.sqrt(share) * own + np.sqrt(1.0 - share) * (cut(w, p) @ (scale * x))
    raise AssertionError(name)


def fold(op, a, b):
    squash = lambda v: np.clip(v, -30, 30)
    return {"sum": lambda: a + b, "product": lambda: squash(a) * squash(b), "max": lambda: np.maximum(a, b),
            "logsumexp": lambda: np.logaddexp(squash(a), squash(b))}[op]()  # fmt: skip


@jax.jit
def node_draws(stream, kind, node, instruction, rows):
    """Noise, its direction, and what stands in for a constant root."""
    own = keys.sub(keys.sub(stream, Purpose.NODE_ROWS), node)
    direction = keys.normal(keys.sub(keys.sub(keys.sub(stream, Purpose.WEIGHTS), instruction), 9), (WIDTH,))
    return noise_from_uniform(kind, rows_uniform(own, rows)), direction, rows_normal(own, rows)


@jax.jit
def mechanism_draws(law, streams, stream, first_input, instruction):
    """Weights of one mechanism, the quantiser of its first input, and the effects of all levels there can be."""
    cut = jax.tree.map(lambda v: v[0], quantiser(law, streams, first_input))
    drawn = draw_weights(SIZES, law, keys.sub(keys.sub(stream, Purpose.WEIGHTS), instruction), cut)._asdict()
    table = jax.tree.map(lambda v: v[None], drawn.pop("table"))
    drawn.pop("cut")
    return drawn, cut, level_effects(table, jnp.arange(SIZES.many_levels)[None], WIDTH)


one_root = jax.jit(root_rows, static_argnums=0)


def interpret(model, do):
    """f64[N, W, ROWS] of a one-task model, do: {node: value}."""
    host = lambda t: jax.tree.map(lambda v: np.asarray(v)[0], t)
    sizes, plan, cohort, params = model.sizes, host(model.plan), host(model.cohort), host(model.params)
    law = jax.tree.map(lambda v: v[0], model.law)
    stream = jax.tree.map(lambda v: v[0], model.stream)
    names, w = list(ACTIVATIONS), sizes.width
    rows = jnp.arange(ROWS, dtype=jnp.uint32)
    values = np.zeros((sizes.nodes, w, ROWS))

    def close(node, raw, noisy):
        v = (raw - params.mean[node][:, None]) * params.scale[node][:, None]
        draws = node_draws(stream, jnp.int32(cohort.noise), jnp.int32(node), jnp.int32(node - sizes.roots), rows)
        eps, direction, spare = (np.asarray(d, np.float64) for d in draws)
        if noisy:
            alive = params.scale[node] > 0
            level = np.where(alive, plan.noise_level[node], 1.0) * direction
            strength = 1.0 + plan.heteroscedastic[node] * np.tanh(v[0])
            v = (v + level[:, None] * (eps * strength)[None]) / np.sqrt(alive + level**2 + 1e-6)[:, None]
        else:
            v = np.where(params.scale[node][:, None] > 0, v, spare)
        values[node] = np.clip(v, -1e4, 1e4)
        if node in do:
            values[node] = do[node]

    for r in range(cohort.n_roots):
        raw = one_root(sizes, jnp.int32(cohort.root[r]), jnp.int32(cohort.root_activation[r]), model.stream, rows, jnp.int32(r))
        close(r, np.asarray(raw, np.float64)[0], noisy=False)
    folded = None
    for s in range(cohort.n_instructions):
        flat = values.reshape(sizes.nodes * w, ROWS)[plan.inputs[s]]
        drawn, cut, effects = mechanism_draws(law, model.stream, stream, jnp.asarray(plan.inputs[s][:1]), jnp.int32(s))
        wt = {k: np.asarray(v, np.float64) for k, v in drawn.items()}
        wt |= {"count": int(cut.count), "steep": float(cut.steep), "effects": np.asarray(effects, np.float64)[0]}
        anchors = params.anchors[s].astype(np.float64)
        out = np.zeros((w, ROWS))
        if plan.has_parents[s]:
            out = np.stack([family_row(FAMILIES[cohort.family[s]], sizes, wt, anchors, names[cohort.activation[s]], flat[:, i]) for i in range(ROWS)], axis=1)
        out = np.clip(out, -1e4, 1e4)
        folded = out if cohort.part[s] == 0 else fold(COMBINES[cohort.combine[s]], folded, out)
        if cohort.closes[s]:
            close(sizes.roots + s, folded, noisy=True)
    return values


@pytest.fixture(scope="module")
def models():
    batch = sample(load_prior("default"), 12, range(0, 64 * 8, 8), rows=ROWS, columns=8, with_scm=True)
    return [batch.scm.task(i) for i in range(64)]


def compare(got, want, active):
    """Nodes agree up to float32; a threshold may flip a stray cell, which then spreads to descendants of that row only."""
    close = np.isclose(got[active], want[active], rtol=5e-3, atol=5e-3)
    return close.all(axis=(0, 1)).mean()


def test_observed_world_matches(models):
    seen = set()
    for model in models:
        got = np.asarray(model.sample(ROWS)["nodes"])[0]
        want = interpret(model, {})
        active = np.asarray(model.plan.active)[0]
        cohort = jax.tree.map(lambda v: np.asarray(v)[0], model.cohort)
        seen |= {FAMILIES[f] for f in cohort.family[: cohort.n_instructions]}
        assert compare(got, want, active) > 0.9, model.describe()
    assert seen == set(FAMILIES)


def test_counterfactuals_match(models):
    for model in models[:16]:
        active = np.flatnonzero(np.asarray(model.plan.active)[0])
        node = int(active[len(active) // 3])
        _, other = model.counterfactual(ROWS, model.do({node: -0.7}))
        want = interpret(model, {node: -0.7})
        assert compare(np.asarray(other["nodes"])[0], want, active) > 0.9, model.describe()
