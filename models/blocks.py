"""One block of the trunk, written for weights that are stacked over layers and run with `jax.lax.scan`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ..configs.model import ModelConfig
from ..priors.device import on_cpu
from .attention import feature_attention, feature_attention_weights, in_blocks, row_attention, rows_at_once

_REFERENCE_ROWS = 256.0
"""Context size at which the length factor on row attention is 1."""

_PARTS = 128
"""Parts in which an accelerator sums up the gradient of a matrix."""

_PRODUCT, _ATTENDED = "product", "attended"
"""What `keeping_products` keeps: results of `linear`, and of attention."""

T = TypeVar("T")

_ACTIVATIONS = {"gelu": jax.nn.gelu, "relu2": lambda x: jnp.square(jax.nn.relu(x))}


def rms_norm(h: jax.Array, gain: jax.Array) -> jax.Array:
    """Root-mean-square normalisation over the last axis, in float32 whatever the dtype of ``h``."""
    wide = h.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)
    return (wide * gain).astype(h.dtype)


def linear(x: jax.Array, w: jax.Array) -> jax.Array:
    """``x @ w`` for x [..., S, I] and w [I, O], remembered by `keeping_products`."""
    return checkpoint_name(_linear(x, w), _PRODUCT)


def keeping_products(block: Callable[..., T]) -> Callable[..., T]:
    """``block`` whose backward pass is given the matrix products and attention of the forward one and computes all else anew.

    On a GPU a block's norms and activations cost little but their way through memory, and those kept in single precision are most of
    what a backward pass reads (docs/gpu.md). A CPU keeps everything and is faster for it.
    """
    named = jax.checkpoint_policies.save_only_these_names(_PRODUCT, _ATTENDED)

    def kept(primitive: Any, *args: Any, **params: Any) -> Any:
        # The primitives of fused kernels give the softmax's normaliser beside the values.
        fused = "dot_product_attention" in primitive.name or primitive.name == "pallas_call"
        return named(primitive, *args, **params) or fused

    return jax.checkpoint(block, policy=kept)


@jax.custom_vjp
def _linear(x: jax.Array, w: jax.Array) -> jax.Array:
    """The weight gradient is summed over blocks of rows: of S on a CPU, `_PARTS` of them on an accelerator.

    One product that contracts all rows at once makes XLA copy operands into a transposed layout first, on CPUs and on GPUs;
    batched products over blocks of rows and a sum do not.
    """
    return x @ w.astype(x.dtype)


def _linear_forward(x, w):
    return _linear(x, w), (x, w)


def _linear_backward(saved, grad):
    x, w = saved
    batch = tuple(range(x.ndim - 2))
    rows = x.ndim - 2
    if not on_cpu():  # a sum for every column of every task would be more to write than all of the operands
        parts = math.gcd(math.prod(x.shape[:-1]), _PARTS)
        x, g, batch, rows = x.reshape(parts, -1, x.shape[-1]), grad.reshape(parts, -1, grad.shape[-1]), (0,), 1
    else:
        g = grad
    contract = (((rows,), (rows,)), (batch, batch))
    d_w = jax.lax.dot_general(x, g, contract, preferred_element_type=jnp.float32).sum(batch)
    return grad @ w.astype(grad.dtype).T, d_w.astype(w.dtype)


_linear.defvjp(_linear_forward, _linear_backward)


def _matrix(rngs: nnx.Rngs, layers: int, rows: int, columns: int) -> nnx.Param:
    return nnx.Param(jax.random.normal(rngs.params(), (layers, rows, columns)) / math.sqrt(rows))


class _RowPart(nnx.Module):
    """What `row_keys` and `row_step` read: attention over rows and the feed-forward layer after it, stacked over layers."""

    def _make_row_part(self, rngs: nnx.Rngs, layers: int, width: int, hidden: int, heads: int) -> None:
        self.row_norm = nnx.Param(jnp.ones((layers, width)))
        self.row_q = _matrix(rngs, layers, width, width)
        self.row_k = _matrix(rngs, layers, width, width)
        self.row_v = _matrix(rngs, layers, width, width)
        self.row_out = nnx.Param(jnp.zeros((layers, width, width)))
        self.row_length = nnx.Param(jnp.full((layers, heads), 1.0 / math.log(_REFERENCE_ROWS), jnp.float32))
        self.mlp_norm = nnx.Param(jnp.ones((layers, width)))
        self.mlp_in = _matrix(rngs, layers, width, hidden)
        self.mlp_out = nnx.Param(jnp.zeros((layers, hidden, width)))

    def _params(self) -> dict[str, jax.Array]:
        """The parameters by name, each with a leading layer axis."""
        return {name: value[...] for name, value in vars(self).items() if isinstance(value, nnx.Param)}


class Blocks(_RowPart):
    """All blocks of the trunk; every parameter has a leading layer axis.

    Block i: scale the residual stream by ``residual_decay ** i``, then attention over the columns of a row, then
    attention of every row over thinking and context rows of the same column, then a feed-forward layer, each
    after an RMSNorm and each with a projection back that starts at zero. No biases. A bounded factor
    ``clip(1 + a log(n / 256), 0.5, 2)`` with one learned ``a`` per head multiplies the scores of row attention, so
    that attention does not flatten when the context is longer than in training (scalable softmax, arXiv 2501.19399;
    bounded because unbounded factors were seen to run away in replications of TabICLv2).
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        layers, width, hidden = cfg.layers, cfg.width, cfg.hidden
        self.heads, self.decay = cfg.heads, cfg.residual_decay
        self.feature_norm = nnx.Param(jnp.ones((layers, width)))
        self.feature_q = _matrix(rngs, layers, width, width)
        self.feature_k = _matrix(rngs, layers, width, width)
        self.feature_v = _matrix(rngs, layers, width, width)
        self.feature_out = nnx.Param(jnp.zeros((layers, width, width)))
        self._make_row_part(rngs, layers, width, hidden, cfg.heads)

    def stacked(self) -> dict[str, jax.Array]:
        """The parameters by name, each with a leading layer axis, and the scale of the residual stream."""
        params = self._params()
        return params | {"stream_scale": self.decay ** jnp.arange(params["row_length"].shape[0], dtype=jnp.float32)}


class RowBlocks(_RowPart):
    """Blocks whose tokens are whole rows, of twice the width of a cell's: attention over context rows and a feed-forward
    layer, each after an RMSNorm and each with a projection back that starts at zero, as in `Blocks`.

    In `Blocks` rows meet column by column, and as wholes only through their target tokens; here all of a row meets all of
    another. One token in place of 1 + F makes these blocks cheap.
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        layers, width, hidden = cfg.row_layers, 2 * cfg.width, 2 * cfg.hidden
        self._make_row_part(rngs, layers, width, hidden, 2 * cfg.heads)

    def layers(self) -> list[dict[str, jax.Array]]:
        """The parameters of every layer, as `row_keys` and `row_step` read them."""
        params = self._params()
        return [{name: a[i] for name, a in params.items()} for i in range(params["row_length"].shape[0])]


def feature_step(
    w: dict[str, jax.Array], h: jax.Array, n_tokens: jax.Array, heads: int, implementation: str = "xla"
) -> jax.Array:
    """Scales the stream and adds attention over columns. h: [B, T, S, E]; w: one layer of `Blocks.stacked`; ``implementation``
    of `feature_attention`."""
    h = h * w["stream_scale"].astype(h.dtype)
    x = jnp.swapaxes(rms_norm(h, w["feature_norm"]), 1, 2)  # the tokens of a row side by side
    blocks = _blocks_of_rows(x)
    q, k, v = (linear(blocks, w[f"feature_{name}"]).reshape(x.shape) for name in "qkv")
    out = checkpoint_name(feature_attention(q, k, v, n_tokens, heads, implementation), _ATTENDED)
    out = linear(_blocks_of_rows(out), w["feature_out"]).reshape(x.shape)
    return h + jnp.swapaxes(out, 1, 2)


def feature_step_by_rows(w: dict[str, jax.Array], h: jax.Array, n_tokens: jax.Array, heads: int) -> jax.Array:
    """`feature_step`, for predicting: some rows after others, so that what stands between the columns of all is little
    memory on a CPU and fits into an accelerator's. Rows are independent, so this is exact."""
    tasks, tokens, rows, _ = h.shape
    block = rows_at_once(tasks, rows, tokens, heads)
    if block == rows:
        return feature_step(w, h, n_tokens, heads)
    return in_blocks(lambda some: feature_step(w, some, n_tokens, heads), (h,), 2, block)


def feature_weights(w: dict[str, jax.Array], h: jax.Array, n_tokens: jax.Array, heads: int) -> jax.Array:
    """How the tokens of every row attend to one another in `feature_step`, mean over heads: f32[B, S, T, T]."""
    x = rms_norm(h * w["stream_scale"].astype(h.dtype), w["feature_norm"])
    q, k = (jnp.swapaxes(linear(x, w[f"feature_{name}"]), 1, 2) for name in "qk")
    return feature_attention_weights(q, k, n_tokens, heads)


def row_keys(w: dict[str, jax.Array], h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of row attention for the rows given, [B, T, S, E] each."""
    x = rms_norm(h, w["row_norm"])
    return linear(x, w["row_k"]), linear(x, w["row_v"])


def row_step(
    w: dict[str, jax.Array],
    h: jax.Array,
    keys: tuple[jax.Array, jax.Array],
    n_keys: jax.Array,
    n_context: jax.Array,
    implementation: str,
    activation: str,
) -> jax.Array:
    """Adds attention over rows and the feed-forward layer.

    Args:
      h: [B, T, S, E], the rows that ask.
      keys: what `row_keys` gave for thinking and context rows, [B, T, N, E] each.
      n_keys: i32[B], keys that may be seen (a prefix).
      n_context: i32[B], context rows; sets the length factor.
      implementation: of `row_attention`.
      activation: of the feed-forward layer, see `ModelConfig`.
    """
    rows = n_context.astype(jnp.float32)[:, None]
    factor = jnp.clip(1.0 + w["row_length"] * jnp.log(rows / _REFERENCE_ROWS), 0.5, 2.0)
    q = linear(rms_norm(h, w["row_norm"]), w["row_q"])
    attended = checkpoint_name(row_attention(q, *keys, n_keys, factor, implementation), _ATTENDED)
    h = h + linear(attended, w["row_out"])
    x = _ACTIVATIONS[activation](linear(rms_norm(h, w["mlp_norm"]), w["mlp_in"]))
    return h + linear(x, w["mlp_out"])


def _blocks_of_rows(x: jax.Array) -> jax.Array:
    """[B, S, T, E] as [B * T, S, E]: the same memory cut into as many blocks as there are columns (for `linear`)."""
    return x.reshape(x.shape[0] * x.shape[2], x.shape[1], x.shape[3])
