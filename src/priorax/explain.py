"""Why a prediction: ``priorax.explain.attention``, ``permutation`` and ``shap_values`` for a fitted `PFNClassifier`."""

from priorax.models.explain import ColumnAttention, attention, permutation
from priorax.models.shapley import shap_values

__all__ = ["ColumnAttention", "attention", "permutation", "shap_values"]
