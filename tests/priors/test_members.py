"""Every member of every law on its own: laws are traced, so one compiled sampler serves all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import ConfigError, load_prior
from priorax.configs.prior import TARGETS, Laws, member_names
from priorax.priors import check_tasks, law_arrays
from priorax.priors.observe import _shuffle_codes

PRIOR = load_prior("graph_scm")
MEMBERS = [
    (field.name, member.name, i)
    for field in dataclasses.fields(Laws) if dataclasses.is_dataclass(field.default)
    for i, member in enumerate(dataclasses.fields(field.default))
]  # fmt: skip


@pytest.fixture
def sampler(compiled):
    return lambda key, step, laws: compiled(key, step, compiled.alike(laws))


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
        others["target"] = np.eye(len(TARGETS))[TARGETS.index("rule")]
    batch = sampler(jax.random.key(1), index, only(law, index, **others))
    check_tasks(batch)
    x = np.asarray(batch.x)
    if law == "missing":
        assert (np.asarray(batch.info["missing"]) == 1 + index).all()
        assert np.isnan(x).any(axis=(1, 2)).mean() > 0.5
    else:
        used = np.arange(8) < np.asarray(batch.n_features)[:, None]
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
            used = np.arange(8) < np.asarray(batch.n_features)[:, None]
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


def test_many_levels_reach_past_the_few(sampler):
    laws = only("categorical_column", 3, categorical_share=[1.0, 1.0], many_levels=[40.0, 200.0])
    top = 0
    for step in range(4):
        batch = sampler(jax.random.key(4), step, laws)
        check_tasks(batch)
        used = np.arange(8) < np.asarray(batch.n_features)[:, None]
        levels = np.asarray(batch.cardinality)[used]
        assert levels.min() >= 40 and levels.max() <= 200
        top = max(top, max(len(np.unique(c[~np.isnan(c)])) for c in np.asarray(batch.x).swapaxes(1, 2)[used]))
    assert top > 20, "64 rows show many different levels"


def test_near_copies_follow_an_earlier_column(sampler):
    quiet = dict(categorical_share=[0.0, 0.0], missing_rate=0.0, outlier_rate=0.0, rounding_rate=0.0, mix_rate=0.0)
    copies = dict(duplicate_rate=1.0, duplicate_share=[1.0, 1.0], duplicate_noise=[0.01, 0.01])

    def alike(**others):
        found = []
        for step in range(4):
            batch = sampler(jax.random.key(5), step, only("numeric_column", 0, **quiet, **others))
            x = np.asarray(batch.x)
            for b in range(x.shape[0]):
                f = int(batch.n_features[b])
                if f > 1:
                    c = np.nan_to_num(np.abs(np.corrcoef(x[b, :, :f].T)))
                    found.append((c - np.eye(f))[1:, :].max(axis=1).mean())
        return np.mean(found)

    assert alike(**copies) > 0.95 > 0.8 > alike(duplicate_rate=0.0)


def test_rounding_and_outliers_do_what_they_say(sampler):
    quiet = dict(categorical_share=[0.0, 0.0], missing_rate=0.0, duplicate_rate=0.0, outlier_rate=0.0, rounding_rate=0.0)

    def draw(**others):
        batch = sampler(jax.random.key(6), 0, only("numeric_column", 0, **(quiet | others)))
        used = np.arange(8) < np.asarray(batch.n_features)[:, None]
        return np.asarray(batch.x).swapaxes(1, 2)[used], np.asarray(batch.y)

    plain, y = draw()
    rounded, _ = draw(rounding_rate=1.0, rounding_step=[0.4, 0.4])
    spiked, same_y = draw(outlier_rate=1.0, outlier_share=[0.05, 0.05], outlier_size=[20.0, 20.0])
    distinct = lambda x: np.median([len(np.unique(c)) for c in x])
    assert distinct(rounded) < 20 < distinct(plain)
    assert np.array_equal(y, same_y), "corruption comes after the class"
    changed = (spiked != plain).mean(axis=1)
    assert abs(changed[plain.std(axis=1) > 0.1].mean() - 0.05) < 0.015


def test_numeric_target_orders_the_classes_that_cut_it(sampler):
    laws = only("target", 0, label_noise_rate=0.0, classes_two_rate=1.0)
    agree = []
    for step in range(4):
        batch = sampler(jax.random.key(7), step, laws)
        value, y = np.asarray(batch.target), np.asarray(batch.y)
        assert np.isfinite(value).all()
        for v, c in zip(value, y, strict=True):
            above = (v[c == 1][:, None] > v[c == 0][None, :]).mean()
            agree.append(max(above, 1 - above))
    assert np.median(agree) > 0.9


def test_noise_share_and_causes_are_in_range(sampler):
    info = sampler(jax.random.key(8), 0, law_arrays(PRIOR)).info
    share, causes, effects = (np.asarray(info[k]) for k in ("noise_share", "n_causes", "n_effects"))
    assert ((share >= 0) & (share <= 1)).all() and share.any()
    assert (causes >= 0).all() and (effects >= 0).all() and causes.any() and effects.any()


def test_every_member_has_a_name_of_its_own():
    names = member_names()
    assert len(names) == len(MEMBERS) + 3
    for name in names:
        assert load_prior(name).name == name
    with pytest.raises(ConfigError, match="Did you mean 'family:linear'"):
        load_prior("family:linaer")


def test_levels_with_equal_random_numbers_keep_codes_of_their_own():
    u = jnp.asarray([[0.5, 0.25, 0.5, 0.25, 0.9]])
    codes = _shuffle_codes(jnp.arange(4)[None], jnp.asarray([4]), u)
    assert sorted(np.asarray(codes)[0].tolist()) == [0, 1, 2, 3]
