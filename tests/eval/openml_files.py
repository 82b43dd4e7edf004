"""A small OpenML task as files in the layout of the client's cache, and a server that serves them."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TASK, DATA, ROWS, FOLDS = 900_001, 900_002, 24, 3
XML = 'xmlns:oml="http://openml.org/openml"'


def write_task(root: Path, host: str = "https://www.openml.org") -> Path:
    """Task 900001 on data set 900002 (24 rows, a number with a gap, a category, two classes, 3 folds) under
    ``root``."""
    www = root / "org" / "openml" / "www"
    task, data = www / "tasks" / str(TASK), www / "datasets" / str(DATA)
    task.mkdir(parents=True)
    data.mkdir(parents=True)
    lines = [f"{'?' if i == 5 else i / 10},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(ROWS)]
    arff = "@relation toy\n@attribute size numeric\n@attribute colour {blue,red}\n@attribute class {no,yes}\n@data\n"
    (data / "dataset.arff").write_text(arff + "\n".join(lines) + "\n")
    digest = hashlib.md5((data / "dataset.arff").read_bytes()).hexdigest()
    (data / "description.xml").write_text(
        f"<oml:data_set_description {XML}><oml:id>{DATA}</oml:id><oml:name>toy</oml:name><oml:version>1</oml:version>"
        f"<oml:description>a toy</oml:description><oml:format>ARFF</oml:format><oml:licence>Public</oml:licence>"
        f"<oml:url>{host}/data/v1/download/{DATA}/toy.arff</oml:url><oml:file_id>{DATA}</oml:file_id>"
        "<oml:default_target_attribute>class</oml:default_target_attribute><oml:visibility>public</oml:visibility>"
        f"<oml:status>active</oml:status><oml:md5_checksum>{digest}</oml:md5_checksum></oml:data_set_description>"
    )
    features = ""
    for index, (name, kind, values) in enumerate(
        [("size", "numeric", ""), ("colour", "nominal", "blue red"), ("class", "nominal", "no yes")]
    ):
        named = "".join(f"<oml:nominal_value>{value}</oml:nominal_value>" for value in values.split())
        features += (
            f"<oml:feature><oml:index>{index}</oml:index><oml:name>{name}</oml:name><oml:data_type>{kind}</oml:data_type>"
            f"{named}<oml:is_target>{str(name == 'class').lower()}</oml:is_target><oml:is_ignore>false</oml:is_ignore>"
            "<oml:is_row_identifier>false</oml:is_row_identifier>"
            f"<oml:number_of_missing_values>{int(name == 'size')}</oml:number_of_missing_values></oml:feature>"
        )
    (data / "features.xml").write_text(f"<oml:data_features {XML}>{features}</oml:data_features>")
    quality = f"<oml:quality><oml:name>NumberOfInstances</oml:name><oml:value>{ROWS}.0</oml:value></oml:quality>"
    (data / "qualities.xml").write_text(f"<oml:data_qualities {XML}>{quality}{quality}</oml:data_qualities>")
    (task / "task.xml").write_text(
        f"<oml:task {XML}><oml:task_id>{TASK}</oml:task_id><oml:task_name>toy</oml:task_name>"
        "<oml:task_type_id>1</oml:task_type_id><oml:task_type>Supervised Classification</oml:task_type>"
        f'<oml:input name="source_data"><oml:data_set><oml:data_set_id>{DATA}</oml:data_set_id>'
        "<oml:target_feature>class</oml:target_feature></oml:data_set></oml:input>"
        '<oml:input name="estimation_procedure"><oml:estimation_procedure><oml:id>1</oml:id>'
        "<oml:type>crossvalidation</oml:type>"
        f"<oml:data_splits_url>{host}/api_splits/get/{TASK}/splits.arff</oml:data_splits_url>"
        f'<oml:parameter name="number_repeats">1</oml:parameter><oml:parameter name="number_folds">{FOLDS}'
        '</oml:parameter><oml:parameter name="percentage"></oml:parameter>'
        '<oml:parameter name="stratified_sampling">true</oml:parameter></oml:estimation_procedure></oml:input>'
        '<oml:input name="cost_matrix"><oml:cost_matrix></oml:cost_matrix></oml:input>'
        '<oml:input name="evaluation_measures"><oml:evaluation_measures><oml:evaluation_measure>predictive_accuracy'
        "</oml:evaluation_measure></oml:evaluation_measures></oml:input>"
        '<oml:output name="predictions"><oml:predictions><oml:format>ARFF</oml:format></oml:predictions></oml:output>'
        "</oml:task>"
    )
    fold = np.arange(ROWS) // 2 % FOLDS
    splits = "".join(
        f"{'TEST' if fold[row] == k else 'TRAIN'},{row},0,{k}\n" for k in range(FOLDS) for row in range(ROWS)
    )
    head = "@relation splits\n@attribute type {TRAIN,TEST}\n@attribute rowid numeric\n@attribute repeat numeric\n"
    (task / "datasplits.arff").write_text(head + "@attribute fold numeric\n@data\n" + splits)
    return root


class OpenML(http.server.ThreadingHTTPServer):
    """Serves the task as openml.org does; the first ``failures`` requests get an error page instead."""

    def __init__(self, root: Path, failures: int = 0) -> None:
        self.failures, self.requests = failures, 0
        super().__init__(("127.0.0.1", 0), _Answer)
        self.host = f"http://127.0.0.1:{self.server_port}"
        self.root = write_task(root, self.host) / "org" / "openml" / "www"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: OpenML

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.failures > 0:
            self.server.failures -= 1
            self._send(503, b"<html><body>503 Service Unavailable<br></body>")
            return
        path = self.path.partition("?")[0]
        task, data = self.server.root / "tasks" / str(TASK), self.server.root / "datasets" / str(DATA)
        files = {
            f"/api/v1/xml/task/{TASK}": task / "task.xml",
            f"/api_splits/get/{TASK}/splits.arff": task / "datasplits.arff",
            f"/api/v1/xml/data/{DATA}": data / "description.xml",
            f"/api/v1/xml/data/features/{DATA}": data / "features.xml",
            f"/api/v1/xml/data/qualities/{DATA}": data / "qualities.xml",
            f"/data/v1/download/{DATA}/toy.arff": data / "dataset.arff",
        }
        if path in files:
            self._send(200, files[path].read_bytes())
        else:
            code = "<oml:code>151</oml:code><oml:message>Unknown task</oml:message>"
            self._send(412, f"<oml:error {XML}>{code}</oml:error>".encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@contextlib.contextmanager
def serving(root: Path, cache: Path, failures: int = 0) -> Iterator[OpenML]:
    """Runs the server and points the client at it, with its cache in ``cache``."""
    import openml

    server = OpenML(root, failures)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    before = openml.config.server, openml.config._root_cache_directory
    thread.start()
    try:
        openml.config.server = f"{server.host}/api/v1/xml"
        openml.config.set_root_cache_directory(str(cache))
        yield server
    finally:
        openml.config.server = before[0]
        openml.config.set_root_cache_directory(before[1])
        server.shutdown()
        thread.join()
        server.server_close()
