"""A batch's way through the encoder and back: with every activation kept, or in mini-batches that are encoded twice.

The second is GradCache (Gao et al., arXiv:2101.06983): encode without activations, take the loss's gradient at the
embeddings, then encode each mini-batch again and send its part of the gradient through. Loss and gradients are those of
the whole batch, in the memory of a mini-batch.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from gecko.train.batch import Features, length_groups
from gecko.train.loss_options import LossOptions

_GROUP = 32  # texts of like length encoded together: large enough for the hardware, small enough to pad little


class Encoded(Protocol):
    """Embeddings of a batch's distinct texts, and the way back.

    Attributes:
        vectors: The embeddings, (T, d), without a graph.
    """

    vectors: Tensor

    def backward(self, gradient: Tensor) -> None:
        """Send a gradient at the embeddings, (T, d), through the encoder."""
        ...


def encode(model: Any, texts: Features, options: LossOptions) -> Encoded:  # noqa: ANN401
    """Encode a batch's distinct texts, as the options bound the memory.

    Args:
        model: The Sentence-Transformers model.
        texts: Their tokens.
        options: The size of a mini-batch. A batch that fits in one is encoded once.
    """
    size = options.mini_batch if options.caches else _GROUP
    groups, order = length_groups(texts, size, options.mini_tokens)
    if options.caches and len(groups) > 1 and torch.is_grad_enabled():
        return _Twice(model, groups, order)
    return _Once(model, groups, order)


class _Once:
    """Encodes once and keeps the activations."""

    def __init__(self, model: Any, groups: list[Features], order: Tensor) -> None:  # noqa: ANN401
        self._kept = torch.cat([_embed(model, group) for group in groups])[order]
        self.vectors = self._kept.detach()

    def backward(self, gradient: Tensor) -> None:
        self._kept.backward(gradient)  # type: ignore[no-untyped-call]


class _Twice:
    """Encodes without activations, and again, with the same dropout, for the gradient."""

    def __init__(self, model: Any, groups: list[Features], order: Tensor) -> None:  # noqa: ANN401
        self._model, self._groups = model, groups
        self._states: list[_RandomState] = []
        found = []
        with torch.no_grad():
            for group in groups:
                self._states.append(_RandomState(group["input_ids"]))
                found.append(_embed(model, group))
        self._back = torch.argsort(order)
        self.vectors = torch.cat(found)[order]

    def backward(self, gradient: Tensor) -> None:
        pieces = gradient[self._back].split([len(group["input_ids"]) for group in self._groups])
        for group, state, piece in zip(self._groups, self._states, pieces, strict=True):
            with torch.enable_grad(), state:
                surrogate = (_embed(self._model, group).to(piece.dtype) * piece).sum()
            surrogate.backward()  # type: ignore[no-untyped-call]


def _embed(model: Any, texts: Features) -> Tensor:  # noqa: ANN401
    return torch.as_tensor(model(dict(texts))["sentence_embedding"])


class _RandomState:
    """Replays the random numbers (dropout) of the first forward pass in the second."""

    def __init__(self, *tensors: Tensor) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=self.devices, enabled=True)
        self.fork.__enter__()
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        self.fork.__exit__(*error)
