"""Writes docs/api.md from the docstrings of the public names: ``python docs/make_api.py`` (``--check`` only
compares)."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ABOUT = (
    "Made from the docstrings by `python docs/make_api.py`; a test fails when it is out of date. Commands have their own "
    "page: [cli.md](cli.md)."
)
PAGE = Path(__file__).with_name("api.md")
MODULES = {
    "priorax": "The way in: tasks, training, the classifier, evaluation.",
    "priorax.explain": "Why a prediction.",
    "priorax.priors.scm": "Structural causal models behind tasks: `batch.scm` of a batch sampled with `with_scm=True`.",
    "priorax.eval": "The evaluation harness.",
    "priorax.configs.eval": "Its configurations.",
    "priorax.configs.recipe": "What a recipe can hold.",
    "priorax.configs.model": "Its network.",
    "priorax.configs.train": "Its training.",
    "priorax.configs.prior": "What a prior can hold.",
}
NAMES = {
    "priorax.configs.eval": ["Protocol", "SuiteConfig", "SyntheticConfig"],
    "priorax.configs.model": ["ModelConfig"],
    "priorax.configs.prior": ["PriorConfig", "Component", "Sizes", "Laws"],
    "priorax.configs.recipe": ["Recipe", "TaskShape"],
    "priorax.configs.train": ["TrainConfig"],
    "priorax.priors.scm": ["SCM"],
}
"""Names shown of modules whose ``__all__`` is not the list."""
SKIPPED = {"__version__", "Protocol", "SuiteConfig", "SyntheticConfig"}
"""Names of ``__all__`` shown elsewhere."""


def page() -> str:
    """The whole page."""
    parts = [
        "# API reference",
        ABOUT,
    ]
    for module_name, about in MODULES.items():
        module = importlib.import_module(module_name)
        names = NAMES.get(module_name) or [n for n in module.__all__ if n not in SKIPPED]
        parts += [f"## {module_name}", about]
        for name in sorted(names, key=str.lower):
            parts += entry(name, getattr(module, name))
    return "\n\n".join(parts) + "\n"


def entry(name: str, thing: Any) -> list[str]:
    """Heading, signature and docstring of one name; methods of classes follow."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return [f"### {name}", f"Value: `{shown(thing)}`"]
    kind = "class " if inspect.isclass(thing) else ""
    parts = [f"### {name}", f"```python\n{kind}{name}{signature(thing)}\n```", *text(thing)]
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            if key.startswith("_"):
                continue
            inner = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if isinstance(inner, property):
                parts += [f"**`{name}.{key}`** (property)", *text(inner)]
            elif inspect.isfunction(inner) and inner.__doc__:
                parts += [f"**`{name}.{key}{signature(inner)}`**", *text(inner)]
    return parts


def signature(thing: Any) -> str:
    """The call, in one line where it is short; addresses of objects are left out."""
    try:
        call = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(...)"
    line = re.sub(r" at 0x[0-9a-f]+", "", str(call))
    if len(line) < 100:
        return line
    inside = [re.sub(r" at 0x[0-9a-f]+", "", str(p)) for p in call.parameters.values()]
    kinds = [p.kind for p in call.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        inside.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = line.rpartition(") -> ")[2] if ") -> " in line else ""
    return "(\n    " + ",\n    ".join(inside) + ",\n)" + (f" -> {returned}" if returned else "")


def text(thing: Any) -> list[str]:
    """The docstring: first paragraph as prose, the rest as it stands."""
    lines = inspect.getdoc(thing) or ""
    first, _, rest = lines.partition("\n\n")
    return [" ".join(first.split()), *([f"```text\n{rest.rstrip()}\n```"] if rest.strip() else [])]


def shown(value: Any) -> str:
    """A constant in short: a mapping by its keys."""
    return ", ".join(map(str, value)) if isinstance(value, (dict, tuple, list)) else repr(value)


def main() -> int:
    """Writes the page, or with ``--check`` says whether it is current."""
    made = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made
        print("docs/api.md is current" if current else "docs/api.md is out of date: run python docs/make_api.py")
        return 0 if current else 1
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
