"""What a prior is: static sizes that shape the compiled program, and laws (probabilities and ranges) that are traced.

Two priors with equal `Sizes` share one compiled program whatever their laws, so a sweep or a curriculum over laws costs no
recompilation. `version` names the engine's laws as code; it goes into the manifest of every dump.
"""

from __future__ import annotations

import dataclasses
import math

ENGINE_VERSION = "1"

GRAPHS = ("layered", "cauchy", "erdos_renyi", "redirection", "chain", "tree")
FAMILIES = (
    "linear", "mlp", "deep_mlp", "oblivious_trees", "deep_tree", "prototypes", "soft_prototypes", "fourier",
    "quadratic", "experts",
)  # fmt: skip
COMBINES = ("concat", "sum", "product", "max", "logsumexp")
ROOTS = ("normal", "uniform", "mixture", "heavy_tailed", "categorical", "low_rank")
NOISES = ("normal", "laplace", "student_t", "uniform", "mixture")
NUMERIC_COLUMNS = (
    "identity", "kumaraswamy", "sinh_arcsinh", "lognormal", "bounded", "quantised", "count", "zero_inflated",
    "irrelevant",
)  # fmt: skip
CATEGORICAL_COLUMNS = ("ordered", "unordered", "prototype")
TARGETS = ("ordered_bins", "prototypes", "argmax", "softmax", "steps", "rule")
RULES = ("parity", "lookup", "and", "or", "product")
MISSINGNESS = ("mcar", "mar", "mnar")


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
    classes: int = 10
    drivers: int = 4
    cohort: int = 64

    def __post_init__(self) -> None:
        low = dict(roots=1, instructions=1, width=2, inputs=2, hidden=2, trees=1, tree_depth=1, deep_tree_depth=1,
                   frequencies=1, anchors=2, reference_rows=32, levels=2, classes=2, drivers=2, cohort=8)  # fmt: skip
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


def _even(names: tuple[str, ...], **weights: float) -> tuple[float, ...]:
    return tuple(float(weights.get(n, 1.0)) for n in names)


@dataclasses.dataclass(frozen=True)
class Laws:
    """Probabilities and ranges of one component of a prior. Every number is a traced argument of the sampler.

    Weights follow the order of the name tuples of this module and need not sum to one. Ranges are (low, high).
    Rates are probabilities in [0, 1].
    """

    # table
    columns_log: float = 0.5  # share of tasks whose column count is log-uniform (else uniform)
    columns_least: float = 2.0
    context: tuple[float, float] = (0.3, 0.9)  # context share of the rows
    # graph
    graph: tuple[float, ...] = (0.15, 0.45, 0.1, 0.15, 0.05, 0.1)
    roots: tuple[float, float] = (1.0, 6.0)
    instructions: tuple[float, float] = (2.0, 20.0)
    edge_rate: tuple[float, float] = (0.15, 0.9)  # Erdős–Rényi and layered graphs
    redirect_rate: tuple[float, float] = (0.2, 0.8)
    carriers: tuple[float, float] = (0.2, 1.0)  # share of the nodes that may show a column
    # mechanisms
    family: tuple[float, ...] = _even(FAMILIES, linear=0.6, mlp=1.6, oblivious_trees=1.6, quadratic=0.7)
    family_spread: tuple[float, float] = (0.0, 2.5)  # how strongly a cohort favours a few families
    combine: tuple[float, ...] = (0.6, 0.15, 0.1, 0.075, 0.075)
    activation_gain: tuple[float, float] = (0.5, 4.0)
    weight_decay: tuple[float, float] = (0.0, 2.0)  # exponent of the power law over an instruction's inputs
    frequency: tuple[float, float] = (0.2, 2.0)  # length scale range of Fourier features
    # noise
    root: tuple[float, ...] = (0.3, 0.15, 0.25, 0.05, 0.1, 0.15)
    root_activation_rate: float = 0.5
    noiseless_rate: float = 0.3
    noise_level: tuple[float, float] = (0.01, 0.7)
    noise: tuple[float, ...] = (0.6, 0.1, 0.1, 0.1, 0.1)
    heteroscedastic_rate: float = 0.2
    # observation
    numeric_column: tuple[float, ...] = (0.45, 0.12, 0.08, 0.06, 0.06, 0.08, 0.05, 0.04, 0.06)
    categorical_column: tuple[float, ...] = (0.35, 0.35, 0.3)
    categorical_share: tuple[float, float] = (-0.6, 1.1)  # clipped to [0, 1]: some tables have none, some nothing else
    levels: tuple[float, float] = (2.0, 12.0)
    mix_rate: float = 0.3  # share of columns that add a second dimension of their node
    # target
    classes_two_rate: float = 0.45
    target: tuple[float, ...] = (0.3, 0.25, 0.2, 0.1, 0.1, 0.05)
    class_concentration: tuple[float, float] = (0.5, 20.0)  # Dirichlet-like: small is uneven
    temperature: tuple[float, float] = (0.1, 1.0)
    label_noise_rate: float = 0.3
    label_noise: tuple[float, float] = (0.005, 0.15)
    rule: tuple[float, ...] = (0.35, 0.3, 0.1, 0.1, 0.15)
    # corruption
    missing_rate: float = 0.25
    missing_share: tuple[float, float] = (0.01, 0.4)
    missing_columns: tuple[float, float] = (0.1, 1.0)
    missing: tuple[float, ...] = (0.5, 0.3, 0.2)

    def __post_init__(self) -> None:
        weights = dict(graph=GRAPHS, family=FAMILIES, combine=COMBINES, root=ROOTS, noise=NOISES,
                       numeric_column=NUMERIC_COLUMNS, categorical_column=CATEGORICAL_COLUMNS, target=TARGETS,
                       rule=RULES, missing=MISSINGNESS)  # fmt: skip
        for name, members in weights.items():
            w = getattr(self, name)
            if len(w) != len(members):
                raise ValueError(f"laws.{name} has {len(w)} weights; expected {len(members)}, for {', '.join(members)}")
            if not all(math.isfinite(v) and v >= 0 for v in w) or sum(w) <= 0:
                raise ValueError(f"laws.{name} is {w}; weights must be finite, not negative and not all zero")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in weights:
                continue
            if isinstance(value, tuple):
                if len(value) != 2 or not value[0] <= value[1] or not all(map(math.isfinite, value)):
                    raise ValueError(f"laws.{field.name} is {value}; expected (low, high) with low <= high")
            elif field.name.endswith("_rate") or field.name == "columns_log":
                if not 0.0 <= value <= 1.0:
                    raise ValueError(f"laws.{field.name} is {value}; a rate must lie in [0, 1]")
        positive = ("roots", "instructions", "noise_level", "activation_gain", "frequency", "levels", "temperature",
                    "class_concentration", "missing_share", "label_noise")  # fmt: skip
        for name in positive:
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"laws.{name} is {getattr(self, name)}; its low end must be above 0")
        for name in ("context", "edge_rate", "redirect_rate", "carriers", "missing_share", "missing_columns",
                     "label_noise"):  # fmt: skip
            low, high = getattr(self, name)
            if low < 0 or high > 1:
                raise ValueError(f"laws.{name} is {(low, high)}; both ends must lie in [0, 1]")
        if self.columns_least < 1:
            raise ValueError(f"laws.columns_least is {self.columns_least}; a table has at least 1 column")


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
    """A prior over tabular tasks: sizes and a weighted mixture of components."""

    name: str = "graph_scm"
    description: str = ""
    version: str = ENGINE_VERSION
    sizes: Sizes = Sizes()
    components: tuple[Component, ...] = (Component("graph_scm"),)

    def __post_init__(self) -> None:
        if not self.components:
            raise ValueError("prior.components is empty; a prior needs at least one component")
        if sum(c.weight for c in self.components) <= 0:
            raise ValueError("prior.components: all weights are zero")
        if self.version != ENGINE_VERSION:
            raise ValueError(
                f"prior.version is {self.version!r}, this engine draws version {ENGINE_VERSION!r}: the same settings "
                "would give other tasks. Install the matching priorax or change the version."
            )
        for c in self.components:
            for name, most in (("roots", self.sizes.roots), ("instructions", self.sizes.instructions),
                               ("levels", self.sizes.levels)):  # fmt: skip
                if getattr(c.laws, name)[1] > most:
                    raise ValueError(
                        f"component {c.name}: laws.{name} reaches {getattr(c.laws, name)[1]:g}, sizes.{name} is {most}"
                    )
