"""Any backbone as a student, and the same vectors from whoever loads what is saved."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from gecko.checks import check_recipe
from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError, UsageError
from gecko.recipe import Recipe, TrainOptions
from gecko.records import UnifiedRow
from gecko.train.backbone import attention_of, keeps_vectors, open_student
from gecko.train.finetune import disable_dropout, finetune
from gecko.train.fit import trained_sizes
from gecko.train.student_options import BackboneOptions

TEXTS = ["cat dog owl", "the old house of the big owl in the green tree", "zebra", "river road tree cat dog eel"]
ENCODERS = ["modernbert", "t5", "xlm-roberta"]
DECODERS = ["llama", "qwen3", "gemma3"]


def student(name: str, **backbone: Any) -> Any:
    return open_student(TrainOptions(student=name, backbone=BackboneOptions(**backbone)), device="cpu")


def tokens_of(model: Any, text: str) -> torch.Tensor:
    """The hidden states of a text's tokens, straight from the transformer."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model[0].auto_model.eval()(input_ids=ids).last_hidden_state[0]


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_becomes_the_mean_of_its_tokens(backbone: Callable[..., str], tmp_path: Path, kind: str) -> None:
    model = student(backbone(kind))
    assert attention_of(model) == "bidirectional"
    expected = np.stack([unit(tokens_of(model, text).mean(0)) for text in TEXTS])
    assert np.allclose(model.encode(TEXTS), expected, atol=1e-5)
    save_model(model, tmp_path)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert [type(module).__name__ for module in loaded] == ["Transformer", "Pooling", "Normalize"]
    assert np.allclose(loaded.encode(TEXTS), expected, atol=1e-5)


def test_a_sentence_transformers_model_is_taken_as_it_is(tiny_model: str) -> None:
    options = TrainOptions(student=tiny_model)
    model, plain = open_student(options, device="cpu"), load_model(tiny_model, device="cpu")
    assert str(model) == str(plain)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert keeps_vectors(options)
    assert not keeps_vectors(options.model_copy(update={"backbone": BackboneOptions(projection=16)}))


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("attention", ["own", "bidirectional"])
def test_a_batch_s_padding_changes_no_vector(backbone: Callable[..., str], kind: str, attention: str) -> None:
    model = student(backbone(kind), attention=attention)
    assert model.tokenizer.padding_side == "right"
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    assert np.allclose(model.encode(TEXTS), alone, atol=1e-5)
    assert len({len(model.tokenizer(text)["input_ids"]) for text in TEXTS}) > 1


FRESH = """
import json, sys
import torch
from sentence_transformers import SentenceTransformer
found = []
for folder in sys.argv[2:]:
    model = SentenceTransformer(folder, device="cpu")
    transformer = model[0].auto_model
    moved = []
    for texts in (["cat dog eel fox", "cat dog eel owl"], ["cat dog eel fox", "cat dog eel owl", "cat " * 9]):
        features = model.preprocess(texts)
        with torch.no_grad():
            out = transformer(**{k: features[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
        moved.append(float((out[0, 0] - out[1, 0]).norm() / out[0, 0].norm()))
    found.append({"moved": moved, "vectors": model.encode(json.loads(sys.argv[1])).tolist()})
assert not any(name.startswith("gecko") for name in sys.modules)
print(json.dumps(found))
"""


def test_a_decoder_saved_attends_both_ways_in_a_process_without_gecko(
    backbone: Callable[..., str], tmp_path: Path
) -> None:
    folders = []
    for kind in DECODERS:
        save_model(student(backbone(kind), attention="bidirectional"), tmp_path / kind)
        folders.append(str(tmp_path / kind))
    save_model(student(backbone("llama")), tmp_path / "causal")
    command = [sys.executable, "-c", FRESH, json.dumps(TEXTS), *folders, str(tmp_path / "causal")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *both, causal = json.loads(done.stdout.splitlines()[-1])
    for kind, fresh in zip(DECODERS, both, strict=True):
        assert min(fresh["moved"]) > 1e-3, f"{kind}: a late token must move an early one, padded or not"
        ours = Embedder(str(tmp_path / kind), bf16=False).encode(TEXTS)
        assert np.allclose(np.array(fresh["vectors"]), ours, atol=1e-5)
    assert max(causal["moved"]) < 1e-5, "the probe must tell a causal model"


def test_a_decoder_both_ways_is_the_mean_of_its_tokens(backbone: Callable[..., str]) -> None:
    model = student(backbone("llama"), attention="bidirectional")
    assert np.allclose(model.encode(TEXTS[:1]), unit(tokens_of(model, TEXTS[0]).mean(0)), atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_causal_decoder_gives_its_last_token_the_end_of_the_text(
    backbone: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    model = student(backbone(kind))
    end = model.tokenizer.eos_token_id
    ids = model.tokenizer(TEXTS[0])["input_ids"]
    assert ids.count(end) == 1
    assert ids[-1] == end
    assert np.allclose(model.encode(TEXTS[:1]), unit(tokens_of(model, TEXTS[0])[-1]), atol=1e-5)
    save_model(model, tmp_path)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert np.allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
    loaded.max_seq_length = 6
    long = loaded.preprocess(["cat dog owl eel fox hen bear wolf", "cat"])["input_ids"]
    assert long.shape[1] == 6
    assert long[0, -1] == end, "a text that is cut still ends"


@pytest.mark.parametrize("kind", ["mamba", "stablelm"])  # the second is causal without padding and not so with it
def test_what_cannot_attend_both_ways_is_refused(backbone: Callable[..., str], kind: str) -> None:
    with pytest.raises(GeckoError, match="cannot attend both ways") as caught:
        student(backbone(kind), attention="bidirectional")
    assert kind in caught.value.message
    assert "last" in caught.value.hint
    assert attention_of(student(backbone(kind))) == "causal"


def test_a_tokenizer_that_cannot_end_texts_is_refused(
    backbone: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(PreTrainedTokenizerFast, "update_post_processor", lambda self: None)
    with pytest.raises(GeckoError, match="cannot be made to end texts"):
        student(backbone("llama"))


def test_a_student_that_pads_on_the_left_is_trained_padded_on_the_right(
    backbone: Callable[..., str], tmp_path: Path
) -> None:
    """Both the gradient cache and learnt positions take a text's first token for its first."""
    made = student(backbone("qwen3"))
    made.tokenizer.padding_side = "left"
    save_model(made, tmp_path)
    left = load_model(str(tmp_path), device="cpu")
    assert left.tokenizer.padding_side == "left"
    model = student(str(tmp_path))
    assert model.preprocess(TEXTS)["attention_mask"][:, 0].all()
    assert np.allclose(model.encode(TEXTS), left.encode(TEXTS), atol=1e-5)


def test_a_tokenizer_without_any_end_cannot_pad(backbone: Callable[..., str], tmp_path: Path) -> None:
    model = load_model(backbone("qwen3"), device="cpu")
    model.tokenizer.eos_token = None
    model.tokenizer.pad_token = None
    model[0].auto_model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(GeckoError, match="no token to pad with"):
        student(str(tmp_path))


@pytest.mark.parametrize(("kind", "window"), [("llama", 66), ("xlm-roberta", 62), ("t5", 40)])
def test_a_window_is_found_where_the_tokenizer_states_none(
    backbone: Callable[..., str], tmp_path: Path, kind: str, window: int
) -> None:
    name = backbone(kind, limit=None)
    model = open_student(TrainOptions(student=name, max_length=40), device="cpu")
    assert model.max_seq_length == window
    model.encode(["cat " * 200])
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == window


def test_a_projection_starts_as_a_cut_and_loads_everywhere(tiny_model: str, tmp_path: Path) -> None:
    model, whole = student(tiny_model, projection=16), load_model(tiny_model, device="cpu").encode(TEXTS)
    cut = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    assert np.allclose(model.encode(TEXTS), cut, atol=1e-5)
    save_model(model, tmp_path)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert [type(module).__name__ for module in loaded] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert np.allclose(loaded.encode(TEXTS), cut, atol=1e-5)
    types = [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())]
    assert types[2] == "sentence_transformers.models.Dense"
    assert set(json.loads((tmp_path / "2_Dense" / "config.json").read_text())) <= {
        "in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name",
    }  # fmt: skip
    again = student(str(tmp_path), projection=16)
    assert [type(module).__name__ for module in again].count("Dense") == 1, "a student trained with one keeps it"
    wider = student(tiny_model, projection=48)
    assert np.allclose(wider.encode(TEXTS)[:, :32], whole, atol=1e-5)


def test_a_random_projection_is_the_seed_s(tiny_model: str) -> None:
    options = TrainOptions(student=tiny_model, backbone=BackboneOptions(projection=24, projection_init="random"))
    first, again, other = (open_student(options, seed=seed, device="cpu").encode(TEXTS) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)
    assert first.shape == (4, 24)


def test_every_size_but_a_larger_one_is_free() -> None:
    assert trained_sizes((32, 7), 32, "m") == (32, 7)
    assert trained_sizes((16, 7), 32, "m") == (32, 16, 7), "the whole vector is always trained"
    assert trained_sizes((), 32, "m") == (32,)
    with pytest.raises(UsageError, match=r"dims \[64\]: the vectors of m are 32 wide") as caught:
        trained_sizes((64, 16), 32, "m")
    assert "[32, 16]" in caught.value.hint


@pytest.mark.parametrize("kind", ["t5", "llama", "dense"])
def test_sizes_too_large_are_refused_before_anything_is_paid_for(
    backbone: Callable[..., str], tiny_model: str, tmp_path: Path, kind: str
) -> None:
    name = str(tmp_path / "dense") if kind == "dense" else backbone(kind)
    if kind == "dense":
        save_model(student(tiny_model, projection=24), Path(name))
    width = 24 if kind == "dense" else 32

    def recipe(dims: list[int], **options: Any) -> Recipe:
        train = {"student": name, "dims": dims, **options}
        return Recipe.model_validate({"fret": {"miner": tiny_model}, "train": train})

    check_recipe(recipe([width]))
    with pytest.raises(UsageError, match=f"are {width} wide"):
        check_recipe(recipe([width + 1]))
    check_recipe(recipe([40], backbone={"projection": 40}))
    with pytest.raises(UsageError, match="are 8 wide"):
        check_recipe(recipe([width], backbone={"projection": 8}))


def test_pooling_can_be_chosen_for_a_student_that_has_its_own(tiny_model: str) -> None:
    last = student(tiny_model, pooling="last")
    assert last[1].pooling_mode == "lasttoken"
    assert last.encode(TEXTS).shape == (4, 32)
    assert student(tiny_model, pooling="mean")[1].pooling_mode == "mean"


def test_static_vectors_are_taken_as_they_are_and_not_changed(tiny_model: str, tmp_path: Path) -> None:
    from sentence_transformers.models import StaticEmbedding

    tokenizer = load_model(tiny_model, device="cpu").tokenizer._tokenizer
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save_pretrained(
        str(tmp_path / "static"), create_model_card=False
    )
    assert student(str(tmp_path / "static")).get_embedding_dimension() == 8
    with pytest.raises(GeckoError, match="no transformer to change"):
        student(str(tmp_path / "static"), projection=4)


def test_training_runs_without_dropout_in_every_family(backbone: Callable[..., str]) -> None:
    """T5 keeps a rate as a number in its attention, where no Dropout layer stands."""
    model = student(backbone("t5"))
    model.train()
    features = model.preprocess(TEXTS[:1])
    disable_dropout(model)
    once, again = (model(dict(features))["sentence_embedding"] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_backbone_is_trained_and_loads_in_plain_sentence_transformers(
    backbone: Callable[..., str], words: list[str], tmp_path: Path, kind: str
) -> None:
    draw = random.Random(0)
    rows = [
        UnifiedRow(str(n), "search result", f"{word} {draw.choice(words)}", f"title: none | text: {word} the {word}")
        for n, word in enumerate(words[:16])
    ]
    options = TrainOptions(
        student=backbone(kind),
        backbone=BackboneOptions(attention="bidirectional", projection=16),
        epochs=12,
        batch_size=8,
        learning_rate=3e-3,
        dims=(8,),
        max_length=32,
        bf16=False,
        mini_batch=4,
    )
    history = finetune(rows, options, tmp_path / "model")
    losses = [entry["loss"] for entry in history["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert attention_of(loaded) == "bidirectional"
    assert loaded.prompts["document"] == "title: none | text: "
    ours = Embedder(str(tmp_path / "model"), bf16=False).encode_passages([("", "cat dog")])
    assert np.allclose(loaded.encode_document(["cat dog"]), ours, atol=1e-5)
