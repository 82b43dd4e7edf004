"""The network, its weights on disk, and the scikit-learn estimator around it."""

from ..configs.model import ModelConfig
from .compile_cache import enable_compile_cache
from .estimator import LimitWarning, PFNClassifier
from .network import MASKED_LOGIT, PFN, ContextCache, count_params, init_params, with_params
from .preprocess import TableEncoder
from .weights import LoadedWeights, default_weights_path, load_weights, save_weights

__all__ = [
    "MASKED_LOGIT", "PFN", "ContextCache", "LimitWarning", "LoadedWeights", "ModelConfig", "PFNClassifier",
    "TableEncoder", "count_params", "default_weights_path", "enable_compile_cache", "init_params", "load_weights",
    "save_weights", "with_params",
]  # fmt: skip
