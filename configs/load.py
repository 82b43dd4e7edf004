"""YAML in, frozen dataclass out: the one way a configuration enters the program.

The dataclass is the single truth: its fields are the only valid keys, its type hints the only valid types, and its
``__post_init__`` (raising ValueError) the only range checks. Every error names the key, the value, what is allowed,
and the file and line it came from.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import ConfigError

T = TypeVar("T")


@dataclasses.dataclass
class _Node:
    """A YAML value that remembers where it was written. ``value`` is a scalar, dict[str, _Node] or list[_Node]."""

    value: Any
    where: str
    raw: str = ""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 3e-4 as a number, as YAML 1.2 does (PyYAML follows 1.1 and returns text)."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the text 3e-4, since `_Loader` would read it as a number."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def load_yaml(
    source: str | Path, cls: type[T], *, kind: str | None = None, overrides: Mapping[str, str] | None = None
) -> T:
    """Reads a YAML file (or YAML text) into a frozen dataclass.

    A top-level key ``base: NAME`` takes the values of another preset of the same kind (or of a file, relative to this
    one) first; mappings are merged key by key, lists and scalars are replaced.

    Args:
      source: a path; or YAML text when it is a str holding a line break or a colon followed by a space.
      cls: the dataclass to build. Supported fields: int, float, bool, str, None, Literal, tuple, list, dict with str
        keys, Optional and other unions, nested dataclasses.
      kind: folder of presets that ``base`` refers to (``priors``, ``recipes``, ``suites``).
      overrides: dotted key -> YAML text, applied last, e.g. ``{"train.steps": "100"}``.

    Raises:
      ConfigError: file missing, YAML malformed, unknown key, wrong type, value out of range.
    """
    if isinstance(source, str) and ("\n" in source or ": " in source):
        tree = _parse(source, "<text>")
        tree = _inherit(tree, Path.cwd(), kind, cls, ())
    else:
        tree = _read(Path(source), kind, cls, ())
    for key, text in (overrides or {}).items():
        _override(tree, key, text, cls)
    return _build(tree, cls, "")


def load_preset(kind: str, name: str | Path, cls: type[T], *, overrides: Mapping[str, str] | None = None) -> T:
    """Reads the preset ``name`` of ``kind``, or the YAML file at the path ``name``; see `preset_path`, `load_yaml`."""
    return load_yaml(preset_path(kind, name), cls, kind=kind, overrides=overrides)


def preset_names(kind: str) -> list[str]:
    """Names of the presets shipped for ``kind`` (``priors``, ``recipes`` or ``suites``), sorted."""
    folder = Path(str(resources.files(__package__))) / "presets" / kind
    return sorted(p.stem for p in folder.glob("*.yaml"))


def preset_path(kind: str, name: str | Path) -> Path:
    """Path of a shipped preset, or of the user's own file when ``name`` looks like one (suffix or a separator).

    Raises:
      ConfigError: no such preset (names the nearest and all available ones) or no such file.
    """
    text = os.fspath(name)
    if text.endswith((".yaml", ".yml")) or os.sep in text or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise ConfigError(f"no configuration file {path}; presets: {', '.join(preset_names(kind)) or 'none'}")
        return path
    available = preset_names(kind)
    if text in available:
        return Path(str(resources.files(__package__))) / "presets" / kind / f"{text}.yaml"
    near = difflib.get_close_matches(text, available, n=1, cutoff=0.0)
    nearest = f'The nearest is "{near[0]}". ' if near else ""
    raise ConfigError(
        f'unknown preset "{text}" in {kind}. {nearest}Available: {", ".join(available) or "none"}. '
        "A file of your own works too: give its path, ending in .yaml."
    )


def to_dict(cfg: Any) -> Any:
    """Plain dicts, lists and scalars of a configuration, field order kept."""
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        return {f.name: to_dict(getattr(cfg, f.name)) for f in dataclasses.fields(cfg) if f.init}
    if isinstance(cfg, Mapping):
        return {str(k): to_dict(v) for k, v in cfg.items()}
    if isinstance(cfg, (tuple, list)):
        return [to_dict(v) for v in cfg]
    return cfg


def to_yaml(cfg: Any) -> str:
    """YAML text that `load_yaml` turns back into an equal configuration."""
    return yaml.dump(to_dict(cfg), Dumper=_Dumper, sort_keys=False, width=110)


def settings_in_use(cfg: Any) -> dict[str, Any]:
    """The fields of a configuration by name, without those that came later (metadata ``added``) and have their default, under
    which everything is as it was before there was the field."""
    told = {f.name: (f, getattr(cfg, f.name)) for f in dataclasses.fields(cfg) if f.init}
    return {name: value for name, (f, value) in told.items() if not (f.metadata.get("added") and value == f.default)}


def config_digest(cfg: Any) -> str:
    """sha256 (hex) of the canonical JSON of a configuration. 1 and 1.0 are the same value; field order is no part.

    Fields that came later count only where they are used (`settings_in_use`): runs and dumps begun before go on.
    """

    def canonical(v: Any) -> Any:
        if dataclasses.is_dataclass(v) and not isinstance(v, type):
            return {name: canonical(x) for name, x in settings_in_use(v).items()}
        if isinstance(v, Mapping):
            return {str(k): canonical(x) for k, x in v.items()}
        if isinstance(v, (tuple, list)):
            return [canonical(x) for x in v]
        if isinstance(v, float) and math.isfinite(v) and v == int(v):
            return int(v)
        return v

    text = json.dumps(canonical(cfg), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def nearest(word: str, options: list[str]) -> str | None:
    """The option most similar to ``word``, or None when there is none to choose from."""
    found = difflib.get_close_matches(word, options, n=1, cutoff=0.0)
    return found[0] if found else None


# --- reading -----------------------------------------------------------------------------------------------------


def _read(path: Path, kind: str | None, cls: type, seen: tuple[Path, ...]) -> _Node:
    path = path.expanduser()
    if path.resolve() in seen:
        chain = " -> ".join(p.name for p in (*seen, path))
        raise ConfigError(f"base presets form a circle: {chain}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from None
    return _inherit(_parse(text, str(path)), path.parent, kind, cls, (*seen, path.resolve()))


def _inherit(tree: _Node, folder: Path, kind: str | None, cls: type, seen: tuple[Path, ...]) -> _Node:
    if "base" not in tree.value or any(f.name == "base" for f in dataclasses.fields(cls)):
        return tree
    base = tree.value.pop("base")
    if not isinstance(base.value, str):
        raise ConfigError(f"base is {base.raw!r}; expected the name of a preset or a file ({base.where})")
    local = folder / base.value
    if local.is_file() or kind is None:
        parent = _read(local, kind, cls, seen)
    else:
        parent = _read(preset_path(kind, base.value), kind, cls, seen)
    return _merge(parent, tree)


def _parse(text: str, name: str) -> _Node:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if root is None:
        return _Node({}, f"{name}, line 1")
    loader = _Loader("")

    def convert(node: yaml.Node) -> _Node:
        where = f"{name}, line {node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            items: dict[str, _Node] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                if key in items:
                    raise ConfigError(f"key {key} is given twice ({name}, line {key_node.start_mark.line + 1})")
                items[key] = convert(value_node)
                items[key].where = f"{name}, line {key_node.start_mark.line + 1}"
            return _Node(items, where, "a mapping")
        if isinstance(node, yaml.SequenceNode):
            return _Node([convert(v) for v in node.value], where, "a list")
        try:
            return _Node(loader.construct_object(node), where, node.value)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"cannot read the value {node.value!r}: {error} ({where})") from None

    tree = convert(root)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"expected keys and values, found {tree.raw!r} ({tree.where})")
    return tree


def _merge(below: _Node, above: _Node) -> _Node:
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = _merge(merged[key], node) if key in merged else node
    return _Node(merged, above.where, above.raw)


def _override(tree: _Node, key: str, text: str, cls: Any) -> None:
    """Sets one value. A group that the file does not have starts from the default of its field, so that the rest stays as it
    would be without the override (weights that a file leaves out are 0 only beside others that it names)."""
    where = f"command line, --{key}"
    *parents, last = key.split(".")
    try:
        leaf = _parse(f"v: {text}", where).value["v"]
    except ConfigError:
        leaf = _Node(text, where, text)
    _relocate(leaf, where)
    here = tree
    for part in parents:
        if isinstance(here.value, list) and part.isdigit() and int(part) < len(here.value):
            here, cls = here.value[int(part)], (typing.get_args(cls) or (None,))[0]
            continue
        if not isinstance(here.value, dict):
            raise ConfigError(f"{key} cannot be set: {part} is looked for inside a single value ({where})")
        field = next((f for f in dataclasses.fields(cls) if f.name == part), None) if dataclasses.is_dataclass(cls) else None
        cls = typing.get_type_hints(cls).get(part) if field else None
        start = field.default if field and dataclasses.is_dataclass(field.default) else {}
        here = here.value.setdefault(part, _as_node(to_dict(start), where))
    if isinstance(here.value, list) and last.isdigit() and int(last) < len(here.value):
        here.value[int(last)] = leaf
    elif isinstance(here.value, dict):
        here.value[last] = leaf
    else:
        raise ConfigError(f"{key} cannot be set: {'.'.join(parents)} is not a group of settings ({where})")


def _as_node(value: Any, where: str) -> _Node:
    """Plain values as if they had been read."""
    if isinstance(value, dict):
        return _Node({k: _as_node(v, where) for k, v in value.items()}, where, "a mapping")
    if isinstance(value, list):
        return _Node([_as_node(v, where) for v in value], where, "a list")
    return _Node(os.fspath(value) if isinstance(value, Path) else value, where, str(value))


def _relocate(node: _Node, where: str) -> None:
    node.where = where
    children = node.value.values() if isinstance(node.value, dict) else node.value
    if isinstance(node.value, (dict, list)):
        for child in children:
            _relocate(child, where)


# --- building ----------------------------------------------------------------------------------------------------


def _build(node: _Node, cls: type[T], path: str) -> T:
    if not isinstance(node.value, dict):
        raise _wrong(node, path, f"a group of settings ({', '.join(f.name for f in dataclasses.fields(cls))})")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values = {}
    for key, child in node.value.items():
        full = f"{path}.{key}" if path else key
        if key not in fields:
            near = nearest(key, list(fields))
            hint = f" Did you mean {f'{path}.{near}' if path else near}?" if near else ""
            raise ConfigError(f"{full} is not a setting of {_title(cls)}.{hint} ({child.where})")
        values[key] = _convert(child, hints[key], full)
    for name, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and name not in values:
            full = f"{path}.{name}" if path else name
            raise ConfigError(f"{full} is missing; {_title(cls)} needs it ({node.where})")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        # The check belongs to the class and names its field in its message; find the line that set that field.
        message = str(error)
        named = [k for k in node.value if re.search(rf"\b{re.escape(k)}\b", message)]
        where = node.value[named[0]].where if named else node.where
        prefix = f"{path}: " if path and not message.startswith(path) else ""
        raise ConfigError(f"{prefix}{message} ({where})") from None


def _convert(node: _Node, hint: Any, path: str) -> Any:
    origin, args, value = typing.get_origin(hint), typing.get_args(hint), node.value
    if hint is Any:
        return _plain(node)
    if origin is typing.Annotated:
        return _convert(node, args[0], path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(node, args, path)
    if origin is typing.Literal:
        for option in args:
            if (value == option and type(value) is type(option)) or (isinstance(option, str) and node.raw == option):
                return option
        near = nearest(node.raw, [str(a) for a in args])
        options = ", ".join(str(a) for a in args)
        raise ConfigError(f"{path} is {node.raw!r}; allowed: {options}. Did you mean {near}? ({node.where})")
    if dataclasses.is_dataclass(hint):
        return _build(node, hint, path)
    if origin in (tuple, list) or hint in (tuple, list):
        return _convert_sequence(node, origin or hint, args, path)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, dict):
            raise _wrong(node, path, "a mapping of names to values")
        inner = args[1] if len(args) == 2 else Any
        return {k: _convert(v, inner, f"{path}.{k}") for k, v in value.items()}
    return _convert_scalar(node, hint, path)


def _convert_scalar(node: _Node, hint: Any, path: str) -> Any:
    value = node.value
    if hint in (None, type(None)):
        if value is None:
            return None
        raise _wrong(node, path, "null")
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise _wrong(node, path, "true or false")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)  # 1e6 is the readable way to write a large count
        raise _wrong(node, path, "a whole number")
    if hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise _wrong(node, path, "a number")
    if hint is str:
        if isinstance(value, str):
            return value
        quoted = "" if isinstance(value, (dict, list)) else f' (write it in quotes: "{node.raw}")'
        raise _wrong(node, path, f"text{quoted}")
    if hint is Path:
        if isinstance(value, str):
            return Path(value)
        raise _wrong(node, path, "a path")
    raise TypeError(f"{path}: fields of type {hint} cannot be read from YAML")


def _convert_sequence(node: _Node, kind: type, args: tuple, path: str) -> Any:
    if not isinstance(node.value, list):
        raise _wrong(node, path, "a list")
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(node.value) != len(args):
            raise _wrong(node, path, f"a list of {len(args)} values, found {len(node.value)}")
        return tuple(_convert(v, a, f"{path}.{i}") for i, (v, a) in enumerate(zip(node.value, args, strict=True)))
    inner = args[0] if args else Any
    return kind(_convert(v, inner, f"{path}.{i}") for i, v in enumerate(node.value))


def _convert_union(node: _Node, arms: tuple, path: str) -> Any:
    if node.value is None and type(None) in arms:
        return None
    arms = tuple(a for a in arms if a is not type(None))
    errors = []
    for arm in arms:
        try:
            return _convert(node, arm, path)
        except ConfigError as error:
            errors.append((arm, error))
    if len(errors) == 1 or not isinstance(node.value, dict):
        if len(errors) > 1:
            raise _wrong(node, path, " or ".join(getattr(a, "__name__", str(a)) for a in arms))
        raise errors[0][1]
    # Several dataclasses: report about the one whose Literal tag (e.g. kind: graph) fits, else the first.
    for arm, error in errors:
        if dataclasses.is_dataclass(arm):
            hints = typing.get_type_hints(arm)
            tags = [n for n, h in hints.items() if typing.get_origin(h) is typing.Literal and n in node.value]
            if any(node.value[n].value in typing.get_args(hints[n]) for n in tags):
                raise error
    raise errors[0][1]


def _plain(node: _Node) -> Any:
    if isinstance(node.value, dict):
        return {k: _plain(v) for k, v in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(v) for v in node.value]
    return node.value


def _wrong(node: _Node, path: str, expected: str) -> ConfigError:
    shown = node.raw if isinstance(node.value, (dict, list)) else repr(node.raw)
    return ConfigError(f"{path or 'the file'} is {shown}; expected {expected} ({node.where})")


def _title(cls: type) -> str:
    return cls.__name__
