"""What every member of every law does, drawn in the setting where it shows best.

A whole task hides its parts behind one another, so each law has a small world of its own: mechanisms are maps over two
plain roots, classes are regions of a plane, rules are drawn over the two columns that they read, kinds of columns against
the coordinate that they show. The worlds differ in laws only, which are traced, so all of them share one compiled sampler.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from priorax.configs.prior import (
    TARGETS,
    CategoricalWeights,
    CombineWeights,
    Component,
    FamilyWeights,
    GraphWeights,
    Laws,
    MissingWeights,
    NoiseWeights,
    NumericWeights,
    PriorConfig,
    RootWeights,
    RuleWeights,
    TargetWeights,
    load_prior,
)
from priorax.pictures import COLOURS, draw_graph, grid
from priorax.priors import sample
from priorax.priors.records import graphs, records
from priorax.priors.scm import SCM

# Two normal roots and nothing that would blur what they cause.
PLAIN = Laws(
    graph=GraphWeights(erdos_renyi=1), edge_rate=(1, 1), roots=(2, 2), instructions=(1, 1), node_width=(1, 1),
    root=RootWeights(normal=1), root_activation_rate=0, noiseless_rate=1, heteroscedastic_rate=0,
    family=FamilyWeights(mlp=1), combine=CombineWeights(concat=1), weight_decay=(0, 0), columns_least=2,
    numeric_column=NumericWeights(identity=1), categorical_share=(0, 0), mix_rate=0, duplicate_rate=0,
    target=TargetWeights(ordered_bins=1), label_noise_rate=0, classes_two_rate=0.3, outlier_rate=0, rounding_rate=0,
    missing_rate=0,
)  # fmt: skip
# A node of two coordinates, which are the plane: linear in four normal ones, with noise of its own.
PLANE = dataclasses.replace(
    PLAIN, node_width=(2, 2), family=FamilyWeights(linear=1), noiseless_rate=0, noise_level=(0.5, 0.7),
    class_concentration=(5, 20), hidden_target_rate=0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class World:
    """A table and model of one task. x: f32[R, F], y: i64[R] codes before renaming; nodes: f32[N, W, R], all rows aligned."""

    scm: SCM
    x: np.ndarray
    y: np.ndarray
    nodes: np.ndarray
    missing: np.ndarray
    categorical: np.ndarray
    graph: Any
    parents: np.ndarray
    column_node: np.ndarray

    @property
    def made(self) -> int:
        """The last node with parents, or -1."""
        with_parents = np.flatnonzero(self.parents.any(0))
        return int(with_parents[-1]) if len(with_parents) else -1


def worlds(prior: PriorConfig, seed: int, candidates: int, rows: int, columns: int) -> list[World]:
    """Tasks of one prior, each of another cohort, with their models and node values."""
    import jax

    ids = range(0, 8 * candidates, 8)  # neighbours share a cohort
    batch = sample(prior, seed, ids, rows=rows, columns=columns, with_scm=True)
    # The table moves a class's first row into the context now and then; the model knows which row is where.
    drawn = jax.device_get(batch.scm.sample(rows))
    order, plan, shows = jax.device_get((batch.scm.order, batch.scm.plan, batch.scm.node_of_column))
    out = []
    for b, task in enumerate(records(jax.device_get(dataclasses.replace(batch, scm=None)), ids, graphs(batch.scm))):
        rank = np.argsort(order[b])
        f = task.n_features
        out.append(
            World(
                batch.scm.task(b), drawn["columns"][b][:, :f], drawn["y"][b], drawn["nodes"][b],
                np.isnan(task.x)[rank], task.categorical, task.graph, plan.parents[b], shows[b, :f],
            )
        )  # fmt: skip
    return out


def figure(law: str, members: Sequence[str], seed: int, n_tasks: int, rows: int, columns: int) -> Any:
    """One row of ``n_tasks`` pictures for each member of a law, in the law's own world."""
    laws, keep, draw = _SCENES[law]
    figure, axes = grid(len(members), n_tasks, 1.6 * n_tasks + 0.6, 1.5 * len(members))
    for line, member in zip(axes, members, strict=True):
        prior = load_prior(f"{law}:{member}") if laws is None else PriorConfig(
            name=member, components=(Component(member, 1.0, laws(member)),)
        )  # fmt: skip
        # Not every task of a world shows what is to be shown: many more are drawn than are needed.
        candidates = (w for w in worlds(prior, seed, 8 * n_tasks, rows, columns) if keep(w))
        found = list(itertools.islice(candidates, n_tasks))
        for k, axis in enumerate(line):
            axis.set_xticks([])
            axis.set_yticks([])
            if k < len(found):
                draw(axis, found[k])
            else:
                axis.set_axis_off()
        # A graph has no axes to carry the name.
        line[0].text(-0.12, 0.5, member.replace("_", " "), rotation=90, va="center", ha="right", fontsize=8,
                     transform=line[0].transAxes)  # fmt: skip
    return figure


def _inner(v: np.ndarray) -> np.ndarray:
    """Values pulled into their middle 98 %, so that a heavy tail does not squeeze the rest."""
    low, high = np.quantile(v, [0.01, 0.99])
    return np.clip(v, low, high)


def _jitter(v: np.ndarray, width: float = 0.25) -> np.ndarray:
    return v + np.random.default_rng(0).uniform(-width, width, v.shape)


def _map(axis: Any, world: World) -> None:
    """A mechanism: its value, by rank, as colour over the plane of its two parents."""
    a, b = np.flatnonzero(world.parents[:, world.made])[:2]
    value = world.nodes[world.made, 0]
    rank = np.searchsorted(np.unique(value), value)
    axis.scatter(world.nodes[a, 0], world.nodes[b, 0], c=rank, cmap="viridis", s=4, linewidths=0)
    axis.set_xlim(-2.5, 2.5)
    axis.set_ylim(-2.5, 2.5)


def _two_parents(world: World) -> bool:
    return world.made >= 0 and world.parents[:, world.made].sum() == 2 and np.ptp(world.nodes[world.made, 0]) > 0


def _cloud(axis: Any, world: World) -> None:
    """Two coordinates of a root."""
    node = int(np.flatnonzero(~world.parents.any(0))[0])
    a, b = (_inner(world.nodes[node, d]) for d in (0, 1))
    axis.scatter(_jitter(a, 0.04), _jitter(b, 0.04), s=3, color=COLOURS[0], alpha=0.6, linewidths=0)


def _noise(axis: Any, world: World) -> None:
    """An effect against its cause, so that what scatters around the line is the noise."""
    cause = np.flatnonzero(world.parents[:, world.made])[0]
    axis.scatter(world.nodes[cause, 0], world.nodes[world.made, 0], s=3, color=COLOURS[0], alpha=0.6, linewidths=0)


def _column(axis: Any, world: World) -> None:
    """A histogram of the first column."""
    v = world.x[:, 0]
    values, counts = np.unique(v, return_counts=True)
    if len(values) <= 40:
        axis.vlines(values, 0, counts, color=COLOURS[0], lw=2)
    else:
        axis.hist(_inner(v), bins=40, color=COLOURS[0])


def _levels(axis: Any, world: World) -> None:
    """The codes of a categorical column against the coordinate that it shows."""
    shown = world.nodes[world.column_node[0], 0]
    axis.scatter(shown, _jitter(world.x[:, 0]), s=3, color=COLOURS[2], alpha=0.6, linewidths=0)


def _classes(axis: Any, x: np.ndarray, y: np.ndarray, s: float = 4) -> None:
    for c in np.unique(y):
        axis.scatter(*x[:, y == c], s=s, color=COLOURS[int(c) % 10], linewidths=0)


def _regions(axis: Any, world: World) -> None:
    """Classes over the two coordinates of the node that decides them, or the two columns that are added up."""
    if _adds_up(world):
        return _rule(axis, world)
    node = int(np.asarray(world.scm.target_nodes)[0, 0])
    _classes(axis, world.nodes[node, :2], world.y)


def _adds_up(world: World) -> bool:
    return int(np.asarray(world.scm.cohort.target)[0]) == TARGETS.index("additive")


def _decided_by_one(world: World) -> bool:
    if _adds_up(world):
        return _both_drive(world)
    a, b = (int(v) for v in np.asarray(world.scm.target_nodes)[0])
    return 0 <= a == b and len(np.unique(world.y)) > 1


def _rule(axis: Any, world: World) -> None:
    """Classes over the two columns that the rule or sum reads."""
    _classes(axis, world.x[:, world.scm.label_columns()].T, world.y)
    axis.set_xlim(-2.5, 2.5)
    axis.set_ylim(-2.5, 2.5)


def _both_drive(world: World) -> bool:
    """Whether the class reads two columns that do not show the same thing."""
    drivers = world.scm.label_columns()
    if len(drivers) != 2 or len(np.unique(world.y)) < 2:
        return False
    return abs(np.corrcoef(world.x[:, drivers].T)[0, 1]) < 0.5


def _gaps(axis: Any, world: World) -> None:
    """The table as it would be without gaps, rows sorted by the column with most of them; gaps in red."""
    worst = int(np.argmax(world.missing.mean(0)))
    order = np.argsort(world.x[:, worst], kind="stable")
    rank = np.argsort(np.argsort(world.x, axis=0), axis=0)[order] / len(order)
    image = np.repeat(1 - 0.55 * rank[:, :, None], 3, axis=2)
    image[world.missing[order]] = (0.84, 0.15, 0.15)
    axis.imshow(image, aspect="auto", interpolation="nearest")


def _pair(axis: Any, world: World) -> None:
    """The two columns that go together most."""
    with np.errstate(invalid="ignore", divide="ignore"):
        c = np.abs(np.nan_to_num(np.corrcoef(world.x.T))) - 2 * np.eye(world.x.shape[1])
    a, b = np.unravel_index(np.argmax(c), c.shape)
    axis.scatter(world.x[:, a], world.x[:, b], s=4, color=COLOURS[0], alpha=0.6, linewidths=0)


def _graph(axis: Any, world: World) -> None:
    draw_graph(axis, world.graph, names=False)


CAPTIONS = {
    "graph": "Causal graphs, causes left: hidden nodes grey, nodes shown as columns blue, the label orange.",
    "family": "Mechanisms: a node's value (rank, dark to bright) over the plane of its two parents.",
    "combine": "Ways to combine parents, over MLPs: one function of both, or one of each, folded.",
    "root": "Root laws: two coordinates of a root node.",
    "noise": "Exogenous noise around a linear effect; some of it heteroscedastic.",
    "numeric_column": "Kinds of numeric columns: histograms of one column that shows a normal coordinate.",
    "categorical_column": "Kinds of categorical columns: the code (up) against the coordinate it shows (across).",
    "target": "How rows get their class: regions over the two coordinates of the node that decides, or over two columns that are added up.",
    "rule": "Rules over two driver columns.",
    "missing": "Missing values: tables with rows sorted by the column with most gaps (red); darker cells hold larger values.",
    "corruption": "The two columns of a table that go together most, corrupted.",
}
"""What each figure shows."""

_Scene = tuple[Callable[[str], Laws] | None, Callable[[World], bool], Callable[[Any, World], None]]


def _with(base: Laws, field: str, kind: type, **more: Any) -> Callable[[str], Laws]:
    return lambda member: dataclasses.replace(base, **{field: kind(**{member: 1.0})}, **more)


def _corruption(member: str) -> Laws:
    own = {
        "outliers": {"outlier_rate": 1.0},
        "rounding": {"rounding_rate": 1.0, "rounding_step": (0.1, 0.5)},
        "near_copies": {"duplicate_rate": 1.0, "duplicate_share": (0.5, 1.0), "duplicate_noise": (0.02, 0.5)},
    }
    return dataclasses.replace(PLAIN, instructions=(3, 6), columns_least=4, **own[member])


def _target(member: str) -> Laws:
    """Sums need two columns to add up, the others a node."""
    if member == "additive":
        return _with(PLAIN, "target", TargetWeights, columns_log=1.0, carriers=(1, 1), temperature=(0.03, 0.2))(member)
    return _with(PLANE, "target", TargetWeights)(member)


_anything = lambda world: True
_SCENES: dict[str, _Scene] = {
    "graph": (None, lambda w: w.graph.n_nodes >= 8, _graph),
    "family": (_with(PLAIN, "family", FamilyWeights), _two_parents, _map),
    # A fold needs one instruction for each parent.
    "combine": (
        lambda m: _with(PLAIN, "combine", CombineWeights, instructions=(1, 1) if m == "concat" else (2, 2))(m),
        _two_parents, _map,
    ),
    "root": (_with(PLAIN, "root", RootWeights, roots=(1, 1), node_width=(3, 6)), _anything, _cloud),
    "noise": (
        _with(PLAIN, "noise", NoiseWeights, roots=(1, 1), family=FamilyWeights(linear=1), noiseless_rate=0.0,
              noise_level=(0.2, 0.5), heteroscedastic_rate=0.3),
        lambda w: w.made >= 0, _noise,
    ),
    "numeric_column": (_with(PLAIN, "numeric_column", NumericWeights), _anything, _column),
    "categorical_column": (
        _with(PLAIN, "categorical_column", CategoricalWeights, categorical_share=(1, 1)),
        lambda w: bool(w.categorical[0]) and w.column_node[0] >= 0, _levels,
    ),
    "target": (_target, _decided_by_one, _regions),
    "rule": (
        _with(PLAIN, "rule", RuleWeights, target=TargetWeights(rule=1), columns_log=0.0, carriers=(1, 1)),
        _both_drive, _rule,
    ),
    "missing": (
        _with(dataclasses.replace(PLAIN, instructions=(3, 8)), "missing", MissingWeights, missing_rate=1.0,
              missing_share=(0.15, 0.3), columns_least=4),
        lambda w: bool(w.missing.any()) and w.x.shape[1] > 2, _gaps,
    ),
    "corruption": (_corruption, lambda w: w.x.shape[1] > 2, _pair),
}  # fmt: skip
