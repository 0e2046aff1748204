from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from endpoint import Endpoint

from gecko.errors import GeckoError
from gecko.recipe import load_recipe
from gecko.teacher_check import check_teacher, render_check


def test_every_check_asks_anew(tmp_path: Path) -> None:
    with Endpoint("openai", key="k") as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GECKO_API_KEY", "k")
        values = load_recipe(None, ["teacher.spec=openai:toy", f"teacher.base_url={endpoint.url}"])

        def check() -> dict:
            return check_teacher(values, tmp_path, None, tell=lambda _: None)

        first = check()
        asked = len(endpoint.log)
        written = [body for body in endpoint.bodies("/chat/completions") if "Wish:" in str(body)]
        assert len(written) >= 3
        second = check()
        assert len(endpoint.log) >= 2 * asked - 6  # replies differ, and with them the attempts to mend them
        again = [body for body in endpoint.bodies("/chat/completions") if "Wish:" in str(body)][len(written) :]
        assert len(again) >= 3
        assert first["capabilities"] == second["capabilities"]
        assert second["spent"]["input_tokens"] > first["spent"]["input_tokens"]
        assert "rung" in render_check(second)
        # The endpoint was changed: the check says so, and so does what a run recalls.
        endpoint.brain.top = lambda prefix, count: [("<think>", -0.01), ("1", -9.0), ("0", -9.5)]
        assert check()["rung"] == "graded+listwise" != first["rung"]
    with pytest.raises(GeckoError, match="does not answer"):
        check()


def test_a_check_leaves_no_connection_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Endpoint("openai", key="k") as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GECKO_API_KEY", "k")
        values = load_recipe(None, ["teacher.spec=openai:toy", f"teacher.base_url={endpoint.url}"])
        check_teacher(values, tmp_path, None, tell=lambda _: None)
    gc.collect()  # what was left open would be told when it is thrown away
    assert "Unclosed" not in caplog.text


def ranking(
    *,
    fused: tuple[float, float, float],
    gain: tuple[float, float, float],
    good: bool,
    available: int = 99,
    failed: int = 0,
) -> dict:
    """What is found of a teacher that is no language model: differences as (mean, low, high)."""
    return {
        "teacher": "offline",
        "rung": "offline",
        "why": "it is no language model",
        "capabilities": {"listwise": True},
        "ranking": {
            "dataset": "toy",
            "split": "train",
            "n": 40,
            "available": available,
            "failed": failed,
            "ndcg_at_10": {"miner": 0.6, "ql": 0.7, "rc": 0.65, "rrf": 0.7 + fused[0]},
            "delta_to_miner": {"rrf": {"delta": gain[0], "ci95": list(gain[1:])}},
            "fused_to_better": {"better": "ql", "delta": fused[0], "ci95": list(fused[1:])},
            "good_enough": good,
        },
    }


def test_the_verdict_says_whether_the_sample_can_tell() -> None:
    passed = render_check(ranking(fused=(0.01, -0.01, 0.03), gain=(0.11, 0.05, 0.2), good=True))
    assert "fused    +11.0 [+5.0, +20.0] against the miner, +1.0 [-1.0, +3.0] against the better part (QL)" in passed
    assert "toy (train)" in passed
    assert "good enough: fused no worse than its better part, and that no worse than the miner" in passed
    assert "raise --sample" not in passed
    unclear = render_check(ranking(fused=(-0.002, -0.01, 0.01), gain=(0.1, 0.05, 0.2), good=False))
    assert "not clearly good enough" in unclear
    assert "raise --sample" in unclear
    for fused, gain in (((-0.05, -0.08, -0.02), (0.1, 0.05, 0.2)), ((-0.002, -0.01, 0.01), (0.0, -0.1, 0.1))):
        assert "raise --sample" not in render_check(ranking(fused=fused, gain=gain, good=False))
    # No larger sample is to be had; and what failed is no matter of the sample.
    near = {"fused": (-0.002, -0.01, 0.01), "gain": (0.1, 0.05, 0.2), "good": False}
    assert "raise --sample" not in render_check(ranking(**near, available=40))
    assert "too many queries failed" in render_check(ranking(**near, failed=9))


def test_a_check_through_the_batch_api_waits_for_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GECKO_API_KEY", "k")
    monkeypatch.setattr("gecko.teacher.batched._QUIET_SECONDS", 0.01)
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    words = ("copper", "river", "violin", "bread")
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": word, "text": f"all about {word}"}) + "\n" for word in words)
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q-{word}", "text": f"what is {word}"}) + "\n" for word in words)
    )
    lines = [f"q-{word}\t{word}\t1" for word in words]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    with Endpoint("openai", key="k") as endpoint:
        settings = [
            "teacher.spec=openai:toy", f"teacher.base_url={endpoint.url}", "teacher.batch=true",
            "teacher.poll_seconds=0.01", "fret.neighbours=3",
        ]  # fmt: skip
        value = check_teacher(load_recipe(None, settings), tmp_path / "out", folder, tell=lambda _: None)
        assert value["ranking"]["n"] == 4
        # What it writes; the relevances; the orders. One more each where a reply had to be mended.
        assert len(endpoint.batches.batches) <= 6
    assert "seconds_a_call" not in value
    assert "wrote" in render_check(value)
