"""Evaluation: suites of data sets, splits, baselines, metrics, statistics, reports."""

from ..configs.eval import PROTOCOLS, Protocol, SuiteConfig, SyntheticConfig
from .baselines import BASELINES, Baseline
from .changes import changes
from .harness import check_evaluation, evaluate
from .methods import Method, parse_methods
from .metrics import METRICS, score
from .report import Section, evaluation_report, write_page
from .result import EvalResult, load_result
from .search import RandomSearch
from .snapshot import prefetch
from .statistics import by_group, calibration_table, compare, leaderboard, shot_curve
from .suites import DataSet, Split, Suite, load_file, load_suite

__all__ = [
    "BASELINES", "METRICS", "PROTOCOLS", "Baseline", "DataSet", "EvalResult", "Method", "Protocol", "RandomSearch",
    "Section", "Split", "Suite", "SuiteConfig", "SyntheticConfig", "by_group", "calibration_table", "changes",
    "check_evaluation", "compare", "evaluate", "evaluation_report", "leaderboard", "load_file", "load_result",
    "load_suite", "parse_methods", "prefetch", "score", "shot_curve", "write_page",
]  # fmt: skip
