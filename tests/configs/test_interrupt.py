"""What whoever presses Ctrl-C sees, and when. Processes of their own, since signals are those of a whole process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading

import pytest
from priorax.configs.interrupt import StopFlag

IN_C = """
import hashlib, threading
from priorax.configs.interrupt import StopFlag
begun = threading.Event()
threading.Thread(target=lambda: begun.wait() and print("ready", flush=True), daemon=True).start()
with StopFlag("stopping soon"):
    begun.set()  # the thread comes to speak once the next line has let go of Python's lock
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # no instruction of Python for many minutes
"""
IN_PYTHON = """
from priorax.configs.interrupt import StopFlag
try:
    with StopFlag("stopping soon") as flag:
        print("ready", flush=True)
        while True:
            pass
except KeyboardInterrupt:
    print("ended with", flag.signal, flush=True)
"""


@pytest.fixture
def started():
    """Starts code in a process of its own, which has said that it is ready; ends it after the test."""
    running = []

    def start(code):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def heard(process) -> str:
    """The next line on stderr; fails when none comes."""
    assert select.select([process.stderr], [], [], 60)[0], "nothing was said"
    return process.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_notice_does_not_wait_for_compiled_code_to_end(started, number):
    process = started(IN_C)
    process.send_signal(number)
    assert heard(process) == "stopping soon\n" and process.poll() is None


def test_the_second_ctrl_c_interrupts_and_is_not_told_again(started):
    process = started(IN_PYTHON)
    process.send_signal(signal.SIGINT)
    assert heard(process) == "stopping soon\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == f"ended with {int(signal.SIGINT)}\n" and err == ""


def test_everything_is_as_before_afterwards(capfd):
    before, threads = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], threading.active_count()
    with StopFlag() as flag:
        signal.raise_signal(signal.SIGTERM)
        assert flag and flag.signal == signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == threads
    assert capfd.readouterr().err == ""  # no notice, nothing said


def test_whoever_listens_for_signals_already_goes_on_doing_so(capfd):
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    try:
        with StopFlag("stopping soon") as flag:
            flag.notice = "stopping now"
            signal.raise_signal(signal.SIGTERM)
        assert os.read(read, 16) == bytes([signal.SIGTERM])
        assert signal.set_wakeup_fd(-1) == write
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)
    assert capfd.readouterr().err == "stopping now\n"
