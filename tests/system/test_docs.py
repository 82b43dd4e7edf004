"""Docs do what they say: the guide's blocks run, links lead somewhere, tables name what exists, the reference is
current."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from priorax.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """(line, language, text) of every fenced block that is not marked ``<!-- not run -->``."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"(<!-- not run -->\n)?^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if not match[1]:
            found.append((text[: match.start()].count("\n") + 1, match[2], match[3]))
    return found


GUIDE = blocks(ROOT / "docs" / "guide.md")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """An empty folder and the names defined so far."""
    return tmp_path_factory.mktemp("guide"), {"__name__": "guide"}


def takes_long(text: str) -> bool:
    """Whether a block compiles a network or the sampler, draws a report, or reads what such a block left."""
    words = ("PFNClassifier(", "explain.", "priorax.sample(", "priorax predict", "priorax evaluate", "load_result(")
    return any(word in text for word in words)


@pytest.mark.parametrize(
    ("line", "language", "text"),
    [
        pytest.param(*block, id=f"line-{block[0]}", marks=[pytest.mark.slow] if takes_long(block[2]) else [])
        for block in GUIDE
    ],
)
def test_the_guide_runs(line, language, text, reader, monkeypatch, capsys):
    for package in ("pandas", "pyarrow", "matplotlib"):
        pytest.importorskip(package, reason=f"the guide needs {package}")
    if "networkx" in text:
        pytest.importorskip("networkx", reason="this block needs networkx")
    if "shap_values" in text:
        pytest.importorskip("shap", reason="this block needs shap")
    folder, names = reader
    monkeypatch.chdir(folder)
    if language == "python":
        exec(compile(text, f"guide.md, line {line}", "exec"), names)  # the guide is ours
        return
    assert language == "bash", f"a block of {language}"
    for command in filter(None, map(str.strip, text.splitlines())):
        words = shlex.split(command)
        assert words[0] == "priorax", command
        code = main([*words[1:], "--quiet"])
        assert code == 0, f"{command}\n{capsys.readouterr().err}"


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name} links to {target}; anchors: {sorted(anchors(path))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_have_the_flags_they_are_shown_with(page):
    for _, language, text in blocks(page):
        if language != "bash":
            continue
        for command in text.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if not words or words[0] != "priorax":
                continue
            name = " ".join(words[1:3]) if " ".join(words[1:3]) in COMMANDS else words[1] if len(words) > 1 else ""
            if name not in COMMANDS:
                continue
            cls = getattr(importlib.import_module(f"priorax.{COMMANDS[name][0]}"), COMMANDS[name][1])
            flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cls)}
            for word in words:
                if word.startswith("--") and not (getattr(cls, "TAKES_SETTINGS", False) and "." in word):
                    assert word.partition("=")[0] in flags, f"{page.name}: {command}"


def test_the_guide_names_every_suite_protocol_and_baseline():
    from priorax.configs.eval import PROTOCOLS
    from priorax.configs.load import preset_names
    from priorax.eval.baselines import BASELINES

    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    for name in [*preset_names("suites"), *PROTOCOLS, *BASELINES]:
        assert f"`{name}`" in text, name
    first = {cell for row in re.findall(r"^\| (`[^|]*`) \|", text, flags=re.MULTILINE) for cell in re.findall(r"`([\w-]+)`", row)}
    assert first == {*preset_names("suites"), *PROTOCOLS}


def _maker():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_api"] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current():
    page = _maker().page()
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == page, "run: python docs/make_api.py"
    assert " at 0x" not in page


def test_every_public_name_is_in_the_reference_with_a_docstring():
    import priorax.eval

    import priorax

    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in {*priorax.__all__, *priorax.eval.__all__} - {"__version__"}:
        assert f"### {name}\n" in page, name
    for module in (priorax, priorax.eval):
        for name in module.__all__:
            thing = getattr(module, name)
            assert not callable(thing) or (thing.__doc__ and not thing.__doc__.startswith(f"{name}(")), name
