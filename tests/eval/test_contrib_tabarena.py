"""The AutoGluon wrapper against the real base class, where AutoGluon is installed."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from priorax.configs.errors import MissingError


def test_without_autogluon_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "autogluon"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "autogluon", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "priorax.eval.contrib_tabarena", raising=False)
    with pytest.raises(MissingError, match=r"autogluon.*priorax\[tabarena\]"):
        importlib.import_module("priorax.eval.contrib_tabarena")


@pytest.fixture
def iris():
    pytest.importorskip("autogluon.core.models", reason="AutoGluon is not installed (extra tabarena)")
    import pandas as pd
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True, as_frame=True)
    X = X.assign(kind=pd.Categorical(np.where(X.iloc[:, 2] > 3, "long", "short")))
    X.iloc[::7, 0] = np.nan
    order = np.random.default_rng(0).permutation(150)
    return X.iloc[order], y.iloc[order]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_model_behaves_as_autogluon_asks(iris, tmp_path, tiny_weights, classes):
    from priorax.eval.contrib_tabarena import PriorAXModel

    from priorax import PFNClassifier

    X, y = iris
    X, y = X[y < classes], y[y < classes]
    train, test = slice(0, 70), slice(70, None)
    options = {"weights": str(tiny_weights), "n_estimators": 2}
    model = PriorAXModel(path=str(tmp_path), name="m", hyperparameters=options, eval_metric="log_loss")
    model.fit(X=X.iloc[train], y=y.iloc[train], random_seed=5)
    p = model.predict_proba(X.iloc[test])
    direct = PFNClassifier(random_state=5, **options).fit(X.iloc[train], y.iloc[train].to_numpy())
    expected = direct.predict_proba(X.iloc[test])
    np.testing.assert_allclose(p, expected[:, 1] if classes == 2 else expected, atol=1e-6)
    path = model.save()
    again = PriorAXModel.load(path)
    np.testing.assert_allclose(again.predict_proba(X.iloc[test]), p, atol=1e-6)
    assert model.supported_problem_types() == ["binary", "multiclass"] and again.problem_type is not None
    assert model._get_tags()["can_refit_full"] and PriorAXModel._get_default_ag_args_ensemble()["refit_folds"]


def test_inside_a_tabular_predictor(iris, tmp_path, tiny_weights):
    pytest.importorskip("autogluon.tabular", reason="autogluon.tabular is not installed (extra tabarena)")
    from autogluon.tabular import TabularPredictor
    from priorax.eval.contrib_tabarena import PriorAXModel

    PriorAXModel.warmup(problem_type="binary", num_cpus=1, num_gpus=0, hyperparameters={"weights": str(tiny_weights)})
    X, y = iris
    table = X.assign(label=np.array(["a", "b", "c"])[y])
    predictor = TabularPredictor(label="label", path=str(tmp_path / "p"), eval_metric="log_loss", verbosity=0)
    predictor.fit(
        table.iloc[:110], hyperparameters={PriorAXModel: [{"weights": str(tiny_weights), "n_estimators": 1}]},
        num_bag_folds=2, num_bag_sets=1, fit_weighted_ensemble=False, dynamic_stacking=False,
    )  # fmt: skip
    p = predictor.predict_proba(table.iloc[110:])
    assert list(p.columns) == ["a", "b", "c"] and (p.idxmax(axis=1) == table["label"].iloc[110:]).mean() > 0.7


def test_tabarena_makes_experiments_of_it(tiny_weights):
    pytest.importorskip("tabarena.utils.config_utils", reason="tabarena is not installed")
    from priorax.eval.contrib_tabarena import config_generator

    (experiment,) = config_generator(n_estimators=1).generate_all_bag_experiments(num_random_configs=0)
    assert "Priorax" in experiment.name


def test_the_official_runner_runs_it(iris, tmp_path, tiny_weights, monkeypatch):
    """From the experiment to its results through TabArena's own runner, on a table of ours, without a network."""
    pytest.importorskip("tabarena.benchmark.experiment", reason="tabarena is not installed")
    from priorax.eval.contrib_tabarena import config_generator
    from tabarena.benchmark.experiment.experiment_utils import ExperimentBatchRunner
    from tabarena.benchmark.task.metadata.collection import TaskMetadataCollection
    from tabarena.benchmark.task.user_task import UserTask

    monkeypatch.chdir(tmp_path)  # AutoGluon makes a folder where it runs
    X, y = iris
    table = X.assign(species=y.to_numpy()).astype({"species": "category"}).reset_index(drop=True)
    task = UserTask(task_name="flowers", task_cache_path=tmp_path / "tasks")
    splits = {0: {0: (list(range(100)), list(range(100, 150)))}}
    made = task.create_task(target_feature="species", problem_type="classification", dataset=table, splits=splits)
    task.save_task(made)
    generator = config_generator(n_estimators=1, weights=str(tiny_weights))
    tasks = TaskMetadataCollection.from_user_tasks(task)
    runner = ExperimentBatchRunner(str(tmp_path / "out"), tasks, user_tasks=[task])
    (result,) = runner.run_all(methods=generator.generate_all_bag_experiments(num_random_configs=0))
    assert result["problem_type"] == "multiclass" and result["metric"] == "log_loss"
    assert 0 < result["metric_error"] < 0.7  # guessing: log(3) = 1.1
