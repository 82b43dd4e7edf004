"""What is evaluated and how: suites of data sets and protocols of splits."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """How the tasks of a synthetic suite are drawn.

    Attributes:
      prior: name or YAML file of the prior that held-out tasks come from; probes do not use it.
      per_group: tasks of every group.
      context: labelled rows of a task.
      query: rows to predict.
      columns: most columns of a task drawn from a prior.
      seed: of the tasks. Keep it away from the seeds used for training, or the tasks are not held out.
      learnable: of twice as many candidates, take those from which something can be learned first
        (`priors.learnability`); tasks without signal tell methods apart by luck only.
    """

    prior: str = "default"
    per_group: int = 24
    context: int = 256
    query: int = 256
    columns: int = 20
    seed: int = 2**40
    learnable: bool = True

    def __post_init__(self) -> None:
        for name, low in (("per_group", 1), ("context", 16), ("query", 8), ("columns", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")


@dataclasses.dataclass(frozen=True)
class SuiteConfig:
    """A named list of classification tasks.

    Attributes:
      name: short name.
      source: where tasks come from: ``sklearn`` (data sets that ship with scikit-learn), ``openml`` (OpenML task ids),
        ``files`` (CSV or Parquet files, ``path`` or ``path::target``), ``synthetic`` (tasks drawn from a prior, by
        family), ``probes`` (tables whose rule is known).
      tasks: ids, names or paths; for ``synthetic`` and ``probes`` the groups, each of which stands for
        ``synthetic.per_group`` tasks.
      protocol: name of the protocol used unless another is asked for; see `PROTOCOLS`. When left out ``official`` for ``synthetic`` and
        ``probes``, whose tasks say themselves which rows are shown, else ``kfold``.
      description: what the suite is and where it is defined.
      synthetic: how tasks are drawn, for ``synthetic`` and ``probes``.
    """

    name: str
    source: Literal["sklearn", "openml", "files", "synthetic", "probes"]
    tasks: tuple[int | str, ...]
    protocol: str = ""
    description: str = ""
    synthetic: SyntheticConfig = SyntheticConfig()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise ValueError("tasks is empty; a suite needs at least one task")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks holds the same task twice")
        if not self.protocol:
            object.__setattr__(self, "protocol", "official" if self.source in ("synthetic", "probes") else "kfold")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {self.protocol!r}; allowed: {', '.join(PROTOCOLS)}")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a data set is cut down and split.

    Attributes:
      name: short name.
      splits: ``official`` (those that come with the task; data sets without any fall back to ``kfold``, and the report
        says so), ``kfold`` (stratified, shuffled), ``halves`` (random stratified halves, one per fold), ``holdout``
        (a random stratified third, at most `max_test` rows, is tested; one draw per fold).
      folds: number of folds, or of random halves or thirds.
      repeats: repeats of the k-fold split, each shuffled anew; for official splits, the most repeats used.
      first_only: only the first split of every task.
      max_rows: larger data sets are cut to a stratified random subset of this size first.
      max_columns: wider data sets are cut to this many random columns first.
      max_train: training rows beyond this number are dropped, stratified.
      max_test: test rows beyond this number are dropped, stratified; for ``holdout``.
      max_classes: data sets with more classes are skipped, with a reason in the results.
      pooled: also score all test predictions of a repeat together, as one fold numbered -1, which leaderboards
        then use.
      seed: replaces the seed of the evaluation, for protocols that fix it.
      shots: numbers of training rows. Every split is then run once for each that fits, on nested stratified subsets of
        its training rows: a learning curve. Leaderboards show the mean over the sizes all methods finished.
      prepare: ``none`` (methods get the raw table), or ``speedrun`` (they get numbers: see `eval.prepare`).
    """

    name: str
    splits: Literal["official", "kfold", "halves", "holdout"] = "kfold"
    folds: int = 5
    repeats: int = 1
    first_only: bool = False
    max_rows: int | None = None
    max_columns: int | None = None
    max_train: int | None = None
    max_test: int | None = None
    max_classes: int | None = None
    pooled: bool = False
    seed: int | None = None
    shots: tuple[int, ...] = ()
    prepare: Literal["none", "speedrun"] = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", tuple(self.shots))
        for name, low in (("folds", 2 if self.splits == "kfold" else 1), ("repeats", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        for name in ("max_rows", "max_columns", "max_train", "max_test", "max_classes"):
            value = getattr(self, name)
            if value is not None and value < (1 if name == "max_columns" else 2):
                raise ValueError(f"{name} is {value}; it must be at least {1 if name == 'max_columns' else 2}, or null")
        if list(self.shots) != sorted(set(self.shots)) or any(size < 2 for size in self.shots):
            raise ValueError(f"shots is {self.shots}; give rising numbers of training rows, each at least 2")
        if self.shots and (self.pooled or self.max_train is not None):
            raise ValueError("shots goes with neither pooled nor max_train")


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("official", splits="official", repeats=1000),
        Protocol("official-first", splits="official", first_only=True),
        Protocol("kfold"),
        # At most 1,000 rows and 100 random columns, as LightPFN's CC18 comparison and the nanoTabPFN speedrun cut them.
        Protocol("small", max_rows=1000, max_columns=100),
        # The split of the TabPFN paper (arXiv 2207.01848, section 5): random halves, at most 1,000 rows seen.
        Protocol("tabpfn", splits="halves", max_train=1000),
        # arXiv 2606.03681: seed 11 for columns, rows and folds; all test predictions scored once.
        Protocol("speedrun", max_rows=1000, max_columns=100, pooled=True, seed=11, prepare="speedrun"),
        # Learning curves from 8 to 1,024 labelled rows, the range of MachineLearningLM (arXiv 2509.06806).
        Protocol(
            "many-shot", splits="holdout", max_columns=100, max_test=500, shots=(8, 16, 32, 64, 128, 256, 512, 1024)
        ),
        Protocol("repeated", repeats=3),
    )
}
"""Protocols by name."""
