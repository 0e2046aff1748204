from __future__ import annotations

from pathlib import Path

import pytest

from gecko.errors import GeckoError, UsageError
from gecko.records import GeneratedQuery, Passage
from gecko.teacher.cross_encoder import CrossEncoderTeacher
from gecko.teacher.ledger import Ledger
from gecko.teacher.open import open_teacher


@pytest.fixture(scope="module")
def ranker(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("ranker") / "tiny-ranker"
    for labels, place in ((1, folder), (3, folder.parent / "three")):
        config = AutoConfig.from_pretrained(tiny_model, num_labels=labels)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(place)
    return folder


def passage(name: str, text: str) -> Passage:
    return Passage(name, name, "", text, "", "en")


QUERY = GeneratedQuery("a", "Given a query, find a passage.", "red fox", "en", "x", "x", 0, 0)


def test_it_scores_candidates_on_the_scale_of_rc_and_has_one_opinion(ranker: Path) -> None:
    teacher = CrossEncoderTeacher(str(ranker))
    assert teacher.name == "cross-encoder:tiny-ranker"
    candidates = [passage("a", "the red fox"), passage("b", "a big blue house of the river"), passage("c", "cat")]
    scores = teacher.rank(QUERY, candidates)
    assert scores.ql == scores.rc
    assert all(0 < score < 3 for score in scores.rc if score is not None)
    assert len(set(scores.rc)) == 3
    alone = [teacher.rank(QUERY, [candidate]).rc[0] for candidate in candidates]
    assert alone == pytest.approx(list(scores.rc), abs=1e-4)


def test_the_same_weights_elsewhere_are_the_same_teacher(ranker: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ranker, tmp_path / "copy")
    assert CrossEncoderTeacher(str(ranker)).fingerprint == CrossEncoderTeacher(str(tmp_path / "copy")).fingerprint


def test_it_refuses_to_write_and_models_that_cannot_rank(ranker: Path, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        teacher = open_teacher(f"cross-encoder:{ranker}", ledger)
        with pytest.raises(UsageError, match="can only rank"):
            teacher.write([passage("a", "red fox")])
        with pytest.raises(GeckoError, match="3 outputs"):
            open_teacher(f"cross-encoder:{ranker.parent / 'three'}", ledger)
        with pytest.raises(GeckoError, match="no model directory at"):
            open_teacher(f"cross-encoder:{tmp_path / 'nowhere'}", ledger)


def test_a_hub_id_is_not_taken_for_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    asked = []

    def load(name: str) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(sentence_transformers, "CrossEncoder", load)
    with pytest.raises(GeckoError, match="no network"):
        CrossEncoderTeacher("owner/some-ranker")
    assert asked == ["owner/some-ranker"]
