"""The network, its weights on disk, and the scikit-learn estimator around it."""

from ..configs.model import ModelConfig
from .network import MASKED_LOGIT, PFN, ContextCache, count_params, init_params, with_params
from .weights import LoadedWeights, default_weights_path, load_weights, save_weights

__all__ = [
    "MASKED_LOGIT", "PFN", "ContextCache", "LoadedWeights", "ModelConfig", "count_params", "default_weights_path",
    "init_params", "load_weights", "save_weights", "with_params",
]  # fmt: skip
