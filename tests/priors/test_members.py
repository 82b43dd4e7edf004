"""Every member of every law on its own: laws are traced, so one compiled sampler serves all."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from priorax.configs import ConfigError, load_prior
from priorax.configs.prior import NUMERIC_COLUMNS, RULES, TARGETS, Laws, member_names
from priorax.priors import check_tasks, keys, law_arrays
from priorax.priors.corrupt import _normal_scores, missing_mask
from priorax.priors.observe import LARGEST, _shuffle_codes

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
            gaps = np.isnan(np.asarray(batch.x))
            if index == 1:
                used &= gaps.any(axis=1)  # the columns that gaps depend on have none
            shares.append(gaps.mean(axis=1)[used])
        # 0.2 times a column's own factor in [0.3, 1.7], so 0.2 on average over some hundred columns.
        assert abs(np.concatenate(shares).mean() - 0.2) < 0.04


IRRELEVANT = NUMERIC_COLUMNS.index("irrelevant")
NOISE_COLUMNS = dict(categorical_share=[0.0, 0.0], duplicate_rate=0.0, outlier_rate=0.0, rounding_rate=0.0, label_noise_rate=0.0)


def noise_tables(sampler, kind, steps=12):
    """Two-class tables of nothing but irrelevant columns: (gaps, the same tables without gaps, classes), one column each."""
    for step in range(steps):
        with_gaps = dict(NOISE_COLUMNS, classes_two_rate=1.0, missing_share=[0.3, 0.3], missing_columns=[0.5, 1.0], columns_least=3.0)
        laws = only("numeric_column", IRRELEVANT, missing_rate=1.0, **with_gaps)
        laws["missing"] = np.eye(3, dtype=np.float32)[kind][None]
        batch = sampler(jax.random.key(9), step, laws)
        whole = sampler(jax.random.key(9), step, only("numeric_column", IRRELEVANT, missing_rate=0.0, **with_gaps))
        for i in range(batch.x.shape[0]):
            f = int(batch.n_features[i])
            yield np.isnan(np.asarray(batch.x)[i, :, :f]), np.asarray(whole.x)[i, :, :f], np.asarray(batch.y)[i]


def apart(gap, value):
    """z statistics f64[F] of whether rows with a gap have other values."""
    found = []
    for g, v in zip(gap.T, value.T, strict=True):
        if 5 < g.sum() < len(g) - 5 and v.std() > 0:
            found.append((v[g].mean() - v[~g].mean()) / np.sqrt(v.var() * (1 / g.sum() + 1 / (~g).sum())))
    return np.array(found)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_gaps_of_irrelevant_columns_say_nothing_of_the_class(sampler, kind):
    found = np.concatenate([apart(gap, np.tile(y[:, None], gap.shape[1])) for gap, _, y in noise_tables(sampler, kind)])
    assert len(found) > 100 and abs(np.mean(found**2) - 1) < 0.5


def test_what_gaps_depend_on_is_as_the_law_says(sampler):
    by_own, by_other = {}, {}
    for kind in range(3):
        own, other = [], []
        for gap, whole, _ in noise_tables(sampler, kind):
            own.append(apart(gap, whole))
            complete = whole[:, ~gap.any(axis=0)]
            if kind == 1:
                assert complete.shape[1], "gaps depend on columns that have none"
            if complete.shape[1]:
                best = [np.abs(apart(np.tile(g[:, None], complete.shape[1]), complete)) for g in gap.T]
                other += [z.max() for z in best if len(z)]
        by_own[kind], by_other[kind] = np.mean(np.concatenate(own) ** 2), np.mean(other)
    assert by_own[0] < 1.5 and by_own[1] < 1.5 and by_own[2] > 4
    assert by_other[0] < 2 and by_other[1] > 2.5 and by_other[2] < 2


def test_gaps_of_a_single_column_depend_on_nothing_at_random(compiled):
    """MAR has no other column to depend on there."""
    law = {k: v[0] for k, v in law_arrays(PRIOR).items() if k != "weight"} | {"missing_share": np.array([0.3, 0.3]), "missing_columns": np.array([1.0, 1.0])}
    stream = keys.task_stream(jax.random.key(0), jnp.uint32(3))
    stream = jax.tree.map(lambda v: v[None], stream)
    value = jnp.asarray(np.random.RandomState(0).normal(size=(1, 2, 2000)), jnp.float32)
    plan = types.SimpleNamespace(n_features=jnp.array([1]))
    mask = lambda kind: np.asarray(
        missing_mask(types.SimpleNamespace(missing=kind), plan, law, stream, jnp.arange(2000, dtype=jnp.uint32), value[..., :128], value)
    )[0]
    (own,) = apart(mask(2)[:1].T, np.asarray(value)[0, :1].T)
    assert abs(own) < 3 and not mask(2)[1].any()
    (own,) = apart(mask(3)[:1].T, np.asarray(value)[0, :1].T)
    assert own > 5


def test_normal_scores_are_places_among_reference_rows():
    reference, value = np.float32([3, 1, 1, 2]), np.float32([0, 1, 1.5, 3, 9])
    places = [((reference < v).sum() + (reference <= v).sum()) / 2 for v in value]
    wanted = scipy.stats.norm.ppf((np.array(places) + 0.5) / 5)
    found = _normal_scores(jnp.asarray(reference)[None, None], jnp.asarray(value)[None, None])
    np.testing.assert_allclose(np.asarray(found)[0, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("rule", ["parity", "conjunction", "disjunction"])
def test_label_noise_makes_no_class_of_its_own(sampler, rule):
    laws = only("rule", RULES.index(rule), classes_two_rate=0.0, label_noise_rate=1.0, label_noise=[0.15, 0.15])
    laws["target"] = np.eye(len(TARGETS), dtype=np.float32)[TARGETS.index("rule")][None]
    plain, noisy = (sampler(jax.random.key(10), 0, laws | {"label_noise_rate": np.float32([v])}) for v in (0.0, 1.0))
    assert (np.asarray(noisy.info["label_noise"]) > 0).all()
    assert (np.asarray(plain.n_classes) == 2).all() and (np.asarray(noisy.n_classes) == 2).all()
    # Half of the rows that noise meets keep their class. (Names of classes are drawn anew, so either way round.)
    differ = (np.asarray(plain.y) != np.asarray(noisy.y)).mean(axis=1)
    assert 0.03 < np.minimum(differ, 1 - differ).mean() < 0.12


def test_outliers_stay_within_the_largest_number(sampler):
    laws = only("numeric_column", 0, categorical_share=[0.0, 0.0], outlier_rate=1.0, outlier_share=[0.05, 0.05], outlier_size=[1e6, 1e6])
    batch = sampler(jax.random.key(11), 0, laws)
    check_tasks(batch)
    assert np.nanmax(np.abs(np.asarray(batch.x))) == LARGEST


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
