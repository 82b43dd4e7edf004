"""Notices that a dispatch does not end. Whoever waits for a device in compiled code hears no signal and sees no clock."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

PATIENCE, GRACE = 600.0, 60.0
"""Seconds after which a dispatch is called late, and which one may take beyond the end of its leg or after a signal; where it is
expected to take long, `LATE` and `TOO_LATE` times what is expected. The first of a leg, of which nothing is known, has `PATIENCE` for both."""
LATE, TOO_LATE = 30.0, 10.0


class Watchdog:
    """A thread that looks, while `over` is entered, whether what happens there is late.

    It says so once, and again whenever twice as much time has gone by. When the leg has a limit and that is passed by `GRACE`, or a
    signal to stop was not heard for so long, it can write the stacks of all threads to stderr and end the process with exit code
    1: nothing else can. What is lost then is what came after the last checkpoint. Time in which the process was stopped (Ctrl-Z, a machine
    asleep) does not count.

    Args:
      say: told that a dispatch is late.
      signalled: whether a signal to stop has come; asked about once a second.
      end: whether to end the process; a library leaves that to whoever owns it.
      patience, grace: instead of `PATIENCE` and `GRACE`.
    """

    def __init__(
        self, say: Callable[[str], None], signalled: Callable[[], bool], end: bool, patience: float = PATIENCE,
        grace: float = GRACE,
    ) -> None:  # fmt: skip
        self._say, self._signalled, self._end, self._patience, self._grace = say, signalled, end, patience, grace
        self._what: tuple[str, float, float] | None = None
        self._change, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._change:
            self._closed, self._what = True, None
            self._change.notify()
        self._thread.join()

    @contextlib.contextmanager
    def over(self, what: str, expected: float, left: float) -> Iterator[None]:
        """Watches what is done inside.

        Args:
          what: its name, to complete "... has not ended".
          expected: seconds it should take; 0 when unknown.
          left: seconds until the leg must have ended, infinity without a limit.
        """
        with self._change:
            self._what = (what, expected, left)
            self._change.notify()
        try:
            yield
        finally:
            with self._change:
                self._what = None

    def _look(self) -> None:
        tick = min(1.0, self._patience, self._grace)
        before, waited, told, signalled, last = None, 0.0, 0.0, math.inf, time.monotonic()
        while not self._closed:
            with self._change:
                self._change.wait(timeout=None if self._what is None else tick)
                now = self._what
            here = time.monotonic()
            waited, last = waited + min(here - last, 5.0 * tick), here
            if now is None:
                continue
            what, expected, left = now
            if now is not before:
                before, waited, told, signalled = now, 0.0, max(self._patience, LATE * expected), math.inf
            if signalled == math.inf and self._signalled():
                signalled = waited
            if waited >= told:
                usual = f" (about {expected:.0f} s are usual)" if expected else ""
                self._say(f"{what} has not ended after {waited:.0f} s{usual}; the device may hang")
                told *= 2.0
            grace = max(self._grace, TOO_LATE * expected) if expected else max(self._grace, self._patience)
            if self._end and waited - min(left, signalled) >= grace:
                why = "the time limit is long over" if waited >= left else "a signal to stop was not heard"
                self._give_up(now, f"pretrain: {what} does not end and {why}: giving up; resume goes on from the last checkpoint")

    def _give_up(self, now: tuple[str, float, float], text: str) -> None:
        with self._change:  # held to the end: what is over by now goes on
            if self._what is not now:
                return
            with contextlib.suppress(OSError, ValueError):  # no stderr, or one without a file: the process ends all the same
                print(text, file=sys.stderr, flush=True)
                faulthandler.dump_traceback(file=sys.stderr)
            os._exit(1)
