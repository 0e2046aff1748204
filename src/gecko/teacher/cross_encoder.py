"""A Sentence-Transformers cross-encoder as the ranker (``cross-encoder:MODEL``), as GPL has it; it writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gecko.embedder.open import resolve_model
from gecko.errors import GeckoError, UsageError
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher.protocol import Capabilities, Generation, PassageStore, Scores

RUNG = "cross-encoder"
_TOP_GRADE = 3.0


class CrossEncoderTeacher:
    """Ranks by the relevance that a cross-encoder gives to query and passage.

    Its score is on the scale of RC, three times the sigmoid of the model's output. It has one opinion and not two, so
    the same score stands for QL, and the fused order is its own.

    Args:
        model: Path or id of a model with one output.

    Raises:
        GeckoError: There is no such model, or it has several outputs.
    """

    def __init__(self, model: str) -> None:
        self.name = f"cross-encoder:{model.rstrip('/').rsplit('/', 1)[-1]}"
        self.prompt_version = "none"
        self.rung = RUNG
        self.capabilities = Capabilities()
        self._model = _load(model)
        self.fingerprint = content_id(RUNG, _state(Path(model)) if Path(model).is_dir() else model)

    def prepare(self, passages: PassageStore) -> None:
        """Nothing: a cross-encoder needs no look at the corpus."""

    def write(self, seeds: Sequence[Passage]) -> list[Generation]:
        """Refuse: it cannot write.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self.name} can only rank", "name another teacher for step 1: --set teacher.writer=SPEC")

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Score every candidate against the query."""
        from torch.nn import Sigmoid

        pairs = [(query.query, f"{passage.title} {passage.text}".strip()) for passage in candidates]
        found = self._model.predict(pairs, activation_fn=Sigmoid(), show_progress_bar=False)
        scores = tuple(_TOP_GRADE * float(score) for score in found)
        return Scores(ql=scores, rc=scores, rung=RUNG)


def _state(folder: Path) -> str:
    """Hash of the model's files, wherever they lie."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _load(model: str) -> Any:  # noqa: ANN401
    from sentence_transformers import CrossEncoder

    try:
        loaded = CrossEncoder(resolve_model(model))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise GeckoError(f"cannot load the cross-encoder {model}: {reason}", "give a path or a Hub id") from error
    if loaded.num_labels != 1:
        raise GeckoError(
            f"{model} has {loaded.num_labels} outputs", "a ranker needs one; this is a classifier of something else"
        )
    return loaded
