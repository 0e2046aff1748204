"""Load a causal language model with transformers, name what determines its answers, and say what its cache can do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError, reason

# Elements of each tensor that go into the fingerprint, spread over it: training changes them all.
_SAMPLED = 65536
# The same of a file: so many pieces of so many bytes.
_CHUNKS, _CHUNK = 256, 4096
_CAUSAL = ("CausalLM", "LMHead", "ConditionalGeneration")
# What says nothing of the answers, or where the model lay.
_NOT_CONTENT = ("_name_or_path", "transformers_version")


def load_causal(path_or_id: str | Path, device: Any, dtype: str) -> tuple[Any, Any]:  # noqa: ANN401
    """Load model and tokenizer for reading and writing, without any code that comes with the model.

    Args:
        path_or_id: A directory, or a Hub id.
        device: A torch device.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (the checkpoint's own).

    Raises:
        GeckoError: There is no such model, it is no causal language model, or it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    _, tokenizer = load_tokenizer(path_or_id)
    target = str(path_or_id)
    try:
        model = AutoModelForCausalLM.from_pretrained(target, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # of the files, the network or the library, each with its own kinds
        raise GeckoError(f"cannot load the language model {target}: {reason(error)}", _hint(target)) from error
    return model.to(device).eval(), tokenizer


def load_tokenizer(path_or_id: str | Path) -> tuple[Any, Any]:
    """Load a causal language model's configuration and tokenizer, without its weights or any code that comes with it.

    Raises:
        GeckoError: There is no such model, it is no causal language model, or it has no tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    target = str(path_or_id)
    _refuse_no_model(target)
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(target, trust_remote_code=False)
        kinds = list(getattr(config, "architectures", None) or [])
        if config.is_encoder_decoder or (kinds and not any(mark in kind for kind in kinds for mark in _CAUSAL)):
            raise GeckoError(
                f"{target} is no causal language model ({', '.join(kinds) or config.model_type})",
                "give a model that writes text, such as a Llama, Qwen or Gemma",
            )
        tokenizer = AutoTokenizer.from_pretrained(target, trust_remote_code=False)
    except GeckoError:
        raise
    except Exception as error:  # of the Hub, the files, the network or the library, each with its own kinds
        raise GeckoError(f"cannot load the language model {target}: {reason(error)}", _hint(target)) from error
    # Where the vocabulary is missing, transformers makes a tokenizer to which every word is unknown, without a word.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise GeckoError(f"{target} holds no tokenizer", "copy tokenizer.json and tokenizer_config.json to it")
    return config, tokenizer


def fingerprint_of(model: Any, tokenizer: Any) -> str:  # noqa: ANN401
    """Hash of configuration, precision, tokenizer, chat template and a sample of every tensor.

    It is the same wherever the files lie and however they are split, and takes under a second per billion parameters.
    """
    import torch

    sampling = {key: value for key, value in model.generation_config.to_dict().items() if key not in _NOT_CONTENT}
    config, *words = _facts(model.config, tokenizer)
    facts = [config, sampling, *words]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def fingerprint_of_files(path_or_id: str | Path, config: Any, tokenizer: Any) -> str:  # noqa: ANN401
    """Hash of configuration, tokenizer, chat template and weights of a model that others load.

    Of a directory, a sample of every weight file, spread over it; of a model of the Hub, its name and revision.
    """
    facts = [*_facts(config, tokenizer), getattr(config, "_commit_hash", None)]
    if not Path(path_or_id).is_dir():
        facts.append(str(path_or_id))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted([*Path(path_or_id).glob("*.safetensors"), *Path(path_or_id).glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in range(0, size, max(_CHUNK, size // _CHUNKS)):
                file.seek(place)
                digest.update(file.read(_CHUNK))
    return digest.hexdigest()[:16]


def _facts(config: Any, tokenizer: Any) -> list[Any]:  # noqa: ANN401
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    content = {key: value for key, value in config.to_dict().items() if key not in _NOT_CONTENT}
    return [content, vocabulary, getattr(tokenizer, "chat_template", None)]


def can_copy_cache(model: Any) -> bool:  # noqa: ANN401
    """Whether a prefix's cache can be computed once and copied: keys and values only, no recurrent state."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception:  # a cache of the model's own kind
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _refuse_no_model(target: str) -> None:
    path = Path(target)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise GeckoError(
                f"{target} is not a model directory", "it should hold config.json, weights and a tokenizer"
            )
        return
    # A Hub id is asked for over the network, so what cannot be one is refused here and at once.
    if path.exists() or target.startswith((".", "/", "~")) or target.count("/") != 1:
        hint = "a .gguf file is for llama-cpp:FILE" if target.endswith(".gguf") else "give a directory or a Hub id"
        raise GeckoError(f"no model directory at {target}", hint)


def _hint(target: str) -> str:
    if Path(target).is_dir():
        return "is it complete, and a model that transformers knows?"
    return "check the name and the network"
