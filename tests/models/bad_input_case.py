"""What a case of `test_bad_inputs.py` is, and the list of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

TINY = str(Path(__file__).parent / "tiny.safetensors")


@dataclasses.dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
      part: heading in the table.
      given: the input, in words.
      run: does it; what it returns must be true for an input that is handled.
      gets: the class of the error or warning, or None when the input is simply handled.
      says: words of the message, or how it is handled.
    """

    part: str
    given: str
    run: Callable[[], Any]
    gets: type[Exception] | None
    says: str

    @property
    def outcome(self) -> str:
        if self.gets is None:
            return "handled"
        return "warning" if issubclass(self.gets, Warning) else "error"


CASES: list[Case] = []


def case(part: str, given: str, gets: type[Exception] | None, says: str):
    def add(run: Callable[[], Any]) -> Callable[[], Any]:
        CASES.append(Case(part, given, run, gets, says))
        return run

    return add
