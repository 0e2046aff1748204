"""The adapters on real data, where it is at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gecko.mixture.load import load_source
from gecko.mixture.options import SourceOptions

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

SETS = [
    ({"path": "scifact", "kind": "retrieval"}, 916),
    ({"path": "banking77", "kind": "classification"}, 9999),
    ({"path": "banking77", "kind": "classification", "columns": {"label": "label_text"}, "limit": 500}, 500),
    ({"path": "emotion", "kind": "classification", "limit": 400}, 400),
    ({"path": "poem_sentiment", "kind": "classification"}, 892),
    ({"path": "stsb/en", "kind": "sts"}, 2776),
    ({"path": "sts12_16/sts12_train.jsonl", "kind": "sts"}, 1590),
    ({"path": "msrp", "kind": "pair_classification"}, 2407),
    ({"path": "rqe", "kind": "pair_classification"}, 3201),
    ({"path": "tatoeba/test.jsonl", "kind": "bitext", "limit": 300}, 300),
]


@pytest.mark.parametrize(("values", "count"), SETS, ids=lambda value: value["path"] if isinstance(value, dict) else "")
def test_real_sets(values: dict[str, object], count: int) -> None:
    path = SHARED / str(values["path"])
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{values['path']}")
    loaded = load_source(SourceOptions.model_validate({**values, "path": str(path)}), "gecko", 0)
    assert len(loaded.rows) == count
    assert len({row.row_id for row in loaded.rows}) == count
    assert loaded.read == loaded.used + sum(loaded.unused.values()) + len(loaded.quarantined)
    assert len({row.task for row in loaded.rows}) == 2
    start = re.compile(r"task: .+ \| query: ." if loaded.rows[0].symmetric else r"title: .+ \| text: .")
    for row in loaded.rows:
        assert row.query.strip()
        assert all(start.match(text) for text in (row.positive, *row.negatives))
        assert row.positive not in row.negatives
