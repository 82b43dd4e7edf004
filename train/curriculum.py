"""Which table shape a dispatch trains on, and how many steps a time limit buys."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..configs.recipe import TaskShape
from ..priors.task import TableShape

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_WINDOW = 32
"""Dispatches a speed is averaged over: a busy machine now and then takes ten times as long for one."""
_KNOWN_COUNTS = 4
"""Dispatches that a speed from an earlier leg counts as."""


def table_shape(shape: TaskShape) -> TableShape:
    """What the sampler needs to know of a shape to train on."""
    return TableShape(shape.rows, shape.columns, shape.context, shape.least_columns, shape.least_context)


def active_shapes(shapes: tuple[TaskShape, ...], done: float) -> list[int]:
    """Indices of the shapes that are active at share ``done`` of the run."""
    done = min(max(done, 0.0), 1.0 - 1e-9)
    return [i for i, s in enumerate(shapes) if s.start <= done < s.end]


def pick_shape(shapes: tuple[TaskShape, ...], dispatch: int, done: float) -> int:
    """The shape of dispatch number ``dispatch`` at share ``done`` of the run.

    A function of its arguments alone. Over consecutive dispatches shapes come in proportion to their weights, evenly
    spread (multiples of the golden ratio instead of random numbers).
    """
    active = active_shapes(shapes, done)
    total = sum(shapes[i].weight for i in active)
    point = math.modf((dispatch + 0.5) * _GOLDEN)[0] * total
    for i in active:
        point -= shapes[i].weight
        if point < 0:
            return i
    return active[-1]


class Pace:
    """Seconds a dispatch takes, by shape, learned while running."""

    def __init__(self, shapes: tuple[TaskShape, ...], known: Mapping[int, float] | None = None):
        """``known``: what an earlier leg measured on the same kind of devices."""
        self._shapes = shapes
        self._known = dict(known or {})
        self._seconds: dict[int, float] = dict(self._known)
        self._seen: dict[int, int] = {}

    @property
    def seconds(self) -> dict[int, float]:
        """Seconds a dispatch, of the shapes that have run."""
        return dict(self._seconds)

    def add(self, shape: int, seconds: float) -> None:
        """Records one dispatch; the first of a shape in a leg warms up memory and is replaced by the second."""
        seen = self._seen.get(shape, 0)
        self._seen[shape] = seen + 1
        before = self._seconds.get(shape)
        if seen == 0 and shape in self._known:
            return
        if before is None or (seen < 2 and shape not in self._known):
            self._seconds[shape] = seconds
        else:
            share = 1.0 / min(seen + (_KNOWN_COUNTS if shape in self._known else 0), _WINDOW)
            self._seconds[shape] = before + share * (seconds - before)

    def settled(self, done: float) -> bool:
        """Whether every shape that is active at share ``done`` of the run has been timed after its warm-up."""
        active = active_shapes(self._shapes, done)
        return all(i in self._known or self._seen.get(i, 0) >= 2 for i in active)

    def price(self, shape: int) -> float:
        """Seconds the next dispatch of a shape will take; 0 before anything is known."""
        return self._costs()[shape] if self._seconds else 0.0

    def dispatches(self, seconds: float, done: float) -> int | None:
        """Dispatches that fit into ``seconds`` when the run stands at share ``done``; None before anything is known."""
        if not self._seconds:
            return None
        cost = self._costs()
        total = samples = 0.0
        for k in range(64):  # the mix of shapes over what is left of the run
            point = done + (1.0 - done) * (k + 0.5) / 64
            active = active_shapes(self._shapes, point)
            weight = sum(self._shapes[i].weight for i in active)
            total += sum(cost[i] * self._shapes[i].weight for i in active) / weight
            samples += 1
        return max(0, int(seconds / (total / samples)))

    def _costs(self) -> dict[int, float]:
        # Cost per row and token is nearly the same for all shapes, which prices a shape that has not run yet.
        size = {i: s.tasks * s.rows * (s.all_columns + 1) for i, s in enumerate(self._shapes)}
        per_cell = sum(self._seconds.values()) / sum(size[i] for i in self._seconds)
        return {i: self._seconds.get(i, per_cell * size[i]) for i in size}
