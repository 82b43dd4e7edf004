"""`priorax evaluate`: networks and baselines on data sets, with a report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError, MissingError, PrioraxError, ThresholdError, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(options.OutDir):
    """Compares networks with baselines on data sets: scores, ranks, intervals, times, and a report in one file.

    Runs offline on the sets that ship with scikit-learn, on local files, on tasks drawn from a prior, on an OpenML
    cache (--openml-cache) and on folders made by --prefetch. A killed run goes on with --resume.
    """

    KEEPS_MEMORY = True

    suite: str = "bundled"
    """Name of a suite, OpenML task ids (11,37), local files (a.csv::target), a YAML file, or a folder of --prefetch."""
    model: tuple[str, ...] = ()
    """Weights files to evaluate, none for no network; the shipped weights when left out."""
    baselines: tuple[str, ...] = ("logistic_regression", "knn", "random_forest")
    """Baselines, with commas or spaces; or none. Also with settings: random_forest?n_estimators=500."""
    tune: str | None = None
    """Also tune every baseline by random search for this long on each training set, e.g. 60s."""
    protocol: str | None = None
    """How data are cut and split; the suite's own when left out."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the suite."""
    openml_cache: Path | None = None
    """Folder with an offline OpenML cache; it is copied before use."""
    n_estimators: int | None = None
    """Members of a network's ensemble."""
    jobs: int = 1
    """Processes."""
    seed: int = 0
    """Seed of splits and of everything random in a method."""
    out: Path | None = None
    """Directory for results, leaderboard and report."""
    prefetch: options.Switch = False
    """Only copy the suite's tables and splits into --out, with checksums; evaluate it later with --suite DIR."""
    fail_under: tuple[str, ...] = ()
    """METRIC=VALUE: exit code 7 when the first method's mean is worse."""
    compare_with: Path | None = None
    """Directory of an earlier evaluation under the same protocol: what changed is shown, with intervals."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.eval import changes, check_evaluation, evaluate, evaluation_report, leaderboard, load_result
        from priorax.eval.report import Section

        limits = [_limit(text) for text in self.fail_under]
        if self.jobs < 1:
            raise ConfigError(f"--jobs is {self.jobs}; it must be at least 1")
        if self.prefetch:
            self._prefetch()
            return
        methods = self._methods()
        earlier = load_result(self.compare_with) if self.compare_with else None
        held = None if self.overwrite or self.out is None else self.out.expanduser()
        # Before --overwrite removes anything; and a folder that will be refused keeps what it says of itself.
        check_evaluation(
            self.suite, methods, self.protocol, held, seed=self.seed,
            openml_cache=self.openml_cache, n_estimators=self.n_estimators, tasks=self.tasks or None,
        )  # fmt: skip
        out = output.open_out(self.out, "evaluate", overwrite=self.overwrite, resume=self.resume) if self.out else None
        if out:
            output.write_run(out, "evaluate", {"suite": self.suite, "methods": methods, "seed": self.seed})
            output.write_json(out / "env.json", runtime.environment())
        result = evaluate(
            self.suite, methods, self.protocol, out, seed=self.seed, openml_cache=self.openml_cache, jobs=self.jobs,
            n_estimators=self.n_estimators, tasks=self.tasks or None, log=output.log_event,
        )  # fmt: skip
        board = leaderboard(result)
        compared = changes(result, earlier) if earlier else None
        summary: dict[str, Any] = {
            "suite": result.suite, "protocol": result.protocol.name, "seed": result.seed,
            "roc_auc": roc_auc(result), "leaderboard": board,
            "skipped": [{k: r[k] for k in ("method", "task", "data", "status", "reason")} for r in result.problems],
            "server_errors": list(result.server_errors),
        }  # fmt: skip
        if compared:
            summary["compared"] = compared
        extra = []
        if note := self._alone():
            summary["network_alone"] = note
            extra.append(Section("The network alone", "", note))
        if out:
            summary["report"] = evaluation_report(result, out / "report.html", compared=compared, extra=extra)
            summary["results"] = out
            summary["not_in_report"] = _left_out(result, out)
        if self.json:
            output.emit_json(summary)
        else:
            _show(result, board, summary)
        _refuse_nothing(result)
        for metric, value in limits:
            mean, higher = _mean(result, metric)
            if mean != mean:
                raise ThresholdError(
                    f"mean {metric} of {result.methods[0]}: there is no score to compare with {value:g}; {_why(result, metric)}"
                )
            if not (mean >= value if higher else mean <= value):
                raise ThresholdError(f"mean {metric} of {result.methods[0]} is {mean:.5f}, asked for was {value:g}")

    def _alone(self) -> str | None:
        """What to tell of weights that were evaluated with ridge scores only, under which an untrained network looks like a good one."""
        given = [model for model in self.model if model != "none"]
        if not given or any("ridge_scores=none" in model for model in given):
            return None
        return (
            "The estimator shows every network the scores of ridge regressions beside the table, which answer well by themselves. What "
            f'the network has learned: --model "{given[0].partition("?")[0]}?ridge_scores=none"'
        )

    def _methods(self) -> list[str]:
        methods = [f"priorax:{m}" for m in self.model if m != "none"] or ([] if self.model else ["priorax"])
        if not self.baselines:  # a flag without values; before they could be several it was refused
            raise ConfigError("--baselines names nothing; write --baselines none for no baseline")
        given = [name.strip() for text in self.baselines for name in text.split(",")]
        names = [name for name in given if name and name.lower() != "none"]
        methods += names
        if self.tune is not None:
            from priorax.eval.search import SPACES

            seconds = options.seconds(self.tune, "--tune")
            methods += [f"{name} tuned={name}?seconds={seconds:g}" for name in names if name in SPACES]
        for model in self.model:
            file = Path(model.partition("?")[0])
            if model != "none" and not file.is_file():
                raise MissingError(f"--model {model}: no such file")
            if self.overwrite and self.out is not None and self.out.expanduser().resolve() in file.resolve().parents:
                raise ConfigError(f"--model {model} lies in --out {self.out}, which --overwrite would delete; give another --out")
        if not methods:
            raise ConfigError("--model none and --baselines none leave nothing to evaluate")
        return methods

    def _prefetch(self) -> None:
        from priorax.eval import load_suite, prefetch
        from priorax.eval.suites import pick_tasks

        if self.out is None:
            raise ConfigError("--prefetch needs --out, the directory to fill")
        pick_tasks(load_suite(self.suite, self.openml_cache), self.tasks or None)  # before --overwrite removes anything
        for module in ("pyarrow", "pandas"):
            require(module, "eval", "--prefetch")
        out = output.open_out(self.out, "evaluate --prefetch", overwrite=self.overwrite, resume=self.resume)
        output.write_run(out, "evaluate --prefetch", {"suite": self.suite})
        manifest = prefetch(self.suite, out, openml_cache=self.openml_cache, tasks=self.tasks or None, log=output.log_event)
        missing = manifest["missing"]
        size = sum(path.stat().st_size for path in out.iterdir())
        if self.json:
            facts = {"suite": manifest["suite"], "tasks": len(manifest["tasks"]), "missing": missing, "bytes": size}
            output.emit_json(facts | {"server_errors": manifest["server_errors"], "out": out})
        else:
            print(f"{len(manifest['tasks'])} tasks of {manifest['suite']} in {out}, {size / 1e6:,.1f} MB")
            print(f"server errors met: {len(manifest['server_errors'])}")
            for task, reason in missing.items():
                print(f"missing: {task}: {reason}")
        if missing:
            raise MissingError(
                f"{len(missing)} of {len(missing) + len(manifest['tasks'])} tasks are missing; run the command again with "
                "--resume to try these again"
            )


def roc_auc(result: Any) -> dict[str, dict[str, float]]:
    """{method: {data set: mean ROC AUC over folds}}."""
    table, labels = result.table("roc_auc"), _labels(result)
    return {
        method: {label: float(table[i, j]) for j, label in enumerate(labels)}
        for i, method in enumerate(result.methods)
    }


def _labels(result: Any) -> list[str]:
    """Names of the data sets, with the task where two have one name, as two targets of a file have."""
    names = [result.names.get(task, task) for task in result.tasks]
    return [name if names.count(name) == 1 else f"{name} ({task})" for name, task in zip(names, result.tasks, strict=True)]


def score_table(result: Any, board: list[dict[str, Any]]) -> str:
    """Leaderboard rows with the ROC AUC of every data set."""
    scores = roc_auc(result)
    names = _labels(result)
    wide = len(names) > 8
    header = ["method", *([] if wide else names), "mean", "rank", "fit s", "predict s"]
    rows = []
    for row in board:
        cells = [] if wide else [f"{scores[row['method']][n]:.4f}" for n in names]
        rows.append([row["method"], *cells, f"{row['mean']:.4f}", f"{row['mean_rank']:.2f}",
                     f"{row['time_train_s']:.2f}", f"{row['time_infer_s']:.2f}"])  # fmt: skip
    return output.table(rows, header)


def _show(result: Any, board: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    from priorax.eval.problems import group_problems

    print(
        f"ROC AUC (one versus rest) on {result.suite}, protocol {result.protocol.name}, {len(result.tasks)} data sets"
    )
    print(score_table(result, board))
    for problem in group_problems(result):
        print(problem)
    if summary["server_errors"]:
        print(f"server errors met and retried: {len(summary['server_errors'])}")
    if "compared" in summary:
        print("\n".join(_compared(summary["compared"])))
    if "network_alone" in summary:
        print(summary["network_alone"])
    if "report" in summary:
        print(f"\nreport: {summary['report']}")


def _limit(text: str) -> tuple[str, float]:
    from priorax.eval.metrics import METRICS

    metric, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"--fail-under {text!r}; write METRIC=VALUE, e.g. roc_auc=0.9") from None
    if metric not in METRICS:
        raise ConfigError(f"--fail-under {metric!r}; allowed: {', '.join(METRICS)}")
    return metric, number


def _mean(result: Any, metric: str) -> tuple[float, bool]:
    """The first method's mean over all data sets, NaN if one has no result; and whether higher is better."""
    import numpy as np

    from priorax.eval.metrics import HIGHER_IS_BETTER

    row = result.table(metric)[0]
    return float(row.mean()) if np.isfinite(row).all() else float("nan"), metric in HIGHER_IS_BETTER


def _left_out(result: Any, out: Path) -> dict[str, list[str]]:
    """What earlier evaluations left in the folder and this one was not asked for; told, since a report without it takes
    the place of theirs."""
    from priorax.eval.store import Store

    methods, tasks = Store(out).others(result.methods, result.tasks)
    kinds = {"methods": methods, "data sets": tasks}
    if methods or tasks:
        held = "; ".join(f"{kind} {', '.join(names[:20])}{', ...' * (len(names) > 20)}" for kind, names in kinds.items() if names)
        flags = " and ".join(["--model, --baselines and --tune"] * bool(methods) + ["--tasks"] * bool(tasks))
        output.log(
            f"warning: {out} also holds results of {held}, which were not named and are not in this report and leaderboard. "
            f"Run the command again with --resume and with these too in {flags}: nothing finished is computed again."
        )
    return {"methods": methods, "tasks": tasks}


def _refuse_nothing(result: Any) -> None:
    """Ends the command with the reason, and its exit code, when no method was scored on any data set."""
    from priorax.eval.problems import group_problems

    problems = group_problems(result)
    if not problems or any(row["status"] == "ok" for row in result.rows):
        return
    main = max(problems, key=lambda problem: problem.size)
    others = len({problem.reason for problem in problems} - {main.reason})
    more = f" ({others} more {'reason' if others == 1 else 'reasons'} on stdout)" if others else ""
    error = PrioraxError(f"nothing could be scored; {main}{more}")
    error.exit_code = main.exit_code
    raise error


def _why(result: Any, metric: str) -> str:
    """Why the first method's mean is not a number: what failed, or the note of a data set on which the metric says
    nothing."""
    from priorax.eval.problems import group_problems

    first = result.methods[0]
    for problem in group_problems(result):
        if first in problem.methods:
            return str(problem)
    rows = [row for row in result.rows if row["method"] == first and row["metric"] == metric]
    return "; ".join(dict.fromkeys(f"{row['data']}: {row['reason']}" for row in rows if row["value"] != row["value"]))


def _compared(compared: dict[str, Any]) -> list[str]:
    """Lines on what changed since an earlier evaluation."""
    from priorax.eval.changes import compared_on
    from priorax.eval.statistics import interval_text

    lines = ["against the earlier evaluation (positive: better now; 95 % paired bootstrap interval over data sets)"]
    for row in compared["methods"]:
        was = "" if row["before"] == row["method"] else f" (was {row['before']})"
        name, count = f"  {row['method']}{was}, {row['metric']}: ", row["data_sets"]
        if not count:
            lines.append(f"{name}no data set that both finished")
            continue
        lines.append(
            f"{name}{row['mean_before']:.4f} -> {row['mean_now']:.4f}, {row['difference']:+.4f} "
            f"({interval_text(row['ci_low'], row['ci_high'], count)}), better on {row['better']}, equal on "
            f"{row['equal']}, worse on {row['worse']} of {row['data_sets']}"
        )
    return lines + [f"  {sentence}" for sentence in compared_on(compared)]
