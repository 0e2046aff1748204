"""The plan beside what a real server counts: llama.cpp ranks for recorded queries of a real corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gecko.teacher import openai_probe
from gecko.teacher.ask import EngineError, Labels
from gecko.teacher.openai_read import read
from gecko.teacher.openai_wire import Dialect

pytest.importorskip("llama_cpp", reason="the extra is not installed: pip install -e '.[llama]'")
pytest.importorskip("gguf", reason="the extra is not installed: pip install -e '.[llama]'")
pytest.importorskip("uvicorn", reason="the server's part of the extra is not installed: pip install -e '.[llama]'")

SHARED = Path(__file__).resolve().parents[3] / "shared"
CONTEXT = 16_384


def run(*arguments: str) -> dict[str, Any]:
    from gecko.cli import app

    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def any_label(dialect: Dialect, ask: Labels, reply: dict[str, Any] | None) -> float:
    try:
        answer = read(dialect, ask, reply or {})
    except EngineError:
        return 0.0
    return float(len(answer.floored) < len(answer.labels))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled corpora are not here")
def test_the_plan_is_within_a_tenth_of_what_the_server_counts(
    tmp_path: Path, long_llama: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model cannot tell that ice is cold; whatever digits it reports are believed here.
    monkeypatch.setattr(openai_probe, "label_mass", any_label)
    corpus = SHARED / "data" / "powershell_docs"
    settings = [
        "corpus.limit=400", "fret.limit=5", "fret.neighbours=5", "fret.min_positive_rc=0",
        f"teacher.writer=recorded:{SHARED / 'recorded' / 'powershell_docs'}", "teacher.ranker=openai:tiny",
        "teacher.in_flight=1",
    ]  # fmt: skip
    changes = [part for setting in settings for part in ("--set", setting)]
    (tmp_path / "recipe.yaml").write_text("{}")
    with serving(long_llama.gguf, context=CONTEXT) as base:
        changes += ["--base-url", base]
        out = tmp_path / "run"
        run("teacher", "check", "openai:tiny", *changes, "--out", str(out))
        plan = run("plan", str(tmp_path / "recipe.yaml"), "--corpus", str(corpus), *changes, "--out", str(out))
        assert {stage["rung"] for stage in plan["stages"]} == {"", "ql+rc-topk"}
        source = ["--corpus", str(out / "passages"), "--teacher", "offline"]
        run("distill", *source, *changes, "--out", str(tmp_path / "fret"))
    run("ledger", "export", str(tmp_path / "fret"), "--out", str(tmp_path / "calls.jsonl"))
    made = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    asked = [call for call in made if call["kind"] in ("likelihood", "labels")]
    finished = [call for call in asked if not call["error"]]
    planned = plan["total"]
    assert planned["calls"] == pytest.approx(len({call["key"] for call in asked}), rel=0.1)
    # A random model may end a reply before its first token; such a call is made again, which no plan foresees.
    each = sum(call["input_tokens"] + call["output_tokens"] for call in finished) / len(finished)
    assert (planned["input_tokens"] + planned["output_tokens"]) / planned["calls"] == pytest.approx(each, rel=0.1)
