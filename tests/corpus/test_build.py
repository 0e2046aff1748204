import inspect
import json
import logging

import pytest

from gecko.corpus.build import CorpusOptions, build_passages
from gecko.corpus.chunk import chunk_document, count_tokens, markdown_sections
from gecko.corpus.dedup import Deduplicator
from gecko.corpus.language import detect
from gecko.corpus.stdlib import read_stdlib
from gecko.errors import GeckoError
from gecko.records import Document, Passage, Quarantined

MARKDOWN = """# Guide

Intro words here.

## Install

Run it.

```
# not a heading
```

## Use

Many words follow.
"""


def test_markdown_is_cut_at_headings_and_titled_by_their_path():
    pieces = chunk_document(Document("g.md", "g", MARKDOWN, "g.md", markdown=True), 50, 1)
    assert [piece.title for piece in pieces] == ["g > Guide", "g > Guide > Install", "g > Guide > Use"]
    assert "# not a heading" in pieces[1].text
    assert [piece.source_id for piece in pieces] == ["g.md#1", "g.md#2", "g.md#3"]


@pytest.mark.parametrize("mark", ["\f", "\v", "\u2028", "\x85"])
def test_a_page_break_moves_no_line_of_markdown(mark):
    text = f"one{mark}two\n\nthree\n\n# Install\n\nfour\n\n# Backup\n\nfive\n"
    sections = markdown_sections(text)
    assert [(section.headings, section.text) for section in sections] == [
        ((), f"one{mark}two\n\nthree"),
        (("Install",), "four"),
        (("Backup",), "five"),
    ]


def test_one_piece_keeps_its_id():
    assert chunk_document(Document("a", "t", "short text", "x.txt"), 50, 1)[0].source_id == "a"


@pytest.mark.parametrize("text", ["one two three. " * 200, "word " * 900, "para graph\n\n" * 200])
def test_no_piece_is_longer_than_the_limit_and_no_word_is_lost(text):
    pieces = chunk_document(Document("a", "", text, "a.txt"), 64, 8)
    assert all(count_tokens(piece.text) <= 64 + 8 for piece in pieces)
    assert " ".join(piece.text for piece in pieces).split() == text.split()


@pytest.mark.parametrize(
    "text",
    [
        "x" * 50_000,
        "今天天气很好，我们去公园散步。" * 300,
        "今天天气很好我们去公园散步" * 300,
        "これは「日本語。」の文章です！" * 300,
        "词 " * 200 + "很长的一句话没有句号" * 50,
        "ขอบคุณมากสำหรับความช่วยเหลือ" * 200,
        "an English line with /" + "a/very/long/path" * 100,
    ],
)
def test_text_without_spaces_is_cut_and_no_character_is_lost_or_added(text):
    pieces = chunk_document(Document("a", "", text, "a.txt"), 64, 8)
    assert len(pieces) > 1
    assert all(count_tokens(piece.text) <= 64 + 8 for piece in pieces)
    assert all(" " not in piece.text and "\n" not in piece.text for piece in pieces) or " " in text
    assert "".join("".join(piece.text.split()) for piece in pieces) == "".join(text.split())


def test_a_full_width_stop_ends_a_piece_with_its_quote():
    pieces = chunk_document(Document("a", "", "他说：「今天天气很好。」" * 40, "a.txt"), 64, 8)
    assert all(piece.text.endswith("。」") for piece in pieces)


def test_tokens_are_counted_by_script():
    assert count_tokens("Ordinary words, counted as before. " * 10) == round(70 * 1.3)
    assert count_tokens("今天天气很好，") == 7
    assert count_tokens("f" * 64) == 1
    assert count_tokens("f" * 400) == 130


def test_a_rule_of_dashes_stays_with_its_table():
    text = f"head line of it\n|{'-' * 300}|\nrow of the table"
    pieces = chunk_document(Document("a", "", text, "a.txt"), 64, 8)
    assert sum("-" in piece.text for piece in pieces) == 1


def test_a_short_tail_joins_its_neighbour():
    text = "word " * 40 + "\n\n" + "tail."
    pieces = chunk_document(Document("a", "", text, "a.txt"), 52, 12)
    assert len(pieces) == 1


def test_records_stay_whole_unless_asked(tmp_path):
    long = {"_id": "d", "text": "Words follow words. " * 300}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(long) + "\n" + json.dumps({"_id": "e", "text": "a second one"}))
    sources = (str(tmp_path),)
    whole = [p for p in build_passages(CorpusOptions(sources=sources)) if isinstance(p, Passage)]
    assert [p.source_id for p in whole] == ["d", "e"]
    cut = [p for p in build_passages(CorpusOptions(sources=sources, split_records=True)) if isinstance(p, Passage)]
    assert cut[0].source_id == "d#1"


def passage(source_id, text):
    return Passage(source_id, source_id, "", text, "", "en")


def test_duplicates_exact_and_near():
    seen = Deduplicator(0.8)
    text = " ".join(f"word{i}" for i in range(60))
    assert seen.admit(passage("a", text)) is None
    assert seen.admit(passage("b", text.upper().replace(" ", "  "))) == "exact duplicate of a"
    assert seen.admit(passage("c", text + " extra")) == "near duplicate of a"
    assert seen.admit(passage("d", " ".join(f"other{i}" for i in range(60)))) is None
    assert seen.admit(passage("e", "short text")) is None
    assert seen.admit(passage("f", "short texts")) is None


def test_near_duplicates_can_be_kept():
    seen = Deduplicator(0)
    text = " ".join(f"word{i}" for i in range(60))
    assert seen.admit(passage("a", text)) is None
    assert seen.admit(passage("c", text + " extra")) is None


@pytest.mark.parametrize("threshold", [0.95, 0.99, 0.9999, 1])
def test_every_threshold_up_to_one_is_allowed(threshold):
    seen = Deduplicator(threshold)
    text = " ".join(f"word{i}" for i in range(60))
    assert seen.admit(passage("a", text)) is None
    assert seen.admit(passage("b", text)) == "exact duplicate of a"
    assert seen.admit(passage("c", " ".join(f"word{i}" for i in range(30, 90)))) is None


def test_languages():
    assert detect("The quick brown fox jumps over the lazy dog near the river") == "en"
    assert detect("Die Zugspitze ist mit 2962 Metern der höchste Berg Deutschlands") == "de"
    assert detect("x = 1") == "und"


def test_rows_in_are_rows_out_or_quarantined(tmp_path):
    rows = [{"_id": str(i), "text": t} for i, t in enumerate(["one text", "two text", "one text", "12345", ""])]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    results = list(build_passages(CorpusOptions(sources=(str(tmp_path / "c.jsonl"),))))
    assert len(results) == len(rows)
    assert [r.reason for r in results if isinstance(r, Quarantined)] == [
        "exact duplicate of 0",
        "no letters in the text",
        "no letters in the text",
    ]


def test_one_passage_is_not_a_corpus(tmp_path):
    (tmp_path / "a.txt").write_text("only one passage here")
    with pytest.raises(GeckoError, match="1 usable passage") as caught:
        list(build_passages(CorpusOptions(sources=(str(tmp_path),))))
    assert "two" in caught.value.hint


def test_what_was_set_aside_most_is_named(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": str(number)}) for number in range(5)))
    with pytest.raises(GeckoError, match=r"0 usable passages \(5 set aside, most often: no letters in the text\)"):
        list(build_passages(CorpusOptions(sources=(str(tmp_path),))))


def test_a_missing_source_is_found_before_the_first_passage_is_asked_for(tmp_path):
    with pytest.raises(GeckoError, match="no file at"):
        build_passages(CorpusOptions(sources=("stdlib:", str(tmp_path / "no"))))


def test_limit_stops_early(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": f"text number {i} of many"}) for i in range(50)))
    options = CorpusOptions(sources=(str(tmp_path / "c.jsonl"),), limit=5)
    assert len(list(build_passages(options))) == 5


def test_stdlib_is_the_same_whatever_was_imported_and_names_things(monkeypatch):
    first = list(read_stdlib())
    monkeypatch.setattr(logging.Logger, "advise", lambda self: None, raising=False)
    logging.Logger.advise.__doc__ = "As libraries do that give their loggers another method of their own."
    monkeypatch.setattr(inspect, "isgenerator", lambda value: False)
    assert first == list(read_stdlib())
    names = {document.source_id for document in first}
    assert {"collections.OrderedDict.move_to_end", "json.dumps", "topics.with"} <= names
    assert len(names) == len(first) > 3000
    assert not any(" at 0x" in document.title for document in first)


@pytest.mark.parametrize("block", [1, 3, 2048])
def test_blocks_change_nothing(tmp_path, monkeypatch, block):
    text = " ".join(f"word{i}" for i in range(60))
    rows = [text, "short one", text.upper(), f"{text} extra", "...", "", "Short  One", text + " and more", "other text"]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"_id": str(i), "text": t}) for i, t in enumerate(rows)))
    monkeypatch.setattr("gecko.corpus.build._BLOCK", block)
    found = list(build_passages(CorpusOptions(sources=(str(tmp_path / "c.jsonl"),), near_duplicate=0.8)))
    assert [r.source_id if isinstance(r, Passage) else f"{r.item_id}: {r.reason}" for r in found] == [
        "0",
        "1",
        "2: exact duplicate of 0",
        "3: near duplicate of 0",
        "4: no letters in the text",
        "5: no letters in the text",
        "6: exact duplicate of 1",
        "7: near duplicate of 0",
        "8",
    ]


def test_long_texts_are_taken_few_at_a_time(tmp_path, monkeypatch):
    rows = [{"_id": str(i), "text": f"text {i} " + "long " * 50} for i in range(20)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = []
    monkeypatch.setattr("gecko.corpus.cut._CHARACTERS", 500)
    monkeypatch.setattr(
        "gecko.corpus.cut.detect_all", lambda texts: sizes.append(sum(map(len, texts))) or ["en"] * len(texts)
    )
    assert len(list(build_passages(CorpusOptions(sources=(str(tmp_path / "c.jsonl"),), near_duplicate=0)))) == 20
    assert max(sizes) <= 500 + 300


def test_long_pieces_are_compared_few_at_a_time(tmp_path, monkeypatch):
    rows = [{"_id": str(i), "text": f"text {i} " + "long " * 50} for i in range(20)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes, honest = [], Deduplicator.admit_all
    monkeypatch.setattr("gecko.corpus.build._CHARACTERS", 500)
    monkeypatch.setattr(
        Deduplicator,
        "admit_all",
        lambda self, pieces: sizes.append(sum(len(piece.text) for piece in pieces)) or honest(self, pieces),
    )
    assert len(list(build_passages(CorpusOptions(sources=(str(tmp_path / "c.jsonl"),), near_duplicate=0)))) == 20
    assert max(sizes) <= 500 + 300


def test_no_more_is_read_than_a_batch_beyond_the_limit(monkeypatch):
    read = []
    monkeypatch.setattr("gecko.corpus.cut._DOCUMENTS", 3)

    def documents(_):
        for number in range(100):
            read.append(number)
            yield Document(str(number), "", f"text number {number // 2}", "x.txt")

    monkeypatch.setattr("gecko.corpus.build.read_sources", documents)
    found = list(build_passages(CorpusOptions(sources=("x",), limit=5)))
    assert sum(isinstance(item, Passage) for item in found) == 5
    assert isinstance(found[-1], Passage)
    assert max(read) in range(8, 12)  # 8: of two equal ones each, the fifth that is new


def test_what_was_read_before_an_error_is_not_lost(monkeypatch):
    def documents(_):
        yield Document("a", "", "the first text", "x.txt")
        yield Quarantined("corpus", "b", "damaged", "")
        raise GeckoError("the disk is gone", "")

    monkeypatch.setattr("gecko.corpus.build.read_sources", documents)
    found = []
    with pytest.raises(GeckoError, match="the disk is gone"):
        found.extend(build_passages(CorpusOptions(sources=("x",))))
    assert [type(item) for item in found] == [Passage, Quarantined]
