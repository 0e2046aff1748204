"""Exports answer as the model does, carry what they need, and are refused in one line where they are broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gecko.embedder import onnx as onnx_module
from gecko.embedder.embedder import Embedder
from gecko.embedder.onnx import MARK, OnnxModel, is_onnx
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError, UsageError
from gecko.export.cached import cached_int8
from gecko.export.export import export_model
from gecko.export.same import gaps
from gecko.replace import replaced

TEXTS = ["", "a", "cat dog", "the old house of the owl", "fox " * 100, "naïve 東京"]


def quiet(line: str) -> None:
    """Tell nobody."""


def gap(one: Embedder, other: Embedder) -> float:
    """The largest of one minus the cosine, over queries and passages."""
    passages = [("", text) for text in TEXTS] + [("owl", "dog")]
    pairs = [
        (one.encode_queries(TEXTS), other.encode_queries(TEXTS)),
        (one.encode_queries(TEXTS, "x"), other.encode_queries(TEXTS, "x")),
        (one.encode_passages(passages), other.encode_passages(passages)),
    ]
    return max(float((1 - (a * b).sum(1)).max()) for a, b in pairs)


def test_compat_is_the_model_with_its_card_and_facts(run: Path, tmp_path: Path) -> None:
    made = export_model(str(run / "model"), "compat", tmp_path / "out", tell=quiet)
    assert (made.dim, made.dims) == (32, (32, 16))
    assert made.bytes == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert {module["type"].rsplit(".", 1)[0] for module in modules} == {"sentence_transformers.models"}
    prompts = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "task: search result | query: ", "document": "title: none | text: "}
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n---\n\n# mine\n")
    assert "gecko export --format compat" in card
    export_model(str(tmp_path / "out"), "compat", tmp_path / "again", tell=quiet)
    assert (tmp_path / "again" / "README.md").read_text().count("## This export") == 1
    facts = json.loads((tmp_path / "out" / MARK).read_text())
    assert (facts["dims"], facts["max_tokens"], facts["model"]) == ([32, 16], 48, "run/model")
    assert (tmp_path / "out" / "LICENSE").read_text() == "do as you like"
    assert str(tmp_path) not in card + json.dumps(facts)
    assert gap(Embedder(str(run / "model"), bf16=False), Embedder(str(tmp_path / "out"), bf16=False)) < 1e-5


def test_onnx_answers_as_the_model(run: Path, onnx_export: Path) -> None:
    model, export = Embedder(str(run / "model"), bf16=False), Embedder(str(onnx_export))
    assert isinstance(export.model, OnnxModel)
    assert (export.format, export.dim) == ("gecko", 32)
    assert gap(model, export) < 1e-5
    assert gap(Embedder(str(run / "model"), dim=16, bf16=False), Embedder(str(onnx_export), dim=16)) < 1e-5
    assert not list(onnx_export.glob("*.safetensors"))
    assert {path.name for path in onnx_export.iterdir()} >= {"config.json", "tokenizer.json", "1_Pooling", "README.md"}


def test_the_graph_pools_and_normalises_for_batches_of_any_shape(onnx_export: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_export / "onnx" / "model.onnx")
    for shape in ((1, 1), (1, 48), (5, 7)):
        feed = {entry.name: np.ones(shape, np.int64) for entry in session.get_inputs()}
        tokens, vectors = session.run(["last_hidden_state", "sentence_embedding"], feed)
        assert tokens.shape == (*shape, 32)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # Padding changes nothing: the graph reads the mask.
    feed = {entry.name: np.ones((1, 4), np.int64) for entry in session.get_inputs()}
    short = session.run(["sentence_embedding"], feed)[0]
    wide = {name: np.pad(value, ((0, 0), (0, 3))) for name, value in feed.items()}
    assert np.allclose(session.run(["sentence_embedding"], wide)[0], short, atol=1e-5)


@pytest.fixture
def graph_at_hand(onnx_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of the ONNX export in place of tracing the same model again."""

    def copy(model: object, file: Path, **_: object) -> None:
        file.parent.mkdir()
        shutil.copyfile(onnx_export / "onnx" / "model.onnx", file)

    monkeypatch.setattr("gecko.export.export.export_graph", copy)


@pytest.mark.usefixtures("graph_at_hand")
def test_int8_is_smaller_near_and_a_text_does_not_depend_on_its_neighbours(
    run: Path, onnx_export: Path, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    export_model(str(run / "model"), "onnx-int8", out, tell=quiet)
    assert [path.name for path in (out / "onnx").iterdir()] == ["model_quantized.onnx"]
    assert (out / "onnx/model_quantized.onnx").stat().st_size < (onnx_export / "onnx/model.onnx").stat().st_size
    export, model = Embedder(out), Embedder(str(run / "model"), bf16=False)
    assert 1e-7 < gap(model, export) < 0.1
    assert export.fingerprint != model.fingerprint
    assert export.origin == model.origin == model.fingerprint
    together = export.encode(["cat dog", "owl fox", "red house"])
    np.testing.assert_array_equal(together[1], export.encode("owl fox"))


def test_a_token_with_large_activations_does_not_blur_the_others(tmp_path: Path) -> None:
    """A layer to fewer features has a range a token, a table of embeddings a scale a row."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession

    from gecko.export.quantise import quantise

    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 64)).astype(np.float32)
    table[7] *= 1000
    weight = rng.normal(size=(64, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"], name="table_node"),
        helper.make_node("MatMul", ["x", "weight"], ["sentence_embedding"], name="down"),
    ]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", "tokens", 16])
    graph = helper.make_graph(nodes, "one_layer", [ids], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "one.onnx")
    quantise(tmp_path / "one.onnx", tmp_path / "one_int8.onnx", [])
    tokens = np.array([[3, 7, 5], [9, 7, 7]])
    found = InferenceSession(tmp_path / "one_int8.onnx").run(None, {"input_ids": tokens})[0]
    wanted = table[tokens] @ weight
    error = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert 1e-6 < error.max() < 0.02
    weights = onnx.load(tmp_path / "one_int8.onnx").graph.initializer
    assert sum(len(one.raw_data) for one in weights) < (table.nbytes + weight.nbytes) / 3


def test_calibration_halves_what_large_channels_cost(onnx_export: Path, run: Path, tmp_path: Path) -> None:
    """A channel of the activations that is far larger than the others, undone by the weights that read it."""
    import onnx
    from onnx import numpy_helper
    from onnxruntime import InferenceSession

    from gecko.export.quantise import quantise

    graph = onnx.load(onnx_export / "onnx" / "model.onnx")
    weights = {one.name: one for one in graph.graph.initializer}
    two = [node for node in graph.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    last = max(two, key=lambda node: list(graph.graph.node).index(node))
    weight = numpy_helper.to_array(weights[last.input[1]]).copy()
    scale = np.ones(len(weight), np.float32)
    scale[3] = 1000
    graph.graph.initializer.append(numpy_helper.from_array(scale, "far"))
    at = list(graph.graph.node).index(last)
    graph.graph.node.insert(at, onnx.helper.make_node("Mul", [last.input[0], "far"], ["farther"], name="far_mul"))
    last.input[0] = "farther"
    weights[last.input[1]].CopyFrom(numpy_helper.from_array(weight / scale[:, None], last.input[1]))
    feed = {one.name: np.ones((1, 12), np.int64) for one in graph.graph.input} | {"input_ids": np.arange(6, 18)[None]}

    def vectors(texts: list[dict[str, np.ndarray]] | None, name: str) -> np.ndarray:
        onnx.save(graph, tmp_path / name)
        file = tmp_path / name
        if texts is not None:
            quantise(tmp_path / name, file := tmp_path / f"{name}.int8", texts)
        return InferenceSession(file).run(["sentence_embedding"], feed)[0]

    whole = vectors(None, "whole")
    plain, calibrated = (float(1 - (whole * vectors(texts, "rounded")).sum()) for texts in ([], [feed]))
    assert calibrated < plain / 2


def test_threads_change_nothing(onnx_export: Path) -> None:
    texts = [word for text in TEXTS for word in (text, f"{text} cat", f"{text} dog")]
    one, three = (OnnxModel(onnx_export, threads=count).encode(texts) for count in (1, 3))
    np.testing.assert_allclose(one, three, atol=1e-6)


def test_texts_of_one_length_go_together_and_none_is_padded() -> None:
    groups = list(onnx_module._groups([3, 5, 3, 200, 200, 3], alone=False))
    assert groups == [[3], [4], [1], [0, 2, 5]]
    assert list(onnx_module._groups([3, 3], alone=True)) == [[0], [1]]
    assert list(onnx_module._groups([0, 2, 0], alone=True)) == [[1]]
    assert list(onnx_module._groups([], alone=False)) == []


def test_an_export_may_be_narrower_than_its_model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr("gecko.export.export.check_installed", lambda: None)
    monkeypatch.setattr("gecko.export.export.export_graph", lambda model, file, **options: written.append(options))
    monkeypatch.setattr("gecko.export.export.check_same", lambda model, folder: None)
    made = export_model(str(run / "model"), "onnx", tmp_path / "out", dim=16, tell=quiet)
    assert written == [{"dim": 16, "max_tokens": 48}]
    assert (made.dim, made.dims) == (16, (16,))


def test_static_is_trained_and_loads_in_sentence_transformers(run: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    said: list[str] = []
    made = export_model(str(run / "model"), "static", tmp_path / "out", dim=16, tell=said.append)
    assert (made.dim, made.format) == (16, "static")
    assert any("training on 16 rows" in line for line in said)
    facts = json.loads((tmp_path / "out" / MARK).read_text())
    assert facts["rows"] == 16
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert type(model[0]).__name__ == "StaticEmbedding"
    embedder = Embedder(str(tmp_path / "out"))
    assert embedder.format == "plain"  # no words stand before every text
    vectors = embedder.encode_passages([("cat", "dog owl"), ("", "dog owl cat")])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-2)  # a mean knows no order
    trained = embedder.encode("ant bear") @ embedder.encode("ant bear river")
    export_model(str(run / "model"), "static", tmp_path / "raw", dim=16, tell=said.append, rows=one_row(tmp_path))
    assert json.loads((tmp_path / "raw" / MARK).read_text())["rows"] == 0
    assert any("no rows to train on" in line for line in said)
    raw = Embedder(str(tmp_path / "raw"))
    assert trained != pytest.approx(raw.encode("ant bear") @ raw.encode("ant bear river"), abs=1e-4)


def one_row(folder: Path) -> Path:
    """A file with one row, which nothing can be learned from."""
    file = folder / "rows.jsonl"
    file.write_text(json.dumps({"query": "cat", "positive": "title: none | text: dog"}) + "\n")
    return file


def test_a_static_table_reads_a_long_text_to_its_end(run: Path, tmp_path: Path) -> None:
    export_model(str(run / "model"), "static", tmp_path / "out", dim=8, rows=one_row(tmp_path), tell=quiet)
    embedder = Embedder(tmp_path / "out")
    short, long = embedder.encode(["cat " * 600, "cat " * 600 + "zebra " * 600])
    assert float(short @ long) < 0.999


def test_rows_that_cannot_be_used_are_said(run: Path, tmp_path: Path) -> None:
    from gecko.export.static import plain_rows

    file = one_row(tmp_path)
    file.write_text(file.read_text() + json.dumps({"query": "cat", "positive": ""}) + "\n")
    said: list[str] = []
    assert len(plain_rows(str(run / "model"), file, said.append)) == 1
    assert said[0].startswith("static: 1 of 2 rows set aside")


def test_static_rows_are_rendered_without_the_format(run: Path) -> None:
    from gecko.export.static import plain_rows

    rows = plain_rows(str(run / "model"), None, quiet)
    assert (rows[0].positive, rows[0].negatives) == ("ant bear river", ("tree old house",))


def test_rare_tokens_weigh_more(run: Path) -> None:
    from gecko.export.static import distil

    model = Embedder(str(run / "model"), bf16=False)
    tokenizer = model.model.tokenizer
    cat, dog = tokenizer.convert_tokens_to_ids(["cat", "dog"])
    even, skewed = distil(model, 8, ["cat dog"]), distil(model, 8, ["cat cat cat cat cat cat cat cat cat dog"])
    norms = np.linalg.norm(skewed, axis=1) / np.linalg.norm(even, axis=1).clip(1e-9)
    assert norms[dog] > 1.5 * norms[cat]
    assert not even[tokenizer.all_special_ids].any()


@pytest.mark.parametrize(
    ("kind", "options", "error", "said"),
    [
        ("tflite", {}, UsageError, "no such format"),
        ("compat", {"dim": 16}, UsageError, "--dim is not of compat"),
        ("onnx", {"dim": 33}, GeckoError, r"outside 1\.\.32"),
        ("onnx", {"dim": 0}, GeckoError, r"outside 1\.\.32"),
        ("onnx", {"rows": Path("x")}, UsageError, "--rows is of static"),
        ("static", {"rows": Path("no-such-rows")}, GeckoError, "no rows at"),
    ],
)
def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path, kind: str, options, error, said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        export_model(str(run / "model"), kind, tmp_path / "out", tell=quiet, **options)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_an_export_and_nothing_else(run: Path, tmp_path: Path) -> None:
    model = str(run / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for place, said in ((tmp_path / "mine", "not an export"), (run / "model", "is, holds or lies in"), (run, "holds")):
        with pytest.raises(UsageError, match=said):
            export_model(model, "compat", place, tell=quiet)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    for _ in range(2):
        export_model(model, "compat", tmp_path / "out", tell=quiet)
    (tmp_path / "out" / "old").touch()
    export_model(model, "compat", tmp_path / "out", tell=quiet)
    assert not (tmp_path / "out" / "old").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_failed_export_leaves_the_one_that_was_there(run: Path, tmp_path: Path, monkeypatch) -> None:
    export_model(str(run / "model"), "compat", tmp_path / "out", tell=quiet)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gecko.export.export.save_model", full)
    with pytest.raises(GeckoError, match="No space left"):
        export_model(str(run / "model"), "compat", tmp_path / "out", tell=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert Embedder(str(tmp_path / "out")).dim == 32


def test_an_export_that_would_answer_otherwise_is_not_kept(run: Path, tmp_path: Path, monkeypatch) -> None:
    def spoilt(model, folder: Path) -> None:
        next(model.parameters()).data.mul_(-1)
        save_model(model, folder)
        next(model.parameters()).data.mul_(-1)

    monkeypatch.setattr("gecko.export.export.save_model", spoilt)
    with pytest.raises(GeckoError, match=r"would answer otherwise than .*worst cosine"):
        export_model(str(run / "model"), "compat", tmp_path / "out", tell=quiet)
    assert not list(tmp_path.iterdir())


def test_texts_without_tokens_are_the_same_everywhere() -> None:
    ours, theirs = np.array([[0, 0], [0.6, 0.8], [0, 0]]), np.array([[0, 0], [1, 0], [1, 0]])
    np.testing.assert_allclose(gaps(ours, theirs), [0, 0.4, 1], atol=1e-6)
    np.testing.assert_allclose(gaps(ours, theirs[:, :1]), [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config_sentence_transformers.json"])
def test_a_damaged_or_missing_file_is_named(copied: Path, name: str) -> None:
    file = copied / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(GeckoError, match="damaged") as caught:
        Embedder(str(copied))
    assert Path(name).name in caught.value.message
    assert "\n" not in caught.value.message
    file.unlink()
    with pytest.raises(GeckoError, match=f"holds no {name}") as caught:
        Embedder(str(copied))
    assert "gecko export" in caught.value.hint


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "onnx"}', '{"format": "onnx", "dim": "32"}'])
def test_damaged_facts_are_said(copied: Path, text: str) -> None:
    (copied / MARK).write_text(text)
    with pytest.raises(GeckoError, match="is damaged"):
        Embedder(str(copied))


def test_a_graph_of_another_width_than_the_facts_say_is_refused(copied: Path) -> None:
    facts = json.loads((copied / MARK).read_text())
    (copied / MARK).write_text(json.dumps(facts | {"dim": 16}))
    with pytest.raises(GeckoError, match="another graph"):
        Embedder(copied)


def test_a_text_is_cut_where_the_facts_say(copied: Path) -> None:
    facts = json.loads((copied / MARK).read_text())
    whole = OnnxModel(copied)
    long = "cat " * 20 + "dog " * 20
    np.testing.assert_array_equal(whole.encode([long + "dog " * 10]), whole.encode([long + "dog " * 99]))
    (copied / MARK).write_text(json.dumps(facts | {"max_tokens": 22}))
    np.testing.assert_allclose(OnnxModel(copied).encode([long]), whole.encode(["cat " * 20]), atol=1e-5)
    (copied / MARK).write_text(json.dumps(facts | {"max_tokens": 0}))
    assert OnnxModel(copied).max_seq_length is None
    np.testing.assert_allclose(OnnxModel(copied).encode([long]), whole.encode([long]), atol=1e-5)


def test_an_onnx_export_is_not_trained_or_exported_again(onnx_export: Path, tmp_path: Path) -> None:
    assert is_onnx(onnx_export)
    for use in (
        lambda: load_model(str(onnx_export)),
        lambda: export_model(str(onnx_export), "compat", tmp_path / "out", tell=quiet),
    ):
        with pytest.raises(GeckoError, match="is an ONNX export"):
            use()


def test_without_the_runtime_a_hint_says_what_to_install(
    onnx_export: Path, run: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GeckoError, match="needs onnxruntime") as caught:
        Embedder(str(onnx_export))
    assert "gecko-embed[onnx]" in caught.value.hint
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(GeckoError, match="needs onnx, which is not installed") as caught:
        export_model(str(run / "model"), "onnx", tmp_path / "out", tell=quiet)
    assert "gecko-embed[onnx]" in caught.value.hint


def test_exports_of_other_weights_have_other_fingerprints(onnx_export: Path, copied: Path) -> None:
    assert Embedder(str(onnx_export)).fingerprint == Embedder(str(copied)).fingerprint
    config = copied / "config_sentence_transformers.json"
    value = json.loads(config.read_text())
    value["prompts"]["query"] = "other: "
    config.write_text(json.dumps(value))
    assert Embedder(str(copied)).fingerprint != Embedder(str(onnx_export)).fingerprint


def test_an_export_can_be_evaluated(onnx_export: Path, run: Path) -> None:
    from gecko.evaluate.evaluate import evaluate_models

    report = evaluate_models(
        Embedder(str(onnx_export)), Embedder(str(run / "model"), bf16=False), [run.parent / "test"]
    )
    assert report["mean"]["ndcg_at_10@32"]["delta"] == pytest.approx(0, abs=1e-9)


def test_threads_are_those_that_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert onnx_module._threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert onnx_module._threads() == len(os.sched_getaffinity(0))


def test_a_model_without_a_fast_tokenizer_file_is_refused(run: Path, tmp_path: Path, monkeypatch) -> None:
    def without_tokenizer(model: object, folder: Path) -> None:
        shutil.copytree(run / "model", folder, dirs_exist_ok=True)
        (folder / "tokenizer.json").unlink()

    monkeypatch.setattr("gecko.export.export.save_model", without_tokenizer)
    with pytest.raises(GeckoError, match=r"no tokenizer\.json"):
        export_model(str(run / "model"), "onnx", tmp_path / "out", tell=quiet)


@pytest.mark.usefixtures("graph_at_hand")
def test_the_int8_export_of_a_model_is_made_once(run: Path, onnx_export: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = Path(shutil.copytree(run / "model", tmp_path / "mine"))
    said: list[str] = []
    first = cached_int8(str(model), said.append)
    assert Embedder(first).model.format == "onnx-int8"
    assert said
    said.clear()
    (model / "README.md").write_text("another card")
    assert cached_int8(str(model), said.append) == first
    assert not said
    config = model / "config_sentence_transformers.json"
    config.write_text(config.read_text().replace("search result", "other"))
    assert cached_int8(str(model), said.append) != first
    assert len(list(first.parent.iterdir())) == 2
    assert cached_int8(str(onnx_export), said.append) == onnx_export
    with pytest.raises(GeckoError, match="no folder"):
        cached_int8("owner/name", said.append)


def test_an_export_is_used_without_torch(onnx_export: Path) -> None:
    program = (
        "import sys; from gecko import Embedder; model = Embedder(sys.argv[1]); model.encode_query('cat'); "
        "model.fingerprint; print(sorted(set(sys.modules) & {'torch', 'transformers', 'sentence_transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(onnx_export)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("prompts", [{}, {"prompts": None}, {"prompts": {"query": None}}])
def test_a_model_without_prompts_gets_its_texts_as_they_are(copied: Path, prompts: dict[str, object]) -> None:
    (copied / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    export = Embedder(copied)
    assert export.format == "plain"
    np.testing.assert_array_equal(export.encode_query("cat dog"), export.encode("cat dog"))
    np.testing.assert_array_equal(export.encode_document(("cat", "dog")), export.encode("cat dog"))


def test_a_run_is_never_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (MARK, "recipe.yaml"):
        (tmp_path / "run" / name).touch()
    with pytest.raises(UsageError, match="not an export"):
        export_model(str(run / "model"), "compat", tmp_path / "run", tell=quiet)
    assert (tmp_path / "run" / "recipe.yaml").exists()


def test_what_stood_there_comes_back_where_the_new_one_cannot_take_its_place(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Permission denied"), replaced(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
