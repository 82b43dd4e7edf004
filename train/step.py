"""The compiled part of training: many steps a dispatch, each sampling its tasks and learning from them on the device.

One program per table shape does both training and validation (a traced flag), since on a CPU compiling the sampler a
second time would cost more than the validation itself. Data parallelism is explicit: under `jax.shard_map` every device
samples its own share of a step's tasks and gradients are averaged; the state is the same on all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..configs.errors import ConfigError
from ..configs.recipe import Recipe, TaskShape
from ..priors.compiling import compiler_options
from ..priors.device import each, on_cpu
from ..priors.learnability import TREES
from ..priors.task import TaskBatch
from .loss import accuracy, cross_entropy, query_logits, roc_auc_sum
from .optimizer import learning_rate, make_optimizer
from .state import TrainState
from .tasks import SamplerFactory, make_tasks

AXIS = "tasks"
Metrics = dict[str, jax.Array]


def pick_devices(recipe: Recipe) -> list[jax.Device]:
    """The devices to train on: as many of the first ones of every process as divide the tasks of every shape.

    Raises:
      ConfigError: the tasks of a shape cannot be shared out among the processes.
    """
    processes = jax.process_count()
    fitting = [
        n
        for n in range(1, jax.local_device_count() + 1)
        if all(s.tasks % (n * processes) == 0 for s in recipe.shapes)
    ]
    if not fitting:
        i = next(i for i, s in enumerate(recipe.shapes) if s.tasks % processes)
        raise ConfigError(
            f"shapes.{i}.tasks is {recipe.shapes[i].tasks}, which {processes} processes cannot share equally; make it a "
            f"multiple of {processes}"
        )
    everyone = sorted(jax.devices(), key=lambda d: d.process_index)
    return [
        device
        for i in range(processes)
        for device in [d for d in everyone if d.process_index == i][: fitting[-1]]
    ]


def kind_of(devices: list[jax.Device]) -> str:
    """Number and kind, for people and to tell legs on other devices apart."""
    return f"{len(devices)} x {devices[0].device_kind}"


def idle(devices: list[jax.Device]) -> str:
    """What to add where a run leaves devices unused; empty where it uses all."""
    idle = len(jax.devices()) - len(devices)
    return f" ({idle} more idle: the tasks of every shape must be shared out equally; see shapes.N.tasks)" if idle else ""


def make_dispatch(
    recipe: Recipe, shape: TaskShape, prior: Any, sampler_factory: SamplerFactory, devices: list[jax.Device]
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Builds the jitted ``dispatch(state, key, learn, first) -> (state, metrics)``; ``state`` is donated.

    It runs ``recipe.train.steps_per_dispatch`` steps. With ``learn`` (bool[]) true, step s trains on tasks
    ``sampler(key, s)`` for s = ``state.step`` and on; otherwise the state is returned as it came and the averaged
    weights are measured on ``sampler(key, first)`` and on. Metrics have one entry per step: loss, accuracy, roc_auc
    (NaN when training), learning_rate, grad_norm, skipped (bool), streak.
    """
    optimizer = make_optimizer(recipe.train)
    shards = len(devices)
    local = shape.tasks // shards
    tasks = make_tasks(prior, shape, local, recipe.model.max_classes, sampler_factory)
    piece = _piece(local, recipe.train.microbatch)

    def mean(tree: Any) -> Any:
        return jax.lax.pmean(tree, AXIS) if shards > 1 else tree

    def loss_fn(params: dict[str, Any], batch: TaskBatch) -> tuple[jax.Array, jax.Array]:
        logits = query_logits(recipe.model, params, batch, shape.fixed_context)
        return cross_entropy(*logits), accuracy(*logits)

    def gradients(params: dict[str, Any], batch: TaskBatch) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        if piece == local:
            (loss, hits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
            return loss, hits, grads
        pieces = jax.tree.map(lambda a: a.reshape(local // piece, piece, *a.shape[1:]), batch)

        def add(total: Any, part: TaskBatch) -> tuple[Any, None]:
            (loss, hits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, part)
            return jax.tree.map(jnp.add, total, (loss, hits, grads)), None

        start = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, start, pieces)
        return jax.tree.map(lambda a: a * (piece / local), total)

    def learn_step(state: TrainState, batch: TaskBatch) -> tuple[TrainState, Metrics]:
        loss, hits, grads = mean(gradients(state.params, batch))
        return apply_gradients(recipe, optimizer, state, loss, hits, grads)

    def measure_step(state: TrainState, batch: TaskBatch) -> tuple[TrainState, Metrics]:
        logits = query_logits(recipe.model, state.average, batch, shape.fixed_context)
        # Of the AUC mean and number have a common factor, and a device without a task that has one adds nothing.
        loss, hits, (auc, tasks) = mean((cross_entropy(*logits), accuracy(*logits), roc_auc_sum(*logits)))
        return state, _metrics(loss, hits, auc / tasks, jnp.float32(0), jnp.float32(0), jnp.bool_(False), state.streak)

    def dispatch(state: TrainState, key: jax.Array, learn: jax.Array, first: jax.Array) -> tuple[TrainState, Metrics]:
        shard = jax.lax.axis_index(AXIS).astype(jnp.uint32) if shards > 1 else jnp.uint32(0)
        ids = jnp.arange(recipe.train.steps_per_dispatch, dtype=jnp.uint32)
        ids = (jnp.where(learn, state.step.astype(jnp.uint32), first) + ids) * jnp.uint32(shards) + shard

        def one(state: TrainState, batch: TaskBatch) -> tuple[TrainState, Metrics]:
            return jax.lax.cond(learn, learn_step, measure_step, state, batch)

        return over_steps(one, state, lambda step: tasks(key, step), ids, shape, local)

    options = compiler_options() if recipe.train.fast_compile else {}
    if shards == 1:
        return jax.jit(dispatch, donate_argnums=0, compiler_options=options)
    mesh = Mesh(np.asarray(devices), (AXIS,))
    everywhere = PartitionSpec()
    spread = jax.shard_map(
        dispatch, mesh=mesh, in_specs=(everywhere,) * 4, out_specs=(everywhere, everywhere), check_vma=False
    )
    return jax.jit(spread, donate_argnums=0, compiler_options=options)


def over_steps(
    one: Callable[[Any, TaskBatch], tuple[Any, Any]], start: Any, draw: Callable[[jax.Array], TaskBatch], ids: jax.Array,
    shape: TaskShape, tasks: int,
) -> tuple[Any, Any]:  # fmt: skip
    """`jax.lax.scan` of ``one`` over what ``draw`` makes of every id: ``tasks`` tasks of a shape, a device's share of a step's.

    On a CPU a step's tasks are drawn right before it. An accelerator draws those of many steps side by side before the first:
    it starts thousands of kernels to draw some, however few, and would spend more time on that than on learning from them.
    """
    if on_cpu():
        return jax.lax.scan(lambda carry, step: one(carry, draw(step)), start, ids)
    cells = shape.rows * (shape.columns + shape.score_columns)
    if shape.score_columns:
        cells += 8 * shape.rows**2  # kernels of ridge regressions
    drawn = 2 * tasks  # about
    # The filter of learnable tasks multiplies small matrices for every tree of every candidate.
    return jax.lax.scan(one, start, each(draw, ids, drawn * cells, drawn * TREES))


def make_sampling(
    recipe: Recipe, shape: TaskShape, prior: Any, sampler_factory: SamplerFactory, devices: list[jax.Device]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What a dispatch does before it learns, alone, to be timed: ``sampling(key, first) -> f32[]``.

    The tasks of ``steps_per_dispatch`` steps from ``first`` on are sampled and scored, shared out among the devices as in
    `make_dispatch`, and summed up so that none is left out.
    """
    shards = len(devices)
    local = shape.tasks // shards
    tasks = make_tasks(prior, shape, local, recipe.model.max_classes, sampler_factory)

    def sampling(key: jax.Array, first: jax.Array) -> jax.Array:
        shard = jax.lax.axis_index(AXIS).astype(jnp.uint32) if shards > 1 else jnp.uint32(0)
        ids = (first + jnp.arange(recipe.train.steps_per_dispatch, dtype=jnp.uint32)) * jnp.uint32(shards) + shard

        def one(total: jax.Array, batch: TaskBatch) -> tuple[jax.Array, None]:
            parts = (batch.x, batch.y, batch.n_features, batch.n_classes, batch.n_context, batch.categorical)
            return total + sum(jnp.nansum(a.astype(jnp.float32)) for a in parts), None

        total, _ = over_steps(one, jnp.float32(0), lambda step: tasks(key, step), ids, shape, local)
        return jax.lax.psum(total, AXIS) if shards > 1 else total

    if shards == 1:
        return jax.jit(sampling, compiler_options=compiler_options())
    everywhere = PartitionSpec()
    mesh = Mesh(np.asarray(devices), (AXIS,))
    spread = jax.shard_map(sampling, mesh=mesh, in_specs=(everywhere,) * 2, out_specs=everywhere, check_vma=False)
    return jax.jit(spread, compiler_options=compiler_options())


def apply_gradients(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    loss: jax.Array,
    hits: jax.Array,
    grads: dict[str, Any],
) -> tuple[TrainState, Metrics]:
    """One guarded update. When the loss or a gradient is not finite, params, average and opt_state stay bit for bit."""
    cfg = recipe.train
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    rate = learning_rate(cfg, state.step, state.horizon)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p + rate * u, state.params, updates)
    keep = average_decay(cfg.average, state.step, state.horizon)
    average = jax.tree.map(lambda a, p: keep * a + (1.0 - keep) * p, state.average, params)
    new = (params, average, opt_state)
    old = (state.params, state.average, state.opt_state)
    params, average, opt_state = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    streak = jnp.where(good, 0, state.streak + 1)
    state = TrainState(
        step=state.step + 1,
        horizon=state.horizon,
        skipped=state.skipped + (1 - good.astype(jnp.int32)),
        streak=streak,
        params=params,
        average=average,
        opt_state=opt_state,
    )
    return state, _metrics(loss, hits, jnp.float32(jnp.nan), rate, norm, ~good, streak)


def average_decay(share: float, step: jax.Array, horizon: jax.Array) -> jax.Array:
    """Decay of the average of the weights: its time constant is ``share`` of the horizon, and of the steps so far."""
    steps = jnp.minimum(share * horizon.astype(jnp.float32), 0.2 * step.astype(jnp.float32))
    return 1.0 - 1.0 / jnp.maximum(steps, 1.0)


def place(state: TrainState, devices: list[jax.Device]) -> TrainState:
    """The state on all training devices; in several processes each must bring the same."""
    if len(devices) == 1:
        return jax.device_put(state, devices[0])
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())
    return jax.tree.map(lambda leaf: put(leaf, sharding), state)


def replicate(values: Any, devices: list[jax.Device]) -> Any:
    """Keys and scalars, the same in every process, as arguments of a program on these devices."""
    if jax.process_count() == 1:
        return values  # where they are put is decided by the state beside them
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())

    def everywhere(value: jax.Array) -> jax.Array:
        if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return put(value, sharding)
        data = put(jax.random.key_data(value), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))

    return jax.tree.map(everywhere, values)


def put(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """A value that every process holds, on the devices of all of them (without asking the others whether it is equal)."""
    if jax.process_count() == 1:
        return jax.device_put(value, sharding)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def mean_of_good(numbers: dict[str, np.ndarray], name: str) -> float:
    """Mean of one of the metrics over the steps of a dispatch that were not skipped; NaN when all were."""
    good = ~numbers["skipped"]
    return float(numbers[name][good].mean()) if good.any() else float("nan")


def _metrics(loss, hits, auc, rate, norm, skipped, streak) -> Metrics:
    return {
        "loss": loss, "accuracy": hits, "roc_auc": auc, "learning_rate": rate, "grad_norm": norm, "skipped": skipped,
        "streak": streak,
    }  # fmt: skip


def _piece(tasks: int, wanted: int | None) -> int:
    """The largest divisor of ``tasks`` up to ``wanted``."""
    if wanted is None or wanted >= tasks:
        return tasks
    return max(n for n in range(1, wanted + 1) if tasks % n == 0)
