"""The command line: finds the command, reads its flags with tyro, turns errors into exit codes.

Exit codes: 0 done; 1 a bug (traceback); 2 flag, configuration or output directory; 3 input data; 4 something needed is
absent; 5 memory; 6 NaN or infinity; 7 a stated threshold failed; 130 and 143 interrupted after saving.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

from priorax.configs.errors import ConfigError, MemoryLimitError, PrioraxError

# command -> (module, class of its flags, what it does). A module has the class, with a method run(settings) -> None.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("cmd_demo", "Demo", "sample, pretrain, predict real data and report, in minutes"),
    "generate": ("cmd_generate", "Generate", "write synthetic tasks to disk"),
    "pretrain": ("cmd_pretrain", "Pretrain", "train a network on a prior"),
    "predict": ("cmd_predict", "Predict", "predict the rows of one table from another"),
    "export": ("cmd_export", "Export", "the network as a StableHLO program, checked"),
    "evaluate": ("cmd_evaluate", "Evaluate", "compare with baselines on real data sets"),
    "inspect prior": ("cmd_inspect_prior", "InspectPrior", "picture of what a prior draws"),
    "inspect task": ("cmd_inspect_task", "InspectTask", "one task: its table and its causal graph"),
    "inspect members": ("cmd_inspect_members", "InspectMembers", "a picture of every mechanism, graph and column kind"),
    "inspect checkpoint": ("cmd_inspect_file", "InspectCheckpoint", "what a weights file holds"),
    "inspect dump": ("cmd_inspect_file", "InspectDump", "recognise a dump, ours or foreign, and check its rules"),
    "bench prior": ("cmd_bench", "BenchPrior", "tasks a second of the sampler"),
    "bench train": ("cmd_bench", "BenchTrain", "training steps a second, and what they cost"),
    "bench speedrun": ("cmd_speedrun", "Speedrun", "minutes and tasks until a recipe passes a random forest"),
    "bench ablate": ("cmd_ablate", "Ablate", "train variants of a recipe and compare them task by task"),
    "bench scaling": ("cmd_scaling", "Scaling", "what more training is expected to bring"),
    "bench predict": ("cmd_bench", "BenchPredict", "latency of fit and predict"),
    "weights list": ("cmd_weights", "WeightsList", "weights on this machine, with licence and hash"),
    "weights path": ("cmd_weights", "WeightsPath", "path of the weights that ship with the package"),
    "weights pack": ("cmd_weights", "WeightsPack", "split a training state into parts with checksums"),
    "weights unpack": ("cmd_weights", "WeightsUnpack", "join the parts of a training state"),
    "weights verify": ("cmd_weights", "WeightsVerify", "run the self-test of a weights file"),
    "doctor": ("cmd_doctor", "Doctor", "versions, devices, caches and a tiny prediction"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        import priorax

        print(priorax.__version__)
        return 0
    try:
        return _run(args)
    except PrioraxError as error:
        print(f"error[{error.exit_code}]: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _is_memory(error):
            advice = "use fewer rows, columns or tasks at once, or a smaller --batch"
            print(f"error[5]: out of memory: {str(error).splitlines()[0]}; {advice}", file=sys.stderr)
            return MemoryLimitError.exit_code
        traceback.print_exc()
        print("error[1]: this is a bug in priorax; please report it with the lines above", file=sys.stderr)
        return 1


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _run(args: list[str]) -> int:
    name, rest = _command(args)
    if rest is None:
        print(usage(only=name))
        return 0
    module, cls_name, _ = COMMANDS[name]
    import tyro

    from priorax import options, output, runtime

    _refuse_repeats(rest)
    cls = getattr(importlib.import_module(f"priorax.{module}"), cls_name)
    command, unknown = tyro.cli(cls, prog=f"priorax {name}", args=rest, return_unknown_args=True)
    command = _with_defaults(command, rest)
    settings = {}
    if unknown:
        _refuse_unknown_flags(name, cls, unknown)
        settings = options.settings(unknown)
    output.set_logging(command.quiet, command.log == "json")
    host_devices = getattr(command, "host_devices", getattr(cls, "HOST_DEVICES", 1))
    runtime.prepare(command.device, host_devices or runtime.cpu_count(), cls.KEEPS_MEMORY)
    command.start_devices()
    command.run(settings)
    return 0


def _with_defaults(command: Any, given: list[str]) -> Any:
    """A positional argument that is left out beside settings: tyro 1.0 makes of it the text "[]" instead of its default."""
    import dataclasses

    lost = {
        f.name: f.default
        for f in dataclasses.fields(command)
        if getattr(command, f.name) == "[]" and f.default is not dataclasses.MISSING and "[]" not in given
    }
    return dataclasses.replace(command, **lost) if lost else command


def _refuse_unknown_flags(name: str, cls: type, unknown: list[str]) -> None:
    """What is no flag must be a setting: a path with a dot, or a name at the top of a prior or a recipe, whose loaders know
    what else it may be; and of a command that takes settings."""
    import dataclasses

    from priorax.configs import PriorConfig, Recipe
    from priorax.configs.load import nearest

    takes = getattr(cls, "TAKES_SETTINGS", False)
    flags = [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(cls)]
    tops = {f"--{f.name.replace('_', '-')}" for c in (PriorConfig, Recipe) for f in dataclasses.fields(c)} if takes else set()
    for typed in unknown if takes else unknown[:1]:
        flag = typed.partition("=")[0].replace("_", "-")
        if takes and (not flag.startswith("--") or "." in flag or flag in tops):
            continue
        say = " Settings are given by their path: --GROUP.NAME VALUE" if takes else ""
        raise ConfigError(f"{typed} is not a flag of priorax {name}. Did you mean {nearest(flag, flags)}?{say}")


def _refuse_repeats(args: list[str]) -> None:
    """A flag given twice would silently lose what it was given first."""
    seen = set()
    for flag in (a.partition("=")[0].replace("_", "-") for a in args if a.startswith("--") and len(a) > 2):
        if flag in seen:
            raise ConfigError(f"{flag} is given twice; give it once, with all values after it where it takes several")
        seen.add(flag)


def _command(args: list[str]) -> tuple[str, list[str] | None]:
    """The command's name and the arguments after it; None for the arguments when a group's help is asked for."""
    first = args[0]
    if first in COMMANDS:
        return first, args[1:]
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if first in groups:
        members = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
        if len(args) < 2 or args[1] in ("-h", "--help"):
            return first, None
        if args[1] in members:
            return f"{first} {args[1]}", args[2:]
        raise ConfigError(f"priorax {first} has no {args[1]!r}; it has: {', '.join(members)}")
    from priorax.configs.load import nearest

    known = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    raise ConfigError(f"{first!r} is not a command. Did you mean {nearest(first, known)}? All: {', '.join(known)}")


def usage(only: str | None = None) -> str:
    """The list of commands."""
    rows = [(n, text) for n, (_, _, text) in COMMANDS.items() if only is None or n.startswith(f"{only} ")]
    width = max(len(n) for n, _ in rows)
    lines = [f"  {n.ljust(width)}  {text}" for n, text in rows]
    return "\n".join(["usage: priorax COMMAND [flags]", "", *lines, "", "priorax COMMAND --help lists the flags."])
