"""Probes: tables whose rule is known, one mechanism each.

Rules of two or three columns, among columns of noise, are balanced so that no column alone says anything about the class:
what a method scores on them is what it can do with interactions. Sums are the other end: every column says a little, and
only all of them together say everything, as for logistic regression. All values and labels are free of noise, so a
method that finds the rule reaches 1.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np

from ..configs.errors import ConfigError
from ..configs.eval import SuiteConfig
from ..configs.load import nearest
from .suites import DataSet, Split
from .synthetic import parse_id, task_id

Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Probe:
    """A rule and the noise around it.

    Attributes:
      name: of the group.
      drivers: columns the class depends on.
      noise: columns it does not depend on, of the same law.
      levels: values of a column; 0 for normal numbers.
      rule: (columns of drivers f64[n, drivers], generator) -> class i64[n].
    """

    name: str
    drivers: int
    noise: int
    levels: int
    rule: Callable[[np.ndarray, Rng], np.ndarray]


def _parity(x: np.ndarray, rng: Rng) -> np.ndarray:
    return (x > 0).sum(1) % 2


def _levels_parity(x: np.ndarray, rng: Rng) -> np.ndarray:
    return x.astype(np.int64).sum(1) % 2


def _lookup(x: np.ndarray, rng: Rng) -> np.ndarray:
    """A random table over two columns of k levels, in which every level of either column has each class equally
    often."""
    codes = x.astype(np.int64)
    k = 4
    table = (rng.permutation(k)[:, None] + rng.permutation(k)[None, :]) % k
    return np.isin(table, rng.permutation(k)[: k // 2]).astype(np.int64)[codes[:, 0], codes[:, 1]]


def _lookup_classes(x: np.ndarray, rng: Rng) -> np.ndarray:
    """A random Latin square over two columns of four levels: four classes."""
    codes = x.astype(np.int64)
    square = (rng.permutation(4)[:, None] + rng.permutation(4)[None, :]) % 4
    return rng.permutation(4)[square][codes[:, 0], codes[:, 1]]


def _sum(x: np.ndarray, rng: Rng) -> np.ndarray:
    """Whether a sum of all columns, with normal weights, is above its median."""
    total = x @ rng.normal(size=x.shape[1])
    return (total > np.median(total)).astype(np.int64)


def _levels_sum(x: np.ndarray, rng: Rng) -> np.ndarray:
    """The same where every level of every column has a normal effect of its own."""
    codes = x.astype(np.int64)
    effect = rng.normal(size=(x.shape[1], codes.max() + 1))
    total = effect[np.arange(x.shape[1]), codes].sum(1)
    return (total > np.median(total)).astype(np.int64)


PROBES = {
    probe.name: probe
    for probe in (
        Probe("xor-10", 2, 10, 0, _parity),
        Probe("xor-30", 2, 30, 0, _parity),
        Probe("parity-3", 3, 10, 0, _parity),
        Probe("binary-parity-3", 3, 10, 2, _levels_parity),
        Probe("lookup-2-classes", 2, 10, 4, _lookup),
        Probe("lookup-4-classes", 2, 10, 4, _lookup_classes),
        Probe("sum-20", 20, 0, 0, _sum),
        Probe("sum-40", 40, 0, 0, _sum),
        Probe("levels-sum-10", 10, 0, 5, _levels_sum),
    )
}
"""Probes by name: exclusive or of two signs among 10 and among 30 columns of noise, parity of three signs and of three
bits, look-up tables over two columns of four levels, sums of 20 and of 40 normal columns and of the effects of ten columns of
five levels."""


class Probes:
    """The tasks of a suite of probes; see `synthetic.HeldOut`."""

    def __init__(self, config: SuiteConfig) -> None:
        self._config = config.synthetic
        self.groups = [str(task) for task in config.tasks]
        for name in self.groups:
            if name not in PROBES:
                raise ConfigError(f'"{name}" is no probe. Did you mean "{nearest(name, list(PROBES))}"?')
        self.ids = [task_id(group, k) for group in self.groups for k in range(self._config.per_group)]

    def load(self, task: str) -> DataSet:
        """One task; its first rows are the training part of the only split."""
        group, k = parse_id(task, self.groups, self._config.per_group)
        cfg = self._config
        return make_probe(PROBES[group], k, cfg.context, cfg.query, cfg.seed)


def make_probe(probe: Probe, k: int, context: int, query: int, seed: int = 0) -> DataSet:
    """Draws the k-th table of a probe: ``context + query`` rows, drivers at random places among the columns."""
    rng = np.random.default_rng([seed, k, zlib.crc32(probe.name.encode())])
    n, d = context + query, probe.drivers + probe.noise
    x = rng.integers(probe.levels, size=(n, d)).astype(np.float64) if probe.levels else rng.normal(size=(n, d))
    drivers = rng.permutation(d)[: probe.drivers]
    y = probe.rule(x[:, drivers], rng)
    classes = int(y.max()) + 1
    rows = np.arange(n)
    return DataSet(
        id=task_id(probe.name, k),
        name=task_id(probe.name, k),
        X=x,
        y=y.astype(np.int64),
        classes=tuple(map(str, range(classes))),
        categorical=np.full(d, probe.levels > 0),
        splits=(Split(0, 0, rows[:context], rows[context:]),),
        source=f"probe {probe.name}, seed {seed}, table {k}",
        group=probe.name,
    )
