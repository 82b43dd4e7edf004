"""`priorax demo`: the whole way in minutes: sample, pretrain from nothing, predict real data, report."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, ClassVar

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError

LEARNED = ("breast_cancer", "wine", "iris")
EVALUATION_SHARE = 0.32  # of the time: predictions and baselines, of which digits takes most
MOST_ROWS = 1000
"""Rows of a data set that are used. Attention takes a time that grows with their square: all 1,797 of digits took three fifths of a demo."""
COMPILING = 3.0
"""Least time for pretraining, in units of the time that compiling the sampler and drawing some tasks took: compiling what
trains takes up to twice as long."""
BASELINES = ("logistic_regression", "knn", "random_forest")
ALONE = "network_alone"
"""The same weights without ridge scores: what pretraining taught, apart from what regressions on the table add."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(options.Common):
    """Samples tasks, pretrains a small network on them from random weights, and lets it predict real data sets.

    The data are the four classification sets that ship with scikit-learn, at most 1,000 rows of each, in repeated
    stratified splits, against logistic regression, k nearest neighbours and a random forest; the network is shown with
    the estimator's ridge scores and alone. Nothing is downloaded. Writes report.html and the weights.
    """

    HOST_DEVICES: ClassVar[int] = 0  # one per core, as in pretraining

    out: Path = Path("priorax-demo")
    """Directory to fill; one that an earlier demo made is replaced."""
    recipe: str = "nano"
    """Recipe to pretrain with: a name, or the path of a YAML file."""
    time_limit: str = "5m"
    """Time for everything, compiling and evaluation included, e.g. 5m or 300. A machine too slow for it takes longer."""
    n_estimators: int = 1
    """Members of the ensemble in the evaluation."""
    tasks: tuple[str, ...] = ()
    """Only these data sets."""
    seed: int = 0
    """Seed of tasks, weights and splits."""

    def run(self, settings: dict[str, str]) -> None:
        start = time.monotonic()
        budget = options.seconds(self.time_limit, "--time-limit")
        if budget < 20:
            raise ConfigError(f"--time-limit is {self.time_limit}; the demo needs at least 20 seconds")
        from priorax.configs import load_recipe

        recipe = load_recipe(self.recipe)
        out = self._open()
        output.write_run(out, "demo", {"recipe": recipe.name, "seed": self.seed, "time_limit_s": budget})
        clock: dict[str, float] = {}

        shape = recipe.shapes[0]
        output.log(f"1/3 sampling from the prior {recipe.prior}: {shape.rows} rows, up to {shape.columns} columns")
        tasks, rate = _preview(recipe, self.seed)
        clock["sample"] = time.monotonic() - start
        output.log(f"    {rate:,.0f} tasks/s, each with its causal graph, on {runtime.cpu_count()} cores")

        left = budget - clock["sample"] - EVALUATION_SHARE * budget
        needed = COMPILING * clock["sample"]
        slow = left < needed
        if slow:  # late results are worth more than none
            without = "" if self.tasks else "; digits, the largest data set, is left out"
            output.log(f"    this machine is slow: it takes longer than --time-limit {self.time_limit}{without}")
        left = max(left, needed)
        output.log(f"2/3 pretraining from random weights for {left:.0f} s, compiling included")
        trained, history = _pretrain(recipe, out / "run", self.seed, left, self.quiet)
        clock["pretrain"] = time.monotonic() - start - clock["sample"]

        output.log("3/3 predicting real data sets, zero-shot")
        from priorax.configs.eval import Protocol

        # Nine splits rather than fifteen: on a machine busy with something else the whole must still end in six minutes.
        repeats = 3 if budget >= 200 and not slow else 1
        protocol = Protocol("repeated", folds=3, repeats=repeats, max_rows=MOST_ROWS)
        chosen = self.tasks or (LEARNED if slow else ())
        result = self._evaluate(trained.weights_path, out / "eval", protocol, chosen)
        clock["evaluate"] = time.monotonic() - start - clock["sample"] - clock["pretrain"]

        weights = out / "model.safetensors"
        with output.replacing(weights) as temporary:
            temporary.write_bytes(Path(trained.weights_path).read_bytes())
        summary = _summary(result, trained, clock, rate)
        summary |= {"weights": str(weights), "report": str(out / "report.html")}
        self._report(out, result, tasks, history, summary)
        clock["total"] = time.monotonic() - start
        summary["seconds"] = {k: round(v, 1) for k, v in clock.items()}
        output.write_json(out / "summary.json", summary)
        if self.json:
            output.emit_json(summary)
        else:
            _show(result, summary)

    def _open(self) -> Path:
        """An earlier demo in the folder is replaced; anything else in it is an error."""
        record = self.out / output.RUN_FILE
        ours = False
        if record.is_file():
            try:
                ours = json.loads(record.read_text()).get("command") == "demo"
            except ValueError:
                ours = False
        return output.open_out(self.out, "demo", overwrite=ours)

    def _evaluate(self, weights: Path, out: Path, protocol: Any, tasks: tuple[str, ...]) -> Any:
        from priorax.eval.harness import evaluate

        methods = [f"priorax=priorax:{weights}", f"{ALONE}=priorax:{weights}?ridge_scores=none", *BASELINES]
        return evaluate(
            "bundled", methods, protocol, out, seed=self.seed, n_estimators=self.n_estimators,
            tasks=tasks or None, log=output.log_event,
        )  # fmt: skip

    def _report(
        self, out: Path, result: Any, tasks: list, history: list[dict[str, Any]], summary: dict[str, Any]
    ) -> None:
        from priorax.eval.report import Section, evaluation_report

        extra = [Section("This run", _facts(summary), "Times in seconds; compiling is included.")]
        try:
            from priorax import pictures
            from priorax.eval.plots import figure_html

            losses = [(h["step"], h["loss"]) for h in history if h.get("loss") is not None]
            if losses:
                figure = pictures.curve(*zip(*losses, strict=True), "step", "cross entropy")
                extra.append(Section("Loss", figure_html(figure, "training loss by step")))
            figure = pictures.tasks_with_graphs(tasks[:6])
            extra.append(
                Section(
                    "Tasks it learned from", figure_html(figure, "six tasks with graphs", "png"),
                    "Above: rows by the two columns that tell the classes apart best. Below: the causal graph each "
                    "table was drawn from; grey nodes are hidden, blue ones shown as columns, orange is the label.",
                )
            )  # fmt: skip
        except Exception as error:
            from priorax.configs.errors import MissingError

            if not isinstance(error, MissingError):
                raise
            extra.append(Section("Figures", "<p>none</p>", str(error)))
        evaluation_report(result, out / "report.html", title="Priorax demo", extra=extra)


def _preview(recipe: Any, seed: int) -> tuple[list, float]:
    """Diverse tasks with graphs for the report, and the sampler's rate once compiled."""
    from priorax import prior_summary
    from priorax.configs import load_prior

    prior, shape = load_prior(recipe.prior), recipe.shapes[0]
    ids = range(0, 512, 8)  # runs of eight neighbours are alike: one of each
    tasks = prior_summary.draw(prior, seed, ids, shape.rows, shape.columns, graph=True)
    return tasks, prior_summary.rate(prior, seed, shape.rows, shape.columns)


def _pretrain(recipe: Any, out: Path, seed: int, seconds: float, quiet: bool) -> tuple[Any, list[dict[str, Any]]]:
    from priorax.train import pretrain

    trained = pretrain(recipe, out, seed=seed, time_limit=seconds, quiet=quiet)
    if trained.interrupted:
        raise output.Interrupted(int(trained.interrupted), f"stopped while pretraining; the run is in {out}")
    if not trained.steps:
        raise ConfigError(f"the {seconds:.0f} s for pretraining were spent on compiling; give more --time-limit")
    path = out / "metrics.jsonl"
    history = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return trained, history


def _summary(result: Any, trained: Any, clock: dict[str, float], rate: float) -> dict[str, Any]:
    from priorax.cmd_evaluate import roc_auc

    scores = roc_auc(result)

    def mean(method: str) -> float | None:
        small = [scores[method][name] for name in LEARNED if name in scores[method]]
        return sum(small) / len(small) if small else None

    return {
        "roc_auc": scores,
        "mean_roc_auc_small": mean("priorax"),
        "mean_roc_auc_small_network_alone": mean(ALONE),
        "seconds": dict(clock),
        "tasks_seen": trained.tasks_seen,
        "tasks_per_s": round(trained.tasks_per_s, 1),
        "sampler_tasks_per_s": round(rate, 1),
        "steps": trained.steps,
        "failed": result.problems,
    }


def _facts(summary: dict[str, Any]) -> str:
    from priorax.eval.report import table_html

    rows = [
        {"": "tasks learned from", "value": f"{summary['tasks_seen']:,}"},
        {"": "tasks/s while learning", "value": f"{summary['tasks_per_s']:,.0f}"},
        {"": "tasks/s of the sampler alone", "value": f"{summary['sampler_tasks_per_s']:,.0f}"},
        {"": "steps", "value": f"{summary['steps']:,}"},
        *({"": f"seconds: {k}", "value": f"{v:.0f}"} for k, v in summary["seconds"].items()),
    ]
    return table_html(rows)


def _show(result: Any, summary: dict[str, Any]) -> None:
    from priorax.cmd_evaluate import score_table
    from priorax.eval.statistics import leaderboard

    print("ROC AUC (one versus rest), mean over repeated stratified splits")
    print(score_table(result, leaderboard(result)))
    seconds, scores = summary["seconds"], summary["roc_auc"]
    for baseline in BASELINES:
        if baseline in scores:
            gaps = [f"{name} {scores['priorax'][name] - value:+.4f}" for name, value in scores[baseline].items()]
            print(f"priorax minus {baseline}: {', '.join(gaps)}")
    print(
        f"\nlearned from {summary['tasks_seen']:,} synthetic tasks in {summary['steps']:,} steps "
        f"({summary['tasks_per_s']:,.0f} tasks/s; the sampler alone makes {summary['sampler_tasks_per_s']:,.0f})"
    )
    print(f"seconds: {', '.join(f'{k} {v:g}' for k, v in seconds.items())}")
    if summary["mean_roc_auc_small"] is not None:
        alone = summary["mean_roc_auc_small_network_alone"]
        print(f"mean over {', '.join(LEARNED)}: {summary['mean_roc_auc_small']:.4f}, the network alone {alone:.4f}")
    print(f"report: {summary['report']}\n\nuse these weights:")
    print(f'  from priorax import PFNClassifier\n  clf = PFNClassifier(weights="{summary["weights"]}").fit(X, y)')
    print(f"  priorax predict --model {summary['weights']} --train a.csv --test b.csv --target y --out p.csv")
