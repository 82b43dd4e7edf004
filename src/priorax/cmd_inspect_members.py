"""`priorax inspect members`: what every member of every law looks like on its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from priorax import options, output
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectMembers(options.Common):
    """Draws what each member of each law does (family:linear, graph:tree, rule:parity, ...) and writes a page of pictures.

    Each law is drawn in a small world of its own, where it shows best: mechanisms as maps over two roots, classes as regions of a
    plane, kinds of columns against what they show. The same names work wherever a prior is asked for: priorax generate --prior family:levels
    """

    out: Path
    """Directory for report.html and one PNG a law."""
    laws: tuple[str, ...] = ()
    """Only these laws (graph, family, combine, root, noise, numeric_column, categorical_column, target, rule, missing,
    corruption); all when left out."""
    n_tasks: int = 6
    """Tasks of each member."""
    rows: int = 1024
    """Rows of a table: points of a picture."""
    columns: int = 8
    """Most columns of a table."""
    seed: int = 0
    """Seed of the tasks."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax import gallery
        from priorax.configs.prior import member_names
        from priorax.eval.plots import figure_html
        from priorax.eval.report import Section, write_page
        from priorax.prior_summary import check_draw

        groups: dict[str, list[str]] = {}
        for name in member_names():
            law, _, member = name.partition(":")
            groups.setdefault(law, []).append(member)
        unknown = set(self.laws) - set(groups)
        if unknown or self.n_tasks < 1:
            wrong = f"--laws {' '.join(sorted(unknown))}" if unknown else f"--n-tasks {self.n_tasks}"
            raise ConfigError(f"{wrong}: laws are {', '.join(groups)}; a member needs at least 1 task")
        check_draw(self.seed, self.n_tasks, self.rows, self.columns)
        out = output.open_out(self.out, "inspect members", overwrite=self.overwrite)
        output.write_run(out, "inspect members", {"seed": self.seed, "laws": list(self.laws) or list(groups)})
        sections, drawn = [], 0
        for law, members in groups.items():
            if self.laws and law not in self.laws:
                continue
            drawn += len(members)
            figure = gallery.figure(law, members, self.seed, self.n_tasks, self.rows, self.columns)
            with output.replacing(out / f"{law}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=80)
            sections.append(Section(law, figure_html(figure, law, "png"), gallery.CAPTIONS[law]))
        lead = f"{self.n_tasks} tasks of each member, a row each, {self.rows} rows, seed {self.seed}."
        write_page(out / "report.html", "Members of the prior", sections, lead)
        if self.json:
            output.emit_json({"report": str(out / "report.html"), "members": drawn})
        else:
            print(f"report: {out / 'report.html'}")
