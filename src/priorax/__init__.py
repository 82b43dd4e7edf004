"""Priorax: sample tabular tasks with known causes, pretrain on them, predict in context."""

__version__ = "0.1.0"
