"""What was skipped or failed, told once for every reason."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .result import EvalResult

MOST_NAMES = 12
"""Data sets named in a sentence; a suite may have hundreds."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One reason, and all it kept from being scored.

    Attributes:
      status: ``skipped`` or ``failed``.
      reason: a sentence.
      methods, data: names; every one of these methods lacks every one of these data sets.
      folds: how many splits each data set lacks; 0 where the data set as a whole could not be used.
      exit_code: of the error behind it; 1 where it was not one of ours.
    """

    status: str
    reason: str
    methods: tuple[str, ...]
    data: tuple[str, ...]
    folds: tuple[int, ...]
    exit_code: int

    @property
    def size(self) -> int:
        """How much is missing, in splits; a whole data set counts as one."""
        return len(self.methods) * sum(max(n, 1) for n in self.folds)

    def __str__(self) -> str:
        names = list(self.data[:MOST_NAMES])
        if len(self.data) > MOST_NAMES:
            names.append(f"{len(self.data) - MOST_NAMES} more")
        each = " each" if len(self.data) > 1 else ""
        least, most = min(self.folds), max(self.folds)
        if most <= 1:
            folds = ""
        elif least == most:
            folds = f" ({most} folds{each})"
        else:
            folds = f" ({least} to {most} folds{each})"
        return f"{self.status}: {', '.join(self.methods)} on {', '.join(names)}{folds}: {self.reason}"


def group_problems(result: EvalResult) -> list[Problem]:
    """The problems of a result, equal reasons together, in the order in which they are first met."""
    lacking: dict[tuple[str, str, str], dict[tuple[str, str], int]] = {}
    for row in result.problems:
        held = lacking.setdefault((row["status"], row["reason"], row["method"]), {})
        where = row["task"], row["data"]
        held[where] = held.get(where, 0) + (row["n_train"] > 0)
    groups: dict[tuple, list[str]] = {}
    for (status, reason, method), held in lacking.items():
        groups.setdefault((status, reason, tuple(held.items())), []).append(method)
    return [
        Problem(
            status, reason, tuple(methods), tuple(name for (_task, name), _ in held), tuple(n for _, n in held),
            result.exit_codes.get(reason, 1),
        )
        for (status, reason, held), methods in groups.items()
    ]  # fmt: skip
