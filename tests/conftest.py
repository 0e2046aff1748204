"""Shared fixtures: nothing is downloaded; models are two layers of random weights.

``tiny_model`` is a Sentence-Transformers model; ``backbone`` makes others as Hugging Face saves them, without the files
of Sentence-Transformers.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models this small are slower on many threads, and very much slower where other processes use them. The same number in
# every process also makes the sums of a training in a process of its own those of one in this process, to the bit.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it alone

WORDS = (
    "ant bear cat dog eel fox goat hen ibis jay koala lion mole newt owl pig quail rat seal toad wolf yak zebra "
    "task query title text none search result : | a the of in red blue green big small old new house river road tree"
).split()
_SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
_WIDE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_WIDE, "num_key_value_heads": 2}


@pytest.fixture(scope="module", autouse=True)
def libraries_are_no_garbage() -> None:
    """Leave what the libraries made when they were imported out of every later garbage collection.

    Each training begins with a full one (accelerate's), which took a fifth of a tiny training's time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One page of a headless Chromium, to open files and addresses in."""
    from browser import BROWSERS, CHROMIUM, Browser

    if not CHROMIUM:
        pytest.skip(f"no Chromium here (looked for {', '.join(BROWSERS)})")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def words() -> list[str]:
    """Words that the tiny model's tokenizer knows."""
    return WORDS


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a two-layer random BERT (hidden 32, dropout 0.1) with mean pooling and normalisation."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: index for index, token in enumerate(special + WORDS)}
    for letter in "abcdefghijklmnopqrstuvwxyz0123456789":
        vocabulary.setdefault(letter, len(vocabulary))
        vocabulary.setdefault(f"##{letter}", len(vocabulary))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )
    backbone = folder / "backbone"
    bert.save_pretrained(backbone)
    wrapped.save_pretrained(backbone)
    encoder = Transformer(str(backbone), max_seq_length=48)
    model = SentenceTransformer(modules=[encoder, Pooling(32, pooling_mode="mean"), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return str(folder / "model")


def _tokenizer(words: list[str], *, begins: bool, pads: bool, limit: int | None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    options: dict[str, Any] = {} if limit is None else {"model_max_length": limit}
    if pads:
        options["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>" if begins else None,
        eos_token="</s>",
        padding_side="left",  # as decoders come
        **options,
    )


def _model(kind: str, size: int) -> Any:
    import transformers as hf

    common, decoder = {**_WIDE, "vocab_size": size}, {**_DECODER, "vocab_size": size}
    if kind == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**decoder))
    if kind == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(head_dim=8, **decoder))
    if kind == "gemma3":
        config = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
        return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**decoder, **config))
    if kind == "stablelm":
        return hf.StableLmModel(hf.StableLmConfig(**decoder))
    if kind == "mamba":
        return hf.MambaModel(hf.MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=4))
    if kind == "t5":
        config = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1}
        ids = {"pad_token_id": 3, "eos_token_id": 2, "decoder_start_token_id": 3}
        return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=size, **config, **ids))
    if kind == "xlm-roberta":
        return hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(pad_token_id=3, **common))
    if kind == "modernbert":
        ids = {"pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2}
        return hf.ModernBertForMaskedLM(hf.ModernBertConfig(local_attention=8, **common, **ids))
    raise AssertionError(kind)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Callable[..., str]:
    """Makes the directory of a two-layer random model of a family, hidden size 32.

    ``limit`` is what its tokenizer states as the longest text; None is a tokenizer that states none.
    """
    made: dict[tuple[str, int | None], str] = {}

    def make(kind: str, limit: int | None = 64) -> str:
        import torch

        if (kind, limit) not in made:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(kind)
            model = _model(kind, len(_SPECIAL) + len(words))
            model.save_pretrained(folder)
            pads = kind in {"t5", "xlm-roberta", "modernbert"}
            _tokenizer(words, begins=kind != "qwen3", pads=pads, limit=limit).save_pretrained(folder)
            made[kind, limit] = str(Path(folder))
        return made[kind, limit]

    return make
