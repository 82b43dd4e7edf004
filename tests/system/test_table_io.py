"""Reading and writing tables without a dataframe library."""

from __future__ import annotations

import decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from priorax.configs.errors import DataError

from priorax import table_io

cells = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**6), 10**6))
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8)


@given(
    st.lists(
        st.tuples(cells, words.filter(lambda w: w.strip().lower() not in table_io.MISSING)), min_size=1, max_size=8
    )
)
def test_csv_and_jsonl_round_trip(rows):
    import tempfile
    from pathlib import Path

    table = {"number": [a for a, _ in rows], "word": [b for _, b in rows]}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("t.csv", "t.tsv", "t.jsonl"):
            path = Path(folder) / name
            table_io.write(path, table)
            back = table_io.read(path)
            assert list(back) == ["number", "word"]
            numbers = [None if c is None else float(c) for c in table_io.known(back["number"])]
            assert numbers == [None if c is None else float(c) for c in table["number"]]
            assert back["word"] == table["word"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "a,b\n1\n", "row 2: 1 cells"),
        ("a.csv", "a,a\n1,2\n", "occur twice"),
        ("a.jsonl", "{bad\n", "line 1: not JSON"),
        ("a.jsonl", "[1]\n", "expected an object"),
        ("a.jsonl", '{"a": [1]}\n', "not one value"),
        ("a.jsonl", "\n", "no rows"),
        ("a.jsonl", b'{"a": "\xe9"}\n', "line 1, cannot be read as UTF-8"),
        ("a.parquet", "nonsense", "cannot be read"),
        ("a.xls", "x", "unknown suffix"),
    ],
)
def test_bad_files_are_named(name, text, says, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=says):
        table_io.read(tmp_path / name)


def test_missing_words_quotes_and_late_columns(tmp_path):
    (tmp_path / "a.csv").write_text('\ufeffa,b\n"x, y",NA\n?,3\n')
    back = table_io.read(tmp_path / "a.csv")
    assert back == {"a": ["x, y", "?"], "b": ["NA", "3"]}, "as written: ids are told apart by every letter"
    assert {name: table_io.known(cells) for name, cells in back.items()} == {"a": ["x, y", None], "b": [None, "3"]}
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b": "x"}\n')
    assert table_io.read(tmp_path / "a.jsonl") == {"a": [1, None], "b": [None, "x"]}


def test_types_come_from_the_training_table(tmp_path):
    train = {"n": ["1", None, "2.5"], "code": ["1", "a", None], "mixed": [1, 2.0, None]}
    test = {"n": ["NA", "7"], "code": [" 1", 2.0], "mixed": ["3", 4]}
    x, z = table_io.typed(train, test, tmp_path, tmp_path)
    assert x[0].tolist() == [1.0, "1", 1] and x[1].tolist() == [None, "a", 2.0]
    assert z.tolist() == [[None, "1", 3.0], [7.0, "2", 4]]
    assert x.dtype == np.object_
    with pytest.raises(DataError, match='column "n" is numeric'):
        table_io.typed(train, {**test, "n": ["x", "7"]}, tmp_path, tmp_path)


def test_numbers_written_by_arrow_stand_for_text_categories(tmp_path):
    x, z = table_io.typed({"c": ["1", "b"]}, {"c": [1, None]}, tmp_path, tmp_path)
    assert z[:, 0].tolist() == ["1", None] and x[:, 0].tolist() == ["1", "b"]
    x, z = table_io.typed({"c": [1, "b", 2.0]}, {"c": [1, 2, "1"]}, tmp_path, tmp_path)
    assert x[:, 0].tolist() == ["1", "b", "2"] and z[:, 0].tolist() == ["1", "2", "1"]
    x, z = table_io.typed({"c": ["1.0", "b"]}, {"c": [1.0, "1.0"]}, tmp_path, tmp_path)
    assert x[:, 0].tolist() == ["1", "b"] and z[:, 0].tolist() == ["1", "1"]
    x, z = table_io.typed({"c": ["1.0", "b"]}, {"c": ["1.0", "1"]}, tmp_path, tmp_path)
    assert x[:, 0].tolist() == ["1.0", "b"] and z[:, 0].tolist() == ["1.0", "1"], "where all is text it stays as it is"


def test_numbers_beside_numeric_text_and_empty_text_are_numbers(tmp_path):
    x, z = table_io.typed({"n": [1, "2.5", "", None]}, {"n": ["", 3]}, tmp_path, tmp_path)
    assert x[:, 0].tolist() == [1, 2.5, None, None] and z[:, 0].tolist() == [None, 3]


def test_declared_categories_are_compared_as_written(tmp_path):
    train = {"zip": ["01234", "1234", "NA"], "id": [str(2**60), str(2**60 + 1), "1.0"], "size": [1.0, 0.5, None]}
    test = {"zip": [1234, "01234"], "id": [2**60 + 1, "1"], "size": ["1", "0.50"]}
    x, z = table_io.typed(train, test, tmp_path, tmp_path, categorical=("zip", "id", "size"))
    assert x.T.tolist() == [["01234", 1234, None], [2**60, 2**60 + 1, 1], [1, 0.5, None]]
    assert z.T.tolist() == [[1234, "01234"], [2**60 + 1, 1], [1, 0.5]]
    assert table_io.typed({"a": ["1", "0"]}, {"a": [True]}, tmp_path, tmp_path, categorical=["a"])[1].tolist() == [[1]]
    with pytest.raises(DataError, match="row 1: column .a. holds infinity"):
        table_io.typed({"a": [1.0, 2.0]}, {"a": [float("inf")]}, tmp_path, tmp_path, categorical=["a"])


def test_none_is_a_class_unless_classes_are_numbers():
    assert table_io.labels(["none", " mild", "", "NA", None]) == ["none", "mild", None, None, None]
    assert table_io.labels(["none", "1", 0.0]) == [None, "1", 0.0]
    assert table_io.labels(["none", "none"], numbers=False) == ["none", "none"], "as the training labels say"


def test_an_index_that_pandas_hides_is_no_column(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": range(50)}).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "t.parquet")
    assert table_io.read(tmp_path / "t.parquet") == {"a": frame["a"].tolist()}
    frame.rename_axis("row").to_parquet(tmp_path / "t.parquet")
    assert list(table_io.read(tmp_path / "t.parquet")) == ["a", "row"], "one with a name is there to be asked for"


def test_cells_of_several_types_are_written_as_text(tmp_path):
    pytest.importorskip("pyarrow")
    table_io.write(tmp_path / "t.parquet", {"id": [1, "x", None, 2.5]})
    assert table_io.read(tmp_path / "t.parquet") == {"id": ["1", "x", None, "2.5"]}


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1", "2.5", None, "3.25"], "2.5"),
        ([1, 2.5], 2.5),
        ([decimal.Decimal("1.5"), decimal.Decimal("2")], decimal.Decimal("1.5")),
        (["1", "2.0", "3e2"], None),
        (["1.5", "high"], None),  # classes that happen to look like numbers
        ([True, False], None),
        (["inf", "1"], None),
        ([None], None),
    ],
)
def test_decimal_numbers_are_told_from_classes(cells, found):
    assert table_io.first_decimal(cells) == found
