"""`priorax export`: the network as a program that runs without this package."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(options.Common):
    """Writes a weights file as a StableHLO program with the weights inside, reads it back and compares.

    The program goes from encoded context and query rows to logits; `FILE.json` beside it names its inputs. Run it with
    `jax.export.deserialize(bytearray(open(FILE, "rb").read())).call(...)`; turning tables into numbers is not part of it. When
    its logits differ from the network's by more than 1e-4 nothing is kept and the exit code is 7.
    """

    out: options.Positional[Path]
    """File to write."""
    to: Literal["stablehlo"] = "stablehlo"
    """Form of the program."""
    model: Path | None = None
    """Weights file; the ones that ship with the package when left out."""
    rows: int = 1024
    """Room for context rows; smaller contexts are padded and masked."""
    columns: int = 32
    """Room for columns."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Where the program may run: cpu, cuda, rocm, tpu."""
    overwrite: options.Switch = False
    """Replace the file."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.models import default_weights_path, load_weights
        from priorax.models.export import INPUTS, TOLERANCE, export_stablehlo

        out = output.check_out_file(self.out, self.overwrite)
        if out.suffix == ".json":
            raise ConfigError(f"{out}: the program is not JSON, and its description goes to FILE.json; use .stablehlo")
        weights = load_weights(self.model or default_weights_path())
        made = export_stablehlo(out, weights, rows=self.rows, columns=self.columns, platforms=self.platforms)
        facts = {
            "file": out.name, "format": "jax.export (StableHLO)", "bytes": made.bytes, "sha256": made.sha256,
            "platforms": made.platforms, "inputs": made.inputs, "order": INPUTS, "output": made.output,
            "max_queries": made.max_queries, "classes": weights.cfg.max_classes, "licence": weights.meta.get("licence"),
            "weights_sha256": made.weights_sha256, "versions": runtime.versions(),
            "check": {"largest_difference": made.largest_difference, "tolerance": TOLERANCE, "query_rows": made.checked},
        }  # fmt: skip
        output.write_json(out.with_name(out.name + ".json"), facts)
        if self.json:
            output.emit_json(facts)
            return
        print(f"{out}: {made.bytes / 1e6:.2f} MB for {', '.join(made.platforms)}; read back, logits differ by at most "
              f"{made.largest_difference:.1e} over {made.checked} query rows")  # fmt: skip
        for name, shape in made.inputs.items():
            print(f"  {name:12} {shape}")
        print(f"  {'-> logits':12} {made.output}")
