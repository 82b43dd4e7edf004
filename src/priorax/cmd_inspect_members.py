"""`priorax inspect members`: what every member of every law looks like on its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from priorax import options, output
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectMembers(options.Common):
    """Draws tasks of each prior LAW:MEMBER (family:linear, graph:tree, rule:parity, ...) and writes a page of pictures.

    The same names work wherever a prior is asked for: priorax generate --prior family:levels
    """

    out: Path
    """Directory for report.html and one PNG a law."""
    laws: tuple[str, ...] = ()
    """Only these laws (graph, family, combine, root, noise, numeric_column, categorical_column, target, rule, missing,
    corruption); all when left out."""
    n_tasks: int = 6
    """Tasks of each member."""
    rows: int = 256
    """Rows of a table."""
    columns: int = 4
    """Most columns of a table."""
    seed: int = 0
    """Seed of the tasks."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax import pictures
        from priorax import prior_summary as summary
        from priorax.configs.prior import load_prior, member_names
        from priorax.eval.plots import figure_html
        from priorax.eval.report import Section, write_page

        groups: dict[str, list[str]] = {}
        for name in member_names():
            groups.setdefault(name.partition(":")[0], []).append(name)
        unknown = set(self.laws) - set(groups)
        if unknown or self.n_tasks < 1:
            wrong = f"--laws {' '.join(sorted(unknown))}" if unknown else f"--n-tasks {self.n_tasks}"
            raise ConfigError(f"{wrong}: laws are {', '.join(groups)}; a member needs at least 1 task")
        out = output.open_out(self.out, overwrite=self.overwrite)
        output.write_run(out, "inspect members", {"seed": self.seed, "laws": list(self.laws) or list(groups)})
        sections, drawn = [], 0
        # Neighbouring ids share a cohort: one of each run of eight.
        ids = range(0, 8 * self.n_tasks, 8)
        for law, names in groups.items():
            if self.laws and law not in self.laws:
                continue
            rows = [
                (name.partition(":")[2], summary.draw(load_prior(name), self.seed, ids, self.rows, self.columns))
                for name in names
            ]
            drawn += len(rows)
            figure = pictures.members(rows)
            with output.replacing(out / f"{law}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=110)
            sections.append(Section(law, figure_html(figure, law, "png"), f"{len(names)} members, one a row."))
        lead = f"{self.n_tasks} tasks of each member, {self.rows} rows, up to {self.columns} columns, seed {self.seed}."
        write_page(out / "report.html", "Members of the prior", sections, lead)
        if self.json:
            output.emit_json({"report": str(out / "report.html"), "members": drawn})
        else:
            print(f"report: {out / 'report.html'}")
