"""`priorax generate`: tasks to disk, in our format or another project's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from priorax import options, output
from priorax.configs.errors import ConfigError, require
from priorax.configs.interrupt import StopFlag


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(options.OutDir):
    """Writes synthetic tasks to disk.

    The bytes depend on the prior, the seed, the shape, the JAX version and the kind of device, and on nothing else: a
    dump made in shards, or killed and resumed, equals the one made at once. Any setting of the prior can be overridden:
    --components.0.laws.label-noise-rate 0.5
    """

    KEEPS_MEMORY = True
    TAKES_SETTINGS = True

    out: Path
    """Directory to fill."""
    prior: str = "default"
    """Name of a preset, or path of a YAML file."""
    n_tasks: Annotated[int, tyro.conf.arg(aliases=["--n"])] = 1024
    """Tasks of the whole dump (all shards together)."""
    first: int = 0
    """Id of the first task."""
    rows: int = 256
    """Rows of a table, context and query together."""
    columns: int = 20
    """Most columns of a table."""
    context: int | None = None
    """Context rows of every task; drawn for each task when left out."""
    seed: int = 0
    """Seed of the stream of tasks."""
    format: Literal["parquet", "hdf5", "hdf5-nano", "tabicl", "tabicl-pt", "npz", "csv", "mllm-jsonl"] = "parquet"
    """File format."""
    schema: Literal["messages", "alpaca"] = "messages"
    """Form of a prompt (mllm-jsonl)."""
    token_budget: int = 110_000
    """Most tokens of a prompt, by estimate (mllm-jsonl)."""
    shard_size: int = 4096
    """Tasks in one file."""
    group_size: int = 32
    """Tasks with one common width and split (hdf5); the batch size of the reader must divide it."""
    shard: str = "0/1"
    """I/N: write only the files I, I+N, I+2N, ... of the dump."""
    missing: Literal["auto", "keep", "impute", "none"] = "auto"
    """Missing values: keep them, fill them from context rows, or draw none. auto keeps them where the format can."""
    with_graph: options.Switch = False
    """Store the causal graph of every task."""
    with_info: options.Switch = False
    """Store how every task was made (component, graph law, target, noise, causes and effects) and how well its class can be
    learned. Scoring takes several times as long as sampling."""
    verify: options.Switch = False
    """Check the files of --out against its manifest (exit code 7 on a difference) instead of writing."""
    dry_run: options.Switch = False
    """Show the resolved settings and the number of files, write nothing."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.configs.prior import load_prior
        from priorax.priors import dump
        from priorax.priors.writers import FORMATS

        if self.verify:
            self._show(dump.verify(self.out))
            return
        prior = load_prior(self.prior, overrides=settings) if settings else load_prior(self.prior)
        form = {"hdf5-nano": "hdf5", "tabicl-pt": "tabicl"}.get(self.format, self.format)
        missing = self.missing if self.missing != "auto" else "keep" if FORMATS[form].holds_nan else "impute"
        spec = dump.DumpSpec(
            prior, self.seed, self.first, self.n_tasks, self.rows, self.columns, self.context, form, self.shard_size,
            self.group_size, missing, self.with_graph, self.with_info, self.schema, self.token_budget,
        )  # fmt: skip
        shard = self._shard()
        if prior.oversample > 1:
            output.log(output.unfiltered(prior))
        if self.dry_run:
            raw = self.n_tasks * self.rows * (self.columns + 1) * 4
            self._show({**spec.summary(), "files": spec.n_parts, "uncompressed_mb_at_most": round(raw / 1e6, 1)})
            return
        for module in FORMATS[form].needs:  # before an older dump is removed
            require(module, "dumps", f"--format {self.format}")
        out = output.open_out(self.out, "generate", overwrite=self.overwrite, resume=self.resume)
        dump.check_settings(out, spec)  # refused settings are not to be noted as those of the folder
        output.write_run(out, "generate", spec.summary())
        mine = sum(len(spec.part_ids(p)) for p in range(shard[0], spec.n_parts, shard[1]))
        progress = output.Progress(mine, "tasks")

        def compiling(seconds: float | None) -> None:
            if seconds is None:
                output.log("compiling the sampler, which takes long the first time")
            else:
                output.log(f"compiled in {seconds:.0f} s")
                progress.restart()
                flag.notice = flag.notice and "generate: stopping after the file at hand (a second Ctrl-C ends without it)"

        silent = self.quiet or self.log == "json"
        with StopFlag(None if silent else "generate: stopping when the sampler is compiled (a second Ctrl-C ends at once)") as flag:
            try:
                result = dump.write_dump(
                    spec, out, shard=shard, on_tasks=progress.advance, on_compile=compiling, stop=lambda: bool(flag)
                )
            finally:
                progress.close()
        if flag.signal and not result["finished"]:
            done, parts = result["parts_done"], result["parts"]
            raise output.Interrupted(flag.signal, f"stopped with {done} of {parts} files done; go on with --resume")
        self._show(result)

    def _shard(self) -> tuple[int, int]:
        try:
            i, n = map(int, self.shard.split("/"))
        except ValueError:
            raise ConfigError(f"--shard is {self.shard!r}; write it as I/N, e.g. 0/4") from None
        if not 0 <= i < n:
            raise ConfigError(f"--shard is {self.shard!r}; I must lie in 0 .. {n - 1}")
        return i, n

    def _show(self, result: dict) -> None:
        if self.json:
            output.emit_json(result)
            return
        for key, value in output.jsonable(result).items():
            print(f"{key:18} {value}")
