"""Which rows leak, which overlap, what is told of them, and what a drop does."""

import json

import numpy as np
import pytest

from gecko.evaluate.texts import EvaluationText, EvaluationTexts
from gecko.mixture import audit as audit_module
from gecko.mixture.audit import LEAK, Auditor, AuditReport, audit_rows, dropped_row, without_leaks
from gecko.mixture.audit_options import AuditOptions
from gecko.mixture.format import render_passage, render_query
from gecko.records import Quarantined, UnifiedRow

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
SETS = [
    EvaluationTexts(
        "faq",
        [EvaluationText("q1", "How do I rotate the keys?"), EvaluationText("q2", f"Is it true that {LONG}?")],
        [EvaluationText("d1", "Keys Turn the ring of keys once a year."), EvaluationText("d2", LONG)],
    ),
    EvaluationTexts("sts", [EvaluationText("test.jsonl:1", "a goat sees an owl")], []),
]


def row(query, positive="nothing of the kind", *, symmetric=False, row_id="r", source="fret"):
    return UnifiedRow(row_id, "search result", query, positive, ("a negative",), symmetric, source)


def audited(rows, **options):
    auditor = Auditor(SETS, AuditOptions(**options))
    report = AuditReport(SETS)
    matches = [match for _, found in audit_rows(rows, auditor, report) for match in found]
    return matches, report.to_json()


@pytest.mark.parametrize(
    ("query", "kind", "set_name", "text_id"),
    [
        ("how do i rotate the keys", "exact", "faq", "q1"),
        ("the keys, how do I rotate?", "order", "faq", "q1"),
        ("how do i rotate the old keys", "near", "faq", "q1"),
        (f"tell me: {LONG}, and more of that kind, as much as you can find", "ngram", "faq", "q2"),
        ("A goat sees an owl.", "exact", "sts", "test.jsonl:1"),
    ],
)
def test_a_query_that_is_a_question_is_a_leak(query, kind, set_name, text_id):
    matches, value = audited([row("fine"), row(query, row_id="bad")])
    leaks = [match for match in matches if match.leak]
    assert [(m.row.row_id, m.side, m.kind, m.set_name, m.found.text_id) for m in leaks] == [
        ("bad", "query", kind, set_name, text_id)
    ]
    assert (value["rows"], value["leaked"]) == (2, 1)
    entry = next(one for one in value["sets"] if one["set"] == set_name)
    assert entry["leaks"] == {"rows": 1, "texts": 1, "kinds": {kind: 1}}


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_a_positive_that_is_a_document_is_an_overlap_and_no_leak(text_format):
    positive = render_passage("Keys", "Turn the ring of keys once a year.", text_format)
    matches, value = audited([row("when are keys turned", positive)])
    assert [(m.side, m.kind, m.found.text_id, m.question, m.leak) for m in matches] == [
        ("positive", "exact", "d1", False, False)
    ]
    assert (value["leaked"], value["overlapping"]) == (0, 1)
    assert value["sets"][0]["overlaps"] == {"rows": 1, "texts": 1, "kinds": {"exact": 1}}


def test_a_passage_that_quotes_a_question_is_an_overlap():
    matches, _ = audited([row("what is asked here", render_passage("FAQ", f"Is it true that {LONG}? Yes."))])
    assert {(m.kind, m.found.text_id, m.question, m.leak) for m in matches} == {
        ("ngram", "q2", True, False),
        ("ngram", "d2", False, False),
    }


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_where_both_sides_are_alike_the_positive_asks_too(text_format):
    positive = render_query("semantic similarity", "an owl sees a goat", text_format)
    pair = UnifiedRow("r", "semantic similarity", "two animals", positive, (), True, "nli")
    matches, _ = audited([pair])
    assert [(m.side, m.kind, m.set_name, m.leak) for m in matches] == [("positive", "order", "sts", True)]
    assert audited([row("two animals", "an owl sees a goat")])[1]["leaked"] == 0


def test_documents_can_be_left_out_and_near_ones_too():
    rows = [row("how do i rotate the old keys", LONG)]
    assert [(m.kind, m.found.text_id) for m in audited(rows)[0]] == [("near", "q1"), ("ngram", "q2"), ("exact", "d2")]
    assert [(m.kind, m.found.text_id) for m in audited(rows, near=0)[0]] == [("ngram", "q2"), ("exact", "d2")]
    sets = [EvaluationTexts(one.name, one.questions, []) for one in SETS]
    assert [m.found.text_id for m in Auditor(sets, AuditOptions(near=0)).check(rows)] == ["q2"]


def test_a_row_counts_once_a_set_by_its_strongest_match_and_examples_are_few():
    rows = [
        UnifiedRow(f"r{i}", "t", "how do i rotate the old keys", "the keys how do I rotate", (), True, "nli")
        for i in range(5)
    ] + [row("fine", LONG, row_id="r5")]
    matches, value = audited(rows)
    assert len(matches) == 12
    assert value["sets"][0]["leaks"] == {"rows": 5, "texts": 1, "kinds": {"order": 5}}
    assert value["sets"][0]["overlaps"] == {"rows": 1, "texts": 2, "kinds": {"exact": 1}}
    assert value["sources"] == [
        {"source": "nli", "rows": 5, "leaked": 5},
        {"source": "fret", "rows": 1, "leaked": 0},
    ]
    assert [(one["row_id"], one["leak"]) for one in value["examples"]] == [
        ("r0", True),
        ("r1", True),
        ("r2", True),
        ("r5", False),
    ]
    json.dumps(value)


def test_vectors_are_asked_for_only_with_a_cosine():
    class Fake:
        asked = 0

        def encode_queries(self, texts):
            self.asked += 1
            return np.array([[1.0, 0.0] if "rotate" in text or "turn" in text else [0.0, 1.0] for text in texts])

    fake = Fake()
    Auditor(SETS, AuditOptions(), fake).check([row("turn a ring")])
    assert fake.asked == 0
    found = Auditor(SETS, AuditOptions(cosine=0.9), fake).check([row("turn a ring")])
    assert [(m.kind, m.found.text_id) for m in found if m.leak] == [("embedding", "q1")]


def test_a_drop_loses_no_row_and_keeps_the_order_of_the_others(monkeypatch):
    monkeypatch.setattr(audit_module, "_ROWS", 3)
    rows = [row(f"fine {i}", LONG, row_id=f"r{i}") for i in range(8)]
    rows[2] = row("How do I rotate the keys", row_id="bad1")
    rows[7] = row("two", render_query("t", "a goat sees an owl"), row_id="bad2", symmetric=True, source="nli")
    before = Quarantined("mixture", "other", "no text", "")
    stream = [rows[0], before, *rows[1:]]
    out = list(without_leaks(stream, Auditor(SETS, AuditOptions(), leaks_only=True), "mixture"))
    assert len(out) == 9 and before in out
    assert [each for each in out if isinstance(each, UnifiedRow)] == [rows[i] for i in (0, 1, 3, 4, 5, 6)]
    first, second = [each for each in out if isinstance(each, Quarantined) and each is not before]
    assert (first.stage, first.item_id, first.reason) == ("mixture", "bad1", f"{LEAK}: exact, faq")
    repeats = json.loads(first.raw)["repeats"]
    assert (repeats["evaluation_id"], repeats["evaluation_text"]) == ("q1", "How do I rotate the keys?")
    assert json.loads(first.raw)["negatives"] == ["a negative"]
    again = dropped_row(second)
    assert again is not None and (again.row_id, again.positive, again.symmetric, again.source) == (
        "bad2",
        rows[7].positive,
        True,
        "nli",
    )
    assert dropped_row(before) is None
