"""A dispatch that never ends is told of, and ends the process where a time limit or a signal should have."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest
from priorax.train.watchdog import Watchdog

HANGS = """
import math, os, signal, sys, threading
import jax, jax.numpy as jnp
from priorax.configs.interrupt import StopFlag
from priorax.train.watchdog import Watchdog

left, kill = float(sys.argv[1]), sys.argv[2] == "kill"

def forever(x):
    if kill:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
    return x

with StopFlag("stopping") as flag:
    dog = Watchdog(lambda text: print(text, file=sys.stderr, flush=True), lambda: flag.heard, True, patience=0.2, grace=0.2)
    program = jax.jit(lambda x: jax.pure_callback(forever, x, x))
    with dog.over("the dispatch after step 7", 0.0, left):
        jax.device_get(program(jnp.float32(1)))
"""


@pytest.mark.parametrize(("left", "how", "why"), [("0.5", "limit", "time limit is long over"), ("inf", "kill", "a signal to stop was not heard")])
def test_a_hanging_dispatch_ends(left, how, why):
    done = subprocess.run([sys.executable, "-c", HANGS, left, how], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "the dispatch after step 7 has not ended after" in done.stderr and why in done.stderr
    assert "resume goes on from the last checkpoint" in done.stderr and "in forever" in done.stderr  # where it stands


@pytest.mark.parametrize("patience", [60.0, 0.05])
def test_work_that_ends_is_left_alone(patience):
    said, late = [], threading.Event()
    dog = Watchdog(lambda text: (said.append(text), late.set()), lambda: False, True, patience=patience, grace=60.0)
    with dog.over("the work", 0.001, -1.0):  # beyond its leg, within the grace
        jax.device_get(jnp.float32(1) + 1)
        assert patience > 1 or late.wait(60)
    dog.close()
    assert not dog._thread.is_alive()
    assert all("the work has not ended" in text and "(about 0 s are usual)" in text for text in said)
    assert bool(said) == (patience < 1)


def test_a_library_does_not_end_the_process_and_a_stopped_one_is_not_late(monkeypatch):
    """An hour asleep is no hour of waiting; and without leave to end the process a hang is told of again and again."""
    said, often = [], threading.Event()
    times = itertools.count(0.0, 3600.0)
    monkeypatch.setattr("priorax.train.watchdog.time.monotonic", lambda: next(times))
    dog = Watchdog(lambda text: (said.append(text), len(said) > 2 and often.set()), lambda: False, False, patience=0.05, grace=0.05)
    with dog.over("the work", 0.0, 0.0):
        assert often.wait(60)
    dog.close()
    assert all(float(text.split()[-6]) < 60 for text in said), said
