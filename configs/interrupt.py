"""Ctrl-C and SIGTERM end long work after the unit in flight, saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """While active, the first SIGINT or SIGTERM sets the flag; a second SIGINT interrupts at once.

    Signals can be caught in the main thread only; elsewhere the flag stays unset.

    Python runs handlers of signals between two instructions of the main thread, and that may be inside a compiled program or a
    compiler for a minute. So that whoever pressed Ctrl-C hears of it at once, a thread writes the notice; Python's own C
    code wakes it through a pipe (`signal.set_wakeup_fd`). Where that is not to be had, the handler writes it when it runs.

    Attributes:
      signal: number of the signal that was caught, or None.
      notice: a line for stderr when it is, None for none. It may be changed at any time, to say what happens next.
      heard: whether a signal has come at all, also while the main thread is inside compiled code, where it cannot catch it.
    """

    def __init__(self, notice: str | None = None) -> None:
        self.signal: int | None = None
        self.notice = notice
        self.heard = False
        self._untold = [True]
        self._before: dict[int, object] = {}
        self._wakes: int | None = None
        self._thread: threading.Thread | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._listen()
            for number in _CAUGHT:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._wakes is not None and self._thread is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._wakes)  # the thread reads the end of the pipe and ends
            self._thread.join()

    def _listen(self) -> None:
        read, write = os.pipe()
        try:
            os.set_blocking(write, False)
            before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        except (AttributeError, OSError, ValueError):  # a system without it
            before = None
        if before != -1:
            if before is not None:
                signal.set_wakeup_fd(before)  # somebody else listens, an event loop for one
            os.close(read)
            os.close(write)
            return
        self._wakes, self._thread = write, threading.Thread(target=self._announce, args=(read,), daemon=True)
        self._thread.start()

    def _announce(self, read: int) -> None:
        while caught := os.read(read, 16):
            if any(number in _CAUGHT for number in caught):
                self.heard = True
                self._tell()
        os.close(read)

    def _tell(self) -> None:
        """Writes the notice, once. No lock and no buffered file: the handler may run in the middle of either."""
        with contextlib.suppress(IndexError, OSError):  # told already; no stderr
            self._untold.pop()
            if self.notice is not None:
                above = "\n" if os.isatty(2) else ""  # not into the line of a progress bar
                os.write(2, f"{above}{self.notice}\n".encode())

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal, self.heard = number, True
        self._tell()
