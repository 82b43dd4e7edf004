"""Explanations: they add up, follow the columns of the user's table, and find the column that decides."""

from __future__ import annotations

import numpy as np
import pytest
from priorax.models import PFNClassifier
from sklearn.exceptions import NotFittedError

from priorax import explain

pytestmark = pytest.mark.usefixtures("few_programs")


@pytest.fixture(scope="module")
def table():
    """60 + 20 rows; column 2 decides the class, column 4 never varies."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5))
    y = (X[:, 2] > 0).astype(int)
    X[:, 4] = 1.0
    X[::17, 1] = np.nan
    return X, np.array(["no", "yes"])[y]


@pytest.fixture(scope="module")
def model(table, tiny_weights, few_programs):
    return PFNClassifier(2, weights=tiny_weights).fit(table[0][:60], table[1][:60])


def test_attention_is_a_share_of_every_column(model, table):
    X = table[0][60:]
    found = explain.attention(model, X)
    assert found.values.shape == (20, 5) and found.names == ("0", "1", "2", "3", "4")
    np.testing.assert_allclose(found.values.sum(1), 1, atol=1e-6)
    assert (found.values >= 0).all() and (found.values[:, 4] == 0).all()  # a dropped column is not looked at
    assert np.ptp(found.values[:, :4], axis=0).max() > 1e-5  # rows differ
    alone = explain.attention(model, X[3:4]).values
    np.testing.assert_allclose(alone, found.values[3:4], atol=1e-6)
    assert [name for name, _ in found.ranking()][-1] == "4"


def test_attention_equals_a_reference_written_out(tiny_weights):
    """Attention rollout by hand from the network's own parameters: one member, NumPy loops over layers and heads."""
    import jax
    from priorax.models import load_weights
    from priorax.models.blocks import feature_step, rms_norm, row_step
    from priorax.models.network import with_params

    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    model = PFNClassifier(1, weights=tiny_weights).fit(X, y)
    found = explain.attention(model, X[:2]).values
    weights = load_weights(tiny_weights)
    cfg = weights.cfg
    session = model._session()
    cache = session._encode(0, [0])
    net = with_params(cfg, weights.params)
    x = np.zeros((1, 2, session._columns), np.float32)
    x[0, :, :3] = model._encode(X[:2])
    h, n_tokens, n_keys, kernel = net.query_tokens(cache, x)
    stacked = net.blocks.stacked()
    seen = np.stack([np.eye(4)] * 2)
    for layer in range(cfg.layers):
        w = jax.tree.map(lambda a, layer=layer: a[layer], stacked)
        tokens = np.asarray(rms_norm(h * w["stream_scale"], w["feature_norm"]))[0]  # [T, Q, E]
        for q in range(2):
            queries, keys = (np.asarray(tokens[:4, q] @ w[f"feature_{name}"]) for name in "qk")
            heads = []
            for part in np.split(np.arange(cfg.width), cfg.heads):
                scores = queries[:, part] @ keys[:, part].T / np.sqrt(len(part))
                weight = np.exp(scores - scores.max(1, keepdims=True))
                heads.append(weight / weight.sum(1, keepdims=True))
            seen[q] = (np.mean(heads, axis=0) + np.eye(4)) / 2 @ seen[q]
        h = row_step(
            w, feature_step(w, h, n_tokens, cfg.heads), (cache.keys[layer], cache.values[layer]), n_keys, cache.n_context,
            kernel, cfg.activation,
        )  # fmt: skip
    cell = np.asarray(net.embedding.cell[...]).reshape(len(cfg.group_offsets), 4, -1)
    norms = np.sqrt((cell**2).sum((1, 2)))
    for q in range(2):
        token = (seen[q, 0] + seen[q, 1:].mean(0))[1:]
        share = np.zeros(3)
        for j in range(3):
            for offset, norm in zip(cfg.group_offsets, norms, strict=True):
                share[(j + offset) % 3] += norm * token[j]
        np.testing.assert_allclose(found[q], share / share.sum(), atol=1e-5)


def test_permutation_importance_finds_the_column_that_decides(model, table):
    X, y = table
    found = explain.permutation(model, X[60:], y[60:], scoring="neg_log_loss", n_repeats=2)
    assert found["importances"].shape == (5, 2) and found["names"] == ("0", "1", "2", "3", "4")
    assert np.argmax(found["importances_mean"]) == 2 and (found["importances"][4] == 0).all()
    again = explain.permutation(model, X[60:], y[60:], scoring="neg_log_loss", n_repeats=2)
    np.testing.assert_array_equal(again["importances"], found["importances"])


def test_permutation_importance_equals_that_of_the_raw_table(model, table):
    from sklearn.inspection import permutation_importance

    X, y = table
    ours = explain.permutation(model, X[60:], y[60:], n_repeats=1, random_state=3)
    theirs = permutation_importance(model, X[60:], y[60:], n_repeats=1, random_state=3)
    np.testing.assert_array_equal(ours["importances"], theirs["importances"])


def test_frames_with_dates_and_text(tiny_weights):
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"text": rng.choice(["u", "v"], 60), "day": pd.date_range("2024", periods=60, freq="31h"), "n": rng.normal(size=60)}
    )
    y = (frame["text"] == "u").to_numpy()
    model = PFNClassifier(1, weights=tiny_weights).fit(frame, y)
    assert model._encoder.source_.tolist() != [0, 1, 2]  # a date is several encoded columns
    found = explain.attention(model, frame[:5])
    assert found.names == ("text", "day", "n") and found.values.shape == (5, 3)
    assert len(explain.permutation(model, frame, y, n_repeats=1)["importances"]) == 3


def test_many_classes_and_one_class(tiny_weights):
    X = np.random.default_rng(0).normal(size=(48, 3))
    with pytest.warns(UserWarning, match="12 classes"):
        model = PFNClassifier(1, weights=tiny_weights).fit(X, np.arange(48) % 12)
    np.testing.assert_allclose(explain.attention(model, X[:3]).values.sum(1), 1, atol=1e-6)
    one = PFNClassifier(1, weights=tiny_weights).fit(X, ["u"] * 48)
    np.testing.assert_allclose(explain.attention(one, X[:3]).values, 1 / 3)


def test_what_is_not_possible_is_said(table, tiny_weights, model):
    with pytest.raises(NotFittedError):
        explain.attention(PFNClassifier(weights=tiny_weights), table[0])
    with pytest.raises(ValueError, match="5 features"):
        explain.attention(model, table[0][:, :2])
