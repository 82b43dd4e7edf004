"""Every member of every law on its own: laws are traced, so one compiled sampler serves all."""

import dataclasses

import jax
import numpy as np
import pytest

from priorax.configs import load_prior
from priorax.configs.prior import Laws
from priorax.priors import TableShape, check_tasks, law_arrays, make_sampler

PRIOR = load_prior("graph_scm")
MEMBERS = [
    (field.name, member.name, i)
    for field in dataclasses.fields(Laws) if dataclasses.is_dataclass(field.default)
    for i, member in enumerate(dataclasses.fields(field.default))
]  # fmt: skip


@pytest.fixture(scope="module")
def sampler():
    return jax.jit(make_sampler(PRIOR, TableShape(64, 6), 32))


def only(law, index, **others):
    laws = dict(law_arrays(PRIOR))
    laws[law] = np.eye(laws[law].shape[1], dtype=np.float32)[index][None]
    return laws | {k: np.asarray([v], np.float32) for k, v in others.items()}


@pytest.mark.parametrize(("law", "member", "index"), MEMBERS, ids=[f"{a}-{b}" for a, b, _ in MEMBERS])
def test_member_gives_valid_tasks(sampler, law, member, index):
    others = {}
    if law == "missing":
        others["missing_rate"] = 1.0
    if law == "categorical_column":
        others["categorical_share"] = [1.0, 1.0]
    if law == "numeric_column":
        others["categorical_share"] = [0.0, 0.0]
    if law == "rule":
        others["target"] = [0, 0, 0, 0, 0, 1]
    batch = sampler(jax.random.key(1), index, only(law, index, **others))
    check_tasks(batch)
    x = np.asarray(batch.x)
    if law == "missing":
        assert (np.asarray(batch.info["missing"]) == 1 + index).all()
        assert np.isnan(x).any(axis=(1, 2)).mean() > 0.5
    else:
        used = np.arange(6) < np.asarray(batch.n_features)[:, None]
        spread = np.nanstd(x, axis=1)[used]
        assert (spread > 0).mean() > 0.9, "columns are mostly not constant"
    if law == "categorical_column":
        assert (np.asarray(batch.categorical).sum(1) == np.asarray(batch.n_features)).all()
    if law == "numeric_column":
        assert not np.asarray(batch.categorical).any()
    if law == "graph":
        assert (np.asarray(batch.info["graph"]) == index).all()
    if law == "target":
        assert (np.asarray(batch.info["target"]) == index).all()


def test_missing_share_is_what_the_law_says(sampler):
    for index in range(3):
        laws = only("missing", index, missing_rate=1.0, missing_share=[0.2, 0.2], missing_columns=[1.0, 1.0])
        shares = []
        for step in range(8):
            batch = sampler(jax.random.key(2), step, laws)
            used = np.arange(6) < np.asarray(batch.n_features)[:, None]
            shares.append(np.isnan(np.asarray(batch.x)).mean(axis=1)[used])
        # 0.2 times a column's own factor in [0.3, 1.7], so 0.2 on average over some hundred columns.
        assert abs(np.concatenate(shares).mean() - 0.2) < 0.04


def test_class_concentration_moves_from_uneven_to_even(sampler):
    share = {}
    for name, value in (("uneven", 0.5), ("even", 100.0)):
        laws = only("target", 0, classes_two_rate=1.0, class_concentration=[value, value], label_noise_rate=0.0)
        y = np.concatenate([np.asarray(sampler(jax.random.key(3), s, laws).y) for s in range(8)])
        ones = y.mean(axis=1)
        share[name] = np.median(np.maximum(ones, 1 - ones))
    assert share["even"] < 0.62 < 0.75 < share["uneven"]
