"""Tables as numbers, for protocols that hand every method the same matrix instead of the raw table."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OrdinalEncoder

from ..configs.errors import DataError, require


def prepare_speedrun(train: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as the nanoTabPFN speedrun makes them (arXiv 2606.03681, its evaluation script).

    Columns with fewer than two different values are dropped. A column whose values all read as numbers gets its mean
    for what is missing; any other column is coded 0, 1, ... in the order of its values as text, and what is missing or
    was never seen gets the most frequent code. All of it is learned from the training rows. Methods are not told which
    columns were categories, as there.

    Args:
      train, test: NumPy arrays or pandas frames of n and q rows with equal columns.

    Returns:
      f64[n, d'] and f64[q, d'], without NaN; numeric columns first.

    Raises:
      DataError: no column has two different values, or a cell is infinite.
    """
    pandas = require("pandas", "eval", "the preparation of the speedrun")
    names = list(getattr(train, "columns", range(train.shape[1])))
    train, test = (pandas.DataFrame(np.asarray(side, dtype=object)) for side in (train, test))
    numeric, other = [], []
    for name in train.columns:
        present = train[name].dropna()
        if present.nunique() > 1:
            reads = pandas.to_numeric(present, errors="coerce").notna().all()
            (numeric if reads else other).append(name)
    if not numeric and not other:
        raise DataError("no column has two different values in the training rows")
    parts = []
    if numeric:
        sides = [side[numeric].apply(pandas.to_numeric, errors="coerce").to_numpy(float) for side in (train, test)]
        infinite = np.isinf(np.concatenate(sides)).any(0)
        if infinite.any():
            raise DataError(
                f"column {names[numeric[int(infinite.argmax())]]!r} holds an infinity, which has no mean; make it a missing "
                "value or a large number"
            )
        mean = SimpleImputer(strategy="mean").fit(sides[0])
        parts.append([mean.transform(side) for side in sides])
    if other:
        sides = [side[other].map(str, na_action="ignore").to_numpy(object) for side in (train, test)]
        sides = [np.where(pandas.isna(side), np.nan, side) for side in sides]
        codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan).fit(sides[0])
        coded = [codes.transform(side) for side in sides]
        common = SimpleImputer(strategy="most_frequent").fit(coded[0])
        parts.append([common.transform(side) for side in coded])
    return np.hstack([part[0] for part in parts]), np.hstack([part[1] for part in parts])
