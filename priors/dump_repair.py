"""The manifest of a finished dump against its files, and the way back to an unfinished one whose damaged parts are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs.errors import DataError
from ..configs.files import sha256_of, write_text

if TYPE_CHECKING:
    from .dump import DumpSpec


def place(form: str, name: str) -> str:
    """Where a file of a part lies in the folder of the dump."""
    return name if form == "tabicl" else f"data/{name}"  # TabICL's reader wants its files at the top


def note_of(out: Path, part: int) -> Path:
    """The note that says which files a finished part has."""
    return out / ".progress" / f"{part:05d}.json"


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a finished dump.

    Raises:
      DataError: there is none, or it is no manifest.
    """
    try:
        manifest = json.loads((out / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{out} holds no readable manifest.json ({error}); is the dump finished?") from None
    keys = {"path": str, "bytes": int, "sha256": str}
    files = manifest.get("files") if isinstance(manifest, dict) else None
    well = isinstance(files, list) and all(
        isinstance(f, dict) and all(isinstance(f.get(k), kind) for k, kind in keys.items()) for f in files
    )
    if not well or not isinstance(manifest.get("n_tasks"), int):
        raise DataError(
            f"{out / 'manifest.json'} is not the manifest of a dump (an object with n_tasks and a list of files, each with "
            "path, bytes and sha256). Generate again with the same settings and --resume: that writes it anew"
        )
    return manifest


def damage(out: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file of the manifest, or None. The content is read only where the size is right."""
    path = out / entry["path"]
    if not path.is_file():
        return f"{path} is missing; the manifest lists it"
    if path.stat().st_size != entry["bytes"]:
        return f"{path} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}"
    if sha256_of(path) != entry["sha256"]:
        return f"{path} has changed: its sha256 is not the manifest's"
    return None


def reopen(spec: DumpSpec, out: Path) -> None:
    """Makes a finished dump that lost or changed a file an unfinished one: its whole parts are noted, the manifest goes.

    An unreadable manifest vouches for nothing, so then no part is noted. A dump without damage is left as it is.
    """
    try:
        files = read_manifest(out)["files"]
    except DataError:
        files = []
    parts: dict[int, list[dict[str, Any]]] = {}
    for entry in files:
        part = _part_of(spec, entry["path"])
        if part is not None:
            parts.setdefault(part, []).append(entry)
    whole = {part: entries for part, entries in parts.items() if not any(damage(out, e) for e in entries)}
    if len(whole) == spec.n_parts:
        return
    # Notes first: a run killed here has them beside a manifest that still says what is wrong.
    for part, entries in whole.items():
        write_text(note_of(out, part), json.dumps(entries))
    for part in set(range(spec.n_parts)) - set(whole):
        note_of(out, part).unlink(missing_ok=True)
    (out / "manifest.json").unlink()


def _part_of(spec: DumpSpec, path: str) -> int | None:
    """The part a file belongs to, by its name; see `PartInfo.stem`."""
    start, end = ("batch_", ".") if spec.format == "tabicl" else ("data/part-", "-")
    digits = path.removeprefix(start).partition(end)[0]
    return int(digits) if digits.isdigit() and int(digits) < spec.n_parts else None
