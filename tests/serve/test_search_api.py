"""Search over HTTP, and thumbs that become a judged set."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("fastapi")

from serve_parts import CORPUS, Words

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import load_beir
from gecko.judge.folder import JudgedFolder
from gecko.judge.judging import Judging, Wanted
from gecko.serve.highlight import highlights
from gecko.serve.index import build_index
from gecko.serve.search import SearchIndex, search_index
from gecko.shards import locked


def found(answer):
    assert answer.status_code == 200, answer.text
    return [hit["source_id"] for hit in answer.json()["hits"]]


@pytest.fixture
def searching(start, encoder, indexes):
    tuned, base = indexes
    other = Words("base", "other")
    return start(encoder, index=SearchIndex(tuned), base=(other, SearchIndex(base)))


def test_passages_come_with_ids_scores_and_marks(searching):
    answer = searching.post("/search", {"query": "rotating signing key", "k": 3, "mode": "text"}).json()
    assert (answer["model"], answer["mode"], answer["dimensions"]) == ("words", "text", 64)
    first = answer["hits"][0]
    assert (first["rank"], first["source_id"], first["passage_id"]) == (1, "a", CORPUS[0].passage_id)
    assert [first["text"][start:end] for start, end in first["highlights"]] == ["rotate", "signing", "keys"]
    assert [first["title"][start:end] for start, end in first["title_highlights"]] == ["Keys"]


def test_each_model_searches_its_own_index(searching, indexes):
    for name, folder, model in (("words", indexes[0], Words()), ("base", indexes[1], Words("base", "other"))):
        answer = searching.post("/search", {"query": "restore the logs", "model": name, "k": 5, "mode": "dense"})
        expected = search_index(folder, "restore the logs", k=5, mode="dense", embedder=model)
        assert found(answer) == [hit.source_id for hit in expected]
    facts = searching.get("/search").json()
    assert [(model["model"], model["base"]) for model in facts["models"]] == [("words", False), ("base", True)]
    assert (facts["dimensions"], facts["passages"], facts["thumbs"]) == ([64, 32], len(CORPUS), False)


def test_fewer_dimensions_rank_by_those_alone(searching, indexes):
    model = Words()
    query = model.encode_queries(["rotate the tapes and the keys"])[0][:20]
    stored = model.encode_passages([(p.title, p.text) for p in CORPUS])[:, :20]
    scores = stored @ (query / np.linalg.norm(query)) / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
    body = {"query": "rotate the tapes and the keys", "mode": "dense", "dimensions": 20, "k": 4}
    hits = searching.post("/search", body).json()["hits"]
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:4], abs=1e-5)
    assert hits[0]["source_id"] == CORPUS[int(scores.argmax())].source_id


@pytest.mark.parametrize("dimensions", [64, 20])
@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"lang": "de"}, {"d"}),
        ({"source": "docs/guide/*"}, {"b", "c"}),
        ({"source": ["docs/api/*", "docs/de/keys.md"], "lang": ["en", "de"]}, {"a", "d"}),
        ({"lang": []}, set()),
        ({"title": "x' OR '1'='1"}, set()),
        ({"source": "docs/%"}, set()),
    ],
)
def test_filters_leave_only_what_they_say(searching, where, expected, mode, dimensions):
    query = "rotate keys backup logs access monat"
    answer = searching.post("/search", {"query": query, "where": where, "mode": mode, "dimensions": dimensions})
    assert set(found(answer)) == expected


def test_a_search_that_cannot_be_is_told(searching):
    for body in (
        {"query": " "},
        {"query": "a", "k": 0},
        {"query": "a", "k": 101},
        {"query": "a", "mode": "sparse"},
        {"query": "a", "dimensions": 65},
        {"query": "a", "where": {"colour": "red"}},
        {"query": "a", "where": {"lang": 3}},
        {"query": "a", "where": "lang=de"},
    ):
        answer = searching.post("/search", body)
        assert answer.status_code == 400 and answer.json()["error"]["message"], body
    assert searching.post("/search", {"query": "a", "model": "x"}).status_code == 404


def test_an_index_made_anew_is_searched_at_once(start, encoder, tmp_path):
    build_index(Words(), CORPUS[:2], tmp_path)
    server = start(encoder, index=SearchIndex(tmp_path))
    body = {"query": "where the access logs are written", "k": 1, "mode": "text"}
    assert found(server.post("/search", body)) != ["c"]
    build_index(Words(), CORPUS, tmp_path)
    assert found(server.post("/search", body)) == ["c"]
    other = Words(seed="2")
    build_index(other, CORPUS, tmp_path)
    answer = server.post("/search", body)
    assert answer.status_code == 503 and "another model" in answer.json()["error"]["message"]


def test_an_index_of_another_model_is_refused(indexes):
    with pytest.raises(GeckoError, match="is not the model that made") as caught:
        SearchIndex(indexes[0]).check(Words("words", "2"))
    assert "gecko index" in caught.value.hint
    with pytest.raises(UsageError, match="no field colour"):
        search_index(indexes[0], "x", where={"colour": "red"}, embedder=Words())


def test_marks_leave_out_words_that_all_texts_hold():
    text = "How to rotate the keys: rotating is 😀 easy"
    marked = [text[start:end] for start, end in highlights("how is the key rotated?", text)]
    assert marked == ["rotate", "keys", "rotating"]
    assert highlights("the", "the end") == [(0, 3)]
    assert highlights("Schlüssel", "die Schlüsseln", "de") == [(4, 14)]
    assert highlights("ключ", "ключ", "xx") == [(0, 4)]
    assert highlights("", "text") == highlights("text", "") == []


def test_thumbs_become_a_test_set_that_judge_goes_on_with(whole_site, indexes, tmp_path):
    server, base = whole_site, indexes[1]
    assert server.get("/search").json()["thumbs"] is True
    query, keys = "rotate the signing keys", CORPUS[0].passage_id
    done = server.post("/thumbs", {"query": query, "passage_id": keys, "grade": 2}).json()
    assert done["judged"] == 1 and done["open"] >= 4
    pool = JudgedFolder(tmp_path / "mine").pools()[done["query_id"]]
    assert set(pool.rankings) == {"bm25", "base", "model"} and pool.rankings["model"][0] == keys
    expected = [hit.passage_id for hit in search_index(base, query, mode="dense", embedder=Words("base", "other"))]
    assert list(pool.rankings["base"]) == expected
    assert set(pool.candidates) == {doc for ranking in pool.rankings.values() for doc in ranking[:5]}

    again = server.post("/thumbs", {"query": f" {query.upper()} ", "passage_id": keys, "grade": 0}).json()
    assert again == done  # the same query; the later word counts
    for doc in pool.candidates:
        server.post("/thumbs", {"query": query, "passage_id": doc, "grade": 2 if doc == keys else 0})
    test = load_beir(tmp_path / "mine")
    assert test.qrels == {done["query_id"]: {doc: 2 * (doc == keys) for doc in pool.candidates}}
    assert len(test.doc_ids) == len(CORPUS)

    other = server.post("/thumbs", {"query": "backup", "passage_id": keys, "grade": 0}).json()
    judging = Judging(tmp_path / "mine", Wanted(), {}.__getitem__)  # gecko judge, which needs no model for it
    assert judging.settings.base == "base"
    progress = judging.session.progress()
    assert (progress.queries, progress.judged) == (2, 1)
    assert judging.session.question().query_id == other["query_id"]


def test_a_thumb_that_cannot_be_is_told(start, encoder, indexes, open_thumbs, tmp_path):
    server = start(encoder, index=SearchIndex(indexes[0]), thumbs=open_thumbs())
    keys = CORPUS[0].passage_id
    for body in (
        {"query": "a", "passage_id": "nowhere", "grade": 2},
        {"query": " ", "passage_id": keys, "grade": 2},
        {"query": "a", "passage_id": keys, "grade": 3},
        {"query": "a", "passage_id": keys, "grade": True},
        {"query": "a", "passage_id": keys},
    ):
        assert server.post("/thumbs", body).status_code == 400, body
    with locked(tmp_path / "mine"):
        answer = server.post("/thumbs", {"query": "a", "passage_id": keys, "grade": 2})
        assert answer.status_code == 503 and "another process" in answer.json()["error"]["message"]


def test_a_thumb_is_shown_again_and_can_be_taken_back(whole_site, tmp_path):
    body = {"query": "rotate the signing keys", "passage_id": CORPUS[0].passage_id}

    def shown():
        hits = whole_site.post("/search", {"query": body["query"], "model": "base", "k": 100}).json()["hits"]
        return {hit["passage_id"]: hit["grade"] for hit in hits if hit["grade"] is not None}

    pooled = whole_site.post("/thumbs", {**body, "grade": 2}).json()
    assert (pooled["judged"], shown()) == (1, {body["passage_id"]: 2})
    assert whole_site.post("/thumbs", {**body, "grade": None}).json() == {
        **pooled,
        "judged": 0,
        "open": pooled["open"] + 1,
    }
    assert shown() == {}
    judging = Judging(tmp_path / "mine", Wanted(), {}.__getitem__)
    session = judging.session
    assert session.progress().judgements == 0  # gecko judge asks for it again
    assert session.undo() and session.progress().judgements == 1  # and can take back the taking back


def test_a_set_of_other_documents_is_refused(open_thumbs, tmp_path, caplog):
    open_thumbs([{"_id": "x", "title": "", "text": "another"}])
    with pytest.raises(UsageError, match="judges other documents"):
        open_thumbs()
    shutil.rmtree(tmp_path / "mine")
    open_thumbs([{"_id": CORPUS[0].passage_id, "title": "", "text": "one of them"}])
    open_thumbs()
    assert f"{len(CORPUS) - 1} passages of the index are not in" in caplog.text
    (tmp_path / "mine/judging/test.json").unlink()
    with pytest.raises(UsageError, match="holds other files"):
        open_thumbs()


def test_the_search_verb_filters(indexes, monkeypatch):
    from typer.testing import CliRunner

    from gecko.cli import app

    run = CliRunner().invoke
    options = ["search", str(indexes[0]), "keys", "--mode", "text", "--json"]
    assert [hit["source_id"] for hit in json.loads(run(app, options).stdout)["hits"]] == ["a"]
    assert json.loads(run(app, [*options, "--where", "lang=de"]).stdout)["hits"] == []
    refused = run(app, [*options, "--where", "lang"])
    assert refused.exit_code == 2 and "FIELD=VALUE" in refused.stderr
