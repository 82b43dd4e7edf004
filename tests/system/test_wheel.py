"""The built wheel: its file list is the tree's, and it works where nothing else is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"priorax": "src/priorax", **{f"priorax/{r}": r for r in ("configs", "priors", "models", "train", "eval")}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the checkout, without build isolation, so that nothing is downloaded."""
    work = tmp_path_factory.mktemp("wheel")
    copy = work / "source"
    copy.mkdir()
    for name in [*dict.fromkeys(v.split("/")[0] for v in ROOMS.values()), "pyproject.toml", "README.md", "LICENSE"]:
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    run = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(copy)],
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (built,) = work.glob("*.whl")
    return built


def test_file_list_is_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {n for n in archive.namelist() if ".dist-info/" not in n}
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    expected = set()
    for package, room in ROOMS.items():
        files = set((ROOT / room).glob("*.py"))
        for pattern in patterns.get(package.replace("/", "."), []):
            found = set((ROOT / room).glob(pattern))
            files |= found
        expected |= {f"{package}/{f.relative_to(ROOT / room).as_posix()}" for f in files}
    assert inside == expected
    for must in ("priorax/py.typed", "priorax/configs/presets/priors/default.yaml", "priorax/train/loop.py"):
        assert must in inside


def test_every_python_file_belongs_to_a_listed_package():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == {p.replace("/", ".") for p in ROOMS}
    for room in ROOMS.values():
        for path in (ROOT / room).rglob("*.py"):
            assert path.parent == ROOT / room, f"{path} lies in a sub-package that pyproject.toml does not list"


def test_metadata_names_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        text = archive.read(name).decode()
        assert any(n.endswith("licenses/LICENSE") for n in archive.namelist())
    assert "License-Expression: Apache-2.0" in text
    assert wheel.stat().st_size < 20e6


SMOKE = """
import sys, pathlib
import priorax
assert not pathlib.Path(priorax.__file__).is_relative_to({root!r}), priorax.__file__
batch = priorax.sample(priorax.load_prior("default"), seed=0, task_ids=range(16), rows=64, columns=8)
assert batch.x.shape == (16, 64, 8)
from sklearn.datasets import load_iris
X, y = load_iris(return_X_y=True)
p = priorax.PFNClassifier(n_estimators=1).fit(X[::2], y[::2]).predict_proba(X[1::2])
accuracy = (p.argmax(1) == y[1::2]).mean()
assert p.shape == (75, 3) and accuracy > 0.8, accuracy
print("ok")
"""


@pytest.mark.heavy
def test_wheel_works_beside_the_installed_dependencies(wheel, tmp_path):
    """Quick variant: the wheel's files alone, with the dependencies of this environment, run from an empty folder."""
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    path = os.pathsep.join([str(target), sysconfig.get_path("purelib")])
    # -S leaves out .pth files, so that an editable install of the checkout cannot stand in for the wheel.
    run = subprocess.run(
        [sys.executable, "-S", "-c", SMOKE.format(root=str(ROOT))], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout.strip() == "ok", run.stderr[-3000:]


@pytest.mark.slow
def test_wheel_in_a_clean_environment(wheel, tmp_path):
    """The real thing: a new virtual environment, the wheel and what it declares, nothing else (pip needs an index)."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", str(wheel)], check=True, timeout=3600)
    run = subprocess.run(
        [str(python), "-c", SMOKE.format(root=str(ROOT))], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.strip() == "ok", run.stderr[-3000:]
    script = python.parent / "priorax"
    found = subprocess.run([str(script), "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
