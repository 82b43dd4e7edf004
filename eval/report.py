"""Reports: one HTML file that needs no network and no other file."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.errors import MissingError
from ..configs.files import write_text
from ..configs.load import to_dict
from .changes import compared_on
from .metrics import HIGHER_IS_BETTER, METRICS, error_of
from .statistics import compare, interval_text, leaderboard, mean_ranks, shot_curve

if TYPE_CHECKING:
    from .result import EvalResult

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { color: #555; margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .65rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
th { font-weight: 600; background: #f6f6f6; } th:first-child, td:first-child, td.text { text-align: left; }
td.best { font-weight: 700; } .wide { overflow-x: auto; }
img { max-width: 100%; height: auto; } .note { color: #555; font-size: .9rem; }
details summary { cursor: pointer; } pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report: a heading, HTML, and a line of plain text below it."""

    title: str
    body: str
    note: str = ""


def write_page(path: str | Path, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Writes sections as one page. Titles, lead and notes are escaped; bodies are HTML."""
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>' if lead else ""]
    for section in sections:
        note = f'<p class="note">{html.escape(section.note)}</p>' if section.note else ""
        parts.append(f"<section><h2>{html.escape(section.title)}</h2>\n{section.body}\n{note}</section>")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def table_html(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str] | None = None,
    best: Mapping[str, bool] | None = None,
    numeric: bool = False,
) -> str:
    """Dicts as an HTML table.

    Args:
      rows: one dict per row.
      columns: key -> heading, in order; None for all keys of the first row.
      best: key -> whether higher is better, for columns whose best value is set in bold.
      numeric: text holds formatted numbers and is set like them, except in the first column.
    """
    if not rows:
        return "<p>none</p>"
    columns = columns or {key: key for key in rows[0]}
    tops = {
        key: (max if higher else min)(values)
        for key, higher in (best or {}).items()
        if (values := [row[key] for row in rows if _is_finite(row.get(key))])
    }
    lines = ["<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in columns.values()) + "</tr>"]
    for row in rows:
        cells = []
        for key in columns:
            value = row.get(key, "")
            kind = ' class="text"' if isinstance(value, str) and not numeric else ""
            if key in tops and value == tops[key]:
                kind = ' class="best"'
            cells.append(f"<td{kind}>{html.escape(_show(value))}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def evaluation_report(
    result: EvalResult, path: str | Path, *, title: str = "", metric: str = "roc_auc", extra: Sequence[Section] = (),
    compared: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Writes the report of an evaluation: leaderboard, figures, scores, and everything that was skipped or failed.

    Args:
      result: what `evaluate` returned.
      path: the HTML file.
      title: heading; made from the suite's name by default.
      metric: the metric of leaderboard and figures.
      extra: sections placed after the leaderboard (for example a training curve).
      compared: what `changes` says about an earlier evaluation.

    Without matplotlib (extra ``plots``) the page says so in place of the figures.
    """
    board = leaderboard(result, metric)
    rows_used = board[0]["data_sets"] if board else 0
    lead = (
        f"Suite {result.suite}, protocol {result.protocol.name}, seed {result.seed}: {len(result.methods)} methods, "
        f"{len(result.tasks)} {'tasks' if result.groups else 'data sets'}, {rows_used} finished by all."
    )
    sections = [Section("Leaderboard", _leaderboard_html(board, metric), _leaderboard_note(metric))]
    if len(result.methods) > 1:
        sections.append(Section(f"{result.methods[0]} against the others", _pairs_html(result, metric), _PAIRS_NOTE))
    if compared is not None:
        note = " ".join([_CHANGES_NOTE, *compared_on(compared)])
        sections.append(Section("Against the earlier evaluation", _changes_html(compared), note))
    sections += list(extra)
    sections += _figures(result, metric)
    if result.sizes:
        sections.append(Section("Learning curves in numbers", _shots_html(result, metric), _SHOTS_NOTE))
    sections.append(Section("All metrics", _metrics_html(result), _METRICS_NOTE))
    sections.append(_problems(result))
    config = html.escape(_lines({"suite": result.suite, "seed": result.seed, "protocol": to_dict(result.protocol)}))
    sections.append(Section("Settings", f"<pre>{config}</pre>"))
    return write_page(path, title or f"Evaluation on {result.suite}", sections, lead)


_PAIRS_NOTE = (
    "Difference of the means over data sets that both finished (positive: the first method is better), with a 95 % "
    "paired bootstrap interval over data sets. Intervals that hold 0 do not tell the methods apart."
)


_CHANGES_NOTE = (
    "The same rows and splits then and now, unless this note ends otherwise. Difference: positive is better now, with a "
    "95 % paired bootstrap interval over data sets; better, equal, worse count data sets."
)
_SHOTS_NOTE = (
    "Small data sets have no large sizes. The mean of a size is over the data sets that all methods finished at every size "
    "up to the largest that half of them reach, so that one curve speaks of the same data; in brackets the mean over all "
    "data sets that have the size, and how many those are."
)
_METRICS_NOTE = (
    "Means over the data sets that all methods finished, with the mean rank by that metric in brackets. roc_auc: one class "
    "versus the rest; roc_auc_ovo: one versus one; ece: expected calibration error of the top class, 15 bins. Memory: median "
    "over data sets of how far a process grew while fitting and predicting (Linux; not what lies on a GPU)."
)


def _leaderboard_note(metric: str) -> str:
    return (
        f"Mean and rank by {metric} over the data sets that all methods finished, with 95 % bootstrap intervals. "
        "Wins count pairs of another method and a data set. Seconds: median over data sets of the mean per fold; "
        "compiling a network for a new shape is not in them. Elo and improvability are computed by bencheval, TabArena's own "
        "library; a random forest, where one takes part, is set to Elo 1,000."
    )


def _leaderboard_html(board: list[dict[str, Any]], metric: str) -> str:
    shown = {
        "method": "method", "mean": metric, "ci": "95 % interval", "mean_rank": "mean rank", "score": "won, tied, lost",
        "elo": "Elo", "elo_ci": "95 % interval", "improvability": "improvability", "time_train_s": "fit s", "time_infer_s": "predict s",
        "missing": "missing",
    }  # fmt: skip
    rows = [
        row
        | {
            "ci": interval_text(row["ci_low"], row["ci_high"], row["data_sets"], ".4f"),
            "score": f"{row['wins']} / {row['ties']} / {row['losses']}",
        }
        for row in board
    ]
    for row in rows:
        if "elo" in row:
            row["elo_ci"] = f"{row['elo_low']:.0f} to {row['elo_high']:.0f}"
            row["elo"] = round(row["elo"])
    if not any("elo" in row for row in rows):
        shown = {key: text for key, text in shown.items() if key not in ("elo", "elo_ci", "improvability")}
    return table_html(rows, shown, {"mean": metric in HIGHER_IS_BETTER, "mean_rank": False})


def _pairs_html(result: EvalResult, metric: str) -> str:
    first = result.methods[0]
    rows = []
    for other in result.methods[1:]:
        pair = compare(result, first, other, metric)
        interval = interval_text(pair["ci_low"], pair["ci_high"], pair["data_sets"])
        won = f"{pair['wins']} / {pair['ties']} / {pair['losses']}"
        rows.append(
            {
                "against": other,
                "difference": f"{pair['difference']:+.4f}" if pair["data_sets"] else "none",
                "95 % interval": interval,
                "won / tied / lost": won,
            }
        )
    return table_html(rows, numeric=True)


def _figures(result: EvalResult, metric: str) -> list[Section]:
    from . import plots

    drawings: list[tuple[str, Callable[[], Any]]] = [
        ("Learning curves", lambda: plots.many_shot(result, metric) if result.sizes else None),
        (
            "Families of tasks" if result.groups else "Every data set",
            lambda: (plots.groups if result.groups else plots.per_data_set)(result, metric),
        ),
        ("Mean rank", lambda: plots.mean_rank(result, metric)),
        ("Critical differences", lambda: plots.critical_difference(result, metric)),
        ("Score against time", lambda: plots.score_against_time(result, metric)),
        ("Calibration", lambda: plots.calibration(result)),
        ("Heat map", lambda: plots.heat_map(result, metric)),
    ]
    try:
        figures = [(name, draw()) for name, draw in drawings]
        return [Section(name, plots.figure_html(figure, name)) for name, figure in figures if figure is not None]
    except MissingError as error:
        return [Section("Figures", f"<p>{html.escape(str(error))}</p>")]


def _metrics_html(result: EvalResult) -> str:
    tables = {metric: result.table(metric) for metric in METRICS}
    shared = np.isfinite(tables["roc_auc"]).all(0)
    ranks = {m: mean_ranks(error_of(m, t[:, shared])) for m, t in tables.items()}
    memory = result.memory()
    means = {
        m: [float(t[i, shared].mean()) if shared.any() else float("nan") for i in range(len(result.methods))]
        for m, t in tables.items()
    }
    rows = []
    for i, method in enumerate(result.methods):
        known = memory[i][np.isfinite(memory[i])]
        row: dict[str, Any] = {"method": method}
        for m in METRICS:
            row[m] = f"{_show(means[m][i])} ({ranks[m][i]:.2f})" if shared.any() else "none"
        rows.append(row | {"memory": f"{np.median(known):.0f} MB" if known.size else "none"})
    return table_html(rows, numeric=True)


def _shots_html(result: EvalResult, metric: str) -> str:
    rows = shot_curve(result, metric)
    table = []
    for size in result.sizes:
        held = {row["method"]: row for row in rows if row["shots"] == size}
        first = held[result.methods[0]]
        row = {"training rows": f"{size:,}", "data sets": f"{first['data_sets']} ({first['data_sets_all']})"}
        for method in result.methods:
            row[method] = f"{_show(held[method]['mean'])} ({_show(held[method]['mean_all'])})"
        table.append(row)
    return table_html(table, numeric=True)


def _changes_html(compared: Mapping[str, Any]) -> str:
    rows = [
        {
            "method": row["method"] + ("" if row["before"] == row["method"] else f" (was {row['before']})"),
            "metric": row["metric"],
            "before": _show(row["mean_before"]),
            "now": _show(row["mean_now"]),
            "difference": f"{row['difference']:+.4f}" if row["data_sets"] else "none",
            "95 % interval": interval_text(row["ci_low"], row["ci_high"], row["data_sets"]),
            "better / equal / worse": f"{row['better']} / {row['equal']} / {row['worse']}",
        }
        for row in compared["methods"]
    ]
    sets = sorted(compared["sets"], key=lambda row: row["difference"])
    shown = [row | {"difference": f"{row['difference']:+.4f}"} for row in sets]
    return (
        table_html(rows, numeric=True)
        + f"<details><summary>every data set, {len(sets)} rows</summary>{table_html(shown, numeric=True)}</details>"
    )


MOST_PROBLEMS = 200


def _problems(result: EvalResult) -> Section:
    rows = [
        {
            "method": r["method"],
            "data set": r["data"],
            "fold": f"{r['fold']}" + (f", {r['shots']} rows" if r.get("shots") else ""),
            "status": r["status"],
            "reason": r["reason"],
        }
        for r in result.problems
    ]
    notes = {(r["data"], r["reason"]) for r in result.rows if r["status"] == "ok" and r["reason"]}
    body = table_html(rows[:MOST_PROBLEMS]) if rows else "<p>Nothing was skipped and nothing failed.</p>"
    if len(rows) > MOST_PROBLEMS:
        body += f"<p>{len(rows) - MOST_PROBLEMS} more are in the results file.</p>"
    if errors := result.server_errors:
        tasks = {error["task"] for error in errors}
        body += (
            f"<p>Servers answered wrongly {len(errors)} times while {len(tasks)} data sets were loaded; <i>again</i> says "
            "whether another attempt followed.</p>" + table_html(list(errors[:MOST_PROBLEMS]))
        )
    else:
        body += "<p>No server error.</p>"
    if notes:
        items = "".join(f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for name, reason in sorted(notes))
        body += f"<details><summary>{len(notes)} notes on data sets</summary><ul>{items}</ul></details>"
    return Section("Skipped, failed, and notes", body)


def _lines(value: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, item in value.items():
        nested = isinstance(item, Mapping)
        lines.append(f"{indent}{key}:" + ("\n" + _lines(item, indent + "  ") if nested else f" {item}"))
    return "\n".join(lines)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def _show(value: Any) -> str:
    if isinstance(value, float):
        if not np.isfinite(value):
            return "none"
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
