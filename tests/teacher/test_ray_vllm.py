"""A teacher on vLLM through Ray: what it reads off the answers, what it keeps, and what it refuses.

Neither Ray nor vLLM need be there: see ``tests/fake_vllm``. ``tests/engine/test_ray_vllm.py`` is the same with Ray.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gecko.errors import GeckoError, UsageError
from gecko.records import GeneratedQuery, Passage
from gecko.teacher.ask import Answer, Ask, Labels, Likelihood, Prompt, Write
from gecko.teacher.ledger import Ledger
from gecko.teacher.llm import LLMTeacher
from gecko.teacher.open import open_engine, open_teacher
from gecko.teacher.options import TeacherOptions
from gecko.teacher.protocol import RankRequest
from gecko.teacher.ray_vllm import RayVllmEngine

PROMPT = Prompt("Judge.\n", "Query: a\nRelevance:")
DIGITS = ("0", "1", "2", "3")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fake_vllm"))
    monkeypatch.setattr("gecko.teacher.gathered._QUIET_SECONDS", 0.01)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def cluster(importable: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    from fake_ray import FakeRay

    return FakeRay(monkeypatch)


@pytest.fixture
def path(importable: None, tmp_path: Path) -> str:
    from toy_llama import save_toy

    return save_toy(tmp_path / "toy")


def answers(engine: RayVllmEngine, asks: Sequence[Ask]) -> list[Answer]:
    return asyncio.run(engine.answer(asks))


def tokens(text: str) -> list[int]:
    """A byte each, by their place among the characters that stand for bytes."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [alphabet.index(letter.replace(" ", "Ġ").replace("\n", "Ċ")) for letter in text]


def test_answers_are_what_the_model_says_of_the_right_tokens(cluster: Any, path: str) -> None:
    import vllm

    asks = [
        Likelihood(PROMPT, " who"),
        Write(PROMPT, 8, temperature=0.5, seed=3),
        Likelihood(PROMPT, ""),
        Write(Prompt("", "x" * 13_000), 8),
        Likelihood(Prompt("", "Q"), " a longer one"),
    ]
    short, written, empty, too_long, longer = answers(RayVllmEngine(path), asks)
    for ask, answer in ((asks[0], short), (asks[4], longer)):
        assert isinstance(ask, Likelihood)
        before, after = tokens(ask.prompt.shared + ask.prompt.own), tokens(ask.continuation)
        want = [vllm.logprobs(before + after[:at])[token] for at, token in enumerate(after)]
        assert answer.logprobs == pytest.approx(want)
        assert (answer.input_tokens, answer.output_tokens) == (len(before + after), 1)
    reply = vllm.generate(tokens("Judge.\nQuery: a\nRelevance:"), vllm.SamplingParams(max_tokens=8)).outputs[0]
    assert (written.text, written.output_tokens) == (reply.text, len(reply.token_ids))
    assert written.finish == ("length" if len(reply.token_ids) == 8 else "stop")
    assert empty.error == "the continuation is empty"
    assert "longer than 12000" in too_long.error
    sent = {row["number"]: row["sampling_params"] for run in cluster.runs for row in run}
    assert sent[1] == {"temperature": 0.5, "max_tokens": 8, "seed": 3, "logprobs": 0}
    assert sent[0] == {"temperature": 0.0, "max_tokens": 1, "seed": 0, "logprobs": 0, "prompt_logprobs": 0}


@pytest.mark.parametrize("top", [258, 20, 1])
def test_labels_are_those_among_the_likeliest_and_others_are_bounded(
    cluster: Any, path: str, top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm

    monkeypatch.setattr("gecko.teacher.vllm_rows.TOP", top)
    asks = [Labels(Prompt("Judge.\n", own), DIGITS) for own in ("A:", "B:", "C:", "D:", "E:", "F:", "G:", "H:")]
    known = 0
    for ask, answer in zip(asks, answers(RayVllmEngine(path), asks), strict=True):
        here = tokens(ask.prompt.shared + ask.prompt.own)
        (space,) = tokens(" ")
        next_one, behind = vllm.logprobs(here), vllm.logprobs([*here, space])
        likely = [sorted(values, reverse=True)[top - 1] for values in (next_one, behind)]
        for digit in DIGITS:
            (token,) = tokens(digit)
            ways = [next_one[token]] if next_one[token] >= likely[0] else []
            if next_one[space] >= likely[0] and behind[token] >= likely[1]:
                ways.append(next_one[space] + behind[token])
            if ways:
                assert answer.labels[digit] == pytest.approx(math.log(sum(map(math.exp, ways))))
                known += 1
            else:
                assert digit in answer.floored
                assert next_one[token] <= answer.labels[digit] <= max(next_one)
    assert (known == 32) if top == 258 else (0 < known < 32) if top == 20 else known < 32


def teacher(path: str, folder: Path, **options: Any) -> tuple[LLMTeacher, Ledger]:
    ledger = Ledger(folder / "ledger.sqlite")
    opened = open_teacher(f"ray-vllm:{path}", ledger, options=TeacherOptions(**options))
    assert isinstance(opened, LLMTeacher)
    return opened, ledger


def likelihoods(count: int) -> list[Likelihood]:
    return [Likelihood(PROMPT, f" number {number}") for number in range(count)]


def test_a_run_that_breaks_keeps_what_came_and_asks_for_the_rest_alone(cluster: Any, path: str, tmp_path: Path) -> None:
    first, _ = teacher(path, tmp_path)
    cluster.dies_after = 4
    with pytest.raises(GeckoError, match="ray-vllm:toy stopped: CUDA error: no kernel image") as told:
        first.caller.map(first.caller.ask, likelihoods(10))
    assert "openai:MODEL" in told.value.hint
    first.close()
    assert not cluster.joined
    cluster.dies_after = None
    again, ledger = teacher(path, tmp_path)
    found = again.caller.map(again.caller.ask, likelihoods(10))
    assert all(answer.logprobs for answer in found)
    assert [len(run) for run in cluster.runs] == [10, 6]  # all there is to ask is one run
    assert (again.calls_made, again.calls_replayed) == (6, 4)
    assert ledger.stats()["input_tokens"] == sum(answer.input_tokens for answer in found)
    again.close()


def test_the_cap_holds_before_anything_is_asked(cluster: Any, path: str, tmp_path: Path) -> None:
    capped, _ = teacher(path, tmp_path, max_tokens=60)
    with pytest.raises(GeckoError, match="could pass the cap of 60 tokens"):
        capped.caller.map(capped.caller.ask, likelihoods(10))
    assert 0 < sum(map(len, cluster.runs)) < 10
    capped.close()


def test_the_rung_follows_from_what_comes_back(cluster: Any, path: str, tmp_path: Path) -> None:
    passages = [Passage(f"p{number}", f"s{number}", "", f"text {number}", "test", "en") for number in range(3)]
    query = GeneratedQuery("p1", "find it", "text 1", "en", "", "", 0, 0)
    ranked, _ = teacher(path, tmp_path / "all")
    (scores,) = ranked.rank_many([RankRequest(query, passages)])
    assert (ranked.rung, scores.rung) == ("ql+rc-topk", "ql+rc-topk")
    ranked.close()
    cluster.told = {"logprobs"}
    served, _ = teacher(path, tmp_path / "tops", rung="ql+rc-topk")
    with pytest.raises(GeckoError, match="cannot be asked for ql"):
        served.rank_many([RankRequest(query, passages)])
    served.close()


def test_replicas_share_the_gpus(cluster: Any, path: str) -> None:
    cluster.resources["GPU"] = 5.0
    engine = RayVllmEngine(path, arguments={"tensor_parallel_size": 2})
    answers(engine, likelihoods(1))
    assert (cluster.configs[0].concurrency, cluster.configs[0].engine_kwargs) == (2, {"tensor_parallel_size": 2})


def test_what_is_missing_is_one_line(cluster: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.resources = {"CPU": 2.0}
    with pytest.raises(GeckoError, match="the Ray cluster has no GPU"):
        answers(RayVllmEngine(path), likelihoods(1))
    cluster.resources, cluster.joined = {"GPU": 1.0}, True
    with pytest.raises(GeckoError, match="keep every core"):
        answers(RayVllmEngine(path), likelihoods(1))
    monkeypatch.setattr("gecko.teacher.ray_vllm._GPU_SECONDS", 0)
    cluster.resources, cluster.free = {"GPU": 2.0, "CPU": 2.0}, {"CPU": 2.0}
    with pytest.raises(GeckoError, match="no GPU of the Ray cluster is free") as told:
        answers(RayVllmEngine(path), likelihoods(1))
    assert "--ray-gpus" in told.value.hint
    cluster.installed = []
    with pytest.raises(GeckoError, match="ray and vllm not installed") as told:
        RayVllmEngine(path)
    assert "pip install 'gecko-embed[ray]' vllm" in told.value.hint
    with pytest.raises(GeckoError, match=r"^ray not installed"):  # vLLM is the cluster's business
        RayVllmEngine(path, address="10.0.0.1:6379")
    assert open_engine(f"ray-vllm:{path}", TeacherOptions(), asked=False).name == "ray-vllm:toy"


def test_no_code_of_a_model_and_no_batch_api(cluster: Any, path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never run"):
        TeacherOptions(vllm={"trust_remote_code": True})
    with pytest.raises(UsageError, match=r"teacher\.batch is for openai"):
        teacher(path, tmp_path, batch=True)


def test_the_fingerprint_is_of_weights_and_arguments_not_of_the_place(cluster: Any, path: str, tmp_path: Path) -> None:
    from toy_llama import save_toy

    one = RayVllmEngine(path).fingerprint
    assert RayVllmEngine(save_toy(tmp_path / "moved" / "toy")).fingerprint == one
    assert RayVllmEngine(save_toy(tmp_path / "tuned", weights=b"WEIGHTS")).fingerprint != one
    assert RayVllmEngine(path, arguments={"dtype": "half"}).fingerprint != one
