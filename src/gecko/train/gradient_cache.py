"""A batch's way through the encoder and back: with every activation kept, or with most texts encoded twice.

The second is GradCache (Gao et al., arXiv:2101.06983): encode in mini-batches without activations, take the loss's
gradient at the embeddings, then encode each mini-batch again and send its part of the gradient through. Loss and
gradients are those of the whole batch, in the memory of a mini-batch. That memory is there in the first pass too, so
one mini-batch keeps its activations then and is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from gecko.train.attention import PreciseAttention
from gecko.train.batch import Features
from gecko.train.groups import length_groups
from gecko.train.loss_options import LossOptions

_GROUP = 32  # texts of like length encoded together: large enough for the hardware, small enough to pad little


def encode(model: Any, texts: Features, options: LossOptions) -> Encoded:  # noqa: ANN401
    """Encode a batch's distinct texts, as the options bound the memory.

    Args:
        model: The Sentence-Transformers model.
        texts: Their tokens.
        options: The size of a mini-batch. A batch that fits in one is encoded once.
    """
    size = options.mini_batch if options.caches else _GROUP
    groups, order = length_groups(texts, size, options.mini_tokens)
    return Encoded(model, groups, order, _kept(groups, options) if options.caches else set(range(len(groups))))


def _kept(groups: list[Features], options: LossOptions) -> set[int]:
    """Choose the groups whose activations are kept: the largest, as many as are one mini-batch together."""
    kept: set[int] = set()
    room = options.mini_tokens or options.mini_batch
    for number in sorted(range(len(groups)), key=lambda number: -groups[number]["input_ids"].numel()):
        ids = groups[number]["input_ids"]
        needed = ids.numel() if options.mini_tokens else len(ids)
        if needed <= room or not kept:
            kept.add(number)
            room -= needed
    return kept


class Encoded:
    """Embeddings of a batch's distinct texts, and the way back.

    Args:
        model: The Sentence-Transformers model.
        groups: The texts, a mini-batch each.
        order: Puts the groups' embeddings in the order of the texts, (T,).
        kept: The groups whose activations are kept; the others are encoded again, with the same dropout, for the
            gradient.

    Attributes:
        vectors: The embeddings, (T, d), without a graph.
    """

    vectors: Tensor

    def __init__(self, model: Any, groups: list[Features], order: Tensor, kept: set[int]) -> None:  # noqa: ANN401
        self._model = model
        self._sizes = [len(group["input_ids"]) for group in groups]
        self._back = torch.argsort(order)
        self._kept: dict[int, Tensor] = {}
        self._again: dict[int, tuple[Features, _RandomState]] = {}
        found: dict[int, Tensor] = {}
        with _weights_converted_once(order.device):
            for number in sorted(kept):
                self._kept[number] = embed(model, groups[number])
                found[number] = self._kept[number].detach()
        with _weights_converted_once(order.device):
            for number, group in enumerate(groups):
                if number not in kept:
                    self._again[number] = group, _RandomState(group["input_ids"])
                    with torch.no_grad():
                        found[number] = embed(model, group)
        self.vectors = torch.cat([found[number] for number in range(len(groups))])[order]

    def backward(self, gradient: Tensor) -> None:
        """Send a gradient at the embeddings, (T, d), through the encoder."""
        pieces = gradient[self._back].split(self._sizes)
        # First, so that their memory is there for the others.
        torch.autograd.backward(list(self._kept.values()), [pieces[number] for number in self._kept])
        with _weights_converted_once(gradient.device):
            for number, (group, state) in self._again.items():
                with torch.enable_grad(), state:
                    embedded = embed(self._model, group)
                embedded.backward(pieces[number])  # type: ignore[no-untyped-call]


@contextmanager
def _weights_converted_once(device: torch.device) -> Iterator[None]:
    """Have autocast inside the encoder convert weights for the first group only.

    Autocast keeps what it converted until the outermost context is left, and trainers enter one in every forward pass.
    Converted without gradients, weights would stay without, so each pass has a context of its own.
    """
    kind = device.type
    torch.clear_autocast_cache()
    with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)):
        yield


def embed(model: Any, texts: Features) -> Tensor:  # noqa: ANN401
    """The embeddings of one group of texts, (T, d), as training computes them."""
    with PreciseAttention():
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
