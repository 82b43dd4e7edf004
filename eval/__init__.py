"""Evaluation on real data sets: suites, splits, baselines, metrics, statistics, report."""

from ..configs.eval import PROTOCOLS, Protocol, SuiteConfig
from .baselines import BASELINES, Baseline
from .harness import EvalResult, evaluate
from .methods import Method, parse_methods
from .metrics import METRICS, score
from .report import Section, evaluation_report, write_page
from .snapshot import prefetch
from .statistics import compare, leaderboard
from .suites import DataSet, Split, Suite, load_file, load_suite

__all__ = [
    "BASELINES", "METRICS", "PROTOCOLS", "Baseline", "DataSet", "EvalResult", "Method", "Protocol", "Section", "Split",
    "Suite", "SuiteConfig", "compare", "evaluate", "evaluation_report", "leaderboard", "load_file", "load_suite",
    "parse_methods", "prefetch", "score", "write_page",
]  # fmt: skip
