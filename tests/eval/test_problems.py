"""Problems told once: which cells share a line, and which exit code a reason has."""

from __future__ import annotations

from priorax.configs.eval import Protocol
from priorax.eval import evaluate
from priorax.eval.problems import Problem, group_problems


class _Fails:
    def fit(self, X, y):
        raise RuntimeError("too few" if len(y) < 90 else "too many")


class _Picky(_Fails):
    def fit(self, X, y):
        raise MemoryError("too many")


def test_equal_reasons_are_one_problem():
    protocol = Protocol("few", folds=2, max_classes=5)
    made = {"a": _Fails, "b": _Fails, "c": _Picky}
    problems = group_problems(evaluate("bundled", made, protocol, tasks=["iris", "wine", "breast_cancer", "digits"]))
    assert [str(p) for p in problems] == [
        "failed: a, b on breast_cancer (2 folds): RuntimeError: too many",
        "failed: c on breast_cancer, wine, iris (2 folds each): MemoryError: too many",
        "failed: a, b on wine, iris (2 folds each): RuntimeError: too few",
        "skipped: a, b, c on digits: 10 classes, the protocol takes at most 5",
    ]
    assert [p.exit_code for p in problems] == [1, 5, 1, 3]
    assert [p.size for p in problems] == [4, 6, 8, 3]


def test_a_long_list_of_data_sets_is_cut():
    names = tuple(f"d{i}" for i in range(40))
    text = str(Problem("failed", "no", ("m",), names, (1,) * 39 + (3,), 3))
    assert text == "failed: m on " + ", ".join(names[:12]) + ", 28 more (1 to 3 folds each): no"
