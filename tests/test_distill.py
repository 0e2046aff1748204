"""From passages to FRet rows with a language model behind HTTP: the verbs that lead there, and what they cost."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent / "teacher"))

from endpoint import Endpoint

from gecko.cli import app
from gecko.errors import UsageError
from gecko.records import GeneratedQuery, Passage
from gecko.shards import read_rows, to_fret
from gecko.teacher.ask import EngineError
from gecko.teacher.batch import BatchClient
from gecko.teacher.ledger import Ledger
from gecko.teacher.llm import LLMTeacher
from gecko.teacher.open import open_teacher
from gecko.teacher.options import TeacherOptions
from gecko.teacher.protocol import RankRequest

TOPICS = ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen", "ibis", "jay", "koala", "lion", "mole", "newt")
PLACES = ("river", "road", "house", "tree")


def like_a_model(body: dict[str, Any]) -> str:
    """What a model might reply, made from the passage it is shown."""
    shown = body["messages"][-1]["content"]
    if "Wish:" in shown:
        found = re.findall(r"the (\w+) \d+ lives by the (\w+)", shown.lower())
        animal, place = found[0] if found else ("thing", "none")  # of the passages that a check shows
        return json.dumps(
            {
                "skip": "",
                "task": "Given a question, find a passage that answers it.",
                "query": f"{place} with one {animal}",
            }
        )
    query = shown.partition("\n")[0].split()
    lines = re.findall(r"^\[\d+\] (.*)$", shown, re.MULTILINE)
    grades = [3 if all(word in line.lower() for word in query[1:2] + query[-1:]) else 0 for line in lines]
    order = sorted(range(1, len(lines) + 1), key=lambda number: -grades[number - 1])
    return json.dumps({"grades": grades, "order": order})


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        {"_id": f"{animal}-{place}", "title": f"{animal} and {place}", "text": text}
        for number, animal in enumerate(TOPICS)
        for place in PLACES
        for text in [f"The {animal} {number} lives by the {place}. It is small, and {animal} {place} is its name."]
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--out", str(folder / "passages"), "--json"]
    result = CliRunner().invoke(app, ["corpus", str(folder / "corpus.jsonl"), *options])
    assert result.exit_code == 0, result.output
    return folder / "passages"


@pytest.fixture(autouse=True)
def no_connection_is_left_open(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()  # what was left open is told when it is thrown away
    told = [record.getMessage() for record in (*caplog.get_records("call"), *caplog.records)]
    assert not [line for line in told if "Unclosed" in line]


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else {}, result.stderr


def distill(passages: Path, out: Path, endpoint: Endpoint, tiny_model: str, *more: str) -> tuple[int, dict, str]:
    settings = [f"fret.miner={tiny_model}", "fret.neighbours=4", "fret.min_positive_rc=0"]
    settings += [f"teacher.base_url={endpoint.url}", "teacher.in_flight=8"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    folders = ["--corpus", str(passages), "--out", str(out), "--teacher", "openai:toy"]
    return run("distill", *folders, *arguments, *more)


@pytest.mark.parametrize(
    ("dialect", "rung"),
    [
        ("vllm", "ql+rc"),
        ("llama-cpp-python", "ql+rc-topk"),
        ("openai", "rc+listwise"),
        ("anthropic", "graded+listwise"),
    ],
)
def test_every_kind_of_endpoint_gives_fret_rows_with_their_rung(
    passages: Path, tiny_model: str, tmp_path: Path, dialect: str, rung: str
) -> None:
    with Endpoint(dialect, reply=like_a_model) as endpoint:
        code, value, said = distill(passages, tmp_path / "fret", endpoint, tiny_model, "--limit", "12")
        assert code == 0, said
        rows = list(read_rows(tmp_path / "fret", to_fret))
        assert value["rows"] == len(rows) > 0
        assert {row.rung for row in rows} == {rung}
        assert {row.teacher for row in rows} == {"openai:toy"}
        assert all(row.input_tokens > 0 for row in rows)
        card = (tmp_path / "fret" / "_README.md").read_text()
        assert f"came {value['queries']} queries, from these {len(rows)} rows" in card
        assert f"{value['input_tokens']:,}" in card and endpoint.url not in card and str(tmp_path) not in card
        assert "gecko distill --corpus passages --teacher openai:toy --out DIR" in card
        assert "--set fret.neighbours=4" in card
        asked = len(endpoint.log)
        again = distill(passages, tmp_path / "fret", endpoint, tiny_model, "--limit", "12")
        assert (again[0], again[1]["rows"], len(endpoint.log)) == (0, len(rows), asked)


def test_a_cap_stops_in_one_line_loses_nothing_and_is_never_passed(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    out = tmp_path / "fret"
    with Endpoint("openai", reply=like_a_model) as endpoint:
        code, _, said = distill(passages, out, endpoint, tiny_model, "--limit", "30", "--max-tokens", "30000")
        assert code == 1
        assert "cap of 30,000 tokens" in said
        assert "nothing is lost" in said
        stats = run("ledger", "stats", str(out))[1]["total"]
        used = stats["input_tokens"] + stats["output_tokens"]
        assert 15_000 < used <= 30_000
        asked = len(endpoint.bodies("completions"))
        code, value, said = distill(passages, out, endpoint, tiny_model, "--limit", "30")
        assert code == 0, said
        stats = run("ledger", "stats", str(out))[1]["total"]
        assert stats["calls"] == value["calls"]
        bodies = [json.dumps(body, sort_keys=True) for body in endpoint.bodies("completions")]
        assert len(bodies) > asked
        assert len(set(bodies)) == len(bodies), "a call was made twice"


def test_a_cap_in_dollars_needs_a_price_which_a_recipe_can_give(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    with Endpoint("openai", reply=like_a_model) as endpoint:
        code, _, said = distill(passages, tmp_path / "a", endpoint, tiny_model, "--max-usd", "1")
        assert code == 2
        assert "teacher.price" in said
        assert endpoint.log == []
        price = ["--set", "teacher.price={input: 1.0, output: 2.0}", "--max-usd", "1", "--limit", "5"]
        code, value, said = distill(passages, tmp_path / "b", endpoint, tiny_model, *price)
        assert code == 0, said
        assert value["usd"] == pytest.approx((value["input_tokens"] + 2 * value["output_tokens"]) / 1e6)


def test_an_endpoint_that_is_not_there_ends_in_one_line(passages: Path, tiny_model: str, tmp_path: Path) -> None:
    with Endpoint("openai") as endpoint:
        pass
    code, _, said = distill(passages, tmp_path / "fret", endpoint, tiny_model, "--limit", "3")
    assert code == 1
    assert "gecko: openai:toy does not answer: nobody answers" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("dialect", "rung"), [("vllm", "ql+rc"), ("llama-cpp-python", "ql+rc-topk")])
def test_the_plan_is_within_a_tenth_of_the_tokens_used(
    passages: Path, tiny_model: str, tmp_path: Path, dialect: str, rung: str
) -> None:
    with Endpoint(dialect, reply=like_a_model) as endpoint:
        settings = [
            f"fret.miner={tiny_model}", "fret.neighbours=20", "fret.min_positive_rc=0", "fret.limit=15",
            f"teacher.base_url={endpoint.url}", "teacher.spec=openai:toy",
        ]  # fmt: skip
        (tmp_path / "recipe.yaml").write_text("{}")
        changes = [part for setting in settings for part in ("--set", setting)]
        corpus = ["--corpus", str(passages.parent / "corpus.jsonl")]
        # Probing, which a plan does not do, finds out how to count tokens; a check in the same folder is remembered.
        out = tmp_path / "run"
        code, checked, said = run("teacher", "check", "openai:toy", *changes, "--out", str(out))
        assert code == 0, said
        assert checked["rung"] == rung
        asked = len(endpoint.bodies("completions"))
        code, plan, said = run("plan", str(tmp_path / "recipe.yaml"), *corpus, *changes, "--out", str(out))
        assert code == 0, said
        assert len(endpoint.bodies("completions")) == asked, "a plan asked the teacher"
        assert plan["total"]["usd"] is None
        assert not any("cannot count tokens" in note for note in plan["notes"])
        code, value, said = distill(
            passages, tmp_path / "fret", endpoint, tiny_model, "--limit", "15", "--set", "fret.neighbours=20"
        )
        assert code == 0, said
    used, planned = value["input_tokens"] + value["output_tokens"], plan["total"]
    assert planned["input_tokens"] + planned["output_tokens"] == pytest.approx(used, rel=0.1)
    assert planned["calls"] == pytest.approx(value["calls"], rel=0.1)


def test_what_writing_took_says_nothing_of_grading(
    passages: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grade of many candidates is a longer reply than a query; the ledger of a check holds queries only."""
    with Endpoint("anthropic", reply=like_a_model) as endpoint:
        settings = [
            f"fret.miner={tiny_model}", f"teacher.base_url={endpoint.url}", "teacher.spec=openai:toy", "fret.limit=15",
        ]  # fmt: skip
        (tmp_path / "recipe.yaml").write_text("{}")
        changes = [part for setting in settings for part in ("--set", setting)]
        corpus = ["--corpus", str(passages.parent / "corpus.jsonl")]

        def planned(out: Path) -> int:
            code, plan, said = run("plan", str(tmp_path / "recipe.yaml"), *corpus, *changes, "--out", str(out))
            assert code == 0, said
            ranked = plan["stages"][1]
            assert ranked["rung"] == "graded+listwise"
            return ranked["output_tokens"]

        out = tmp_path / "run"
        assert run("teacher", "check", "openai:toy", *changes, "--out", str(out))[0] == 0
        first = planned(out)
        with Ledger(out / "ledger.sqlite") as ledger:
            assert {total["kind"] for total in ledger.totals()} == {"write", "probe"}
            teacher = open_teacher("openai:toy", ledger, options=TeacherOptions(base_url=endpoint.url))
            assert isinstance(teacher, LLMTeacher)
            read = [Passage(f"p{n}", f"p{n}", "", f"a text about {n}", "", "en") for n in range(4)]
            teacher.rank_many([RankRequest(GeneratedQuery("p0", "", "what is 0", "en", "", "", 0, 0), read)])
            teacher.close()
            (graded,) = [total for total in ledger.totals() if total["kind"] == "grade"]
        assert first in (1400, 1500)  # assumed: 100 tokens, 97 % of the seeds
        assert planned(out) == pytest.approx(first * graded["output_tokens"] / graded["calls"] / 100, rel=0.02)


def test_a_plan_for_teachers_that_cost_nothing_says_so(passages: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    corpus = ["--corpus", str(passages.parent / "corpus.jsonl")]
    code, plan, _ = run("plan", str(tmp_path / "recipe.yaml"), *corpus)
    assert code == 0
    assert (plan["total"]["calls"], plan["total"]["usd"]) == (0, 0.0)


def test_the_ledger_can_be_read(passages: Path, tiny_model: str, tmp_path: Path) -> None:
    out = tmp_path / "fret"
    with Endpoint("openai", reply=like_a_model) as endpoint:
        assert distill(passages, out, endpoint, tiny_model, "--limit", "4")[0] == 0
    code, stats, _ = run("ledger", "stats", str(out))
    assert code == 0
    assert {row["kind"] for row in stats["kinds"]} == {"write", "labels", "listwise", "probe"}
    table = CliRunner().invoke(app, ["ledger", "stats", str(out)]).stderr
    assert "unknown" in table  # the price of openai:toy
    shown = CliRunner().invoke(app, ["ledger", "show", str(out), "--kind", "write", "--last", "2"])
    assert shown.exit_code == 0
    assert shown.stderr.count("answered") == 2
    code, value, _ = run("ledger", "export", str(out), "--out", str(tmp_path / "calls.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert len(lines) == value["calls"] == stats["total"]["calls"]
    assert all(len(line["request"]["prompt"]["shared"]) > 500 for line in lines if line["kind"] != "probe")
    assert run("ledger", "stats", str(tmp_path / "nowhere"))[0] == 1


def test_distill_refuses_a_folder_of_other_files(passages: Path, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "fret").mkdir()
    (tmp_path / "fret" / "notes.txt").write_text("mine")
    with Endpoint("openai") as endpoint:
        code, _, said = distill(passages, tmp_path / "fret", endpoint, tiny_model)
    assert code == 2
    assert "notes.txt" in said


def test_one_teacher_may_write_and_another_in_this_process_rank(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    from test_transformers import save_model

    model = save_model(tmp_path / "tiny-llama", longest=20_000)
    settings = [f"fret.miner={tiny_model}", "fret.neighbours=3", "fret.min_positive_rc=0"]
    settings += ["teacher.writer=offline", f"teacher.ranker=transformers:{model}"]
    changes = [part for setting in settings for part in ("--set", setting)]
    out = ["--corpus", str(passages), "--out", str(tmp_path / "fret"), "--limit", "6"]
    code, value, said = run("distill", *out, "--teacher", "offline", *changes)
    assert code == 0, said
    rows = list(read_rows(tmp_path / "fret", to_fret))
    assert value["rows"] == len(rows) > 0
    assert {(row.teacher, row.rung) for row in rows} == {("offline", "ql+rc")}
    assert all(c.ql is not None and c.ql < 0 and 0 <= (c.rc or 0) <= 3 for row in rows for c in row.candidates)
    kinds = {row["kind"]: row["model"] for row in run("ledger", "stats", str(tmp_path / "fret"))[1]["kinds"]}
    assert kinds["likelihood"] == kinds["labels"] == "transformers:tiny-llama"
    assert value["usd"] == 0


BATCHED = ["--limit", "8", "--set", "teacher.batch=true", "--set", "teacher.poll_seconds=0.05"]


def test_batch_mode_gives_the_rows_of_single_calls_at_half_the_price(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    price = ["--set", "teacher.price={input: 1.0, output: 2.0}"]
    with Endpoint("openai", reply=like_a_model) as endpoint:
        code, single, said = distill(passages, tmp_path / "single", endpoint, tiny_model, "--limit", "8", *price)
        assert code == 0, said
        asked = len(endpoint.bodies("chat/completions"))
        code, value, said = distill(passages, tmp_path / "batch", endpoint, tiny_model, *BATCHED, *price)
        assert code == 0, said
        # Probing asks at once; nothing else does.
        assert len(endpoint.bodies("chat/completions")) - asked < 12
        assert "8 of 8 calls answered" in said
    assert list(read_rows(tmp_path / "batch", to_fret)) == list(read_rows(tmp_path / "single", to_fret))
    assert value["usd"] == pytest.approx(single["usd"] / 2, rel=0.02)


def test_a_run_stopped_while_a_batch_is_under_way_waits_for_it_when_it_goes_on(
    passages: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll = BatchClient.poll

    def stopped(self: BatchClient, batch_id: str) -> None:
        raise EngineError("the network is gone")

    with Endpoint("openai", reply=like_a_model) as endpoint:
        monkeypatch.setattr(BatchClient, "poll", stopped)
        code, _, said = distill(passages, tmp_path / "fret", endpoint, tiny_model, *BATCHED)
        assert code == 1
        assert "openai:toy: the network is gone" in said
        monkeypatch.setattr(BatchClient, "poll", poll)
        code, value, said = distill(passages, tmp_path / "fret", endpoint, tiny_model, *BATCHED)
        assert code == 0, said
        created = [seen for seen in endpoint.log if seen.method == "POST" and seen.path.endswith("/batches")]
        assert value["rows"] > 0
        # One for the queries, begun by the first run; one for the orders and one for the labels of the ranking.
        assert len(created) == 3


def test_a_batch_that_expires_keeps_its_answers_and_the_rest_is_submitted_again(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    with Endpoint("openai", reply=like_a_model) as endpoint:
        endpoint.batches.end = "expired"
        code, _, said = distill(passages, tmp_path / "fret", endpoint, tiny_model, *BATCHED)
        assert "the batch expired: 4 of 8 calls are answered" in said
        assert "the batch expired: 2 of 4 calls are answered" in said
        # Of the last two, there is no answer after two attempts: the stage is not finished, nor the rows lost.
        assert (code, "the teacher did not answer for 2 of 8 seeds" in said) == (1, True)
        assert run("ledger", "stats", str(tmp_path / "fret"))[1]["total"]["failed"] > 0
        endpoint.batches.end = "completed"
        code, value, said = distill(passages, tmp_path / "fret", endpoint, tiny_model, *BATCHED)
        assert code == 0, said
        assert value["queries"] == 8


def test_batch_mode_is_for_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gecko.teacher import open as opening
    from gecko.teacher.options import TeacherOptions

    monkeypatch.setattr(opening, "open_engine", lambda spec, options, **_: SimpleNamespace(name=spec))
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.raises(UsageError, match=r"teacher\.batch is for openai"):
        opening.open_teacher("transformers:x", ledger, options=TeacherOptions(batch=True))
