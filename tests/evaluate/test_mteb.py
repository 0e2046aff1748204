"""Tasks of mteb's own classes on tiny data of each type; skipped where the extra is not installed (make test-mteb)."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mteb", reason="the extra is not installed: make test-mteb, or pip install -e '.[mteb]'")

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.mteb.chosen import open_mteb
from gecko.evaluate.mteb.meta import model_meta, provenance
from gecko.evaluate.mteb.run import evaluate_mteb
from gecko.evaluate.table import render_mteb
from gecko.evaluate.tasks import MAIN, TaskOptions, evaluate_tasks, open_sets

# A task of each type, and the tiny set that stands for its data.
TASKS = {
    "SciFact": ("search", "retrieval"),
    "AskUbuntuDupQuestions": ("search", "reranking"),
    "STS13": ("alike", "sts"),
    "TwitterSemEval2015": ("same", "pair_classification"),
    "Banking77Classification": ("intents", "classification"),
    "StackExchangeClustering.v2": ("groups", "clustering"),
    "Tatoeba": ("words", "bitext"),
    "SummEvalSummarization.v2": ("abstracts", "summarization"),
}


class Unlike:
    """A topic model in whose eyes no two texts are alike, so that no figure hangs on how equal scores are ordered."""

    def __init__(self, model, noise: float) -> None:
        self._model, self.noise, self.path, self.dim = model, noise, model.path, model.dim

    def _encode(self, texts: list[str], vectors: np.ndarray) -> np.ndarray:
        noise = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.dim) for text in texts]
        mixed = vectors + self.noise * np.array(noise, np.float32)
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    def encode_queries(self, queries, task=None):
        return self._encode(queries, self._model.encode_queries(queries, task))

    def encode_symmetric(self, texts, task, prompt_name=""):
        return self._encode(texts, self._model.encode_symmetric(texts, task, prompt_name))

    def encode_passages(self, passages):
        return self._encode([text for _, text in passages], self._model.encode_passages(passages))


def described(model):
    """Give a topic model what a model is described by."""
    model.full_dim, model.format, model.fingerprint = model.dim, "plain", f"of-{model.path}"
    model.model = SimpleNamespace(parameters=lambda: [np.zeros(7)], prompts={}, max_seq_length=32)
    model.model.parameters = lambda: [SimpleNamespace(numel=lambda: 7)]
    return model


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, write_sets) -> Path:
    """A folder of folders as a user has it: called as the task, or with a README that names it."""
    root = tmp_path_factory.mktemp("mteb")
    written = write_sets(root / "sets")
    for task, (name, _) in TASKS.items():
        shutil.copytree(written / name, root / "data" / (task if task != "Tatoeba" else "sentences"))
    (root / "data/sentences/README.md").write_text("# S\n\n## MTEB\n`Tatoeba` (2 of 112 subsets).\n")
    return root


@pytest.fixture(scope="module")
def whole(places: Path, topic_model, tmp_path_factory: pytest.TempPathFactory):
    """All tasks, and gecko's own figures on the same folders."""
    patch = pytest.MonkeyPatch()
    patch.setattr("mteb.abstasks.clustering.AbsTaskClustering.n_clusters", 1)
    patch.chdir(tmp_path_factory.mktemp("empty"))
    tuned, base = (described(Unlike(topic_model(name), noise)) for name, noise in (("tuned", 0.2), ("base", 0.4)))
    tasks = open_mteb(list(TASKS), places / "data")
    report = evaluate_mteb(tuned, base, tasks, places / "out", dims=[16, 8])
    names = dict.fromkeys(name for name, kind in TASKS.values() if kind != "clustering")
    own = evaluate_tasks(
        tuned, base, open_sets([places / "sets" / name for name in names], TaskOptions()), dims=[16, 8]
    )
    patch.undo()
    return report, own


@pytest.mark.parametrize("task", [name for name in TASKS if "Clustering" not in name])
def test_mtebs_figure_is_geckos(whole, task: str) -> None:
    report, own = whole
    name, kind = TASKS[task]
    for dim in (16, 8):
        theirs = next(r for r in report["results"] if (r["dataset"], r["dim"]) == (task, dim))
        ours = next(
            r
            for r in own["results"]
            if (r["dataset"], r["task_type"], r["dim"]) == (name, kind, dim)
            and r["metric"] == {"reranking": MAIN[kind]}.get(kind, theirs["metric"])
        )
        for side in ("base", "tuned"):
            assert theirs[side] == pytest.approx(ours[side], abs=1e-3), side
        assert theirs["delta"] == pytest.approx(theirs["tuned"] - theirs["base"])
        assert theirs["ci95"] is None
        assert theirs["n"] == ours["n"]


def test_tasks_of_several_languages_are_filled_by_their_folders(places: Path, topic_model, monkeypatch) -> None:
    """Classes whose subsets are languages, one of which joins splits after loading: a folder holds what is scored."""
    data = places / "languages"
    for task, name in {"RTE3": "same", "SIB200Classification": "intents", "SIB200ClusteringS2S": "groups"}.items():
        for language in ("en", "de") if task == "RTE3" else ("eng_Latn", "deu_Latn"):
            shutil.copytree(places / "sets" / name, data / task / language)
    monkeypatch.setattr("mteb.abstasks.clustering.AbsTaskClustering.n_clusters", 2)
    monkeypatch.chdir(places)
    model = described(Unlike(topic_model("tuned"), 0.2))
    tasks = open_mteb(["RTE3", "SIB200Classification", "SIB200ClusteringS2S"], data)
    report = evaluate_mteb(model, None, tasks, places / "languages-out")
    facts = {fact["dataset"]: fact for fact in report["sets"]}
    assert {name: (len(fact["subsets"]), fact["items"], fact["of_subsets"]) for name, fact in facts.items()} == {
        "RTE3": (2, 32, 4),
        "SIB200Classification": (2, 48, 197),
        "SIB200ClusteringS2S": (2, 48, 197),
    }
    own = evaluate_tasks(model, None, open_sets([places / "sets" / "same", places / "sets" / "intents"], TaskOptions()))
    for task, metric in {"RTE3": "max_ap", "SIB200Classification": "accuracy"}.items():
        figure = next(r["tuned"] for r in own["results"] if r["metric"] == metric)
        row = next(r for r in report["results"] if r["dataset"] == task)
        assert (row["metric"], row["tuned"]) == (metric, pytest.approx(figure, abs=1e-6))
    assert next(r["tuned"] for r in report["results"] if r["task_type"] == "clustering") > 0.5


def test_equal_scores_of_a_pool_count_against_the_model_as_gecko_has_it(tmp_path: Path, topic_model, rows_to) -> None:
    """mteb orders equal scores by descending id; with eleven texts, "9" would come before "10"."""
    pool = [f"the comet {i:02d}" for i in range(11)]
    rows_to(
        tmp_path / "AskUbuntuDupQuestions/reranking.jsonl",
        [{"query": "comet", "positive": pool[:3], "negative": pool[3:]}],
    )
    model = described(topic_model("tuned"))
    model._encode = lambda texts: np.tile(np.eye(1, model.dim, dtype=np.float32), (len(texts), 1))
    report = evaluate_mteb(model, None, open_mteb(["AskUbuntuDupQuestions"], tmp_path), tmp_path / "out")
    own = evaluate_tasks(model, None, open_sets([tmp_path / "AskUbuntuDupQuestions"], TaskOptions()))
    expected = (1 / 9 + 2 / 10 + 3 / 11) / 3
    assert own["results"][0]["tuned"] == pytest.approx(expected)
    assert report["results"][0]["tuned"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_measures_are_mtebs_on_runs_with_ties(seed: int) -> None:
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    from gecko.evaluate.retrieval import average_precision, ndcg_at_k, recall_at_k, reciprocal_rank
    from gecko.miner.exact import top_k

    rng = np.random.default_rng(seed)
    queries, documents = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (30, 120))
    scores = queries @ documents.T  # at most seven values
    judged = [
        {int(d): int(g) for d, g in zip(rng.choice(120, 9, False), rng.integers(0, 4, 9), strict=True)}
        for _ in range(30)
    ]
    ids = [f"d{999 - place}" for place in range(120)]  # equal scores: mteb by descending id, gecko by position
    theirs = calculate_retrieval_scores(
        {f"q{q}": {ids[d]: float(scores[q, d]) for d in range(120)} for q in range(30)},
        {f"q{q}": {ids[d]: g for d, g in grades.items()} for q, grades in enumerate(judged)},
        [10, 100, 1000],
    )
    ranking = top_k(queries, documents, 120)[0]
    for ours, their in (
        (ndcg_at_k(ranking, judged, 10), theirs.ndcg["NDCG@10"]),
        (ndcg_at_k(ranking, judged, 100), theirs.ndcg["NDCG@100"]),
        (recall_at_k(ranking, judged, 100), theirs.recall["Recall@100"]),
        (average_precision(ranking, judged), theirs.map["MAP@1000"]),
        (reciprocal_rank(ranking, judged, 10), theirs.mrr["MRR@10"]),
    ):
        assert 0 < their < 1
        assert ours.mean() == pytest.approx(their, abs=1e-5)  # mteb rounds to five places


def test_a_cluster_is_found_by_the_one_and_not_by_the_other(whole) -> None:
    row = next(r for r in whole[0]["results"] if r["task_type"] == "clustering" and r["dim"] == 16)
    assert (row["metric"], row["n"]) == ("v_measure", 24)
    assert 0 < row["base"] < row["tuned"]


def test_subsets_words_and_means_are_told(whole) -> None:
    report, _ = whole
    figures = {r["task_type"]: r["tuned"] for r in report["results"] if r["dim"] == 16}
    assert report["mean"]["sts@16"]["tuned"] == figures["sts"]
    assert report["mean"]["types@16"]["tuned"] == pytest.approx(np.mean(list(figures.values())))
    bitext = next(fact for fact in report["sets"] if fact["dataset"] == "Tatoeba")
    assert sorted(bitext["subsets"]) == ["deu-eng", "nld-eng"]
    assert bitext["of_subsets"] == 112
    row = next(r for r in report["results"] if r["dataset"] == "Tatoeba" and r["dim"] == 16)
    assert row["tuned"] == pytest.approx(np.mean([part["tuned"] for part in row["subsets"].values()]))
    assert {fact["dataset"]: fact["task"] for fact in report["sets"]}["SciFact"] == "fact checking"
    text = render_mteb(report)
    assert "2 of 112 subsets" in text
    assert "no interval" in text
    assert "training data unknown" in text
    json.dumps(report)


def test_mtebs_own_files_are_kept(whole, places: Path) -> None:
    files = list((places / "out").rglob("STS13.json"))
    assert len(files) == 4  # two models at two sizes
    scores = [json.loads(path.read_text())["scores"]["test"][0]["main_score"] for path in files]
    rows = [r for r in whole[0]["results"] if r["dataset"] == "STS13"]
    assert sorted(scores) == pytest.approx(sorted(r[side] for r in rows for side in ("base", "tuned")))


@pytest.mark.parametrize(
    ("names", "error", "said", "hint"),
    [
        (["Scifact"], UsageError, "no task of this name", "SciFact"),
        (["NoSuchThingAtAll"], UsageError, "no task of this name", ""),
        (["STS14"], GeckoError, "no folder in", "--mteb-data"),
    ],
)
def test_what_is_not_there_is_told(places: Path, names, error, said: str, hint: str) -> None:
    with pytest.raises(error, match=said) as caught:
        open_mteb(names, places / "data")
    assert hint in caught.value.hint


def test_broken_folders_are_told(tmp_path: Path, rows_to) -> None:
    pair = {"sentence1": "a", "sentence2": "b"}
    rows_to(tmp_path / "STS13/dev.jsonl", [{**pair, "score": 1}, {**pair, "score": 2}])
    rows_to(tmp_path / "STS14/test.jsonl", [pair, pair])
    rows_to(tmp_path / "Banking77Classification/test.jsonl", [{"text": "a", "label": 1}])
    for name, said in {
        "STS13": "no split 'test' for STS13",
        "STS14": "no column score",
        "Banking77Classification": "no split 'train'",
    }.items():
        with pytest.raises(GeckoError, match=said):
            open_mteb([name], tmp_path)
    with pytest.raises(UsageError, match="--split dev: STS13 is not scored on it"):
        open_mteb(["STS13"], tmp_path, split="dev")
    with pytest.raises(UsageError, match="no such task or type"):
        rows_to(tmp_path / "STS13/test.jsonl", [{**pair, "score": 1}, {**pair, "score": 2}])
        open_mteb(["STS13"], tmp_path, words={"sct": "x"})


def test_the_packaged_model_is_described_by_mteb(topic_model) -> None:
    meta, said = model_meta(described(topic_model("all-MiniLM-L6-v2")), 8)
    assert meta.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert meta.experiment_kwargs == {"dim": 8}
    assert "MSMARCO" in meta.training_datasets
    assert "MTEB" in said


def run_of(root: Path, *, sources: list[Path], alpha: float = 1.0) -> Path:
    """Write what a run leaves beside its model; returns the model's folder."""
    mixture = [{"path": str(path), "kind": "retrieval"} for path in sources]
    recipe = {"corpus": {"sources": ["stdlib:"]}, "mixture": {"sources": mixture}, "prefinetune": {"sources": []}}
    recipe["train"] = {"student": "all-MiniLM-L6-v2", "dims": [16, 8]}
    (root / "model").mkdir(parents=True)
    (root / "gate").mkdir()
    (root / "recipe.yaml").write_text(json.dumps(recipe))
    (root / "gate/gate.json").write_text(json.dumps({"alpha": alpha}))
    (root / "model/README.md").write_text("---\nlanguage:\n- en\n- de\n- xx\nlicense: mit\n---\n# m\n")
    return root / "model"


def test_training_data_is_read_from_the_run(tmp_path: Path, topic_model) -> None:
    claims = tmp_path / "claims"
    (claims / "train").mkdir(parents=True)
    (claims / "README.md").write_text("# C\n\n## MTEB\n`SciFact` (Retrieval).\n")
    mine = tmp_path / "mine"
    mine.mkdir()
    meta, said = model_meta(described(topic_model(str(run_of(tmp_path / "run", sources=[claims / "train", mine])))), 16)
    assert meta.training_datasets == {"SciFact", "mine", "stdlib"}
    assert meta.adapted_from == "sentence-transformers/all-MiniLM-L6-v2"
    assert meta.is_zero_shot_on(["SciFact"]) is False
    assert meta.is_zero_shot_on(["MSMARCO"]) is False  # its student's
    assert meta.is_zero_shot_on(["STS13"]) is True
    assert (meta.name, meta.license, meta.languages) == ("gecko/run", "mit", ["eng-Latn", "deu-Latn"])
    assert (meta.n_parameters, meta.max_tokens, meta.embed_dim) == (7, 32, [8, 16])
    assert "SciFact" in said


def test_a_model_on_the_disk_is_described_whole(tiny_model: str) -> None:
    from gecko.embedder.embedder import Embedder

    embedder = Embedder(tiny_model, bf16=False)
    meta, said = model_meta(embedder, 32)
    parameters = sum(part.numel() for part in embedder.model.parameters())
    assert meta.n_parameters == parameters > meta.n_embedding_parameters > 0
    assert (meta.max_tokens, meta.embed_dim, meta.revision) == (48, 32, embedder.fingerprint)
    assert meta.name.startswith("gecko/")
    assert (meta.training_datasets, meta.use_instructions) == (None, False)
    assert "no recipe" in said


def test_an_unchanged_student_was_trained_on_nothing_more(tmp_path: Path) -> None:
    assert provenance(run_of(tmp_path / "run", sources=[tmp_path], alpha=0.0)).datasets == frozenset()


def test_relative_sources_are_sought_beside_the_run_too(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    assert provenance(run_of(tmp_path / "run", sources=[Path("claims")])).datasets == {"claims", "stdlib"}


def test_unknown_training_data_is_none_and_said(tmp_path: Path) -> None:
    gone = provenance(run_of(tmp_path / "run", sources=[tmp_path / "gone"]))
    assert gone.datasets is None
    assert "gone" in gone.said
    (tmp_path / "alone").mkdir()
    assert provenance(tmp_path / "alone").datasets is None
    (tmp_path / "rows/model").mkdir(parents=True)
    history = {"mixture": {"sources": [{"source": "fret"}, {"source": "scifact"}]}}
    (tmp_path / "rows/history.json").write_text(json.dumps(history))
    assert provenance(tmp_path / "rows/model").datasets == frozenset({"SciFact"})
    (tmp_path / "rows/history.json").write_text(json.dumps({"mixture": {"sources": [{"source": "who knows"}]}}))
    assert provenance(tmp_path / "rows/model").datasets is None
