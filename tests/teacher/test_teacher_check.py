from __future__ import annotations

import gc
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


def ranking(*, fused: tuple[float, float, float], gain: tuple[float, float, float], good: bool) -> dict:
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
            "failed": 0,
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
    assert "good enough: fusing both" in passed
    assert "raise --sample" not in passed
    unclear = render_check(ranking(fused=(-0.002, -0.01, 0.01), gain=(0.1, 0.05, 0.2), good=False))
    assert "not clearly good enough" in unclear
    assert "raise --sample" in unclear
    for fused, gain in (((-0.05, -0.08, -0.02), (0.1, 0.05, 0.2)), ((-0.002, -0.01, 0.01), (0.0, -0.1, 0.1))):
        assert "raise --sample" not in render_check(ranking(fused=fused, gain=gain, good=False))
