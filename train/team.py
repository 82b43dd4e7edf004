"""Several processes that train one network: who speaks for them, and how they agree.

Every process runs the same program on its own devices; gradients are averaged inside it (`step.make_dispatch`). What
depends on one machine - its files, its clock, its signals - is decided by process 0 and told to the others, because
processes that disagree about the next program wait for one another for ever.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from ..configs import errors
from ..configs.errors import ConfigError, MissingError, PrioraxError

T = TypeVar("T")
_BYTES = 2048
"""Longest message between processes; one size, so that it compiles once."""


class Team:
    """All processes of a run as seen from one of them; a single process is a team of one and pays nothing.

    Attributes:
      size, index: number of processes, and which one this is.
    """

    def __init__(self) -> None:
        self.size, self.index = jax.process_count(), jax.process_index()

    @property
    def leads(self) -> bool:
        """Whether this process writes files and decides."""
        return self.index == 0

    def share(self, value: T) -> T:
        """The value process 0 holds: anything JSON can carry, up to 2 KB as text."""
        if self.size == 1:
            return value
        from jax.experimental.multihost_utils import broadcast_one_to_all

        text = json.dumps(value).encode() if self.leads else b""
        if len(text) > _BYTES:
            raise ValueError(f"a message of {len(text)} bytes; processes exchange at most {_BYTES}")
        return json.loads(broadcast_one_to_all(_padded(text)).tobytes().rstrip())

    def share_arrays(self, tree: Any) -> Any:
        """The arrays process 0 holds, as host arrays; every process gives a tree of the same shapes and dtypes."""
        if self.size == 1:
            return tree
        from jax.experimental.multihost_utils import broadcast_one_to_all

        return broadcast_one_to_all(jax.tree.map(np.asarray, tree))

    def any(self, number: int) -> int:
        """The first number that is not 0, in order of processes; 0 when there is none."""
        if self.size == 1:
            return number
        from jax.experimental.multihost_utils import process_allgather

        return next((int(n) for n in process_allgather(np.int32(number)) if n), 0)

    def lead(self, work: Callable[..., T], *arguments: Any) -> T:
        """Calls ``work(*arguments)`` in process 0 alone; all processes get its result, something JSON can carry.

        An error of process 0 is raised in all processes, so that none of them waits for one that has gone.
        """
        if self.size == 1:
            return work(*arguments)
        result, caught = None, None
        if self.leads:
            try:
                result = work(*arguments)
            except Exception as error:  # whatever it is, the others must hear of it
                caught = error
        told = self.share([result, None if caught is None else [type(caught).__name__, str(caught)[: _BYTES // 8]]])
        if caught is not None:
            raise caught
        if told[1] is not None:
            kind = getattr(errors, told[1][0], None)
            known = isinstance(kind, type) and issubclass(kind, PrioraxError)
            raise (kind if known else PrioraxError)(f"process 0 ended: {told[1][0]}: {told[1][1]}")
        return told[0]

    def check_same(self, what: dict[str, str]) -> None:
        """Compares settings with those of process 0; ConfigError in every process names the first that differs."""
        if self.size == 1:
            return
        theirs = self.share(what)
        wrong = next((name for name, value in what.items() if theirs.get(name) != value), None)
        if self.any(0 if wrong is None else self.index):
            if wrong is None:
                raise ConfigError("another process was started with other settings; its own message says which")
            raise ConfigError(
                f"process {self.index} has {wrong} {what[wrong]}, process 0 has {theirs.get(wrong)}; start all "
                "processes with the same recipe, prior, seed and versions"
            )


def join(coordinator: str, processes: int | None = None, index: int | None = None, timeout: float = 300) -> Team:
    """Makes this process one of several; must run before JAX touches a device.

    Args:
      coordinator: ``HOST:PORT`` of process 0, the same in all processes; or ``auto`` where JAX can ask the cluster
        (Slurm, Open MPI, Cloud TPU, Kubernetes).
      processes: how many there are; None with ``auto``.
      index: which one this is, 0 .. processes - 1; None with ``auto``.
      timeout: seconds to wait for the others.

    Raises:
      ConfigError: the arguments do not go together, or the processes do not have equally many devices.
      MissingError: the others could not be reached, or there is no cluster to ask.
    """
    automatic = coordinator == "auto"
    if automatic:
        if processes is not None or index is not None:
            raise ConfigError('with coordinator "auto" the number of processes and the process id come from the cluster')
    else:
        _check(coordinator, processes, index)
    _quiet_collectives()
    options: dict[str, Any] = {"initialization_timeout": max(1, round(timeout))}
    if not automatic:
        options |= {"coordinator_address": coordinator, "num_processes": processes, "process_id": index}
        options["cluster_detection_method"] = "deactivate"
        if _is_loopback(coordinator) and index == 0:
            options["coordinator_bind_address"] = coordinator  # other machines need not see it
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if automatic:
            raise MissingError(
                f"no cluster was recognised ({first}); give coordinator=\"HOST:PORT\", processes= and index="
            ) from None
        raise MissingError(
            f"process {index} of {processes} did not find the others at {coordinator} within {timeout:g} s ({first}); "
            "check that all were started, that process 0 runs on that host, and that the port is free and open"
        ) from None
    counts = {d.process_index: 0 for d in jax.devices()}
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{n} in process {i}" for i, n in sorted(counts.items()))
        raise ConfigError(f"processes must have equally many devices; there are {told}")
    return Team()


def leave() -> None:
    """Ends membership; waits for the other processes to end theirs."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def _check(coordinator: str, processes: int | None, index: int | None) -> None:
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f'the coordinator is {coordinator!r}; write HOST:PORT, e.g. 10.0.0.1:1234, or "auto"')
    if processes is None or index is None:
        raise ConfigError("a coordinator needs the number of processes and which of them this is (processes=, index=)")
    if processes < 1:
        raise ConfigError(f"the number of processes is {processes}; it must be at least 1")
    if not 0 <= index < processes:
        raise ConfigError(f"the process id is {index}; with {processes} processes it lies in 0 .. {processes - 1}")


def _is_loopback(coordinator: str) -> bool:
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _quiet_collectives() -> None:
    """CPU processes talk through gloo; SIGTERM stays with the run, which saves and tells the others."""
    for name, value in (("jax_cpu_collectives_implementation", "gloo"), ("jax_enable_preemption_service", False)):
        try:
            jax.config.update(name, value)
        except (AttributeError, ValueError):
            continue  # this version of JAX has no such setting
    os.environ.setdefault("GLOO_LOG_LEVEL", "ERROR")


def _padded(text: bytes) -> np.ndarray:
    return np.frombuffer(text.ljust(_BYTES), np.uint8)
