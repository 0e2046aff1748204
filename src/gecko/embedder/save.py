"""A model as files that every reader understands: Sentence-Transformers 5 and 6, vLLM, TEI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def save_model(model: SentenceTransformer, out: Path) -> None:
    """Save a model so that Sentence-Transformers 5 and 6, vLLM and TEI all read it the same way.

    Sentence-Transformers 6 writes module paths and pooling keys that older readers reject or, worse, misread;
    these small files are rewritten in the style every version understands.
    """
    model.save_pretrained(str(out), create_model_card=False)
    modules_file = out / "modules.json"
    modules = json.loads(modules_file.read_text(encoding="utf-8"))
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        module["type"] = f"sentence_transformers.models.{kind}"
        if kind == "Pooling":
            _legacy_pooling(out / module["path"] / "config.json")
        elif kind == "Dense":
            _legacy_dense(out / module["path"] / "config.json")
        elif kind == "Transformer":
            settings = {"max_seq_length": model.max_seq_length, "do_lower_case": False}
            _write_json(out / module["path"] / "sentence_bert_config.json", settings)
    _write_json(modules_file, modules)


def _legacy_pooling(config_file: Path) -> None:
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if "embedding_dimension" not in config:
        return
    mode = config["pooling_mode"]
    modes = [mode] if isinstance(mode, str) else mode
    names = {
        "cls": "cls_token",
        "mean": "mean_tokens",
        "max": "max_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "weightedmean": "weightedmean_tokens",
        "lasttoken": "lasttoken",
    }
    legacy: dict[str, Any] = {"word_embedding_dimension": config["embedding_dimension"]}
    for key, name in names.items():
        legacy[f"pooling_mode_{name}"] = key in modes
    legacy["include_prompt"] = config.get("include_prompt", True)
    _write_json(config_file, legacy)


def _legacy_dense(config_file: Path) -> None:
    """Leave out what only version 6 reads, where it says what every version takes for granted."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    sides = ("module_input_name", "module_output_name")
    if all(config.get(side) in (None, "sentence_embedding") for side in sides):
        _write_json(config_file, {name: value for name, value in config.items() if name not in sides})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
