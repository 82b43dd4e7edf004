"""The shape of the network: one frozen dataclass, stored beside every set of weights."""

from __future__ import annotations

import dataclasses
from typing import Literal


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"model.{name} is {value}; allowed: {low} to {high}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and options of `priorax.models.PFN`.

    Attributes:
      width: width E of every token; a multiple of ``heads``.
      heads: attention heads. Few wide heads (``width / heads`` of 32 or 64) are fast on CPU; the fused GPU kernel
        needs a multiple of 8.
      layers: number of blocks.
      row_layers: blocks over whole rows, one token of twice the width per row, after the others (as the last stage of TabICL,
        arXiv 2502.05564). Over ten columns each costs about a fifth of a block, the first one a third more, since the last block
        then has to go through context rows too.
      hidden: width of the feed-forward layer inside a block.
      decoder: how a query row becomes class logits: ``mlp``, or ``retrieval``, a vote of the context rows weighted by
        attention (TabPFN-3, arXiv 2605.13986), whose parameters do not grow with the number of classes.
      decoder_hidden: width of the hidden layer of the output head; with ``retrieval`` that of queries and keys, a
        multiple of ``heads``.
      thinking_rows: learned rows that stand before the context rows of every task.
      max_classes: size of the output head; tasks may have 2 .. max_classes classes.
      group_offsets: token j reads the columns ``j + offset`` modulo the number of active columns.
      residual_decay: the residual stream is multiplied by ``residual_decay ** i`` before block i.
      dtype: precision of activations: ``float32``, ``bfloat16`` or ``auto`` (bfloat16 on accelerators).
      attention: kernel of attention: ``xla``; ``cudnn``, over rows; ``pallas``, over rows and columns, kernels of this package for
        NVIDIA GPUs in 16 bit that count as ``xla`` elsewhere; or ``auto`` (cuDNN on an NVIDIA GPU in 16 bit, else XLA).
      activation: of the feed-forward layers: ``gelu``, or ``relu2``, the square of a ReLU (Primer, arXiv 2109.08668), which
        costs a CPU less.
      max_rows: context rows the weights are meant for (a limit for users, not a shape).
      max_columns: columns the weights are meant for (likewise).
    """

    width: int = 64
    heads: int = 2
    layers: int = 3
    hidden: int = 128
    decoder_hidden: int = 128
    thinking_rows: int = 8
    max_classes: int = 10
    group_offsets: tuple[int, ...] = (0, 1, 3)
    residual_decay: float = 0.95
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: Literal["auto", "xla", "cudnn", "pallas"] = "auto"
    max_rows: int = 2048
    max_columns: int = 100
    decoder: Literal["mlp", "retrieval"] = "mlp"
    activation: Literal["gelu", "relu2"] = "gelu"
    row_layers: int = dataclasses.field(default=0, metadata={"added": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_offsets", tuple(self.group_offsets))
        _check("width", self.width, 8, 4096)
        _check("heads", self.heads, 1, 64)
        if self.width % self.heads:
            raise ValueError(f"model.heads is {self.heads}; it must divide model.width = {self.width}")
        _check("layers", self.layers, 1, 64)
        _check("row_layers", self.row_layers, 0, 64)
        _check("hidden", self.hidden, 8, 16384)
        _check("decoder_hidden", self.decoder_hidden, 8, 16384)
        _check("thinking_rows", self.thinking_rows, 1, 1024)
        _check("max_classes", self.max_classes, 2, 1000)
        _check("residual_decay", self.residual_decay, 0.5, 1.0)
        _check("max_rows", self.max_rows, 8, 10_000_000)
        _check("max_columns", self.max_columns, 1, 100_000)
        if not self.group_offsets or min(self.group_offsets) < 0:
            raise ValueError(f"model.group_offsets is {self.group_offsets}; give at least one offset, none negative")
        for name, value, allowed in (
            ("dtype", self.dtype, ("auto", "float32", "bfloat16")),
            ("attention", self.attention, ("auto", "xla", "cudnn", "pallas")),
            ("decoder", self.decoder, ("mlp", "retrieval")),
            ("activation", self.activation, ("gelu", "relu2")),
        ):
            if value not in allowed:
                raise ValueError(f"model.{name} is {value!r}; allowed: {', '.join(allowed)}")

        if self.decoder == "retrieval" and self.decoder_hidden % self.heads:
            raise ValueError(
                f"model.decoder_hidden is {self.decoder_hidden}; with the retrieval decoder model.heads = {self.heads} "
                "must divide it"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads
