"""What a prior is: static sizes that shape the compiled program, and laws (probabilities and ranges) that are traced.

Two priors with equal `Sizes` share one compiled program whatever their laws, so a sweep or a curriculum over laws costs no
recompilation. `version` names the engine's laws as code; it goes into the manifest of every dump.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigError
from .load import load_preset, load_yaml, nearest

ENGINE_VERSION = "3"


class _Weights:
    """Relative weights of the members of a family; they need not sum to one.

    Naming one in a file leaves the rest at 0; an override (``--components.0.laws.family.linear 3``) changes the one it names.
    """

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)  # type: ignore[call-overload]
        if not all(math.isfinite(v) and v >= 0 for v in values) or sum(values) <= 0:
            name = type(self).__name__.removesuffix("Weights").lower()
            raise ValueError(f"{name} weights are {values}; they must be finite, not negative and not all zero")


@dataclasses.dataclass(frozen=True)
class GraphWeights(_Weights):
    """Laws of the causal graph (see `priors.graph`)."""

    layered: float = 0.0
    cauchy: float = 0.0
    erdos_renyi: float = 0.0
    redirection: float = 0.0
    chain: float = 0.0
    tree: float = 0.0


@dataclasses.dataclass(frozen=True)
class FamilyWeights(_Weights):
    """Families of mechanisms (see `priors.mechanisms`)."""

    linear: float = 0.0
    mlp: float = 0.0
    deep_mlp: float = 0.0
    oblivious_trees: float = 0.0
    deep_tree: float = 0.0
    prototypes: float = 0.0
    soft_prototypes: float = 0.0
    fourier: float = 0.0
    quadratic: float = 0.0
    experts: float = 0.0
    levels: float = 0.0


@dataclasses.dataclass(frozen=True)
class CombineWeights(_Weights):
    """How a node folds its parents: one function of all, or one each, folded."""

    concat: float = 0.0
    sum: float = 0.0
    product: float = 0.0
    max: float = 0.0
    logsumexp: float = 0.0


@dataclasses.dataclass(frozen=True)
class RootWeights(_Weights):
    """Base laws of root nodes."""

    normal: float = 0.0
    uniform: float = 0.0
    mixture: float = 0.0
    heavy_tailed: float = 0.0
    categorical: float = 0.0
    low_rank: float = 0.0
    zipf: float = 0.0
    grouped: float = 0.0


@dataclasses.dataclass(frozen=True)
class NoiseWeights(_Weights):
    """Families of exogenous noise."""

    normal: float = 0.0
    laplace: float = 0.0
    student_t: float = 0.0
    uniform: float = 0.0
    mixture: float = 0.0


@dataclasses.dataclass(frozen=True)
class NumericWeights(_Weights):
    """Kinds of numeric columns (see `priors.observe`)."""

    identity: float = 0.0
    kumaraswamy: float = 0.0
    sinh_arcsinh: float = 0.0
    lognormal: float = 0.0
    bounded: float = 0.0
    quantised: float = 0.0
    count: float = 0.0
    zero_inflated: float = 0.0
    irrelevant: float = 0.0


@dataclasses.dataclass(frozen=True)
class CategoricalWeights(_Weights):
    """Kinds of categorical columns."""

    ordered: float = 0.0
    unordered: float = 0.0
    prototype: float = 0.0
    many: float = 0.0


@dataclasses.dataclass(frozen=True)
class TargetWeights(_Weights):
    """How rows get their class (see `priors.target`)."""

    ordered_bins: float = 0.0
    prototypes: float = 0.0
    argmax: float = 0.0
    softmax: float = 0.0
    steps: float = 0.0
    rule: float = 0.0
    additive: float = dataclasses.field(default=0.0, metadata={"added": True})


@dataclasses.dataclass(frozen=True)
class RuleWeights(_Weights):
    """Rules over 1-4 driver columns."""

    parity: float = 0.0
    lookup: float = 0.0
    conjunction: float = 0.0
    disjunction: float = 0.0
    product: float = 0.0


@dataclasses.dataclass(frozen=True)
class MissingWeights(_Weights):
    """What makes values go missing."""

    mcar: float = 0.0
    mar: float = 0.0
    mnar: float = 0.0


def _names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


GRAPHS = _names(GraphWeights)
FAMILIES = _names(FamilyWeights)
COMBINES = _names(CombineWeights)
ROOTS = _names(RootWeights)
NOISES = _names(NoiseWeights)
NUMERIC_COLUMNS = _names(NumericWeights)
CATEGORICAL_COLUMNS = _names(CategoricalWeights)
TARGETS = _names(TargetWeights)
RULES = _names(RuleWeights)
MISSINGNESS = _names(MissingWeights)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Static sizes of the compiled sampler. Changing one recompiles and changes every task."""

    roots: int = 6
    instructions: int = 24
    width: int = 6
    inputs: int = 12
    hidden: int = 16
    trees: int = 6
    tree_depth: int = 4
    deep_tree_depth: int = 6
    frequencies: int = 24
    anchors: int = 16
    reference_rows: int = 128
    levels: int = 32
    many_levels: int = 256
    classes: int = 10
    drivers: int = 4
    cohort: int = 64

    def __post_init__(self) -> None:
        low = dict(roots=1, instructions=1, width=2, inputs=2, hidden=2, trees=1, tree_depth=1, deep_tree_depth=1,
                   frequencies=1, anchors=2, reference_rows=32, levels=2, many_levels=2, classes=2, drivers=2, cohort=8)  # fmt: skip
        for name, least in low.items():
            if getattr(self, name) < least:
                raise ValueError(f"sizes.{name} is {getattr(self, name)}; it must be at least {least}")
        if self.anchors > self.reference_rows:
            raise ValueError(f"sizes.anchors is {self.anchors}; at most reference_rows ({self.reference_rows})")
        if self.classes > self.anchors:
            raise ValueError(f"sizes.classes is {self.classes}; at most anchors ({self.anchors})")
        if self.cohort & (self.cohort - 1):
            raise ValueError(f"sizes.cohort is {self.cohort}; it must be a power of two, at least 8")

    @property
    def nodes(self) -> int:
        """Node slots: roots first, then one per instruction."""
        return self.roots + self.instructions


_MOST = {"family_spread": 10.0, "column_spread": 10.0}
"""Highest ends of ranges that are exponents; others reach a million at most."""


@dataclasses.dataclass(frozen=True)
class Laws:
    """Probabilities and ranges of one component of a prior. Every number is a traced argument of the sampler.

    Ranges are (low, high).
    Rates are probabilities in [0, 1].
    """

    # table
    columns_log: float = 0.5  # share of tasks whose column count is log-uniform (else uniform)
    columns_least: float = 2.0
    context: tuple[float, float] = (0.3, 0.9)  # context share of the rows
    # graph
    graph: GraphWeights = GraphWeights(0.15, 0.45, 0.1, 0.15, 0.05, 0.1)
    roots: tuple[float, float] = (1.0, 6.0)
    instructions: tuple[float, float] = (2.0, 20.0)
    edge_rate: tuple[float, float] = (0.15, 0.9)  # Erdős–Rényi and layered graphs
    redirect_rate: tuple[float, float] = (0.2, 0.8)
    node_width: tuple[float, float] = (1.0, 6.0)  # coordinates of a node; (1, 1) makes every node a scalar
    carriers: tuple[float, float] = (0.2, 1.0)  # share of the nodes that may show a column
    clique_rate: float = 0.3  # share of tasks whose columns come from neighbouring nodes, not scattered ones
    # mechanisms
    family: FamilyWeights = FamilyWeights(
        linear=0.6, mlp=1.6, deep_mlp=1.0, oblivious_trees=1.6, deep_tree=1.0, prototypes=1.0, soft_prototypes=1.0,
        fourier=1.0, quadratic=0.7, experts=1.0, levels=0.5,
    )  # fmt: skip
    family_spread: tuple[float, float] = (0.0, 2.5)  # how strongly a cohort favours a few families
    combine: CombineWeights = CombineWeights(0.6, 0.15, 0.1, 0.075, 0.075)
    activation_gain: tuple[float, float] = (0.5, 4.0)
    weight_decay: tuple[float, float] = (0.0, 2.0)  # exponent of the power law over an instruction's inputs
    frequency: tuple[float, float] = (0.2, 2.0)  # length scale range of Fourier features
    # noise
    root: RootWeights = RootWeights(0.3, 0.15, 0.25, 0.05, 0.1, 0.15, 0.04, 0.06)
    root_activation_rate: float = 0.5
    noiseless_rate: float = 0.3
    noise_level: tuple[float, float] = (0.01, 0.7)
    noise: NoiseWeights = NoiseWeights(0.6, 0.1, 0.1, 0.1, 0.1)
    heteroscedastic_rate: float = 0.2
    # observation
    numeric_column: NumericWeights = NumericWeights(0.45, 0.12, 0.08, 0.06, 0.06, 0.08, 0.05, 0.04, 0.06)
    categorical_column: CategoricalWeights = CategoricalWeights(0.35, 0.35, 0.3, 0.1)
    column_spread: tuple[float, float] = (0.0, 2.0)  # how strongly a cohort favours a few kinds of columns
    categorical_share: tuple[float, float] = (-0.6, 1.1)  # clipped to [0, 1]: some tables have none, some nothing else
    levels: tuple[float, float] = (2.0, 12.0)
    many_levels: tuple[float, float] = (12.0, 200.0)  # of `many` columns and `levels` mechanisms
    mix_rate: float = 0.3  # share of columns that add a second dimension of their node
    duplicate_rate: float = 0.15  # share of cohorts with near-copies of columns
    duplicate_share: tuple[float, float] = (0.1, 0.6)  # share of their numeric columns that are near-copies
    duplicate_noise: tuple[float, float] = (0.003, 0.5)  # noise added to a copy
    # target
    classes_two_rate: float = 0.45
    # Share of tasks whose class may also read coordinates that no column can show.
    hidden_target_rate: float = dataclasses.field(default=1.0, metadata={"added": True})
    target: TargetWeights = TargetWeights(0.3, 0.25, 0.2, 0.1, 0.1, 0.05)
    class_concentration: tuple[float, float] = (0.4, 200.0)  # Dirichlet-like: small is uneven
    temperature: tuple[float, float] = (0.1, 1.0)
    label_noise_rate: float = 0.3
    label_noise: tuple[float, float] = (0.005, 0.15)
    rule: RuleWeights = RuleWeights(0.35, 0.3, 0.1, 0.1, 0.15)
    # corruption
    outlier_rate: float = 0.08  # share of cohorts with outliers in numeric columns
    outlier_share: tuple[float, float] = (0.001, 0.03)  # of the cells
    outlier_size: tuple[float, float] = (3.0, 30.0)  # in standard deviations of the column
    rounding_rate: float = 0.1  # share of cohorts whose numeric columns are rounded
    rounding_step: tuple[float, float] = (0.003, 0.5)  # in standard deviations of the column
    missing_rate: float = 0.25
    missing_share: tuple[float, float] = (0.01, 0.4)
    missing_columns: tuple[float, float] = (0.1, 1.0)
    missing: MissingWeights = MissingWeights(0.5, 0.3, 0.2)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, _Weights):
                continue
            if isinstance(value, tuple):
                if len(value) != 2 or not value[0] <= value[1] or not all(map(math.isfinite, value)):
                    raise ValueError(f"laws.{field.name} is {value}; expected (low, high) with low <= high")
                most = _MOST.get(field.name, 1e6)
                if value[1] > most:
                    raise ValueError(f"laws.{field.name} is {value}; at most {most:g}, beyond it numbers overflow")
            elif field.name.endswith("_rate") or field.name == "columns_log":
                if not 0.0 <= value <= 1.0:
                    raise ValueError(f"laws.{field.name} is {value}; a rate must lie in [0, 1]")
        positive = ("roots", "instructions", "noise_level", "activation_gain", "frequency", "levels", "temperature",
                    "class_concentration", "missing_share", "label_noise", "node_width", "many_levels",
                    "duplicate_noise", "outlier_share", "outlier_size", "rounding_step")  # fmt: skip
        for name in positive:
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"laws.{name} is {getattr(self, name)}; its low end must be above 0")
        for name, least in (("roots", 1), ("instructions", 1), ("node_width", 1), ("levels", 2), ("many_levels", 2)):
            if getattr(self, name)[0] < least:
                raise ValueError(f"laws.{name} is {getattr(self, name)}; its low end must be at least {least}")
        for name in ("weight_decay", "family_spread", "column_spread"):
            if getattr(self, name)[0] < 0:
                raise ValueError(f"laws.{name} is {getattr(self, name)}; its low end must be at least 0")
        for name in ("context", "edge_rate", "redirect_rate", "carriers", "missing_share", "missing_columns",
                     "label_noise", "duplicate_share", "outlier_share"):  # fmt: skip
            low, high = getattr(self, name)
            if low < 0 or high > 1:
                raise ValueError(f"laws.{name} is {(low, high)}; both ends must lie in [0, 1]")
        if not 1 <= self.columns_least < math.inf:
            raise ValueError(f"laws.columns_least is {self.columns_least}; it must be finite, a table has at least 1 column")


@dataclasses.dataclass(frozen=True)
class Component:
    """One member of a mixture: its weight and its laws."""

    name: str
    weight: float = 1.0
    laws: Laws = Laws()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"component {self.name}: weight is {self.weight}; it must be finite and not negative")


@dataclasses.dataclass(frozen=True)
class PriorConfig:
    """A prior over tabular tasks: sizes and a weighted mixture of components.

    `oversample` is for training streams: candidates drawn per task kept, learnable ones first (1 keeps every task).
    """

    name: str = "graph_scm"
    description: str = ""
    version: str = ENGINE_VERSION
    sizes: Sizes = Sizes()
    oversample: float = 1.0
    components: tuple[Component, ...] = (Component("graph_scm"),)

    def __post_init__(self) -> None:
        if not self.components:
            raise ValueError("prior.components is empty; a prior needs at least one component")
        if not 1.0 <= self.oversample <= 8.0:
            raise ValueError(f"prior.oversample is {self.oversample}; it must lie in [1, 8]")
        names = [c.name for c in self.components]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"prior.components: two have the name {twice[0]!r}; give every component a name of its own")
        if sum(c.weight for c in self.components) <= 0:
            raise ValueError("prior.components: all weights are zero")
        if self.version != ENGINE_VERSION:
            raise ValueError(
                f"prior.version is {self.version!r}, this engine draws version {ENGINE_VERSION!r}: the same settings "
                "would give other tasks. Install the matching priorax or change the version."
            )
        for c in self.components:
            for name, most in (("roots", self.sizes.roots), ("instructions", self.sizes.instructions),
                               ("levels", self.sizes.levels), ("many_levels", self.sizes.many_levels),
                               ("node_width", self.sizes.width)):  # fmt: skip
                if getattr(c.laws, name)[1] > most:
                    raise ValueError(
                        f"component {c.name}: laws.{name} reaches {getattr(c.laws, name)[1]:g}, sizes.{name} is {most}"
                    )


def load_prior(name: str | Path = "default", overrides: Mapping[str, str] | None = None) -> PriorConfig:
    """Loads a preset by name, a YAML file by path, or one member of a law alone as ``LAW:MEMBER`` (see `member_names`):
    ``family:linear`` is `graph_scm` with linear mechanisms and nothing else changed.

    Raises:
      ConfigError: for an unknown name (the nearest ones are named), an unknown key, or a value out of range.
    """
    text = str(name)
    if ":" in text and "/" not in text and not text.endswith((".yaml", ".yml")):
        members = _members()
        if text not in members:
            near = nearest(text, list(members))
            raise ConfigError(f"unknown prior {text!r}. Did you mean {near!r}? LAW:MEMBER takes one of: {', '.join(members)}")
        component = {"name": text, "laws": members[text]}
        source = {"name": text, "description": f"graph_scm with {text} alone.", "components": [component]}
        # JSON is YAML too.
        return load_yaml(json.dumps(source), PriorConfig, kind="priors", overrides=overrides)
    return load_preset("priors", name, PriorConfig, overrides=overrides)


def member_names() -> list[str]:
    """Names that `load_prior` takes for single members: one for every member of every law, and the corruptions."""
    return list(_members())


def _members() -> dict[str, dict]:
    """Member name -> the laws that show it alone."""
    beside: dict[str, dict] = {
        "combine": {"instructions": [8, 24]},
        "noise": {"noiseless_rate": 0.0, "noise_level": [0.3, 0.7]},
        "numeric_column": {"categorical_share": [0, 0]},
        "categorical_column": {"categorical_share": [1, 1]},
        "rule": {"target": {"rule": 1}},
        "missing": {"missing_rate": 1.0},
    }
    out = {}
    for field in dataclasses.fields(Laws):
        if isinstance(field.default, _Weights):
            for member in _names(type(field.default)):
                out[f"{field.name}:{member}"] = {field.name: {member: 1}, **beside.get(field.name, {})}
    out["corruption:outliers"] = {"outlier_rate": 1.0, "categorical_share": [0, 0]}
    out["corruption:rounding"] = {"rounding_rate": 1.0, "categorical_share": [0, 0]}
    out["corruption:near_copies"] = {"duplicate_rate": 1.0, "categorical_share": [0, 0]}
    return out
