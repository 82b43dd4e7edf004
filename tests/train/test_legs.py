"""A run cut into legs: each ends inside its own time, and together they are one run."""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
from priorax.configs import ConfigError, load_prior
from priorax.configs.errors import NumericalError
from priorax.configs.recipe import TaskShape
from priorax.train import pretrain
from priorax.train.checkpoints import list_checkpoints, restore_checkpoint, verify_checkpoint
from priorax.train.clock import Clock, whole_run, worth_replanning
from priorax.train.curriculum import Pace
from priorax.train.heldout import other_tasks_held_out
from priorax.train.rundir import RunDirectory
from priorax.train.state import init_state


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        # a run that starts: the total asked for, else this leg, else the recipe
        ({"total": 40, "leg": 8, "recipe": 3}, 40),
        ({"leg": 8, "recipe": 3}, 8),
        ({"recipe": 3}, 3),
        # a run that goes on: its plan, or what it took and this leg, whichever is longer
        ({"leg": 8, "recipe": 3, "planned": 40, "earlier": 8}, 40),
        ({"leg": 8, "recipe": 3, "planned": 40, "earlier": 35}, 43),
        ({"leg": 8, "recipe": 3, "planned": 8, "earlier": 8}, 16),
        ({"recipe": 3, "planned": 40, "earlier": 8}, 40),
        ({"recipe": 30, "earlier": 8}, 30),
        ({"total": 50, "leg": 8, "recipe": 3, "planned": 40, "earlier": 8}, 50),
        ({"total": 40, "leg": 8, "recipe": 3, "planned": 40, "earlier": 41}, 40),
        # steps decide: a leg only cuts
        ({"leg": 8, "steps": 100}, None),
        ({"leg": 8, "steps": 100, "earlier": 8}, None),
        ({"leg": 8, "steps": 100, "recipe": 30}, 30),
    ],
)
def test_what_a_run_is_planned_for(given, wanted):
    nothing = dict.fromkeys(("total", "leg", "recipe", "steps", "planned", "earlier"))
    assert whole_run(**nothing | given) == wanted


def test_who_compares_legs_on_other_devices_is_told():
    """The prior of the recipes chooses among the candidates of each device, so other tasks are held out."""
    default, choosing = load_prior("default"), load_prior("pretraining")
    assert "2 x cpu, this one runs on 1 x cpu" in other_tasks_held_out(choosing, "2 x cpu", "1 x cpu")
    assert other_tasks_held_out(choosing, "1 x cpu", "1 x cpu") is None
    assert other_tasks_held_out(choosing, None, "1 x cpu") is None
    assert other_tasks_held_out(default, "2 x cpu", "1 x cpu") is None


def test_a_total_that_is_over_is_refused():
    with pytest.raises(ConfigError, match="20 s, but 30 s are spent"):
        whole_run(total=20, leg=8, recipe=None, steps=None, planned=40, earlier=30)


def test_the_clock_leaves_time_to_close_and_for_later_legs():
    ago = time.monotonic() - 30
    clock = Clock(leg=100, budget=350, earlier=50, started=ago, startup=10, closing=5)
    assert clock.left() == pytest.approx(70, abs=1)
    assert clock.fits(50) and not clock.fits(60)  # 1.15 x 60 + 5 > 70
    # 270 s are left of the run: 70 here, then two legs that each lose 10 s at the start; three times 5 s to close.
    assert clock.trainable() == pytest.approx(270 - 3 * 5 - 2 * 10, abs=1)
    clock.budget = 132  # what is left after this leg is less than a leg takes to start
    assert clock.trainable() == pytest.approx(52 - 5, abs=1)
    clock.budget = 162
    assert clock.trainable() == pytest.approx(70 - 5, abs=1)
    whole = Clock(leg=100, budget=150, earlier=50, started=ago, startup=10, closing=5)
    assert whole.trainable() == pytest.approx(70 - 5, abs=1)
    assert Clock(leg=None).left() == float("inf") and Clock(leg=None).fits(1e9)


def test_a_validation_that_takes_most_of_a_leg_does_not_keep_it_from_training():
    assert Clock(leg=600).kept_to_validate(150) == 150 and Clock(leg=600).kept_to_validate(151) == 0
    assert Clock(leg=None, budget=80, earlier=40).kept_to_validate(11) == 0
    assert Clock(leg=None).kept_to_validate(1e6) == 1e6
    ago = time.monotonic() - 500
    late = Clock(leg=600, started=ago, closing=120)
    assert late.too_late_to_validate(120, cut=True) and not late.too_late_to_validate(120, cut=False)  # time was kept
    assert late.too_late_to_validate(151, cut=False) and not late.too_late_to_validate(80, cut=True)
    early = Clock(leg=600, started=time.monotonic() - 100, closing=120)
    assert early.may_validate_on_the_way(120) and not early.may_validate_on_the_way(151)
    assert not Clock(leg=600, started=time.monotonic() - 400, closing=120).may_validate_on_the_way(120)


@pytest.mark.slow  # lasts four times as long as a run takes to start
def test_a_run_with_too_many_held_out_tasks_trains_and_leaves_them(toy, tmp_path):
    train = dataclasses.replace(toy.RECIPE.train, steps=None, checkpoint_steps=10**6, validation_tasks=10**7)
    recipe = dataclasses.replace(toy.RECIPE, train=train)
    kind = {"quiet": True, "sampler_factory": toy.linear_tasks}
    before = time.monotonic()
    pretrain(toy.RECIPE, tmp_path / "a", watch=lambda at: True, **kind)
    limit = 3 * (time.monotonic() - before)  # what it takes to start on this machine, and twice as much again
    before = time.monotonic()
    result = pretrain(recipe, tmp_path / "b", time_limit=limit, **kind)
    assert time.monotonic() - before < 1.2 * limit
    assert result.steps > 8 and result.validation["shapes"] == []


@pytest.mark.parametrize(
    ("step", "horizon", "planned", "wanted"),
    [
        (8, 10**8, 400, True),
        (100, 400, 405, False),  # too little to matter
        (100, 400, 500, True),
        (300, 400, 420, False),  # decays, and the time is nearly right
        (300, 400, 500, True),  # much would be left over
        (300, 400, 390, True),  # would be cut off before the end of the decay
        (300, 400, 396, False),
        (380, 400, 500, False),  # too near the end to take the rate up again
        (380, 400, 388, True),
        (400, 400, 800, False),
        (300, 400, 300, False),  # no dispatch fits: the clock ends the run, the plan stays
    ],
)
def test_when_a_plan_changes(step, horizon, planned, wanted):
    assert worth_replanning(step, horizon, planned, dispatch=8) is wanted


def test_a_first_guess_is_replaced_at_any_point_and_both_ways():
    assert worth_replanning(8, 8, 400, dispatch=8, free=True) and worth_replanning(8, 10, 400, dispatch=8, free=True)


def test_a_rare_slow_dispatch_changes_the_price_little():
    pace = Pace((TaskShape(columns=9),))
    for i in range(100):
        pace.add(0, 30.0 if i == 90 else 1.0)
    assert 1 < pace.price(0) < 2
    for _ in range(100):  # slower for good
        pace.add(0, 3.0)
    assert 2.8 < pace.price(0) <= 3.0


def test_a_known_pace_prices_at_once_and_ignores_the_first_dispatch():
    shapes = (TaskShape(columns=9), TaskShape(columns=19, start=0.5))
    fresh, known = Pace(shapes), Pace(shapes, {0: 1.0, 1: 2.0})
    assert fresh.price(0) == 0 and known.price(1) == 2.0
    assert not fresh.settled(0.0) and known.settled(0.9)
    known.add(0, 30.0)  # warms up
    assert known.price(0) == 1.0
    known.add(0, 2.0)
    assert known.price(0) == pytest.approx(1.2)
    fresh.add(0, 30.0)
    assert not fresh.settled(0.0)
    fresh.add(0, 1.0)
    assert fresh.settled(0.0) and not fresh.settled(0.5) and fresh.price(1) == pytest.approx(2.0)


def _events(out, name):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r.get("event") == name]


def _losses(out):
    return [r for r in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in r]


@pytest.mark.slow
def test_every_leg_ends_in_its_time_and_the_plan_spans_them_all(toy, finished, tmp_path):
    """Three legs: two of a run planned for hours, which end undecayed; then one that is to be the last.

    Lasts four times as long as a run takes to start, half a minute at least."""
    train = dataclasses.replace(toy.RECIPE.train, steps=None, checkpoint_steps=10**6)
    recipe = dataclasses.replace(toy.RECIPE, train=train)
    out, kind = tmp_path / "run", {"quiet": True, "sampler_factory": toy.linear_tasks}
    start = time.monotonic()
    one = pretrain(recipe, out, time_limit=3600, total_time=7200, watch=lambda at: at.step >= 16, **kind)
    limit = max(3.0, 2 * (time.monotonic() - start))  # what it takes to start on this machine, and as much again
    assert one.steps == 16 and one.horizon > 1000
    results = [one]
    for total in (None, limit):
        start = time.monotonic()
        if total:
            total += results[-1].seconds
        results.append(pretrain(recipe, out, resume=True, time_limit=limit, total_time=total, **kind))
        assert time.monotonic() - start < 1.1 * limit  # a tenth for a machine that is busy with something else
        assert list_checkpoints(out / "checkpoints")[-1][0] == results[-1].steps  # nothing is lost
    _, two, three = results
    assert one.steps < two.steps < three.steps and two.resumed_from == one.steps
    assert two.horizon > 20 * two.steps  # the plan is that of hours still
    rates = {r["step"]: r["learning_rate"] for r in _losses(out)}
    assert rates[one.steps] == rates[two.steps] == pytest.approx(train.learning_rate)
    assert three.horizon < 2 * three.steps and rates[three.steps] < 0.5 * train.learning_rate


def test_a_cut_run_of_fixed_steps_equals_an_uncut_one(toy, finished, tmp_path):
    out, kind = tmp_path / "run", {"quiet": True, "sampler_factory": toy.linear_tasks}
    cut = pretrain(toy.RECIPE, out, time_limit=600, watch=lambda at: at.step == 8, **kind)
    assert cut.steps == 8 and cut.horizon == 24 and not cut.interrupted
    assert list_checkpoints(out / "checkpoints")[-1][0] == 8 and cut.weights_path.is_file()
    nothing = pretrain(toy.RECIPE, out, resume=True, time_limit=0.01, **kind)
    assert nothing.steps == nothing.resumed_from == 8 and nothing.validation["shapes"] == []
    rest = pretrain(toy.RECIPE, out, resume=True, **kind)
    assert rest.steps == 24 and rest.resumed_from == 8 and rest.tasks_seen == 192
    like = init_state(toy.RECIPE, 0, 24)
    states = [restore_checkpoint(list_checkpoints(d / "checkpoints")[-1][1], like).state for d in (out, finished[0])]
    assert toy.digest(states[0]) == toy.digest(states[1])
    trained = lambda d: [{k: v for k, v in r.items() if k not in ("tasks_per_s", "seconds")} for r in _losses(d)]
    assert trained(out) == trained(finished[0]) and not _events(out, "horizon")


def test_training_alone_may_be_counted_over_all_legs(toy, tmp_path):
    moments = []

    def watch(moment):
        moments.append(moment)
        return moment.step == 8

    settings = {"quiet": True, "sampler_factory": toy.linear_tasks, "watch": watch}
    pretrain(toy.RECIPE, tmp_path / "a", training_only=True, **settings)
    first, last = moments
    assert first.seconds - first.train_seconds < first.startup_seconds
    moments.clear()
    pretrain(toy.RECIPE, tmp_path / "a", resume=True, training_only=True, **settings)
    assert [m.step for m in moments] == [12, 16, 20, 24]
    assert moments[0].train_seconds > last.train_seconds
    assert moments[0].seconds > last.seconds
    moments.clear()
    pretrain(toy.RECIPE, tmp_path / "b", **settings)
    assert moments[0].seconds > moments[0].startup_seconds


def test_a_limit_of_training_alone_goes_into_training(toy, tmp_path):
    train = dataclasses.replace(toy.RECIPE.train, steps=None, checkpoint_steps=10**6)
    recipe = dataclasses.replace(toy.RECIPE, train=train)
    result = pretrain(
        recipe, tmp_path, total_time=1.5, training_only=True, quiet=True, sampler_factory=toy.linear_tasks
    )
    # With everything counted two seconds are kept back to validate and to write, and not a step would be taken.
    assert result.steps > 8 and 0 < result.train_seconds < 1.5
    assert result.validation["shapes"]


def test_another_limit_of_the_recipe_counts_whatever_became_of_the_leg_that_first_had_it(toy, tmp_path):
    train = dataclasses.replace(toy.RECIPE.train, steps=None, time_limit=3600, checkpoint_steps=10**6)
    recipe = dataclasses.replace(toy.RECIPE, train=train)
    longer = dataclasses.replace(recipe, train=dataclasses.replace(train, time_limit=7200))
    out, kind = tmp_path / "run", {"quiet": True, "sampler_factory": toy.linear_tasks}

    def planned() -> float:
        return verify_checkpoint(list_checkpoints(out / "checkpoints")[-1][1])["meta"]["planned_seconds"]

    pretrain(recipe, out, watch=lambda at: at.step >= 8, **kind)
    assert planned() == 3600
    with pytest.raises(ConfigError, match="started with seed 0"):
        pretrain(longer, out, resume=True, seed=1, **kind)
    pretrain(longer, out, resume=True, watch=lambda at: at.step >= 16, **kind)
    assert planned() == 7200
    pretrain(longer, out, resume=True, watch=lambda at: at.step >= 24, **kind)
    assert planned() == 7200
    with pytest.raises(ConfigError, match="another process is training"):
        pretrain(longer, out, resume=True, watch=lambda at: pretrain(longer, out, resume=True, **kind), **kind)


def test_a_directory_has_one_process_at_a_time(toy, tmp_path):
    one, two = (RunDirectory(tmp_path / "run", toy.RECIPE, load_prior(toy.RECIPE.prior), 0) for _ in range(2))
    one.open(False)
    with pytest.raises(ConfigError, match="another process is training"):
        two.open(True)
    one.close()
    two.open(True)
    two.close()


def test_what_is_wrong_with_the_weights_is_not_called_a_full_disk(toy, tmp_path):
    run = RunDirectory(tmp_path / "run", toy.RECIPE, load_prior(toy.RECIPE.prior), 0)
    state = init_state(toy.RECIPE, 0, 24)
    huge = jax.tree.map(lambda a: a + 1e9, state.average)  # beyond what the file's 16 bits can hold
    run.open(False)
    with pytest.raises(NumericalError, match="float16"):
        run.export(dataclasses.replace(state, step=np.int32(8), average=huge), 64, {"loss": 1.0, "accuracy": 0.5, "roc_auc": 0.5})
    run.close()
