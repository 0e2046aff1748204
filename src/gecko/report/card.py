"""The card of a run's model: what it is, how to use it, what it was made from and how good it is.

Hub readers show the README.md of a model's folder; whoever gets the folder alone learns from it what the run knows.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gecko.embedder.open import PACKAGED_MODEL
from gecko.errors import GeckoError
from gecko.mixture.format import DEFAULT_TASK, DOCUMENT_PROMPT, format_of_prompts, render_passage, render_query
from gecko.report.dataset_card import write_data_card
from gecko.report.figures_part import figures, leakage, limits, model_index
from gecko.report.licences import hub_licence
from gecko.report.markdown import as_yaml, code, details, front_matter, safe, shareable, short, table
from gecko.report.own import write_card
from gecko.report.run_facts import RunFacts, read_run
from gecko.report.training_part import hub_sets, languages_of, teacher_part, training_data
from gecko.report.verdict import verdict
from gecko.shards import read_json

_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"  # of the packaged model
_HUB_LICENCE = "apache-2.0"


def write_cards(run: Path) -> Path:
    """Write the cards of a finished run: its model's beside the weights, its data's at the root of the run.

    Returns:
        The model's card.

    Raises:
        GeckoError: The run has no model or no rows, or a card cannot be written.
    """
    path = run / "model" / "README.md"
    if not path.parent.is_dir():
        raise GeckoError(f"{run} holds no model", "run gecko run on it first")
    facts = read_run(run)
    write_card(path, render_card(facts))
    write_data_card(facts)
    return path


def render_card(facts: RunFacts) -> str:
    """Put the model's card together from what the run noted of itself."""
    recipe = facts.recipe
    student = short(recipe["train"]["student"])
    packaged = student == PACKAGED_MODEL
    # The tuned weights' licence is their owner's to choose; only the base's, shipped unchanged, keep their own.
    licence = _HUB_LICENCE if packaged else hub_licence(Path(recipe["train"]["student"]))
    title = f"{student} tuned on {', '.join(map(short, facts.corpora))}"
    if not facts.alpha:
        title = f"{student}, unchanged"
    matryoshka = ["matryoshka"] if facts.alpha and len(facts.sizes) > 1 else []
    head = {
        "language": languages_of(facts.passages),
        "license": "" if facts.alpha else licence,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "base_model": _HUB_ID if packaged else student,
        "tags": ["sentence-transformers", "feature-extraction", "gecko", "fret", *matryoshka],
        "datasets": hub_sets(facts),
        "model-index": model_index(title, facts.evaluation),
    }
    parts = [
        front_matter(head),
        f"# {safe(title)}",
        _what(facts, student + _shape(recipe["train"].get("backbone") or {})),
        _licence(facts, licence),
        _use(facts),
        training_data(facts),
        teacher_part(facts.fret, facts.calls),
        figures(facts),
        leakage(facts),
        limits(facts),
        _made_with(facts),
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


def _soup(facts: RunFacts) -> str:
    """Say of which checkpoints the tuned weights are made, where it is of several."""
    steps = facts.history.get("soup") or []
    named = " and ".join(filter(None, (", ".join(map(str, steps[:-1])), *map(str, steps[-1:]))))
    return f" Tuned weights are a soup of the checkpoints after steps {named} of the training." if steps else ""


def _what(facts: RunFacts, student: str) -> str:
    reason = str(facts.gate.get("reason") or "").strip().rstrip(".")
    sentence = f"The no-harm gate: {reason}." if reason else ""
    found = verdict(facts.evaluation, facts.gate)
    if not facts.alpha:
        return f"These weights are those of {safe(student)}, unchanged. **{found['word']}.** {safe(found['line'])}"
    blend = "the tuned model"
    if facts.alpha != 1:
        blend = f"a blend of {facts.alpha:g} tuned and {1 - facts.alpha:g} base weights"
    return (
        f"A text-embedding model, fine-tuned from {safe(student)} by Gecko's two-step distillation "
        f"(arXiv:2403.20327): a teacher wrote queries for passages of {safe(', '.join(map(short, facts.corpora)))} "
        f"and ranked what answers them.\n\n**{found['word']}.** {safe(found['line'])}\n\n"
        f"It is {blend}.{_soup(facts)} {sentence}"
    )


def _licence(facts: RunFacts, base: str) -> str:
    known = f"the base states {safe(base)}" if base else "licence not stated by the base"
    if not facts.alpha:
        return f"Licence: {known}; these are its weights."
    return f"Licence: {known}. That of the tuned weights is their owner's to choose, heeding the data below."


def _use(facts: RunFacts) -> str:
    """How texts are to be written for the model, to the letter, and which sizes its vectors may have."""
    model = facts.run / "model"
    config = read_json(model / "config_sentence_transformers.json") or {}
    prompts = config.get("prompts") or {}
    longest = (read_json(model / "sentence_bert_config.json") or {}).get("max_seq_length")
    sizes = "This run has not trained these weights for shorter vectors."
    if facts.alpha:
        sizes = f"Trained for vectors of {', '.join(map(str, facts.sizes))} dimensions"
        sizes += f"; `truncate_dim={facts.sizes[1]}` gives shorter ones." if len(facts.sizes) > 1 else "."
    whole = f" At most {longest} tokens of a text are read." if longest else ""
    return (
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("path/to/this/folder")\n'
        'passages = model.encode_document(["…"], normalize_embeddings=True)\n'
        'queries = model.encode_query(["…"], normalize_embeddings=True)\n```\n\n'
        f"What the encoder is to be given, to the letter:\n\n{_strings(prompts)}\n\n"
        f"Similarity: {config.get('similarity_fn_name') or 'cosine'}. {sizes} A vector that is cut must be made unit "
        f"length again (`normalize_embeddings=True` does).{whole}"
    )


def _strings(prompts: dict[str, str]) -> str:
    """The strings of each kind of text, in the words of the module that rendered them in training."""
    if format_of_prompts(prompts) == "plain":
        query, document = prompts.get("query") or "", prompts.get("document") or ""
        rows = [
            ("a query", code(query + render_query("", "{query}", "plain")), "`encode_query`"),
            ("a passage without a title", code(document + render_passage("", "{text}", "plain")), "`encode_document`"),
            (
                "a passage with a title",
                code(document + render_passage("{title}", "{text}", "plain")),
                "`encode_document` of title, a space and text",
            ),
        ]
        others = [name for name, text in sorted(prompts.items()) if text and name not in {"query", "document"}]
        note = f"\n\nOther prompts by name: {', '.join(map(code, others))}." if others else ""
        return table(("text", "string", "by"), rows, 3) + note
    rows = [
        ("a query", code(render_query(DEFAULT_TASK, "{query}")), "`encode_query`"),
        ("a query of another task", code(render_query("{task}", "{query}")), "`encode` with `prompt=` all before it"),
        ("a passage without a title", code(render_passage("", "{text}")), "`encode_document`"),
        ("a passage with a title", code(render_passage("{title}", "{text}")), '`encode` with `prompt=""`'),
        ("either side of a symmetric task", code(render_query("{task}", "{text}")), "as a query of that task"),
    ]
    return (
        table(("text", "string", "by"), rows, 3)
        + f"\n\n`encode_document` puts {code(DOCUMENT_PROMPT)} before what it is given. Tasks are short labels "
        "(`question answering`, `search result`, `fact checking`, `semantic similarity`, `classification`) or "
        "sentences such as the frequent ones below."
    )


def _made_with(facts: RunFacts) -> str:
    config = read_json(facts.run / "model" / "config_sentence_transformers.json") or {}
    try:
        tool = f"gecko {version('gecko-embed')}"
    except PackageNotFoundError:
        tool = "gecko"
    libraries = [tool, *(f"{name} {number}" for name, number in sorted((config.get("__version__") or {}).items()))]
    return (
        f"## Made with\n\n`gecko run recipe.yaml --out DIR`, with {', '.join(libraries)}. The recipe holds the "
        "settings of the command line; its paths are cut to their last part.\n\n"
        + details("recipe.yaml", f"```yaml\n{as_yaml(shareable(facts.recipe))}```")
    )
