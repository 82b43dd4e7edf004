"""Writing a stream of tasks to disk: parts, shards, resume, manifest, verification.

A dump is cut into parts of `shard_size` tasks. A part is a function of the spec and its number, so machines can share
the parts out (`shard=(i, n)`), a killed run can go on, and the files are the same bytes either way. Files of a part
appear whole or not at all; what is done is noted under `.progress/` until the last part is there and `manifest.json`
is written. `dump_repair` turns the manifest of a damaged dump into such notes again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..configs.errors import ConfigError, DataError, ThresholdError, require
from ..configs.files import claimed, replacing, sha256_of, write_text
from ..configs.load import config_digest, to_yaml
from ..configs.prior import ENGINE_VERSION, PriorConfig
from .dump_repair import damage, note_of, place, read_manifest, reopen
from .records import TaskRecord, graphs, impute, records, task_infos
from .sampler import LANES
from .stream import MAX_TASK_ID, sample
from .task import TableShape
from .writers import FORMAT_VERSION, FORMATS, PartInfo
from .writers_text import SCHEMAS, dataset_info

CHUNK = 512
"""Tasks sampled at once: a whole number of the engine's cycles through its cohorts."""

AHEAD = 2
"""Chunks sampled while another is written."""


@dataclasses.dataclass(frozen=True)
class DumpSpec:
    """Everything the bytes of a dump depend on (with the JAX version and the kind of device).

    Attributes:
      prior: the prior; its name, version and digest go into the manifest.
      seed: the seed of the stream.
      first, n_tasks: task ids first .. first + n_tasks - 1.
      rows, columns, context: the table shape; `context=None` draws the split of each task.
      format: a key of `writers.FORMATS`.
      shard_size: tasks in one part.
      group_size: tasks that share one width and one split (HDF5).
      missing: ``keep`` missing values, ``impute`` them from the context rows, or ``none``: draw tasks without any.
      with_graph: store the causal graphs.
      with_info: store how each task was made and how well it can be learned (`records.INFO`).
      schema, token_budget: for prompts.
    """

    prior: PriorConfig
    seed: int = 0
    first: int = 0
    n_tasks: int = 1024
    rows: int = 256
    columns: int = 20
    context: int | None = None
    format: str = "parquet"
    shard_size: int = 4096
    group_size: int = 32
    missing: str = "keep"
    with_graph: bool = False
    with_info: bool = False
    schema: str = "messages"
    token_budget: int = 110_000

    def __post_init__(self) -> None:
        try:
            TableShape(self.rows, self.columns, self.context)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.format not in FORMATS:
            raise ConfigError(f"format is {self.format!r}; allowed: {', '.join(FORMATS)}")
        form = FORMATS[self.format]
        for name in ("n_tasks", "shard_size", "group_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.first <= MAX_TASK_ID - self.n_tasks + 1:
            raise ConfigError(f"tasks {self.first} .. {self.first + self.n_tasks - 1} do not lie in [0, 2**32)")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; it must lie in [0, 2**63)")
        if self.missing not in ("keep", "impute", "none"):
            raise ConfigError(f"missing is {self.missing!r}; allowed: keep, impute, none")
        if self.missing == "keep" and not form.holds_nan:
            raise ConfigError(
                f"format {self.format} cannot hold missing values (its readers skip the batch or turn the loss into "
                "NaN); use --missing impute or --missing none"
            )
        for wanted, what in ((self.with_graph, "graphs"), (self.with_info, "facts about tasks")):
            if wanted and not form.with_extras:
                able = ", ".join(k for k, v in FORMATS.items() if v.with_extras)
                raise ConfigError(f"format {self.format} has no place for {what}; formats that have: {able}")
        if self.schema not in SCHEMAS:
            raise ConfigError(f"schema is {self.schema!r}; allowed: {', '.join(SCHEMAS)}")
        if form.grouped:
            tail = self.n_tasks % self.group_size or (self.n_parts > 1 and self.shard_size % self.group_size)
            if tail:
                raise ConfigError(
                    f"{self.n_tasks} tasks in shards of {self.shard_size} do not divide into groups of {self.group_size}; "
                    "readers take the split of a whole batch from its first task"
                )

    @property
    def n_parts(self) -> int:
        return -(-self.n_tasks // self.shard_size)

    @property
    def drawn_prior(self) -> PriorConfig:
        """The prior tasks are drawn from: `prior`, without missingness for ``missing="none"``."""
        if self.missing != "none":
            return self.prior
        quiet = tuple(
            dataclasses.replace(c, laws=dataclasses.replace(c.laws, missing_rate=0.0)) for c in self.prior.components
        )
        return dataclasses.replace(self.prior, components=quiet)

    def part_ids(self, part: int) -> range:
        """Task ids of one part."""
        start = self.first + part * self.shard_size
        return range(start, min(start + self.shard_size, self.first + self.n_tasks))

    def summary(self) -> dict[str, Any]:
        """The settings as JSON values, the prior by name, version and digest."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "prior"}
        prior = {"name": self.prior.name, "version": self.prior.version, "sha256": config_digest(self.drawn_prior)}
        return {"prior": prior, **fields}


def chunks(spec: DumpSpec, ids: range) -> Iterator[list[TaskRecord]]:
    """Samples tasks on the device, `CHUNK` at a time, and hands them over as host records, in order.

    Two chunks are sampled ahead in threads while the caller writes: JAX works outside Python's lock.
    """
    step = _step(spec)
    starts = iter(range(ids.start, ids.stop, step))

    def draw(start: int) -> list[TaskRecord]:
        return _draw(spec, range(start, min(start + step, ids.stop)), step)

    yield draw(next(starts))  # alone: it compiles, which two threads would do twice
    with ThreadPoolExecutor(max_workers=AHEAD) as pool:
        running = deque(pool.submit(draw, start) for start in islice(starts, AHEAD))
        while running:
            done = running.popleft().result()
            running.extend(pool.submit(draw, start) for start in islice(starts, 1))
            yield done


def _step(spec: DumpSpec) -> int:
    """Tasks drawn together."""
    step = CHUNK if not FORMATS[spec.format].grouped else max(CHUNK // spec.group_size, 1) * spec.group_size
    return min(step, spec.shard_size, spec.n_tasks)


def _draw(spec: DumpSpec, ids: range, step: int) -> list[TaskRecord]:
    # Always a whole step, so that a short tail compiles no second program.
    drawn = range(ids.start, min(ids.start + step, MAX_TASK_ID + 1))
    shape = {"rows": spec.rows, "columns": spec.columns, "context": spec.context}
    batch = sample(spec.drawn_prior, spec.seed, drawn, **shape, with_scm=spec.with_graph, score=spec.with_info)
    found = graphs(batch.scm) if spec.with_graph else None
    batch = jax.device_get(dataclasses.replace(batch, scm=None))
    infos = task_infos(batch, [c.name for c in spec.prior.components]) if spec.with_info else None
    out = records(batch, ids, found, infos)
    if any(np.isinf(t.x).any() for t in out):
        raise DataError(f"a task among {ids.start} .. {ids.stop - 1} holds an infinity; please report the seed")
    return [impute(t) for t in out] if spec.missing == "impute" else out


def write_dump(
    spec: DumpSpec,
    out: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    on_tasks: Callable[[int], None] = lambda n: None,
    on_compile: Callable[[float | None], None] = lambda seconds: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Writes the parts of one shard that are not there yet, and the manifest once all parts of the dump are.

    Args:
      spec: what to write.
      out: an existing folder: empty, or holding parts of the same dump, or all of it. Of a finished dump the parts of which a
        file is missing or has changed are written again.
      shard: (i, n): this call makes the parts i, i + n, i + 2n, ...
      on_tasks: called with the number of tasks just written (or found).
      on_compile: called with None before the sampler is compiled, which it is if a part is to be written, and with the
        seconds that took once it is.
      stop: asked between parts; true ends the call early.

    Returns:
      dict with ``parts_done``, ``parts``, ``finished``; ``compile_s`` and ``tasks_per_s`` (compiling not counted; None
      both when no part was written); and the tasks, bytes and the manifest's sha256 when finished.

    Raises:
      ConfigError: the folder holds a dump with other settings, the shard is out of range, or another process is making the same
        part.
      MissingError: the format needs a package that is not installed.
    """
    i, n = shard
    if not 0 <= i < n:
        raise ConfigError(f"shard {i}/{n}: the first number must lie in 0 .. {n - 1}")
    for module in FORMATS[spec.format].needs:
        require(module, "dumps", f"the format {spec.format}")
    progress = out / ".progress"
    _note_settings(out, spec)
    progress.mkdir(exist_ok=True)
    if (out / "manifest.json").exists():
        reopen(spec, out)
    compile_s, written, seconds = None, 0, 0.0
    for part in range(i, spec.n_parts, n):
        if stop():
            break
        if _made(out, part):
            on_tasks(len(spec.part_ids(part)))
            continue
        if compile_s is None:
            on_compile(None)
            began = time.monotonic()
            # A step for nothing, so that all that follows is drawing: graphs and infos have small programs for its size.
            _draw(spec, range(spec.first, spec.first + 1), _step(spec))
            compile_s = time.monotonic() - began
            on_compile(compile_s)
            if stop():
                break
        began = time.monotonic()
        lock = progress / f"{part:05d}.lock"
        lock.mkdir(parents=True, exist_ok=True)  # whoever finished the dump meanwhile has removed the folder of notes
        with claimed(lock, f"another process is making part {part} of {out}; wait for it, or share the parts out with --shard"):
            if _made(out, part):  # by another process, since this one looked
                on_tasks(len(spec.part_ids(part)))
                continue
            _write_part(spec, out, part, on_tasks)
        written, seconds = written + len(spec.part_ids(part)), seconds + time.monotonic() - began
    noted = [_noted(out, p) for p in range(spec.n_parts)]
    done = sum(note is not None for note in noted)
    if (out / "manifest.json").exists():
        done = spec.n_parts
        _finish(spec, out, read_manifest(out)["files"])  # what describes the data may be missing or changed
    elif done == spec.n_parts:
        _finish(spec, out, [entry for note in noted for entry in note or ()])
    result: dict[str, Any] = {
        "path": str(out),
        "parts": spec.n_parts,
        "parts_done": done,
        "finished": done == spec.n_parts,
        "compile_s": None if compile_s is None else round(compile_s, 2),
        "tasks_per_s": round(written / seconds, 1) if written else None,
    }
    if result["finished"]:
        shutil.rmtree(progress, ignore_errors=True)
        manifest = json.loads((out / "manifest.json").read_text())
        result |= {
            "tasks": manifest["n_tasks"],
            "bytes": sum(f["bytes"] for f in manifest["files"]),
            "manifest_sha256": sha256_of(out / "manifest.json"),
        }
    return result


def verify(out: Path) -> dict[str, Any]:
    """Compares every file of a finished dump with its manifest.

    Raises:
      ThresholdError: a file is missing, or its size or hash differs; names the first.
      DataError: there is no readable manifest.
    """
    manifest = read_manifest(out)
    for entry in manifest["files"]:
        wrong = damage(out, entry)
        if wrong:
            raise ThresholdError(f"{wrong}. Generate again with the same settings and --resume: that writes it anew")
    return {"path": str(out), "files": len(manifest["files"]), "tasks": manifest["n_tasks"], "ok": True}


def _settings(spec: DumpSpec) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "format_version": FORMAT_VERSION,
        "engine_version": ENGINE_VERSION,
        "jax_version": jax.__version__,
        "device_kind": device.device_kind,
        "lanes": LANES,
        **spec.summary(),
    }


def check_settings(out: Path, spec: DumpSpec) -> bool:
    """Whether a folder holds a dump already; ConfigError if it is one with other settings. Writes nothing."""
    path, wanted = out / "dump.json", _settings(spec)
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} cannot be read as the settings of a dump, so nobody knows which it is; give another --out")
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                f"{out} holds a dump made with {key} = {found.get(key)!r}, this run has {wanted.get(key)!r}; "
                "give the same settings or another --out"
            )
    return True


def _note_settings(out: Path, spec: DumpSpec) -> None:
    """Notes the settings in an empty folder; in a used one they must be equal."""
    if not check_settings(out, spec):
        write_text(out / "config.yaml", to_yaml(spec.drawn_prior))
        write_text(out / "dump.json", json.dumps(_settings(spec), indent=2, sort_keys=True) + "\n")


def _made(out: Path, part: int) -> bool:
    """Whether a part is there: the dump is finished, or there is a note of the part."""
    return (out / "manifest.json").exists() or _noted(out, part) is not None


def _noted(out: Path, part: int) -> list[dict[str, Any]] | None:
    """The files of a finished part, or None; a file that went missing or changed in size undoes the note."""
    try:
        entries = json.loads((note_of(out, part)).read_text())
    except (OSError, ValueError):
        return None
    for entry in entries:
        path = out / entry["path"]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return None
    return entries


def _write_part(spec: DumpSpec, out: Path, part: int, on_tasks: Callable[[int], None]) -> None:
    scratch = out / ".progress" / f"{part:05d}.parts"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed: the part is claimed
    scratch.mkdir()
    ids = spec.part_ids(part)
    summary = spec.summary()
    info = PartInfo(
        stem=f"part-{part:05d}-of-{spec.n_parts:05d}",
        index=part,
        rows=spec.rows,
        columns=spec.columns,
        max_classes=spec.prior.sizes.classes,
        group_size=spec.group_size,
        with_graph=spec.with_graph,
        with_info=spec.with_info,
        metadata={
            "priorax.engine": ENGINE_VERSION,
            "priorax.prior": json.dumps(summary["prior"], sort_keys=True),
            "priorax.seed": str(spec.seed),
            "priorax.device_kind": jax.devices()[0].device_kind,
            "priorax.license": "Apache-2.0",
        },
        schema=spec.schema,
        token_budget=spec.token_budget,
    )

    def counted() -> Iterator[list[TaskRecord]]:
        for chunk in chunks(spec, ids):
            yield chunk
            on_tasks(len(chunk))

    names = FORMATS[spec.format].write(scratch, counted(), info)
    entries = []
    for name in names:
        made, final = scratch / name, out / place(spec.format, name)
        final.parent.mkdir(parents=True, exist_ok=True)
        entries.append({"path": place(spec.format, name), "bytes": made.stat().st_size, "sha256": sha256_of(made)})
        with replacing(final) as temporary:
            made.replace(temporary)
    write_text(note_of(out, part), json.dumps(entries))
    shutil.rmtree(scratch)


def _finish(spec: DumpSpec, out: Path, files: list[dict[str, Any]]) -> None:
    from .dump_card import card, croissant

    settings = _settings(spec)
    if spec.format == "mllm-jsonl":
        info = dataset_info([f["path"] for f in files], spec.schema)
        write_text(out / "dataset_info.json", json.dumps(info, indent=2) + "\n")
    if spec.format == "tabicl":
        write_text(out / "metadata.json", json.dumps(_tabicl_metadata(spec), indent=2) + "\n")
    write_text(out / "config.yaml", to_yaml(spec.drawn_prior))
    write_text(out / "README.md", card(settings, files))
    if spec.format == "parquet":
        write_text(out / "croissant.json", json.dumps(croissant(settings, files, spec.with_graph, spec.with_info), indent=2) + "\n")
    manifest = {**settings, "license": "Apache-2.0", "files": files}
    write_text(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _tabicl_metadata(spec: DumpSpec) -> dict[str, Any]:
    """The keys TabICL's writer stores; its reader prints them and uses nothing else."""
    size = min(spec.shard_size, spec.n_tasks)
    return {
        "regression": False, "prior_type": f"priorax/{spec.prior.name}", "batch_size": size,
        "batch_size_per_gp": size, "min_seq_len": spec.rows, "max_seq_len": spec.rows, "log_seq_len": False,
        "seq_len_per_gp": False, "min_features": 1, "max_features": spec.columns, "max_classes":
        spec.prior.sizes.classes, "min_train_size": spec.context or 0, "max_train_size": spec.context or spec.rows,
        "replay_small": False, "graph_noise": False,
    }  # fmt: skip
