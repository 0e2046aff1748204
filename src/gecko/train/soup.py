"""Weights between models of one architecture: the gate's blends, and soups of several models.

A soup is the mean of models that were trained apart, or of checkpoints of one training (Wortsman et al. 2022,
arXiv:2203.05482); Qwen3-Embedding merges its checkpoints by slerp (arXiv:2506.05176).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from gecko.embedder.open import load_model
from gecko.errors import GeckoError, UsageError
from gecko.train.save import save_whole

Method = Literal["mean", "slerp"]
_PARALLEL = 1e-6  # sine of the angle below which two weights are taken for parallel
# What a configuration says of a model's making, not of the model.
_PROVENANCE = frozenset({"architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"})


def interpolate(base: Any, tuned: Any, alpha: float) -> Any:  # noqa: ANN401
    """Blend two models weight by weight.

    Args:
        base: The model before training.
        tuned: The model after training; it gives the prompts and everything that is not a weight.
        alpha: 0 is the base's weights, 1 the tuned model's.

    Returns:
        A new model.
    """
    blend = copy.deepcopy(tuned)
    start = base.state_dict()
    with torch.no_grad():
        for name, value in blend.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.lerp(start[name].to(value), value, alpha))
    return blend


def merge_weights(
    states: Iterable[Mapping[str, Tensor]], weights: Sequence[float], method: Method = "mean"
) -> dict[str, Tensor]:
    """Merge the weights of several models, in float64, holding one model beside the sum.

    ``slerp`` turns each tensor, as one vector, along the arc to the next model's: with more than two models they are
    taken in order, each by its share of the weights so far, so that the order matters a little.

    Args:
        states: State dictionaries with the same names and shapes, read one after the other.
        weights: A weight of each, not negative; only their ratios count.
        method: The mean, or spherical interpolation.

    Returns:
        The merged state, every tensor in the first model's type; what is no floating-point number is the first's.
    """
    merged: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    total = 0.0
    for state, weight in zip(states, weights, strict=True):
        total += weight
        share = weight / total if total else 0.0
        for name, value in state.items():
            if name not in merged:
                kinds[name] = value.dtype
                merged[name] = value.to(torch.float64 if value.is_floating_point() else value.dtype, copy=True)
            elif value.is_floating_point():
                step = torch.lerp if method == "mean" else _slerp
                merged[name] = step(merged[name], value.double(), share)
    return {name: value.to(kinds[name]) for name, value in merged.items()}


def _slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Point on the arc between two tensors, float64; on the straight line where they are parallel or one is zero."""
    lengths = first.norm() * second.norm()
    cosine = float((first * second).sum() / lengths) if lengths > 0 else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < _PARALLEL:
        return torch.lerp(first, second, share)
    return (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)


def make_soup(
    models: Sequence[str], out: Path, *, weights: Sequence[float] | None = None, method: Method = "mean"
) -> dict[str, Any]:
    """Merge saved models into a new one, whose card says what it is made of.

    Args:
        models: Directories, Hub ids or ``all-MiniLM-L6-v2``; the first gives everything that is not a weight.
        out: Directory of the new model.
        weights: A weight of each; None weighs them alike.
        method: See :func:`merge_weights`.

    Returns:
        ``{"model", "method", "models", "weights"}``, the weights summing to one.

    Raises:
        UsageError: There are fewer than two models, the weights do not fit them, or the output is one of them.
        GeckoError: The models differ in architecture, settings, tokenizer, prompts or shapes.
    """
    shares = _shares(models, weights)
    if out.resolve() in [Path(model).resolve() for model in models]:
        raise UsageError(f"--out {out} is one of the models", "choose another folder")
    soup = load_model(models[0], device="cpu")
    soup.load_state_dict(merge_weights(_states(soup, models), shares, method))
    save_whole(soup, out)
    (out / "README.md").write_text(_card(soup, models, shares, method), encoding="utf-8")
    return {"model": str(out), "method": method, "models": list(models), "weights": shares}


def _shares(models: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if len(models) < 2:
        raise UsageError("a soup is made of two models or more", "for example gecko soup a/model b/model --out soup")
    values = [1.0] * len(models) if weights is None else list(weights)
    if len(values) != len(models):
        raise UsageError(f"{len(values)} weights for {len(models)} models", "give one for each, for example 1,1")
    if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values):
        raise UsageError(f"the weights {values} are not all 0 or more with one above it", "for example 1,1")
    return [value / sum(values) for value in values]


def _states(first: Any, models: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:  # noqa: ANN401
    """The weights of each model in turn, once it is known to be of the first one's kind."""
    yield first.state_dict()
    for name in models[1:]:
        other = load_model(name, device="cpu")
        for what, own, others in zip(_FACTS, _facts(first), _facts(other), strict=True):
            if own != others:
                raise GeckoError(f"{name} and {models[0]} differ in their {what}", _hint(own, others))
        yield other.state_dict()


_FACTS = ("modules", "configuration", "tokenizer", "longest text", "prompts", "weights' names and shapes")


def _facts(model: Any) -> tuple[dict[str, object], ...]:  # noqa: ANN401
    """All that must be alike for the mean of two models' weights to mean anything, in the order of ``_FACTS``."""
    settings: dict[str, object] = {}
    for place, module in enumerate(model):
        own = getattr(getattr(module, "auto_model", None), "config", None)
        told = own.to_dict() if own is not None else module.get_config_dict()
        settings |= {f"{place}.{key}": told[key] for key in told if key not in _PROVENANCE and not key.startswith("_")}
    return (
        {str(place): type(module).__name__ for place, module in enumerate(model)},
        settings,
        _tokenization(getattr(model, "tokenizer", None)),
        {"max_seq_length": model.max_seq_length},
        dict(model.prompts),
        {name: tuple(value.shape) for name, value in model.state_dict().items()},
    )


def _tokenization(tokenizer: Any) -> dict[str, object]:  # noqa: ANN401
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return {"vocabulary": tokenizer.get_vocab()} if hasattr(tokenizer, "get_vocab") else {}
    parts: dict[str, object] = json.loads(backend.to_str())
    return {key: part for key, part in parts.items() if key not in {"truncation", "padding"}}  # set by each call


def _hint(own: Mapping[str, object], others: Mapping[str, object]) -> str:
    """Name the first thing that differs, with its values where they are short."""
    key = next(key for key in (*own, *others) if own.get(key) != others.get(key))
    values = f"{others.get(key)!r} and {own.get(key)!r}"
    return f"{key}: {values}" if len(values) < 200 else f"see {key}"


def _card(soup: Any, models: Sequence[str], shares: Sequence[float], method: Method) -> str:  # noqa: ANN401
    names = ["/".join(Path(model).parts[-2:]) for model in models]
    head = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "base_model": names,
        "base_model_relation": "merge",
        "tags": ["sentence-transformers", "feature-extraction", "gecko", "merge"],
    }
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    lines = "\n".join(f"- {share:.4g} x {name}" for name, share in zip(names, shares, strict=True))
    kind = "mean" if method == "mean" else "spherical interpolation (slerp), in this order,"
    prompts = "; ".join(f"{name}: `{text!r}`" for name, text in sorted(soup.prompts.items()) if text) or "none"
    command = f"gecko soup {' '.join(names)} --method {method} --weights {','.join(f'{s:.4g}' for s in shares)}"
    return (
        f"---\n{front}---\n\n# A soup of {len(models)} models\n\nIts weights are the {kind} of:\n\n{lines}\n\n"
        f"Prompts: {prompts}. It was not measured when it was made: `gecko evaluate` does.\n\n"
        f"Made with `{command}`.\n"
    )
