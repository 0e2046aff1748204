"""The same weights behind three engines give the same likelihoods and the same labels.

Needs ``pip install -e '.[llama]'``, which compiles llama.cpp; ``make test-engines`` does both.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, Labels, Likelihood, Prompt, Write

pytest.importorskip("llama_cpp", reason="the extra is not installed: pip install -e '.[llama]'")
pytest.importorskip("gguf", reason="the extra is not installed: pip install -e '.[llama]'")

# Natural log-probability; llama.cpp keeps keys and values in float16.
NEAR = 2e-2

SHARED = "Passage and the query it answers.\n\nPassage: a cat on a mat\nQuery: where is the cat\n\n"
OWN = (
    "Passage: seven wolves cross the frozen river at dusk and do not look back\nQuery:",
    "Passage: Zürich – 3 naïve cats\nQuery:",
    "Passage: a mat\nQuery:",
)
CONTINUATIONS = (" what do wolves cross", " where is the cat 12", " 日本 river")
QL = [Likelihood(Prompt(shared, own), text) for shared in (SHARED, "") for own in OWN for text in CONTINUATIONS]
RC = [Labels(Prompt("Judge the passage. ", own + " what\nRelevance:"), ("0", "1", "2", "3")) for own in OWN]


def answers(engine: Any, asks: Sequence[Ask]) -> list[Answer]:
    size = engine.batch
    runs = [asks[first : first + size] for first in range(0, len(asks), size)]

    async def work() -> list[Answer]:
        return [answer for run in runs for answer in await engine.answer(run)]

    return asyncio.run(work())


@pytest.fixture(scope="session")
def reference(tiny_llama: Any) -> Any:
    from gecko.teacher.transformers import TransformersEngine

    return TransformersEngine(tiny_llama.folder, device="cpu")


@pytest.fixture(scope="session")
def llama(tiny_llama: Any) -> Iterator[Any]:
    from gecko.teacher.llama_cpp import LlamaCppEngine

    engine = LlamaCppEngine(tiny_llama.gguf, context=256, threads=1)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="session")
def server(tiny_llama: Any, serving: Any) -> Iterator[str]:
    """Address of ``llama_cpp.server`` with the model."""
    pytest.importorskip("uvicorn", reason="the server's part of the extra is not installed: pip install -e '.[llama]'")
    with serving(tiny_llama.gguf) as base:
        yield base


def complete(base: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base}/completions",
        json.dumps({"model": "tiny", "temperature": 0, "max_tokens": 1, **body}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        found = json.load(reply)
    return {**found["choices"][0]["logprobs"], "generated": found["usage"]["completion_tokens"]}


def test_they_read_the_same_tokens(reference: Any, llama: Any) -> None:
    for ask in [*QL, *RC]:
        assert llama._reading(ask) == reference._reading(ask)
    assert llama._start == reference._tokens.start


def test_likelihoods_of_llama_cpp_are_those_of_transformers(reference: Any, llama: Any) -> None:
    mine, theirs = answers(llama, QL), answers(reference, QL)
    for ask, one, two in zip(QL, mine, theirs, strict=True):
        assert not one.error and not two.error
        assert one.logprobs == pytest.approx(two.logprobs, abs=NEAR), ask
        assert sum(one.logprobs) == pytest.approx(sum(two.logprobs), abs=NEAR), ask
        assert one.input_tokens == two.input_tokens
    assert mine[1].cached_tokens > 0


def test_labels_of_llama_cpp_are_those_of_transformers(reference: Any, llama: Any) -> None:
    for one, two in zip(answers(llama, RC), answers(reference, RC), strict=True):
        assert one.labels == pytest.approx(two.labels, abs=NEAR)
        assert one.floored == two.floored == ()


def test_likelihoods_of_the_server_are_those_of_transformers(reference: Any, server: str, tiny_llama: Any) -> None:
    if tiny_llama.vocabulary == "bpe-without-bos":
        pytest.skip("llama_cpp.server pairs each token with the next one's distribution where there is no BOS")
    for ask, answer in zip(QL, answers(reference, QL), strict=True):
        whole = ask.prompt.shared + ask.prompt.own + ask.continuation
        reply = complete(server, prompt=whole, echo=True, logprobs=1)
        # It goes on past max_tokens until a character is whole.
        end = len(reply["token_logprobs"]) - reply["generated"]
        assert reply["token_logprobs"][end - len(answer.logprobs) : end] == pytest.approx(answer.logprobs, abs=NEAR), (
            ask
        )


def test_labels_of_the_server_are_those_of_transformers(reference: Any, server: str, tiny_llama: Any) -> None:
    if tiny_llama.vocabulary == "spm":
        pytest.skip("its labels are a space and a digit, which one call of a server does not show")
    everything = len(reference._tokenizer)
    for ask, answer in zip(RC, answers(reference, RC), strict=True):
        top = complete(server, prompt=ask.prompt.shared + ask.prompt.own, logprobs=everything)["top_logprobs"][0]
        for label, value in answer.labels.items():
            assert np.logaddexp(top[f" {label}"], top[label]) == pytest.approx(value, abs=NEAR)


def test_the_engine_for_servers_agrees_in_what_it_claims(reference: Any, server: str, tiny_llama: Any) -> None:
    if importlib.util.find_spec("gecko.teacher.openai") is None:
        pytest.skip("gecko.teacher.openai is not there")
    from gecko.teacher.openai import OpenAIEngine

    engine = OpenAIEngine("tiny", base_url=server, api_key="none")

    async def work() -> tuple[list[Answer], list[Answer]]:
        likelihoods = QL if (await engine.capabilities()).prompt_logprobs else []
        # The digits are not among a random model's likeliest tokens, so the probe finds no labels: ask for all tokens.
        engine.set_dialect({**engine.dialect(), "labels": "completions", "top": len(reference._tokenizer)})
        found = [[(await engine.answer([ask]))[0] for ask in asks] for asks in (likelihoods, RC)]
        await engine.close()
        return found[0], found[1]

    likelihoods, labels = asyncio.run(work())
    # Elsewhere this server's tokens and offsets are off, and not to be read is as well as to be read aright.
    assert likelihoods or tiny_llama.vocabulary != "bpe"
    for ask, one, two in zip(
        QL[: len(likelihoods)], likelihoods, answers(reference, QL)[: len(likelihoods)], strict=True
    ):
        assert sum(one.logprobs) == pytest.approx(sum(two.logprobs), abs=NEAR), ask
    if tiny_llama.vocabulary != "spm":  # there its labels are a space and a digit, which one call does not show
        for one, two in zip(labels, answers(reference, RC), strict=True):
            assert not one.floored
            assert one.labels == pytest.approx(two.labels, abs=NEAR)


def test_the_cache_of_llama_cpp_is_not_upset_by_what_came_before(llama: Any) -> None:
    first = answers(llama, QL)
    assert not answers(llama, [Write(Prompt(SHARED, OWN[0]), max_tokens=9)])[0].error
    answers(llama, RC)
    backwards = answers(llama, QL[::-1])[::-1]
    for one, two in zip(first, backwards, strict=True):
        # Not bit for bit: how many tokens go through at once changes the order of the sums.
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-3)


def test_greedy_writing_is_the_same(reference: Any, llama: Any) -> None:
    """Token for token: what a random model writes is no whole UTF-8, and each library mends that in its own way."""
    import torch

    for own in OWN:
        ask = Write(Prompt(SHARED, own), max_tokens=6)
        tokens = llama._write_tokens(ask.prompt)
        assert tokens == reference._write_tokens(ask.prompt)
        answer = answers(llama, [ask])[0]
        count = answer.output_tokens
        written = reference._model.generate(
            torch.tensor([tokens]), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        text = llama._llama.detokenize(written[0, len(tokens) :].tolist(), prev_tokens=tokens)
        assert (answer.text, answer.input_tokens) == (text.decode(errors="ignore"), len(tokens))


def test_llama_cpp_holds_a_reply_to_a_schema(llama: Any) -> None:
    schema = {"type": "object", "properties": {"grade": {"enum": [0, 1, 2, 3]}}, "required": ["grade"]}
    ask = Write(Prompt("", "Grade it."), max_tokens=60, schema=schema, temperature=1.0, seed=5)
    one, again = answers(llama, [ask, ask])
    assert json.loads(one.text)["grade"] in (0, 1, 2, 3)
    assert one.finish == "stop" and one.text == again.text


def test_llama_cpp_says_what_it_can_do_and_refuses_what_it_cannot(llama: Any, tiny_llama: Any, tmp_path: Path) -> None:
    from gecko.teacher.llama_cpp import LlamaCppEngine

    can = asyncio.run(llama.capabilities())
    assert can.prompt_logprobs and can.label_logprobs_exact and can.constrained_choice
    assert llama.name == f"llama-cpp:{tiny_llama.gguf.name}" and "/" not in llama.name
    long = Prompt(SHARED, "wolves " * 300)
    for ask in (Likelihood(long, " cat"), Labels(long, ("0",)), Write(long, max_tokens=3)):
        assert "takes 25" in answers(llama, [ask])[0].error
    assert answers(llama, [Likelihood(Prompt(SHARED, "a"), "")])[0].error == "the continuation is empty"
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "cut.gguf").write_bytes(tiny_llama.gguf.read_bytes()[:2000])
    for name, message in (
        ("none", "no file at"),
        ("text", "is no GGUF file"),
        ("cut", "llama.cpp cannot load cut.gguf"),
    ):
        with pytest.raises(GeckoError, match=message):
            LlamaCppEngine(tmp_path / f"{name}.gguf")


def test_llama_cpp_uses_the_chat_template_in_the_file(tiny_llama: Any, tmp_path: Path, gguf_writer: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gecko.teacher.llama_cpp import LlamaCppEngine

    model = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.folder)
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + plain
    for template, text in (
        (plain, "system: be brief\nuser: hello\nassistant:"),
        (strict, "user: be brief\n\nhello\nassistant:"),
    ):
        path = tmp_path / "chat.gguf"
        gguf_writer(model, tokenizer, path, spm=tiny_llama.vocabulary == "spm", chat_template=template)
        engine = LlamaCppEngine(path, context=256, threads=1)
        assert engine._llama.detokenize(engine._write_tokens(Prompt("be brief", "hello"))).decode().strip() == text
        assert answers(engine, [Write(Prompt("be brief", "hello"), max_tokens=3)])[0].output_tokens > 0
        asyncio.run(engine.close())
