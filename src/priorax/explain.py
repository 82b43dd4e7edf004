"""Why a prediction: ``priorax.explain.attention``, ``permutation`` and ``shap`` for a fitted `PFNClassifier`."""

from priorax.models.explain import ColumnAttention, attention, permutation, shap

__all__ = ["ColumnAttention", "attention", "permutation", "shap"]
