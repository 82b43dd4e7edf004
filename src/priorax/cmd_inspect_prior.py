"""`priorax inspect prior`: numbers and pictures of what a prior draws, before paying for a run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from priorax import options, output
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectPrior(options.Common):
    """Samples a prior and reports sizes, balance, column kinds, missing values, graphs, and how well a forest predicts.

    With --out, writes report.html (one file, no network) and the figures as PNG. Settings of the prior can be
    overridden:
    --components.0.laws.missing-rate 1
    """

    TAKES_SETTINGS = True

    prior: options.Positional[str] = "default"
    """Name of a preset, or path of a YAML file."""
    n_tasks: int = 256
    """Tasks to look at."""
    rows: int = 256
    """Rows of a table."""
    columns: int = 20
    """Most columns of a table."""
    seed: int = 0
    """Seed of the tasks."""
    forest_tasks: int = 48
    """Tasks on which a random forest is fitted."""
    out: Path | None = None
    """Directory for report.html and PNG files."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        import numpy as np

        from priorax import prior_summary as summary
        from priorax.configs import config_digest, load_prior

        if self.n_tasks < 1 or self.forest_tasks < 0:
            raise ConfigError(
                f"--n-tasks is {self.n_tasks}, --forest-tasks is {self.forest_tasks}; need at least 1 and 0"
            )
        prior = load_prior(self.prior, overrides=settings)
        summary.check_draw(self.seed, self.n_tasks, self.rows, self.columns)
        out = output.open_out(self.out, "inspect prior", overwrite=self.overwrite) if self.out else None
        if out:
            output.write_run(out, "inspect prior", {"prior": prior.name, "seed": self.seed})
        if prior.oversample > 1:
            output.log(output.unfiltered(prior))
        tasks = summary.draw(prior, self.seed, range(self.n_tasks), self.rows, self.columns, graph=True)
        # Runs of eight neighbours share a cohort; take one of each run first, so that the few are diverse.
        order = sorted(range(len(tasks)), key=lambda i: (i % 8, i))
        diverse = [tasks[i] for i in order]
        numbers, graph_numbers = summary.per_task(tasks), summary.per_graph(tasks)
        auc = summary.learnability(diverse[: self.forest_tasks], self.seed)
        result: dict[str, Any] = {
            "prior": prior.name, "version": prior.version, "sha256": config_digest(prior), "seed": self.seed,
            "tasks": len(tasks), "rows": self.rows, "columns": self.columns,
            "table": {k: summary.spread(v) for k, v in numbers.items()},
            "graph": {k: summary.spread(v) for k, v in graph_numbers.items()},
            "forest_roc_auc": summary.spread(auc),
            "share_forest_above_0.6": round(float(np.mean(auc[np.isfinite(auc)] > 0.6)), 3) if len(auc) else math.nan,
        }  # fmt: skip
        if out:
            self._report(out, result, diverse, {**numbers, **graph_numbers, "ROC AUC of a random forest": auc}, prior)
            result["report"] = str(out / "report.html")
        if self.json:
            output.emit_json(result)
            return
        print(
            f"prior {prior.name} (version {prior.version}), {len(tasks)} tasks of {self.rows} x {self.columns}, seed {self.seed}"
        )
        rows = [
            (k, *(f"{v[q]:g}" if v.get(q) is not None else "" for q in ("mean", "q05", "median", "q95")))
            for k, v in {
                **result["table"],
                **result["graph"],
                "ROC AUC of a random forest": result["forest_roc_auc"],
            }.items()
        ]
        print(output.table(rows, ("", "mean", "5 %", "median", "95 %")))
        if out:
            print(f"\nreport: {out / 'report.html'}")

    def _report(self, out: Path, result: dict[str, Any], tasks: list, numbers: dict[str, Any], prior: Any) -> None:
        import html

        from priorax import pictures
        from priorax.configs import to_yaml
        from priorax.eval.plots import figure_html
        from priorax.eval.report import Section, table_html, write_page

        figures = {
            "sizes": ("Sizes, balance, kinds, graphs", pictures.histograms(list(numbers.items()))),
            "marginals": ("Columns (blue numeric, green categorical)", pictures.marginals(tasks)),
            "tasks": ("Tasks, by the two columns that tell classes apart best", pictures.thumbnails(tasks[:24])),
            "graphs": ("Tasks with their causal graphs", pictures.tasks_with_graphs(tasks[:6])),
        }
        sections = []
        rows = [{"": k, **v} for part in ("table", "graph") for k, v in result[part].items()]
        rows.append({"": "ROC AUC of a random forest", **result["forest_roc_auc"]})
        sections.append(Section("Numbers", table_html(rows), "Mean and quantiles over tasks."))
        for name, (title, figure) in figures.items():
            with output.replacing(out / f"{name}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=130)
            sections.append(Section(title, figure_html(figure, title, "png")))
        sections.append(Section("Settings", f"<pre>{html.escape(to_yaml(prior))}</pre>"))
        lead = f"{result['tasks']} tasks of {self.rows} rows and up to {self.columns} columns, seed {self.seed}."
        write_page(out / "report.html", f"Prior {prior.name}", sections, lead)
