"""Every input we could think of that a careless or unlucky user may give, and what it gets.

The cases are data; they make the table in docs/bad_inputs.md:

    python tests/models/test_bad_inputs.py --write
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

# Each adds its cases to the list, in the order of the page.
import bad_inputs_estimator  # noqa: F401  # isort: skip
import bad_inputs_commands  # noqa: F401  # isort: skip
from bad_input_case import CASES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "bad_inputs.md"

pytestmark = pytest.mark.usefixtures("few_programs")

# Provoked where what they need is at hand: (file of the test, its name, what was given, what it gets).
ELSEWHERE = (
    ("tests/system/test_cli.py", "test_absent_device_is_exit_code_4", "a device that is not there",
     "error", "exit code 4, names the package that brings it"),
    ("tests/system/test_cli.py", "test_out_of_memory_is_exit_code_5", "memory runs out during work",
     "error", "exit code 5, says what to lower"),
    ("tests/system/test_cli.py", "test_a_bug_shows_a_traceback_and_exit_code_1", "a bug of ours",
     "error", "exit code 1 with a traceback"),
    ("tests/models/test_estimator.py", "test_pickle_holds_no_weights_and_checks_them", "a pickle that meets other weights",
     "error", "names both digests"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _wanted_warnings_only():
    """Nothing here may warn beyond what a case is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@pytest.mark.parametrize("one", CASES, ids=lambda c: f"{c.part}: {c.given}"[:90])
def test_bad_input(one, capsys):
    if one.outcome == "handled":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
            assert one.run(), "the input is said to be handled"
    elif one.outcome == "warning":
        with pytest.warns(one.gets) as seen:
            one.run()
        assert any(one.says in str(w.message) for w in seen), [str(w.message) for w in seen]
    else:
        with pytest.raises(one.gets) as caught:
            one.run()
        text = str(caught.value)
        assert one.says in text and len(text) > 20, text
    capsys.readouterr()


def page() -> str:
    """The table of the documentation."""
    counts = {kind: sum(c.outcome == kind for c in CASES) for kind in ("error", "warning", "handled")}
    lines = [
        "# Bad inputs",
        "",
        f"{len(CASES)} careless, unlucky or hostile inputs and what each gets: {counts['error']} an error that says what to "
        + f"do, {counts['warning']} a warning, {counts['handled']} an answer.",
        "Every row is a test (`python -m pytest tests/models/test_bad_inputs.py`); this page is made from them",
        "(`python tests/models/test_bad_inputs.py --write`). Quoted words are part of the message.",
    ]
    for part in dict.fromkeys(c.part for c in CASES):
        lines += ["", f"## {part}", "", "| given | gets | |", "|---|---|---|"]
        for c in CASES:
            if c.part == part:
                kind = "handled" if c.gets is None else f"`{c.gets.__name__}`"
                says = c.says if c.gets is None else f'"{c.says}"'
                lines.append(f"| {c.given} | {kind} | {says} |")
    lines += ["", "## Provoked in other tests", "", "| given | gets | |", "|---|---|---|"]
    lines += [f"| {given} | {kind} | {how} |" for _, _, given, kind, how in ELSEWHERE]
    return "\n".join(lines) + "\n"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/models/test_bad_inputs.py --write"


@pytest.mark.parametrize("where", ELSEWHERE, ids=lambda w: w[1])
def test_tests_named_on_the_page_exist(where):
    assert f"def {where[1]}(" in (ROOT / where[0]).read_text(encoding="utf-8")


def test_no_case_is_there_twice():
    named = [(c.part, c.given) for c in CASES]
    assert len(set(named)) == len(named)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/models/test_bad_inputs.py --write")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(CASES)} cases written to {PAGE}")
