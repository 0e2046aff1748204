"""Which of a student's weights are trained: all, low-rank adapters, or those that are not frozen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import nn

from gecko.errors import GeckoError, UsageError
from gecko.train.fit import check_adapters
from gecko.train.student_options import BackboneOptions


def prepare(model: Any, options: BackboneOptions) -> None:  # noqa: ANN401
    """Make a student ready for training: adapters, frozen weights, checkpointed activations.

    Adapters start from the global random state; their product is zero at first, so the vectors stay what they were.

    Args:
        model: As :func:`~gecko.train.backbone.open_student` gives it; changed in place.
        options: The recipe's ``train.backbone`` section.

    Raises:
        UsageError: peft is not installed, no layer bears a name of ``lora.targets``, or there are fewer layers than
            ``freeze_layers``.
        GeckoError: The model cannot checkpoint its activations.
    """
    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:
        return
    check_adapters(options)
    if options.lora.rank:
        _adapt(transformer, options)
    if options.freeze_embeddings:
        transformer.get_input_embeddings().requires_grad_(False)
    for layer in _first_layers(transformer, options.freeze_layers):
        layer.requires_grad_(False)
    if options.gradient_checkpointing:
        try:
            # The reentrant kind loses the gradients of a model whose inputs need none, as with frozen embeddings.
            with _renamed():
                transformer.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise GeckoError(f"train.backbone.gradient_checkpointing: {error}", "leave it out") from error


def plain_weights(model: Any) -> Any:  # noqa: ANN401
    """Undo :func:`prepare`, in place: adapters are merged into the weights, and everything is trainable again."""
    transformer = getattr(model[0], "auto_model", None)
    if transformer is not None:
        _merge(transformer)
        with _renamed():
            if getattr(transformer, "is_gradient_checkpointing", False):
                transformer.gradient_checkpointing_disable()
        transformer.requires_grad_(True)
    return model


@contextmanager
def _renamed() -> Iterator[None]:
    """No warning of names that newer releases of transformers 5 have others for; they hold until its version 6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _adapt(transformer: Any, options: BackboneOptions) -> None:  # noqa: ANN401
    from peft import LoraConfig, inject_adapter_in_model

    lora = options.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=list(lora.targets) or "all-linear",
    )
    try:
        inject_adapter_in_model(config, transformer)
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, m in transformer.named_modules() if isinstance(m, nn.Linear)})
        raise UsageError(
            f"train.backbone.lora.targets {list(lora.targets)}: the student has no such layers", f"it has {names}"
        ) from error


def _merge(transformer: Any) -> None:  # noqa: ANN401
    if find_spec("peft") is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, layer) for name, layer in transformer.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(transformer.get_submodule(parent), own, layer.get_base_layer())


def _first_layers(transformer: Any, count: int) -> list[Any]:  # noqa: ANN401
    if not count:
        return []
    depth = transformer.config.get_text_config().num_hidden_layers
    stacks = (m for m in transformer.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    layers = list(next(stacks, []))
    if count > len(layers):
        raise UsageError(f"train.backbone.freeze_layers {count}: the student has {len(layers)}", "choose fewer")
    return layers[:count]
