"""`priorax predict`: the rows of one file, from the labelled rows of another."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from priorax import options, output, table_io
from priorax.configs.errors import ConfigError, DataError, PrioraxError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(options.Common):
    """Predicts the rows of a table from the labelled rows of another; nothing is trained and nothing leaves the
    machine.

    CSV, TSV, JSON lines, Parquet and Arrow files, in and out. Columns are matched by name. When the test table has the
    target column too, ``--out`` and ``--json`` give the accuracy as well.
    """

    KEEPS_MEMORY = True

    train: Path
    """File with labelled rows."""
    test: Path
    """File with rows to predict."""
    target: str
    """Column to predict: classes, as text or whole numbers."""
    out: Path | None = None
    """File for the predictions: id, prediction, proba_CLASS ...; CSV on stdout when left out."""
    id: str | None = None
    """Column that names the rows; not used for predicting. Row numbers from 0 when left out."""
    columns: tuple[str, ...] = ()
    """Use only these columns; all but target and id when left out."""
    categorical: tuple[str, ...] = ()
    """Columns of numbers that hold categories, compared as written; text always does."""
    model: str | None = None
    """Weights file; the ones that ship with the package when left out."""
    n_estimators: int = 4
    """Members of the ensemble."""
    max_context_rows: int | None = None
    """Most training rows a member may see."""
    seed: int = 0
    """Seed of the ensemble."""
    proba: bool = True
    """Write the class probabilities too."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        out = output.check_out_file(self.out, self.overwrite) if self.out is not None else None
        if out is not None and out.suffix.lower() not in table_io.SUFFIXES:
            raise ConfigError(f"--out {out}: unknown suffix; known: {', '.join(table_io.SUFFIXES)}")
        for flag, given in (("--train", self.train), ("--test", self.test)):
            if out is not None and out.resolve() == given.expanduser().resolve():
                raise ConfigError(f"--out {out} is the file of {flag}, which would be lost; choose another")
        if self.n_estimators < 1:
            raise ConfigError(f"--n-estimators is {self.n_estimators}; it must be at least 1")
        if self.max_context_rows is not None and self.max_context_rows < 2:
            raise ConfigError(f"--max-context-rows is {self.max_context_rows}; it must be at least 2")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed is {self.seed}; it must lie in [0, 2**32)")
        train, test = table_io.read(self.train), table_io.read(self.test)
        labels = table_io.labels(table_io.columns(train, [self.target], self.train)[self.target])
        names = self._features(train, test)
        if self.id is not None:
            table_io.columns(test, [self.id], self.test)
        kept = [i for i, label in enumerate(labels) if not _missing(label)]
        if len(kept) < len(labels):
            output.log(f"warning: {len(labels) - len(kept)} training rows have no label and are left out")
        labels = [labels[i] for i in kept]
        if (decimal := table_io.first_decimal(labels)) is not None:
            raise DataError(
                f'column "{self.target}" of {self.train} holds decimal numbers ({decimal}, for one); regression is not '
                "supported. Turn them into classes first, e.g. low, middle and high"
            )
        whole = _are_numbers(labels)
        labels = _labels(labels, whole)
        if len(set(labels)) < 2:
            raise DataError(f'column "{self.target}" of {self.train} holds fewer than 2 classes')
        rows = {n: [train[n][i] for i in kept] for n in names}
        x_train, x_test = table_io.typed(
            rows, {n: test[n] for n in names}, self.train, self.test, kept, self.categorical
        )
        if not len(x_test):
            raise DataError(f"{self.test} holds no rows")
        probabilities, classes, seconds = self._predict(x_train, labels, x_test, names)
        predicted = [classes[k] for k in probabilities.argmax(1)]
        table: table_io.Table = {
            "id": test[self.id] if self.id else list(range(len(predicted))),
            "prediction": predicted,
        }
        if self.proba:
            table |= {f"proba_{c}": probabilities[:, k].tolist() for k, c in enumerate(classes)}
        truth = table_io.labels(test[self.target], whole) if self.target in test else [None]
        truth = None if any(map(_missing, truth)) else _labels(truth, whole)
        self._finish(out, table, truth, x_train, classes, seconds)

    def _features(self, train: table_io.Table, test: table_io.Table) -> list[str]:
        names = list(self.columns) or [n for n in train if n not in (self.target, self.id)]
        if self.target in names or (self.id and self.id in names):
            raise ConfigError("--columns must not name the target or the id column")
        if not names:
            raise DataError(f"{self.train} has no columns besides the target")
        table_io.columns(train, names, self.train)
        table_io.columns(test, names, self.test)
        unknown = [n for n in self.categorical if n not in names]
        if unknown:
            raise ConfigError(f"--categorical names {unknown[0]!r}, which is not among the columns: {', '.join(names)}")
        return names

    def _predict(self, x_train: Any, labels: list, x_test: Any, names: list[str]) -> tuple[Any, list, float]:
        import numpy as np

        from priorax import PFNClassifier

        categorical: Any = "from_dtype"
        if self.categorical:
            categorical = [names.index(n) for n in self.categorical]
        start = time.perf_counter()
        model = PFNClassifier(
            self.n_estimators, categorical_features=categorical, max_context=self.max_context_rows, weights=self.model,
            random_state=self.seed,
        )  # fmt: skip
        show = warnings.showwarning
        with warnings.catch_warnings():  # the estimator knows columns by their numbers
            warnings.showwarning = lambda told, *where: show(type(told)(_named(str(told), names)), *where)
            try:
                model.fit(x_train, np.array(labels, dtype=object))
                probabilities = model.predict_proba(x_test)
            except PrioraxError:
                raise
            except (ValueError, TypeError) as error:  # scikit-learn's way to say that a table cannot be used
                raise DataError(f"{self.train} and {self.test}: {_named(str(error), names)}") from error
        return probabilities, model.classes_.tolist(), time.perf_counter() - start

    def _finish(self, out: Path | None, table: table_io.Table, truth: list[str] | None, x_train: Any, classes: list,
                seconds: float) -> None:  # fmt: skip
        import jax

        summary: dict[str, Any] = {
            "rows": len(table["id"]), "train_rows": len(x_train), "columns": x_train.shape[1], "classes": classes,
            "predicted": dict(Counter(map(str, table["prediction"]))), "seconds": round(seconds, 2),
            "device": jax.default_backend(), "out": str(out) if out else None,
        }  # fmt: skip
        if truth is not None:
            if unseen := sorted(set(truth) - set(classes)):
                shown = ", ".join(f'"{label}"' for label in unseen[:5]) + (", ..." if len(unseen) > 5 else "")
                output.log(f"warning: {len(unseen)} test labels do not occur in {self.train} and count as wrong: {shown}")
            hits = [a == b for a, b in zip(truth, table["prediction"], strict=True)]
            summary["accuracy"] = sum(hits) / len(hits)
        if out is not None:
            table_io.write(out, table)
        if self.json:
            output.emit_json(summary if out is not None else summary | {"table": table})
        elif out is None:
            table_io.write_csv(sys.stdout, table)
        else:
            for key, value in summary.items():
                print(f"{key:12} {value:.4f}" if key == "accuracy" else f"{key:12} {value}")


def _missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _are_numbers(labels: list[Any]) -> bool:
    return all(table_io.number(str(label)) is not None for label in labels)


def _labels(cells: list[Any], numbers: bool) -> list[str]:
    """Class labels as text; whole numbers without a decimal point whichever file format they came from. In text they lose it only
    where all labels of the training table are ``numbers``: "1.0" beside "beta" is a name."""
    text = [str(int(c)) if isinstance(c, float) and c.is_integer() else str(c) for c in cells]
    return [re.sub(r"^([+-]?\d+)\.0*$", r"\1", t) for t in text] if numbers else text


def _named(text: str, names: list[str]) -> str:
    """A message about columns with their names in place of their positions."""
    return re.sub(r"\bcolumn '(\d+)(:\w+)?'", lambda found: f"column {names[int(found[1])] + (found[2] or '')!r}", text)
