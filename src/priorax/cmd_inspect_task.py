"""`priorax inspect task`: one task of a stream, its table and its causal graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from priorax import options, output
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectTask(options.Common):
    """Shows one task: the head of its table, its nodes and mechanisms; with --out, a picture of both."""

    TAKES_SETTINGS = True

    index: int = 0
    """Id of the task in the stream of the seed."""
    seed: int = 0
    """Seed of the stream."""
    prior: str = "default"
    """Name of a preset, or path of a YAML file."""
    rows: int = 256
    """Rows of the table; part of what a task is."""
    columns: int = 20
    """Most columns of the table; part of what a task is."""
    out: Path | None = None
    """Picture to write (.png, .svg or .pdf)."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax import prior_summary
        from priorax.configs import load_prior
        from priorax.priors.records import graph_to_dict

        out = output.check_out_file(self.out, self.overwrite) if self.out else None
        if out and out.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"--out {out}: give a .png, .svg or .pdf file")
        try:
            prior = load_prior(self.prior, overrides=settings)
            (task,) = prior_summary.draw(prior, self.seed, [self.index], self.rows, self.columns, graph=True)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if out:
            from priorax import pictures

            figure = pictures.one_task(task)
            with output.replacing(out) as temporary:
                figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=150)
        graph = task.graph
        if self.json:
            output.emit_json(
                {
                    "task_id": task.task_id, "seed": self.seed, "prior": prior.name, "n_rows": task.n_rows,
                    "n_features": task.n_features, "n_classes": task.n_classes, "n_context": task.n_context,
                    "categorical": task.categorical, "cardinality": task.cardinality, "graph": graph_to_dict(graph),
                    "head": {"x": task.x[:5], "y": task.y[:5]}, "picture": out,
                }
            )  # fmt: skip
            return
        print(f"task {task.task_id} of seed {self.seed}, prior {prior.name}: {task.n_rows} rows ({task.n_context} context), "
              f"{task.n_features} columns, {task.n_classes} classes")  # fmt: skip
        shown = range(min(task.n_features, 8))
        header = ["", *[f"x{j}{' (cat)' if task.categorical[j] else ''}" for j in shown], "y"]
        print(output.table([[i, *[f"{task.x[i, j]:.3g}" for j in shown], task.y[i]] for i in range(5)], header))
        print()
        for node in range(graph.n_nodes):
            parents = [int(s) for s, d, _ in graph.edges if d == node]
            columns = [f"x{j}" for j, n in enumerate(graph.node_of_feature) if n == node]
            label = "label" if node == graph.target_node else ", ".join(columns) or "hidden"
            print(f"node {node:2}  {graph.mechanism[node]:30} from {parents or '-'!s:20} {label}")
        if out:
            print(f"\npicture: {out}")
