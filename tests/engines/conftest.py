"""One random Llama as transformers saves it and as llama.cpp reads it, with the same tokenizer in both."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TEXTS = (
    "Passage and the query it answers.\n\nPassage: a cat on a mat\nQuery: where is the cat\n\n",
    "Passage: seven wolves cross the frozen river at dusk and do not look back\nQuery:",
    "Judge the passage. Query: what do wolves cross\nRelevance:",
    "what is the river where wolves are seen",
)
DIGITS = " 0 1 2 3" * 8
CONTEXT = 256


@dataclass(frozen=True)
class TinyLlama:
    """The same weights and tokenizer, twice."""

    folder: Path
    gguf: Path
    vocabulary: str


@pytest.fixture(scope="session", params=["bpe", "bpe-without-bos", "spm"])
def tiny_llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return make_tiny_llama(tmp_path_factory.mktemp("llama"), request.param)


@pytest.fixture(scope="session")
def long_llama(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    """One with room for real prompts."""
    return make_tiny_llama(tmp_path_factory.mktemp("long"), "bpe", context=16_384)


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Runs ``llama_cpp.server`` with a GGUF on a loopback port; gives its address."""
    return lambda model, context=CONTEXT: serve(model, tmp_path_factory.mktemp("server") / "log", context)


@pytest.fixture(scope="session")
def gguf_writer() -> Callable[..., None]:
    return write_gguf


@contextlib.contextmanager
def serve(model: Path, log: Path, context: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": model,
        "model_alias": "tiny",
        "n_ctx": context,
        "n_threads": 1,
        "n_threads_batch": 1,
        "logits_all": "true",
        "host": "127.0.0.1",
        "port": port,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *arguments], stdout=out, stderr=out)
    base = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/models", timeout=5):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
        yield base
    finally:
        process.terminate()
        process.wait(timeout=20)


def make_tiny_llama(folder: Path, vocabulary: str, context: int = CONTEXT) -> TinyLlama:
    """A two-layer Llama of random weights in float32, with a vocabulary of one of the two kinds llama.cpp knows best.

    ``bpe`` is byte-level, as GPT-2's, with or without a beginning-of-sequence token; ``spm`` puts a space before a text
    and keeps digits apart, as SentencePiece does for Llama 2.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _spm() if vocabulary == "spm" else _bpe(bos=vocabulary == "bpe")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    path = folder / f"tiny-{vocabulary}.gguf"
    write_gguf(model, tokenizer, path, spm=vocabulary == "spm")
    return TinyLlama(folder / "model", path, vocabulary)


def _bpe(*, bos: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, DIGITS], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>" if bos else None, eos_token="</s>")


def _spm() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits(True)])
    learned.train_from_iterator(
        [text.replace("\n", " ") for text in TEXTS] + [DIGITS], trainers.BpeTrainer(vocab_size=120, show_progress=False)
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = sorted(learned.get_vocab().items(), key=lambda pair: pair[1])
    # Letters last, as SentencePiece has them: a token's place is its score, and letters are merged by none.
    merged = [piece for piece, _ in pieces if len(piece) > 1] + [piece for piece, _ in pieces if len(piece) == 1]
    vocabulary = {token: index for index, token in enumerate([*special, *merged])}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in merged
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=True
    )


def write_gguf(model: Any, tokenizer: Any, path: Path, *, spm: bool, chat_template: str | None = None) -> None:
    """Write a Llama of transformers as a GGUF file of float32 weights, as llama.cpp's own converter would."""
    import gguf

    config = model.config
    head = config.hidden_size // config.num_attention_heads
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name(path.stem)
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(head)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(config.vocab_size)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    _write_vocabulary(out, tokenizer, spm=spm)
    if chat_template:
        out.add_chat_template(chat_template)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(config.num_hidden_layers):
        for theirs, ours in parts.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    state = model.state_dict()
    assert set(state) == set(names)
    for theirs, ours in names.items():
        weight = state[theirs].float().numpy()
        if ".q_proj." in theirs or ".k_proj." in theirs:
            # transformers rotates the halves of a head, llama.cpp its neighbouring pairs.
            heads = weight.shape[0] // head
            weight = weight.reshape(heads, 2, head // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        out.add_tensor(ours, weight.copy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _write_vocabulary(out: Any, tokenizer: Any, *, spm: bool) -> None:
    import gguf

    kinds = gguf.TokenType
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]

    def kind(index: int, token: str) -> int:
        if index < 3:
            return int(kinds.UNKNOWN if index == 0 else kinds.CONTROL)
        return int(kinds.BYTE if spm and token.startswith("<0x") else kinds.NORMAL)

    out.add_tokenizer_model("llama" if spm else "gpt2")
    out.add_tokenizer_pre("default" if spm else "gpt-2")
    out.add_token_list(tokens)
    out.add_token_types([kind(index, token) for index, token in enumerate(tokens)])
    if spm:
        out.add_token_scores([0.0 if index < 259 else 258.0 - index for index in range(len(tokens))])
        out.add_add_space_prefix(True)
    else:
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        out.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_bos_token(tokenizer.bos_token is not None)
    out.add_add_eos_token(False)
