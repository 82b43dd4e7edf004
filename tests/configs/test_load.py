"""The YAML loader: what it accepts, what it refuses, and that every refusal names key, place and remedy."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from priorax.configs import load, load_prior
from priorax.configs.errors import ConfigError, PrioraxError
from priorax.configs.load import config_digest, load_yaml, preset_names, preset_path, to_yaml


@dataclasses.dataclass(frozen=True)
class Part:
    kind: Literal["linear", "tree"] = "linear"
    rate: float = 1e-3
    depth: int = 3

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Other:
    kind: Literal["other"] = "other"
    size: int = 1


@dataclasses.dataclass(frozen=True)
class Whole:
    name: str
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    span: tuple[float, int] = (0.5, 2)
    limit: int | None = None
    on: bool = False
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    either: Part | Other = Part()


TEXT = """\
name: full
part: {kind: tree, rate: 3e-4, depth: 1e1}
parts:
  - rate: 2
  - {depth: 7}
span: [1, 3]
limit: null
on: true
weights: {a: 1, b: 0.5}
either: {kind: other, size: 4}
"""


def test_reads_every_kind_of_field():
    cfg = load_yaml(TEXT, Whole)
    assert cfg == Whole(
        name="full", part=Part("tree", 3e-4, 10), parts=(Part(rate=2.0), Part(depth=7)), span=(1.0, 3), on=True,
        weights={"a": 1.0, "b": 0.5}, either=Other(size=4),
    )  # fmt: skip
    assert isinstance(cfg.parts[0].rate, float) and isinstance(cfg.part.depth, int)


def test_a_field_that_came_later_changes_no_digest_while_it_has_its_default():
    @dataclasses.dataclass(frozen=True)
    class Before:
        rate: float = 0.5

    @dataclasses.dataclass(frozen=True)
    class After:
        rate: float = 0.5
        more: float = dataclasses.field(default=1.0, metadata={"added": True})

    assert config_digest(After()) == config_digest(Before())
    assert config_digest(After(more=0.0)) != config_digest(Before())


def test_round_trip_and_digest():
    cfg = load_yaml(TEXT, Whole)
    assert load_yaml(to_yaml(cfg), Whole) == cfg
    assert config_digest(load_yaml(to_yaml(cfg), Whole)) == config_digest(cfg)
    assert config_digest(Whole("x", span=(1, 2))) == config_digest(Whole("x", span=(1.0, 2)))
    assert config_digest(cfg) != config_digest(dataclasses.replace(cfg, on=False))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\npart:\n  dept: 3", ["part.dept", "Did you mean part.depth?", "line 3"]),
        ("name: x\nparts:\n  - {depth: 1}\n  - {rat: 1}", ["parts.1.rat", "parts.1.rate", "line 4"]),
        ("name: x\npart:\n  rate: 1\n  depth: 0", ["part", "depth is 0", "at least 1", "line 4"]),
        ("name: x\npart: {depth: 2.5}", ["part.depth", "'2.5'", "whole number"]),
        ("name: x\npart: {rate: fast}", ["part.rate", "'fast'", "a number"]),
        ("name: x\npart: {rate: true}", ["part.rate", "a number"]),
        ("name: x\npart: {kind: tre}", ["part.kind", "linear, tree", "Did you mean tree?"]),
        ("name: x\non: 1", ["on is '1'", "true or false"]),
        ("name: 3\non: true", ["name is '3'", "text"]),
        ("name: x\nspan: [1]", ["span", "list of 2"]),
        ("name: x\nparts: {depth: 1}", ["parts", "a list"]),
        ("name: x\npart: 3", ["part is '3'", "kind, rate, depth"]),
        ("on: true\npart: {}", ["name is missing"]),
        ("name: x\nname: y", ["name is given twice", "line 2"]),
        ("name: x\npart: [1,", ["not valid YAML", "line 2"]),
        ("- a\n- b", ["expected keys and values"]),
        ("name: x\neither: {kind: other, siz: 2}", ["either.siz", "either.size"]),
        ("name: x\nlimit: many", ["limit is 'many'", "whole number"]),
    ],
)
def test_refusals_say_what_where_and_what_next(text, says):
    with pytest.raises(ConfigError) as caught:
        load_yaml(text, Whole)
    for part in says:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2 and isinstance(caught.value, (PrioraxError, ValueError))


def test_file_and_line_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\n\npart:\n  dept: 1\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 4"):
        load_yaml(path, Whole)


def test_base_is_merged_key_by_key(tmp_path):
    (tmp_path / "low.yaml").write_text("name: low\npart: {rate: 5, depth: 2}\nparts: [{depth: 1}]\n")
    (tmp_path / "mid.yaml").write_text("base: low.yaml\nname: mid\npart: {depth: 4}\n")
    (tmp_path / "top.yaml").write_text("base: mid.yaml\nparts: [{depth: 9}, {depth: 8}]\n")
    cfg = load_yaml(tmp_path / "top.yaml", Whole)
    assert (cfg.name, cfg.part) == ("mid", Part(rate=5.0, depth=4))
    assert [p.depth for p in cfg.parts] == [9, 8]


def test_an_error_inside_a_base_names_the_base(tmp_path):
    (tmp_path / "low.yaml").write_text("name: low\npart: {dept: 1}\n")
    (tmp_path / "top.yaml").write_text("base: low.yaml\n")
    with pytest.raises(ConfigError, match=r"low\.yaml, line 2"):
        load_yaml(tmp_path / "top.yaml", Whole)


def test_a_circle_of_bases_ends(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\nname: a\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nname: b\n")
    with pytest.raises(ConfigError, match="circle"):
        load_yaml(tmp_path / "a.yaml", Whole)


def test_overrides():
    cfg = load_yaml(TEXT, Whole, overrides={"part.rate": "1e-2", "parts.1.depth": "5", "limit": "3", "name": "other"})
    assert (cfg.part.rate, cfg.parts[1].depth, cfg.limit, cfg.name) == (1e-2, 5, 3, "other")
    with pytest.raises(ConfigError, match=r"part\.rat is not a setting.*part\.rate.*command line"):
        load_yaml(TEXT, Whole, overrides={"part.rat": "1"})
    with pytest.raises(ConfigError, match="part.depth is '1.5'"):
        load_yaml(TEXT, Whole, overrides={"part.depth": "1.5"})
    with pytest.raises(ConfigError, match="single value"):
        load_yaml(TEXT, Whole, overrides={"name.x.y": "1"})


def test_an_override_of_one_weight_keeps_the_others():
    """It made a table of its own, in which all that it did not name was 0."""
    plain, more = (load_prior("graph_scm", overrides=o).components[0].laws for o in ({}, {"components.0.laws.family.linear": "3"}))
    assert more == dataclasses.replace(plain, family=dataclasses.replace(plain.family, linear=3.0))
    # Where a file names some, these are the others.
    causal = load_prior("causal", overrides={"components.0.laws.combine.sum": "1"}).components[0].laws.combine
    assert (causal.concat, causal.sum, causal.product) == (1.0, 1.0, 0.0)
    with pytest.raises(ConfigError, match="Did you mean"):
        load_prior("graph_scm", overrides={"components.0.laws.family.liner": "3"})


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("weight_decay", "[-50, 2]", "at least 0"),
        ("family_spread", "[-1, 2]", "at least 0"),
        ("family_spread", "[0, 50]", "at most 10"),
        ("column_spread", "[-1, 2]", "at least 0"),
        ("noise_level", "[0.1, 1e30]", "overflow"),
        ("columns_least", ".nan", "finite"),
        ("columns_least", ".inf", "finite"),
        ("missing_rate", ".nan", "rate"),
        ("roots", "[0.1, 0.9]", "at least 1"),
        ("node_width", "[0.5, 2]", "at least 1"),
        ("many_levels", "[1, 20]", "at least 2"),
    ],
)
def test_laws_that_overflow_are_refused(setting, value, says):
    with pytest.raises(ConfigError, match=says):
        load_prior("graph_scm", overrides={f"components.0.laws.{setting}": value})


def test_components_have_names_of_their_own(tmp_path):
    (tmp_path / "p.yaml").write_text("base: default\nname: twice\ncomponents: [{name: a}, {name: b}, {name: a}]\n")
    with pytest.raises(ConfigError, match="two have the name 'a'"):
        load_prior(tmp_path / "p.yaml")


@pytest.mark.parametrize("kind", ["priors", "recipes", "suites"])
def test_unknown_preset(kind):
    with pytest.raises(ConfigError, match=f'unknown preset "defualt" in {kind}.*Available'):
        preset_path(kind, "defualt")
    with pytest.raises(ConfigError, match="no configuration file"):
        preset_path(kind, "./none.yaml")


def test_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match='The nearest is "default"'):
        preset_path("priors", "defualt")
    assert preset_path("priors", "default").name == "default.yaml"


def _loaders():
    import priorax.configs as configs

    return {"priors": configs.load_prior, "recipes": getattr(configs, "load_recipe", None)}


@pytest.mark.parametrize("kind", ["priors", "recipes"])
def test_every_preset_loads_and_survives_the_round_trip(kind, tmp_path):
    loader = _loaders()[kind]
    assert preset_names(kind)
    for name in preset_names(kind):
        cfg = loader(name)
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(cfg))
        assert loader(path) == cfg
        assert config_digest(loader(path)) == config_digest(cfg)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
trees = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3))
names = st.sampled_from(["name", "part", "parts", "span", "limit", "on", "weights", "either", "depth", "kind"])


@given(st.dictionaries(names, trees, max_size=5))
def test_any_mapping_is_read_or_refused_with_a_sentence(tree):
    text = yaml.safe_dump(tree) + "\n"
    try:
        cfg = load_yaml(text, Whole)
    except ConfigError as error:
        assert str(error)
    else:
        assert isinstance(cfg, Whole)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_sentence(text):
    try:
        load_yaml(text + "\n", Whole)
    except ConfigError as error:
        assert str(error)


@given(st.floats(allow_nan=False), st.integers(), st.text(max_size=20))
def test_values_survive_yaml_exactly(number, count, name):
    cfg = Whole(name=name, part=Part(rate=number), limit=count)
    assert load_yaml(to_yaml(cfg), Whole) == cfg


def test_nearest_without_options():
    assert load.nearest("x", []) is None
