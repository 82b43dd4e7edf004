"""Held-out synthetic tasks, by family: what a network learned to do with each kind of mechanism, graph and target.

A group is a prior of its own, made from a shipped one: ``component/NAME`` is one component of the mixture alone;
``mechanism/NAME``, ``graph/NAME`` and ``target/NAME`` are the first component with nothing but that family. They
differ in laws only, so all groups share one compiled sampler with one another and with the prior they are made from.
Tasks follow from the suite's seed; as long as no training run uses that seed, none of them was ever trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..configs.errors import ConfigError, MissingError
from ..configs.eval import SuiteConfig
from ..configs.load import nearest
from ..configs.prior import Laws, PriorConfig, load_prior
from ..priors import sample
from ..priors.learnability import ACCEPT_Z
from ..priors.records import records
from ..priors.sampler import UNIT
from .suites import DataSet, Split

FIELDS = {"mechanism": "family", "graph": "graph", "target": "target"}
"""Kind of group -> the field of `Laws` whose weights it narrows to one family."""
CANDIDATES = 2
"""Candidates drawn for each task of a group when learnable ones are wanted."""


class HeldOut:
    """The tasks of a synthetic suite.

    Args:
      config: its ``tasks`` name groups; ``KIND/*`` stands for all groups of a kind.

    Attributes:
      groups: names, expanded.
      ids: ``GROUP/NUMBER`` for every task.

    Raises:
      ConfigError: no such group or prior.
    """

    def __init__(self, config: SuiteConfig) -> None:
        self._config = config.synthetic
        self._prior = load_prior(self._config.prior)
        self.groups = expand_groups(self._prior, [str(task) for task in config.tasks])
        self.ids = [task_id(group, k) for group in self.groups for k in range(self._config.per_group)]
        self._held: tuple[str, list[DataSet]] = ("", [])

    def load(self, task: str) -> DataSet:
        """One task; its context is the training part of the only split.

        Raises:
          MissingError: not a task of this suite.
        """
        group, k = parse_id(task, self.groups, self._config.per_group)
        if self._held[0] != group:
            self._held = (group, self._draw(group))
        return self._held[1][k]

    def _draw(self, group: str) -> list[DataSet]:
        cfg = self._config
        prior = group_prior(self._prior, group)
        count = cfg.per_group * (CANDIDATES if cfg.learnable else 1)
        # One id of every run of neighbours: those share their families of mechanisms.
        ids = range(0, count * UNIT, UNIT)
        rows = cfg.context + cfg.query
        batch = sample(prior, cfg.seed, ids, rows=rows, columns=cfg.columns, score=cfg.learnable)
        order = np.arange(count)
        if cfg.learnable:
            order = np.argsort(~(np.asarray(batch.info["learnability_z"]) > ACCEPT_Z), kind="stable")
        found = records(batch, ids)
        out = []
        for k, i in enumerate(order[: cfg.per_group]):
            task = found[i]
            context, query = split_rows(task.y, cfg.context)
            out.append(
                DataSet(
                    id=task_id(group, k),
                    name=task_id(group, k),
                    X=task.x.astype(np.float64),
                    y=task.y.astype(np.int64),
                    classes=tuple(map(str, range(task.n_classes))),
                    categorical=task.categorical.copy(),
                    splits=(Split(0, 0, context, query),),
                    source=f"prior {self._prior.name}, seed {cfg.seed}, task {ids[int(i)]}",
                    group=group,
                )
            )
        return out


def split_rows(y: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Context and query rows of a task: the first row of every class and then the first of the others are context, so
    that no class is asked for that was not shown (the engine's own rule, for a context of a chosen size)."""
    first = np.unique(y, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(y)), first)
    shown = np.sort(np.concatenate([first, rest[: context - len(first)]]))
    return shown, np.setdiff1d(np.arange(len(y)), shown)


def group_names(prior: PriorConfig) -> list[str]:
    """All groups of a prior."""
    names = [f"component/{component.name}" for component in prior.components]
    for kind, field in FIELDS.items():
        weights = getattr(Laws(), field)
        names += [f"{kind}/{member.name}" for member in dataclasses.fields(weights)]
    return names


def expand_groups(prior: PriorConfig, wanted: Sequence[str]) -> list[str]:
    """Names of groups, with ``KIND/*`` replaced by all of its kind; raises ConfigError for one that is not there."""
    known = group_names(prior)
    out: list[str] = []
    for name in wanted:
        kind, _, member = name.partition("/")
        found = [g for g in known if g.startswith(f"{kind}/")] if member == "*" else [name]
        if not found or found[0] not in known:
            near = nearest(name, known)
            raise ConfigError(f'"{name}" is no group of the prior {prior.name}. Did you mean "{near}"?')
        out += [g for g in found if g not in out]
    return out


def group_prior(prior: PriorConfig, group: str) -> PriorConfig:
    """The prior of one group. Every component gets the group's laws, since their number is part of the program."""
    kind, _, member = group.partition("/")
    if kind == "component":
        (component,) = [c for c in prior.components if c.name == member]
        laws = component.laws
    else:
        base = prior.components[0].laws
        weights = getattr(base, FIELDS[kind])
        laws = dataclasses.replace(base, **{FIELDS[kind]: type(weights)(**{member: 1.0})})
    components = tuple(dataclasses.replace(component, laws=laws) for component in prior.components)
    return dataclasses.replace(prior, name=group, oversample=1.0, components=components)


def task_id(group: str, k: int) -> str:
    """The id of the k-th task of a group."""
    return f"{group}/{k:03d}"


def parse_id(task: str, groups: Sequence[str], per_group: int) -> tuple[str, int]:
    """Group and number of a task id; raises MissingError if the suite has no such task."""
    group, _, number = task.rpartition("/")
    if group not in groups or not number.isdigit() or int(number) >= per_group:
        raise MissingError(f'task "{task}" is not one of this suite; they are called like {task_id(groups[0], 0)}')
    return group, int(number)
