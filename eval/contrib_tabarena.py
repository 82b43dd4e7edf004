"""`PFNClassifier` as an AutoGluon model, so that the official TabArena pipeline can run it.

TabArena (arXiv 2506.16791) runs models that derive from AutoGluon's ``AbstractModel``; networks that are not PyTorch
use that base class and not the one for torch. Importing this module needs AutoGluon, running the benchmark the package
``tabarena`` besides; ``pip install "priorax[tabarena]"`` brings both, and no torch::

    from priorax.eval.contrib_tabarena import PriorAXModel, config_generator
    experiments = config_generator().generate_all_bag_experiments(num_random_configs=0)
    # then tabarena.benchmark.experiment.ExperimentBatchRunner(...).run_all(methods=experiments)

The class lives in a module of its own because TabArena pickles models by reference.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..configs.errors import require
from ..models.estimator import PFNClassifier

AbstractModel = require("autogluon.core.models", "tabarena", "the TabArena wrapper").AbstractModel


class PriorAXModel(AbstractModel):
    """`PFNClassifier` behind AutoGluon's interface: classification of numbers and categories, with missing values.

    Hyperparameters are the arguments of `PFNClassifier` (``weights``: a path; None takes the weights that ship).
    Nothing is trained and no validation rows are used, so bagged folds are fitted one after another and refitted as
    one model on all rows, as TabArena does for in-context learners.
    """

    ag_key = "PRIORAX"
    ag_name = "Priorax"
    ag_priority = 65
    seed_name = "random_state"
    _supported_problem_types: ClassVar[list[str]] = ["binary", "multiclass"]
    _default_auxiliary_params_extra: ClassVar[dict[str, Any]] = {"valid_raw_types": ["int", "float", "category"]}
    _default_ag_args_ensemble_extra: ClassVar[dict[str, Any]] = {
        "fold_fitting_strategy": "sequential_local",
        "refit_folds": True,
    }

    def _fit(self, X: Any, y: Any, **kwargs: Any) -> None:
        """X: pandas frame of n rows; y: pandas series, classes coded 0 .. K-1 by AutoGluon."""
        self.model = PFNClassifier(**self._get_model_params())
        self.model.fit(self.preprocess(X, y=y), np.asarray(y))

    def _more_tags(self) -> dict[str, bool]:
        return {"can_refit_full": True}

    @classmethod
    def warmup(cls, hyperparameters: dict[str, Any] | None = None, **context: Any) -> None:
        """Loads JAX and the weights and compiles for the smallest shapes, on made-up numbers; TabArena does not time
        it.

        Programs for the shapes of a task are compiled when it is predicted and are part of the measured time, unless
        the compile cache on disk holds them (``priorax.models.enable_compile_cache``).
        """
        from ..models.compile_cache import enable_compile_cache

        enable_compile_cache()
        X = np.linspace(0.0, 1.0, 64).reshape(16, 4)
        options = {k: v for k, v in (hyperparameters or {}).items() if k == "weights"}
        PFNClassifier(n_estimators=1, **options).fit(X, np.arange(16) % 2).predict_proba(X)


def config_generator(**options: Any) -> Any:
    """TabArena's generator of experiments with one configuration: the arguments of `PFNClassifier` in ``options``.

    Raises:
      MissingError: the package ``tabarena`` is not installed.
    """
    utils = require("tabarena.utils.config_utils", "tabarena", "making TabArena experiments")
    return utils.ConfigGenerator(model_cls=PriorAXModel, search_space={}, manual_configs=[dict(options)])
