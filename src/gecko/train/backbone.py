"""Any Hugging Face backbone as a student: which way it attends, how it is pooled, how wide its vectors are.

A model of Sentence-Transformers comes with all that and is taken as it is. Any other encoder or decoder gets what the
paper gives its own (section 3.1): the mean over its tokens, at unit length.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gecko.embedder.open import load_model, resolve_model
from gecko.errors import GeckoError
from gecko.recipe import TrainOptions
from gecko.train.student_options import BackboneOptions

# Of a token's vector: what a change elsewhere moves by less is no attention, only rounding (1e-6 with experts).
_INFLUENCE = 1e-4
UNLIMITED = 10**9  # tokens: tokenizers that know no limit state 10^30
_PROBE = "one two three four five six seven eight nine ten eleven twelve"


def open_student(
    options: TrainOptions,
    *,
    seed: int = 0,
    start: str | None = None,
    window: int | None = None,
    device: str | None = None,
) -> Any:  # noqa: ANN401
    """Load the student as it is before training, in float32, its vectors of the shape that the recipe asks for.

    What is changed is saved with the model, so plain Sentence-Transformers reads it back to the same vectors.

    Args:
        options: The recipe's ``train`` section.
        seed: Of a random projection.
        start: The student after an earlier training, taken in its place; it keeps the shape that it got before that.
        window: Tokens that it reads of a text where neither its tokenizer nor its positions say; None: as many as it
            is trained on.
        device: As Sentence-Transformers takes it.

    Returns:
        A ``SentenceTransformer`` that pads on the right; the loss and learnt positions count on that.

    Raises:
        GeckoError: The student is no model of texts, or does not do what ``train.backbone`` asks of it.
    """
    name, backbone = start or options.student, options.backbone
    model: Any = load_model(name, device=device)
    model.gecko_path = name
    if not isinstance(getattr(model[0], "auto_model", None), nn.Module):
        if backbone != BackboneOptions():
            raise GeckoError(f"train.backbone: {name} has no transformer to change", "leave train.backbone out")
        return model  # static embeddings and the like
    _check_tokenizer(model, name)
    model.max_seq_length = window_of(model, window or options.max_length)
    pooling = backbone.pooling
    if backbone.attention == "bidirectional" and attention_of(model) != "bidirectional":
        model[0].auto_model.config.get_text_config().is_causal = False
        if attention_of(model) != "bidirectional":
            kind = model[0].auto_model.config.model_type
            raise GeckoError(
                f"train.backbone.attention: {name} ({kind}) cannot attend both ways with and without padding",
                "leave attention out, with pooling: last",
            )
    if is_plain(name):
        if pooling == "own":
            pooling = "mean" if attention_of(model) == "bidirectional" else "last"
        model = _assembled(model)
        model.gecko_path = name
    if pooling != "own":
        _pool(model, "mean" if pooling == "mean" else "lasttoken")
    if pooling == "last":
        _end_texts(model[0].tokenizer, name)
    if backbone.projection is not None:
        _project(model, backbone.projection, backbone.projection_init, seed)
    return model


def is_plain(name: str) -> bool:
    """Whether a model that was loaded before comes without the files of Sentence-Transformers."""
    from huggingface_hub import try_to_load_from_cache

    target = resolve_model(name)
    if Path(target).is_dir():
        return not (Path(target) / "modules.json").exists()
    return not isinstance(try_to_load_from_cache(target, "modules.json"), str)


def keeps_vectors(options: TrainOptions) -> bool:
    """Whether the student's vectors before training are those of the model it is named after."""
    return not options.backbone.reshapes and not is_plain(options.student)


def attention_of(model: Any) -> Literal["bidirectional", "causal", "mixed"]:  # noqa: ANN401
    """Find out by trying whether a text's first tokens see its last one.

    ``mixed`` is a model that does in a batch with padding and does not in one without, or the other way round.
    """
    features = model.preprocess([_PROBE])
    ids, mask = features["input_ids"], features["attention_mask"]
    other = ids.clone()
    last = int(ids[0, -1])
    other[0, -1] = next((int(token) for token in ids[0] if token != last), last - 1 if last else 1)
    pad = torch.zeros_like(ids[:, :4])
    seen = []
    for padding in (False, True):
        both = [torch.cat([tokens, pad], 1) if padding else tokens for tokens in (ids, other)]
        attended = torch.cat([mask, pad], 1) if padding else mask
        first, second = (_first_token(model, tokens, attended) for tokens in both)
        seen.append(bool((first - second).norm() > _INFLUENCE * first.norm()))
    return "mixed" if seen[0] != seen[1] else "bidirectional" if seen[0] else "causal"


def _first_token(model: Any, ids: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
    transformer = model[0].eval()
    device = next(transformer.parameters()).device
    with torch.no_grad():
        out = transformer({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
    return torch.as_tensor(out["token_embeddings"])[0, 0].float()


def _check_tokenizer(model: Any, name: str) -> None:  # noqa: ANN401
    """See to it that texts are padded, and on the right."""
    tokenizer = model[0].tokenizer
    if tokenizer is None:
        raise GeckoError(f"{name} reads no texts", "choose a text model as train.student")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise GeckoError(f"the tokenizer of {name} has no token to pad with", "set its pad_token and save it")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"


def window_of(model: Any, otherwise: int) -> int:  # noqa: ANN401
    """How many tokens of a text the model reads; ``otherwise`` where neither its tokenizer nor its positions say."""
    limit = model.max_seq_length
    if limit is None or limit >= UNLIMITED:
        limit = otherwise
    for module in model[0].auto_model.modules():  # RoBERTa and its kin count positions from the padding's id on
        positions, padding = (getattr(module, name, None) for name in ("position_embeddings", "padding_idx"))
        if isinstance(positions, nn.Embedding) and isinstance(padding, int):
            limit = min(limit, positions.num_embeddings - padding - 1)
    return int(limit)


def _assembled(model: Any) -> Any:  # noqa: ANN401
    """A model of the transformer, a pooling by the mean, and unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    pooling = Pooling(model[0].get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(
        modules=[model[0], pooling, Normalize()], device=str(model.device), prompts=dict(model.prompts)
    )


def _pool(model: Any, mode: str) -> None:  # noqa: ANN401
    from sentence_transformers.sentence_transformer.modules import Pooling

    place = next((place for place, module in enumerate(model) if isinstance(module, Pooling)), None)
    if place is None:
        raise GeckoError("train.backbone.pooling: the student has no pooling layer", "leave pooling out")
    model[place] = Pooling(model[0].get_embedding_dimension(), pooling_mode=mode)


def _end_texts(tokenizer: Any, name: str) -> None:  # noqa: ANN401
    """Let the tokenizer end every text with its end-of-text token, also after it is saved and loaded again.

    Raises:
        GeckoError: It has no such token, or is of a kind that cannot be told to.
    """
    plain = tokenizer(_PROBE)["input_ids"]
    end = tokenizer.eos_token_id
    if plain[-1] in {end, tokenizer.sep_token_id}:
        return
    if end is not None and hasattr(tokenizer, "update_post_processor"):
        begins = tokenizer.bos_token_id is not None and plain[0] == tokenizer.bos_token_id
        tokenizer.add_bos_token, tokenizer.add_eos_token = begins, True
        # Readers rebuild the ends of a text from these two, where they are written.
        tokenizer.init_kwargs.update(add_bos_token=begins, add_eos_token=True)
        if tokenizer(_PROBE)["input_ids"] == [*plain, end] == _saved_and_loaded(tokenizer)(_PROBE)["input_ids"]:
            return
    raise GeckoError(
        f"train.backbone.pooling: the tokenizer of {name} cannot be made to end texts with a token of its own",
        "use pooling: mean",
    )


def _saved_and_loaded(tokenizer: Any) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="gecko-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _project(model: Any, width: int, start: str, seed: int) -> None:  # noqa: ANN401
    """Put a linear layer without bias before the unit length; a student that was trained with one has it already."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    inner = int(model.get_embedding_dimension())
    if inner == width and any(isinstance(module, Dense) for module in model):
        return
    if start == "identity":
        weight = torch.eye(width, inner)
    else:
        weight = torch.randn(width, inner, generator=torch.Generator().manual_seed(seed)) / inner**0.5
    layer = Dense(inner, width, bias=False, activation_function=nn.Identity(), init_weight=weight)
    layer.to(model.device)
    last = len(model) - 1
    model.insert(last if isinstance(model[last], Normalize) else last + 1, layer)
