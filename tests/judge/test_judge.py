"""A person makes a test set: blind, in the terminal or on the page, stopped and gone on with at any point."""

from __future__ import annotations

import json
import os
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence

import numpy as np
import pytest
from typer.testing import CliRunner

from gecko.cli import app
from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import load_beir
from gecko.evaluate.evaluate import evaluate_models
from gecko.judge.judging import Goal, Judging, Wanted
from gecko.judge.page import JudgePage
from gecko.judge.queries import read_queries
from gecko.judge.session import pair_of

TOPICS = ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen")
runner = CliRunner()


class Model:
    """Knows the topics in its own order: for a query of topic i it finds i, i + step, i + 2 step …."""

    dim = 8

    def __init__(self, path: str, step: int = 1) -> None:
        self.path, self.step, self.passages = path, step, 0

    @property
    def fingerprint(self) -> str:
        return f"{self.path}-{self.step}".replace("/", "_")

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        self.passages += len(passages)
        found = [next(i for i, topic in enumerate(TOPICS) if topic in text) for _, text in passages]
        return np.eye(len(TOPICS), dtype=np.float32)[found]

    def encode_queries(self, queries, task=None):
        rows = np.zeros((len(queries), len(TOPICS)), np.float32)
        for row, query in zip(rows, queries, strict=True):
            first = next(i for i, topic in enumerate(TOPICS) if topic in query.lower())
            for place in range(len(TOPICS)):
                row[(first + place * self.step) % len(TOPICS)] = 0.9**place
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_symmetric = encode_queries


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = [{"_id": f"d-{topic}", "title": f"On {topic}", "text": f"all of the {topic}"} for topic in TOPICS]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def models():
    return {"tuned": Model("tuned", 1), "base": Model("base", 3), "new": Model("new", 5)}


@pytest.fixture
def begin(tmp_path, corpus, models):
    def make(wanted: Wanted | None = None, goal: Goal | None = None, out: str = "mine") -> Judging:
        wanted = wanted or Wanted(str(corpus), ("tuned",), "base", 3)
        return Judging(tmp_path / out, wanted, models.__getitem__, goal)

    return make


def mark_all(judging: Judging, grade=lambda asked: int(asked.doc_id[2:] in asked.query)) -> list:
    asked = []
    while (question := judging.session.question()) is not None:
        asked.append(question)
        judging.session.grade(question, grade(question))
    return asked


def test_the_folder_is_a_beir_set_that_the_evaluation_reads(begin, tmp_path, models):
    judging = begin()
    assert judging.session.add(["what is an ant", "the  BEAR ", "The bear", ""]) == 2
    asked = mark_all(judging, lambda q: 2 if q.doc_id[2:] in q.query.lower() else 0)
    data = load_beir(tmp_path / "mine")
    assert data.doc_ids == [f"d-{topic}" for topic in TOPICS]  # the whole corpus, also what nobody found
    assert sorted(data.queries.values()) == ["the BEAR", "what is an ant"]
    for query_id, text in data.queries.items():
        pooled = {question.doc_id for question in asked if question.query_id == query_id}
        relevant = f"d-{'ant' if 'ant' in text else 'bear'}"
        assert data.qrels[query_id] == {doc: 2 * (doc == relevant) for doc in pooled}
    report = evaluate_models(models["tuned"], models["base"], [tmp_path / "mine"])
    assert report["results"][0]["n"] == 2


def test_the_pool_is_what_the_systems_find_first_each_once(begin):
    judging = begin()
    judging.session.add(["ant"])
    asked = mark_all(judging)
    # tuned: ant bear cat; base: ant dog goat; BM25: ant.
    assert sorted(q.doc_id for q in asked) == ["d-ant", "d-bear", "d-cat", "d-dog", "d-goat"]
    assert [(q.candidate, q.candidates) for q in asked] == [(i, 5) for i in range(1, 6)]


def test_nothing_shows_who_found_a_candidate(begin, corpus, models):
    first = begin(out="a")
    swapped = begin(Wanted(str(corpus), ("base",), "tuned", 3), out="b")
    queries = [f"{topic} {number}" for topic in TOPICS for number in range(8)]
    orders = []
    for judging in (first, swapped):
        judging.session.add(queries)
        orders.append([question.doc_id for question in mark_all(judging)])
    assert orders[0] == orders[1]  # whichever system is which, the order is the same
    places = [i % 5 for i, doc in enumerate(orders[0]) if doc[2:] == queries[i // 5].split()[0]]
    assert len(places) == 64  # what all systems rank first is shown anywhere
    assert np.bincount(places, minlength=5) == pytest.approx([12.8] * 5, abs=11)


def test_stopped_anywhere_it_goes_on_where_it_was(begin, tmp_path, models):
    whole = begin(out="whole")
    whole.session.add(["ant", "bear", "cat"])
    expected = [(q.query_id, q.doc_id) for q in mark_all(whole)]
    judging = begin()
    judging.session.add(["ant", "bear", "cat"])
    asked = []
    while (question := judging.session.question()) is not None:
        asked.append((question.query_id, question.doc_id))
        judging.session.grade(question, int(question.doc_id[2:] in question.query))
        judging = begin(Wanted())  # a new process knows only the folder
    assert asked == expected
    for name in ("queries.jsonl", "qrels/test.tsv"):
        assert (tmp_path / "mine" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert models["tuned"].passages == 2 * len(TOPICS)  # to go on needs no model


def test_a_line_that_was_cut_short_is_asked_again(begin, tmp_path):
    judging = begin()
    judging.session.add(["ant"])
    first = judging.session.question()
    judging.session.grade(first, 1)
    second = judging.session.question()
    log = tmp_path / "mine/judging/judgements.jsonl"
    whole = log.read_bytes()
    for cut in range(1, 20):
        log.write_bytes(whole + whole[:cut])
        judging = begin(Wanted())
        assert judging.session.question() == second
        assert log.read_bytes() == whole
    log.write_bytes(whole[:-1])  # only the line's end is missing
    begin(Wanted()).session.grade(second, 0)
    assert [json.loads(line)["grade"] for line in log.read_text().splitlines()] == [1, 0]
    log.write_bytes(b"{}\n" + whole)
    with pytest.raises(GeckoError, match="line 1: not a judgement"):
        begin(Wanted())


def test_a_disk_that_fails_loses_nothing(begin, tmp_path, monkeypatch):
    judging = begin()
    judging.session.add(["ant"])
    question = judging.session.question()
    sync = os.fsync
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(GeckoError, match="No space left"):
        judging.session.grade(question, 1)
    assert judging.session.question() == question
    monkeypatch.setattr("os.fsync", sync)
    judging.session.grade(question, 0)
    (line,) = (tmp_path / "mine/judging/judgements.jsonl").read_text().splitlines()
    assert json.loads(line)["grade"] == 0


def test_killed_while_it_was_begun(begin, tmp_path):
    begin()
    (tmp_path / "mine/corpus.jsonl").unlink()  # the settings come first, then the corpus
    judging = begin(Wanted())
    judging.session.add(["ant"])
    assert len(mark_all(judging)) == 5


def test_undo_takes_back_also_what_an_earlier_session_said(begin, tmp_path):
    judging = begin()
    judging.session.add(["ant", "bear"])
    states = []
    actions = [1, 0, None, 0, 0, "drop"]
    for action in actions:
        states.append((judging.session.question(), judging.session.progress()))
        if action == "drop":
            judging.session.drop(judging.session.question())
        else:
            judging.session.grade(judging.session.question(), action)
    assert judging.session.question() is None
    for state in reversed(states):
        judging = begin(Wanted())
        assert judging.session.undo()
        assert (judging.session.question(), judging.session.progress()) == state
    assert not judging.session.undo()
    assert (tmp_path / "mine/qrels/test.tsv").read_text() == "query-id\tcorpus-id\tscore\n"
    log = (tmp_path / "mine/judging/judgements.jsonl").read_text().splitlines()
    assert len(log) == 2 * len(actions)  # nothing was ever removed from the record


def test_only_queries_judged_to_their_end_are_in_the_test(begin, tmp_path):
    judging = begin()
    judging.session.add(["ant", "bear", "cat", "dog"])
    plan = {"ant": 1, "bear": 0, "cat": None}
    while (question := judging.session.question()).query != "dog":
        if question.query == "cat":
            judging.session.drop(question)
        else:
            relevant = question.doc_id[2:] == question.query
            judging.session.grade(
                question, plan[question.query] if relevant else None if question.candidate == 1 else 0
            )
    judging.session.grade(judging.session.question(), 2)
    progress = judging.session.progress()
    assert (progress.queries, progress.judged, progress.without, progress.dropped) == (4, 1, 1, 1)
    assert (progress.judgements, progress.candidates) == (11, 15)
    data = load_beir(tmp_path / "mine")
    assert list(data.queries.values()) == ["ant"]
    (grades,) = data.qrels.values()
    assert len(grades) == 5 - progress.skipped  # what was skipped is unjudged
    assert "1 without a relevant document, 1 dropped: left out" in judging.report()


def test_how_much_is_needed_comes_from_the_differences_seen(begin):
    judging = begin(goal=Goal(0.1, 0.8))
    judging.session.add([f"{topic} {n}" for topic in TOPICS for n in range(3)])
    need, candidates = judging.session.need(0.1)
    assert (need.queries, need.deviation, need.seen, candidates) == (52, 0.25, 0, 52 * 5)
    assert "52 queries, 260 candidates (deviation 0.25, assumed: nothing is judged yet)" in judging.needed()
    alone = begin(Wanted(judging.settings.corpus, depth=3), out="alone")  # BM25 has nothing to be compared with
    alone.session.add(["bear"])
    mark_all(alone)
    assert "assumed: there is no model to compare" in alone.needed()
    # What only the base finds is relevant to every other query: the two models differ much, in both directions.
    mark_all(
        judging,
        lambda q: int((TOPICS.index(q.doc_id[2:]) - TOPICS.index(q.query.split()[0])) % 8 == (3, 1)[q.number % 2]),
    )
    after, _ = judging.session.need(0.1)
    assert after.seen == 24
    # Of the ranking 0 1 2 …, rank 2 (1/log2 3) and rank 4 (1/log2 5); of 0 3 6 1 …, rank 4 and rank 2.
    gap = 1 / np.log2(3) - 1 / np.log2(5)
    assert after.deviation == pytest.approx(np.sqrt((5 * 0.25**2 + 24 * gap**2) / 28), rel=1e-3)
    assert "24 show one of" in judging.needed() or after.queries <= 24
    text = judging.report() + json.dumps(judging.summary()["need"])
    assert not {"tuned", "base", "bm25"} & set(text.lower().replace('"', " ").split())
    assert pair_of(["base", "model"]) == ("model", "base")
    assert pair_of(["model", "model2"]) == ("model", "bm25")


def test_a_model_may_join_later_and_old_judgements_stay(begin, corpus, tmp_path, models):
    judging = begin()
    judging.session.add(["ant"])
    before = mark_all(judging)
    judging = begin(Wanted(models=("new",)))
    question = judging.session.question()
    assert question.doc_id == "d-fox" and question.candidate == 6  # new: ant fox cat
    assert not load_beir_queries(tmp_path / "mine")  # not judged to its end any more
    judging.session.grade(question, 0)
    assert judging.session.question() is None
    assert judging.session.progress().judgements == len(before) + 1
    assert begin(Wanted()).settings.models == ("tuned", "new")
    assert models["tuned"].passages == len(TOPICS)  # its vectors were kept


def load_beir_queries(folder):
    return (folder / "queries.jsonl").read_text()


def test_weights_that_changed_are_encoded_again(begin, models):
    judging = begin()
    judging.session.add(["ant"])
    models["tuned"].step = 5
    judging = begin(Wanted())
    judging.session.add(["bear"])
    assert models["tuned"].passages == 2 * len(TOPICS)
    assert judging.session.progress().candidates == 6 + 5  # fox for ant; bear goat dog, bear eel hen


def test_settings_are_kept_and_contradictions_refused(begin, corpus, tmp_path):
    with pytest.raises(UsageError, match="holds no test set"):
        begin(Wanted())
    judging = begin(Wanted(str(corpus), ("tuned",), None, 3))
    judging = begin(Wanted(base="base", depth=4))  # before a query is pooled
    judging.session.add(["ant"])
    assert begin(Wanted()).settings == judging.settings
    for wanted in (Wanted(base="new"), Wanted(depth=3), Wanted(corpus="elsewhere")):
        with pytest.raises(UsageError, match="was begun with"):
            begin(wanted)
    with pytest.raises(UsageError, match=r"other files, such as corpus\.jsonl"):
        Judging(corpus, Wanted("x"), {}.__getitem__)
    with pytest.raises(GeckoError, match="no passages there"):
        begin(Wanted(str(tmp_path / "nowhere")), out="c")


def test_queries_of_a_log(tmp_path):
    log = tmp_path / "log.csv"
    lines = (
        ["time,query"]
        + [f"{i},{'often asked' if i % 2 else f'once {i}'}" for i in range(200)]
        + ["9,", "9,Often  asked"]
    )
    log.write_text("\n".join(lines) + "\n")
    found = read_queries(log)
    assert (len(found.queries), found.repeated, found.empty, found.broken) == (101, 100, 1, 0)
    drawn = read_queries(log, sample=5)
    assert len(drawn.queries) == 5 and drawn.left == 96
    assert "often asked" in {query.text.lower() for query in drawn.queries}  # half of the log: one in 32 to miss it
    assert read_queries(log, sample=5) == drawn
    assert not {query.text for query in drawn.queries} <= {query.text for query in found.queries[:10]}
    assert {query.text for query in read_queries(log, column="time").queries} >= {"0", "199"}
    with pytest.raises(GeckoError, match="no column words; there are time, query"):
        read_queries(log, column="words")
    plain = tmp_path / "searches.log"
    plain.write_bytes(b"\xef\xbb\xbfone\n\n two \nONE\n")
    assert [query.text for query in read_queries(plain).queries] == ["one", "two"]
    rows = tmp_path / "queries.jsonl"
    rows.write_text('{"_id": "1", "text": "one"}\nnot json\n{"text": 5}\n')
    found = read_queries(rows)
    assert ([query.text for query in found.queries], found.broken) == (["one"], 2)
    for content, words in ((b"\n\n", "holds no query"), (b"\xff\xfe\xff", "cannot be read")):
        plain.write_bytes(content)
        with pytest.raises(GeckoError, match=words):
            read_queries(plain)
    with pytest.raises(GeckoError, match="no such file"):
        read_queries(tmp_path / "none.txt")


# --- the command line


def judge(tmp_path, *arguments: str, text: str = "") -> object:
    return runner.invoke(app, ["judge", "--out", str(tmp_path / "mine"), *arguments], input=text)


def test_the_terminal(tmp_path, corpus):
    """BM25 alone, so that no model is needed: one candidate for each query."""
    began = judge(tmp_path, "--corpus", str(corpus), text="ant bear\nfox\n\n2\nz\nm\n")
    assert began.exit_code == 0
    assert "Query" not in began.stdout  # text for people goes to the other stream
    for words in (
        "2 new queries",
        "Query 1 of 2: ant bear",
        "[1 of 2] On",
        "z is none of these",
        "takes about 199 queries",
    ):
        assert words in began.stderr
    marks = (tmp_path / "mine/judging/judgements.jsonl").read_text().splitlines()
    assert len(marks) == 1  # the input ended after one
    went_on = judge(tmp_path, "--json", text="0\nu\nu\n1\n0\ns\n")
    assert went_on.exit_code == 0
    assert "taken back" in went_on.stderr
    summary = json.loads(went_on.stdout.splitlines()[-1])  # the runner echoes what is typed
    assert {name: summary[name] for name in ("queries", "judged", "without", "judgements", "candidates")} == {
        "queries": 2,
        "judged": 1,
        "without": 1,
        "judgements": 3,
        "candidates": 3,
    }
    assert summary["need"]["seen"] == 0  # BM25 alone differs from nothing
    said = judge(tmp_path, "--status", "--json", "--difference", "0.1")
    assert json.loads(said.stdout)["need"]["difference"] == 0.1
    assert "relevant  1 partly" not in said.stderr  # nothing is asked
    data = load_beir(tmp_path / "mine")
    assert data.queries and sorted(data.qrels[next(iter(data.qrels))].values()) == [0, 1]
    dropped = judge(tmp_path, "--type", text="hen\n\nx\n")
    assert dropped.exit_code == 0 and "1 dropped" in dropped.stderr


def test_a_text_cannot_steer_the_terminal(tmp_path, corpus):
    long = "\x1b[2J" + "word " * 300 + "end"
    with (corpus / "corpus.jsonl").open("a") as handle:
        handle.write(json.dumps({"_id": "evil", "title": "\x1b]0;t\x07zebra", "text": long}) + "\n")
    result = judge(tmp_path, "--corpus", str(corpus), text="zebra\n\nm\nq\n")
    assert result.exit_code == 0
    assert "\x1b" not in result.stderr and "\x07" not in result.stderr
    first, second = result.stderr.split("[1 of 1]")[1:]
    assert "end" not in first.splitlines()[1] and second.splitlines()[1].endswith("end")


def test_a_model_of_the_embedder_is_pooled(tmp_path, corpus, tiny_model):
    log = tmp_path / "log.txt"
    log.write_text("the red ant\nthe old fox\n")
    options = ("--corpus", str(corpus), "--model", tiny_model, "--queries", str(log), "--depth", "4")
    result = judge(tmp_path, *options, text="2\n0\n" * 8)
    assert result.exit_code == 0
    assert f"{log}: 2 queries (0 repeated, 0 empty, 0 unreadable, 0 not drawn)" in result.stderr
    assert f"gecko compare {tiny_model} --beir {tmp_path / 'mine'}" in result.stderr
    compared = runner.invoke(app, ["compare", tiny_model, "--beir", str(tmp_path / "mine"), "--json"])
    assert compared.exit_code == 0
    assert {row["n"] for row in json.loads(compared.stdout)["results"]} == {2}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "holds no test set"),
        (("--status",), 2, "holds no test set"),
        (("--corpus", "{tmp}/nowhere"), 1, "no passages there"),
        (("--corpus", "{tmp}/documents", "--model", "nothing"), 1, "no model directory"),
        (("--corpus", "{tmp}/documents", "--sample", "3"), 2, "of --queries"),
        (("--corpus", "{tmp}/documents", "--queries", "{tmp}/none"), 1, "no such file"),
        (("--corpus", "{tmp}/documents", "--power", "1"), 2, "--power"),
        (("--corpus", "{tmp}/documents", "--difference", "0"), 2, "--difference"),
    ],
)
def test_mistakes_of_judge(tmp_path, corpus, arguments, code, words):
    result = judge(tmp_path, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "mine/corpus.jsonl").exists()
    if code == 2:
        assert not (tmp_path / "mine").exists()  # a folder that is refused is not touched


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["m"], 2, "nothing to compare on"),
        (["a=m", "a=n", "--beir", "{tmp}/documents"], 2, "two models are called a"),
        (["m", "--beir", "{tmp}/documents", "--vectors", "int4"], 2, "--vectors int4"),
        (["m", "--beir", "{tmp}/documents", "--dims", "x"], 2, "--dims"),
        (["m", "--beir", "{tmp}/documents", "--against", "n"], 2, "--against n"),
        (["m", "--beir", "{tmp}/documents"], 1, "no such file"),  # no queries there
        (["m", "--tasks", "{tmp}/documents"], 2, "there is one"),
    ],
)
def test_mistakes_of_compare(tmp_path, corpus, arguments, code, words):
    result = runner.invoke(app, ["compare", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_compare_names_models_and_shows_what_was_forgotten(tmp_path, corpus, tiny_model):
    judge(tmp_path, "--corpus", str(corpus), text="ant bear\nfox cat\n\n" + "2\n0\n" * 2)
    (tmp_path / "alike").mkdir()
    rows = [
        {"sentence1": f"the {a}", "sentence2": f"a {b}", "score": s}
        for a, b, s in (("ant", "ant", 5), ("fox", "hen", 1), ("eel", "cat", 2))
    ]
    (tmp_path / "alike/test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["compare", f"old={tiny_model}", f"new={tiny_model}", "--beir", str(tmp_path / "mine"), "--dims", "32,16"]
    command += [
        "--vectors",
        "float,binary",
        "--against",
        "new",
        "--tasks",
        str(tmp_path / "alike"),
        "--precision",
        "float32",
    ]
    result = runner.invoke(app, [*command, "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [system["name"] for system in report["systems"]] == ["bm25", "old", "new", "bm25+old", "bm25+new"]
    assert {(row["dim"], row["vectors"]) for row in report["results"]} == {
        (d, v) for d in (32, 16) for v in ("float", "binary")
    }
    assert list(report["tasks"]) == ["old"] and report["against_model"] == "new"
    assert {row["dim"] for row in report["tasks"]["old"]["results"]} == {32, 16}
    shown = runner.invoke(app, [*command, "--no-hybrids"])
    assert shown.exit_code == 0 and shown.stdout == ""
    assert "General tasks" in shown.stderr and "bm25+" not in shown.stderr


# --- the page


@pytest.fixture
def page(begin):
    judging = begin()
    judging.session.add(["ant", "bear"])
    server = JudgePage(judging)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server, judging, thread
    if thread.is_alive():
        server.stop()
        thread.join(5)


def ask(url: str, body: dict | bytes | None = None, **headers: str) -> tuple[int, bytes]:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_page_judges(page, begin, tmp_path):
    server, judging, thread = page
    status, html = ask(server.url)
    assert status == 200 and b"gecko judge" in html
    assert b"http://" not in html and b"https://" not in html  # it needs nothing else
    _, raw = ask(f"{server.url}state")
    state = json.loads(raw)
    assert set(state) == {"question", "report"}
    assert set(state["question"]) == {
        *("query_id", "query", "doc_id", "title", "text", "number", "queries", "candidate", "candidates")
    }
    everything = b""
    while (question := state["question"]) is not None:
        ids = {"query_id": question["query_id"], "doc_id": question["doc_id"]}
        grade = int(question["title"] == f"On {question['query']}")
        status, raw = ask(f"{server.url}act", {"action": "grade", "grade": grade, **ids})
        assert status == 200
        everything += raw
        state = json.loads(raw)
        # A second press of the same button comes too late and changes nothing.
        assert ask(f"{server.url}act", {"action": "grade", "grade": 1 - grade, **ids})[0] == 409
    for word in (b"tuned", b"base", b"bm25", b"rank", b"score"):
        assert word not in everything.lower()
    assert sorted(load_beir(tmp_path / "mine").queries.values()) == ["ant", "bear"]
    assert json.loads(ask(f"{server.url}act", {"action": "undo"})[1])["question"]["query"] == "bear"
    current = judging.session.question()
    ids = {"query_id": current.query_id, "doc_id": current.doc_id}
    assert json.loads(ask(f"{server.url}act", {"action": "drop", **ids})[1])["question"] is None
    added = json.loads(ask(f"{server.url}act", {"action": "add", "queries": ["cat", ""]})[1])
    assert added["question"]["query"] == "cat" and added["question"]["queries"] == 3
    ids = {name: added["question"][name] for name in ("query_id", "doc_id")}
    assert ask(f"{server.url}act", {"action": "skip", **ids})[0] == 200
    assert judging.session.progress().judgements == 5 + 1  # of the dropped query none counts
    assert ask(f"{server.url}act", {"action": "stop"})[0] == 200
    thread.join(5)
    assert not thread.is_alive()
    assert begin(Wanted()).session.progress() == judging.session.progress()


def test_the_page_refuses_strangers_and_nonsense(page):
    server, judging, _ = page
    asked = judging.session.question()
    ids = {"query_id": asked.query_id, "doc_id": asked.doc_id}
    right = {"action": "grade", "grade": 1, **ids}
    root = f"http://127.0.0.1:{server.port}/"
    assert ask(root)[0] == ask(f"{root}state")[0] == ask(f"{root}wrong/state")[0] == 404
    assert ask(f"{root}act", right)[0] == ask(f"{root}wrong/act", right)[0] == 404
    assert ask(f"{server.url}act", right, Origin="http://elsewhere.example")[0] == 403
    assert ask(f"{server.url}act", right, Host=f"elsewhere.example:{server.port}")[0] == 403
    assert ask(f"{server.url}state", Host="elsewhere.example")[0] == 403
    for body in (
        b"",
        b"[]",
        b"{",
        {},
        {"action": "fly"},
        {"action": "add", "queries": "ant"},
        {"action": "add", "queries": [5]},
    ):
        assert ask(f"{server.url}act", body)[0] == 400
    for grade in (3, -1, 1.5, "1", True, [1]):
        assert ask(f"{server.url}act", {**right, "grade": grade})[0] == 400
    assert ask(f"{server.url}act", {"action": "grade", **ids})[0] == 400
    assert judging.session.question() == asked and judging.session.progress().judgements == 0
    assert ask(f"{server.url}act", right, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
    assert judging.session.progress().judgements == 1
    with pytest.raises(UsageError, match=f"--port {server.port}"):
        JudgePage(judging, server.port)


def test_random_sessions_agree_with_a_plain_record(begin, tmp_path):
    """Whatever the person does and wherever it is stopped, the folder holds what a list of answers would."""
    rng = random.Random(0)
    judging = begin()
    judging.session.add(["ant", "bear", "cat", "dog"])
    answers: list[tuple[str, str, object]] = []
    for _ in range(150):
        question = judging.session.question()
        action = rng.choice([0, 1, 2, None, "undo", "stop", *([] if rng.random() < 0.9 else ["drop"])])
        if action == "stop":
            judging = begin(Wanted())
        elif action == "undo":
            assert judging.session.undo() == bool(answers)
            answers = answers[:-1]
        elif question is not None:
            answers.append((question.query_id, question.doc_id, action))
            judging.session.drop(question) if action == "drop" else judging.session.grade(question, action)
    pools = {
        json.loads(line)["query_id"]: json.loads(line)["candidates"]
        for line in (tmp_path / "mine/judging/pools.jsonl").open()
    }
    dropped = {query for query, _, action in answers if action == "drop"}
    expected = {}
    for query, candidates in pools.items():
        given = {doc: action for q, doc, action in answers if q == query and action != "drop"}
        if query not in dropped and set(given) == set(candidates) and any(given.values()):
            expected[query] = {doc: grade for doc, grade in given.items() if grade is not None}
    lines = (tmp_path / "mine/qrels/test.tsv").read_text().splitlines()[1:]
    found: dict[str, dict[str, int]] = {}
    for query, doc, grade in (line.split("\t") for line in lines):
        found.setdefault(query, {})[doc] = int(grade)
    assert found == expected
