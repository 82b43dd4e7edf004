"""Networks that start from other weights: which fit together, and how they become deeper without changing an answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..configs.errors import ConfigError
from ..configs.model import ModelConfig
from .network import init_params

_FREE = ("dtype", "attention", "max_rows", "max_columns")
"""Settings that change neither a parameter nor, beyond rounding, what a network computes."""
_DEPTHS = ("layers", "row_layers")
_PROJECTIONS_BACK = ("feature_out", "row_out", "mlp_out")


def check_can_start(cfg: ModelConfig, weights: ModelConfig, where: str) -> None:
    """Whether a network of ``cfg`` can start from weights of ``weights``: of the same kind, and at least as deep.

    Raises:
      ConfigError: it cannot; the message names the setting and both values.
    """
    for field in dataclasses.fields(ModelConfig):
        name, ours, theirs = field.name, getattr(cfg, field.name), getattr(weights, field.name)
        if name in _FREE or ours == theirs or (name in _DEPTHS and ours > theirs):
            continue
        allowed = f"{theirs} or more" if name in _DEPTHS else f"{theirs}"
        raise ConfigError(
            f"model.{name} is {ours}, and a network that starts from {where} must have {allowed}; set it, or start from "
            "random weights"
        )


def grow(params: dict[str, Any], cfg: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Parameters of a network of ``cfg`` that computes what the given one does.

    New blocks stand after the old ones. Each is a copy of the last, whose projections back to the residual stream are
    zero (block expansion, LLaMA Pro, arXiv 2401.02415, section 3), so it adds nothing until it is trained; it
    multiplies the stream by a number, and what reads the stream normalises it first. The first layers over rows are
    random ones with such projections. With the retrieval decoder answers do change: its keys are taken before the last
    block, or the last layer over rows, which are others now. From about 16 blocks on they change too, as the scaled
    stream comes near the constant that keeps norms from dividing by zero.

    Args:
      params: the tree of `init_params`; arrays of ``blocks`` and ``row_blocks`` have a leading layer axis.
      cfg: like the network of ``params`` (see `check_can_start`).
      seed: of random layers.
    """
    out = dict(params)
    for name, layers in (("blocks", cfg.layers), ("row_blocks", cfg.row_layers)):
        if name not in params:
            if layers:
                out[name] = init_params(cfg, seed)[name]
            continue
        more = layers - params[name]["row_out"].shape[0]
        if more < 0:
            raise ValueError(f"{name}: {layers} layers are asked for, the weights have {layers - more} already")
        if more:
            out[name] = {key: _longer(key, leaf, more) for key, leaf in params[name].items()}
    return out


def _longer(name: str, leaf: Any, more: int) -> Any:
    new = jnp.repeat(leaf[-1:], more, axis=0)
    return jnp.concatenate([leaf, jnp.zeros_like(new) if name in _PROJECTIONS_BACK else new])
