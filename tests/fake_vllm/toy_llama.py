"""A model directory without true weights: a token a byte, so that the space before a digit is one of its own."""

from __future__ import annotations

from pathlib import Path


def save_toy(folder: Path, *, weights: bytes = b"weights") -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary)).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(weights)
    return str(folder)
