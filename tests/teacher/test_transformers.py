from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, Labels, Likelihood, Prompt, Write
from gecko.teacher.pieces import PieceError, encode_inside, label_values, read_labels, read_likelihood

SHARED = "Passage and the query it answers.\n\nPassage: a cat on a mat\nQuery: where is the cat\n\n"
OWN = (
    "Passage: a dog in the fog\nQuery:",
    "Passage: ants\nQuery:",
    "Passage: seven wolves cross the frozen river at dusk and do not look back\nQuery:",
    "",
)
CONTINUATIONS = (" what do wolves cross", " dog", " ants in 3 rivers", " who")


def tokenizer_of(chat_template: str | None = None) -> Any:
    """A byte-level BPE of 256 bytes and the merges of the texts above, with a beginning-of-sequence token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SHARED, *OWN, *CONTINUATIONS, " 0 1 2 3" * 4], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    if chat_template:
        wrapped.chat_template = chat_template
    return wrapped


def save_model(
    folder: Path, *, seed: int = 0, chat_template: str | None = None, sliding: bool = False, longest: int = 256
) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(chat_template)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": longest,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    model = (
        MistralForCausalLM(MistralConfig(**sizes, sliding_window=16))
        if sliding
        else LlamaForCausalLM(LlamaConfig(**sizes))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("llama") / "tiny-llama")


@pytest.fixture(scope="module")
def engine(path: str) -> Any:
    from gecko.teacher.transformers import TransformersEngine

    return TransformersEngine(path, device="cpu")


def answers(engine: Any, asks: Sequence[Ask]) -> list[Answer]:
    return asyncio.run(engine.answer(asks))


def forward(path: str, tokens: Sequence[int]) -> Any:
    """Log-probabilities (tokens, vocabulary) of one plain forward pass, with no cache and no padding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].log_softmax(-1)


def expected(path: str, shared: str, own: str, continuation: str) -> list[float]:
    tokenizer = tokenizer_of()

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    prompt, after = [0, *ids(shared + own)], ids(continuation)
    logs = forward(path, prompt + after)
    return [float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(after)]


def likelihoods() -> list[Likelihood]:
    return [Likelihood(Prompt(SHARED, own), text) for own in OWN for text in CONTINUATIONS]


def test_a_likelihood_is_that_of_a_plain_forward(engine: Any, path: str) -> None:
    asks = likelihoods()
    for ask, answer in zip(asks, answers(engine, asks), strict=True):
        want = expected(path, ask.prompt.shared, ask.prompt.own, ask.continuation)
        assert answer.logprobs == pytest.approx(want, abs=1e-5)
        assert answer.input_tokens == len(forward(path, [0, *tokens_of(ask)]))


def tokens_of(ask: Likelihood) -> list[int]:
    tokenizer = tokenizer_of()
    parts = [part for part in (ask.prompt.shared + ask.prompt.own, ask.continuation) if part]
    return [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]


def test_a_prompt_without_a_shared_part_is_read_too(engine: Any, path: str) -> None:
    asks = [Likelihood(Prompt("", own), " what") for own in OWN]  # the last one has the start token alone
    for ask, answer in zip(asks, answers(engine, asks), strict=True):
        assert answer.logprobs == pytest.approx(expected(path, "", ask.prompt.own, " what"), abs=1e-5)


def test_a_batch_of_mixed_lengths_is_as_one_by_one_with_and_without_a_cache(path: str) -> None:
    from gecko.teacher.transformers import TransformersEngine

    whole, single, bare = (TransformersEngine(path, device="cpu", batch=size) for size in (16, 1, 3))
    bare._reuses = False
    asks = [*likelihoods(), Likelihood(Prompt("Another shared part. ", "Query:"), " dog")]
    together = answers(whole, asks)
    alone = [answers(single, [ask])[0] for ask in asks]
    uncached = answers(bare, asks)
    for one, two, three in zip(together, alone, uncached, strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
        assert one.logprobs == pytest.approx(three.logprobs, abs=1e-5)
        assert three.cached_tokens == 0
    # The shared part's last token, two line breaks, is another one before a word.
    shared = len(tokenizer_of()(SHARED, add_special_tokens=False)["input_ids"])
    assert [answer.cached_tokens for answer in together[:2]] == [0, 1 + shared - 1]


def test_a_sliding_window_is_not_upset_by_padding_or_the_cache(tmp_path: Path) -> None:
    from gecko.teacher.transformers import TransformersEngine

    path = save_model(tmp_path / "mistral", sliding=True)
    engine = TransformersEngine(path, device="cpu", batch=16)
    asks = likelihoods()
    for ask, answer in zip(asks, answers(engine, asks), strict=True):
        want = expected(path, ask.prompt.shared, ask.prompt.own, ask.continuation)
        assert answer.logprobs == pytest.approx(want, abs=1e-5)


def test_the_cache_is_not_changed_by_its_use(engine: Any) -> None:
    ask = likelihoods()[0]
    first, again = answers(engine, [ask])[0], answers(engine, [ask])[0]
    assert first.logprobs == again.logprobs
    assert again.cached_tokens > 0
    assert len(engine._prefixes) <= 4


def test_labels_are_the_forward_s_next_token(engine: Any, path: str) -> None:
    tokenizer = tokenizer_of()
    asks = [Labels(Prompt(SHARED, own), ("0", "1", "2", "3")) for own in OWN]
    for ask, answer in zip(asks, answers(engine, asks), strict=True):
        logs = forward(path, [0, *tokens_of(Likelihood(ask.prompt, ""))])[-1]
        assert list(answer.labels) == ["0", "1", "2", "3"]
        for label, value in answer.labels.items():
            forms = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (label, f" {label}")]
            want = math.log(sum(math.exp(logs[form[0]]) for form in forms if len(form) == 1))
            assert value == pytest.approx(want, abs=1e-5)
        assert answer.floored == ()


def test_labels_behind_a_space_of_its_own(tmp_path: Path) -> None:
    """Llama 3 and Qwen write " 3" as a space and a digit."""
    reading = read_labels(lambda text: [ord(letter) for letter in text], (1,), Labels(Prompt("ab", "c"), ("0", "3")))
    space, zero, three = ord(" "), ord("0"), ord("3")
    assert (reading.prefix, reading.rest) == ((1, ord("a"), ord("b")), (ord("c"), space))
    assert reading.wanted == ((3, zero), (3, space), (4, zero), (3, three), (4, three))
    values = label_values(reading, [-9.0, -0.1, -1.0, -8.0, -0.5])
    want = {"0": math.log(math.exp(-9) + math.exp(-1.1)), "3": math.log(math.exp(-8) + math.exp(-0.6))}
    assert values == pytest.approx(want)
    with pytest.raises(PieceError, match="'10' is not one token"):
        read_labels(lambda text: [ord(letter) for letter in text], (1,), Labels(Prompt("ab", "c"), ("10",)))


def test_a_label_that_is_one_token_with_and_without_a_space_counts_once() -> None:
    reading = read_labels(lambda text: [ord(x) for x in text.strip()] or [1], (1,), Labels(Prompt("a", "b"), ("3",)))
    assert label_values(reading, [-0.5]) == {"3": -0.5}


def test_a_prompt_is_tokenised_whole_and_its_prefix_is_what_it_shares() -> None:
    """GPT-2's vocabulary makes one token of two line breaks, but not before a word."""

    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in (text[:-2] + "\u00b6" if text.endswith("\n\n") else text)]

    for shared, prefix in (("ab", "ab"), ("a\n\n", "a")):
        reading = read_likelihood(encode, (), Likelihood(Prompt(shared, "c"), " d"))
        assert "".join(map(chr, reading.prefix)) == prefix
        assert "".join(map(chr, reading.prefix + reading.rest)) == shared + "c "


def test_a_vocabulary_that_puts_a_space_first_does_not_inside_a_text() -> None:
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in " " + text]

    assert encode_inside(encode, "3") == (ord("3"),)
    assert encode_inside(encode, " 3") == (ord(" "), ord("3"))
    reading = read_likelihood(encode, (1,), Likelihood(Prompt("a", "b"), " c"))
    assert reading.prefix + reading.rest == (1, ord(" "), ord("a"), ord("b"), ord(" "))


def test_it_says_what_it_can_do_and_who_it_is(engine: Any, path: str, tmp_path: Path) -> None:
    from gecko.teacher.transformers import TransformersEngine

    can = asyncio.run(engine.capabilities())
    assert can.generate and can.prompt_logprobs and can.prefix_cache_with_prompt_logprobs and can.label_logprobs_exact
    assert not can.constrained_choice and can.label_logprobs_topk == 0
    assert engine.name == "transformers:tiny-llama"
    assert asyncio.run(engine.count_tokens("ants ants")) == len(
        tokenizer_of()("ants ants", add_special_tokens=False).input_ids
    )
    same = TransformersEngine(save_model(tmp_path / "elsewhere"), device="cpu")
    other = TransformersEngine(save_model(tmp_path / "other", seed=1), device="cpu")
    assert same.fingerprint == engine.fingerprint != other.fingerprint
    assert TransformersEngine(path, device="cpu", dtype="bfloat16").fingerprint != engine.fingerprint


def test_greedy_writing_is_the_likeliest_text_in_any_batch(engine: Any, path: str) -> None:
    asks = [Write(Prompt(SHARED, own), max_tokens=count) for own, count in zip(OWN, (5, 3, 8, 6), strict=True)]
    together = answers(engine, asks)
    for ask, answer in zip(asks, together, strict=True):
        tokens = [0, *tokenizer_of()(ask.prompt.shared + ask.prompt.own, add_special_tokens=False)["input_ids"]]
        assert answer.input_tokens == len(tokens)
        written: list[int] = []
        while len(written) < ask.max_tokens:
            written.append(int(forward(path, tokens + written)[-1].argmax()))
            if written[-1] == 1:
                break
        assert answer.text == tokenizer_of().decode(
            [token for token in written if token != 1], skip_special_tokens=True
        )
        assert answer.finish == ("stop" if written[-1] == 1 else "length")
        assert answer.output_tokens == len(written)


def test_sampling_goes_by_the_seed(engine: Any) -> None:
    ask = Write(Prompt(SHARED, OWN[0]), max_tokens=12, temperature=1.0, seed=3)
    first, other = answers(engine, [ask, replace(ask, seed=4)])
    assert answers(engine, [ask])[0].text == first.text != other.text


def test_a_chat_model_gets_its_template(tmp_path: Path) -> None:
    from gecko.teacher.transformers import TransformersEngine

    template = (
        "{% if messages[0]['role'] == 'system' and refuse is defined %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
    )
    chat = TransformersEngine(save_model(tmp_path / "chat", chat_template=template), device="cpu")
    text = chat._tokenizer.decode(chat._tokens.chat(Prompt("be brief", "hello")))
    assert text == "[system]be brief[user]hello[assistant]"
    strict = template.replace(" and refuse is defined", "")
    chat = TransformersEngine(save_model(tmp_path / "strict", chat_template=strict), device="cpu")
    assert (
        chat._tokenizer.decode(chat._tokens.chat(Prompt("be brief", "hello"))) == "[user]be brief\n\nhello[assistant]"
    )
    # A likelihood is never wrapped.
    [raw] = answers(chat, [Likelihood(Prompt("a ", "b"), " c")])
    assert raw.input_tokens == 1 + len(tokens_of(Likelihood(Prompt("a ", "b"), " c")))


def test_a_question_it_cannot_take_spoils_no_other(engine: Any) -> None:
    long = "ants " * 300
    asks = [Likelihood(Prompt(SHARED, long), " dog"), likelihoods()[0], Likelihood(Prompt(SHARED, "a"), "")]
    too_long, fine, empty = answers(engine, asks)
    assert "tokens, and transformers:tiny-llama takes 256" in too_long.error
    assert not fine.error and all(math.isfinite(value) for value in fine.logprobs)
    assert empty.error == "the continuation is empty"
    assert "takes 255" in answers(engine, [Write(Prompt("", long), max_tokens=4)])[0].error


def test_memory_that_does_not_suffice_halves_the_batch(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    read, sizes = engine._read, []

    def short(rows: list[Any]) -> dict[int, Answer]:
        sizes.append(len(rows))
        if len(rows) > 2 or rows[0][0] == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(rows)

    asks = likelihoods()[:5]
    want = answers(engine, asks)
    monkeypatch.setattr(engine, "_read", short)
    got = answers(engine, asks)
    assert sizes == [5, 2, 2, 1]
    for one, two in zip(got[:4], want[:4], strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
    assert "too long for the memory" in got[4].error


def test_what_is_no_model_is_refused_in_a_line(tmp_path: Path, tiny_model: str) -> None:
    from gecko.teacher.transformers import TransformersEngine

    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    for spec, message in (
        (tmp_path / "empty", "is not a model directory"),
        (tmp_path / "broken", "cannot load the language model"),
        (tmp_path / "none", "no model directory at"),
        (tmp_path / "a.gguf", "no model directory at"),
        (tiny_model, "is no causal language model .BertModel."),
    ):
        with pytest.raises(GeckoError, match=message) as caught:
            TransformersEngine(spec)
        assert caught.value.hint and "\n" not in caught.value.message
