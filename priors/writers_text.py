"""Prompts in the form MachineLearningLM was trained on: one JSON object per line.

The literals `Label set = [...]` and the assistant's JSON array are what its evaluator parses (commit ee1a5eb); the
rest of the wording is ours in the same order of blocks. Numbers are integers: numeric columns standardised on the
context rows and mapped to 120 z + 500, clipped to 0..999 (the original leaves large values unclipped), categories as
their codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..configs.errors import ConfigError
from .records import TaskRecord, impute

if TYPE_CHECKING:
    from .writers import PartInfo

SYSTEM = "You are an AI assistant. Your task is supervised classification."
MAX_QUERIES = 50
SCHEMAS = ("messages", "alpaca")


def write_mllm(folder: Path, chunks: Iterable[list[TaskRecord]], info: PartInfo) -> list[str]:
    """Writes `NAME.jsonl`. Prompts whose token estimate exceeds the budget lose context rows from the end, never a
    class; at most 50 query rows are asked.

    Raises:
      ConfigError: unknown schema.
    """
    if info.schema not in SCHEMAS:
        raise ConfigError(f"schema is {info.schema!r}; allowed: {', '.join(SCHEMAS)}")
    name = f"{info.stem}.jsonl"
    with open(folder / name, "w", encoding="utf-8", newline="\n") as file:
        for chunk in chunks:
            for task in chunk:
                file.write(json.dumps(prompt(task, info.schema, info.token_budget), ensure_ascii=False) + "\n")
    return [name]


def prompt(task: TaskRecord, schema: str = "messages", token_budget: int = 110_000) -> dict:
    """One task as a chat (``messages``) or as instruction, input and output (``alpaca``)."""
    task = impute(task)
    codes = integers(task)
    queries = np.arange(task.n_context, min(task.n_rows, task.n_context + MAX_QUERIES))
    # A number of up to three digits and its separator are one cl100k token each.
    per_row = 2 * task.n_features + 4
    room = max((token_budget - 200 - len(queries) * (per_row + 16)) // per_row, 0)
    first_seen = {int(np.flatnonzero(task.y[: task.n_context] == c)[0]) for c in range(task.n_classes)}
    context = [i for i in range(task.n_context) if i < room or i in first_seen]
    text = [",".join(map(str, row)) for row in codes.tolist()]  # Python's integers, which are quicker to write than NumPy's
    labels = task.y.tolist()
    train = [f"{text[i]}|{labels[i]}" for i in context]
    test = [f"ID {k}:{text[i]}" for k, i in enumerate(queries)]
    user = "\n".join(
        [
            "[Data]",
            f"Each row has {task.n_features} comma-separated features; a label follows after |.",
            f"Label set = [{', '.join(map(str, range(task.n_classes)))}].",
            f"[Training set] {len(train)} rows",
            *train,
            f"[Test set] {len(test)} rows",
            *test,
            "[Output requirements]",
            'Answer with a JSON array only, one object {"id": ..., "label": ...} for each test row, in order.',
        ]
    )
    answer = json.dumps([{"id": k, "label": int(task.y[i])} for k, i in enumerate(queries)])
    if schema == "alpaca":
        return {"instruction": SYSTEM, "input": user, "output": answer}
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": user},
            {"role": "assistant", "content": answer},
        ]
    }


def integers(task: TaskRecord) -> np.ndarray:
    """i64[R, F] of the values as prompts show them."""
    x = task.x.astype(np.float64)
    context = x[: task.n_context]
    spread = context.std(0)
    z = (x - context.mean(0)) / np.where(spread > 0, spread, 1.0)
    scaled = np.clip(np.floor(120.0 * z + 500.0), 0, 999)
    return np.where(task.categorical[None, :], x, scaled).astype(np.int64)


def dataset_info(files: list[str], schema: str) -> dict:
    """The entry for LLaMA-Factory's `dataset_info.json`, one data set per file."""
    entries = {}
    for i, file in enumerate(files):
        entry: dict = {"file_name": file}
        if schema == "messages":
            entry["formatting"] = "sharegpt"
            entry["columns"] = {"messages": "messages"}
            entry["tags"] = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                             "assistant_tag": "assistant", "system_tag": "system"}  # fmt: skip
        entries[f"priorax_{i:05d}"] = entry
    return entries
