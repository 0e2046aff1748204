"""The card of a run's model: what it is, how to use it, what it was made from and how good it is.

Hub readers show the README.md of a model's folder; whoever gets the folder alone learns from it what the run knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from gecko.corpus.language import NO_LANGUAGE
from gecko.embedder.embedder import PACKAGED_MODEL
from gecko.errors import GeckoError
from gecko.evaluate.table import render_evaluation
from gecko.report import gather
from gecko.report.leakage import leakage_lines
from gecko.shards import atomic, read_json

_MOST_SHOWN = 5
_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"  # of the packaged model


def write_card(run: Path) -> Path:
    """Write the model card of a finished run beside its model's weights.

    A card that says the same already is left as it is, so that the model's folder does not look changed.

    Raises:
        GeckoError: The run has no model or no rows, or the card cannot be written.
    """
    path = run / "model" / "README.md"
    if not path.parent.is_dir():
        raise GeckoError(f"{run} holds no model", "run gecko run on it first")
    text = render_card(run)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def render_card(run: Path) -> str:
    """Put the card together from what the run noted of itself."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    gate = read_json(run / "gate" / "gate.json") or {}
    evaluation = read_json(run / "evaluation.json") or {}
    fret = gather.read_fret(run / "fret")
    # No texts: only counts are wanted of the passages.
    passages = gather.read_passages(run / "passages", [], [])
    prompts = (read_json(run / "model" / "config_sentence_transformers.json") or {}).get("prompts") or {}
    student = _short(recipe["train"]["student"])
    head = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "base_model": _HUB_ID if student == PACKAGED_MODEL else student,
        "language": _languages(passages),
        "tags": ["sentence-transformers", "feature-extraction", "gecko", "fret", "matryoshka"],
        "model-index": _index(evaluation) or None,
    }
    front = yaml.safe_dump({key: value for key, value in head.items() if value}, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {student}, tuned with gecko",
        _what(gate, student + _shape(recipe["train"].get("backbone") or {}), _soup(run)),
        _use(recipe["train"]["dims"], prompts),
        _data(recipe, fret, passages, _before(run)),
        _figures(evaluation),
        *_leakage(run),
        _limits(recipe, fret),
        "## Made with\n\n`gecko run recipe.yaml --out DIR`, where `recipe.yaml` is:\n\n"
        f"```yaml\n{yaml.safe_dump(_shareable(recipe), sort_keys=False, allow_unicode=True)}```",
    ]
    return "\n\n".join(parts) + "\n"


def _shape(backbone: dict[str, Any]) -> str:
    """Say what was changed of the student before training."""
    said = []
    if backbone.get("attention") == "bidirectional":
        said.append("attending both ways")
    if backbone.get("pooling", "own") != "own":
        said.append(f"pooled by {'its last token' if backbone['pooling'] == 'last' else 'the mean'}")
    if backbone.get("projection"):
        said.append(f"projected to {backbone['projection']} dimensions")
    return f" ({', '.join(said)})" if said else ""


def _soup(run: Path) -> str:
    """Say of which checkpoints the tuned weights are made, where it is of several."""
    steps = (read_json(run / "train" / "history.json") or {}).get("soup") or []
    named = " and ".join(filter(None, (", ".join(map(str, steps[:-1])), *map(str, steps[-1:]))))
    return f" Tuned weights are a soup of the checkpoints after steps {named} of the training." if steps else ""


def _what(gate: dict[str, Any], student: str, soup: str) -> str:
    alpha = float(gate.get("alpha", 0.0))
    if alpha == 0:
        return f"These weights are those of {student}, unchanged. {_sentence(gate)}"
    blend = "the tuned model" if alpha == 1 else f"a blend of {alpha:g} tuned and {1 - alpha:g} base weights"
    return (
        f"A text-embedding model, fine-tuned from {student} by Gecko's two-step distillation "
        f"(arXiv:2403.20327). It is {blend}.{soup} {_sentence(gate)}"
    )


def _sentence(gate: dict[str, Any]) -> str:
    reason = str(gate.get("reason") or "").strip().rstrip(".")
    return f"The no-harm gate: {reason}." if reason else ""


def _use(dims: Iterable[int], prompts: dict[str, str]) -> str:
    sizes = sorted(dims, reverse=True)
    strings = "; ".join(f"{name}: `{text!r}`" for name, text in sorted(prompts.items()) if text)
    said = f"Its prompts, which `encode_query` and `encode_document` apply: {strings}." if strings else "No prompts."
    return (
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("path/to/this/folder", truncate_dim={sizes[0]})\n'
        'passages = model.encode_document(["…"], normalize_embeddings=True)\n'
        'queries = model.encode_query(["…"], normalize_embeddings=True)\n```\n\n'
        f"Sizes it was trained for: {', '.join(map(str, sizes))}. A vector that is cut must be made unit length again "
        f"(`normalize_embeddings=True` does). {said}"
    )


def _before(run: Path) -> str:
    """Say what the student was pre-finetuned on, where it was."""
    history = read_json(run / "prefinetune" / "history.json") if gather.takes_part(run, "prefinetune") else None
    if not history:
        return ""
    sources = ", ".join(f"{_short(source['source'])} ({source['rows']:,})" for source in history["mixture"]["sources"])
    return (
        f" The student was first pre-finetuned on {history['rows']:,} pairs of texts, with negatives from the batch "
        f"alone: {sources}."
    )


def _data(recipe: dict[str, Any], fret: gather.FretFacts, passages: gather.PassageFacts, before: str) -> str:
    sources = ", ".join(_short(source) for source in recipe["corpus"]["sources"])
    share = fret.relabelled / fret.rows if fret.rows else 0.0
    origins = ", ".join(f"{name} ({count:,})" for name, count in fret.origins.most_common(_MOST_SHOWN))
    tasks = "\n".join(f"- {task} ({count:,})" for task, count in fret.tasks.most_common(_MOST_SHOWN))
    return (
        f"## Training data\n\n{passages.rows:,} passages of {sources}; {fret.rows:,} FRet rows (some held out), "
        f"{share:.0%} of them with another positive than the passage the query was written from.{before} "
        f"Teacher, rung and prompt version: {origins}. The rows inherit the licence of the corpus and the terms of the "
        f"teacher; neither is known to this card. Most frequent tasks:\n\n{tasks}"
    )


def _figures(evaluation: dict[str, Any]) -> str:
    table = render_evaluation(evaluation)
    if not table:
        return "## Figures\n\nNot measured on human judgements in this run."
    return f"## Figures\n\n{table}\n\nGains with 95 % paired bootstrap intervals over the queries, pairs or texts."


def _leakage(run: Path) -> list[str]:
    """Say what an audit of the training rows against the evaluation sets found, where there was one."""
    value = read_json(run / "audit" / "audit.json") if gather.takes_part(run, "audit") else None
    return ["\n".join(["## Leakage", "", *leakage_lines(value)])] if value else []


def _limits(recipe: dict[str, Any], fret: gather.FretFacts) -> str:
    languages = ", ".join(f"{name} ({count:,})" for name, count in fret.languages.most_common(_MOST_SHOWN))
    crossing = f"; {fret.cross_lingual:,} queries find a passage in another language" if fret.cross_lingual else ""
    return (
        f"## Limits\n\nTuned on one corpus; query languages: {languages}{crossing}. Texts were cut at "
        f"{recipe['train']['max_length']} tokens in training. Queries were written by a machine; what people ask may "
        "differ, so measure on your own judged questions."
    )


def _languages(passages: gather.PassageFacts) -> list[str]:
    """Codes of the languages that make up a twentieth of the passages or more."""
    least = passages.rows / 20
    return [code for code, count in passages.languages.most_common() if count >= least and code not in NO_LANGUAGE]


def _index(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The Hub's format of figures: one result a test set, at the widest dimension."""
    rows = [row for row in evaluation.get("results", []) if row["metric"] == "ndcg_at_10"]
    widest = max((row["dim"] for row in rows), default=0)
    results = [
        {
            "task": {"type": "retrieval"},
            "dataset": {"name": str(row["dataset"]), "type": str(row["dataset"])},
            "metrics": [{"type": "ndcg_at_10", "value": round(float(row["tuned"]), 5)}],
        }
        for row in rows
        if row["dim"] == widest
    ]
    return [{"name": "gecko", "results": results}] if results else []


def _shareable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without this machine's paths and addresses."""

    def shared(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {key: shared(item) for key, item in value.items() if key != "base_url"}
        if isinstance(value, list):
            return [shared(item) for item in value]
        return _short(value) if isinstance(value, str) else value

    return {key: shared(value) for key, value in recipe.items()}


def _short(name: str) -> str:
    """A path by its last part; a SPEC keeps its kind, and any other text stays as it is."""
    kind, colon, rest = name.partition(":")
    if colon and kind.isidentifier() and rest.startswith(("/", ".")):
        return f"{kind}:{Path(rest).name}"
    return Path(name).name if name.startswith(("/", ".")) else name
