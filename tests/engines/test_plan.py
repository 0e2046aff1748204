"""The plan beside what a real server counts: llama.cpp ranks for recorded queries of a real corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

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


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled corpora are not here")
def test_the_plan_is_within_a_tenth_of_what_the_server_counts(
    tmp_path: Path, tiny_model: str, long_llama: Any, serving: Any
) -> None:
    corpus = SHARED / "data" / "powershell_docs"
    settings = [
        "corpus.limit=400", "fret.limit=12", "fret.neighbours=5", f"fret.miner={tiny_model}", "fret.min_positive_rc=0",
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
        used = run("distill", *source, *changes, "--out", str(tmp_path / "fret"))
    planned = plan["total"]["input_tokens"] + plan["total"]["output_tokens"]
    assert planned == pytest.approx(used["input_tokens"] + used["output_tokens"], rel=0.1)
