"""Ray's own pipeline for vLLM, with an engine of arithmetic in vLLM's place; nothing where ray is not installed."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gecko.errors import GeckoError
from gecko.teacher.ask import Labels, Likelihood, Prompt, Write
from gecko.teacher.ray_vllm import RayVllmEngine

ray = pytest.importorskip("ray", reason="the extra is not installed: make test-ray, or pip install -e '.[ray]'")

FAKE = str(Path(__file__).parents[1] / "fake_vllm")
PROMPT = Prompt("Judge.\n", "Query: a\nRelevance:")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model, in a process whose Ray has one core and, in name, one GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAKE)
        patch.setenv("PYTHONPATH", FAKE, prepend=os.pathsep)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from toy_llama import save_toy

        ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield save_toy(tmp_path_factory.mktemp("toy"))
        ray.shutdown()
        for name in [name for name in sys.modules if name.partition(".")[0] in ("vllm", "toy_llama", "fake_ray")]:
            del sys.modules[name]


def test_the_pipeline_gives_what_the_model_says(path: str) -> None:
    import vllm

    asks = (
        Write(PROMPT, 8, temperature=0.5, seed=3),
        Likelihood(PROMPT, " who"),
        Labels(PROMPT, ("0", "3")),
        Write(Prompt("", "x" * 13_000), 8),
        Likelihood(PROMPT, ""),
    )
    engine = RayVllmEngine(path, batch=2)
    written, likely, labelled, too_long, empty = asyncio.run(engine.answer(asks))
    tokens = engine._tokens.encode(PROMPT.shared + PROMPT.own)
    reply = vllm.generate(tokens, vllm.SamplingParams(max_tokens=8)).outputs[0]
    assert (written.text, written.output_tokens, written.error) == (reply.text, len(reply.token_ids), "")
    after = engine._tokens.encode(" who")
    want = [vllm.logprobs(tokens + after[:at])[token] for at, token in enumerate(after)]
    assert (likely.error, likely.logprobs) == ("", pytest.approx(want))
    assert (labelled.error, set(labelled.labels)) == ("", {"0", "3"})
    assert "longer than 12000" in too_long.error
    assert empty.error == "the continuation is empty"
    asyncio.run(engine.close())
    assert ray.is_initialized()  # it was there before


def test_an_engine_that_does_not_start_is_one_line_and_a_hint(path: str) -> None:
    engine = RayVllmEngine(path, arguments={"broken": True})
    with pytest.raises(GeckoError, match=r"ray-vllm:toy.* stopped: .*no kernel image") as told:
        asyncio.run(engine.answer([Likelihood(PROMPT, " a")]))
    assert "openai:MODEL" in told.value.hint


def test_ray_s_signatures_are_those_of_the_one_in_its_place(path: str) -> None:
    import fake_ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    asked = [name for name in inspect.signature(fake_ray.vLLMEngineProcessorConfig).parameters if name != "self"]
    assert set(asked) <= set(vLLMEngineProcessorConfig.model_fields)
    fake = inspect.signature(fake_ray.FakeRay.build_processor).parameters
    assert [name for name in fake if name != "self"] == list(inspect.signature(build_processor).parameters)
