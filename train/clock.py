"""How long a leg may take, how long the whole run may take, and when the next dispatch no longer fits.

A run can be cut into legs, each a process of its own. A leg has a limit, counted from the start of its process; the
learning rate is planned for the whole run, counted over all legs.
"""

from __future__ import annotations

import dataclasses
import math
import time

from ..configs.errors import ConfigError


def whole_run(
    *, total: float | None, leg: float | None, recipe: float | None, steps: int | None, planned: float | None,
    earlier: float | None,
) -> float | None:  # fmt: skip
    """Seconds that all legs of a run may take together, or None when steps alone decide.

    Args:
      total: what was asked for, if anything.
      leg: limit of this leg, if any.
      recipe: ``train.time_limit`` of the recipe.
      steps: ``train.steps`` of the recipe. With steps, a leg cuts the run and never plans it.
      planned: what the run was planned for when its checkpoint was written; None when it was not, or at the start.
      earlier: seconds of earlier legs; None at the start.

    Raises:
      ConfigError: ``total`` is over already.
    """
    if total is not None:
        if earlier is not None and total <= earlier and total != planned:
            raise ConfigError(
                f"the whole run may take {total:g} s, but {earlier:.0f} s are spent already; give a longer total time, "
                "or leave it out to go on for the time of this leg"
            )
        return total
    if steps is not None:
        return planned if planned is not None else recipe
    if earlier is None:
        return leg if leg is not None else recipe
    if leg is None:
        return planned if planned is not None else recipe
    return max(planned or 0.0, earlier + leg)


def worth_replanning(step: int, horizon: int, planned: int, dispatch: int, free: bool = False) -> bool:
    """Whether a run at ``step`` of ``horizon`` should end at ``planned`` instead, what its speed allows by now.

    Freely while the learning rate is at its peak; once it decays, when the time would run out before the decay ends, or
    when much of it would be left over; and in the last tenth only the former.

    Args:
      dispatch: steps of a dispatch, the smallest difference there is.
      free: whether ``horizon`` was a first guess.
    """
    done, ahead = step / horizon, horizon - step
    if planned <= step:
        return False
    if (free or done < 0.6) and abs(planned - horizon) > 0.02 * horizon:
        return True
    longer = done < 0.9 and planned > horizon + max(dispatch, 0.25 * ahead)
    return longer or planned < horizon - max(dispatch, 0.05 * ahead)


@dataclasses.dataclass
class Clock:
    """Time of this leg and of the run, in seconds.

    Attributes:
      leg: limit of this leg, or None.
      budget: limit of the whole run, or None.
      earlier: time of earlier legs.
      started: monotonic time of the start of the leg.
      startup: time this leg took before its first dispatch; what a later leg will lose too.
      closing: time that must remain after the last dispatch, to validate and to write.
    """

    leg: float | None
    budget: float | None = None
    earlier: float = 0.0
    started: float = dataclasses.field(default_factory=time.monotonic)
    startup: float = 0.0
    closing: float = 2.0

    def elapsed(self) -> float:
        """Time of this leg so far."""
        return time.monotonic() - self.started

    def total(self) -> float:
        """Time of all legs so far."""
        return self.earlier + self.elapsed()

    def limit(self) -> float | None:
        """Time this leg may take, by its own limit or by what the run has left; None without limits."""
        limits = (self.leg, None if self.budget is None else self.budget - self.earlier)
        return min((limit for limit in limits if limit is not None), default=None)

    def leg_comes_first(self) -> bool:
        """Whether the limit of this leg ends it before the time of the whole run is over."""
        return self.leg is not None and self.leg == self.limit()

    def left(self) -> float:
        """Time until this leg must have ended; infinity without limits."""
        limit = self.limit()
        return (math.inf if limit is None else limit) - self.elapsed()

    def fits(self, seconds: float) -> bool:
        """Whether a dispatch that is expected to take so long can still be started."""
        return self.left() >= 1.15 * seconds + self.closing

    def kept_to_validate(self, seconds: float) -> float:
        """Time to keep for a validation at the end that takes so long: none for one that would take more than a quarter of
        a leg. Training goes first then, and held-out tasks are measured only if the time happens to be left."""
        return seconds if seconds <= 0.25 * (self.left() + self.elapsed()) else 0.0

    def may_validate_on_the_way(self, seconds: float) -> bool:
        """Whether a validation that takes so long leaves time for the one at the end, for which time must be kept."""
        return seconds == self.kept_to_validate(seconds) and self.left() >= self.closing + seconds

    def too_late_to_validate(self, seconds: float, cut: bool) -> bool:
        """Whether the validation at the end is dropped: after a run was ``cut``, or when no time was kept for it, it must fit."""
        return self.left() < seconds and (cut or not self.kept_to_validate(seconds))

    def trainable(self) -> float:
        """Time left for dispatches in the whole run: less what this leg and those after it lose to start and end."""
        assert self.budget is not None
        left = self.budget - self.total()
        here = left if self.leg is None else min(left, max(self.leg - self.elapsed(), 0.0))
        whole, rest = divmod(left - here, self.leg or 1.0)
        lost = self.startup + self.closing
        return here - self.closing + whole * max((self.leg or 0.0) - lost, 0.0) + max(rest - lost, 0.0)
