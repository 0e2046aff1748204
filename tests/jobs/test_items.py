import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko.errors import GeckoError, UsageError
from gecko.jobs.items import Columns, read_items


def test_usual_columns_are_known_and_others_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("date,comment,subject,stars\n2024-01-01,fine,Hotel,5\n2024-01-02,,Empty,1\n,bad,,2\n")
    found = read_items(path)
    assert [(item.item_id, item.title, item.text, item.time) for item in found.items] == [
        ("1", "Hotel", "fine", "2024-01-01"),
        ("2", "", "Empty", "2024-01-02"),
        ("3", "", "bad", ""),
    ]
    assert found.items[0].whole == "Hotel fine"
    other = read_items(path, Columns(text="subject", label="stars"), wanted=("label",))
    assert [(item.text, item.label) for item in other.items] == [("Hotel", "5"), ("Empty", "1")]
    assert other.left == {"without text": 1}


def test_rows_that_are_left_out_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps({"id": 1, "text": "one"}),
        "{broken",
        json.dumps({"id": 1, "text": "again"}),
        json.dumps({"id": 2}),
    ]
    path.write_text("\n".join(lines))
    found = read_items(path)
    assert [item.text for item in found.items] == ["one"]
    assert found.left == {"that cannot be read": 1, "whose id came before": 1, "without text": 1}
    assert found.said(path).endswith(
        "1 texts, 1 that cannot be read, 1 whose id came before, 1 without text (text from text, id from id)"
    )


def test_lines_of_a_text_file_and_rows_of_parquet(tmp_path):
    lines = tmp_path / "a.txt"
    lines.write_text("\ufeffone\n\n two \n")
    assert [item.text for item in read_items(lines).items] == ["one", "two"]
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x", "y"], "class": [3, 4]}), table)
    assert [(item.text, item.label) for item in read_items(table).items] == [("x", "3"), ("y", "4")]


@pytest.mark.parametrize(
    ("name", "content", "columns", "error", "said"),
    [
        ("a.csv", "x,y\n1,2\n", Columns(), GeckoError, "no column of the text; there are x, y"),
        ("a.csv", "text\nfine\n", Columns(), GeckoError, "no column of the label"),
        ("a.csv", "text,label\nfine,a\n", Columns(label="tag"), UsageError, "no column tag; there are text, label"),
        ("a.jsonl", "", Columns(), GeckoError, "holds no text"),
        ("a.txt", "one\n", Columns(), GeckoError, "has no columns"),
        ("a.parquet", "no parquet", Columns(), GeckoError, "cannot be read"),
    ],
)
def test_a_file_that_will_not_do_is_told(tmp_path, name, content, columns, error, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=said):
        read_items(tmp_path / name, columns, wanted=("label",))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(GeckoError, match="no such file"):
        read_items(tmp_path / "none.csv")
