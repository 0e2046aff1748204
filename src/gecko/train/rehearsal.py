"""Rehearsal: keep what a student knows of everything that the training rows are not about.

Fine-tuning on one corpus leaves similarity and classification of general texts unharmed but spoils their clustering,
most in vectors that are cut (docs/log.md). So in every step some general texts are drawn to the vectors that the
student gave them before training: learning without forgetting (Li and Hoiem, arXiv:1606.09282) with embeddings for
outputs. The texts that ship with the package were written by a language model for it; texts made of a language's
words, drawn as often as it uses them, keep nearly as much.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gecko.embedder.embedder import Embedder
from gecko.mixture.format import TextFormat, render_query
from gecko.mixture.tasks import TASKS
from gecko.shards import fingerprint
from gecko.train.general_texts import general_texts
from gecko.train.gradient_cache import embed
from gecko.train.loss_options import RehearsalOptions
from gecko.train.processes import processes, rank

_MOST = 8192  # distinct texts: their vectors are in memory
_KINDS = ("clustering", "classification", "sts")


class Rehearsal:
    """General texts with the student's vectors of them before training, and how far it has moved from these.

    Args:
        student: The model before training; it is asked for its vectors at once.
        options: Weight, texts of a step, and where they come from.
        dims: Matryoshka sizes, each with equal weight; empty means the full size only.
        text_format: How training renders texts.
        steps: Of the training: no more texts are made than it draws.
        seed: Of the texts.

    Attributes:
        mark: Tells its texts from others.

    Raises:
        GeckoError: The file of texts cannot be read.
        UsageError: There are no word frequencies of the language.
    """

    def __init__(
        self,
        student: Any,  # noqa: ANN401
        options: RehearsalOptions,
        dims: Sequence[int],
        text_format: TextFormat,
        steps: int,
        seed: int,
    ) -> None:
        self._options = options
        self._dims = dims
        draw = random.Random(seed)  # noqa: S311
        wanted = min(steps * options.count, _MOST)
        texts = general_texts(options.texts, wanted, draw)
        tasks = [TASKS[draw.choice(_KINDS)][0] for _ in texts]
        self._texts = [render_query(task, text, text_format) for task, text in zip(tasks, texts, strict=True)]
        self.mark = fingerprint(self._texts)
        before = Embedder(student)
        vectors = torch.empty(len(texts), before.dim)
        for task in dict.fromkeys(tasks):
            places = [place for place, own in enumerate(tasks) if own == task]
            vectors[places] = torch.from_numpy(before.encode_symmetric([texts[i] for i in places], task))
        self._before = vectors

    def __call__(self, model: Any, step: int) -> Tensor:  # noqa: ANN401
        """The weighted mean cosine distance, over texts and sizes, from the vectors before training.

        Several processes take turns at a step's texts, so that the mean of their values is about that of all.

        Args:
            model: The student as it is.
            step: The step of the training, which decides the texts: a training that is resumed draws the same.
        """
        first = step * self._options.count
        places = [place % len(self._texts) for place in range(first, first + self._options.count)]
        places = places[rank() :: processes()] or places
        features = model.preprocess([self._texts[place] for place in places])
        features = {
            name: value.to(model.device) if torch.is_tensor(value) else value for name, value in features.items()
        }
        now = embed(model, features).float()
        before = self._before[places].to(now.device)
        sizes = self._dims or (now.shape[1],)
        near = [functional.cosine_similarity(now[:, :size], before[:, :size]).mean() for size in sizes]
        return self._options.weight * (1 - torch.stack(near).mean())
