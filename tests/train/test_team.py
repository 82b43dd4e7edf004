"""Several processes train one network: the same losses as one, files of process 0 alone, errors in all of them."""

from __future__ import annotations

import json
import signal
import socket

import numpy as np
import pytest
from priorax.configs import ConfigError
from priorax.train import join
from priorax.train.checkpoints import list_checkpoints, restore_checkpoint
from priorax.train.state import init_state


@pytest.fixture
def start_team(start_toy, tmp_path):
    """Starts two processes of the toy run on this machine; each is given a directory of its own."""

    def start(*args: object, own: tuple[tuple[object, ...], ...] = ((), ())):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [
            start_toy(tmp_path / f"process{i}", "--team", f"{port},2,{i}", *args, *own[i], XLA_FLAGS="")
            for i in range(2)
        ]

    return start


def _finish(processes):
    out = [p.communicate(timeout=600) for p in processes]
    return [p.returncode for p in processes], [o[0].splitlines() for o in out], [o[1] for o in out]


def _losses(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records if "loss" in r]


@pytest.mark.slow  # both compile
def test_two_processes_learn_what_one_learns_and_one_writes(finished, start_team, tmp_path):
    codes, lines, errors = _finish(start_team())
    assert codes == [0, 0], errors
    np.testing.assert_allclose(_losses(tmp_path / "process0"), _losses(finished[0]), rtol=2e-3)
    told = [json.loads(text[-1]) for text in lines]
    assert told[0] == told[1] and told[0]["done"] == 24
    assert told[0]["validation"] == pytest.approx(finished[1].validation["loss"], rel=2e-3)
    assert (tmp_path / "process0" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "process0" / "env.json").read_text())["process_count"] == 2
    assert len(list_checkpoints(tmp_path / "process0" / "checkpoints")) == 3
    assert not (tmp_path / "process1").exists()


@pytest.mark.slow  # both compile, twice
def test_a_stopped_team_goes_on_as_one_process(toy, finished, start_team, tmp_path):
    """SIGTERM reaches one of the two; both end, saved. Their checkpoint is anyone's; two go on, or one does."""
    team = start_team("--delay", 0.05)
    for line in team[0].stdout:
        if json.loads(line).get("step", 0) >= 8:
            team[1].send_signal(signal.SIGTERM)
            break
    codes, lines, errors = _finish(team)
    assert codes == [0, 0], errors
    told = [json.loads(text[-1]) for text in lines]
    assert told[0]["interrupted"] == told[1]["interrupted"] == signal.SIGTERM
    assert 8 <= told[0]["done"] == told[1]["done"] < 24
    codes, lines, errors = _finish(start_team("--resume"))
    assert codes == [0, 0], errors
    assert [json.loads(text[-1])["from"] for text in lines] == [told[0]["done"]] * 2
    np.testing.assert_allclose(_losses(tmp_path / "process0"), _losses(finished[0]), rtol=2e-3)
    like = init_state(toy.RECIPE, 0, 24)
    restore_checkpoint(list_checkpoints(tmp_path / "process0" / "checkpoints")[-1][1], like)


@pytest.mark.slow  # starts six processes
def test_errors_end_every_process_with_a_reason(start_team, tmp_path):
    codes, _, errors = _finish(start_team(own=((), ("--seed", 5))))
    assert all(codes)
    assert "process 1 has seed 5, process 0 has 0" in errors[1] and "another process was started" in errors[0]
    assert not (tmp_path / "process0" / "checkpoints").exists()
    codes, _, errors = _finish(start_team("--tasks", 9))
    assert all(codes)
    assert all("shapes.0.tasks is 9, which 2 processes cannot share equally" in text for text in errors)
    folder = tmp_path / "process0" / "checkpoints" / "step-000000004"
    folder.mkdir(parents=True)
    codes, _, errors = _finish(start_team())
    assert all(codes) and "already holds a run" in errors[0]
    assert "process 0 ended: ConfigError" in errors[1] and "already holds a run" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.0.0.1", 2, 0), "write HOST:PORT"),
        (("10.0.0.1:99999", 2, 0), "write HOST:PORT"),
        (("10.0.0.1:1234", None, 0), "processes="),
        (("10.0.0.1:1234", 2, None), "index="),
        (("10.0.0.1:1234", 0, 0), "at least 1"),
        (("10.0.0.1:1234", 2, 2), r"lies in 0 \.\. 1"),
        (("auto", 2, None), "come from the cluster"),
    ],
)
def test_flags_that_make_no_team(arguments, message):
    with pytest.raises(ConfigError, match=message):
        join(*arguments)


@pytest.mark.slow  # waits for a process that never comes
def test_a_team_that_is_not_complete_says_so(start_toy, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    codes, _, errors = _finish([start_toy(tmp_path / "run", "--team", f"{port},2,1", TOY_TIMEOUT="3")])
    assert all(codes) and "process 1 of 2 did not find the others" in errors[0], errors
