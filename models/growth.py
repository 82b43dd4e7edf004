"""Networks that start from other weights: which fit together, and how a trunk becomes deeper without changing an answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..configs.errors import ConfigError
from ..configs.model import ModelConfig

_FREE = ("dtype", "attention", "max_rows", "max_columns")
"""Settings that change neither a parameter nor, beyond rounding, what a network computes."""
_PROJECTIONS_BACK = ("feature_out", "row_out", "mlp_out")


def check_can_start(cfg: ModelConfig, weights: ModelConfig, where: str) -> None:
    """Whether a network of ``cfg`` can start from weights of ``weights``: of the same kind, and at least as deep.

    Raises:
      ConfigError: it cannot; the message names the setting and both values.
    """
    for field in dataclasses.fields(ModelConfig):
        name, ours, theirs = field.name, getattr(cfg, field.name), getattr(weights, field.name)
        if name in _FREE or ours == theirs or (name == "layers" and ours > theirs):
            continue
        allowed = f"{theirs} or more" if name == "layers" else f"{theirs}"
        raise ConfigError(
            f"model.{name} is {ours}, and a network that starts from {where} must have {allowed}; set it, or start from "
            "random weights"
        )


def deepen(params: dict[str, Any], layers: int) -> dict[str, Any]:
    """Parameters of a trunk with ``layers`` blocks that computes what the given one does.

    The new blocks stand after the old ones. Each is a copy of the last, whose three projections back to the residual
    stream are zero (block expansion, LLaMA Pro, arXiv 2401.02415, section 3), so it adds nothing until it is
    trained; it multiplies the stream by a number, and what reads the stream normalises it first. With the
    retrieval decoder, whose keys are taken before the last block, answers do change, as far as the old last block
    changes context rows.

    Args:
      params: the tree of `init_params`; arrays of ``blocks`` have a leading layer axis.
      layers: at least as many as ``params`` has.
    """
    blocks = params["blocks"]
    more = layers - blocks["row_out"].shape[0]
    if more < 0:
        raise ValueError(f"layers is {layers}; the weights have {layers - more} already")
    if more == 0:
        return params

    def longer(name: str, leaf: Any) -> Any:
        new = jnp.repeat(leaf[-1:], more, axis=0)
        return jnp.concatenate([leaf, jnp.zeros_like(new) if name in _PROJECTIONS_BACK else new])

    return params | {"blocks": {name: longer(name, leaf) for name, leaf in blocks.items()}}
