"""Shared fixtures: nothing is downloaded, and the one model is two layers of random weights."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
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
