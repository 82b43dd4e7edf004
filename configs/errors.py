"""The errors a user can cause or must hear about, each with the exit code the command line ends with.

A message says what happened, where, and what to do next. Anything that is not a `PrioraxError` is a bug and ends with
exit code 1 and a traceback.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class PrioraxError(Exception):
    """Base of all errors with a sentence meant for the user.

    Attributes:
      exit_code: what the command line returns when this error ends it.
    """

    exit_code = 1


class ConfigError(PrioraxError, ValueError):
    """A flag, a configuration file or an output directory is wrong."""

    exit_code = 2


class DataError(PrioraxError, ValueError):
    """Input data cannot be used as it is."""

    exit_code = 3


class MissingError(PrioraxError):
    """Something needed is not here: an optional package, weights, a data set, a device."""

    exit_code = 4


class MemoryLimitError(PrioraxError):
    """The work does not fit into memory; the message names the largest part and the setting that shrinks it."""

    exit_code = 5


class NumericalError(PrioraxError, ArithmeticError):
    """A loss, a logit or a table turned NaN or infinite."""

    exit_code = 6


class ThresholdError(PrioraxError):
    """A threshold the user stated was not met, or a verification failed."""

    exit_code = 7


def require(module: str, extra: str, purpose: str = "") -> ModuleType:
    """Imports an optional package, or says which extra brings it.

    Args:
      module: name to import, e.g. ``"pyarrow.parquet"``.
      extra: the extra of this package that installs it, e.g. ``"dumps"``.
      purpose: what it is needed for, e.g. ``"writing Parquet"``; starts the message.

    Raises:
      MissingError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.split(".")[0]
        if error.name is not None and error.name.split(".")[0] != top:
            raise  # the package is there but one of its own dependencies is not: show that
        what = f"{purpose} needs" if purpose else "this needs"
        raise MissingError(f'{what} the package "{top}"; install it with: pip install "priorax[{extra}]"') from None
