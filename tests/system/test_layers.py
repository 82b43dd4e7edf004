"""The import rules of the house, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = ["configs", "priors", "models", "train", "eval"]
FENCES = {  # package -> the only files that may import it
    "yaml": {"configs/load.py"},
    "optax": {"train/"},
    "orbax": {"train/"},
    "matplotlib": {"eval/plots.py", "src/priorax/pictures.py"},
    "networkx": {"priors/scm.py"},
    "openml": {"eval/openml_source.py"},
    "tyro": {"src/priorax/"},
    "torch": {"src/priorax/bench_tabicl.py"},
    "tabicl": {"src/priorax/bench_tabicl.py"},
    "pandas": {"eval/"},
}
SOURCES = sorted(p for room in [*ORDER, "src/priorax"] for p in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int, int]]:
    """(module, level of a relative import, line) of every import, also inside functions, without type-only ones."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level and not base:
                found += [(alias.name, node.level, node.lineno) for alias in node.names]
            else:
                found.append((base, node.level, node.lineno))
    return found


def broken(path: Path, root: Path = ROOT) -> list[str]:
    """The rules a file breaks."""
    name = path.relative_to(root).as_posix()
    room = name.split("/")[0]
    problems = []
    for module, level, line in imports(path):
        top = module.split(".")[0]
        if level == 0 and top in ORDER:
            problems.append(f"{name}:{line} imports {module} without the package name")
        if room == "src":
            if level:
                problems.append(f"{name}:{line} uses a relative import; the facade uses priorax....")
        elif level == 0 and top == "priorax":
            problems.append(f"{name}:{line} imports {module}; inside the library imports are relative")
        elif level == 2:
            if top not in ORDER:
                problems.append(f"{name}:{line} imports {module} from outside the five rooms")
            elif ORDER.index(top) > ORDER.index(room):
                problems.append(f"{name}:{line} imports {top}, which comes after {room}")
        elif level > 2:
            problems.append(f"{name}:{line} reaches out of the package")
        if level == 0 and top in FENCES and not any(name.startswith(a) for a in FENCES[top]):
            problems.append(f"{name}:{line} imports {top}, which belongs to {sorted(FENCES[top]) or 'nobody'}")
    return problems


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    assert broken(path) == []


def test_the_rules_find_planted_violations(tmp_path):
    (tmp_path / "priors").mkdir()
    bad = tmp_path / "priors" / "bad.py"
    bad.write_text("import models\nfrom ..train.loop import x\nfrom priorax.configs import y\nimport torch\n")
    assert len(broken(bad, tmp_path)) == 4


def test_no_file_grows_without_bound():
    long = [p.relative_to(ROOT).as_posix() for p in SOURCES if len(p.read_text().splitlines()) > 500]
    assert long == []


def test_every_room_is_flat():
    nested = [p for room in ORDER for p in (ROOT / room).rglob("*.py") if p.parent.name != room]
    assert nested == []
