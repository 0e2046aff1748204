from __future__ import annotations

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
            return check_teacher(values, tmp_path, None, split="test", sample=1, tell=lambda _: None)

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
