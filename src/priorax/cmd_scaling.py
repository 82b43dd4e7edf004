"""`priorax bench scaling`: what more training would bring."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from priorax import options, output
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(options.Common):
    """Fits loss and ROC AUC against tasks from the logs of runs, and says what more tasks are expected to bring."""

    runs: options.Positional[tuple[Path, ...]]
    """Directories of pretrain; several runs of one network with different numbers of tasks, or legs of one."""
    factors: tuple[float, ...] = (2, 10, 100)
    """How many times the tasks so far to predict for."""
    out: Path | None = None
    """Also write the result to this JSON file."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.train.scaling import scaling

        if not self.runs:
            raise ConfigError("give at least one directory of a run")
        if not all(0 < factor < math.inf for factor in self.factors):
            raise ConfigError("--factors must be finite numbers above 0")
        out = output.check_out_file(self.out, self.overwrite) if self.out else None
        found = scaling(self.runs, self.factors)
        if out:
            output.write_text(out, json.dumps(output.jsonable(found), indent=1) + "\n")
        if self.json:
            output.emit_json(found)
            return
        fit = found["loss"]
        print(f"{found['basis']}, {fit['points']} points")
        print(
            f"loss = {fit['floor']:.4f} + {fit['scale']:.4f} (tasks / {fit['first']:,.0f})^-{fit['exponent']:.3f}, "
            f"residual {fit['residual']:.4f}"
        )
        if found["roc_auc"]:
            print(f"ROC AUC {found['roc_auc']['per_decade']:+.4f} a decade, residual {found['roc_auc']['residual']:.4f}")
        rows = [
            [f"x{row['factor']:g}", f"{row['tasks']:,.0f}", _between(row, "loss"), _between(row, "roc_auc")]
            for row in found["expected"]
        ]
        print(output.table(rows, ["", "tasks", "loss (90 %)", "ROC AUC (90 %)"]))


def _between(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    interval = row[f"{name}_interval"]
    return f"{row[name]:.4f}" + (f" ({interval[0]:.4f} - {interval[1]:.4f})" if interval else "")
