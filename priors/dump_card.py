"""The README card and the Croissant description that go with a dump."""

from __future__ import annotations

from typing import Any

from .records import INFO

SUFFIX = {"parquet": "*.parquet", "hdf5": "*.h5", "npz": "*.npz", "csv": "**/*.csv", "mllm-jsonl": "*.jsonl"}

READING = {
    "parquet": "import pyarrow.parquet as pq, numpy as np\n"
    'row = pq.read_table("data/{file}").slice(0, 1).to_pylist()[0]\n'
    'X = np.array(row["X"], "f4").reshape(row["n_rows"], row["n_features"])  # NaN = missing\n'
    'y, split = np.array(row["y"], int), row["split"]  # rows before split are context',
    "hdf5": 'import h5py\nf = h5py.File("data/{file}")\nX, y, split = f["X"][0], f["y"][0], f["single_eval_pos"][0]',
    "tabicl": "from tabicl.prior._genload import LoadPriorDataset\n"
    '# A batch is a file: this reader drops files that batches straddle, and waits ten minutes for one beyond the last.\n'
    'batches = LoadPriorDataset(".", batch_size={batch_size}, max_batches={files})',
    "npz": 'import numpy as np\nf = np.load("data/{file}")\nX = f["x"][0, :, : f["n_features"][0]]',
    "csv": 'import pandas as pd\ntable = pd.read_csv("data/{file}")',
    "mllm-jsonl": 'import json\nprompt = json.loads(open("data/{file}").readline())',
}


def file_sizes(n_tasks: int, shard_size: int) -> tuple[int, int]:
    """Tasks in a file, and in the last one."""
    size = min(shard_size, n_tasks)
    return size, n_tasks % size or size


def card(settings: dict[str, Any], files: list[dict[str, Any]]) -> str:
    """A dataset card (Markdown with YAML front matter)."""
    form, prior = settings["format"], settings["prior"]
    front = ["---", "license: apache-2.0", "tags: [tabular, synthetic, structural-causal-model, in-context-learning]"]
    if form in ("parquet", "mllm-jsonl"):
        front += ["configs:", "- config_name: default", f"  data_files: data/{SUFFIX[form]}"]
    file = files[0]["path"].removeprefix("data/")
    batch_size, last = file_sizes(settings["n_tasks"], settings["shard_size"])
    reading = READING[form].format(file=file, batch_size=batch_size, files=len(files))
    if form == "tabicl" and last != batch_size:
        reading += f"  # the last has {last} tasks"
    facts = [
        ("tasks", f"{settings['n_tasks']:,}, ids {settings['first']} to {settings['first'] + settings['n_tasks'] - 1}"),
        ("rows", settings["rows"]),
        ("columns", f"up to {settings['columns']}"),
        ("context rows", settings["context"] or "drawn for each task"),
        ("missing values", {"keep": "as drawn", "impute": "filled from the context rows", "none": "none drawn"}[
            settings["missing"]]),
        ("graphs", "yes" if settings["with_graph"] else "no"),
        ("facts about tasks", "yes" if settings["with_info"] else "no"),
        ("prior", f"{prior['name']}, engine version {prior['version']}, sha256 {prior['sha256'][:16]}"),
        ("seed", settings["seed"]),
        ("made with", f"jax {settings['jax_version']} on {settings['device_kind']}"),
        ("size", f"{sum(f['bytes'] for f in files) / 1e6:,.1f} MB in {len(files)} files"),
    ]  # fmt: skip
    table = "\n".join(f"| {k} | {v} |" for k, v in facts)
    return "\n".join(
        [
            *front, "---", "", f"# Synthetic tabular tasks from the prior {prior['name']}", "",
            "Each task is a small classification table drawn from its own random structural causal model. No real data",
            "went in. `config.yaml` holds the full prior, `manifest.json` the sha256 of every data file.", "",
            "| | |", "|---|---|", table, "", "```python", reading, "```", "",
            "Made by Priorax. Licence of the data: Apache-2.0.", "",
        ]
    )  # fmt: skip


def _field(name: str, text: str, kind: str | None, source: dict[str, Any]) -> dict[str, Any]:
    """A field of the record set; one made of others (kind None) has no type of its own."""
    field = {"@type": "cr:Field", "@id": f"tasks/{name}", "name": name, "description": text}
    typed = {} if kind is None else {"dataType": kind}
    return {**field, **typed, "source": {"fileSet": {"@id": "parts"}, **source}}


def croissant(settings: dict[str, Any], files: list[dict[str, Any]], with_graph: bool, with_info: bool) -> dict[str, Any]:
    """Croissant 1.0 metadata (JSON-LD) of a Parquet dump."""
    columns = {
        "task_id": ("sc:Integer", "number of the task in the stream of the seed"),
        "n_rows": ("sc:Integer", "rows of the table"),
        "n_features": ("sc:Integer", "columns of the table"),
        "n_classes": ("sc:Integer", "classes"),
        "split": ("sc:Integer", "rows before it are context rows"),
        "task_type": ("sc:Text", "always classification"),
        "X": ("sc:Float", "values, row by row; NaN is missing"),
        "y": ("sc:Float", "class of each row"),
        "feature_types": ("sc:Integer", "1 for a categorical column, 0 for a numeric one"),
        "cardinalities": ("sc:Integer", "levels of a categorical column"),
    }
    if with_graph:
        columns |= {
            "n_nodes": ("sc:Integer", "nodes of the causal graph"),
            "edges": (None, "arrows of the causal graph, by the numbers of its nodes"),
            "node_of_feature": ("sc:Integer", "the node each column shows, -1 for pure noise"),
            "target_node": ("sc:Integer", "the node of the label"),
            "mechanism": ("sc:Text", "for each node, how it is made"),
            "rule_columns": ("sc:Integer", "columns the label reads directly, where it is a rule or a sum over columns"),
        }
    if with_info:
        kinds = {str: "sc:Text", int: "sc:Integer", float: "sc:Float"}
        columns |= {f"info_{k}": (kinds[kind], f"{k} of the task, see the documentation of the prior") for k, kind in INFO.items()}
    listed = {"X", "y", "feature_types", "cardinalities", "edges", "node_of_feature", "mechanism", "rule_columns"}
    parts = {"edges": {"src": "the cause", "dst": "the effect", "lag": "0: tables have no time"}}
    fields = []
    for name, (kind, text) in columns.items():
        field = _field(name, text, kind, {"extract": {"column": name}})
        if name in parts:  # a list of structs: a field for each member, found by its path in the cell
            field["subField"] = [
                _field(f"{name}/{part}", says, "sc:Integer", {"extract": {"column": name}, "transform": {"jsonPath": f"$.{part}"}})
                for part, says in parts[name].items()
            ]
        if name in listed:
            field["repeated"] = True
        fields.append(field)
    return {
        "@context": {
            "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/",
            "conformsTo": "dct:conformsTo", "extract": "cr:extract", "field": "cr:field", "fileSet": "cr:fileSet",
            "includes": "cr:includes", "recordSet": "cr:recordSet", "repeated": "cr:repeated", "source": "cr:source",
            "column": "cr:column", "subField": "cr:subField", "transform": "cr:transform", "jsonPath": "cr:jsonPath", "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"priorax-{settings['prior']['name']}-{settings['seed']}",
        "description": "Synthetic classification tasks from random structural causal models.",
        "license": "https://www.apache.org/licenses/LICENSE-2.0",
        "version": f"{settings['engine_version']}.0.0",
        "distribution": [
            *[
                {"@type": "cr:FileObject", "@id": f["path"], "name": f["path"], "contentUrl": f["path"],
                 "encodingFormat": "application/x-parquet", "sha256": f["sha256"], "contentSize": f"{f['bytes']} B"}
                for f in files
            ],
            {"@type": "cr:FileSet", "@id": "parts", "name": "parts", "encodingFormat": "application/x-parquet",
             "includes": "data/*.parquet"},
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "tasks", "name": "tasks", "field": fields}],
    }  # fmt: skip
