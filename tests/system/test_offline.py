"""No network: importing, sampling, fitting and predicting open no internet socket; importing is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

NO_SOCKETS = """
import sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request"):
        raise SystemExit(f"{event} {args}")

sys.addaudithook(watch)
import numpy as np
import priorax
if sys.argv[1:] == ["sample"]:
    priorax.sample(priorax.load_prior("default"), seed=0, task_ids=range(16), rows=64, columns=8)
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
y = (X[:, 0] > 0).astype(int)
priorax.PFNClassifier(n_estimators=1).fit(X[:40], y[:40]).predict_proba(X[40:])
print("ok")
"""


@pytest.mark.parametrize("also", [[], pytest.param(["sample"], marks=pytest.mark.heavy)], ids=["predict", "sample"])
def test_no_socket_is_opened(also, tmp_path):
    command = [sys.executable, "-c", NO_SOCKETS, *also]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert run.stdout.strip() == "ok", run.stdout + run.stderr


def test_import_is_light(tmp_path):
    code = "import sys, priorax; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; print(priorax.__version__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr


def test_public_names_resolve():
    import priorax

    for name in priorax.__all__:
        assert getattr(priorax, name) is not None
    assert set(priorax.__all__) <= set(dir(priorax))
