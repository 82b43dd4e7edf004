"""`PFNClassifier`: the network behind scikit-learn's classifier interface."""

from __future__ import annotations

import contextlib
import numbers
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ..configs.errors import DataError
from .ensemble import TRANSFORMS, Limits, Member, ValueTransform, combine, plan_members
from .inference import (
    QUERY_BUCKETS,
    Contexts,
    Engine,
    LimitWarning,
    Session,
    cache_bytes,
    check_memory,
    column_bucket,
    context_bucket,
    estimate_memory,
    get_engine,
)
from .level_encoding import ENCODINGS, LevelEncoding
from .preprocess import TableEncoder
from .ridge_scores import KINDS, RidgeScores, scores_of_symbols
from .score_stack import WEIGHT, ScoreStack, pool
from .tables import is_missing, read_table


class PFNClassifier(ClassifierMixin, BaseEstimator):
    """Classifies rows of a table in context: the training rows are the network's input, no weights change in ``fit``.

    NumPy, pandas, polars or pyarrow tables of numbers, text, truth values and dates, with missing values (NaN, None,
    pandas.NA). Infinities and sparse matrices are refused. Opens no network connection.

    Parameters
    ----------
    n_estimators : int, default=4
        Members of the ensemble; they differ in the order of columns and class labels. 1 is fastest.
    categorical_features : "from_dtype", None, or array-like of bool, int or str, default="from_dtype"
        Numeric columns that hold categories, as in HistGradientBoostingClassifier. Text is always categorical.
    softmax_temperature : float, default=0.9
        Logits are divided by it; below 1 sharpens the probabilities.
    numeric_transforms : tuple of {"none", "quantile", "power"}, default=("none",)
        Value transforms of numeric columns; member m uses the m-th, cyclically.
    category_encodings : tuple of {"codes", "target"}, default=("codes", "target")
        What members see of categories of ten levels and more: the level's number, or what the level's training rows say
        about the class (target statistics, cross-fitted). Used in turn by members or, where it takes several members to
        cover the columns or the classes once, by such groups of members.
    ridge_scores : tuple of {"linear", "kernel", "pairs", "blocks"}, default=("linear", "kernel", "pairs", "blocks")
        Regressions whose scores of the classes members see beside the columns (cross-fitted, from 50 training rows on:
        `priorax.models.ridge_scores`); () for none: the network alone.
    stack_weight : float, default=0.25
        Share of the answer, in the logarithms of probabilities, that a logistic regression on the ridge scores has
        (`priorax.models.score_stack`); 0 to 1. With 0, or where there are no scores, the network answers.
    max_context : int or None, default=None
        Training rows one member may see; None takes the limit stored with the weights. Larger tables are subsampled
        per member, stratified, with a `LimitWarning`.
    max_columns : int or None, default=None
        Columns one member may see, ridge scores apart; None takes the limit stored with the weights. Members share
        wider tables.
    cache_context : bool or "auto", default="auto"
        Keep the encoded training rows between calls of predict; "auto" does so up to 1 GiB.
    weights : str, path or None, default=None
        A ``.safetensors`` file; None uses the weights that ship with the package.
    random_state : int, RandomState instance or None, default=0
        Draws the members.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,), when X had string column names
    weights_hash_ : str
        SHA-256 of the weights used; checked when a pickled estimator predicts.
    members_ : list of Member
        What each pass sees.

    Notes
    -----
    Method: prior-data fitted networks (Müller et al. 2022, arXiv 2112.10510; Hollmann et al. 2023, arXiv 2207.01848).
    Pickles hold the training rows and the digest of the weights, never the weights.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from priorax import PFNClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> PFNClassifier().fit(X, y).predict_proba(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        n_estimators: int = 4,
        *,
        categorical_features: Any = "from_dtype",
        softmax_temperature: float = 0.9,
        numeric_transforms: tuple[str, ...] = ("none",),
        category_encodings: tuple[str, ...] = ("codes", "target"),
        ridge_scores: tuple[str, ...] = KINDS,
        stack_weight: float = WEIGHT,
        max_context: int | None = None,
        max_columns: int | None = None,
        cache_context: bool | str = "auto",
        weights: Any = None,
        random_state: Any = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.categorical_features = categorical_features
        self.softmax_temperature = softmax_temperature
        self.numeric_transforms = numeric_transforms
        self.category_encodings = category_encodings
        self.ridge_scores = ridge_scores
        self.stack_weight = stack_weight
        self.max_context = max_context
        self.max_columns = max_columns
        self.cache_context = cache_context
        self.weights = weights
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> PFNClassifier:
        """Stores the training rows, plans the members and fits what they see beside the table; the network runs later.

        An estimator that was fitted before and refuses new rows stays as it was.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        y : array-like of shape (n_samples,); numbers or text.

        Returns
        -------
        self
        """
        with _unchanged_by_failure(self):
            self._check_parameters()
            columns = read_table(X)
            validate_data(self, X, reset=True, skip_check_array=True)
            n = len(columns[0].values) if columns else np.shape(X)[0]
            for count, what in ((n, "sample"), (len(columns), "feature")):
                if count < 1:
                    raise ValueError(
                        f"Found array with 0 {what}(s) (shape=({n}, {len(columns)})) while a minimum of 1 is required."
                    )
            codes = self._fit_target(y, n, columns)
            self._encoder = TableEncoder(self.categorical_features)
            self._x = self._encoder.fit_transform(columns)
            self._y = codes
            engine = get_engine(self.weights)
            self.weights_hash_ = engine.sha256
            limits = Limits(
                rows=engine.cfg.max_rows if self.max_context is None else self.max_context,
                columns=engine.cfg.max_columns if self.max_columns is None else self.max_columns,
                classes=engine.cfg.max_classes,
            )
            if n > limits.rows < min(len(self.classes_), limits.classes):
                raise ValueError(f"max_context is {limits.rows}, fewer rows than the {len(self.classes_)} classes of y")
            rng = check_random_state(self.random_state)
            transforms = tuple(self.numeric_transforms)
            self.members_, notes = plan_members(
                self.n_estimators, self._x, codes, limits, rng, transforms, tuple(self.category_encodings)
            )
            for note in notes:
                warnings.warn(note, LimitWarning, stacklevel=2)
            self._transforms = {
                kind: ValueTransform(kind).fit(self._x, self._encoder.categorical_) for kind in set(transforms)
            }
            fold_seed = int(rng.randint(2**31))
            self._levels = {kind: LevelEncoding(kind, fold_seed) for kind in {m.encoding for m in self.members_}}
            self._coded = {
                kind: levels.fit_transform(self._x, codes, self._encoder.cardinality_) for kind, levels in self._levels.items()
            }
            self._ridge = RidgeScores(tuple(self.ridge_scores), int(rng.randint(2**31)))
            shown = np.unique(np.concatenate([m.rows for m in self.members_]))
            self._scores = self._ridge.fit_transform(self._x, codes, self._encoder.cardinality_, shown)
            self._stack = None
            if self._ridge.kinds_ and self.stack_weight:
                draw = np.random.RandomState(int(rng.randint(2**31)))
                self._stack = ScoreStack().fit(self._scores[shown], self._x[shown], codes[shown], draw)
            if len(self.classes_) > 1:
                check_memory(engine.cfg, *self._context_size())
            self._live = _Live()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, f64[n_samples, n_classes], columns in the order of ``classes_``."""
        check_is_fitted(self)
        self._check_parameters()  # set_params may have changed what counts here too
        return self._proba(self._encode(X))

    def _encode(self, X: Any) -> np.ndarray:
        """Rows to predict as the encoder learned them in ``fit``, f32[n, F]."""
        columns = read_table(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        if not len(columns[0].values):
            raise ValueError(f"Found array with 0 sample(s) (shape={np.shape(X)}) while a minimum of 1 is required.")
        return self._encoder.transform(columns)

    def _proba(self, x: np.ndarray) -> np.ndarray:
        """Class probabilities f64[n, K] of encoded rows x f32[n, F]."""
        if len(self.classes_) == 1:
            return np.ones((len(x), 1))
        scores = self._ridge.apply(x)
        probabilities = []
        for _, z in zip(self.members_, self._logits(x, scores), strict=True):
            z = z / self.softmax_temperature
            p = np.exp(z - z.max(1, keepdims=True))
            probabilities.append(p / p.sum(1, keepdims=True))
        answer = combine(self.members_, probabilities)
        return answer if self._stack is None else pool(answer, self._stack.probabilities(scores), self.stack_weight)

    def _logits(self, x: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
        """Logits f64[n, n_symbols] of encoded rows x f32[n, F] with their ridge scores under every member."""
        logits = self._session().logits(self._views(x, scores), len(x))
        return [z[:, : m.n_symbols].astype(np.float64) for m, z in zip(self.members_, logits, strict=True)]

    def _views(self, x: np.ndarray, scores: np.ndarray) -> Callable[[int, slice], np.ndarray]:
        """``(member, rows) -> f32[len(rows), f]``, encoded rows as that member sees them: its columns, then its scores."""
        views = self._by_kind({kind: levels.apply(x) for kind, levels in self._levels.items()})

        def rows_of(m: int, rows: slice) -> np.ndarray:
            member = self.members_[m]
            columns = views[member.transform, member.encoding][rows][:, member.columns]
            return np.concatenate([columns, scores_of_symbols(scores[rows], member.symbol, member.n_symbols)], axis=1)

        return rows_of

    def _by_kind(self, coded: dict[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
        """Rows under every pair of transform and encoding that a member has, from those of every encoding. Transforms
        change numeric columns and encodings categorical ones, so their order does not matter."""
        kinds = {(m.transform, m.encoding) for m in self.members_}
        return {(t, e): self._transforms[t].apply(coded[e]) for t, e in kinds}

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row, shape (n_samples,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[np.argmax(probabilities, axis=1)]

    def warmup(self, n_queries: int = 1, *, compile_only: bool = False) -> PFNClassifier:
        """Compiles and encodes the training rows now, so that the first ``predict`` of ``n_queries`` rows is fast.

        With ``compile_only`` nothing encoded is kept, and nothing is done when all programs needed have run before.
        """
        check_is_fitted(self)
        if len(self.classes_) > 1:
            session = self._session()
            if not (compile_only and session.is_compiled(n_queries)):
                views = self._views(self._x[:1], self._ridge.apply(self._x[:1]))
                session.logits(lambda m, rows: views(m, slice(0, 1)), n_queries)
            if compile_only:
                self._live.session = None
        return self

    def estimate_memory(self) -> dict[str, int]:
        """Bytes that predicting will need, before anything runs; upper estimates.

        Returns:
          ``cache``, ``activations``, ``scores``: the parts of one member (`priorax.models.inference.MemoryEstimate`);
          ``one_member``: their sum, below which nothing works; ``kept``: encoded contexts of all members, kept between
          calls where ``cache_context`` allows. Query rows are chunked, so their number does not matter.
        """
        check_is_fitted(self)
        cfg = get_engine(self.weights).cfg
        rows, columns = self._context_size()
        rows, columns = context_bucket(rows), column_bucket(columns)
        need = estimate_memory(cfg, rows, columns, QUERY_BUCKETS[-1])
        return {
            "cache": need.cache,
            "activations": need.activations,
            "scores": need.scores,
            "one_member": need.total,
            "kept": len(self.members_) * cache_bytes(cfg, rows, columns),
        }

    def _context_size(self) -> tuple[int, int]:
        """Context rows and columns, scores among them, of the largest member."""
        return len(self.members_[0].rows), max(len(m.columns) + self._n_scores(m) for m in self.members_)

    def _n_scores(self, member: Member) -> int:
        """Columns of ridge scores the member has."""
        return scores_of_symbols(self._scores[:0], member.symbol, member.n_symbols).shape[1]

    def _session(self) -> Session:
        """Encodes contexts on first use; not at fit, which many tools call without predicting."""
        if self._live.session is None or self._live.weights != self.weights:
            engine = get_engine(self.weights)
            if engine.sha256 != self.weights_hash_:
                raise DataError(
                    f"this estimator was fitted with weights {self.weights_hash_[:12]}, but "
                    f"{'the package' if self.weights is None else self.weights} now holds {engine.sha256[:12]}; "
                    "set weights= to the file used then, or fit again"
                )
            keep = None if self.cache_context == "auto" else bool(self.cache_context)
            self._live.session, self._live.weights = Session(engine, self._contexts(engine), keep), self.weights
        return self._live.session

    def _contexts(self, engine: Engine) -> Contexts:
        members = self.members_
        rows, width = self._context_size()
        x = np.zeros((len(members), rows, width), dtype=np.float32)
        categorical = np.zeros((len(members), width), dtype=bool)
        views = self._by_kind(self._coded)
        for k, m in enumerate(members):
            f = len(m.columns)
            x[k, :, :f] = views[m.transform, m.encoding][np.ix_(m.rows, m.columns)]
            x[k, :, f : f + self._n_scores(m)] = scores_of_symbols(self._scores[m.rows], m.symbol, m.n_symbols)
            is_category = self._levels[m.encoding].still_categories(self._encoder.categorical_)
            categorical[k, :f] = is_category[m.columns]
        return Contexts(
            x=x,
            y=np.stack([m.symbol[self._y[m.rows]] for m in members]).astype(np.int32),
            n_features=np.array([len(m.columns) + self._n_scores(m) for m in members], dtype=np.int32),
            # One class more than is there would be asked for a context of one class; the network needs two.
            n_classes=np.array([max(2, m.n_symbols) for m in members], dtype=np.int32),
            categorical=categorical,
        )

    def _fit_target(self, y: Any, n: int, columns: list) -> np.ndarray:
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        y = column_or_1d(_native_labels(y), warn=True)
        _check_labels(y)
        assert_all_finite(y, input_name="y")
        check_consistent_length(columns[0].values, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return codes.astype(np.int64)

    def _check_parameters(self) -> None:
        for name, low in (("n_estimators", 1), ("max_context", 2), ("max_columns", 1)):
            value = getattr(self, name)
            if value is None and name != "n_estimators":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {low}")
        heat = self.softmax_temperature
        if isinstance(heat, bool) or not isinstance(heat, numbers.Real) or not 0 < heat < float("inf"):
            raise ValueError(f"softmax_temperature is {heat!r}; it must be a number above 0")
        kinds = self.numeric_transforms
        if isinstance(kinds, str) or not isinstance(kinds, Sequence) or not kinds or not set(kinds) <= set(TRANSFORMS):
            raise ValueError(f"numeric_transforms is {self.numeric_transforms!r}; choose from {', '.join(TRANSFORMS)}")
        kinds = self.category_encodings
        if isinstance(kinds, str) or not isinstance(kinds, Sequence) or not kinds or not set(kinds) <= set(ENCODINGS):
            raise ValueError(f"category_encodings is {self.category_encodings!r}; choose from {', '.join(ENCODINGS)}")
        kinds = self.ridge_scores
        if isinstance(kinds, str) or not isinstance(kinds, Sequence) or not set(kinds) <= set(KINDS):
            raise ValueError(f"ridge_scores is {self.ridge_scores!r}; choose from {', '.join(KINDS)}, or () for none")
        share = self.stack_weight
        if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= share <= 1:
            raise ValueError(f"stack_weight is {share!r}; it must be a number from 0 to 1")
        if self.cache_context not in (True, False, "auto"):
            raise ValueError(f'cache_context is {self.cache_context!r}; allowed: True, False, "auto"')

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_live" in state:
            state = state | {"_live": _Live()}
        return state


def _native_labels(y: Any) -> Any:
    """Labels of a nullable dtype of pandas as NumPy's of the same kind: scikit-learn makes doubles of them, which tell large whole
    numbers apart no longer."""
    native = getattr(getattr(y, "dtype", None), "numpy_dtype", None)
    if native is None or native.kind not in "iub" or y.isna().any():
        return y
    return y.to_numpy(dtype=native)


def _check_labels(y: np.ndarray) -> None:
    """Says which labels are missing or mixed; scikit-learn's own checks stop at the kind of array."""
    if y.dtype.kind != "O":
        return
    missing = [i for i, label in enumerate(y) if is_missing(label)]
    if missing:
        raise ValueError(
            f"Input y contains NaN or None: {len(missing)} of {len(y)} labels are missing (first in row {missing[0]}). "
            "Leave these rows out: X, y = X[known], y[known]."
        )
    kinds = sorted({"text" if isinstance(label, str) else "numbers" for label in y})
    if len(kinds) > 1:
        raise TypeError(
            f"y mixes {' and '.join(kinds)}: labels must be strings or numbers throughout. Turn all of them into text "
            "with numpy.asarray(y).astype(str)."
        )


@contextlib.contextmanager
def _unchanged_by_failure(estimator: PFNClassifier) -> Iterator[None]:
    """Gives an estimator its attributes back when the block ends with an error: never the classes of one table with the
    rows of another."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:  # an interrupt too
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


class _Live:
    """What lives only in this process: the encoded contexts. Its identity never changes after fit."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.weights: Any = None  # what ``weights`` was then

    def __sklearn_clone__(self) -> _Live:
        return _Live()
