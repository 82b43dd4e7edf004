"""Why a prediction: ``priorax.explain.attention`` and ``permutation`` for a fitted `PFNClassifier`."""

from priorax.models.explain import ColumnAttention, attention, permutation

__all__ = ["ColumnAttention", "attention", "permutation"]
