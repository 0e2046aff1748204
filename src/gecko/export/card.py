"""The card of an export: the model's own, and what this folder is and how it is used; and the licences beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WHAT = {
    "compat": "Sentence-Transformers files that version 5 and 6, transformers, vLLM, TEI and transformers.js read.",
    "onnx": "One ONNX graph in float32, `onnx/model.onnx`, from tokens to vectors.",
    "onnx-int8": "One ONNX graph with int8 products, `onnx/model_quantized.onnx`, from tokens to vectors.",
    "static": "A table of token vectors, distilled from the model: a text's vector is the mean of its tokens'.",
}
_OUTPUTS = (
    " Output `sentence_embedding` is the unit vector; `last_hidden_state` is there for readers that pool themselves."
)
_SENTENCE_TRANSFORMERS = (
    'from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer("path/to/this/folder")\n'
    'vectors = model.encode_document(["…"], normalize_embeddings=True)'
)
_GECKO = 'from gecko import Embedder\n\nmodel = Embedder("path/to/this/folder")\nvectors = model.encode_document(["…"])'
_HEADING = "\n## This export\n"
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


def write_card(out: Path, model: Path, facts: Mapping[str, Any]) -> None:
    """Write an export's card behind the model's, whose front matter stays first, and copy its licence files.

    Args:
        out: The export's folder.
        model: The model's folder, or the Hub id of one; where there is no card, a short one takes its place.
        facts: What the export says of itself.
    """
    for pattern in _LICENCES:
        for file in sorted(model.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
    graph = str(facts["format"]).startswith("onnx")
    sizes = ", ".join(map(str, facts["dims"]))
    trained = facts.get("rows")
    made = "" if trained is None else f" It was trained on {trained:,} rows." if trained else " It was not trained."
    own, _, _ = _own_card(model, facts["model"]).partition(_HEADING)  # an export that is exported again has one
    text = (
        f"{own.rstrip()}\n{_HEADING}\n"
        f"{_WHAT[facts['format']]}{_OUTPUTS if graph else ''}{made} "
        f"Made by `gecko export --format {facts['format']}` from the model `{facts['model']}` "
        f"(fingerprint {facts['fingerprint']}). Dimensions: {sizes}; a vector that is cut must be made unit length "
        f"again. Prompts are in `config_sentence_transformers.json`.\n\n"
        f"```python\n{_GECKO if graph else _SENTENCE_TRANSFORMERS}\n```\n"
    )
    (out / "README.md").write_text(text, encoding="utf-8")


def _own_card(model: Path, name: str) -> str:
    """The model's card; of a model of the Hub, the one that loading it put into the cache."""
    from huggingface_hub import try_to_load_from_cache

    base = ""
    path: Any = model / "README.md"
    if not model.is_dir():
        base, path = f"base_model: {name}\n", try_to_load_from_cache(name, "README.md")
    if isinstance(path, str | Path) and Path(path).is_file():
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return f"---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n{base}---\n\n# {name}\n"
