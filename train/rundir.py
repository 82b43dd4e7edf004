"""The directory of a run: what it must hold, what may go on in it, and everything that is written there."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from ..configs.errors import ConfigError, DataError, PrioraxError
from ..configs.files import claimed, replacing, write_text
from ..configs.load import config_digest, load_yaml, to_dict, to_yaml
from ..configs.prior import PriorConfig
from ..configs.recipe import Recipe, recipe_digest
from ..models.growth import check_can_start, grow
from ..models.weights import LoadedWeights, default_weights_path, load_weights, save_weights
from .checkpoints import Checkpoint, list_checkpoints, restore_latest, save_checkpoint, verify_checkpoint
from .logs import MetricsFile
from .state import TrainState

WEIGHTS = "model.safetensors"
START = "start.safetensors"
CHECKPOINTS = "checkpoints"
_MAY_CHANGE = ("time_limit", "checkpoint_steps", "keep_checkpoints", "validate_steps", "validation_tasks")


class RunDirectory:
    """Files of one run, written by one process.

    Args:
      out: the directory; made by `open`.
      recipe, prior, seed: of the run.
    """

    def __init__(self, out: Path, recipe: Recipe, prior: PriorConfig, seed: int):
        self.out, self.recipe, self.prior, self.seed = out, recipe, prior, seed
        self.checkpoints = out / CHECKPOINTS
        self._metrics: MetricsFile | None = None
        self._held = contextlib.ExitStack()
        self._start: LoadedWeights | None = None

    def open(self, resume: bool) -> bool:
        """Makes the directory ready and writes config.yaml, prior.yaml and env.json.

        Weights to start from are copied, so that a run goes on from what it began with whatever becomes of them.

        Until `close` no other process can open it.

        Returns:
          Whether ``train.time_limit`` differs from that in config.yaml.

        Raises:
          ConfigError: another process trains in the directory; it holds another run, or one and ``resume`` is false; or the
            network of the recipe cannot start from the weights it names.
          MissingError, DataError: those weights cannot be read.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(
            claimed(self.out, f"another process is training in {self.out}; wait for it or stop it, or choose another directory")
        )
        config, replanned = self.out / "config.yaml", False
        if list_checkpoints(self.checkpoints) and not resume:
            raise ConfigError(f"{self.out} already holds a run; resume it (--resume) or choose another directory")
        if resume and config.is_file():
            before = load_yaml(config, Recipe)
            if _essence(before) != _essence(self.recipe):
                key = _first_difference(to_dict(_neutral(before)), to_dict(_neutral(self.recipe)))
                raise ConfigError(f"{self.out} was started with another recipe ({key} differs); use that of {config}")
            replanned = before.train.time_limit != self.recipe.train.time_limit
        prior = self.out / "prior.yaml"
        # Before anything is written: a run that is refused keeps the prior it was trained on.
        if resume and list_checkpoints(self.checkpoints) and prior.is_file() and not _is_prior(prior, self.prior):
            raise ConfigError(f"{self.out} was started with another prior; see {prior}")
        if self.recipe.start_from is not None:
            # A copy counts only beside a config that was just compared: without, it may be of another attempt.
            self._start = self._starting_weights(self.recipe.start_from, resume and config.is_file())
        write_text(config, to_yaml(self.recipe))
        write_text(prior, to_yaml(self.prior))
        if not (self.out / "env.json").is_file():
            write_text(self.out / "env.json", json.dumps(_environment(), indent=1) + "\n")
        return replanned

    def _starting_weights(self, start_from: str, goes_on: bool) -> LoadedWeights:
        kept = self.out / START
        goes_on = goes_on and kept.is_file()
        source = kept if goes_on else _source(start_from)
        found = _load_start(self.recipe, source)
        if not goes_on:
            with self._writing(START), replacing(kept) as temporary:
                shutil.copyfile(source, temporary)
        return found

    def starting_params(self) -> dict[str, Any] | None:
        """What the run starts from, as deep as its network; None for random weights."""
        return None if self._start is None else grow(self._start.params, self.recipe.model, self.seed)

    def seen_before(self) -> str | None:
        """What to tell of a run that draws the tasks which its starting weights were trained on; None where it does not."""
        known = {} if self._start is None else self._start.meta
        while known:
            if known.get("seed") == self.seed and known.get("prior_sha256") == config_digest(self.prior):
                return (
                    f"warning: the weights to start from were trained on tasks of this prior with seed {self.seed} too, so the first "
                    "tasks come again; another --seed draws new ones"
                )
            known = known.get("started_from") or {}
        return None

    def restore(self, like: TrainState, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest intact checkpoint, or None when there is none yet.

        Raises:
          ConfigError: it belongs to another seed or prior.
          DataError: none is intact.
        """
        found = restore_latest(self.checkpoints, like, say)
        if found is None:
            say(f"no checkpoint in {self.checkpoints} yet: starting from step 0")
            return None
        if found.meta["seed"] != self.seed:
            raise ConfigError(f"{self.out} was started with seed {found.meta['seed']}; resume with that seed")
        if found.meta["prior"] != config_digest(self.prior):
            raise ConfigError(f"{self.out} was started with another prior; see {self.out / 'prior.yaml'}")
        say(f"resuming from step {found.step}")
        return found

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Writes a checkpoint; ``meta`` are notes to find again when resuming."""
        known = {
            "seed": self.seed, "prior": config_digest(self.prior), "jax": jax.__version__,
            "time_limit": self.recipe.train.time_limit,
        }  # fmt: skip
        with self._writing("a checkpoint"):
            save_checkpoint(self.checkpoints, jax.device_get(state), known | meta, self.recipe.train.keep_checkpoints)

    def export(self, state: TrainState, tasks_seen: int, found: dict[str, Any]) -> bool:
        """Writes the averaged weights with what was measured of them; whether there are any to be had.

        Random weights are no result and are not written. Those an earlier leg wrote of the same step are kept when
        nothing was measured since, because their header says what was found then.
        """
        step = int(state.step)
        if not step and self._start is None:
            return False
        if not math.isfinite(found["loss"]) and self._exported_step() == step:
            return True
        meta = {
            "recipe": self.recipe.name, "recipe_sha256": recipe_digest(self.recipe), "prior": self.prior.name,
            "prior_sha256": config_digest(self.prior), "seed": self.seed, "steps": step,
            "tasks_seen": tasks_seen,
            "validation": {n: round(found[n], 6) for n in ("loss", "accuracy", "roc_auc") if math.isfinite(found[n])},
            "trained_columns": max(s.columns for s in self.recipe.shapes),
            "trained_rows": max(s.rows for s in self.recipe.shapes),
        }  # fmt: skip
        if self._start is not None:
            known = ("recipe", "tasks_seen", "seed", "prior_sha256")
            meta["started_from"] = {"sha256": self._start.sha256} | {n: self._start.meta[n] for n in known if n in self._start.meta}
            # The whole chain of runs: what a network has seen is the sum over it. None ends it: random weights.
            meta["started_from"]["started_from"] = self._start.meta.get("started_from")
        with self._writing(WEIGHTS):
            cfg = self.recipe.model
            if cfg.attention == "pallas":  # kernels that say nothing about the weights, and that other machines may not have
                cfg = dataclasses.replace(cfg, attention="auto")
            save_weights(self.out / WEIGHTS, cfg, jax.device_get(state.average), meta)
        return True

    def _exported_step(self) -> int | None:
        """The step of the weights an earlier leg wrote; None when there are none, or none that are intact."""
        try:
            return load_weights(self.out / WEIGHTS, verify=False).meta.get("steps")
        except PrioraxError:
            return None

    def start_metrics(self, step: int | None) -> None:
        """Starts metrics.jsonl, or goes on after the lines up to ``step`` of an earlier leg."""
        self._metrics = MetricsFile(self.out / "metrics.jsonl", step)

    def write(self, **values: Any) -> None:
        """One line of metrics.jsonl."""
        assert self._metrics is not None
        with self._writing("metrics.jsonl"):
            self._metrics.write(**values)

    def close(self) -> None:
        """Flushes metrics.jsonl and lets other processes in."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self._held.close()

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Says what is lost and what is not when a disk is full or gone."""
        try:
            yield
        except PrioraxError:  # says itself what is wrong
            raise
        except Exception as error:
            # Orbax and safetensors report a full disk by errors of many kinds, some of which speak of memory.
            saved = list_checkpoints(self.checkpoints)
            where = f"the run is saved up to step {saved[-1][0]}" if saved else "no checkpoint was written yet"
            raise ConfigError(
                f"could not write {what} in {self.out} ({type(error).__name__}: {str(error)[:300]}); {where}. Make room, "
                "then resume"
            ) from error


def check_request(recipe: Recipe, seed: int, begins: bool = False) -> None:
    """Refuses a run that cannot begin, before anything is written or an older run is removed.

    Args:
      begins: the weights to start from are looked at too. A run that goes on has a copy of its own.

    Raises:
      ConfigError: the seed is out of range or that of the held-out tasks; the network cannot start from the weights the recipe names.
      MissingError, DataError: those weights cannot be read.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}; it must lie in [0, 2**63)")
    if seed == recipe.train.validation_seed:
        raise ConfigError(f"seed {seed} draws the tasks of train.validation_seed; held-out tasks would be training tasks")
    if begins and recipe.start_from is not None:
        _load_start(recipe, _source(recipe.start_from))


def _source(start_from: str) -> Path:
    return default_weights_path() if start_from == "default" else Path(start_from).expanduser()


def _load_start(recipe: Recipe, path: Path) -> LoadedWeights:
    found = load_weights(path)
    check_can_start(recipe.model, found.cfg, f"{recipe.start_from} ({found.meta.get('recipe', 'unnamed')})")
    return found


def _neutral(recipe: Recipe) -> Recipe:
    """A recipe without what may differ between legs of a run. The prior is compared by what it holds, not by its name, which may be
    the path of a file that is elsewhere now."""
    defaults = {name: getattr(type(recipe.train)(), name) for name in _MAY_CHANGE}
    model = dataclasses.replace(recipe.model, attention="auto")  # kernels of a machine: legs on different ones are one run
    return dataclasses.replace(recipe, description="", prior="", model=model, train=dataclasses.replace(recipe.train, **defaults))


def _is_prior(path: Path, prior: PriorConfig) -> bool:
    """Whether a file holds that prior; one of another version of the engine does not."""
    try:
        return config_digest(load_yaml(path, PriorConfig)) == config_digest(prior)
    except ConfigError:
        return False


def _essence(recipe: Recipe) -> str:
    return config_digest(_neutral(recipe))


def _first_difference(a: Any, b: Any, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    return path


def _environment() -> dict[str, Any]:
    packages = ("priorax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors")
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in packages},
        "platform": platform.platform(),
        "device_kind": device.device_kind,
        "device_platform": device.platform,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def seed_of_run(out: Path) -> int | None:
    """The seed of the run in a directory, from its newest intact checkpoint; None where there is none."""
    for _, path in reversed(list_checkpoints(Path(out) / CHECKPOINTS)):
        try:
            return int(verify_checkpoint(path)["meta"]["seed"])
        except DataError:
            continue
    return None
